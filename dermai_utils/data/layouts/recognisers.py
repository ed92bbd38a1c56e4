"""Which copy of the data is this? One small recogniser a layout; each gives the same rows.

docs/data.md shows the layouts. A recogniser looks at the inventory of a folder and yields a Plan
for each copy that it sees; the plan whose images are most often usable becomes the Copy.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dermai_utils import files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data.layouts import labels, match
from dermai_utils.data.layouts.inventory import Inventory, plain_name

TRAIN, TEST = "isic2018_task3_training", "isic2018_task3_test"
GROUPINGS, HAM_METADATA = f"{TRAIN}_lesiongroupings", "ham10000_metadata"
TRAIN_IMAGES = (f"{TRAIN}_input",)
TEST_IMAGES = (f"{TEST}_input", f"{TEST}_images")  # the Dataverse's name is the second
OFFICIAL = "official ISIC 2018"
COLUMNS = ["image", "source", "path", "label", "reason", *labels.METADATA]


@dataclass
class Plan:
    """What a recogniser proposes: where the labels are, and where images and metadata may be.

    labels: {source: label table}, or None where the folders' names are the labels.
    metadata: [(table, the columns to take, those it must have)], the first one counts.
    """

    layout: str
    labels: dict[str, Path] | None
    metadata: list = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


@dataclass
class Copy:
    """One copy of the data. rows has COLUMNS: one row an image or label, usable where reason is "".

    path: of the image file; label: one of CLASSES; age: years or NaN; other blanks are "".
    folders: {source: folders of its images}; tables: {what: CSV}; notes: lines for the user.
    images: {source: image files in these folders}. beside: folders with a file of an image that has
    a better one. digest: changes with any image, table or row.
    """

    layout: str
    rows: pd.DataFrame
    folders: dict[str, list[Path]]
    tables: dict[str, Path]
    notes: list[str]
    images: dict[str, int]
    beside: set[Path]
    digest: str = ""

    def usable(self, source=None) -> int:
        rows = self.rows[self.rows["reason"] == ""]
        return len(rows if source is None else rows[rows["source"] == source])

    def place(self) -> str:
        """Layout, label table and folder, in words."""
        table = self.tables.get("train labels")
        return f"{self.layout}{f' ({table.name})' if table else ''} in {self.folders['train'][0]}"

    def counts(self) -> dict[str, int]:
        """Usable images of each class, of the source "train"."""
        good = (self.rows["reason"] == "") & (self.rows["source"] == "train")
        return self.rows.loc[good, "label"].value_counts().reindex(CLASSES, fill_value=0).to_dict()


def recognise(folder, unpacked, leave_out=(), what="training") -> Copy:
    """The copy of the data in `folder`: its archives or unpacked files, at most 3 levels deep.

    unpacked: where zips are unpacked. leave_out: folders not to look into. what: the images are,
    in words. UserError where there is no layout that is known, or none with a usable image.
    """
    inventory = Inventory(folder, unpacked, leave_out)
    copies, seen = [], set()
    for plan in (plan for recogniser in RECOGNISERS for plan in recogniser(inventory)):
        table = plan.labels and plan.labels["train"]
        if table not in seen and (copy := _copy(inventory, plan)):
            copies.append(copy)
        seen.add(table)
    if not copies:
        raise UserError(_nothing_recognised(folder, inventory, what))
    best = copies[0]
    for copy in copies[1:]:
        best = _better(best, copy)
    if not best.usable("train"):
        raise UserError(_nothing_usable(best))
    best.notes += inventory.notes + _unused(inventory, copies, best)
    best.digest = _digest(inventory, best)
    return best


# One recogniser a layout


def _official(inventory) -> Iterator[Plan]:
    for table in inventory.named(f"{TRAIN}_groundtruth"):
        metadata = [(path, ["lesion_id"], ["lesion_id"]) for path in inventory.named(GROUPINGS)]
        plan = Plan(OFFICIAL, {"train": table}, metadata)
        plan.metadata.append((table, labels.METADATA, []))
        yield _with_ham10000(inventory, plan)


def _isic2019(inventory) -> Iterator[Plan]:
    for table in inventory.tables:
        names = labels.class_columns(labels.header(table))
        if {"ak", "scc"} & set(names) and not _is_test(table):
            yield Plan("ISIC 2019", {"train": table}, _all_metadata(inventory, table))


def _ham10000(inventory) -> Iterator[Plan]:
    for table in inventory.named(HAM_METADATA):
        if "dx" in labels.header(table):
            name = "Kaggle HAM10000" if table.suffix.lower() == ".csv" else "Dataverse HAM10000"
            yield _with_ham10000(inventory, Plan(name, {"train": table}))


def _isic_cli(inventory) -> Iterator[Plan]:
    for table in inventory.tables:
        names = labels.header(table)
        if "isic_id" in names and labels.class_columns(names):
            yield Plan("isic-cli", {"train": table}, _all_metadata(inventory, table))


def _other_table(inventory) -> Iterator[Plan]:
    for table in inventory.tables:
        names = labels.header(table)
        if _understood(names) and not _is_test(table):
            yield Plan(
                f"label table {table.name}", {"train": table}, _all_metadata(inventory, table)
            )


def _class_folders(inventory) -> Iterator[Plan]:
    folders = [path for path in inventory.folders if labels.class_of(path.name)]
    if any(inventory.folders[path] for path in folders):
        parents = {path.parent for path in folders}
        siblings = [path for path in inventory.folders if path.parent in parents]
        yield Plan("one folder a class", None, _all_metadata(inventory), siblings)


RECOGNISERS = (_official, _isic2019, _ham10000, _isic_cli, _other_table, _class_folders)


def _with_ham10000(inventory, plan) -> Plan:
    """The plan with HAM10000's metadata and the official test set, where they are there."""
    plan.metadata += [(path, labels.METADATA, []) for path in inventory.named(HAM_METADATA)]
    tests = inventory.named(f"{TEST}_groundtruth")
    if tests and any(_named(inventory, TEST_IMAGES).values()):
        plan.labels["test"] = tests[0]
        plan.metadata.append((tests[0], labels.METADATA, []))
    return plan


