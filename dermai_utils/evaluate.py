"""Predictions in, numbers out: the challenge's metric, its secondary metrics, F1, AUC, and the tables made of them.

Everywhere, `truth` is (N,) int, an index into CLASSES; `probabilities` is (N, 7) float, 0..1, columns in that order. A
prediction is the most probable class, of equal ones the first. What isn't defined (a class without a sample, an AUC
of one class) is NaN in arrays and None in what goes to JSON: never a zero, and left out of a mean over classes.
"""

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import auc, average_precision_score, roc_curve

from dermai_utils.config import CLASSES, UserError
from dermai_utils.files import atomic

OFFICIAL_ZERO_WEIGHT = "ISIC_0035068"  # the one row of the official test set that the official scorer weighs zero
MALIGNANT = ("MEL", "BCC", "AKIEC")  # as Tschandl et al. 2019, doi.org/10.1016/S1470-2045(19)30333-X
UNDEFINED = "not defined"


def weights(images) -> np.ndarray:
    """(N,) int, the official weight of each image id: 1, and 0 for OFFICIAL_ZERO_WEIGHT."""
    return (np.asarray(images) != OFFICIAL_ZERO_WEIGHT).astype(int)


def metrics(truth, probabilities, weights=None) -> dict:
    """Every plain number about N predictions, ready for JSON. Rows whose `weights` (N,) is 0 don't count; None: all do.

    `balanced_accuracy` is the challenge's own metric, the mean recall of the classes that occur; `confusion` has the
    true class in rows. Rules: https://challenge.isic-archive.com/landing/2018/47. Raises UserError on unusable arrays.
    """
    truth, probabilities = _counting_rows(truth, probabilities, weights)
    counts = confusion(truth, probabilities.argmax(1))
    precision, recall, f1 = scores(counts)
    n, areas = counts.sum(1), aucs(truth, probabilities)
    columns = dict(n=n, precision=precision, recall=recall, f1=f1, auc=areas, **secondary(truth, probabilities))
    return {
        "n": len(truth),
        "accuracy": _plain(_ratio(np.trace(counts), n.sum())),
        "balanced_accuracy": _plain(_mean(recall)),
        "macro_f1": _plain(_mean(f1)),
        "weighted_f1": _plain(_mean(f1, n)),
        "macro_auc": _plain(_mean(areas)),
        "malignant_auc": _plain(malignant_auc(truth, probabilities)),
        "per_class": {c: {key: _plain(v[i]) for key, v in columns.items()} for i, c in enumerate(CLASSES)},
        "confusion": counts.tolist(),
    }


def confusion(truth, prediction) -> np.ndarray:
    """(7, 7) int: how often true class (row) was called class (column)."""
    k = len(CLASSES)
    return np.bincount(np.asarray(truth, int) * k + prediction, minlength=k * k).reshape(k, k)


def scores(counts):
    """Precision, recall and F1 of each class, (..., 7) each, from confusion matrices (..., 7, 7).

    A class without a sample has none of the three; a class that is never predicted has no precision, and F1 zero.
    """
    hits, n, called = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)
    return _ratio(hits, called * (n > 0)), _ratio(hits, n), _ratio(2 * hits, (n + called) * (n > 0))


