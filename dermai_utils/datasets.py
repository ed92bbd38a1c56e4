"""load(): any copy of the data -> a Dataset, with each rejected row and its reason."""

import dataclasses
import functools
import itertools
import os
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from dermai_utils import copies, files, image_names, pixels, splits
from dermai_utils.basics import CLASSES, UserError, counted
from dermai_utils.copies.tables import TWICE
from dermai_utils.copies.unpack import unpack

SAMPLE = Path(__file__).with_name("sample")
COLUMNS = ["image", "source", "origin", "label", "lesion_id", "patient_id", "age", "sex"]
COLUMNS += ["localization", "confirmed_by", "given", "pixel_hash", "path"]
GIVEN_TEST = "given test"  # a test set that lies in the data, but is not the official one
RESERVED = {"train", "val", "test", "official", "extra", "left out", "fold", "folds", GIVEN_TEST}
SAME_ID = "extra image that is in the data already (same id)"
SAME_PIXELS = "extra image that is in the data already (same pixels)"
NOT_KNOWN = {"unknown", "not known", "unk", "none", "na", "n/a", "nan", "<na>", "null", "nil"}
NOT_KNOWN |= {"missing", "not available", "undefined", "?", "-", "--", "0", "0.0", "-1", "-1.0"}
MUCH = 0.05  # share of a source's images that are left out: from here on a warning
EXPECTED = "expected sample, isic2018, or a folder or zip with a copy of the data (docs/data.md)"
REASONS = 10  # shown on the screen


@dataclasses.dataclass
class Dataset:
    """Images with labels, ready to use.

    table: DataFrame with COLUMNS, a row for each usable image. pixels: (N, H, W, 3) uint8, mapped
    from disk, row k of the table is pixels[k]. rejected: DataFrame of image, source and reason.
    notes: the lines that `load` printed. layout: of the copy, in words. name: of the data.
    """

    name: str
    table: pd.DataFrame
    pixels: np.ndarray
    rejected: pd.DataFrame
    notes: list[str]
    layout: str

    def rows(self, images) -> np.ndarray:
        """(n,) row numbers of these image ids; UserError for an id that is not in the table."""
        found = pd.Index(self.table["image"]).get_indexer(list(images))
        if (found < 0).any():
            missing = list(images)[int(np.argmin(found))]
            raise UserError(f"image {missing} is not in {self.name}: expected an id of its table")
        return found


def load(
    data="sample", size=224, *, test=(), extra=(), cache=None, base_url="", leave_out=()
) -> Dataset:
    """The Dataset of `data`: sample, isic2018 (the official archives, downloaded first), or a
    folder with any copy of the data (docs/data.md).

    size: px, of the square that a network will see; pixels have the 4:3 shape `pixels.shape(size)`.
    test, extra: further folders, one or a list: test sets of your own, and more training data.
    cache: folder for downloads, unpacked archives and the pixel array; None: cache/NAME. base_url:
    an address in place of the official mirrors. leave_out: folders inside `data` to ignore, such as
    one with results.

    Prints its notes. A second call with the same files decodes nothing. UserError where there is no
    usable copy, or the disk or the network refuses.

    >>> dataset = load("sample", size=32)  # doctest: +ELLIPSIS
    data: ...
    >>> len(dataset.table) == len(dataset.pixels), dataset.pixels.shape[1:]
    (True, (75, 100, 3))
    """
    name = folder_name(data)
    extras, tests = _named("extra", extra, data), _named("test", test, data)
    cache = Path(cache or Path("cache") / name)
    with files.disk_errors(cache):
        files.try_write(cache)
        with files.locked(cache):
            files.sweep(cache)
            folder, notes = _folder(data, cache, base_url)
            options = dict(unpacked=cache / "images", leave_out=(cache, *leave_out))
            find = functools.partial(_find, **options)
            rows, layout = _main(find, folder, notes, made_up=data == "sample")
            for source, further in (("extra", extras), ("test", tests)):
                for called, path in further.items():
                    path = _unzipped(path, cache)
                    added = _further(find, path, notes, source, called, rows)
                    rows = pd.concat([rows, added], ignore_index=True)
            array = cache / f"{_array_name(size, [*extras], [*tests])}.npy"
            usable = rows[rows["reason"] == ""].reset_index(drop=True)
            usable, images = _decoded(usable, size, array)
    rejected = _rejected(rows, usable)
    table = usable.loc[usable["reason"] == "", COLUMNS].reset_index(drop=True)
    _say(
        notes,
        *_counts(table, rejected),
        *_classes_left(usable, table),
        *_unknown_lesions(table),
        *_conflicts(table),
    )
    return Dataset(name, table, images, rejected, notes, layout)


