"""CSVs and images -> one validated table; every row that is left out is named, with its reason."""

import io
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from dermai_utils import files
from dermai_utils.config import CLASSES, IMAGE_SUFFIXES, UserError
from dermai_utils.data import pixels

METADATA = ["lesion_id", "age", "sex", "localization", "confirmed_by"]
COLUMNS = ["image", "source", "label", *METADATA, "duplicate_of", "conflict", "file_hash", "row"]


def read_csv(path, columns) -> pd.DataFrame:
    """These columns of a user's CSV as text, however a spreadsheet saved it; blanks are NaN.

    A BOM, CRLF, and semicolons or tabs between the cells are understood. UserError where the file
    is no CSV in UTF-8, or one of the columns is missing or there twice.
    """
    frame = _parse(path, f"expected a CSV with the columns {', '.join(columns)}")
    frame.columns = frame.columns.str.strip()
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        has = " ".join(", ".join(frame.columns).split())[:200]
        advice = f"it has {has}. Restore the official header"
        raise UserError(f"{path}: no column {', '.join(missing)}; {advice}")
    present = list(frame.columns)  # pandas calls a second `age` age.1
    twice = [name for name in columns if present.count(name) > 1 or f"{name}.1" in present]
    if twice:
        raise UserError(
            f"{path}: column {', '.join(twice)} stands there twice; remove the wrong one"
        )
    frame = frame[columns].apply(lambda column: column.str.strip())  # "HAM_1 " is HAM_1
    return frame.where(frame != "")


def _parse(path, expected) -> pd.DataFrame:
    try:
        text = Path(path).read_text(encoding="utf-8")  # pandas takes off a BOM
        separator = max(",;\t", key=text.split("\n", 1)[0].count)
        options = dict(sep=separator, dtype=str, skipinitialspace=True, index_col=False)
        with warnings.catch_warnings():
            # pandas cuts a row that is longer than the header: its label would be another
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(io.StringIO(text), **options)
    except UnicodeDecodeError:
        advice = f"{expected}; in a spreadsheet, save it as CSV UTF-8"
        raise UserError(f"{path}: not a text file in UTF-8; {advice}") from None
    except pd.errors.ParserWarning:
        why = "a row has more cells than the header"
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as reason:
        why = " ".join(str(reason).split())
    raise UserError(f"{path}: cannot be read as a CSV ({why}); {expected}")


def _ids(column) -> pd.Series:
    ids = column.fillna("").str.replace(r"\.jpe?g$", "", case=False, regex=True)
    return ids.str.normalize("NFC")


def _numbers(column) -> pd.Series:
    """A text column as numbers, NaN where it is none; a decimal comma is a decimal point."""
    return pd.to_numeric(column.str.replace(",", "."), errors="coerce")


