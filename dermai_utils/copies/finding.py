"""Find the copy of the data that a folder holds.

`find` takes stock of a folder, tries every layout on every table in it, and takes the copy with
most usable images.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dermai_utils.basics import CLASSES, UserError
from dermai_utils.copies import layouts, matching, tables
from dermai_utils.copies.inventory import Inventory, image_id, plain_name
from dermai_utils.copies.layouts import (
    CLINICAL,
    GROUPINGS,
    HAM,
    OFFICIAL,
    TEST_IMAGES,
    TEST_TRUTH,
    TRAIN_IMAGES,
    Layout,
    class_folders,
)

NO_DIAGNOSIS = (
    "benign or malignant is no diagnosis, and none of the seven follows from it: give labels or "
    "folders that name the diagnosis"
)
ONLY = {GROUPINGS: ("lesion_id",)}  # tables of which we need this column, and take no other
COLUMNS = ["image", "source", "path", "label", "reason", *tables.METADATA]


@dataclass
class Copy:
    """One copy of the data.

    layout: its name. rows: DataFrame with COLUMNS, one row an image or label, usable where reason
    is "" (source: train or test; path: of the image file; label: one of CLASSES; age: years or NaN;
    other blanks are ""). notes: lines for the user. folders: {source: folders of its images};
    tables: {what: CSV}; form: its row of layouts.LAYOUTS.
    """

    layout: str
    rows: pd.DataFrame
    notes: list[str]
    folders: dict[str, list[Path]]
    tables: dict[str, Path]
    form: Layout

    def usable(self) -> int:
        return int((self.rows["reason"] == "").sum())

    def counts(self) -> dict[str, int]:
        """{class: usable images} of the source "train"."""
        good = (self.rows["reason"] == "") & (self.rows["source"] == "train")
        return self.rows.loc[good, "label"].value_counts().reindex(CLASSES, fill_value=0).to_dict()

    def _place(self) -> str:
        table = self.tables.get("train labels")
        return f"{self.layout}{f' ({table.name})' if table else ''} in {self.folders['train'][0]}"


def find(folder, unpacked, leave_out=(), what="training") -> Copy:
    """The copy of the data in `folder`: archives or unpacked files, at most 3 levels deep.

    unpacked: folder below which zips are unpacked. leave_out: folders not to look into. what: the
    purpose of the images, for messages. UserError if no layout fits, or no image is usable.

    >>> import tempfile
    >>> copy = find("dermai_utils/sample", tempfile.mkdtemp())
    >>> copy.layout, copy.counts()["MEL"] > 0
    ('official ISIC 2018', True)
    """
    ids = [name for layout in layouts.LAYOUTS for name in layout.image]
    inventory = Inventory(folder, unpacked, leave_out, (*tables.COLUMN_NAMES["image"], *ids))
    copies, seen = [], set()
    for layout in layouts.LAYOUTS:
        for part in layout.parts(inventory, seen):
            if not (copies and layout.alone):
                copies += filter(None, [_copy(layout, part, inventory)])
            seen.update(part)
    if not copies:
        raise UserError(_nothing_recognised(folder, inventory, what))
    best = copies[0]
    for copy in copies[1:]:
        best = _better(best, copy)
    if not any(best.counts().values()):
        raise UserError(_nothing_usable(best))
    official = best.layout == OFFICIAL and what == "training"
    best.notes += inventory.notes + _unused(inventory, copies)
    best.notes += _tables_not_used(inventory, copies, best)
    best.notes += _missing(best) if official else []
    return best


# A layout and a table become rows


def _copy(layout, part, inventory) -> Copy | None:
    """The rows of these tables, or of the class folders; None if there is no image for them."""
    notes, parts, used, named_by = [layout.note] * bool(layout.note), [], {}, {}
    if not part:
        folders = class_folders(inventory)
        parts = [matching.rows_of_folders(folders, notes).assign(source="train")]
        used["train"] = [path for path, names in folders.items() if names]
    for source, paths in _sources(layout, part, inventory):
        candidates = _image_folders(inventory, layout, source)
        own = (layout.images or TRAIN_IMAGES) if source == "train" else TEST_IMAGES
        labelled = [layout.read(path, inventory).assign(table=path) for path in paths]
        labelled = tables.joined(labelled)
        rows, used[source] = matching.rows_of_table(labelled, candidates, own, notes)
        clinical = rows["reason"] == CLINICAL
        notes += [f"{clinical.sum():,} clinical photographs are not used"] * bool(clinical.any())
        rows = rows[~clinical]
        if not used["train"]:
            return None
        parts.append(rows.assign(source=source))
        names = (f"{source} labels{f' {k}' * (k > 1)}" for k in itertools.count(1))
        named_by |= dict(zip(names, paths, strict=False))
    rows = pd.concat(parts, ignore_index=True)
    sources = _metadata_tables(layout, part, inventory)
    metadata = _metadata(
        sources, layout.lesions[1:] or layout.image, set(rows["image"]), named_by, notes
    )
    rows = rows.merge(metadata, on="image", how="left")
    rows["given"] = _given(rows, inventory)
    notes += filter(None, map(tables.encoding_note, dict.fromkeys(named_by.values())))
    text = [name for name in COLUMNS if name != "age"]
    rows = rows.assign(**rows.reindex(columns=text).astype(object).fillna("").astype(str))
    name = layout.name.format(table=", ".join(dict.fromkeys(path.name for path in part)))
    return Copy(name, rows[COLUMNS], notes, used, named_by, layout)


def _sources(layout, part, inventory) -> Iterator[tuple[str, list[Path]]]:
    """(source, label tables) of the training images, and of the official test set."""
    if part:
        yield "train", part
    tests = inventory.named(TEST_TRUTH) if layout.test else []
    if tests and any(inventory.folders_named(*TEST_IMAGES).values()):
        yield "test", tests[:1]


def _image_folders(inventory, layout, source) -> dict:
    """{folder: names} where images of this source may lie; those with its own name alone, if any of
    them holds an image."""
    own, other = (layout.images, TEST_IMAGES) if source == "train" else (TEST_IMAGES, TRAIN_IMAGES)
    named = inventory.folders_named(*own)
    if any(named.values()):
        return named
    apart = inventory.folders_named(*other)
    return {path: names for path, names in inventory.folders.items() if path not in apart}


def _metadata_tables(layout, part, inventory) -> list[Path]:
    """The tables to look for lesions, ages and so on, in this order."""
    if layout.metadata:
        names = [*layout.metadata, *([TEST_TRUTH] if layout.test else [])]
        return [path for name in names for path in inventory.named(name)]
    every = part + [path for path in inventory.tables if path not in part]
    headers = {path: tables.header(path) for path in every}
    return [
        path
        for path, names in headers.items()
        if tables.column_of(names, "image", layout.image)
        and any(tables.column_of(names, column) for column in tables.METADATA)
    ]


def _metadata(sources, image, ids, named_by, notes) -> pd.DataFrame:
    """(image, *METADATA) of these ids from all tables; the first one that knows a value counts."""
    frame = pd.DataFrame(columns=["image", *tables.METADATA], dtype=object).set_index("image")
    for path in sources:
        name = plain_name(path.name)
        only = ONLY.get(name, tables.METADATA)
        part, note = tables.read_metadata(path, only, ONLY.get(name, ()), image)
        part = part[part["image"].isin(ids)]
        if len(part) and part.shape[1] > 1:
            notes += [note] if note else []
            named_by.setdefault(name, path)
            frame = frame.combine_first(part.set_index("image"))
    frame = frame.reindex(columns=list(tables.METADATA)).reset_index()
    return frame.assign(age=tables.numbers(frame["age"]))


def _given(rows, inventory) -> pd.Series:
    """The subset that the copy itself puts each training image in: by a column, else the name of
    its label table, else that of its folder. All "" where these name fewer than two subsets."""
    folders = {folder: tables.subset_in(place) for folder, place in inventory.places.items()}
    named = {p: tables.subset_in(inventory.places[p.parent] / p.stem) for p in inventory.tables}
    known = rows.reindex(columns=["given", "table", "path"]).astype(object)
    known = known.where(known.notna(), None).to_numpy()
    ways = [  # columns: of each row
        [tables.subset_of(word) or word * word.isdecimal() if word else "" for word, _, _ in known],
        [named.get(table, "") for _, table, _ in known],
        [folders[path.parent] if path else "" for _, _, path in known],
    ]
    used = (rows["source"] == "train") & (rows["reason"] == "")
    for way in ways:
        found = pd.Series(way, rows.index).where(used, "")
        if len(set(found) - {""}) > 1:
            return found
    return pd.Series("", rows.index)


# Which copy, and what the user hears about it


def _better(best, copy) -> Copy:
    """The copy with more usable images; tables of the same images are not another copy."""
    if set(copy.folders["train"]) <= set(best.folders["train"]):
        margin = 1 if copy.form == best.form else 2  # a layout with a name is rather believed
        return copy if copy.usable() > margin * best.usable() else best
    first, second = (copy, best) if copy.usable() > best.usable() else (best, copy)
    words = [f"{c._place()}, {c.usable():,} usable images" for c in (first, second)]
    first.notes.append(f"two copies of the data: used is {words[0]}; not used is {words[1]}")
    return first


def _unused(inventory, copies) -> list[str]:
    """The line about images that belong to no copy."""
    used = {path for copy in copies for paths in copy.folders.values() for path in paths}
    named = {image.casefold() for copy in copies for image in copy.rows["image"]}
    rest = [path for path, names in inventory.folders.items() if names and path not in used]
    ids = {path: {image_id(name).casefold() for name in inventory.folders[path]} for path in rest}
    rest = [path for path in rest if not ids[path] & named]
    count = sum(len(inventory.folders[path]) for path in rest)
    where = ", ".join(path.name for path in rest)
    return [f"{count:,} images in {where:.100} are not used: no label names them"] * bool(rest)


def _tables_not_used(inventory, copies, best) -> list[str]:
    """The line about tables from which nothing comes, each with the reason."""
    of = {path: c for c in copies for what, path in c.tables.items() if "labels" in what}
    rest = [path for path in inventory.tables if path not in best.tables.values()]
    reasons = [f"{path.name} ({_why_not(path, of.get(path), best)})" for path in rest]
    return [f"tables not used: {', '.join(reasons)}"] * bool(rest)


def _why_not(path, copy, best) -> str:
    if copy and not copy.usable():
        return commonest(copy.rows)
    if copy:
        rows = copy.rows[copy.rows["reason"] == ""]
        count = rows["image"].isin(best.rows.loc[best.rows["reason"] == "", "image"]).sum()
        return f"{count:,} of its {len(rows):,} images are labelled by another table"
    if not tables.header(path):
        return tables.why_unreadable(path)
    names, ids = tables.header(path), [name for layout in layouts.LAYOUTS for name in layout.image]
    if not tables.column_of(names, "image") and not tables.column_of(names, "image", ids):
        return "no column of ids"
    known = tables.class_columns(names) or any(tables.column_of(names, c) for c in tables.METADATA)
    return "no image in use is in it" if known else "no column of classes, lesions or the like"


def _missing(copy) -> list[str]:
    """A line for each part of the official data that this copy lacks."""
    lines = {
        GROUPINGS: "no ISIC2018_Task3_Training_LesionGroupings.csv: the split works without the "
        "official lesion groups",
        HAM: "no HAM10000_metadata.csv (the challenge's own mirrors lack it): no age, sex and "
        "localization",
        "test labels": "no ISIC2018_Task3_Test_Input with ISIC2018_Task3_Test_GroundTruth: no "
        "official test set",
    }
    return [line for table, line in lines.items() if table not in copy.tables]


def commonest(rows) -> str:
    """The reason that rejected most of these rows, in words."""
    counts = rows.loc[rows["reason"] != "", "reason"].value_counts()
    return f"{counts.iloc[0]:,} × {counts.index[0]}" if len(counts) else "it has no rows"


def _nothing_usable(copy) -> str:
    folder, rows = copy.folders["train"][0], copy.rows[copy.rows["source"] == "train"]
    why = f"no row is the usable label of an image in {folder} ({commonest(rows)})"
    if "benign" in rows["reason"].str.casefold().str.cat():
        why += f"; {NO_DIAGNOSIS}"
    expected = "expected the files' names as ids, and one class for each"
    return f"{copy.tables.get('train labels', folder)}: {why}; {expected}"


def _nothing_recognised(folder, inventory, what) -> str:
    images = {path.name: len(names) for path, names in inventory.folders.items() if names}
    places = ", ".join(f"{count:,} images in {name}" for name, count in images.items())[:150]
    readable = [path.name for path in Layout("any").label_tables(inventory)]
    layouts = "ISIC2018_Task3_Training_GroundTruth.csv, " * (what == "training") + "another CSV"
    if {"benign", "malignant"} <= {plain_name(path.name) for path in inventory.folders}:
        places += f"; {NO_DIAGNOSIS}"
    names = ", ".join(path.name for path in inventory.tables)[:150]
    others = Counter(path.suffix.lower() or path.name for path in inventory.others).items()
    names = ", ".join(filter(None, [names, *(f"{n:,} × {what}" for what, n in others)]))[:300]
    names = names or "nothing of use"
    has = [f"{p.name} ({tables.why_unreadable(p):.100})" for p in inventory.tables]
    if not images:
        expected = "ISIC2018_Task3_Training_Input (a folder or zip), or another"
        expected = expected if what == "training" else "a"
        why = f"images: expected {expected} layout, at most 3 levels deep; found {names}"
    elif readable:
        why = f"image that a row of {', '.join(readable)} names: expected the files' names as ids"
        why += f"; found {places}"
    elif has:
        why = f"labels: found {', '.join(has):.300}, beside {places}; expected a column of ids "
        why += "(image, image_id, isic_id, file) and one of classes (dx, diagnosis, label, class)"
        why += ", or one for each of the seven classes"
    else:
        why = f"labels: no table of labels for its {places}: expected {layouts}, or one folder a "
        why += "class, at most 3 levels deep"
    return f"{folder} holds no {what} {why}; see docs/data.md"
