"""Rows and images -> one validated table; every row that is left out is named, with its reason."""

from pathlib import Path

import numpy as np
import pandas as pd

from dermai_utils import files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import pixels
from dermai_utils.data.download import IN_DATA_ALREADY
from dermai_utils.data.layouts import labels, recognisers

COLUMNS = [
    *("image", "source", "label", "lesion_id", "age", "sex", "localization", "confirmed_by"),
    *("duplicate_of", "conflict", "file_hash", "row"),
]
MUCH = 0.05  # dropped, as a share of a source's images: worth a warning
REASONS = 10  # shown on the screen
SAME_PIXELS = "extra image that is in the data already (same pixels)"
KNOWN_ALREADY = (SAME_PIXELS, IN_DATA_ALREADY)
SOURCES = {"train": "training", "test": "official test", "own": "own test", "extra": "extra"}


def image_path(cfg, image) -> Path | None:
    """The file of an image of the table; None where it isn't on this machine."""
    rows = files.read_table(cfg.rows_file)
    paths = rows.loc[(rows["image"] == image) & (rows["reason"] == ""), "path"]
    return next(filter(Path.is_file, map(Path, paths)), None)


def pixel_rows(cfg) -> dict:
    """{image: its row in the pixel array}, by the table of today.

    Empty where one of the two isn't here, or where the array is of other images: there is one for
    each image size, and the others stay as they are when the table is made anew.
    """
    if not all(path.exists() for path in (cfg.pixels_file, cfg.rows_file, cfg.table_file)):
        return {}
    decoded = (files.read_table(cfg.rows_file)["reason"] == "").sum()
    if len(pixels.load(cfg.pixels_file)) != decoded:
        return {}
    table = read(cfg)
    return dict(zip(table["image"], table["row"], strict=True))


def duplicates(table: pd.DataFrame, pixel_hashes) -> pd.DataFrame:
    """Add `duplicate_of`, the first image with the same pixels or "", and `conflict`.

    conflict: images with these pixels differ in label. pixel_hashes: (N,), one a row.
    """
    same = table.groupby(np.asarray(pixel_hashes), sort=False)
    first = same["image"].transform("first")
    return table.assign(
        duplicate_of=first.where(first != table["image"], ""),
        conflict=same["label"].transform("nunique") > 1,
    )


def fill_lesions(table: pd.DataFrame) -> pd.DataFrame:
    """Each image without a lesion id as a lesion of its own; of training images that is said."""
    training, unknown = table["source"] == "train", table["lesion_id"] == ""
    if count := (unknown & training).sum():
        everywhere = count == training.sum()
        what = "no lesion groupings" if everywhere else f"{count} images have no lesion id"
        consequence = "each such image counts as a lesion of its own, and may leak"
        print(f"clean: {what}: {consequence}")
    return table.assign(lesion_id=table["lesion_id"].where(~unknown, table["image"]))


def run(cfg) -> None:
    """Write table.csv (a row for each usable image), own.csv (those of the user's own test set),
    rejected.csv, data.json and the pixel array.

    data.json: {"layout", "counts": {class: training images}, "dropped": {reason: rows},
    "dropped_share": of the images}.
    """
    rows = files.read_table(cfg.rows_file)
    table = rows[rows["reason"] == ""].reset_index(drop=True)
    decoded = pixels.build(list(table["path"]), cfg.image_size, cfg.pixels_file, cfg.workers)
    decoded = pd.DataFrame(decoded)
    table = table.assign(
        row=np.arange(len(table)), file_hash=decoded["file_hash"], reason=decoded["error"]
    )
    readable = table["reason"] == ""
    rejected = pd.concat([rows[rows["reason"] != ""], table[~readable]])
    rejected = rejected[["image", "source", "reason"]]
    if not (readable & (table["source"] == "train")).any():
        why = f"no image can be read ({recognisers.commonest(rejected)}); unpack them again"
        raise UserError(f"{Path(table['path'].iloc[0]).parent}: {why}")
    table = duplicates(table[readable].reset_index(drop=True), decoded["pixel_hash"][readable])
    twice = (table["source"] == "extra") & (table["duplicate_of"] != "")
    rejected = pd.concat([rejected, table[twice].assign(reason=SAME_PIXELS)[rejected.columns]])
    table = fill_lesions(table[~twice].reset_index(drop=True))
    own = table["source"] == "own"
    _write(table[own], cfg.own_file)
    _write(_without_own(table[~own]), cfg.table_file)
    rejected = rejected.sort_values(["source", "image"], ascending=[False, True])
    files.write_table(rejected, cfg.rejected_file)
    _report(cfg, table, rejected)
    conflicts = table[table["conflict"] & (table["duplicate_of"] != "")]
    for image, other in conflicts[["image", "duplicate_of"]].to_numpy():
        what = "have the same pixels and different labels; both are kept, in one subset"
        print(f"clean: {image} and {other} {what}")


