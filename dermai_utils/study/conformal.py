"""Conformal sets: the diagnoses that cannot be ruled out, by a least probability for each class.

A set holds the true class of a benign lesion with a chance of 90 %, of a malignant one with 97 %
(Sadinle, Lei and Wasserman 2019, doi.org/10.1080/01621459.2017.1395341: a level for each class).
Images of one lesion are alike, so the count is of lesions (Lee, Barber and Willett 2023, arXiv
2306.06342), and classes with too few of them share a threshold with the class most like them (Ding
et al. 2023, arXiv 2306.09335). A short set is an answer. People believe an answer, so malignant
classes are held to their level among the answers too.

Everywhere `truth` is (N,) int, `probabilities` (N, 7) calibrated, `lesions` (N,) ids. Thresholds
come from data that the network was not trained on, and their error rates from yet other data.
"""

import numpy as np

from dermai_utils.basics import CLASSES, MALIGNANT

LEVELS = np.array([0.97 if c in MALIGNANT else 0.9 for c in CLASSES])
FLOOR = 0.01  # a less probable class is never named
MAX_ANSWER = 2  # classes: a larger set is no answer
KINDS = (
    "one benign diagnosis",
    "one malignant diagnosis",
    "two benign diagnoses",
    "two diagnoses, at least one malignant",
)
_IS_MALIGNANT = np.isin(CLASSES, MALIGNANT)


def quantile(scores, lesions, level: float) -> float:
    """The value under which the score of an image of a new lesion stays with a chance of `level`;
    inf where there are too few lesions (under 9 for 0.9, under 33 for 0.97).

    Each of K lesions weighs 1/(K + 1), shared by its images; the new lesion weighs the last one.
    """
    weights, n = _weights(lesions)
    order = np.argsort(scores)
    reached = np.cumsum(weights[order]) / (n + 1)
    place = np.searchsorted(reached, level - 1e-9)
    return float(np.asarray(scores)[order[place]]) if place < len(order) else np.inf


def _weights(lesions):
    """(N,) one over the number of images of each image's lesion, and the number of lesions."""
    _, lesion, images = np.unique(lesions, return_inverse=True, return_counts=True)
    return 1 / images[lesion], len(images)


def clusters(truth, probabilities, lesions) -> list[list[int]]:
    """The classes that share a threshold; a class with enough lesions has its own.

    Else the class with fewest joins the one of its level whose probabilities of the truth are
    distributed most alike (the least Kolmogorov-Smirnov distance), again and again.
    """
    from scipy.stats import ks_2samp  # an answer needs no SciPy

    own = _of_truth(truth, probabilities)
    groups = [[k] for k in range(len(CLASSES)) if (truth == k).any()]

    def n_lesions(group):
        return len(np.unique(lesions[np.isin(truth, group)]))

    def partners(group):
        return [g for g in groups if g is not group and LEVELS[g[0]] == LEVELS[group[0]]]

    def distance(a, b):
        return ks_2samp(own[np.isin(truth, a)], own[np.isin(truth, b)]).statistic

    def too_few(group):
        n, level = n_lesions(group), LEVELS[group[0]]
        return n < level * (n + 1) - 1e-9 and partners(group)

    while small := sorted(filter(too_few, groups), key=n_lesions):
        joined = min(partners(small[0]), key=lambda group: distance(small[0], group))
        groups = [g for g in groups if g is not small[0] and g is not joined]
        groups.append(sorted(small[0] + joined))
    return sorted(groups)


