"""Intervals that count lesions, not images, and the paired difference of two runs.

Images of one lesion are nearly the same evidence twice, so whole lesions are drawn (a cluster
bootstrap). They are drawn class by class: the split fixes the class counts too, and a draw without
a single DF would have another kind of balanced accuracy. Plain percentiles are too narrow for small
classes, so of a class's m lesions m-1 are drawn, each weighing m/(m-1) (Rao & Wu 1988,
doi.org/10.1080/01621459.1988.10478591), and the percentiles are widened as Student's t is against
the normal (Hesterberg 2015, doi.org/10.1080/00031305.2015.1089789). Our own, because scipy's
bootstrap draws single rows and neither strata nor whole clusters. Measured on made-up test sets
of the official class counts, 1.3 images a lesion: 95 % intervals of balanced accuracy hold the
truth in 94.3 to 94.7 % (plain percentiles 93.6, BCa 93.3; drawing images 88 to 89).

Where (nearly) all or none of a class are right, every draw gives the same, and a bootstrap knows
nothing. Then the exact limits of the classes' rates (Clopper & Pearson 1934,
doi.org/10.1093/biomet/26.4.404) are combined to those of their mean (MOVER: Zou & Donner 2008,
doi.org/10.1002/sim.3095), AUCs get Newcombe's limits (2006, method 5, doi.org/10.1002/sim.2324),
and the interval spans both. Measured with 6, 14 and 44 lesions in the rarest class and recalls of
0.5 to 0.97: the intervals of balanced accuracy hold the truth in 94 to 99 %, those of the bootstrap
alone in 76 to 97. AUCs of 0.995 and more: 99 %, the bootstrap alone 65 to 92.
"""

import warnings

import numpy as np
import pandas as pd
from scipy.stats import beta, norm, t

from dermai_utils import metrics, predictions
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.metrics import SCALAR_METRICS, confusion, from_confusion, jsonable, scalar_metrics

