"""Files that are whole or absent: atomic writes, tables, checksums, locks and stage markers."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import time
from pathlib import Path, PureWindowsPath

from dermai_utils.config import UserError

SPARE = 2**26  # bytes left free on the disk
PATIENCE = 10.0  # seconds that a second process waits for the first
LARGE, END = 2**25, 2**16  # bytes: of a larger file only the end is stamped
_STARTED = time.strftime("%F %T") + f".{time.time_ns() % 10**9:09}"  # process ids repeat


@contextlib.contextmanager
def atomic(path, mode="w"):
    """Write to a temporary file that a clean exit syncs and renames to `path`, else removed."""
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
    except OSError as reason:
        reason.filename = reason.filename or str(path)  # a full disk doesn't say which
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def plain_errors(folder):
    """Turn whatever the disk refuses into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(folder, "the disk filled up meanwhile") from None
        where, why = error.filename or folder, error.strerror or error
        raise UserError(f"{where}: {why}; expected to read and write there") from None


def _full(folder, why) -> UserError:
    advice = "free some or give another cache_dir, then run this again (what is there is kept)"
    return UserError(f"not enough room in {folder}: {why}; {advice}")


def check_room(folder, needed: int) -> None:
    """UserError where `needed` bytes, and SPARE on top, are not free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise _full(folder, f"{(needed + SPARE) / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")


def try_write(folder) -> None:
    """Make `folder` if need be, and write and remove a file in it; OSError where that fails."""
    probe = Path(folder) / ".writable"
    with atomic(probe):
        pass
    probe.unlink()


def deliver(pending, folder, create=False) -> OSError | None:
    """Move every file of the local `pending` to `folder`; last.pt there becomes last.previous.pt.

    Returns what stopped it, or None; the files still in `pending` then wait for the next call.
    Without `create` a missing `folder` stops it too: Drive may have been unmounted, and a folder
    made anew would lie on the machine's own disk.
    """
    try:
        if create:
            Path(folder).mkdir(parents=True, exist_ok=True)
        os.listdir(folder)
        # sorted: last.pt comes after best.pt and the history that belong to it
        for path in sorted(Path(pending).glob("[!.]*")):
            target = Path(folder) / path.name
            if path.name == "last.pt" and target.exists():
                os.replace(target, target.with_suffix(".previous.pt"))
            _move(path, target)
    except OSError as reason:
        return reason


def _move(path, target):
    try:
        os.replace(path, target)
    except OSError:  # another disk
        with atomic(target, "wb") as file, open(path, "rb") as source:
            shutil.copyfileobj(source, file)
        path.unlink()


@contextlib.contextmanager
def locked(folder):
    """Hold `folder` for this process until the block ends; a block inside such a block is free.

    Yields whether it is sure: a file system may refuse locks, and that is announced. UserError
    where another process holds the folder for longer than PATIENCE, and where in the end another
    folder is in its place. Our own, because filelock cannot say who the holder is, and falls back
    to a marker file where there are no locks.
    """
    path = Path(folder) / ".lock"
    with open(path, "a+b", buffering=0) as file:
        try:
            outermost = _acquire(file, folder)
        except OSError as reason:
            why = f"no locks on this file system ({reason.strerror})"
            print(f"{folder}: {why}: let only one process work there")
            yield False
            return
        try:
            yield True
            if outermost and not _is_open_file(path, file):
                raise UserError(
                    f"{folder}: is not the folder that it was when this began (was its disk "
                    "unmounted?): mount it again, remove what lies in its place, and run this again"
                )
        finally:
            if outermost:
                _write(file, "")  # a name in the file is never that of a process which let go


def _is_open_file(path, file) -> bool:
    return path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))


def _acquire(file, folder) -> bool:
    """Lock `file` and write our name into it; False: this process holds it already."""
    own_name = f"process {os.getpid()} on {socket.gethostname()} (since {_STARTED})"
    deadline = None
    while not _try_lock(file):
        file.seek(0)
        holder = file.read().decode(errors="replace") or "another process"
        if holder == own_name:
            return False
        busy = f"{folder}: {holder} is at work there"
        if deadline is None:
            deadline = time.monotonic() + PATIENCE
            print(f"{busy}; waiting up to {PATIENCE:.0f} s", flush=True)
        if time.monotonic() >= deadline:
            raise UserError(f"{busy}; wait until it is done or stop it, or give another folder")
        time.sleep(0.1)
    _write(file, own_name)
    return True


def _write(file, text):
    with contextlib.suppress(OSError):  # a full disk: locked all the same, only without a name
        file.truncate(0)
        file.write(text.encode())


def _try_lock(file) -> bool:
    """Whether `file` is ours now; the system lets go when the process ends, however it ends."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(2**30)  # a byte far behind the text, which stays readable so
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # Windows calls it a permission
        return False
    return True


