"""The table of predictions: its columns, and all that builds, selects or unpacks its rows.

A row an image: image, truth and prediction (class names), the seven probabilities, confidence (the
predicted class's), then subset, lesion_id and row (its place in the pixel array). A prediction is
the most probable class, until decisions.called puts the chosen rule's in its place.
"""

import numpy as np
import pandas as pd

from dermai_utils.config import CLASSES, MALIGNANT, UserError

HELD_OUT = ("val", "test", "official", "own")  # subsets that no weight was trained on
BEST_TO_QUOTE = ("official", "test", "own", "val")
SUBSET_NAMES = {
    "val": "validation subset (decision rule and thresholds were chosen on it)",
    "test": "held-out test subset (nothing was chosen on it)",
    "official": "official ISIC 2018 test set",
    "own": "your own test set (nothing was chosen on it)",
    "folds": "all folds (each image judged by the model that did not learn it)",  # val of these
    "made_up": "made-up pictures in place of the official test set",  # the sample's
}
UNTIED = 1e-9  # of a submission's largest value; pandas reads what it wrote to about 1e-16
OFFICIAL_ZERO_WEIGHT = "ISIC_0035068"  # the image of the official test set that its scorer ignores


def build(images, truth, probabilities, **columns) -> pd.DataFrame:
    """The table of N images: `truth` (N,) int, `probabilities` (N, 7), further `columns` (N,)."""
    names, probabilities = np.array(CLASSES), np.asarray(probabilities, float)
    prediction = names[probabilities.argmax(1)]
    frame = pd.DataFrame({"image": images, "truth": names[truth], "prediction": prediction})
    frame[list(CLASSES)] = probabilities
    return frame.assign(confidence=probabilities.max(1), **columns)


def arrays(rows):
    """(truth (N,) int, probabilities (N, 7)) of N rows."""
    return rows["truth"].map(CLASSES.index).to_numpy(int), rows[list(CLASSES)].to_numpy()


def weights(images) -> np.ndarray:
    """(N,) int, the official weight of each image id: 1, and 0 for OFFICIAL_ZERO_WEIGHT."""
    return (np.asarray(images) != OFFICIAL_ZERO_WEIGHT).astype(int)


def scored_rows(table: pd.DataFrame, subset: str) -> pd.DataFrame:
    """The rows of one subset that count in a metric: without OFFICIAL_ZERO_WEIGHT."""
    rows = table[table["subset"] == subset]
    return rows[weights(rows["image"]) > 0]


def by_subset(table: pd.DataFrame) -> dict:
    """{subset: scored rows} of every held-out subset that is there."""
    present = set(table["subset"])
    return {subset: scored_rows(table, subset) for subset in HELD_OUT if subset in present}


def primary_subset(subsets) -> str:
    """The subset to quote: the official test set, else the test subset, else validation."""
    return next(subset for subset in BEST_TO_QUOTE if subset in subsets)


def primary_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The scored rows of the primary subset."""
    return scored_rows(table, primary_subset(set(table["subset"])))


def unseen_by_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Of all folds as one run, the rows that its first network did not learn; else all."""
    return rows[rows["fold"] <= 0] if "fold" in rows else rows


def choices(val: pd.DataFrame, choose) -> dict:
    """{-1: what `choose` takes from the rows of `val`, fold: what it takes from the other folds'}.

    So a row of a fold (column `fold`, of all folds as one run) can be scored by what it had no part
    in choosing.
    """
    folds = sorted(set(val["fold"]) - {-1}) if "fold" in val else ()
    return {-1: choose(val)} | {int(k): choose(val[val["fold"] != k]) for k in folds}


def of_rows(choices: dict, rows: pd.DataFrame) -> np.ndarray:
    """(N, ...) float: of `choices`, the one that each of N rows is to be scored by."""
    folds = rows["fold"] if "fold" in rows else np.full(len(rows), -1)
    chosen = np.repeat(np.asarray(choices[-1], float)[None], len(rows), axis=0)
    for fold in choices.keys() - {-1}:
        chosen[folds == fold] = choices[fold]
    return chosen


def lesions_known(rows: pd.DataFrame) -> bool:
    """Whether any lesion id was given; without one, each image counts as a lesion of its own."""
    return bool((rows["lesion_id"] != rows["image"]).any())


def mistakes(rows: pd.DataFrame) -> pd.DataFrame:
    """The wrong rows, the most confident first."""
    return _most_confident_first(rows[rows["truth"] != rows["prediction"]])


def costly_mistakes(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows where a malignant lesion was predicted as benign, the most confident first."""
    malignant = rows["truth"].isin(MALIGNANT)
    return _most_confident_first(rows[malignant & ~rows["prediction"].isin(MALIGNANT)])


def _most_confident_first(rows):
    return rows.sort_values("confidence", ascending=False, kind="stable")


def submission(images, probabilities) -> pd.DataFrame:
    """The challenge's table (image, seven classes). UserError that names the first fault.

    The official scorer counts an image with two largest values as wrong, where this project takes
    the first of them: so the others are written a little smaller, by a billionth of the largest.
    """
    probabilities, images = (
        np.asarray(probabilities, float),
        pd.Series(np.asarray(images), dtype=str),
    )
    if not len(images) or probabilities.shape != (len(images), len(CLASSES)):
        n = len(images)
        raise UserError(f"{n} images need probabilities ({n}, 7), got {probabilities.shape}")
    bad = ~((probabilities >= 0) & (probabilities <= 1)).all(1)  # NaN is neither
    if bad.any():
        raise UserError(
            f"{images[bad].iloc[0]}: a probability is not a number from 0 to 1 "
            f"({bad.sum()} such images)"
        )
    if (twice := images[images.duplicated()]).any():
        raise UserError(f"{twice.iloc[0]} is twice in the submission: give each image once")
    first = np.arange(len(CLASSES)) == probabilities.argmax(1)[:, None]
    largest = np.maximum(probabilities.max(1, keepdims=True), UNTIED)  # a row may be all zeros
    untied = np.where(first, largest, np.minimum(probabilities, largest * (1 - UNTIED)))
    frame = pd.DataFrame(untied, columns=list(CLASSES))
    frame.insert(0, "image", images)
    return frame
