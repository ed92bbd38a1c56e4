"""What lies in a folder: images, tables, and zips, which are unpacked where that adds anything."""

import functools
import os
import re
import unicodedata
import zipfile
from pathlib import Path

from dermai_utils import files
from dermai_utils.basics import IMAGE_SUFFIXES, UserError, counted
from dermai_utils.copies import tables
from dermai_utils.copies.unpack import DAMAGED, pictures, unpack

TABLES = (".csv", ".tsv", ".tab", *tables.PACKAGES)
OTHER_TABLES = ("ham10000_metadata", "ph2_dataset.txt")  # the Dataverse's has no suffix
OURS = {"image", "pixel_hash", "origin"}  # columns of a table.csv of this program
DEEPEST_TABLE, DEEPEST_IMAGE = 2, 4  # folders between the one that is given and the file
DEEPEST_ZIP = 2  # zips in zips
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX)")
MASK = re.compile(r"_(segmentation|mask|superpixels)$")


@functools.cache
def plain_name(name) -> str:
    """A file's or folder's name in lower case, without suffix and without what a browser and
    Google Drive add.

    >>> plain_name("X (1).zip"), plain_name("X-20250131T120000Z-001.zip"), plain_name("X-002.zip")
    ('x', 'x', 'x')
    """
    name = name.casefold()
    for suffix in (".zip", ".txt", *TABLES):
        name = name.removesuffix(suffix)
    return re.sub(r"-\d{8}t\d{6}z(-\d+)*$|(-\d+)?-\d{3}$| ?\(\d+\)$", "", name)


def image_id(name) -> str:
    """A file's name without its suffix; accents composed (a Mac writes them as two letters)."""
    return unicodedata.normalize("NFC", os.path.splitext(name)[0])