def sweep(folder):
    """Remove what killed processes left half written in `folder`; call it under its lock only."""
    for pattern in (".*.[0-9]*.tmp", "pixels_*.part.npy"):
        for path in Path(folder).glob(pattern):
            with contextlib.suppress(OSError):  # what cannot be removed does no harm
                path.unlink()


def printable(path) -> str:
    """A path as text that can be printed and saved: bytes that are no UTF-8 become U+FFFD."""
    return str(path).encode(errors="surrogateescape").decode(errors="replace")


def write_json(path, value):
    """Write `value` as indented JSON, atomically; ValueError for NaN (write None instead)."""
    with atomic(path) as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path) -> dict | None:
    """The JSON object in `path`, or None where it is missing, not whole, or something else."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def table_text(frame) -> str:
    """A DataFrame as CSV, the same on every system."""
    return frame.to_csv(index=False, lineterminator="\n")


def write_table(frame, path) -> None:
    """Write a DataFrame as CSV, atomically."""
    with atomic(path) as file:
        file.write(table_text(frame))


def read_table(path):
    """A CSV that `write_table` wrote: text stays text, a blank is "" but for `age` (NaN, years).

    The column `part`, as version 0.1.0 named it, is read as `subset`.
    """
    import pandas as pd  # here: importing this module loads nothing heavy

    text_columns = (
        "image",
        "lesion_id",
        "patient_id",
        "file_hash",
        "duplicate_of",
        "subset",
        "part",
    )
    frame = pd.read_csv(path, keep_default_na=False, dtype=dict.fromkeys(text_columns, str))
    if "age" in frame:
        frame["age"] = pd.to_numeric(frame["age"], errors="coerce")
    return frame.rename(columns={"part": "subset"})


def checksum(path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(data: bytes) -> bytes:
    """The 32 bytes of the SHA-256 of `data`."""
    return hashlib.sha256(data).digest()


def fingerprint(value) -> str:
    """16 hex digits that change whenever `value` (plain Python, JSON-able) does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def mark(marker, made_from: dict, outputs):
    """Write a stage's marker: what it was made from, and a stamp of each output under its name, as
    the folders may be moved or copied."""
    stamps = {path.name: _stamp(path) for path in outputs}
    write_json(marker, {"made_from": made_from, "outputs": stamps})


def changes(marker, made_from: dict, outputs, modernised=dict) -> list[str]:
    """Why a stage must be made again, one phrase a reason; empty: all its `outputs` stand as they
    were made.

    modernised: of the marker's `made_from`, which an earlier version may have written, makes what
    this version would have written.
    """
    record = read_json(marker) or {}
    old, stamps = record.get("made_from"), record.get("outputs")
    if not isinstance(old, dict) or not isinstance(stamps, dict):
        return ["not made yet"]
    old, stamps = modernised(old), _by_name(stamps)
    reasons = [f"{key} changed" for key in made_from | old if old.get(key) != made_from.get(key)]
    for path in outputs:
        if path.name not in stamps:  # an earlier version made it without this file
            continue
        if not path.exists():
            reasons.append(f"{path.name} is missing")
        elif not _stands(path, stamps[path.name]):
            reasons.append(f"{path.name} was changed since")
    return reasons


def renew(marker, outputs):
    """Stamp `outputs` anew, which stand, where an earlier version wrote the marker: its stamp of a
    large file is lost in a copy."""
    record = read_json(marker)
    stamps = _by_name(record["outputs"])
    if stamps.keys() != record["outputs"].keys():
        mark(marker, record["made_from"], [path for path in outputs if path.name in stamps])


def _by_name(stamps):
    """Stamps by the file's name; earlier versions wrote whole paths, of any system."""
    return {PureWindowsPath(path).name: stamp for path, stamp in stamps.items()}


def _stands(path, stamp) -> bool:
    stat = path.stat()
    # the stamp of a large file that an earlier version wrote: true of it in its place alone
    by_time = stat.st_size >= LARGE and stamp == [stat.st_size, stat.st_mtime_ns]
    return by_time or stamp == _stamp(path)


def _stamp(path):
    """A small file's checksum; a large one's size and the checksum of its end, which costs no time
    and survives a copy. Our large files end with what depends on all of their content: checkpoints
    and pixel arrays with a checksum of it, a .npz with those of its arrays."""
    size = path.stat().st_size
    if size < LARGE:
        return checksum(path)
    with open(path, "rb") as file:
        file.seek(-END, os.SEEK_END)
        return [size, digest(file.read()).hex()]