def _without_own(table):
    """The rows that runs depend on, as they are whatever the user's own test set holds."""
    pixels_of = table["duplicate_of"].where(table["duplicate_of"] != "", table["image"])
    return table.assign(conflict=table.groupby(pixels_of)["label"].transform("nunique") > 1)


def _write(table, path) -> None:
    """COLUMNS, and `patient_id` where one is known. A table that has the column keeps it, as runs
    may rest on its bytes: earlier versions added it when the own test set alone had patients."""
    patients = (table["patient_id"] != "").any() or (
        path.exists() and "patient_id" in labels.header(path)
    )
    files.write_table(table[COLUMNS + ["patient_id"] * bool(patients)], path)


def _report(cfg, table, rejected) -> None:
    """Write data.json, and say how many rows were left out for which reason."""
    dropped = {reason: int(n) for reason, n in rejected["reason"].value_counts().items()}
    lost = set(rejected["image"]) - set(table["image"])  # a second row of an image loses nothing
    share = len(lost) / (len(lost) + len(table))
    counts = class_counts(table[table["source"] == "train"])["images"].to_dict()
    layout = (files.read_json(cfg.sources_file) or {}).get("layout", "")
    data = {"layout": layout, "counts": counts, "dropped": dropped}
    files.write_json(cfg.data_file, data | {"dropped_share": round(share, 4)})
    where = f"(see {cfg.show(cfg.rejected_file)})"
    print(f"clean: {len(table):,} usable images, {len(rejected):,} rejected {where}")
    for reason, count in list(dropped.items())[:REASONS]:
        print(f"clean: {count:,} × {reason}")
    if len(dropped) > REASONS:
        rest = sum(list(dropped.values())[REASONS:])
        print(f"clean: {rest:,} × {len(dropped) - REASONS} other reasons")
    for source, name in SOURCES.items():
        _warn(name, table[table["source"] == source], rejected[rejected["source"] == source])


def _warn(name, table, rejected) -> None:
    """A warning where a source loses much: a small test set is no share of all the images."""
    rejected = rejected[~rejected["reason"].isin(KNOWN_ALREADY)]
    rejected = rejected[~rejected["image"].isin(table["image"])]
    lost = rejected["image"].nunique()
    if lost > MUCH * (lost + len(table)):
        share = lost / (lost + len(table))
        why = recognisers.commonest(rejected)
        what = f"{share:.1%} of the {name} images are left out ({why}); is this the data you mean?"
        print(f"clean: WARNING: {what}")


def read(cfg) -> pd.DataFrame:
    """table.csv, and below it own.csv, which lies apart since no run depends on it."""
    table = files.read_table(cfg.table_file)
    if not cfg.own_file.exists():  # made by version 0.1.0
        return table
    own = files.read_table(cfg.own_file)
    if not len(own):
        return table
    both = pd.concat([table, own], ignore_index=True)
    patients = {"patient_id": both["patient_id"].fillna("")} if "patient_id" in both else {}
    return both.assign(**patients)  # one of the two may have no such column


def class_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Images, lesions and share of the images of each class, in the official order."""
    grouped = table.groupby("label")
    counts = pd.DataFrame({"images": grouped.size(), "lesions": grouped["lesion_id"].nunique()})
    counts = counts.reindex(CLASSES, fill_value=0)
    return counts.assign(share=(counts["images"] / counts["images"].sum()).round(3))
