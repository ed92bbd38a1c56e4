"""One archive into its folder and no other: checked before it is believed, resumed after a stop."""

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from pathlib import Path

from dermai_utils import files, progress
from dermai_utils.config import IMAGE_SUFFIXES, UserError

DAMAGED = (  # the last one: a name that is said to be UTF-8 and is not
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)
LARGEST_RATIO = 50  # unpacked over packed; in the official archives at most 13, of the labels
FIRST_TIME = 1_514_764_800 * 10**9  # 2018-01-01 in ns, see `_time`


def unpack(archive, folder):
    """Unpack every member of `archive` under `folder`, and return `folder`.

    A stopped run goes on where it was; when all is done a call takes no time. Each member is tested
    (CRC, length) before it gets its name. UserError for an archive that is damaged, or that holds
    what no official one does: names outside the folder, links, encryption, a name twice, too many
    bytes.
    """
    archive, folder = Path(archive), Path(folder)
    marker = folder / f".{archive.name}.json"
    with files.plain_errors(folder):
        stamp = [archive.stat().st_size, archive.stat().st_mtime_ns]
        old = files.read_json(marker) or {"archive": None, "counts": {}}
        complete = all(_count(folder / name) >= n for name, n in old["counts"].items())
        without_times = complete and old.get("dated") and not _is_dated(folder, old["counts"])
        if old["archive"] == stamp and complete and not without_times:
            return folder
        try:
            with zipfile.ZipFile(archive) as bundle:
                members = _members(bundle, archive, folder)
                _extract_all(bundle, members, archive, folder)
        except DAMAGED as error:
            why = " ".join(str(error).split()) or "it ends too early"
            advice = "expected a whole zip: delete it, run this again"
            raise UserError(f"{archive} is damaged ({why}), {advice}") from None
        counts = Counter(os.path.dirname(name) for name in members)
        _clear_older(folder, members, old["counts"])
        images = any(name.lower().endswith(IMAGE_SUFFIXES) for name in members)
        # a disk may take no times
        dated = images and all(_is_there(folder / name, info) for name, info in members.items())
        files.write_json(marker, {"archive": stamp, "counts": counts, "dated": dated})
    return folder


def _count(folder):
    return len(os.listdir(folder)) if folder.is_dir() else 0


def _is_dated(folder, counts) -> bool:
    """Whether any file has a time of `_time`: in a copy without times none has, and its images
    would pass for others."""
    entries = (entry for name in counts for entry in os.scandir(folder / name))
    times = (entry.stat(follow_symlinks=False).st_mtime_ns for entry in entries)
    return any(0 <= time - FIRST_TIME < 2**32 for time in times)


def _members(bundle, archive, folder):
    """The archive's files as {name: ZipInfo}; a UserError for what no official archive holds."""
    members, seen = {}, {}
    for info in bundle.infolist():
        name = info.orig_filename  # .filename is cut at a NUL and has the system's own separators
        twin = seen.setdefault(name.casefold(), info)  # Foo.jpg and foo.jpg are one file on a Mac
        if twin is not info and (twin.CRC, twin.file_size) == (info.CRC, info.file_size):
            continue  # Kaggle's HAM10000 holds every image twice, in folders that differ in case
        why = "a name given twice" if twin is not info else _refusal(info, name)
        if why:
            advice = "expected plain files: not unpacked; delete it"
            raise UserError(f"{archive} holds {why} ({name!r}), {advice}")
        if not info.is_dir():
            members[name] = info
    total, packed = sum(info.file_size for info in members.values()), archive.stat().st_size
    if total > max(LARGEST_RATIO * packed, 2**20):
        size = f"{packed:,} bytes and would unpack to {total:,}"
        raise UserError(f"{archive} has {size}, expected images: delete it")
    for parent in {(folder / name).parent for name in members}:
        if not parent.resolve().is_relative_to(folder.resolve()):
            advice = "expected a plain folder: remove that link"
            raise UserError(f"{parent} leads out of {folder}, {advice}")
    return members


def _refusal(info, name) -> str | None:
    if re.search(r"[\\:\0]", name) or {"", ".", ".."} & set(name.removesuffix("/").split("/")):
        return "a name that leaves the folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device"
    return "an encrypted file" if info.flag_bits & 1 else None


def _extract_all(bundle, members, archive, folder):
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(name, info) for name, info in members.items() if not _is_there(folder / name, info)]
    files.check_room(folder, sum(info.file_size for _, info in missing))
    for name, info in progress.bar(
        missing, desc=f"unpacking {archive.name}", unit=" files", delay=2
    ):
        _extract(bundle, info, folder / name)


def _extract(bundle, info, path):
    """One member, through a temporary name that the next try writes over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    # checks the CRC, stops at the declared size
    with bundle.open(info) as source, open(temporary, "wb") as file:
        shutil.copyfileobj(source, file)
    if (length := temporary.stat().st_size) != info.file_size:
        why = f"has {length:,} bytes, declared {info.file_size:,}"
        raise zipfile.BadZipFile(f"{info.filename} {why}")
    os.utime(temporary, ns=(_time(info), _time(info)))
    os.replace(temporary, path)


def _time(info):
    """A member's time of change, which stands for its content: the CRC in ns after 2018-01-01.

    So the digest of the images is the same wherever the same archive is unpacked, and a fresh Colab
    machine goes on with the split and the checkpoints on Drive.
    """
    return FIRST_TIME + info.CRC


def _is_there(path, info):
    if not path.exists():
        return False
    return [path.stat().st_size, path.stat().st_mtime_ns] == [info.file_size, _time(info)]


def _clear_older(folder, members, older):
    """Remove what an earlier version of the archive put into its folders and this one lacks."""
    for parent in set(older) - {""}:  # the top is shared with other archives
        for path in (folder / parent).glob("*"):
            if path.is_file() and f"{parent}/{path.name}" not in members:
                path.unlink()
