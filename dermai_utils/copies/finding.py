"""Find the copy of the data that a folder holds.

`find` takes stock of a folder, gives every table to the first layout that it fits, and takes the
copy with most usable images.
"""

import functools
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dermai_utils.basics import CLASSES, UserError, counted
from dermai_utils.copies import layouts, matching, tables
from dermai_utils.copies.inventory import (
    DEEPEST_IMAGE,
    DEEPEST_TABLE,
    Inventory,
    image_id,
    plain_name,
)
from dermai_utils.copies.layouts import GROUPINGS, HAM, IMAGES, OFFICIAL, TEST_TRUTH, TRUTH, Layout

NO_DIAGNOSIS = (
    "benign or malignant is no diagnosis, and none of the seven follows from it: give labels or "
    "folders that name the diagnosis"
)
COLUMNS = ["image", "source", "path", "label", "reason", *tables.METADATA]


@dataclass
class Copy:
    """One copy of the data.

    layout: its name. rows: DataFrame with COLUMNS, one row an image or label, usable where reason
    is "" (source: train or test; path: of the image file; label: one of CLASSES; age: years or NaN;
    other blanks are ""). notes: lines for the user. labels: its label tables, those of the training
    images first; tables: all that something comes from; form: its row of layouts.LAYOUTS.
    """

    layout: str
    rows: pd.DataFrame
    notes: list[str]
    labels: list[Path]
    tables: list[Path]
    form: Layout

    @functools.cached_property
    def usable(self) -> pd.DataFrame:
        return self.rows[self.rows["reason"] == ""]

    @functools.cached_property
    def folders(self) -> list[Path]:
        """Those of its images; the one with most of them first."""
        paths = pd.Series([Path(path).parent for path in self.rows["path"] if path])
        return list(paths.value_counts().index)

    def counts(self) -> dict[str, int]:
        """{class: usable images} of the source "train"."""
        labels = self.usable.loc[self.usable["source"] == "train", "label"]
        return labels.value_counts().reindex(CLASSES, fill_value=0).to_dict()

    def place(self) -> str:
        table = f" ({self.labels[0].name})" if self.labels else ""
        images = counted(len(self.usable), "usable image")
        return f"{self.layout}{table} in {self.folders[0]}, {images}"


def find(folder, unpacked, leave_out=(), what="training") -> Copy:
    """The copy of the data in `folder`: archives or unpacked files.

    unpacked: folder below which zips are unpacked. leave_out: folders not to look into. what: the
    purpose of the images, for messages. UserError if no layout fits, or no image is usable.

    >>> import tempfile
    >>> copy = find("dermai_utils/sample", tempfile.mkdtemp())
    >>> copy.layout, copy.counts()["MEL"] > 0
    ('official ISIC 2018', True)
    """
    ids = [name for layout in layouts.LAYOUTS for name in layout.image]
    inventory = Inventory(folder, unpacked, leave_out, (*tables.COLUMN_NAMES["image"], *ids))
    copies = []
    for layout, labels in _candidates(inventory):
        if layout.table != TEST_TRUTH or not copies:
            copies += filter(None, [_copy(layout, labels, inventory)])
    if not copies:
        raise UserError(_nothing_recognised(folder, inventory, what))
    best = functools.reduce(_better, copies)
    if not any(best.counts().values()):
        raise UserError(_nothing_usable(best))
    best.notes += inventory.notes + _unused(inventory, copies)
    best.notes += _tables_not_used(inventory, copies, best)
    best.notes += _missing(best) if best.layout == OFFICIAL and what == "training" else []
    return best


# Which tables are one copy, and which files belong to it


def _candidates(inventory) -> Iterator[tuple[Layout, dict]]:
    """(layout, {label table: its rows}) of each possible copy; {} for folders named by class."""
    every, forms = layouts.LAYOUTS, {}  # {(place in LAYOUTS, columns): {table: its rows}}
    for path in inventory.tables:
        names = tables.header(path)
        place = next((k for k, layout in enumerate(every) if layout.fits(path, names)), None)
        if place is not None:
            columns = tables.class_columns(names, every[place].classes)
            form = place, tables.column_of(names, "image", every[place].image), *columns
            forms.setdefault(form, {})[path] = every[place].read(path, inventory)
    if any(_class_folders(inventory).values()):
        forms |= {(place,): {} for place, layout in enumerate(every) if layout.table is None}
    for place, *columns in sorted(forms, key=lambda form: form[0]):
        for labels in _parts(forms[place, *columns], inventory.ids()):
            yield every[place], labels


