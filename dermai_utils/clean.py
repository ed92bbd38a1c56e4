"""CSVs and images -> one validated table; every row that is left out is named, with its reason."""

import io
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from dermai_utils import files, pixels
from dermai_utils.config import CLASSES, IMAGE_SUFFIXES, UserError

COLUMNS = [
    "image", "source", "label", "lesion_id", "age", "sex", "localization", "confirmed_by",
    "duplicate_of", "conflict", "file_hash", "row",
]  # fmt: skip


def read_csv(path, columns) -> pd.DataFrame:
    """These columns of a CSV, as text, however a spreadsheet saved it (BOM, CRLF, semicolons, tabs); blanks are NaN.

    UserError where one of them is missing or stands there twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")  # pandas takes off a BOM
        first = text.split("\n", 1)[0]
        separator = max(",;\t", key=first.count)
        with warnings.catch_warnings():  # a row with more cells than the header must not lose them: its label would be another
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, skipinitialspace=True, index_col=False)
    except UnicodeDecodeError:
        hint = f"expected a CSV with the columns {', '.join(columns)}; in a spreadsheet, save it as CSV UTF-8"
        raise UserError(f"{path}: not a text file in UTF-8; {hint}") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, pd.errors.ParserWarning) as reason:
        why = " ".join(str(reason).split())
        why = "a row has more cells than the header" if isinstance(reason, pd.errors.ParserWarning) else why
        raise UserError(f"{path}: cannot be read as a CSV ({why}); expected the columns {', '.join(columns)}") from None
    frame.columns = frame.columns.str.strip()
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        has = " ".join(", ".join(frame.columns).split())[:200]
        raise UserError(f"{path}: no column {', '.join(missing)}; it has {has}. Restore the official header")
    twice = [name for name in columns if (frame.columns == name).sum() > 1 or f"{name}.1" in frame.columns]  # pandas' own name
    if twice:
        raise UserError(f"{path}: column {', '.join(twice)} stands there twice; remove the wrong one")
    frame = frame[columns].apply(lambda column: column.str.strip())  # "HAM_1 " and "HAM_1" are one lesion
    return frame.where(frame != "")


def _ids(column) -> pd.Series:
    return column.fillna("").str.replace(r"\.jpe?g$", "", case=False, regex=True).str.normalize("NFC")


def read_labels(path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The one-hot label CSV as (image, label), and the rows left out as (image, reason)."""
    frame = read_csv(path, ["image", *CLASSES])
    frame["image"] = _ids(frame["image"])
    decimal_point = frame[list(CLASSES)].apply(lambda column: column.str.replace(",", "."))
    values = decimal_point.apply(pd.to_numeric, errors="coerce")
    hot = (values == 1).to_numpy()
    frame["label"] = np.where(hot.any(axis=1), np.array(CLASSES)[hot.argmax(axis=1)], "")
    repeated = frame["image"].duplicated(keep=False)
    contradicts = repeated & (frame.groupby("image")["label"].transform("nunique") > 1)
    frame["reason"] = np.select(
        [
            frame["image"] == "",
            ~values.isin([0, 1]).all(axis=1),
            hot.sum(axis=1) == 0,
            hot.sum(axis=1) > 1,
            contradicts,
            frame["image"].duplicated(),
        ],
        [
            "label row without an image id",
            "a label that is neither 0 nor 1",
            "no label",
            "several labels",
            "duplicate id with different labels",
            "duplicate id (the first row is kept)",
        ],
        "",
    )
    good = frame["reason"] == ""
    return frame.loc[good, ["image", "label"]], frame.loc[~good, ["image", "reason"]]


def image_files(folder) -> list[Path]:
    """The image files of a folder, sorted."""
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def images_by_id(folder) -> dict:
    """{image id: path} of the image files in `folder`, with the ids that the table has."""
    return {_id(path): path for path in image_files(folder)}


def _id(path) -> str:
    """A file's name without its end: accents in one form (a Mac has another), bytes that are no UTF-8 as question marks."""
    return unicodedata.normalize("NFC", path.stem.encode(errors="surrogateescape").decode(errors="replace"))


