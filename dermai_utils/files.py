"""Files that are whole or absent: atomic writes, checksums, locks, and markers that say what a stage was made from."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import time
from pathlib import Path

from dermai_utils.config import UserError

SPARE = 2**26  # bytes left free on the disk
PATIENCE = 10.0  # seconds that a second process waits for the first
_STARTED = time.strftime("%F %T") + f".{time.time_ns() % 10**9:09}"  # tells processes apart where pids repeat (containers)


@contextlib.contextmanager
def atomic(path, mode="w"):
    """Open a temporary file beside `path`; on a clean exit fsync it and rename it to `path`, else remove it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": ""})) as file:
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
    """Whatever the disk refuses, as one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(folder, "it filled up on the way") from None
        where = error.filename or folder
        raise UserError(f"{where}: {error.strerror or error}; expected to read and write there") from None


def _full(folder, why):
    advice = "free some or give another cache_dir, then run this again (what is there is kept)"
    return UserError(f"not enough room in {folder}: {why}; {advice}")


def check_room(folder, needed):
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise _full(folder, f"{(needed + SPARE) / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")


def try_write(folder) -> None:
    """Make `folder` where it is missing, and write and remove a file in it; OSError where that can't be."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    probe = Path(folder) / ".writable"
    with atomic(probe):
        pass
    probe.unlink()


def deliver(pending, folder, create=False) -> OSError | None:
    """Move every file of the local `pending` to `folder` (on Drive, say); the file before last.pt is kept beside it.

    Returns what stopped it, or None; whatever is still in `pending` then waits for the next call. Without `create` a
    missing `folder` stops it too: made anew after Drive was unmounted, it would lie on the machine's own disk.
    """
    try:
        if create:
            Path(folder).mkdir(parents=True, exist_ok=True)
        os.listdir(folder)
        for path in sorted(Path(pending).glob("[!.]*")):  # last.pt after best.pt and the history that belong to it
            target = Path(folder) / path.name
            if path.name == "last.pt" and target.exists():
                os.replace(target, target.with_suffix(".previous.pt"))
            _move(path, target)
    except OSError as reason:
        return reason


def _move(path, target):
    try:
        os.replace(path, target)
    except OSError:  # another disk: its bytes have to travel
        with atomic(target, "wb") as file, open(path, "rb") as source:
            shutil.copyfileobj(source, file)
        path.unlink()


@contextlib.contextmanager
def locked(folder):
    """Hold `folder` for this process, until the end of the block or of the process; a block inside such a block is free.

    Yields whether it is sure: a file system may refuse locks, and that is announced. UserError where another process
    holds the folder for longer than PATIENCE, and where in the end another folder is in its place.
    """
    path = Path(folder) / ".lock"
    with open(path, "a+b", buffering=0) as file:
        try:
            mine = _acquire(file, folder)
        except OSError as reason:
            print(f"{folder}: no locks on this file system ({reason.strerror}): let only one process work there")
            yield False
            return
        try:
            yield True
            if mine and not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
                raise UserError(f"{folder}: is not the folder that it was when this began (was its disk unmounted?): "
                                "mount it again, remove what lies in its place, and run this again")  # fmt: skip
        finally:
            if mine:
                _write(file, "")  # so that a name in it is never that of a process which let go


def _acquire(file, folder) -> bool:
    me, deadline = f"process {os.getpid()} on {socket.gethostname()} (since {_STARTED})", None
    while not _try_lock(file):
        file.seek(0)
        holder = file.read().decode(errors="replace") or "another process"
        if holder == me:
            return False
        if deadline is None:
            deadline = time.monotonic() + PATIENCE
            print(f"{folder}: {holder} is at work there; waiting up to {PATIENCE:.0f} s", flush=True)
        if time.monotonic() >= deadline:
            raise UserError(f"{folder}: {holder} is at work there; wait until it is done or stop it, or give another folder")
        time.sleep(0.1)
    _write(file, me)
    return True


def _write(file, text):
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same, it only doesn't say whose it is
        file.truncate(0)
        file.write(text.encode())


def _try_lock(file) -> bool:
    """Whether it is ours now; the system lets go of it when the process ends, however it ends."""
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
    """Remove what killed processes left half written in `folder` itself. Only under its lock: nobody else writes then."""
    for pattern in (".*.[0-9]*.tmp", "pixels_*.part.npy"):
        for path in Path(folder).glob(pattern):
            with contextlib.suppress(OSError):  # what cannot be removed does no harm
                path.unlink()


def write_json(path, value):
    """`value` as indented JSON, atomically. NaN is refused: a number that isn't defined is written as null."""
    with atomic(path) as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path):
    """The JSON object in `path`, or None where it is missing, not whole, or something else."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


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
    """Write a stage's marker: what it was made from, and a stamp of each output."""
    write_json(marker, {"made_from": made_from, "outputs": {str(path): _stamp(path) for path in outputs}})


def changes(marker, made_from: dict, before: dict | None = None) -> list[str]:
    """Why a stage must be made again, one phrase a reason; empty: all its outputs stand as they were made.

    before: what settings stood for when there was no such setting, for a marker that an earlier version wrote.
    """
    record = read_json(marker) or {}
    old, outputs = record.get("made_from"), record.get("outputs")
    if not isinstance(old, dict) or not isinstance(outputs, dict):
        return ["not made yet"]
    old = (before or {}) | old
    reasons = [f"{key} changed" for key in made_from | old if old.get(key) != made_from.get(key)]
    for path, stamp in outputs.items():
        if not os.path.exists(path):
            reasons.append(f"{Path(path).name} is missing")
        elif _stamp(path) != stamp:
            reasons.append(f"{Path(path).name} was changed since")
    return reasons


def _stamp(path):
    """Content for small files, which survives a copy to another machine; size and time of change for large ones."""
    stat = os.stat(path)
    return checksum(path) if stat.st_size < 2**25 else [stat.st_size, stat.st_mtime_ns]
