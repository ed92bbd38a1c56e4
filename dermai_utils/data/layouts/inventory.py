"""What lies in a folder: images, tables, and zips, which are unpacked where that adds anything."""

import functools
import os
import re
import unicodedata
import zipfile
from pathlib import Path

from dermai_utils import files
from dermai_utils.config import IMAGE_SUFFIXES, UserError
from dermai_utils.data.layouts import labels
from dermai_utils.data.unpack import DAMAGED, unpack

TABLES = (".csv", ".tsv", ".tab")
DEEPEST_TABLE, DEEPEST_IMAGE = 2, 4  # folders between the one that is given and the file
DEEPEST_ZIP = 2  # zips in zips


@functools.cache
def plain_name(name) -> str:
    """A file's or folder's name in lower case, without suffix, and without what a browser and
    Google Drive add: X (1).zip, X-20250131T120000Z-001.zip, X-002.zip."""
    name = name.casefold()
    for suffix in (".zip", *TABLES):
        name = name.removesuffix(suffix)
    return re.sub(r"-\d{8}t\d{6}z(-\d+)*$|(-\d+)?-\d{3}$| ?\(\d+\)$", "", name)


def image_id(name) -> str:
    """The name without its suffix; accents in NFC (a Mac has NFD), undecodable bytes as U+FFFD."""
    stem = os.path.splitext(name)[0]
    if stem.isascii():
        return stem
    return unicodedata.normalize("NFC", files.printable(stem))


class Inventory:
    """folders: {folder: entries of its image files}; tables: paths; notes: lines for the user.

    A zip is unpacked into `unpacked`, unless what it holds lies unpacked beside it, or no table
    names an image of it. leave_out: folders not to look into.
    """

    def __init__(self, folder, unpacked, leave_out=()):
        self.folders, self.tables, self.notes = {}, [], []
        self._top, self._unpacked, self._archives = Path(folder), Path(unpacked), []
        self._seen = {os.path.realpath(path) for path in leave_out}
        self._walk(self._top, 0, 0)
        while self._archives:  # a zip may add some
            self._archives.sort(key=_order)
            self._take(*self._archives.pop(0))

    def named(self, *names) -> list[Path]:
        """The tables with one of these plain names; X.csv before X (1).csv."""
        tables = [path for path in self.tables if plain_name(path.name) in names]
        return sorted(tables, key=lambda path: plain_name(path.name) != path.stem.casefold())

    def _walk(self, here, depth, level):
        """Note what lies in `here` and below; level: of zips in zips."""
        if os.path.realpath(here) in self._seen:  # a link to a folder above
            return
        self._seen.add(os.path.realpath(here))
        try:
            with os.scandir(here) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except PermissionError:
            self.notes.append(f"{here} cannot be looked into: not allowed")
            return
        entries = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
        entries = [entry for entry in entries if self._can_be_named(here, entry)]
        plain = [entry for entry in entries if entry.is_file()]
        images = [entry for entry in plain if entry.name.lower().endswith(IMAGE_SUFFIXES)]
        self.folders[here] = images
        if depth <= DEEPEST_TABLE:
            names = [(entry.name.casefold(), here / entry.name) for entry in plain]
            self.tables += [path for name, path in names if _is(name, TABLES)]
            zips = [path for name, path in names if name.endswith(".zip")]
            self._archives += [_read(path, level) for path in zips]
        for entry in entries if depth < DEEPEST_IMAGE else []:
            if entry.is_dir():
                self._walk(here / entry.name, depth + 1, level)

    def _can_be_named(self, here, entry) -> bool:
        """Whether a name can be written down. An image is taken all the same: its row says so."""
        name = files.printable(entry.name)
        if name == entry.name or not (entry.is_dir() or _is(name, (*TABLES, ".zip"))):
            return True
        self.notes.append(f"{here / name} is not looked into: its name is not in UTF-8; rename it")
        return False

    def _take(self, archive, level, members):
        """Unpack a zip and note what it holds, where that adds anything."""
        if level == DEEPEST_ZIP:
            self.notes.append(f"{archive.name} is a zip in a zip in a zip: not unpacked")
        elif members is None or self._adds(archive, members):
            target, tops = self._unpacked, {name.split("/")[0] for name in members or ()}
            whole = target / archive.stem  # as the official archives lie in every cache
            if tops != {archive.stem} or whole in self.folders:
                inside = self._top if archive.is_relative_to(self._top) else self._unpacked
                whole = target = target / "zips" / archive.relative_to(inside).with_suffix("")
            unpack(archive, target)
            self._walk(whole, 0, level + 1)

    def _adds(self, archive, members) -> bool:
        """Whether a zip holds a table, a zip, or an image in use, that does not lie here yet."""
        images = {_key(archive, n): s for n, s in members.items() if _is(n, IMAGE_SUFFIXES)}
        tables = [name for name in members if _is(name, TABLES)]
        if not set(map(_table_name, tables)) <= {path.name.casefold() for path in self.tables}:
            return True
        if any(_is(name, (".zip",)) for name in members):
            return True
        if not images or not self._in_use(archive, images):
            what = "holds no image that a table names"
            self.notes += [f"{archive.name} {what}: not unpacked"] if not tables else []
            return False
        sizes = self._sizes()
        same = sum(sizes.get(key) == size for key, size in images.items())
        here = sum(key in sizes for key in images)
        # no size is the same: a copy in another size, which is as whole as its number of files
        return not (here == len(images) and same in (0, here))

    def _in_use(self, archive, images) -> bool:
        official = plain_name(archive.name) == "isic2018_task3_training_input"
        ids = {image_id(name).casefold() for _, name in images}
        classes = any(labels.class_of(folder) for folder, _ in images)
        return official or classes or bool(ids & self._named_images())

    def _named_images(self) -> set[str]:
        """The ids, in lower case, of all images that a table names."""
        ids = set()
        for path in self.tables:
            if column := labels.column_of(labels.header(path), "image"):
                try:
                    column = labels.read_csv(path, [column])[column]
                except UserError:  # said when the table is used, if it is
                    continue
                ids |= set(labels.image_ids(column).str.casefold())
        return ids

    def _sizes(self) -> dict:
        """{(folder, file) in lower case: bytes} of the images that lie here."""
        return {
            (plain_name(folder.name), entry.name.casefold()): entry.stat().st_size
            for folder, entries in self.folders.items()
            for entry in entries
        }


def _read(archive, level):
    """(archive, level, {name: bytes} of its members, or None where it is no zip)."""
    try:
        with zipfile.ZipFile(archive) as bundle:
            infos = [info for info in bundle.infolist() if not info.is_dir()]
    except DAMAGED:
        return archive, level, None
    hidden = re.compile(r"(^|/)(\.|__MACOSX)")
    members = {i.filename: i.file_size for i in infos if not hidden.search(i.filename)}
    return archive, level, members


def _order(item):
    """Zips with tables first: they say which images are in use. X.zip before X (1).zip."""
    archive, _, members = item
    tables = any(_is(name, (*TABLES, ".zip")) for name in members or ())
    return not tables, plain_name(archive.name) != archive.stem.casefold()


def _is(name, suffixes) -> bool:
    if suffixes == TABLES and _table_name(name) == "ham10000_metadata":  # the Dataverse's
        return True
    return name.casefold().endswith(suffixes)


def _table_name(name) -> str:
    return name.rpartition("/")[2].casefold()


def _key(archive, name):
    """(folder, file) in lower case of a member; the folder of a flat zip is the zip's name."""
    folder, _, file = name.rpartition("/")
    return plain_name(folder.rpartition("/")[2] or archive.stem), file.casefold()