def _parts(labels, here) -> list[dict]:
    """Label tables of one form, {path: rows}, in such dicts, each of one copy, as train.csv and
    val.csv are: a table that mostly names other images joins the largest. here: ids of images."""
    ids = {
        path: {*rows.loc[rows["reason"] == "", "image"].str.casefold()} & here
        for path, rows in labels.items()
    }
    parts, known = [[]], set()
    for path in sorted(labels, key=lambda path: -len(ids[path])):
        if not parts[0] or len(ids[path] - known) > len(ids[path]) / 2:
            parts[0].append(path)
            known |= ids[path]
        else:
            parts.append([path])
    return [{path: labels[path] for path in sorted(part)} for part in parts]


def _class_folders(inventory) -> dict:
    """{folder: names of its images} of folders named by class, and of those beside them."""
    classes = [path for path, names in inventory.folders.items() if tables.class_of(path.name)]
    parents = {path.parent for path in classes if any(inventory.folders[p] for p in classes)}
    return {path: names for path, names in inventory.folders.items() if path.parent in parents}


def _copy(layout, labels, inventory) -> Copy | None:
    """The rows of these tables, or of the class folders; None if there is no image for them."""
    notes, tests = [layout.note] * bool(layout.note), []
    if labels:
        rows = _labelled(layout.table, labels, inventory, notes)
        beside = inventory.folders_named(*IMAGES[TEST_TRUTH])
        if layout.table in (TRUTH, HAM) and any(beside.values()):
            tests = inventory.named(TEST_TRUTH)[:1]
    else:
        rows = matching.rows_of_folders(_class_folders(inventory), notes)
    if rows["path"].isna().all():
        return None
    rows = rows.assign(source="train")
    for path in tests:
        test = _labelled(TEST_TRUTH, {path: layout.read(path, inventory)}, inventory, notes)
        rows = pd.concat([rows, test.assign(source="test")], ignore_index=True)
    metadata, used = _metadata(layout, [*labels, *tests], rows["image"], inventory, notes)
    rows = rows.merge(metadata, on="image", how="left")
    rows["given"] = _given(rows, inventory)
    used = list(dict.fromkeys([*labels, *tests, *used]))
    notes += filter(None, map(tables.encoding_note, used))
    text = [name for name in COLUMNS if name != "age"]
    rows = rows.assign(**rows.reindex(columns=text).astype(object).fillna("").astype(str))
    name = layout.name.format(table=", ".join(dict.fromkeys(path.name for path in labels)))
    return Copy(name, rows[COLUMNS], notes, [*labels, *tests], used, layout)


def _labelled(table, labels, inventory, notes) -> pd.DataFrame:
    """The rows of the label tables {path: rows}, each with its image.

    table: TRUTH or TEST_TRUTH, if these are its labels: its images lie in the folder with its own
    name, if that holds any. Else they may lie in all folders but the other one's.
    """
    own = inventory.folders_named(*IMAGES.get(table, ()))
    apart = inventory.folders_named(*IMAGES[TRUTH if table == TEST_TRUTH else TEST_TRUTH])
    if not any(own.values()):
        own = {path: names for path, names in inventory.folders.items() if path not in apart}
    rows = tables.joined([rows.assign(table=path) for path, rows in labels.items()])
    rows = matching.rows_of_table(rows, own, notes)
    clinical = rows["reason"] == layouts.CLINICAL
    notes += [f"not used: {counted(clinical.sum(), 'clinical photograph')}"] * bool(clinical.any())
    return rows[~clinical]


def _metadata(layout, labels, ids, inventory, notes) -> tuple[pd.DataFrame, list]:
    """(image, *METADATA) of these ids from all tables, and the tables that gave any: groupings
    first, then label tables; the first one that knows a value counts.
    """
    frame = pd.DataFrame(columns=["image", *tables.METADATA], dtype=object).set_index("image")
    image, used = layout.lesions[1:] or layout.image, []
    for path in dict.fromkeys([*inventory.named(GROUPINGS), *labels, *inventory.tables]):
        only = ("lesion_id",) if plain_name(path.name) == GROUPINGS else tables.METADATA
        part, note = tables.read_metadata(path, image, only)
        part = part[part["image"].isin(ids)]
        if len(part):
            notes += [note] if note else []
            used.append(path)
            frame = frame.combine_first(part.set_index("image"))
    frame = frame.reindex(columns=list(tables.METADATA)).reset_index()
    return frame.assign(age=tables.numbers(frame["age"])), used


def _given(rows, inventory) -> pd.Series:
    """The subset that the copy itself puts each training image in: by a column, else the name of
    its label table, else that of its folder. All "" where these name fewer than two subsets."""
    folders = {folder: tables.subset_in(place) for folder, place in inventory.places.items()}
    named = {p: tables.subset_in(inventory.places[p.parent] / p.stem) for p in inventory.tables}
    ways = {
        "given": lambda word: tables.subset_of(word) or word * word.isdecimal(),
        "table": named.get,
        "path": lambda path: folders[path.parent],
    }
    used = (rows["source"] == "train") & (rows["reason"] == "")
    for column, way in ways.items():
        cells = rows.reindex(columns=[column])[column].where(used)
        found = ["" if pd.isna(cell) else way(cell) for cell in cells]
        if len(set(found) - {""}) > 1:
            return pd.Series(found, rows.index)
    return pd.Series("", rows.index)