def rank_auc(positive, score) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, a tie counting half (Mann-Whitney)."""
    positive = np.asarray(positive, bool)
    n = positive.sum()
    rank_sum = rankdata(score)[positive].sum()
    return float(_ratio(rank_sum - n * (n + 1) / 2, n * (len(positive) - n)))


def aucs(truth, probabilities) -> np.ndarray:
    """(7,) float: each class against the rest."""
    return _each(rank_auc, truth[:, None] == np.arange(len(CLASSES)), probabilities)


def malignant_auc(truth, probabilities) -> float:
    """AUC of MALIGNANT against the rest; the score is the sum of their probabilities."""
    columns = [CLASSES.index(name) for name in MALIGNANT]
    return rank_auc(np.isin(truth, columns), probabilities[:, columns].sum(1))


def secondary(truth, probabilities) -> dict:
    """The challenge's other numbers of each class, name -> (7,) float; those of calls are for a probability over 0.5.

    As isic_challenge_scoring counts them, except that 0/0 is NaN here and 1.0 there, and that a class without a sample
    has NaN in all that is about its samples (there: sensitivity 1.0, ppv and dice 0.0 or 1.0, ap 0.0).
    """
    positive, called = truth[:, None] == np.arange(len(CLASSES)), probabilities > 0.5
    n, some = positive.sum(0), positive.any(0)
    tp, fp, tn = (positive & called).sum(0), (~positive & called).sum(0), (~positive & ~called).sum(0)
    return {
        "sensitivity": _ratio(tp, n),
        "specificity": _ratio(tn, tn + fp),
        "ppv": _ratio(tp, (tp + fp) * some),
        "npv": _ratio(tn, tn + n - tp),
        "accuracy": _ratio(tp + tn, len(truth)),
        "dice": _ratio(2 * tp, (n + tp + fp) * some),
        "ap": _each(lambda p, score: average_precision_score(p, score) if p.any() else np.nan, positive, probabilities),
        "auc_sens_80": _each(auc_above, positive, probabilities),
    }


def auc_above(positive, score, sensitivity=0.8) -> float:
    """Area under the part of the ROC curve over `sensitivity`, not rescaled: 1 at best (isic_challenge_scoring)."""
    if not np.any(positive) or np.all(positive):
        return np.nan
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    start = tpr.searchsorted(sensitivity)  # the curve is cut between this point and the one before
    cut = np.interp(sensitivity, tpr[start - 1 : start + 1], fpr[start - 1 : start + 1])
    return float(auc(np.r_[cut, fpr[start:]], np.r_[sensitivity, tpr[start:]]))


def report_table(metrics: dict) -> pd.DataFrame:
    """The classification report: precision, recall, f1, auc and n of each class, then their macro and weighted means.

    Means are over the classes where the number is defined; sklearn puts 0 for the precision of a class never predicted.
    """
    columns = ["precision", "recall", "f1", "auc", "n"]
    table = pd.DataFrame(metrics["per_class"]).T[columns].astype(float)
    by_n = [_mean(table[column].to_numpy(), table["n"].to_numpy()) for column in columns[:-1]]
    table.loc["macro mean"] = [*table[columns[:-1]].mean(), metrics["n"]]
    table.loc["weighted mean"] = [*by_n, metrics["n"]]
    return table.astype({"n": int})


def readable(table: pd.DataFrame, digits=3) -> pd.DataFrame:
    """`table` for the eye: numbers as text with `digits` decimals, UNDEFINED in place of NaN and None."""
    return table.map(lambda v: UNDEFINED if pd.isna(v) else f"{v:.{digits}f}" if isinstance(v, float) else str(v))


def submission(images, probabilities, path):
    """Write the challenge's CSV (image, seven classes), whole or not at all. Raises UserError with the first fault."""
    probabilities, images = np.asarray(probabilities, float), pd.Series(np.asarray(images), dtype=str)
    if not len(images) or probabilities.shape != (len(images), len(CLASSES)):
        raise UserError(f"{len(images)} images need probabilities ({len(images)}, 7), got {probabilities.shape}")
    bad = ~((probabilities >= 0) & (probabilities <= 1)).all(1)  # NaN is neither
    if bad.any():
        raise UserError(f"{images[bad].iloc[0]}: a probability is not a number from 0 to 1 ({bad.sum()} such images)")
    if images.duplicated().any():
        raise UserError(f"{images[images.duplicated()].iloc[0]} is twice in the submission: give each image once")
    with atomic(path) as file:
        pd.DataFrame(probabilities, images.rename("image"), CLASSES).to_csv(file, lineterminator="\n")


def predictions_frame(images, truth, probabilities, **columns) -> pd.DataFrame:
    """One row an image: image, truth and prediction (names), the seven probabilities, confidence, then `columns`."""
    names, probabilities = np.array(CLASSES), np.asarray(probabilities, float)
    frame = pd.DataFrame({"image": images, "truth": names[truth], "prediction": names[probabilities.argmax(1)]})
    frame[list(CLASSES)] = probabilities
    return frame.assign(confidence=probabilities.max(1), **columns)


def mistakes(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """The `n` most confident wrong rows of a predictions_frame, most confident first."""
    return _most_confident(frame[frame["truth"] != frame["prediction"]], n)


def costly_mistakes(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """The `n` most confident rows where a malignant lesion was called benign."""
    return _most_confident(frame[frame["truth"].isin(MALIGNANT) & ~frame["prediction"].isin(MALIGNANT)], n)


def _most_confident(rows, n):
    return rows.sort_values("confidence", ascending=False, kind="stable").head(n)


def _counting_rows(truth, probabilities, weights):
    """The arrays without the rows of weight zero, checked."""
    truth, probabilities = np.asarray(truth, int), np.asarray(probabilities, float)
    if truth.ndim != 1 or probabilities.shape != (len(truth), len(CLASSES)):
        raise UserError(f"expected truth (N,) and probabilities (N, 7), got {truth.shape} and {probabilities.shape}")
    keep = np.ones(len(truth), bool) if weights is None else np.asarray(weights) > 0
    truth, probabilities = truth[keep], probabilities[keep]
    if np.isnan(probabilities).any():
        raise UserError(f"{np.isnan(probabilities).any(1).sum()} images have no probability (NaN): predict them again")
    if len(truth) and not 0 <= truth.min() <= truth.max() < len(CLASSES):
        raise UserError(f"a true class is outside 0 to {len(CLASSES) - 1}")
    return truth, probabilities


def _each(number, positive, probabilities):
    """(7,) float: `number` of each class's column, the class against the rest."""
    return np.array([number(p, score) for p, score in zip(positive.T, probabilities.T, strict=True)], float)


def _ratio(part, whole):
    """`part` / `whole`, NaN where `whole` is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(whole) == 0, np.nan, np.divide(part, whole))


def _mean(values, weights=None):
    """The mean of the defined `values`, NaN if there is none."""
    known = ~np.isnan(values)
    return np.average(values[known], weights=None if weights is None else weights[known]) if known.any() else np.nan


def _plain(value):
    return None if np.isnan(value) else np.asarray(value).item()