RESAMPLES = 2000
FEW = 5  # lesions right, and wrong, from which on a bootstrap knows a class's spread
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
    are left out. NaN if it never is, or if all draws give the same: then nothing is known of its
    spread. UserError where a lesion is NaN or None.
    Source: Rao & Wu 1988 and Hesterberg 2015, see the module.

    >>> right = np.array([1, 1, 0, 1, 0, 1])
    >>> low, high = interval(lambda w: np.average(right, weights=w), ["a", "a", "b", "c", "d", "e"])
    >>> bool(low < right.mean() < high)
    True
    """
    rng, (sizes, lesion) = np.random.default_rng(seed), _by_stratum(lesions, strata)
    chunks = [min(_CHUNK, n_resamples - start) for start in range(0, n_resamples, _CHUNK)]
    batched = statistic if vectorised else lambda rows: np.array([statistic(row) for row in rows])
    replicates = np.concatenate([batched(_draws(rng, n, sizes, lesion)) for n in chunks])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")
        ends = np.nanquantile(replicates, _percentiles(sizes, level), axis=0)
        same = np.nanmax(replicates, 0) - np.nanmin(replicates, 0) < 1e-12
    return tuple(np.where(same, np.nan, ends))


def _codes(lesions):
    """(N,) int: the lesion of each image, those not known as lesions of their own."""
    lesions = np.asarray(lesions)
    if missing := pd.isna(lesions).sum():
        raise UserError(f'images without a lesion id: {missing}; write "" where it is not known')
    _, codes = np.unique(lesions, return_inverse=True)
    unknown = np.flatnonzero(lesions.astype(str) == "")
    codes[unknown] = len(lesions) + np.arange(len(unknown))
    return np.unique(codes, return_inverse=True)[1]


def _by_stratum(lesions, strata):
    """How many lesions each stratum has, and (N,) the lesion of each image: its number where the
    lesions are in order of their stratum."""
    codes = _codes(lesions)
    first = np.unique(codes, return_index=True)[1]
    stratum = np.zeros(len(first), int) if strata is None else np.asarray(strata)[first]
    order = np.argsort(stratum, kind="stable")
    return np.unique(stratum, return_counts=True)[1], np.argsort(order)[codes]


def _draws(rng, n, sizes, lesion) -> np.ndarray:
    """(n, N) float: how much each image counts in each of `n` draws; 1 on average."""
    counts = [np.empty((n, 0))]
    for m in sizes:
        drawn = max(m - 1, 1)
        counts.append(rng.multinomial(drawn, np.full(m, 1 / m), size=n) * (m / drawn))
    return np.concatenate(counts, axis=1)[:, lesion]


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


def rate(right, lesions, level=0.95) -> dict:
    """One rate and its exact interval: "value", "low", "high", "k" of "n" images, "lesions".

    `right` (N,) bool, `lesions` (N,) as in `interval`. Clopper & Pearson's limits over lesions: as
    many as would tell the same if all had equally many images (Kish: (sum m)^2 / sum m^2), of which
    the share `value` is right. None where there is no image.

    >>> {name: round(x, 3) for name, x in rate([True] * 4, list("aabc")).items()}
    {'value': 1.0, 'low': 0.251, 'high': 1.0, 'k': 4, 'n': 4, 'lesions': 3}
    """
    right, codes = np.asarray(right, bool), _codes(lesions)
    value, n = metrics.ratio(right.sum(), len(right)), _effective(codes)
    low, high = _exact(value, n, level)
    counts = {"k": right.sum(), "n": len(right), "lesions": len(np.unique(codes))}
    return jsonable({"value": value[()], "low": low, "high": high, **counts})


def named(name, found: dict) -> dict:
    """`found`, as `rate` gives it, with `name` in its keys: name, name_low, name_high and so on."""
    return {f"{name}_{key}".removesuffix("_value"): value for key, value in found.items()}


def _effective(codes):
    images = np.unique(codes, return_counts=True)[1]
    return images.sum() ** 2 / max((images**2).sum(), 1)


def _exact(value, n, level):
    """Clopper & Pearson's limits of the rate `value` of `n` lesions, which need not be whole."""
    tail, k = (1 - level) / 2, value * n
    if np.isnan(value):
        return np.nan, np.nan
    low = beta.ppf(tail, k, n - k + 1) if k else 0.0
    return float(low), float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0


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
    predicted = (probabilities if scores is None else np.asarray(scores)).argmax(1)

    def statistic(weights):
        return scalar_metrics(truth, probabilities, weights, scores)

    exact = exact_ends(truth, predicted, lesions, probabilities, options.get("level", 0.95))
    return _with_intervals(statistic, truth, lesions, options, exact)


def recalls(truth, predicted, lesions) -> dict:
    """{class: `rate` of its images that are `predicted` as it}; both (N,) int."""
    return {
        name: rate(predicted[truth == k] == k, lesions[truth == k])
        for k, name in enumerate(CLASSES)
    }


def compare(truth, probabilities_a, probabilities_b, lesions, scores=None, **options) -> dict:
    """{metric: {"value", "low", "high"}} of a minus b: two models on the same images, paired by
    drawing the same lesions. An interval without 0 shows a difference on these images; another
    training of the same setting may differ as much. None where the two never differ.

    Arrays and options as in `intervals`; `scores`: the pair of both models' decision-rule scores,
    by default their probabilities. UserError where the shapes differ.

    >>> a, b = np.eye(7)[[0, 0, 1, 1]], np.eye(7)[[0, 1, 1, 0]]
    >>> compare([0, 0, 1, 1], a, b, ["a", "b", "c", "d"])["accuracy"]["value"]
    0.5
    """
    truth = np.asarray(truth, int)
    a, b = np.asarray(probabilities_a, float), np.asarray(probabilities_b, float)
    if a.shape != b.shape:
        got = f"{a.shape} and {b.shape}"
        raise UserError(f"expected predictions of both models on the same images, got {got}")
    scores = (None, None) if scores is None else scores

    def statistic(weights):
        ours = scalar_metrics(truth, a, weights, scores[0])
        return ours - scalar_metrics(truth, b, weights, scores[1])

    return _with_intervals(statistic, truth, lesions, options)