def read_labels(path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The one-hot label CSV as (image, label), and the rows left out as (image, reason)."""
    frame = read_csv(path, ["image", *CLASSES])
    frame["image"] = _ids(frame["image"])
    values = frame[list(CLASSES)].apply(_numbers)
    hot = (values == 1).to_numpy()
    frame["label"] = np.where(hot.any(axis=1), np.array(CLASSES)[hot.argmax(axis=1)], "")
    repeated = frame["image"].duplicated(keep=False)
    contradicts = repeated & (frame.groupby("image")["label"].transform("nunique") > 1)
    faults = {
        "label row without an image id": frame["image"] == "",
        "a label that is neither 0 nor 1": ~values.isin([0, 1]).all(axis=1),
        "no label": hot.sum(axis=1) == 0,
        "several labels": hot.sum(axis=1) > 1,
        "duplicate id with different labels": contradicts,
        "duplicate id (the first row is kept)": frame["image"].duplicated(),
    }
    frame["reason"] = np.select(list(faults.values()), list(faults), "")
    good = frame["reason"] == ""
    return frame.loc[good, ["image", "label"]], frame.loc[~good, ["image", "reason"]]


def image_files(folder) -> list[Path]:
    """The image files of a folder, sorted."""
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def images_by_id(folder) -> dict[str, Path]:
    """{image id, as the table has it: path} of the image files in `folder`."""
    return {_id(path): path for path in image_files(folder)}


def _id(path) -> str:
    """The name without its suffix; accents in NFC (a Mac has NFD), undecodable bytes as U+FFFD."""
    name = path.stem.encode(errors="surrogateescape").decode(errors="replace")
    return unicodedata.normalize("NFC", name)


def match(folder, labels: pd.DataFrame, label_ids) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join labels and image files: (image, label, path), and (image, reason) of what is alone.

    label_ids: ids of all label rows, bad ones too, so that their files are not reported twice.
    """
    paths = images_by_id(folder)
    labels = labels.assign(path=labels["image"].map(paths)).sort_values("image")
    matched = labels["path"].notna()
    alone = [(image, "image file missing") for image in labels.loc[~matched, "image"]]
    alone += [(image, "image without a label row") for image in paths if image not in label_ids]
    return labels[matched], pd.DataFrame(alone, columns=["image", "reason"])


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


def describe(table: pd.DataFrame, sources: dict) -> pd.DataFrame:
    """Add lesion_id, age (years), sex, localization and confirmed_by from the files in `sources`.

    An image without a lesion id becomes a lesion of its own; of training images that is announced.
    """
    table = table.merge(_metadata(sources), on="image", how="left")
    training, unknown = table["source"] == "train", table["lesion_id"].isna()
    if count := (unknown & training).sum():
        everywhere = count == training.sum()
        what = "no lesion groupings" if everywhere else f"{count} images have no lesion id"
        consequence = "each such image counts as a lesion of its own, and may leak"
        print(f"clean: {what}: {consequence}")
    table["lesion_id"] = table["lesion_id"].where(~unknown, table["image"])
    return table


def _metadata(sources) -> pd.DataFrame:
    """(image, *METADATA), from the grouping file first and then the metadata file."""
    frame = pd.DataFrame(columns=["image", *METADATA], dtype=object)
    if path := sources["metadata"]:
        columns = ["lesion_id", "image_id", "dx_type", "age", "sex", "localization"]
        names = {"image_id": "image", "dx_type": "confirmed_by"}
        frame = _once(read_csv(path, columns).rename(columns=names), path)
    if path := sources["groupings"]:
        grouping = _once(read_csv(path, ["image", "lesion_id"]), path)
        # an image that the groupings lack keeps the metadata's lesion
        frame = grouping.set_index("image").combine_first(frame.set_index("image")).reset_index()
    return frame.assign(age=_numbers(frame["age"].astype(str)).astype(float))


def _once(frame, path) -> pd.DataFrame:
    """The first row of each image; images that have rows with different lesions are announced."""
    frame = frame.assign(image=_ids(frame["image"]))
    frame = frame[frame["image"] != ""]
    lesions = frame.groupby("image")["lesion_id"].nunique()
    if count := (lesions > 1).sum():
        what = f"gives {count} images several lesions ({lesions.idxmax()})"
        print(f"clean: {path} {what}; the first row counts")
    return frame.drop_duplicates("image")


def run(cfg) -> None:
    """Write table.csv (a row for each usable image), rejected.csv and the pixel array."""
    sources = files.read_json(cfg.sources_file)
    table, rejected = _labelled_images(sources)
    decoded = pixels.build(list(table["path"]), cfg.image_size, cfg.pixels_file, cfg.workers)
    decoded = pd.DataFrame(decoded)
    table = table.assign(file_hash=decoded["file_hash"], reason=decoded["error"])
    readable = table["reason"] == ""
    rejected = pd.concat([rejected, table[~readable]])[["image", "source", "reason"]]
    if not (readable & (table["source"] == "train")).any():
        why = f"no image can be read ({_commonest(rejected)}); unpack them again"
        raise UserError(f"{sources['train']['images']}: {why}")
    table = duplicates(table[readable].reset_index(drop=True), decoded["pixel_hash"][readable])
    table = describe(table, sources)
    files.write_table(table[COLUMNS], cfg.table_file)
    rejected = rejected.sort_values(["source", "image"], ascending=[False, True])
    files.write_table(rejected, cfg.rejected_file)
    where = f"(see {cfg.show(cfg.rejected_file)})"
    print(f"clean: {len(table):,} usable images, {len(rejected):,} rejected {where}")
    conflicts = table[table["conflict"] & (table["duplicate_of"] != "")]
    for image, other in conflicts[["image", "duplicate_of"]].to_numpy():
        what = "have the same pixels and different labels; both are kept, in one subset"
        print(f"clean: {image} and {other} {what}")


def _labelled_images(sources) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images with a label, (image, label, path, source, row), and (image, reason, source)."""
    tables, rejected = [], []
    for source in ("train", "test"):
        if sources[source]:
            images, labels_file = sources[source]["images"], sources[source]["labels"]
            labels, bad = read_labels(labels_file)
            matched, alone = match(images, labels, {*labels["image"], *bad["image"]})
            tables.append(matched.assign(source=source))
            rejected += [bad.assign(source=source), alone.assign(source=source)]
    table, rejected = pd.concat(tables, ignore_index=True), pd.concat(rejected)
    if not (table["source"] == "train").any():
        images, labels_file = sources["train"]["images"], sources["train"]["labels"]
        raise UserError(
            f"{labels_file}: no row is the usable label of an image in {images} "
            f"({_commonest(rejected)}); expected the files' names as ids, and a 1 for one class"
        )
    return table.assign(row=np.arange(len(table))), rejected


def _commonest(rejected) -> str:
    """The reason that rejected most rows, in words."""
    counts = rejected["reason"].value_counts()
    return f"{counts.iloc[0]:,} × {counts.index[0]}" if len(counts) else "it has no rows"


def class_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Images, lesions and share of the images of each class, in the official order."""
    grouped = table.groupby("label")
    counts = pd.DataFrame({"images": grouped.size(), "lesions": grouped["lesion_id"].nunique()})
    counts = counts.reindex(CLASSES, fill_value=0)
    return counts.assign(share=(counts["images"] / counts["images"].sum()).round(3))
