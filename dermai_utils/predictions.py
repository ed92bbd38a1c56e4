"""The table of predictions: its columns, and what builds, selects or unpacks its rows.

One row an image: image, truth and prediction (class names), seven probabilities, confidence (the
predicted class's probability), then further columns: subset, lesion_id ("" where not known), origin
and, with folds, fold (-1: the mean of all networks). The prediction is the most probable class
until `study.decisions.called` puts the chosen rule's class in its place.
"""

import numpy as np
import pandas as pd

from dermai_utils.basics import CLASSES, MALIGNANT, ZERO_WEIGHT, UserError, counted

FIXED_SUBSETS = ("val", "test", "official")  # held out; each own test set is a further subset
NOT_HELD_OUT = ("train", "left out")
UNTIED = 1e-9  # of a submission's largest value; pandas reads what it wrote to about 1e-16
_NAMES = {
    "train": "training subset",
    "fold": "fold",
    "folds": "all folds",
    "left out": "images left out of training",
    "val": "validation subset (decision rule and thresholds were chosen on it)",
    "test": "held-out test subset (nothing was chosen on it)",
    "official": "official ISIC 2018 test set",
    "given test": "test images that came with the data (nothing was chosen on them)",
    "sample_elsewhere": "a second, made-up clinic",
}


def table(images, truth, probabilities, **columns) -> pd.DataFrame:
    """The table of N predictions: `truth` (N,) int, `probabilities` (N, 7), further `columns` (N,).

    >>> table(["a"], [1], np.eye(7)[[0]], subset=["val"])[["image", "truth", "prediction"]].values
    array([['a', 'NV', 'MEL']], dtype=object)
    """
    names, probabilities = np.array(CLASSES), np.asarray(probabilities, float)
    frame = pd.DataFrame({"image": images, "truth": names[np.asarray(truth, int)]})
    frame["prediction"] = names[probabilities.argmax(1)]
    frame[list(CLASSES)] = probabilities
    return frame.assign(confidence=probabilities.max(1), **columns)


def arrays(rows):
    """(truth (N,) int, probabilities (N, 7)) of N rows."""
    return rows["truth"].map(CLASSES.index).to_numpy(int), rows[list(CLASSES)].to_numpy()


def weights(images) -> np.ndarray:
    """(N,) int, the official weight of each image id: 0 for ZERO_WEIGHT, else 1."""
    return (np.asarray(images) != ZERO_WEIGHT).astype(int)


def lesions(rows: pd.DataFrame) -> np.ndarray:
    """(N,) text: the lesion of each row, for grouping and intervals; where it is not known, the
    image counts as a lesion of its own."""
    if "lesion_id" not in rows:
        return rows["image"].to_numpy(str)
    ids = rows["lesion_id"].fillna("")  # what pandas.read_csv makes of ""
    return ids.where(ids != "", rows["image"]).to_numpy(str)


def subset_name(subset: str, data: str = "", folds: int = 0) -> str:
    """What people read in place of `subset`; `data`: the name of the data, `folds`: the run's.

    >>> subset_name("official"), subset_name("official", data="sample")
    ('official ISIC 2018 test set', 'made-up pictures in place of the official test set')
    >>> subset_name("Basel")
    'your test set “Basel” (nothing was chosen on it)'
    """
    if subset == "official" and data == "sample":
        return "made-up pictures in place of the official test set"
    if subset == "val" and folds:
        return "all folds (each image judged by the model that was not trained on it)"
    if subset.isdecimal():
        return f"fold {subset}"
    return _NAMES.get(subset, f"your test set “{subset}” (nothing was chosen on it)")


def images_of(n: int, name: str) -> str:
    """How many images of which subset, in a sentence; name: by `subset_name`.

    >>> images_of(42, "held-out test subset"), images_of(1, "your test set “Basel”")
    ('42 images of the held-out test subset', '1 image of your test set “Basel”')
    """
    article = "" if name.startswith(("your ", "a ", "all ", "fold ")) else "the "
    return f"{counted(n, 'image')} of {article}{name}"


def scored_rows(rows: pd.DataFrame, subset: str) -> pd.DataFrame:
    """The rows of one subset that count in a metric: without ZERO_WEIGHT."""
    rows = rows[rows["subset"] == subset]
    return rows[weights(rows["image"]) > 0]