def _rejected(rows, decoded) -> pd.DataFrame:
    """image, source and reason: of rows that were rejected before decoding, and by it."""
    rejected = pd.concat([rows[rows["reason"] != ""], decoded[decoded["reason"] != ""]])
    rejected = rejected[["image", "source", "reason"]]
    return rejected.sort_values(["source", "image"], ascending=[False, True], ignore_index=True)


def folder_name(data) -> str:
    """The name of `data` in folders and pages: sample, isic2018, or its folder's name."""
    if not str(data).strip():
        raise UserError(f"data={data!r} names nothing; {EXPECTED}")
    return str(data) if str(data) in ("sample", "isic2018") else _name(data)


def class_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Images, lesions and share of the images of each class, in the official order."""
    labels = pd.Categorical(table["label"], CLASSES)
    grouped = splits.lesions(table).groupby(labels, observed=False)
    counts = pd.DataFrame({"images": grouped.size(), "lesions": grouped.nunique()})
    return counts.assign(share=(counts["images"] / counts["images"].sum()).round(3))


# Where the rows come from


def _say(notes, *lines):
    """Print lines, and keep them as notes."""
    for line in lines:
        print(f"data: {line}")
    notes += lines


def _name(path) -> str:
    """A folder's name; a zip's without its suffix."""
    path = Path(path).expanduser().resolve()
    return path.stem if _is_zip(path) else path.name


def _is_zip(path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


def _unzipped(path, cache) -> Path:
    """The folder itself, or the one that a zip is unpacked into."""
    return unpack(path, cache / "images") if _is_zip(path) else path


def _named(setting, paths, data) -> dict[str, Path]:
    """{name: folder} of each path: its folder's name, made unique. UserError for no folder."""
    named = {}
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = Path(path).expanduser()
        expected = "expected a folder or zip with another copy of the data (docs/data.md)"
        if not (path.is_dir() or _is_zip(path)):
            raise UserError(f"{setting}={path}: no such folder; {expected}")
        if path.resolve() == Path(data).expanduser().resolve():
            raise UserError(f"{setting}={path} is the training data itself; {expected}")
        first = files.printable(_name(path))
        first += " set" * (first.casefold() in RESERVED or first.isdigit())
        numbered = (f"{first}-{k}" for k in itertools.count(2))
        named[next(n for n in itertools.chain([first], numbered) if n not in named)] = path
    return named


def _folder(data, cache, base_url):
    """(the folder of `data`, the first notes); fetches the official archives."""
    notes = []
    if str(data) == "isic2018":
        fetched = copies.fetch_official(cache / "archives", base_url)
        _say(notes, *[f"fetched {', '.join(fetched)}"] * bool(fetched))
        return cache / "archives", notes
    folder = SAMPLE if str(data) == "sample" else Path(data).expanduser().absolute()
    folder = _unzipped(folder, cache)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"data={folder} {what}; {EXPECTED}")
    return folder, notes


def _find(folder, what, *, unpacked, leave_out):
    try:
        return copies.find(folder, unpacked, leave_out, what)
    except UserError as error:
        inside = [Path(path).resolve() for path in leave_out]
        inside = [path for path in inside if path.is_relative_to(folder.resolve())]
        why = f"; {inside[-1]} was left out: it is a work or cache folder" if inside else ""
        raise UserError(f"{error}{why}") from None


def _main(find, folder, notes, made_up):
    """(rows of the training data and of the test set beside it, the layout)."""
    copy = find(folder, "training")
    rows, tests = copy.rows, copy.rows["source"] == "test"
    lines = [f"layout {copy.layout}: {_by_class(copy.usable, 'train')}", *copy.notes]
    official = rows["image"].map(image_names.is_official_test) | made_up
    source, origin = "official", ""
    if others := (tests & ~official).sum():
        lines.append(
            f"test images without an id of the official test set: {others:,} of {tests.sum():,}; "
            "the whole set counts as a test set of your own"
        )
        source, origin = GIVEN_TEST, _origins(rows["lesion_id"], GIVEN_TEST).where(tests, "")
    rows = rows.assign(source=rows["source"].mask(tests, source), origin=origin)
    renamed, prefix = (tests, GIVEN_TEST) if others else (~tests, "train")
    usable = rows[rows["reason"] == ""]
    sources = usable.groupby("image")["source"].transform("nunique").reindex(rows.index)
    renamed = renamed & (sources > 1)
    if renamed.any():
        first = rows.loc[renamed, "image"].iloc[0]
        lines.append(
            f"test images with the id of a training image: {renamed.sum():,} ({first}, ...); of "
            f"the two, the {'test' if others else 'training'} image is called {prefix}:{first}"
        )
        rows["image"] = rows["image"].mask(renamed, f"{prefix}:" + rows["image"])
    rows, unknown = _without_placeholders(rows)
    given = rows.loc[rows["given"] != "", "given"].value_counts()
    if len(given):
        what = ", ".join(f"{name} {count:,}" for name, count in given.items())
        lines.append(f"the data comes with a split ({what}): --split given uses it")
    _say(notes, *lines, *unknown)
    return rows, copy.layout


