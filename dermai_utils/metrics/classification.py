"""The challenge's metric, its secondary metrics, F1, AUC and the tables made of them.

Everywhere, `truth` is (N,) int, an index into CLASSES; `probabilities` is (N, 7) float, 0..1,
columns in that order. A prediction is the class of the largest probability, of equal ones the
first; or, where a decision rule's `scores` (N, 7) are given, of the largest score. What isn't
defined (a class without a sample, an AUC of one class) is NaN in arrays and None in what goes to
JSON: never a zero, and left out of a mean over classes.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import auc as area_under
from sklearn.metrics import average_precision_score, roc_curve

from dermai_utils.config import CLASSES, MALIGNANT, UserError

UNDEFINED = "not defined"
CONFUSION_METRICS = ("balanced_accuracy", "macro_f1", "weighted_f1", "accuracy")
AUC_METRICS = ("macro_auc", "malignant_auc")
SCALAR_METRICS = CONFUSION_METRICS + AUC_METRICS
_MALIGNANT = [CLASSES.index(name) for name in MALIGNANT]


def metrics(truth, probabilities, weights=None, scores=None) -> dict:
    """Every plain metric of N predictions, ready for JSON; rows whose `weights` (N,) is 0 don't
    count.

    `scores` (N, 7): what is submitted, by default the probabilities. What ranks images (AUC, AP) is
    always that of the probabilities, which no decision rule changes.

    `balanced_accuracy` is the challenge's own metric, the mean recall of the classes that occur;
    `confusion` has the true class in rows. Of two largest probabilities the first class counts; the
    official scorer takes that for wrong (predictions.submission writes none). Rules:
    https://challenge.isic-archive.com/landing/2018/47. Raises UserError on unusable arrays.
    """
    scores = probabilities if scores is None else scores
    (truth, probabilities), (_, scores) = (
        _counting_rows(truth, values, weights) for values in (probabilities, scores)
    )
    counts = confusion(truth, scores.argmax(1))
    precision, recall, f1 = precision_recall_f1(counts)
    per_class = dict(n=counts.sum(1), precision=precision, recall=recall, f1=f1)
    per_class |= {"auc": class_aucs(truth, probabilities)[0]} | secondary(
        truth, probabilities, scores
    )
    scalars = scalar_metrics(truth, probabilities, scores=scores)[0]
    values = dict(zip(SCALAR_METRICS, scalars, strict=True))
    return jsonable(
        {
            "n": len(truth),
            **{name: values[name] for name in ("accuracy", *SCALAR_METRICS)},
            "per_class": {
                c: {name: column[i] for name, column in per_class.items()}
                for i, c in enumerate(CLASSES)
            },
            "confusion": counts.tolist(),
        }
    )


def confusion(truth, prediction, weights=None) -> np.ndarray:
    """(7, 7): how often true class (row) was predicted as class (column).

    With `weights` (R, N), how much each image counts, (R, 7, 7): all by one matrix product.
    """
    k = len(CLASSES)
    cell = np.asarray(truth, int) * k + prediction
    if weights is None:
        return np.bincount(cell, minlength=k * k).reshape(k, k)
    return (weights @ np.eye(k * k)[cell]).reshape(-1, k, k)


def precision_recall_f1(counts):
    """Precision, recall and F1 of each class, (..., 7) each, from confusion matrices (..., 7, 7).

    A class without a sample has none of the three; a class that is never predicted has no
    precision, and F1 zero.
    """
    hits, n = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1)
    predicted = counts.sum(-2)
    f1 = ratio(2 * hits, (n + predicted) * (n > 0))
    return ratio(hits, predicted * (n > 0)), ratio(hits, n), f1


def from_confusion(counts) -> np.ndarray:
    """(..., 4) float: CONFUSION_METRICS of confusion matrices (..., 7, 7)."""
    n, (_, recall, f1) = counts.sum(-1), precision_recall_f1(counts)
    weighted = ratio(np.nansum(f1 * n, -1), n.sum(-1))
    accuracy = ratio(np.trace(counts, axis1=-2, axis2=-1), n.sum(-1))
    return np.stack([_mean(recall), _mean(f1), weighted, accuracy], axis=-1)


def auc(positive, score, weights=None) -> np.ndarray:
    """(R,) float: areas under the ROC curve, one for each row of `weights` (R, N); None: one of
    ones.

    How often a positive scores above a negative, a tie counting half (Mann-Whitney); NaN without
    both of them.
    """
    positive, score = np.asarray(positive, bool), np.asarray(score, float)
    weights = np.ones((1, len(score))) if weights is None else weights
    up, down = np.flatnonzero(positive), np.flatnonzero(~positive)
    down = down[np.argsort(score[down])]
    below = np.zeros((len(weights), len(down) + 1))  # weight of the lowest 0, 1, 2... negatives
    np.cumsum(weights[:, down], axis=1, out=below[:, 1:])
    left, right = (np.searchsorted(score[down], score[up], side) for side in ("left", "right"))
    wins = (weights[:, up] * (below[:, left] + below[:, right])).sum(1) / 2
    return ratio(wins, weights[:, up].sum(1) * below[:, -1])


def class_aucs(truth, probabilities, weights=None) -> np.ndarray:
    """(R, 7) float: the AUC of each class against the rest."""
    each = [auc(truth == k, probabilities[:, k], weights) for k in range(len(CLASSES))]
    return np.stack(each, axis=1)


def scalar_metrics(truth, probabilities, weights=None, scores=None) -> np.ndarray:
    """(R, 6) float: SCALAR_METRICS under each row of `weights` (R, N); None: one row of ones.

    `scores` as in `metrics`. The score of malignant_auc is the sum of the probabilities of
    MALIGNANT.
    """
    called = (probabilities if scores is None else scores).argmax(1)
    counts = confusion(truth, called, weights).reshape(-1, 7, 7)
    macro = _mean(class_aucs(truth, probabilities, weights))
    malignant = np.isin(truth, _MALIGNANT), probabilities[:, _MALIGNANT].sum(1)
    return np.column_stack([from_confusion(counts), macro, auc(*malignant, weights)])


def secondary(truth, probabilities, scores) -> dict:
    """The challenge's other metrics of each class, name -> (7,) float, where `scores` are over 0.5;
    ap and auc_sens_80 are those of the probabilities.

    As isic_challenge_scoring counts them, except that 0/0 is NaN here and 1.0 there, and that a
    class without a sample has NaN in all that is about its samples (there: sensitivity 1.0, ppv and
    dice 0.0 or 1.0, ap 0.0).
    """
    positive, predicted = truth[:, None] == np.arange(len(CLASSES)), scores > 0.5
    n, occurs = positive.sum(0), positive.any(0)
    tp, fp = (positive & predicted).sum(0), (~positive & predicted).sum(0)
    tn = (~positive & ~predicted).sum(0)
    return {
        "sensitivity": ratio(tp, n),
        "specificity": ratio(tn, tn + fp),
        "ppv": ratio(tp, (tp + fp) * occurs),
        "npv": ratio(tn, tn + n - tp),
        "accuracy": ratio(tp + tn, len(truth)),
        "dice": ratio(2 * tp, (n + tp + fp) * occurs),
        "ap": _each_class(_average_precision, positive, probabilities),
        "auc_sens_80": _each_class(auc_above, positive, probabilities),
    }


def auc_above(positive, score, sensitivity=0.8) -> float:
    """Area under the part of the ROC curve over `sensitivity`, not rescaled: 1 at best.

    As isic_challenge_scoring has it; NaN without both positives and negatives.
    """
    if not np.any(positive) or np.all(positive):
        return np.nan
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    start = tpr.searchsorted(sensitivity)  # the curve is cut between this point and the one before
    cut = np.interp(sensitivity, tpr[start - 1 : start + 1], fpr[start - 1 : start + 1])
    return float(area_under(np.r_[cut, fpr[start:]], np.r_[sensitivity, tpr[start:]]))


def class_table(metrics: dict) -> pd.DataFrame:
    """Precision, recall, f1, auc and n of each class, then their macro and weighted means.

    Means are over the classes where the metric is defined; sklearn's classification_report puts 0
    for the precision of a class never predicted.
    """
    columns = ["precision", "recall", "f1", "auc", "n"]
    table = pd.DataFrame(metrics["per_class"]).T[columns].astype(float)
    scores, n = table[columns[:-1]], table[["n"]].to_numpy()
    weighted = ratio(np.nansum(scores * n, 0), (scores.notna() * n).sum(0))
    table.loc["macro mean"] = [*scores.mean(), metrics["n"]]
    table.loc["weighted mean"] = [*weighted, metrics["n"]]
    return table.astype({"n": int})


def readable(table: pd.DataFrame, digits=3) -> pd.DataFrame:
    """`table` as text with `digits` decimals, UNDEFINED in place of NaN and None."""

    def text(value):
        if pd.isna(value):
            return UNDEFINED
        return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

    return table.map(text)


def jsonable(value):
    """`value` as JSON can hold it: numpy's numbers as Python's, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _counting_rows(truth, probabilities, weights):
    """The arrays without the rows of weight zero, checked."""
    truth, probabilities = np.asarray(truth, int), np.asarray(probabilities, float)
    if truth.ndim != 1 or probabilities.shape != (len(truth), len(CLASSES)):
        raise UserError(
            "expected truth (N,) and probabilities (N, 7), "
            f"got {truth.shape} and {probabilities.shape}"
        )
    counts = np.ones(len(truth), bool) if weights is None else np.asarray(weights) > 0
    truth, probabilities = truth[counts], probabilities[counts]
    if np.isnan(probabilities).any():
        n = np.isnan(probabilities).any(1).sum()
        raise UserError(f"{n} images have no probability (NaN): predict them again")
    if len(truth) and not 0 <= truth.min() <= truth.max() < len(CLASSES):
        raise UserError(f"a true class is outside 0 to {len(CLASSES) - 1}")
    return truth, probabilities


def _average_precision(positive, score):
    return average_precision_score(positive, score) if positive.any() else np.nan


def _each_class(metric, positive, probabilities):
    """(7,) float: `metric` of each class against the rest."""
    columns = zip(positive.T, probabilities.T, strict=True)
    return np.array([metric(*column) for column in columns], float)


def ratio(part, whole):
    """`part` / `whole`, NaN where `whole` is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(whole) == 0, np.nan, np.divide(part, whole))


def _mean(values):
    """(...,) the mean of the defined `values` (..., 7), NaN if there is none."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1))