def held_out(subsets) -> list[str]:
    """The held-out subsets among the names `subsets`, each once: val, test, official, then own test
    sets as they come."""
    present = dict.fromkeys(subsets)
    own = [name for name in present if name not in FIXED_SUBSETS + NOT_HELD_OUT]
    return [name for name in FIXED_SUBSETS if name in present] + own


def own_test_sets(subsets) -> list[str]:
    """The held-out subsets among the names `subsets` that are the user's own test sets."""
    return [name for name in held_out(subsets) if name not in FIXED_SUBSETS]


def by_subset(rows: pd.DataFrame) -> dict:
    """{subset: scored rows} of every held-out subset in `rows`, in the order of `held_out`."""
    return {subset: scored_rows(rows, subset) for subset in held_out(rows["subset"])}


def primary_subset(subsets) -> str:
    """The subset to quote: the official test set, else the test subset, else the first own test
    set, else validation. UserError without any."""
    for subset in ("official", "test", *own_test_sets(subsets), "val"):
        if subset in set(subsets):
            return subset
    raise UserError("no held-out subset in the predictions (val, test, official or a test set)")


def primary_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The scored rows of the primary subset."""
    return scored_rows(rows, primary_subset(rows["subset"]))


def unseen_by_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that the first network was not trained on (with folds), or all rows."""
    return rows[rows["fold"] <= 0] if "fold" in rows else rows


def cross_fit(val: pd.DataFrame, fit) -> dict:
    """{-1: `fit` of the rows `val`; and with folds, for each fold: `fit` of the other folds' rows}.

    So a number fitted on validation never scores the images it was fitted on (see `fitted_for`).
    """
    folds = sorted(set(val["fold"]) - {-1}) if "fold" in val else ()
    return {-1: fit(val)} | {int(k): fit(val[val["fold"] != k]) for k in folds}


def fitted_for(fitted: dict, rows: pd.DataFrame) -> np.ndarray:
    """(N, ...) float: for each of N rows the number of `cross_fit` that may score it."""
    folds = rows["fold"] if "fold" in rows else np.full(len(rows), -1)
    values = np.repeat(np.asarray(fitted[-1], float)[None], len(rows), axis=0)
    for fold in fitted.keys() - {-1}:
        values[folds == fold] = fitted[fold]
    return values


def mistakes(rows: pd.DataFrame) -> pd.DataFrame:
    """The wrong rows, the most confident first."""
    wrong = rows[rows["truth"] != rows["prediction"]]
    return wrong.sort_values("confidence", ascending=False, kind="stable")


def costly_mistakes(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows where a malignant lesion was predicted as benign, the most confident first."""
    malignant = rows["truth"].isin(MALIGNANT)
    return mistakes(rows[malignant & ~rows["prediction"].isin(MALIGNANT)])


def submission(images, probabilities) -> pd.DataFrame:
    """The challenge's table: image and seven classes. UserError names the first fault.

    The official scorer counts an image with two largest values as wrong, where this project takes
    the first of them. So the others are written a little smaller, by a billionth of the largest.
    """
    probabilities = np.asarray(probabilities, float)
    images = pd.Series(np.asarray(images), dtype=str)
    if not len(images) or probabilities.shape != (len(images), len(CLASSES)):
        got = f"{len(images)} and {probabilities.shape}"
        raise UserError(f"expected N image ids, at least one, and probabilities (N, 7), got {got}")
    bad = ~((probabilities >= 0) & (probabilities <= 1)).all(1)  # NaN is neither
    if bad.any():
        why = f"a probability is not a number from 0 to 1 (such images: {bad.sum()})"
        raise UserError(f"{images[bad].iloc[0]}: {why}")
    if (twice := images[images.duplicated()]).any():
        raise UserError(f"{twice.iloc[0]} is twice in the submission: give each image once")
    first = np.arange(len(CLASSES)) == probabilities.argmax(1)[:, None]
    largest = np.maximum(probabilities.max(1, keepdims=True), UNTIED)  # a row may be all zeros
    untied = np.where(first, largest, np.minimum(probabilities, largest * (1 - UNTIED)))
    frame = pd.DataFrame(untied, columns=list(CLASSES))
    frame.insert(0, "image", images)
    return frame
