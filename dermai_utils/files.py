"""Files that are whole or absent: atomic writes, checksums, and markers that say what a stage was made from."""

import contextlib
import hashlib
import json
import os
from pathlib import Path


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
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    """`value` as indented JSON, atomically. NaN is refused: a number that isn't defined is written as null."""
    with atomic(path) as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path):
    """The JSON in `path`, or None where it is missing or not whole."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


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


def changes(marker, made_from: dict) -> list[str]:
    """Why a stage must be made again, one phrase a reason; empty: all its outputs stand as they were made."""
    record = read_json(marker)
    if record is None:
        return ["not made yet"]
    old = record["made_from"]
    reasons = [f"{key} changed" for key in made_from | old if old.get(key) != made_from.get(key)]
    for path, stamp in record["outputs"].items():
        if not os.path.exists(path):
            reasons.append(f"{Path(path).name} is missing")
        elif _stamp(path) != stamp:
            reasons.append(f"{Path(path).name} was changed since")
    return reasons


def _stamp(path):
    """Content for small files, which survives a copy to another machine; size and time of change for large ones."""
    stat = os.stat(path)
    return checksum(path) if stat.st_size < 2**25 else [stat.st_size, stat.st_mtime_ns]
