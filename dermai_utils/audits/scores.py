"""The scores of a table of predictions, with intervals by lesion, and where a leak shows."""

import numpy as np

from dermai_utils import intervals, metrics, predictions
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.study.calibration import ece
from dermai_utils.study.decisions import prior_corrected

PARTS = {
    "argmax": (*metrics.SCALAR_METRICS, "melanoma_auc"),
    "prior_corrected": metrics.CONFUSION_METRICS,
    "where": ("shared", "not_shared", "difference"),
}


def scores(rows, prior, shared=None, **options) -> dict:
    """Every score of N rows of predictions, with lesion_id.

    prior (7,): the classes' shares in training, for the prior correction (exponent 1). shared (N,)
    bool: whose lesion was also learnt from; None: not known. options: of `intervals.interval`.
    Keys: n; argmax, prior_corrected and where (balanced accuracy by argmax on the `shared` images,
    on the others, and the difference, over the classes that both have), as {metric: value, low,
    high} of the same drawn lesions; n_shared; ece (15 bins); overconfidence (mean confidence less
    accuracy); per_class and confusion (true class in rows) by argmax.
    """
    truth, p = predictions.arrays(rows)
    by_rule, named = prior_corrected(p, prior, 1).argmax(1), p.argmax(1)
    sides = [] if shared is None else [shared, ~shared]
    counts = np.array([np.bincount(truth[side], minlength=len(CLASSES)) for side in sides])
    both = (counts > 0).all(axis=0) & bool(sides)  # the classes that can be compared

    def statistic(weights):
        found = [
            metrics.scalar_metrics(truth, p, weights),
            metrics.auc(truth == 0, p[:, 0], weights)[:, None],
            metrics.from_confusion(metrics.confusion(truth, by_rule, weights)),
        ]
        if both.any():
            each = [metrics.confusion(truth, named, weights * side) for side in sides]
            each = [metrics.precision_recall_f1(c)[1][:, both].mean(axis=1) for c in each]
            found.append(np.stack([*each, each[0] - each[1]], axis=1))
        return np.hstack(found)

    value = statistic(np.ones((1, len(truth))))[0]
    lesions = predictions.lesions(rows)
    ends = intervals.interval(statistic, lesions, strata=truth, vectorised=True, **options)
    ends, few = np.array(ends), intervals.exact_ends(truth, named, lesions, p)
    ends[:, :6] = intervals.widened(ends[:, :6], few)
    few = intervals.exact_ends(truth, by_rule, lesions)
    ends[:, 7:11] = intervals.widened(ends[:, 7:11], few)  # place 6 is the melanoma AUC
    each, found = iter(zip(value, *ends, strict=True)), {"n": len(rows)}
    for part in list(PARTS) if both.any() else list(PARTS)[:2]:
        names = PARTS[part]
        found[part] = {
            k: dict(zip(("value", "low", "high"), next(each), strict=True)) for k in names
        }
    whole, right = metrics.all_metrics(truth, p), named == truth
    found |= {"n_shared": None if shared is None else int(shared.sum()), "ece": ece(truth, p)}
    found |= {
        "overconfidence": p.max(1).mean() - right.mean(),
        "prior": dict(zip(CLASSES, prior, strict=True)),
    }
    return found | {name: whole[name] for name in ("per_class", "confusion")}


def compared(rows, others, prior, name="the other file", **options) -> dict:
    """{"n", "minus"}: the differences of `rows` minus `others`, rows of predictions too, on the
    images that both have, paired by drawing the same lesions: `intervals.compare`, and balanced
    accuracy after prior correction. UserError, with the others' `name`, where there is no such
    image."""
    theirs = others.set_index("image").reindex(rows["image"])[list(CLASSES)].to_numpy()
    both = ~np.isnan(theirs).any(axis=1)
    if not both.any():
        raise UserError(f"{name} has none of the scored images: expected predictions of the same")
    truth, ours = predictions.arrays(rows[both])
    lesions, theirs = predictions.lesions(rows[both]), theirs[both]
    found = intervals.compare(truth, ours, theirs, lesions, **options)
    by_rule = [prior_corrected(p, prior, 1) for p in (ours, theirs)]
    a, b = (np.eye(len(CLASSES))[p.argmax(1)] for p in by_rule)  # no AUC of them is asked for
    corrected = intervals.compare(truth, a, b, lesions, **options)["balanced_accuracy"]
    return {"n": int(both.sum()), "minus": found | {"balanced_accuracy_prior_corrected": corrected}}
