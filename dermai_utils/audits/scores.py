"""The scores of a table of predictions, with intervals by lesion, and where a leak shows."""

import numpy as np

from dermai_utils import intervals, metrics, predictions
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.study.calibration import ece
from dermai_utils.study.decisions import prior_corrected

PRIOR_CORRECTED = "balanced_accuracy_prior_corrected"  # a key of differences
EXPONENT = 1  # of the prior correction: an audit fits nothing


def scores(rows, prior, shared=None, **options) -> dict:
    """Every score of N rows of predictions, with lesion_id.

    prior (7,): the classes' shares in training, for the prior correction. shared (N,) bool: whose
    lesion was also trained on; None: not known. options: of `intervals.interval`.
    Keys: n; argmax, prior_corrected and where (balanced accuracy by argmax on the `shared` images,
    on the others, and the difference, over the classes that both have), as {metric: value, low,
    high} of the same drawn lesions; n_shared; ece (15 bins); prior.
    """
    truth, p = predictions.arrays(rows)
    lesions, named = predictions.lesions(rows), p.argmax(1)

    def with_ends(statistic):
        drawn = dict(strata=truth, vectorised=True, **options)
        low, high = intervals.interval(statistic, lesions, **drawn)
        return {"value": statistic(np.ones((1, len(truth))))[0], "low": low, "high": high}

    by_rule = prior_corrected(p, prior, EXPONENT)
    by_rule = intervals.intervals(truth, p, lesions, by_rule, **options)
    found = {"n": len(rows), "argmax": intervals.intervals(truth, p, lesions, **options)}
    melanoma = with_ends(lambda weights: metrics.auc(truth == 0, p[:, 0], weights))
    found["argmax"]["melanoma_auc"] = melanoma
    found["prior_corrected"] = {name: by_rule[name] for name in metrics.CONFUSION_METRICS}
    found["n_shared"] = None if shared is None else int(shared.sum())
    sides = [] if shared is None else [shared, ~shared]
    both = [k for k in range(len(CLASSES)) if sides and all((truth[s] == k).any() for s in sides)]

    def recall(weights):
        counts = metrics.confusion(truth, named, weights)
        return metrics.precision_recall_f1(counts)[1][:, both].mean(axis=1)

    if both:
        found["where"] = {
            "shared": with_ends(lambda weights: recall(weights * shared)),
            "not_shared": with_ends(lambda weights: recall(weights * ~shared)),
            "difference": with_ends(lambda w: recall(w * shared) - recall(w * ~shared)),
        }
    return found | {"ece": ece(truth, p), "prior": dict(zip(CLASSES, prior, strict=True))}


def compared(rows, others, prior, name="the other file", **options) -> dict:
    """`rows` and `others`, rows of predictions, on the images that both have: {"n"; "first" and
    "other", the `scores` of each; "minus", first minus other}.

    minus: `intervals.compare`, which draws the same lesions for both, and balanced accuracy after
    prior correction. UserError, with the others' `name`, where there is no such image.
    """
    theirs = others.set_index("image").reindex(rows["image"])[list(CLASSES)].to_numpy()
    both = ~np.isnan(theirs).any(axis=1)
    if not both.any():
        raise UserError(f"{name} has none of the scored images: expected predictions of the same")
    rows, theirs = rows[both], theirs[both]
    truth, ours = predictions.arrays(rows)
    models = truth, ours, theirs, predictions.lesions(rows)
    corrected = [prior_corrected(p, prior, EXPONENT) for p in (ours, theirs)]
    by_rule = intervals.compare(*models, corrected, **options)["balanced_accuracy"]
    minus = intervals.compare(*models, **options)
    each = rows, rows.assign(**dict(zip(CLASSES, theirs.T, strict=True)))
    first, other = (scores(one, prior, **options) for one in each)
    minus = {"balanced_accuracy": minus.pop("balanced_accuracy"), PRIOR_CORRECTED: by_rule} | minus
    return {"n": len(rows), "first": first, "other": other, "minus": minus}


def of_difference(found: dict, key: str) -> dict:
    """The value of `scores` that belongs to the key of a difference."""
    if key == PRIOR_CORRECTED:
        return found["prior_corrected"]["balanced_accuracy"]
    return found["argmax"][key]
