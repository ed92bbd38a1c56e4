"""Tables of predictions as people save them: which column is what, probabilities or logits.

`read` reads a file; the other functions take its table, every cell as text.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from dermai_utils.audits import numbering
from dermai_utils.basics import CLASSES, UserError, counted
from dermai_utils.copies import tables
from dermai_utils.image_names import base_id, is_archive_id
from dermai_utils.split_files import SUBSET_COLUMNS

TRUTH = ("truth", "true_label", "true_class", "true", "y_true", "ground_truth", "gt", "target")
TRUTH += ("label", "labels", "dx", "diagnosis", "class", "actual")
# What surrounds a class's name or number in a column's name: prob_MEL, probability_class_0, P(NV)
_AROUND = "prob|probs|proba|probability|probabilities|p|pred|prediction|score|scores|logit|logits"
_AROUND += "|class|output|softmax|conf|confidence|y"
_AROUND = re.compile(rf"(?:^|(?<=[\W_]))(?:{_AROUND})(?=$|[\W_])")
SUMS_TO_ONE = 0.02  # probabilities with two decimals may be off by that much
TABLE = "a table: an image and seven probabilities in each row, or an image and its subset"
EXPECTED = "expected an image and seven probabilities in each row"


def read(path) -> pd.DataFrame:
    """Every column of a table as text, blanks NaN, names in lower case. UserError for none."""
    if Path(path).suffix == ".gz":
        return pd.read_csv(path, dtype=str).rename(columns=str.casefold)
    names = [name for name in tables.header(path) if name]
    try:
        return tables.read_csv(path, names or ["image"])
    except UserError as reason:
        why, other, _ = str(reason).partition("expected a CSV with the columns")
        raise UserError(why + (other and f"expected {TABLE}")) from None


def class_columns(names) -> dict:
    """{column: class, or its number} of the columns whose names are a class or a class number.

    >>> class_columns(["file", "prob_mel", "P(nevus)"]), class_columns(["label", "class_3"])
    ({'prob_mel': 'MEL', 'P(nevus)': 'NV'}, {'class_3': 3})
    """
    found = {}
    for name in names:
        word = re.sub(r"^[\W_]+|[\W_]+$", "", _AROUND.sub("", name.casefold()))
        if word.isdecimal() and len(word) < 3:
            found[name] = int(word)
        elif tables.class_of(word):
            found[name] = tables.class_of(word)
    words = {name: value for name, value in found.items() if isinstance(value, str)}
    numbers = {name: value for name, value in found.items() if name not in words}
    return words if len(words) > 1 else numbers


def is_predictions(frame: pd.DataFrame) -> bool:
    """Whether a table has probabilities: several class columns that are not only 0 and 1, which
    would be labels."""
    values = frame[list(class_columns(frame.columns))].apply(tables.numbers)
    return values.shape[1] > 1 and not values.isin([0, 1]).all(axis=None)


def photographs(column: pd.Series) -> pd.Series:
    """The photograph that each cell names: a path, a file's name or an id, with an archive's id
    anywhere in it.

    >>> photographs(pd.Series(["a/ISIC_0024306.jpg", "x_isic_0024307_crop", "b1.png"])).tolist()
    ['ISIC_0024306', 'ISIC_0024307', 'b1']
    """
    return tables.image_ids(column).map(base_id)


def id_column(frame: pd.DataFrame, known=()) -> str | None:
    """The column that names images: that with most `known` ids or ids of the archive, else the one
    with a usual name; None if there is none."""
    known, hits = set(known), {}
    for name in frame:
        ids = photographs(frame[name].iloc[:500])
        hits[name] = sum(image in known or is_archive_id(image) for image in ids)
    best = max(hits, key=hits.get, default=None)
    return best if best and hits[best] else tables.column_of(list(frame), "image")


def predictions(frame: pd.DataFrame, labels: pd.Series) -> tuple[pd.DataFrame, list[str]]:
    """(rows, notes) of a table of predictions.

    frame: as from `read`. labels: the known class of images, by photograph. rows: one a photograph,
    with image, truth (the file's own, "" where not known), seven probabilities in columns CLASSES,
    and subset where the file has one. UserError where the table is no table of predictions, or its
    classes are not clear.
    """
    notes, columns, name = [], class_columns(frame.columns), id_column(frame, labels.index)
    if not name:
        raise UserError(f"no column with image ids beside {', '.join(frame)[:200]}; {EXPECTED}")
    if len(columns) != len(CLASSES) or len(set(columns.values())) != len(CLASSES):
        said = f"{counted(len(columns), 'column')} of probabilities ({', '.join(columns)[:200]})"
        raise UserError(f"{said}; {EXPECTED}")
    rows = pd.DataFrame({"image": photographs(frame[name]), "truth": ""})
    p = frame[list(columns)].apply(tables.numbers)
    rows[list(columns.values())] = _probabilities(p, rows["image"], notes)
    for column, known in (("truth", TRUTH), ("subset", SUBSET_COLUMNS)):
        if found := next((c for c in known if c in frame and c not in columns), None):
            rows[column] = _whole(frame[found])
    if "subset" in rows:
        rows["subset"] = [tables.subset_of(word) or word for word in rows["subset"]]
    rows, named = _once(rows, notes), {}
    if not set(CLASSES) & set(columns.values()):
        known = rows[rows["image"].isin(labels.index[labels != ""])]
        numbers = list(columns.values())
        named = numbering.from_probabilities(known[numbers], labels[known["image"]], numbers)
        said = ", ".join(f"{number} {label}" for number, label in sorted(named.items()))
        notes.append(f"class numbers, found from the images' known labels: {said}")
    words = {str(number): label for number, label in named.items()}
    rows["truth"] = [words.get(word) or tables.class_of(word) for word in rows["truth"]]
    return rows.rename(columns=named), notes


def _whole(words):
    """A column of text; whole numbers that pandas made decimal (3.0) as they were (3)."""
    return words.fillna("").str.replace(r"^(\d+)\.0$", r"\1", regex=True)


def _probabilities(values, images, notes) -> np.ndarray:
    """(N, 7) float that sum to one, from probabilities times a number, sigmoids or logits."""
    p = values.to_numpy(float)
    if not len(p):
        raise UserError(f"no row; {EXPECTED}")
    if (bad := ~np.isfinite(p)).any():
        row, column = np.argwhere(bad)[0]
        what = f"image {images.iloc[row]}, column {values.columns[column]}: not a number"
        raise UserError(f"{what} ({counted(bad.any(axis=1).sum(), 'such row')}); {EXPECTED}")
    sums = p.sum(axis=1, keepdims=True)
    one = any(np.abs(sums / whole - 1).max() <= SUMS_TO_ONE for whole in (1, 100))
    alike = 0 < sums.max() <= sums.min() * (1 + SUMS_TO_ONE)
    if one and p.min() < 0:
        image = images.iloc[np.argwhere(p < 0)[0][0]]
        raise UserError(f"image {image}: a negative probability; {EXPECTED}")
    if p.min() >= 0 and (alike or p.max() <= 1):
        if not one:
            notes.append("rows don't sum to one: each divided by its sum")
        return p / np.maximum(sums, np.finfo(float).tiny)
    notes.append("rows don't sum to one: logits, turned into probabilities by softmax")
    return softmax(p, axis=1)


def _once(rows, notes):
    """One row a photograph. UserError where two rows of one differ."""
    if n := (rows["image"] == "").sum():
        raise UserError(f"{counted(n, 'row')} without an image id; {EXPECTED}")
    if again := int(rows.duplicated().sum()):
        notes.append(f"{counted(again, 'row')} given twice: each counts once")
        rows = rows.drop_duplicates()
    twice = rows.loc[rows["image"].duplicated(), "image"].unique()
    if len(twice):
        what = f"{counted(len(twice), 'image')} with several rows of other values ({twice[0]})"
        raise UserError(f"{what}: expected one row an image; give the mean of them")
    return rows.reset_index(drop=True)


def described(frame: pd.DataFrame, known=()) -> pd.DataFrame:
    """What a table itself says of its images: image, label, lesion_id, patient_id, pixel_hash, a
    row for each photograph; "" is not known. Empty where it has no ids."""
    columns = ["image", "label", "lesion_id", "patient_id", "pixel_hash"]
    name = id_column(frame, known)
    if not name:
        return pd.DataFrame(columns=columns, dtype=str)
    found = frame.reindex(columns=columns).astype(object).assign(image=photographs(frame[name]))
    hot = class_columns(frame.columns)
    if truth := next((c for c in TRUTH if c in frame), None):
        found["label"] = frame[truth].map(tables.class_of, na_action="ignore")
    elif len(set(hot.values())) == len(CLASSES) and not is_predictions(frame):
        found["label"] = frame[list(hot)].apply(tables.numbers).idxmax(axis=1).map(hot)
    return found.fillna("").drop_duplicates("image")