def match(folder, labels: pd.DataFrame, known) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join labels and image files by id: (image, label, path), and (image, reason) for whatever stands alone.

    known: ids that have a label row, good or bad, so that their files are not reported twice.
    """
    found = images_by_id(folder)
    labels = labels.assign(path=labels["image"].map(found)).sort_values("image")
    here = labels["path"].notna()
    alone = [(image, "image file missing") for image in labels.loc[~here, "image"]]
    alone += [(image, "image without a label row") for image in found if image not in known]
    return labels[here], pd.DataFrame(alone, columns=["image", "reason"])


def duplicates(table: pd.DataFrame, pixel_hashes) -> pd.DataFrame:
    """Add `duplicate_of` (the first image with the same pixels, or "") and `conflict` (such images differ in label)."""
    same = table.groupby(np.asarray(pixel_hashes), sort=False)
    first = same["image"].transform("first")
    return table.assign(duplicate_of=first.where(first != table["image"], ""), conflict=same["label"].transform("nunique") > 1)


def describe(table: pd.DataFrame, sources: dict) -> pd.DataFrame:
    """Add lesion_id, age (years), sex, localization and confirmed_by from the grouping and metadata files, where given."""
    extra = pd.DataFrame(columns=["image", "lesion_id", "age", "sex", "localization", "confirmed_by"], dtype=object)
    if sources["metadata"]:
        extra = read_csv(sources["metadata"], ["lesion_id", "image_id", "dx_type", "age", "sex", "localization"])
        extra = _once(extra.rename(columns={"image_id": "image", "dx_type": "confirmed_by"}), sources["metadata"])
    if sources["groupings"]:
        grouping = read_csv(sources["groupings"], ["image", "lesion_id"])
        grouping = _once(grouping, sources["groupings"]).set_index("image")
        extra = grouping.combine_first(extra.set_index("image"))  # an image that the groupings lack keeps the metadata's lesion
        extra = extra.reset_index()
    age = pd.to_numeric(extra["age"].astype(str).str.replace(",", "."), errors="coerce").astype(float)  # as the labels' commas
    extra = extra.assign(age=age)
    table = table.merge(extra, on="image", how="left")
    training = table["source"] == "train"
    lost = table["lesion_id"].isna()
    if (lost & training).any():
        what = "no lesion groupings" if (lost | ~training).all() else f"{(lost & training).sum()} images have no lesion id"
        print(f"clean: {what}: each such image counts as a lesion of its own, so its other views may leak")
    table["lesion_id"] = table["lesion_id"].where(~lost, table["image"])
    return table


def _once(frame, path) -> pd.DataFrame:
    """Rows by image id, each once; rows that contradict each other about a lesion are announced."""
    frame = frame.assign(image=_ids(frame["image"]))
    frame = frame[frame["image"] != ""]
    lesions = frame.groupby("image")["lesion_id"].nunique()
    if (lesions > 1).any():
        print(f"clean: {path} gives {(lesions > 1).sum()} images several lesions ({lesions.idxmax()}); the first row counts")
    return frame.drop_duplicates("image")


def run(cfg) -> None:
    """Write table.csv (a row for each usable image), rejected.csv, and the pixel array that the same pass fills."""
    sources = files.read_json(cfg.sources_file)
    parts, rejected = [], []
    for source in ("train", "test"):
        if sources[source]:
            labels, bad = read_labels(sources[source]["labels"])
            matched, alone = match(sources[source]["images"], labels, {*labels["image"], *bad["image"]})
            parts.append(matched.assign(source=source))
            rejected += [bad.assign(source=source), alone.assign(source=source)]
    table = pd.concat(parts, ignore_index=True)
    if not (table["source"] == "train").any():
        labels, images = sources["train"]["labels"], sources["train"]["images"]
        raise UserError(f"{labels}: no row is the usable label of an image in {images} ({_commonest(rejected)}); "
                        "expected the files' names as ids, and a 1 for one class")  # fmt: skip
    table["row"] = np.arange(len(table))
    made = pd.DataFrame(pixels.build(list(table["path"]), cfg.image_size, cfg.pixels_file, cfg.workers))
    broken = made["error"] != ""
    rejected.append(table.loc[broken, ["image", "source"]].assign(reason=made.loc[broken, "error"]))
    table = table.assign(file_hash=made["file_hash"])[~broken].reset_index(drop=True)
    if not (table["source"] == "train").any():
        raise UserError(f"{sources['train']['images']}: no image can be read ({_commonest(rejected)}); unpack them again")
    table = describe(duplicates(table, made.loc[~broken, "pixel_hash"]), sources)
    write_csv(table[COLUMNS], cfg.table_file)
    rejected = pd.concat(rejected)[["image", "source", "reason"]].sort_values(["source", "image"], ascending=[False, True])
    write_csv(rejected, cfg.rejected_file)
    print(f"clean: {len(table):,} usable images, {len(rejected):,} rejected (see {cfg.show(cfg.rejected_file)})")
    for image, other in table.loc[table["conflict"] & (table["duplicate_of"] != ""), ["image", "duplicate_of"]].to_numpy():
        print(f"clean: {image} and {other} have the same pixels and different labels; both are kept, on one side of the split")


def _commonest(rejected) -> str:
    """The reason that rejected most rows, in words."""
    counts = pd.concat(rejected)["reason"].value_counts()
    return f"{counts.iloc[0]:,} × {counts.index[0]}" if len(counts) else "it has no rows"


def as_csv(frame: pd.DataFrame) -> str:
    """A table as CSV, the same on every system."""
    return frame.to_csv(index=False, lineterminator="\n")


def write_csv(frame: pd.DataFrame, path) -> None:
    """A table as CSV, atomically."""
    with files.atomic(path) as file:
        file.write(as_csv(frame))


def read_table(path) -> pd.DataFrame:
    """table.csv, split.csv or rejected.csv as written: text stays text, a blank is "" but for `age` (NaN, years)."""
    frame = pd.read_csv(path, keep_default_na=False, dtype={"file_hash": str, "duplicate_of": str, "part": str})
    return frame.assign(age=pd.to_numeric(frame["age"], errors="coerce")) if "age" in frame else frame


def class_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Images and lesions for each class, in the official order."""
    grouped = table.groupby("label")
    counts = pd.DataFrame({"images": grouped.size(), "lesions": grouped["lesion_id"].nunique()})
    counts = counts.reindex(CLASSES, fill_value=0)
    return counts.assign(share=(counts["images"] / counts["images"].sum()).round(3))
