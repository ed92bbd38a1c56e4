"""Files that are whole or absent: atomic writes, JSON and tables, checksums, one lock a folder."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

from dermai_utils.basics import UserError

SPARE = 2**26  # bytes that we leave free on a disk
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
TEXT = (  # a lesion may be called 0123, a test set nan: a table keeps the letters of these columns
    *("image", "source", "origin", "label", "lesion_id", "patient_id", "sex", "localization"),
    *("confirmed_by", "given", "pixel_hash", "path", "reason", "subset", "truth", "prediction"),
)


@contextlib.contextmanager
def atomic(path, mode="w"):
    """Open a temporary file; when the block ends without an error, it becomes `path`.

    A process that is killed leaves the old `path`, and a remainder that `sweep` removes.

    >>> import tempfile
    >>> with atomic(Path(tempfile.mkdtemp()) / "note.txt") as file:
    ...     _ = file.write("all of it, or nothing")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    options = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(temporary, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say which file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder):
    """Remove what killed processes left half written in `folder`; call it under its lock only."""
    for path in Path(folder).glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # a file that stays does no harm
                path.unlink()


@contextlib.contextmanager
def disk_errors(folder=""):
    """Turn any OSError of the block into a UserError that names the file, else `folder`."""
    try:
        yield
    except OSError as error:
        where, why = error.filename or folder, error.strerror or str(error)
        if error.errno in FULL:
            raise _full(where, why) from None
        raise UserError(f"{where}: {why}; expected to read and write there") from None


def check_room(folder, needed: int):
    """UserError unless `needed` bytes, and SPARE more, are free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise _full(folder, f"{(needed + SPARE) / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")


def _full(where, why):
    advice = "free some or give another --cache-dir, then run this again (finished files are kept)"
    return UserError(f"not enough room in {where}: {why}; {advice}")


def try_write(folder):
    """Make `folder`, write a file in it, and remove the file; OSError if the disk refuses."""
    with atomic(Path(folder) / ".writable"):
        pass
    (Path(folder) / ".writable").unlink()


@contextlib.contextmanager
def locked(folder, patience=10.0):
    """Hold `folder` for this process until the block ends; blocks inside such a block pass.

    UserError if another process still holds it after `patience` seconds. On a disk without locks
    the block runs unprotected, and a line says so.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(Path(folder) / ".lock", thread_local=False, is_singleton=True)
    busy = f"{folder}: another process is at work there"
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{busy}; waiting up to {patience:.0f} s", flush=True)
            lock.acquire(timeout=patience)
    except Timeout:
        advice = "wait until it is done or stop it, or give another folder"
        raise UserError(f"{busy}; {advice}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"{folder}: this disk has no locks: let only one process work there")
    try:
        yield
    finally:
        lock.release()


def printable(name) -> str:
    """A file's name as text that can be printed and saved: bytes that are not UTF-8 become U+FFFD.

    >>> printable("caf\\udce9.jpg") == "caf\\ufffd.jpg"
    True
    """
    return str(name).encode(errors="surrogateescape").decode(errors="replace")


def write_json(path, value):
    """Write `value` as indented JSON, atomically; ValueError for NaN (write None instead)."""
    with atomic(path) as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path) -> dict | None:
    """The JSON object in `path`; None if the file is missing, damaged, or holds something else."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def table_text(frame) -> str:
    """A DataFrame as CSV without its index, the same bytes on every system."""
    return frame.to_csv(index=False, lineterminator="\n")


def write_table(frame, path):
    """Write a DataFrame as CSV without its index, atomically."""
    with atomic(path) as file:
        file.write(table_text(frame))


def read_table(path):
    """A DataFrame that `write_table` wrote, with the same numbers bit for bit.

    Columns in TEXT stay text. A blank is "" in a column of text and NaN in one of numbers.
    """
    import pandas as pd  # importing this module loads nothing heavy

    columns = pd.read_csv(path, nrows=0).columns
    # pandas 3 reads numbers exactly, and warns of this option
    exact = {} if int(pd.__version__.split(".")[0]) > 2 else {"float_precision": "round_trip"}
    blanks = {name: [""] for name in columns if name not in TEXT}
    options = dict(dtype=dict.fromkeys(TEXT, str), na_values=blanks, keep_default_na=False)
    frame = pd.read_csv(path, **options, **exact)
    if "age" in frame:
        frame["age"] = pd.to_numeric(frame["age"], errors="coerce").astype(float)
    words = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    return frame.fillna(dict.fromkeys(words, ""))


def checksum(path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(data: bytes) -> bytes:
    """SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()


def fingerprint(value) -> str:
    """16 hex digits that change whenever `value` (anything that JSON can hold) changes.

    >>> fingerprint({"size": 224}) == fingerprint({"size": 224}) != fingerprint({"size": 96})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
