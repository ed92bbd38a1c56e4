"""One archive into its folder and no other; interrupted, it goes on. Nothing in it is believed before it is checked."""

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from dermai_utils import files
from dermai_utils.config import UserError

LARGEST_RATIO = 50  # unpacked over packed; of the official archives, the labels are packed best, at 13


def unpack(archive, folder):
    """Every member of `archive` under `folder`; returns `folder`. Interrupted, it goes on; done, it is instant.

    Each member is tested (CRC, length) before it gets its name. UserError for an archive that is damaged, or that
    holds what no official one does: names outside the folder, links, encryption, a name twice, too many bytes.
    """
    archive, folder = Path(archive), Path(folder)
    marker = folder / f".{archive.name}.json"
    with files.plain_errors(folder):
        stamp, old = [archive.stat().st_size, archive.stat().st_mtime_ns], files.read_json(marker)
        if old and old["archive"] == stamp and all(_count(folder / name) >= n for name, n in old["counts"].items()):
            return folder
        try:
            with zipfile.ZipFile(archive) as bundle:
                members = _members(bundle, archive, folder)
                _extract_all(bundle, members, archive, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            why = " ".join(str(error).split()) or "it ends too early"
            raise UserError(f"{archive} is damaged ({why}), expected a whole zip: delete it, run this again") from None
        counts = Counter(os.path.dirname(name) for name in members)
        _clear_older(folder, members, old["counts"] if old else {})
        files.write_json(marker, {"archive": stamp, "counts": counts})
    return folder


def _count(folder):
    return len(os.listdir(folder)) if folder.is_dir() else 0


def _members(bundle, archive, folder):
    """The archive's files as {name: ZipInfo}; a UserError for what no official archive holds."""
    members, seen = {}, set()
    for info in bundle.infolist():
        name = info.orig_filename  # .filename is cut at a NUL and has the system's own separators
        why = "a name given twice" if name.casefold() in seen else _refusal(info, name)
        if why:
            raise UserError(f"{archive} holds {why} ({name!r}), expected plain files: not unpacked; delete it")
        seen.add(name.casefold())  # Foo.jpg and foo.jpg are one file on a Mac
        if not info.is_dir():
            members[name] = info
    total, packed = sum(info.file_size for info in members.values()), archive.stat().st_size
    if total > max(LARGEST_RATIO * packed, 2**20):
        raise UserError(f"{archive} has {packed:,} bytes and would unpack to {total:,}, expected images: delete it")
    for parent in {(folder / name).parent for name in members}:
        if not parent.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{parent} leads out of {folder}, expected a plain folder: remove that link")
    return members


def _refusal(info, name):
    if re.search(r"[\\:\0]", name) or {"", ".", ".."} & set(name.removesuffix("/").split("/")):
        return "a name that leaves the folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device"
    return "an encrypted file" if info.flag_bits & 1 else None


def _extract_all(bundle, members, archive, folder):
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(name, info) for name, info in members.items() if not _is_there(folder / name, info)]
    files.check_room(folder, sum(info.file_size for _, info in missing))
    for name, info in tqdm(missing, desc=f"unpacking {archive.name}", unit=" files", delay=2):
        _extract(bundle, info, folder / name)


def _extract(bundle, info, path):
    """One member, through a temporary name that the next try writes over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with bundle.open(info) as source, open(temporary, "wb") as file:  # checks the CRC, stops at the declared size
        shutil.copyfileobj(source, file)
    if (length := temporary.stat().st_size) != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} has {length:,} bytes, declared {info.file_size:,}")
    os.utime(temporary, ns=(_time(info), _time(info)))
    os.replace(temporary, path)


def _time(info):
    """The time of change that a member gets: it stands for the content (the CRC, as nanoseconds after 2018-01-01).

    So the digest of the images is the same wherever the same archive is unpacked, and a fresh Colab machine goes on
    with the split and the checkpoints that lie on Drive.
    """
    return 1_514_764_800 * 10**9 + info.CRC


def _is_there(path, info):
    return path.exists() and (path.stat().st_size, path.stat().st_mtime_ns) == (info.file_size, _time(info))


def _clear_older(folder, members, older):
    """Remove what an earlier version of the archive put into its folders and this one doesn't have."""
    for parent in set(older) - {""}:  # the top is shared with other archives
        for path in (folder / parent).glob("*"):
            if path.is_file() and f"{parent}/{path.name}" not in members:
                path.unlink()
