"""Bootstrap intervals that draw lesions, not images, and the paired difference of two runs.

Our own, because scipy's bootstrap draws single rows and neither strata nor whole clusters.

Images of one lesion are nearly the same evidence twice, so whole lesions are drawn (a cluster
bootstrap). They are drawn class by class: the split fixes the class counts too, and a draw without
a single DF would have another kind of balanced accuracy. Plain percentiles are too narrow for small
classes, so of a class's m lesions m-1 are drawn, each weighing m/(m-1) (Rao & Wu 1988,
doi.org/10.1080/01621459.1988.10478591), and the percentiles are widened as Student's t is against
the normal (Hesterberg 2015, doi.org/10.1080/00031305.2015.1089789). Measured on made-up test sets
of the official class counts, 1.3 images a lesion: 95 % intervals of balanced accuracy hold the
truth in 94.3 to 94.7 % (plain percentiles 93.6, BCa 93.3; drawing images 88 to 89). With 14 DF, as
in a 12 % subset, 93.8 to 94.9 %. A number that is already 0 or 1, or a class of one lesion, has no
spread to draw from: its interval is too narrow.
"""

import warnings

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from dermai_utils import predictions
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.metrics import SCALAR_METRICS, confusion, from_confusion, jsonable, scalar_metrics

RESAMPLES = 2000
_CHUNK = 250  # resamples at once: (250, 2000) float weights are 4 MB and stay in the cache


def interval(
    statistic, lesions, *, strata=None, n_resamples=RESAMPLES, seed=0, level=0.95, vectorised=False
):
    """(low, high), the bootstrap interval of `statistic`.

    `lesions` (N,): the lesion of each image; "" is not known, and such an image counts as a lesion
    of its own. `statistic` takes weights (N,), how much each image counts (0, or a multiple of
    about 1), and returns a number; with `vectorised` it takes (R, N) and returns (R,) or (R, M),
    then low and high are (M,). `strata` (N,): the class of each image, by which lesions are drawn
    (its first image's for a lesion); None: all together. Draws in which the number is not defined
    are left out; NaN if it never is. UserError where a lesion is NaN or None.
    Source: Rao & Wu 1988 and Hesterberg 2015, see the module.

    >>> right = np.array([1, 1, 0, 1, 0, 1])
    >>> low, high = interval(lambda w: np.average(right, weights=w), ["a", "a", "b", "c", "d", "e"])
    >>> bool(low < right.mean() < high)
    True
    """
    rng, sampler = np.random.default_rng(seed), _Lesions(lesions, strata)
    sizes = [min(_CHUNK, n_resamples - start) for start in range(0, n_resamples, _CHUNK)]
    batched = statistic if vectorised else lambda rows: np.array([statistic(row) for row in rows])
    replicates = np.concatenate([batched(sampler.draw(rng, size)) for size in sizes])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")
        return tuple(np.nanquantile(replicates, _percentiles(sampler.sizes, level), axis=0))


class _Lesions:
    """Which lesion each image belongs to, with the lesions in order of their stratum."""

    def __init__(self, lesions, strata=None):
        lesions = np.asarray(lesions)
        if missing := pd.isna(lesions).sum():
            raise UserError(f'{missing} images have no lesion id: write "" where it is not known')
        _, first, codes = np.unique(lesions, return_index=True, return_inverse=True)
        if (unknown := np.flatnonzero(lesions.astype(str) == "")).size:
            codes[unknown] = len(first) + np.arange(len(unknown))
            _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
        stratum = np.zeros(len(first), int) if strata is None else np.asarray(strata)[first]
        order = np.argsort(stratum, kind="stable")
        self.sizes = np.unique(stratum, return_counts=True)[1]  # lesions in each stratum
        self.column = np.argsort(order)[codes]  # (N,)

    def draw(self, rng, n) -> np.ndarray:
        """(n, N) float: how much each image counts in each of `n` draws; 1 on average."""
        counts = [np.empty((n, 0))]
        for m in self.sizes:
            drawn = max(m - 1, 1)
            counts.append(rng.multinomial(drawn, np.full(m, 1 / m), size=n) * (m / drawn))
        return np.concatenate(counts, axis=1)[:, self.column]


def _percentiles(sizes, level):
    """The two shares of the draws to cut at: the normal's, widened to Student's t.

    Degrees of freedom by Satterthwaite, from the lesions in each stratum (a stratum of one has no
    spread), as for a mean over classes of equal spread: for a number that hangs on the large
    classes this is a little too wide.
    """
    variances = 1 / sizes[sizes > 1]
    freedom = variances.sum() ** 2 / max((variances**2 / (sizes[sizes > 1] - 1)).sum(), 1e-300)
    low = norm.cdf(t.ppf((1 - level) / 2, freedom)) if len(variances) else (1 - level) / 2
    return low, 1 - low