def _further(find, folder, notes, kind, name, before):
    """The rows of a further folder; their ids are unlike all in the rows `before`.

    kind: extra or test. An image with an id that is there already is called NAME:ID. An extra one
    whose archive id is there already is rejected; of a test one the audit counts it. Other ids,
    such as numbers, say nothing about another folder's.
    """
    copy = find(folder, kind)
    source = kind if kind == "extra" else name
    rows, lines = _without_placeholders(copy.rows.assign(source=source, given=""))
    lines += _other_numbers(rows, before, name)
    rows["origin"] = _origins(rows["lesion_id"], name)
    known = rows["image"].map(splits.base_id).isin(before["image"].map(splits.base_id))
    prefixes = itertools.chain([source], (f"{source}-{k}" for k in itertools.count(2)))
    called = (rows["image"].mask(known, f"{prefix}:" + rows["image"]) for prefix in prefixes)
    rows["image"] = next(ids for ids in called if not ids.isin(before["image"]).any())
    elsewhere = known & ~rows["image"].map(image_names.is_archive_id)
    if elsewhere.any():
        first = rows.loc[elsewhere, "image"].iloc[0].rpartition(":")[2]
        what = f"ids in the data too that are no archive ids: {elsewhere.sum():,} ({first}, ...)"
        lines.append(f"{what}; other photographs, unless the pixels are equal")
    twice = (rows["reason"] == "") & rows["image"].duplicated()
    rows["reason"] = rows["reason"].mask(twice, TWICE)
    if kind == "extra":
        there = known & ~elsewhere & (rows["reason"] == "")
        rows["reason"] = rows["reason"].mask(there, SAME_ID)
    what = "test set" if kind == "test" else "extra training data"
    counts = _by_class(rows[rows["reason"] == ""], source)
    line = f"{what} {shlex.quote(name)}, layout {copy.layout}: {counts}"
    _say(notes, line, *(f"{name}: {note}" for note in (*copy.notes, *lines)))
    return rows


def _other_numbers(rows, before, name) -> list[str]:
    """Put NAME: before lesion and patient ids that are plain numbers and in the rows `before` too;
    a line for each column. Two clinics both count from 1."""
    lines = []
    for column in ("lesion_id", "patient_id"):
        same = rows[column].isin(set(before[column])) & rows[column].str.fullmatch(r"\d+(\.0)?")
        rows[column] = rows[column].mask(same, f"{name}:" + rows[column])
        what = f"{counted(same.sum(), 'image')} with a number as {column} that is in the data too"
        lines += [f"{what}: not the same {column.removesuffix('_id')}"] * bool(same.any())
    return lines


def _without_placeholders(rows):
    """(the rows with "" for ids that are none, such as "unknown", a line for each of these)."""
    rows, lines = rows.copy(), []
    for column in ("lesion_id", "patient_id"):
        for _, ids in rows[column].groupby(rows["source"]):
            for value, count in _placeholders(ids, column).items():
                rows.loc[ids.index[ids == value], column] = ""
                images = counted(count, "image")
                lines.append(f"{column} {value} of {images} is no id: taken as not known")
    return rows, lines


def _placeholders(ids, column) -> dict:
    """{value: images} of the values that say "not known", or that far too many images have.

    Ids may begin at 0. A patient may have many images, where others have as many.
    """
    counts = ids[ids != ""].value_counts()  # the largest first
    from_0 = {"0", "1"} <= set(counts.index) and counts["0"] <= counts.drop("0").max()
    words = NOT_KNOWN - {"0"} if from_0 else NOT_KNOWN
    usual = counts.iloc[1:].median() if column == "patient_id" and len(counts) > 1 else 0
    many = [image_names.implausible(n, len(ids)) and n > 10 * usual for n in counts]
    return counts[counts.index.str.casefold().isin(words) | np.array(many, bool)].to_dict()


def _origins(lesion_ids, folder):
    """(N,) the clinic that a lesion id begins with (BCN, MSK as in ISIC 2019), else `folder`."""
    prefix = lesion_ids.str.extract(r"^([A-Za-z]{3,})\d*_", expand=False)
    return prefix.where(prefix != "ISIC").fillna(folder)


