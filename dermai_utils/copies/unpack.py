"""One zip into a folder of its own: checked before it is believed, whole or absent."""

import itertools
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from dermai_utils import files, progress
from dermai_utils.basics import UserError
from dermai_utils.copies import tables

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
DAMAGED += (UnicodeDecodeError,)  # a name that is marked as UTF-8 and is not
LARGEST_RATIO = 50  # unpacked over packed; in the official archives at most 13, of the labels


def unpack(archive, folder) -> Path:
    """The folder below `folder` that holds all that is in `archive`: DIGITS/NAME, unpacked once.

    The digits change with what the archive holds. UserError if it is damaged, or if it holds names
    outside the folder, links, encryption, two files of one name or far too many bytes.
    """
    archive, folder = Path(archive), Path(folder)
    with files.disk_errors(folder):
        try:
            with zipfile.ZipFile(archive) as bundle:
                members = _members(bundle, archive)
                content = sorted((name, i.file_size, i.CRC) for name, i in members.items())
                target = folder / files.fingerprint(content)[:8] / archive.stem
                needed = sum(info.file_size for info in members.values())
                _make_once(target, needed, lambda here: _extract(bundle, members, archive, here))
        except DAMAGED as error:
            why = " ".join(str(error).split()) or "it ends too early"
            advice = "expected a whole zip: delete it, run this again"
            raise UserError(f"{archive} is damaged ({why}), {advice}") from None
    return target


def _members(bundle, archive) -> dict:
    """The archive's files as {name: ZipInfo}; UserError for what no official archive holds."""
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
    return members


def _refusal(info, name) -> str | None:
    if re.search(r"[\\:\0]", name) or {"", ".", ".."} & set(name.removesuffix("/").split("/")):
        return "a name that leaves the folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device"
    return "an encrypted file" if info.flag_bits & 1 else None


def _extract(bundle, members, archive, folder):
    """Unpack the members into `folder`."""
    for name, info in progress.bar(
        members.items(), desc=f"unpacking {archive.name}", unit=" files", delay=2
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with bundle.open(info) as source, open(path, "wb") as file:  # tests the CRC
            shutil.copyfileobj(source, file)
            if file.tell() != info.file_size:
                why = f"has {file.tell():,} bytes, declared {info.file_size:,}"
                raise zipfile.BadZipFile(f"{name} {why}")


def _make_once(target, needed, fill):
    """Make the folder `target`, of `needed` bytes, where it is not there: `fill` fills a temporary
    folder, which gets the name when all is in it."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(target.parent):
        if target.exists():  # another process was faster
            return
        files.sweep(target.parent)
        files.check_room(target.parent, needed)
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.mkdir()
        fill(temporary)
        temporary.rename(target)


def pictures(table, ids, folder) -> Path | None:
    """The folder below `folder` with the pictures of a Parquet file: DIGITS/NAME, made once.

    ids: (N,) name of each row's picture, without suffix. None if the file holds no pictures.
    """
    from pyarrow import parquet

    file = parquet.ParquetFile(table)
    columns = tables.pictures_in(file)
    if not columns:
        return None
    stat = table.stat()
    made_of = files.fingerprint([str(table), stat.st_size, stat.st_mtime_ns])
    target = Path(folder) / made_of[:8] / table.stem
    _make_once(target, stat.st_size, lambda here: _write_pictures(file, columns[0], ids, here))
    return target


def _write_pictures(file, column, ids, folder):
    """Each picture of a ParquetFile as a file of its own."""
    batches = (batch.column(0).to_pylist() for batch in file.iter_batches(64, columns=[column]))
    for name, cell in zip(ids, itertools.chain.from_iterable(batches), strict=True):
        if name and cell and cell["bytes"]:
            suffix = ".png" if cell["bytes"].startswith(b"\x89PNG") else ".jpg"
            (folder / f"{name}{suffix}").write_bytes(cell["bytes"])
