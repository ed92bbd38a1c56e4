"""Conformal sets: the diagnoses that cannot be ruled out, by a least probability for each class.

A set is meant to hold the true class of a benign lesion with a chance of 90 %, of a malignant one
with 97 % (Sadinle, Lei and Wasserman 2019, doi.org/10.1080/01621459.2017.1395341: a level for each
class). These levels are aimed at: they hold on average over draws of data like that of validation.
With other images, or another mix inside a class, they do not; `scores` counts what came out.
Images of one lesion are alike, so the count is of lesions (Lee, Barber and Willett 2023, arXiv
2306.06342). A short set is an answer. People believe an answer, so for malignant classes the level
is aimed at among the answers too.

Everywhere `truth` is (N,) int, `probabilities` (N, 7) calibrated, `lesions` (N,) ids. Thresholds
come from data that the network was not trained on, and their error rates from yet other data.
"""

import numpy as np

from dermai_utils.basics import CLASSES, MALIGNANT

LEVELS = np.array([0.97 if c in MALIGNANT else 0.9 for c in CLASSES])  # aimed at
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


def class_thresholds(truth, probabilities, lesions) -> np.ndarray:
    """(7,) float: the least probability at which each class is in the set, FLOOR or more.

    FLOOR for a class with too few lesions, or none: then only an improbable class is ruled out. To
    let it share a threshold with similar classes gave no more answers (five cheap networks, half of
    their validation lesions: 67 % of the test images either way), but sets without DF for 31 % of
    the DF in place of 8 %.
    """
    truth, probabilities, lesions = map(np.asarray, (truth, probabilities, lesions))
    each = [(probabilities[truth == k], lesions[truth == k]) for k in range(len(CLASSES))]
    limits = [quantile(1 - p[:, k], ids, LEVELS[k]) for k, (p, ids) in enumerate(each)]
    thresholds, before = np.maximum(FLOOR, 1 - np.array(limits)), None
    while not np.array_equal(thresholds, before):  # a lower one makes other answers fewer
        before = thresholds
        for k in np.flatnonzero(_IS_MALIGNANT):
            thresholds = _lowered(*each[k], k, thresholds)
    return thresholds


def _lowered(probabilities, lesions, k, thresholds):
    """`thresholds` with the highest one for class k, at most its own, at which enough answers about
    its rows hold the truth."""
    weights, own = _weights(lesions)[0], probabilities[:, k]
    lower = np.unique(own[(own < thresholds[k]) & (own > FLOOR)])[::-1]
    for candidate in (thresholds[k], *lower, FLOOR):
        thresholds = np.where(np.arange(len(CLASSES)) == k, candidate, thresholds)
        sets = prediction_sets(probabilities, thresholds)
        answered = is_answer(sets)
        missed = answered & ~sets[:, k]
        # the new lesion counts as a miss
        share = (weights[missed].sum() + 1) / (weights[answered].sum() + 1)
        if share <= 1 - LEVELS[k] + 1e-9:
            break
    return thresholds


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


def scores(truth, probabilities, thresholds, lesions=None) -> dict:
    """How often the sets are right on images that chose no threshold; None where nothing counts.

    held: the share whose set holds the true class; size: classes in a set, on average;
    answered: the share of sets that are an answer; answered_held: the share of the answers that
    hold the true class. Counts of images, for the line beside an answer: answers, for each of KINDS
    how many there are (n) and hold the truth (held); melanomas, how many there are (n), got an
    answer (answered), and one without melanoma (without). Beside a share of them, low and high:
    its exact 95 % interval by lesion (each image its own, where `lesions` is not given).
    """
    lesions = np.arange(len(truth)) if lesions is None else np.asarray(lesions)
    sets = prediction_sets(probabilities, thresholds)
    right, answered, kind = sets[np.arange(len(truth)), truth], is_answer(sets), kinds(sets)
    melanoma = truth == CLASSES.index("MEL")
    return {
        "n": len(truth),
        "held": _share(right),
        "size": _share(sets.sum(1)),
        "answered": _share(answered),
        "answered_held": _share(right[answered]),
        "answers": {k: _counted(right, kind == k, lesions, "held") for k in KINDS},
        "melanomas": {
            **_counted(~right, melanoma & answered, lesions, "without", "answered"),
            "n": melanoma.sum(),
        },
    }


def _counted(right, among, lesions, name, of="n"):
    from dermai_utils.intervals import rate  # it needs SciPy, and an answer does not

    found = rate(right[among], lesions[among])
    return {of: found["n"], name: found["k"], "low": found["low"], "high": found["high"]}


def _share(values):
    return values.mean() if len(values) else None
