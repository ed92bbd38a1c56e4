"""One zip into a folder of its own: checked before it is believed, whole or absent."""

import itertools
import re
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
                content = sorted((i.filename, i.file_size, i.CRC) for i in members)

                def extract(here):
                    shown = dict(desc=f"unpacking {archive.name}", unit=" files", delay=2)
                    for info in progress.bar(members, **shown):
                        bundle.extract(info, here)  # tests the CRC

                needed = sum(info.file_size for info in members)
                return _make_once(folder, content, archive.stem, needed, extract)
        except DAMAGED as error:
            why = " ".join(str(error).split()) or "it ends too early"
            advice = "expected a whole zip: delete it, run this again"
            raise UserError(f"{archive} is damaged ({why}), {advice}") from None


def _members(bundle, archive) -> list:
    """The ZipInfo of each file; UserError for what no official archive holds."""
    seen = {}
    for info in bundle.infolist():
        name = info.orig_filename  # .filename is cut at a NUL and has the system's own separators
        twin = seen.setdefault(name.casefold(), info)  # Foo.jpg and foo.jpg are one file on a Mac
        # Kaggle's HAM10000 holds every image twice, in folders that differ in case
        other = (twin.CRC, twin.file_size) != (info.CRC, info.file_size)
        if why := _refusal(info, name) or other and "a name given twice":
            advice = "expected plain files: not unpacked; delete it"
            raise UserError(f"{archive} holds {why} ({name!r}), {advice}")
    members = [info for info in seen.values() if not info.is_dir()]
    total, packed = sum(info.file_size for info in members), archive.stat().st_size
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


def _make_once(folder, made_of, name, needed, fill) -> Path:
    """The folder DIGITS/NAME below `folder`, of `needed` bytes; the digits are of `made_of`. Where
    it is not there, `fill` fills a temporary folder, which gets the name when all is in it."""
    target = folder / files.fingerprint(made_of)[:8] / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(target.parent):
            if target.exists():  # another process was faster
                return target
            files.sweep(target.parent)
            files.check_room(target.parent, needed)
            temporary = target.with_name(f".{name}.tmp")
            temporary.mkdir()
            fill(temporary)
            temporary.rename(target)
    return target


def pictures(table, ids, folder) -> Path | None:
    """The folder below `folder` with the pictures of a Parquet file: DIGITS/NAME, made once.

    ids: (N,) name of each row's picture, without suffix. None if the file holds no pictures.
    """
    from pyarrow import parquet

    file = parquet.ParquetFile(table)
    columns = tables.pictures_in(file)

    def write(here):
        batches = file.iter_batches(64, columns=columns[:1])
        cells = itertools.chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
        for name, cell in zip(ids, cells, strict=True):
            if name and cell and cell["bytes"]:
                suffix = ".png" if cell["bytes"].startswith(b"\x89PNG") else ".jpg"
                (here / f"{name}{suffix}").write_bytes(cell["bytes"])

    changed = [str(table), table.stat().st_size, table.stat().st_mtime_ns]
    return _make_once(folder, changed, table.stem, changed[1], write) if columns else None