def subgroups(rows: pd.DataFrame, column: str, *, min_n=50, **options) -> pd.DataFrame:
    """One row for each value of `column` in a table of predictions; missing values are "unknown".

    Columns: n (images), lesions, classes (how many of the seven occur: balanced accuracy is their
    mean recall), balanced_accuracy and accuracy with _low and _high, accuracy_k (images that are
    right), and `small`: under `min_n` images, too few to read much into. `options` as in
    `intervals`.
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

    exact = exact_ends(truth, predicted, lesions, level=options.get("level", 0.95))
    found = _with_intervals(statistic, truth, lesions, options, exact)
    row = {"n": len(rows), "lesions": len(set(lesions)), "classes": len(np.unique(truth))}
    for name in ("balanced_accuracy", "accuracy"):
        row |= named(name, found[name])
    return row | {"accuracy_k": int((truth == predicted).sum()), "small": len(rows) < min_n}


def _with_intervals(statistic, truth, lesions, options, exact=(np.nan, np.nan)):
    """The interval of each number spans the one of the bootstrap and the `exact` one."""
    value = statistic(np.ones((1, len(truth))))[0]
    low, high = interval(statistic, lesions, strata=truth, vectorised=True, **options)
    low, high = np.fmin(low, exact[0]), np.fmax(high, exact[1])
    names = SCALAR_METRICS[: len(value)]
    rows = pd.DataFrame({"value": value, "low": low, "high": high}, names).to_dict("index")
    return jsonable(rows)


# Where a bootstrap knows nothing


def exact_ends(truth, predicted, lesions, probabilities=None, level=0.95):
    """(low, high), (4,) or with `probabilities` (6,) each: limits of SCALAR_METRICS from those of
    each class; NaN where FEW lesions of each class, or more, are right, and as many are wrong.

    `truth` and `predicted` (N,) int. Recalls and accuracy are rates. So is the share of a class's
    hits among the images that are of it or taken for it, J, and F1 is 2J / (1 + J).
    """
    codes, classes = _codes(lesions), np.unique(truth)

    def limits(right, among):
        value, n = metrics.ratio(right[among].sum(), among.sum()), _effective(codes[among])
        return np.array([value, *_exact(value, n, level)]), n

    right = truth == predicted
    found = [limits(right, truth == k) for k in classes]
    if all(FEW <= value[0] * n <= n - FEW for value, n in found):
        return np.full((2, 4 if probabilities is None else 6), np.nan)
    hits = [limits(right, (truth == k) | (predicted == k))[0] for k in classes]
    f1s, images = [2 * j / (1 + j) for j in hits], np.bincount(truth)[classes]
    rows = [_of_mean([recall for recall, _ in found]), _of_mean(f1s), _of_mean(f1s, images)]
    rows.append(limits(right, np.full(len(truth), True))[0][1:])
    if probabilities is not None:
        each = [_auc_limits(truth == k, probabilities[:, k], codes, level) for k in classes]
        positive, score = metrics.malignant(truth, probabilities)
        rows += [_of_mean(each), _auc_limits(positive, score, codes, level)[1:]]
    return np.transpose(rows)


def _of_mean(limits, weights=None):
    """Low and high of the mean of independent (value, low, high): MOVER."""
    value, low, high = np.transpose(limits)
    defined = ~np.isnan(value)
    weights = defined / max(defined.sum(), 1) if weights is None else weights / weights.sum()
    mean = weights @ np.where(defined, value, 0) if defined.any() else np.nan
    down, up = (np.sqrt(np.nansum((weights * (value - end)) ** 2)) for end in (low, high))
    return mean - down, mean + up


def _auc_limits(positive, score, codes, level):
    """AUC and its limits by Newcombe's method 5: where the normal interval around a true AUC of the
    variance that Hanley and McNeil expect would hold the value."""
    value = metrics.auc(positive, score)[0]
    up, down = (_effective(codes[side]) for side in (positive, ~positive))
    a, z = np.linspace(0, 1, 20_001), norm.ppf((1 + level) / 2)
    spread = 1 + ((up + down) / 2 - 1) * ((1 - a) / (2 - a) + a / (1 + a))
    inside = (value - a) ** 2 <= z**2 * a * (1 - a) * spread / max(up * down, 1)
    if not inside.any():
        return np.full(3, np.nan)
    return np.array([value, *a[inside][[0, -1]]])