# Which copy, and what the user hears about it


def _better(best, copy) -> Copy:
    """The copy with more usable images; tables of the same images are not another copy."""
    if set(copy.folders) <= set(best.folders):
        margin = 1 if copy.form == best.form else 2  # a layout with a name is rather believed
        return copy if len(copy.usable) > margin * len(best.usable) else best
    first, second = (copy, best) if len(copy.usable) > len(best.usable) else (best, copy)
    used = f"used is {first.place()}; not used is {second.place()}"
    first.notes.append(f"two copies of the data: {used}")
    return first


def _unused(inventory, copies) -> list[str]:
    """The line about images that belong to no copy."""
    used = {folder for copy in copies for folder in copy.folders}
    named = {image.casefold() for copy in copies for image in copy.rows["image"]}
    rest = {
        path: len(names)
        for path, names in inventory.folders.items()
        if names and path not in used and not named & {image_id(n).casefold() for n in names}
    }
    where = ", ".join(shlex.quote(path.name) for path in rest)
    images = counted(sum(rest.values()), "image")
    return [f"not used: {images} in {where:.100}, which no label names"] * bool(rest)


def _tables_not_used(inventory, copies, best) -> list[str]:
    """The line about tables from which nothing comes, each with the reason, or its columns."""
    of = {path: copy for copy in copies for path in copy.labels}
    rest = {path: tables.columns_or_fault(path) for path in inventory.tables}
    for path, copy in of.items():
        more = "another table labels more images"
        rest[path] = more if len(copy.usable) else commonest(copy.rows)
    reasons = [f"{path.name} ({why:.80})" for path, why in rest.items() if path not in best.tables]
    return [f"tables not used: {', '.join(reasons)}"] * bool(reasons)


def _missing(copy) -> list[str]:
    """A line for each part of the official data that this copy lacks."""
    lines = {
        GROUPINGS: "no ISIC2018_Task3_Training_LesionGroupings.csv: the split works without the "
        "official lesion groups",
        HAM: "no HAM10000_metadata.csv (the challenge's own mirrors lack it): no age, sex and "
        "localization",
        TEST_TRUTH: "no ISIC2018_Task3_Test_Input with ISIC2018_Task3_Test_GroundTruth: no "
        "official test set",
    }
    names = {plain_name(path.name) for path in copy.tables}
    return [line for table, line in lines.items() if table not in names]


def commonest(rows) -> str:
    """The reason that rejected most of these rows, in words."""
    counts = rows.loc[rows["reason"] != "", "reason"].value_counts()
    return f"{counts.iloc[0]:,} × {counts.index[0]}" if len(counts) else "it has no rows"


def _nothing_usable(copy) -> str:
    folder, rows = copy.folders[0], copy.rows[copy.rows["source"] == "train"]
    why = f"no row is the usable label of an image in {folder} ({commonest(rows)})"
    if "benign" in rows["reason"].str.casefold().str.cat():
        why += f"; {NO_DIAGNOSIS}"
    expected = "expected the files' names as ids, and one class for each, or a word in docs/data.md"
    return f"{[*copy.labels, folder][0]}: {why}; {expected} ({', '.join(CLASSES)}, melanoma, ...)"


def _nothing_recognised(folder, inventory, what) -> str:
    """What lies in the folder, and what was expected there."""
    images = {path.name: len(names) for path, names in inventory.folders.items() if names}
    found = [f"{p.name} ({tables.columns_or_fault(p):.100})" for p in inventory.tables]
    found += [f"{counted(count, 'image')} in {shlex.quote(name)}" for name, count in images.items()]
    others = Counter(Path(name).suffix.lower() or name for name in inventory.others)
    found += [f"{count:,} × {what}" for what, count in others.items()]
    found = ", ".join(found)[:500] or "nothing of use"
    if {"benign", "malignant"} <= {plain_name(path.name) for path in inventory.folders}:
        found += f"; {NO_DIAGNOSIS}"
    expected = (
        f"images, at most {DEEPEST_IMAGE} folders deep, in one folder a class, or beside a table, "
        f"at most {DEEPEST_TABLE} folders deep, with a column of ids, which are the files' names "
        "(image, image_id, isic_id, file), and one of classes (dx, diagnosis, label, class) or one "
        "for each of the seven classes"
    )
    why = f"holds no {what} images with labels: found {found}; expected {expected}"
    return f"{folder} {why}; see docs/data.md"