def _all_metadata(inventory, first=None) -> list:
    """The label table itself, and every other table of images with one of our columns."""
    tables = [first] * (first is not None) + [path for path in inventory.tables if path != first]
    return [
        (path, labels.METADATA, [])
        for path in tables
        if labels.column_of(names := labels.header(path), "image")
        and any(labels.column_of(names, column) for column in labels.METADATA)
    ]


def _is_test(table) -> bool:
    return plain_name(table.name) == f"{TEST}_groundtruth"


def _named(inventory, names) -> dict:
    """The image folders with one of these plain names."""
    return {p: e for p, e in inventory.folders.items() if plain_name(p.name) in names}


# A plan becomes rows


def _copy(inventory, plan) -> Copy | None:
    """The plan's rows; None where there is no image for them."""
    notes, folders, tables, parts, beside = [], {}, {}, [], set()
    if plan.labels is None:
        images = {path: inventory.folders[path] for path in plan.folders}
        parts.append(match.rows_of_folders(images, notes).assign(source="train"))
        folders["train"] = [path for path in plan.folders if images[path]]
    for source, table in (plan.labels or {}).items():
        own = TRAIN_IMAGES if source == "train" else TEST_IMAGES
        candidates = _image_folders(inventory, plan, source)
        rows, used, named = match.rows_of_table(table, candidates, own, notes)
        beside |= named
        if source == "train" and not used:
            return None
        parts.append(rows.assign(source=source))
        folders[source], tables[f"{source} labels"] = used, table
    rows = pd.concat(parts, ignore_index=True)
    metadata = _metadata(plan.metadata, set(rows["image"]), tables, notes)
    rows = rows.merge(metadata, on="image", how="left")
    notes += filter(None, map(labels.encoding_note, dict.fromkeys(tables.values())))
    text = [name for name in COLUMNS if name != "age"]
    rows = rows.assign(**rows.reindex(columns=text).astype(object).fillna("").astype(str))
    images = {
        source: sum(len(inventory.folders[path]) for path in paths)
        for source, paths in folders.items()
    }
    return Copy(plan.layout, rows[COLUMNS], folders, tables, notes, images, beside)


def _image_folders(inventory, plan, source) -> dict:
    """{folder: entries} where images of this source may be; those with its own name alone, if any
    of them holds an image."""
    own, other = (TRAIN_IMAGES, TEST_IMAGES)[:: 1 if source == "train" else -1]
    named = _named(inventory, own)
    if plan.layout == OFFICIAL or source == "test":
        if any(named.values()):
            return named
    apart = _named(inventory, other)
    return {path: entries for path, entries in inventory.folders.items() if path not in apart}