def intervals(truth, probabilities, lesions, scores=None, **options) -> dict:
    """{metric: {"value", "low", "high"}} of SCALAR_METRICS, ready for JSON; None where not defined.

    `truth` (N,) int, `probabilities` and a decision rule's `scores` (N, 7) float as in
    `metrics.all_metrics`, `lesions` (N,) as in `interval`; leave rows of weight zero out before.
    `options`: n_resamples, seed and level of `interval`. 2,000 draws of 2,000 images take 0.6 s on
    one core.

    >>> found = intervals([0, 0, 1, 1], np.eye(7)[[0, 1, 1, 1]], ["a", "b", "c", "d"])
    >>> found["balanced_accuracy"]["value"]
    0.75
    """
    truth, probabilities = np.asarray(truth, int), np.asarray(probabilities, float)

    def statistic(weights):
        return scalar_metrics(truth, probabilities, weights, scores)

    return _with_intervals(statistic, truth, lesions, options)


def compare(truth, probabilities_a, probabilities_b, lesions, scores=None, **options) -> dict:
    """{metric: {"value", "low", "high"}} of a minus b: two models on the same images, paired by
    drawing the same lesions. An interval without 0 shows a difference.

    Arrays and options as in `intervals`; `scores`: the pair of both models' decision-rule scores,
    by default their probabilities. With probabilities (S, N, 7): the mean difference of S pairs of
    models, such as seeds; the interval draws lesions alone. UserError where the shapes differ.

    >>> a, b = np.eye(7)[[0, 0, 1, 1]], np.eye(7)[[0, 1, 1, 0]]
    >>> compare([0, 0, 1, 1], a, b, ["a", "b", "c", "d"])["accuracy"]["value"]
    0.5
    """
    truth = np.asarray(truth, int)
    a, b = np.asarray(probabilities_a, float), np.asarray(probabilities_b, float)
    if a.shape != b.shape:
        raise UserError(
            "two models are compared on the same images, but their predictions are "
            f"{a.shape} and {b.shape}"
        )
    columns = (a, b, *((a, b) if scores is None else scores))
    pairs = [columns] if a.ndim == 2 else list(zip(*columns, strict=True))

    def statistic(weights):
        each = [
            scalar_metrics(truth, x, weights, x_scores)
            - scalar_metrics(truth, y, weights, y_scores)
            for x, y, x_scores, y_scores in pairs
        ]
        return np.mean(each, axis=0)

    return _with_intervals(statistic, truth, lesions, options)


def subgroups(rows: pd.DataFrame, column: str, *, min_n=50, **options) -> pd.DataFrame:
    """One row for each value of `column` in a table of predictions; missing values are "unknown".

    Columns: n (images), lesions, classes (how many of the seven occur: balanced accuracy is their
    mean recall), balanced_accuracy and accuracy with _low and _high, and `small`: under `min_n`
    images, too few to read much into. `options` as in `intervals`.
    """
    values = rows[column].astype(object).where(rows[column].notna(), "unknown")
    order = [value for value in rows.groupby(column, observed=True).groups if value != "unknown"]
    order += ["unknown"] if (values == "unknown").any() else []
    found = [_subgroup(rows[values == value], min_n, options) for value in order]
    return pd.DataFrame(found, pd.Index(order, name=column))


def _subgroup(rows, min_n, options):
    names, lesions = ("truth", "prediction"), predictions.lesions(rows)
    truth, predicted = (pd.Categorical(rows[name], CLASSES).codes.astype(int) for name in names)

    def statistic(weights):
        return from_confusion(confusion(truth, predicted, weights))

    found = _with_intervals(statistic, truth, lesions, options)
    row = {"n": len(rows), "lesions": len(set(lesions)), "classes": len(np.unique(truth))}
    for name in ("balanced_accuracy", "accuracy"):
        row |= {name: found[name]["value"]}
        row |= {f"{name}_low": found[name]["low"], f"{name}_high": found[name]["high"]}
    return row | {"small": len(rows) < min_n}


def _with_intervals(statistic, truth, lesions, options):
    value = statistic(np.ones((1, len(truth))))[0]
    low, high = interval(statistic, lesions, strata=truth, vectorised=True, **options)
    names = SCALAR_METRICS[: len(value)]
    rows = pd.DataFrame({"value": value, "low": low, "high": high}, names).to_dict("index")
    return jsonable(rows)
