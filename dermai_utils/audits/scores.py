"""The scores of a table of predictions, with intervals by lesion, and where a leak shows."""

import numpy as np

from dermai_utils import intervals, metrics
from dermai_utils.basics import CLASSES
from dermai_utils.study.calibration import ece
from dermai_utils.study.decisions import prior_corrected

ARGMAX = (*metrics.SCALAR_METRICS, "melanoma_auc")
CORRECTED = metrics.CONFUSION_METRICS
PLACES = ("shared", "not_shared", "difference")


def scores(truth, probabilities, prior, lesions, shared=None, **options) -> dict:
    """Every score of N predictions, ready for JSON.

    truth (N,) int, probabilities (N, 7) and lesions (N,) as in `intervals.intervals`, with its
    `options`. prior (7,): the classes' shares in training, for the prior correction (exponent 1).
    shared (N,) bool: whose lesion was also trained on; None: not known. Keys: n, argmax,
    prior_corrected and where (see `_places`) with intervals of the same drawn lesions, ece (15
    bins), overconfidence (mean confidence less accuracy), per_class, confusion (true class in rows)
    and confusion_corrected.
    """
    truth, p = np.asarray(truth, int), np.asarray(probabilities, float)
    corrected = prior_corrected(p, prior, 1)
    parts = {"argmax": ARGMAX, "prior_corrected": CORRECTED}
    parts |= {} if shared is None else _places(truth, shared)

    def statistic(weights):
        by_rule = metrics.confusion(truth, corrected.argmax(1), weights)
        columns = [
            metrics.scalar_metrics(truth, p, weights),
            metrics.auc(truth == 0, p[:, 0], weights)[:, None],
            metrics.from_confusion(by_rule),
        ]
        if len(parts) > 2:
            columns.append(_by_place(truth, p.argmax(1), shared, weights))
        return np.hstack(columns)

    value = statistic(np.ones((1, len(truth))))[0]
    ends = intervals.interval(statistic, lesions, strata=truth, vectorised=True, **options)
    each = iter(zip(value, *ends, strict=True))
    found = {
        part: {name: dict(zip(("value", "low", "high"), next(each), strict=True)) for name in names}
        for part, names in parts.items()
    }
    whole, right = metrics.all_metrics(truth, p), p.argmax(1) == truth
    return metrics.jsonable(
        {"n": len(truth), **found}
        | {"ece": ece(truth, p), "overconfidence": p.max(1).mean() - right.mean()}
        | {"per_class": whole["per_class"], "confusion": whole["confusion"]}
        | {"confusion_corrected": metrics.confusion(truth, corrected.argmax(1)).tolist()}
        | ({} if shared is None else {"n_shared": int(np.sum(shared))})
    )


def _places(truth, shared):
    """{"where": PLACES}, balanced accuracy on the images that share a lesion with training, on the
    others, and the difference; {} where one of the two has no image."""
    both = _in_both(truth, shared)
    return {"where": PLACES} if both.any() else {}


def _in_both(truth, shared):
    """(7,) bool: the classes with images of both kinds; only these can be compared."""
    counts = [np.bincount(truth[shared == side], minlength=len(CLASSES)) for side in (True, False)]
    return (np.array(counts) > 0).all(axis=0)


def _by_place(truth, predicted, shared, weights):
    """(R, 3) float: the balanced accuracies of PLACES, over the classes that both places have."""
    shared, classes = np.asarray(shared, bool), _in_both(truth, np.asarray(shared, bool))
    found = []
    for side in (shared, ~shared):
        counts = metrics.confusion(truth, predicted, weights * side)
        recall = metrics.precision_recall_f1(counts)[1][:, classes]
        found.append(recall.mean(axis=1))  # NaN in a draw without a class: not counted
    return np.stack([*found, found[0] - found[1]], axis=1)


def compared(truth, ours, theirs, prior, lesions, **options) -> dict:
    """{metric: value, low, high} of `ours` minus `theirs`, (N, 7) each, on the same N images and
    the same drawn lesions; the metrics of ARGMAX but the last, and balanced accuracy after prior
    correction."""
    found = intervals.compare(truth, ours, theirs, lesions, **options)
    pair = [prior_corrected(p, prior, 1).argmax(1) for p in (ours, theirs)]
    truth = np.asarray(truth, int)

    def statistic(weights):
        a, b = (metrics.from_confusion(metrics.confusion(truth, p, weights))[:, 0] for p in pair)
        return a - b

    value = statistic(np.ones((1, len(truth))))[0]
    low, high = intervals.interval(statistic, lesions, strata=truth, vectorised=True, **options)
    corrected = {"value": value, "low": low, "high": high}
    return found | metrics.jsonable({"balanced_accuracy_prior_corrected": corrected})