def class_thresholds(truth, probabilities, lesions) -> np.ndarray:
    """(7,) float: the least probability at which each class is in the set, FLOOR or more.

    FLOOR for a class with too few lesions, or none: then only an improbable class is ruled out.
    """
    truth, probabilities, lesions = map(np.asarray, (truth, probabilities, lesions))
    own, thresholds = _of_truth(truth, probabilities), np.full(len(CLASSES), FLOOR)
    groups = clusters(truth, probabilities, lesions)
    for group in groups:
        rows = np.isin(truth, group)
        limit = quantile(1 - own[rows], lesions[rows], LEVELS[group[0]])
        thresholds[group] = max(FLOOR, 1 - limit)
    before = None
    while not np.array_equal(thresholds, before):  # a lower one makes other answers fewer
        before = thresholds.copy()
        for group in groups:
            if _IS_MALIGNANT[group[0]]:
                rows = np.isin(truth, group)
                table = truth[rows], probabilities[rows], lesions[rows]
                thresholds = _lowered(*table, group, thresholds)
    return thresholds


def _lowered(truth, probabilities, lesions, group, thresholds):
    """`thresholds` with the highest one for `group`, at most its own, at which enough answers about
    its rows hold the truth."""
    weights, own = _weights(lesions)[0], _of_truth(truth, probabilities)
    lower = np.unique(own[(own < thresholds[group[0]]) & (own > FLOOR)])[::-1]
    for candidate in (thresholds[group[0]], *lower, FLOOR):
        thresholds = thresholds.copy()
        thresholds[group] = candidate
        sets = prediction_sets(probabilities, thresholds)
        answered = is_answer(sets)
        missed = answered & ~_of_truth(truth, sets)
        # the new lesion counts as a miss
        share = (weights[missed].sum() + 1) / (weights[answered].sum() + 1)
        if share <= 1 - LEVELS[group[0]] + 1e-9:
            break
    return thresholds


def _of_truth(truth, values):
    return values[np.arange(len(truth)), truth]


def prediction_sets(probabilities, thresholds) -> np.ndarray:
    """(N, 7) bool: which classes cannot be ruled out; the most probable one never is."""
    possible = probabilities >= np.maximum(thresholds, FLOOR)
    possible[np.arange(len(possible)), probabilities.argmax(1)] = True
    return possible


def is_answer(sets) -> np.ndarray:
    """(N,) bool: whether a set (N, 7) is small enough to be given as an answer; else "unsure"."""
    return (sets.sum(1) >= 1) & (sets.sum(1) <= MAX_ANSWER)


def kinds(sets) -> np.ndarray:
    """(N,) of KINDS: what sort of answer each set (N, 7) is; "" where it is none."""
    kind = 2 * (sets.sum(1) - 1) + sets[:, _IS_MALIGNANT].any(1)
    return np.where(is_answer(sets), np.array(KINDS)[kind.clip(0, len(KINDS) - 1)], "")


def scores(truth, probabilities, thresholds) -> dict:
    """How often the sets are right on images that chose no threshold; None where nothing counts.

    held: the share whose set holds the true class, in all and by class; size: classes in a set;
    answered: the share of sets that are an answer; answered_held: the share of the answers that
    hold the true class. Counts of images, for the line beside an answer: answers, for each of KINDS
    how many there are (n) and hold the truth (held); melanomas, how many there are (n), got an
    answer (answered), and one without melanoma (without).
    """
    sets = prediction_sets(probabilities, thresholds)
    right, answered, kind = _of_truth(truth, sets), is_answer(sets), kinds(sets)
    melanoma = truth == CLASSES.index("MEL")
    return {
        "n": len(truth),
        "held": _share(right),
        "by_class": {
            c: {"n": (truth == k).sum(), "held": _share(right[truth == k])}
            for k, c in enumerate(CLASSES)
        },
        "size": _share(sets.sum(1)),
        "answered": _share(answered),
        "answered_held": _share(right[answered]),
        "answers": {k: {"n": (kind == k).sum(), "held": right[kind == k].sum()} for k in KINDS},
        "melanomas": {
            "n": melanoma.sum(),
            "answered": (melanoma & answered).sum(),
            "without": (melanoma & answered & ~right).sum(),
        },
    }


def _share(values):
    return values.mean() if len(values) else None