# The pixel array


def _array_name(size, extras, tests):
    """The file's name: one for each stored size and each combination of further folders."""
    height, width = pixels.shape(size)
    digits = f"_{files.fingerprint([extras, tests])[:8]}" if extras or tests else ""
    return f"pixels_{width}x{height}{digits}"


def _decoded(rows, size, array):
    """(rows with `pixel_hash` and `reason`, the pixels of those without a reason).

    A JSON beside the array says which files it was made from; it is there only when the array is
    whole. So a second call decodes nothing, and neither does one after the folder was moved.
    """
    made = [_stamp(*row) for row in rows[["path", "source"]].to_numpy()]
    made = files.fingerprint([pixels.shape(size), made])
    record_file = array.with_suffix(".json")
    record = files.read_json(record_file) or {}
    whole = array.exists() and array.stat().st_size == record.get("bytes")
    new = record.get("made_from") != made or not whole
    if new:
        record_file.unlink(missing_ok=True)
        found = pixels.build(list(rows["path"]), size, array)
        record = {"made_from": made, "bytes": array.stat().st_size, **found.to_dict("list")}
    rows = rows.assign(pixel_hash=record["pixel_hash"], reason=record["error"])
    copied = rows["pixel_hash"].where(rows["reason"] == "", rows["image"]).duplicated()
    rows.loc[copied & (rows["source"] == "extra"), "reason"] = SAME_PIXELS
    kept = np.flatnonzero(rows["reason"] == "")
    if not (rows["reason"].eq("") & rows["source"].eq("train")).any():
        why = f"no training image can be read ({copies.commonest(rows)}); unpack them again"
        raise UserError(f"{Path(rows['path'].iloc[0]).parent}: {why}")
    if new:
        pixels.compact(array, kept)
        files.write_json(record_file, record)
    return rows, np.load(array, mmap_mode="r")[: len(kept)]


def _stamp(path, source):
    """What of a file changes the array or what is kept of it."""
    stat = os.stat(path)
    return [Path(path).name, stat.st_size, stat.st_mtime_ns, source == "extra"]


# What a user must know


def _counts(table, rejected) -> list[str]:
    """How many images are left out, the reasons, and a warning for a source that loses many."""
    counts = rejected["reason"].value_counts()
    lines = [f"{counted(len(table), 'usable image')}, {len(rejected):,} rejected"]
    lines += [f"{count:,} × {reason}" for reason, count in counts[:REASONS].items()]
    if len(counts) > REASONS:
        others = counted(len(counts) - REASONS, "other reason")
        lines.append(f"{counts[REASONS:].sum():,} × {others}")
    lost = rejected[~rejected["reason"].isin((SAME_ID, SAME_PIXELS))]
    lost = lost[~lost["image"].isin(table["image"])]  # a second row of an image loses nothing
    for source, rows in lost.groupby("source", sort=False):
        count = rows["image"].nunique()
        share = count / (count + (table["source"] == source).sum())
        if share > MUCH:
            name = {"train": "training", "official": "official test"}.get(source)
            name = name or shlex.quote(source)
            what = f"{share:.1%} of the {name} images are left out ({copies.commonest(rows)})"
            lines.append(f"WARNING: {what}; is this the data you mean?")
    return lines


def _by_class(rows, source) -> str:
    """The usable images of each class, in words."""
    labels = rows.loc[rows["source"] == source, "label"]
    return " · ".join(f"{name} {(labels == name).sum():,}" for name in CLASSES)


def _classes_left(labelled, table) -> list[str]:
    """The training images of each class, where some that the layout's line counts were not read."""
    before, after = (rows["source"].eq("train").sum() for rows in (labelled, table))
    return [f"training images that can be read: {_by_class(table, 'train')}"] * int(after < before)


def _unknown_lesions(table) -> list[str]:
    training = table[table["source"] == "train"]
    count = (training["lesion_id"] == "").sum()
    images = counted(count, "image")
    what = "no lesion groupings" if count == len(training) else f"{images} without a lesion id"
    line = f"{what}: each such image counts as a lesion of its own, and may leak"
    return [line] if count else []


def _conflicts(table) -> list[str]:
    """A line for each image with the pixels of an earlier one and another label."""
    same = table.groupby("pixel_hash", sort=False)
    first, labels = same["image"].transform("first"), same["label"].transform("nunique")
    pairs = zip(table["image"], first, labels, strict=True)
    what = "have the same pixels and different labels; both are kept, in one subset"
    return [f"{a} and {b} {what}" for a, b, count in pairs if a != b and count > 1]