def _metadata(sources, ids, tables, notes) -> pd.DataFrame:
    """(image, *METADATA) of these ids from all tables; the first one that knows a value counts."""
    frame = pd.DataFrame(columns=["image", *labels.METADATA], dtype=object).set_index("image")
    for path, only, required in sources:
        part, notice = labels.read_metadata(path, only, required)
        part = part[part["image"].isin(ids)]
        if len(part) and part.shape[1] > 1:
            notes += [notice] if notice else []
            tables.setdefault(plain_name(path.name), path)
            frame = frame.combine_first(part.set_index("image"))
    frame = frame.reindex(columns=labels.METADATA).reset_index()
    return frame.assign(age=labels.numbers(frame["age"]))


# Which copy, and what is said about it


def _better(best, copy) -> Copy:
    """The copy with more usable images; tables of the same images are not another copy."""
    if set(copy.folders["train"]) <= set(best.folders["train"]) and copy.layout != best.layout:
        return best
    first, second = (copy, best) if copy.usable() > best.usable() else (best, copy)
    words = [f"{c.place()}, {c.usable():,} usable images" for c in (first, second)]
    first.notes.append(f"two copies of the data: used is {words[0]}; not used is {words[1]}")
    return first


def _unused(inventory, copies, best) -> list[str]:
    """The line about images that belong to no copy; none where there are no such images."""
    used = {path for copy in copies for paths in copy.folders.values() for path in paths}
    used |= {path for copy in copies for path in copy.beside}
    rest = {p: len(e) for p, e in inventory.folders.items() if e and p not in used}
    if not rest:
        return []
    where = ", ".join(path.name for path in rest)
    return [f"{sum(rest.values()):,} images in {where:.100} are not used: no label names them"]


def _nothing_usable(copy) -> str:
    where = copy.tables.get("train labels", copy.folders["train"][0])
    return (
        f"{where}: no row is the usable label of an image in {copy.folders['train'][0]} "
        f"({commonest(copy.rows[copy.rows['source'] == 'train'])}); "
        "expected the files' names as ids, and one class for each"
    )


def _understood(names) -> bool:
    return bool(labels.column_of(names, "image") and labels.class_columns(names))


def _nothing_recognised(folder, inventory, what) -> str:
    images = {path.name: len(entries) for path, entries in inventory.folders.items() if entries}
    places = ", ".join(f"{count:,} images in {name}" for name, count in images.items())[:150]
    understood = [path.name for path in inventory.tables if _understood(labels.header(path))]
    if images and understood:
        return (
            f"{folder} holds no {what} image that a row of {', '.join(understood)} names: expected "
            f"the files' names as ids (docs/data.md); found {places}"
        )
    if images and inventory.tables:
        has = [f"{p.name} ({', '.join(labels.header(p)):.100})" for p in inventory.tables]
        return (
            f"{folder} holds no {what} labels: found {', '.join(has):.300}, beside {places}; "
            "expected a column of ids (image, image_id, isic_id, file) and one of classes (dx, "
            "diagnosis, label, class), or one for each of the seven classes (docs/data.md)"
        )
    official = "ISIC2018_Task3_Training_GroundTruth.csv, " * (what == "training")
    if images:
        layouts = (
            f"{official}another CSV, or one folder a class, at most 3 levels deep (docs/data.md)"
        )
        return f"{folder}: no table of labels for its {places}: expected {layouts}"
    expected = "ISIC2018_Task3_Training_Input, Input.zip, or another" if official else "a"
    found = ", ".join(path.name for path in inventory.tables)[:150] or "nothing of use"
    return (
        f"{folder} holds no {what} images: expected {expected} layout of docs/data.md, at most 3 "
        f"levels deep; found {found}"
    )


def commonest(rows) -> str:
    """The reason that rejected most rows, in words."""
    counts = rows.loc[rows["reason"] != "", "reason"].value_counts()
    return f"{counts.iloc[0]:,} × {counts.index[0]}" if len(counts) else "it has no rows"


def _digest(inventory, copy) -> str:
    images = {
        source: sorted(
            (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
            for folder in folders
            for entry in inventory.folders[folder]
        )
        for source, folders in copy.folders.items()
    }
    tables = {what: files.checksum(path) for what, path in copy.tables.items()}
    rows = files.table_text(copy.rows.drop(columns="path"))
    return files.fingerprint([copy.layout, images, tables, rows])