class Inventory:
    """folders: {folder: names of its image files}; places: {folder: where it lies below the given
    one, with the names of zips}; tables: paths, X.csv before X (1).csv; others: names of files of
    no use; notes: lines for the user.

    A zip is unpacked below `unpacked`, unless its content lies unpacked beside it, or no table
    names an image of it. leave_out: folders not to look into. image: names of id columns.
    """

    def __init__(self, folder, unpacked, leave_out=(), image=()):
        self.folders, self.places, self.tables, self.others, self.notes = {}, {}, [], [], []
        self._unpacked, self._zips, self._image = Path(unpacked), [], image
        self._seen = {os.path.realpath(path) for path in leave_out}
        self._walk(Path(folder), 0, 0, Path())
        while self._zips:  # a zip may hold further ones
            self._zips.sort(key=_order)
            archive, level, inside = self._zips.pop(0)
            if self._adds(archive, level, inside):
                place = self.places[archive.parent] / archive.stem
                self._walk(unpack(archive, self._unpacked), 0, level + 1, place)
        ours = [path for path in self.tables if OURS <= set(tables.header(path))]
        self.tables = sorted((path for path in self.tables if path not in ours), key=_numbered)
        self.notes += [f"{path} is a result of this program: not read" for path in ours]
        self._remove_masks()

    def named(self, *names) -> list[Path]:
        """The tables with one of these plain names."""
        return [path for path in self.tables if plain_name(path.name) in names]

    def folders_named(self, *names) -> dict:
        """The folders with one of these plain names, as in `folders`."""
        return {
            path: found for path, found in self.folders.items() if plain_name(path.name) in names
        }

    def ids(self) -> set[str]:
        """The ids of all images, in lower case."""
        return {image_id(name).casefold() for names in self.folders.values() for name in names}

    def _walk(self, here, depth, level, place):
        """Note what lies in `here` and below; level: of zips in zips; place: see the class."""
        if os.path.realpath(here) in self._seen:  # a link to a folder above
            return
        self._seen.add(os.path.realpath(here))
        with os.scandir(here) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        entries = [entry for entry in entries if not HIDDEN.search(entry.name)]
        entries = self._with_utf8_names(here, entries)
        names = _by_kind(entry.name for entry in entries if entry.is_file())
        self.places[here], self.folders[here] = place, names["image"]
        self.others += names["other"]
        if depth <= DEEPEST_TABLE:
            self.tables += [here / name for name in names["table"]]
            zips = (here / name for name in names["zip"])
            self._zips += [(path, level, _inside(path)) for path in zips]
            for name in names["table"]:
                ids = self._named_images(here / name) if _base(name).endswith(".parquet") else []
                if ids and (inside := pictures(here / name, ids, self._unpacked)):
                    self._walk(inside, 0, level, place / Path(name).stem)
        for entry in entries if depth < DEEPEST_IMAGE else []:
            if entry.is_dir():
                self._walk(here / entry.name, depth + 1, level, place / entry.name)

    def _with_utf8_names(self, here, entries):
        """The entries whose names can be written into a table; a note counts the others."""
        odd = [name for entry in entries if (name := files.printable(entry.name)) != entry.name]
        if odd:
            what = f"{counted(len(odd), 'name')} not in UTF-8 ({odd[0]})"
            self.notes.append(f"{files.printable(here)}: {what}: not used; give other names")
        return [entry for entry in entries if files.printable(entry.name) == entry.name]

    def _adds(self, archive, level, inside) -> bool:
        """Whether a zip holds a table, a zip, or an image in use, that does not lie here yet.

        inside: its files, see `_by_kind`; {} where it is damaged, which `unpack` tells.
        """
        if level == DEEPEST_ZIP:
            self.notes.append(f"{archive.name} is a zip in a zip in a zip: not unpacked")
            return False
        known = {path.name.casefold() for path in self.tables}
        if not inside or inside["zip"] or {_base(name) for name in inside["table"]} - known:
            return True
        images = {_key(archive, name) for name in inside["image"]}
        in_use = plain_name(archive.name) == "isic2018_task3_training_input"
        in_use |= any(tables.class_of(folder) for folder, _ in images)
        named = {i.casefold() for path in self.tables for i in self._named_images(path)}
        if not images or not (in_use or named & {image_id(name).casefold() for _, name in images}):
            what = "holds no image that a table names"
            self.notes += [] if inside["table"] else [f"{archive.name} {what}: not unpacked"]
            return False
        folders = self.folders.items()
        here = {(plain_name(f.name), name.casefold()) for f, names in folders for name in names}
        return not images <= here

    def _named_images(self, path) -> list[str]:
        """The image id of each row of a table; [] if it has none, or cannot be read: the user hears
        of that when the table is used."""
        column = tables.column_of(tables.header(path), "image", self._image)
        try:
            return list(tables.image_ids(tables.read_csv(path, [column])[column])) if column else []
        except UserError:
            return []

    def _remove_masks(self):
        """Take out images with the name of another one and "_mask" or so; a note counts them."""
        ids, masks = self.ids(), []
        for names in self.folders.values():
            stems = {name: image_id(name).casefold() for name in names}
            found = {n for n, s in stems.items() if MASK.search(s) and MASK.sub("", s) in ids}
            names[:] = [name for name in names if name not in found]
            masks += found
        if masks:
            self.notes.append(f"not used: {counted(len(masks), 'mask')} ({min(masks)}, ...)")


def _inside(archive) -> dict:
    """The files of a zip as in `_by_kind`; {} if it is none."""
    try:
        with zipfile.ZipFile(archive) as bundle:
            names = [name for name in bundle.namelist() if not name.endswith("/")]
    except DAMAGED:
        return {}
    return _by_kind(name for name in names if not HIDDEN.search(name))


def _order(item):
    """Zips with tables first: they say which images are in use. X.zip before X (1).zip."""
    archive, _, inside = item
    return not (inside.get("table") or inside.get("zip")), _numbered(archive)


def _numbered(path) -> bool:
    return plain_name(path.name) != path.stem.casefold()


def _by_kind(names) -> dict[str, list]:
    """The names of files as {image, table, zip, other: those of this kind}."""
    kinds = {"image": [], "table": [], "zip": [], "other": []}
    suffixes = {"image": IMAGE_SUFFIXES, "table": TABLES, "zip": (".zip",)}
    for name in names:
        kind = next((k for k, ends in suffixes.items() if _base(name).endswith(ends)), "other")
        kinds["table" if _base(name) in OTHER_TABLES else kind].append(name)
    return kinds


def _base(name) -> str:
    return name.rpartition("/")[2].casefold()


def _key(archive, name):
    """(folder, file) in lower case of a member; the folder of a flat zip is the zip's name."""
    folder, _, file = name.rpartition("/")
    return plain_name(folder.rpartition("/")[2] or archive.stem), file.casefold()
