"""The challenge's metric, its secondary metrics, F1 and AUC.

Everywhere `truth` is (N,) int, an index into CLASSES, and `probabilities` is (N, 7) float, 0 to 1,
columns in that order. The predicted class has the largest probability (of equal ones the first),
or, where a decision rule gives `scores` (N, 7), the largest score. A number that is not defined (a
class without an image, an AUC of one class) is NaN in arrays and None in JSON. It is never zero,
and no mean over classes counts it.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import auc as area_under
from sklearn.metrics import average_precision_score, roc_curve

from dermai_utils.basics import CLASSES, MALIGNANT, UserError

CONFUSION_METRICS = ("balanced_accuracy", "macro_f1", "weighted_f1", "accuracy")
SCALAR_METRICS = CONFUSION_METRICS + ("macro_auc", "malignant_auc")


def all_metrics(truth, probabilities, weights=None, scores=None) -> dict:
    """Every metric of N predictions, ready for JSON: scalars, "per_class" and "confusion".

    `weights` (N,): rows of weight 0 do not count. `scores` (N, 7): what a decision rule takes the
    largest of; the metrics that rank images (AUC, AP) always use the probabilities, which no rule
    changes. `balanced_accuracy` is the challenge's own metric, the mean recall of the classes that
    occur (https://challenge.isic-archive.com/landing/2018/47). `confusion` has the true class in
    rows. The official scorer counts a tie of the two largest values as wrong; `predictions.
    submission` writes no ties. Raises UserError on unusable arrays.

    >>> found = all_metrics([0, 1, 1], np.eye(7)[[0, 1, 0]])
    >>> found["accuracy"], found["balanced_accuracy"]
    (0.6666666666666666, 0.75)
    """
    scores = probabilities if scores is None else scores
    _, scores = _counting_rows(truth, scores, weights)
    truth, probabilities = _counting_rows(truth, probabilities, weights)
    counts = confusion(truth, scores.argmax(1))
    precision, recall, f1 = precision_recall_f1(counts)
    per_class = dict(n=counts.sum(1), precision=precision, recall=recall, f1=f1)
    per_class |= {"auc": class_aucs(truth, probabilities)[0]}
    per_class |= secondary(truth, probabilities, scores)
    scalars = scalar_metrics(truth, probabilities, scores=scores)[0]
    found = {"n": len(truth)} | dict(zip(SCALAR_METRICS, scalars, strict=True))
    found["per_class"] = pd.DataFrame(per_class, CLASSES).to_dict("index")
    return jsonable(found | {"confusion": counts.tolist()})


def confusion(truth, prediction, weights=None) -> np.ndarray:
    """(7, 7): how often true class (row) was predicted as class (column).

    With `weights` (R, N), how much each image counts, (R, 7, 7), all by one matrix product.
    """
    k = len(CLASSES)
    cell = np.asarray(truth, int) * k + prediction
    if weights is None:
        return np.bincount(cell, minlength=k * k).reshape(k, k)
    return (weights @ np.eye(k * k)[cell]).reshape(-1, k, k)


def precision_recall_f1(counts):
    """Precision, recall and F1 of each class, (..., 7) each, from confusion matrices (..., 7, 7).

    A class without an image has none of the three. A class that is never predicted has no
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
    """(R,) float: the area under the ROC curve for each row of `weights` (R, N); None: one row of
    ones.

    The share of pairs in which a positive scores above a negative; a tie counts half
    (Mann-Whitney). NaN without both.
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

    `scores` as in `all_metrics`. malignant_auc ranks by `malignant`.
    """
    predicted = (probabilities if scores is None else scores).argmax(1)
    counts = confusion(truth, predicted, weights).reshape(-1, 7, 7)
    macro = _mean(class_aucs(truth, probabilities, weights))
    positive, score = malignant(truth, probabilities)
    return np.column_stack([from_confusion(counts), macro, auc(positive, score, weights)])


def malignant(truth, probabilities):
    """(N,) bool: which truth is one of MALIGNANT; (N,) float: the sum of their probabilities."""
    classes = [CLASSES.index(name) for name in MALIGNANT]
    return np.isin(truth, classes), probabilities[:, classes].sum(1)


def secondary(truth, probabilities, scores) -> dict:
    """{name: (7,) float}: the challenge's other metrics of each class at `scores` > 0.5; ap and
    auc_sens_80 use the probabilities.

    As isic_challenge_scoring counts them, except that 0/0 is NaN here and 1.0 there, and that a
    class without an image has NaN wherever its images are counted (there: sensitivity 1.0, ppv and
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
        "ap": _each_class(average_precision_score, positive, probabilities),
        "auc_sens_80": _each_class(auc_above, positive, probabilities),
    }


def auc_above(positive, score, sensitivity=0.8) -> float:
    """Area under the part of the ROC curve above `sensitivity`, not rescaled: 1 at best.

    As isic_challenge_scoring has it; NaN without both positives and negatives.
    """
    if not np.any(positive) or np.all(positive):
        return np.nan
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    start = tpr.searchsorted(sensitivity)  # the curve is cut between this point and the one before
    cut = np.interp(sensitivity, tpr[start - 1 : start + 1], fpr[start - 1 : start + 1])
    return float(area_under(np.r_[cut, fpr[start:]], np.r_[sensitivity, tpr[start:]]))


def jsonable(value):
    """`value` as JSON can hold it: numpy's numbers as Python's, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def ratio(part, whole):
    """`part` / `whole`, NaN where `whole` is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(whole) == 0, np.nan, np.divide(part, whole))


def _counting_rows(truth, probabilities, weights):
    """The arrays without rows of weight zero, checked."""
    truth, probabilities = np.asarray(truth, int), np.asarray(probabilities, float)
    if truth.ndim != 1 or probabilities.shape != (len(truth), len(CLASSES)):
        got = f"{truth.shape} and {probabilities.shape}"
        raise UserError(f"expected truth (N,) and probabilities (N, 7), got {got}")
    counts = np.ones(len(truth), bool) if weights is None else np.asarray(weights) > 0
    truth, probabilities = truth[counts], probabilities[counts]
    if n := (~np.isfinite(probabilities)).any(1).sum():
        raise UserError(f"images without a probability (NaN or infinite): {n}; predict them again")
    if len(truth) and not 0 <= truth.min() <= truth.max() < len(CLASSES):
        raise UserError(f"a true class is outside 0 to {len(CLASSES) - 1}")
    return truth, probabilities


def _each_class(metric, positive, probabilities):
    """(7,) float: `metric` of each class against the rest; NaN for a class without an image."""
    columns = zip(positive.T, probabilities.T, strict=True)
    return np.array([metric(*column) if column[0].any() else np.nan for column in columns], float)


def _mean(values):
    """(...,) the mean of the defined `values` (..., 7), NaN if there is none."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1))
