"""Conformal sets: the diagnoses that cannot be ruled out.

A set holds the true class for 90 % of the images of each class (Sadinle, Lei and Wasserman 2019,
doi.org/10.1080/01621459.2017.1395341). The thresholds are fixed on validation data.
"""

import numpy as np

from dermai_utils.config import CLASSES

COVERAGE = 0.9  # of each class's images, the share whose set holds the class
MAX_ANSWER = 2  # classes: a larger set (or an empty one) is no answer


def quantile(scores, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores; inf where n is too small (under 9 for 0.9).

    Another score of their kind is at most that with a chance of `level`.
    """
    rank = int(np.ceil(round((len(scores) + 1) * level, 9)))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else np.inf


def class_thresholds(truth, probabilities, level: float = COVERAGE) -> np.ndarray:
    """(7,) float: the least probability at which each class is in the set.

    `truth` (N,) and `probabilities` (N, 7) of validation. Each class by its own images, so that a
    rare one is held as often as a common one. A class with too few shares the threshold of all
    (Ding et al. 2023, arXiv 2306.09335); where all are too few it is 0, and no class is ruled out.
    """
    own = probabilities[np.arange(len(truth)), truth]
    everyone = quantile(1 - own, level)
    limits = [quantile(1 - own[truth == k], level) for k in range(len(CLASSES))]
    return np.array([max(0.0, 1 - (x if np.isfinite(x) else everyone)) for x in limits])


def prediction_sets(probabilities, thresholds) -> np.ndarray:
    """(N, 7) bool: which classes cannot be ruled out. A row can be empty: no class is probable."""
    return probabilities >= thresholds


def is_answer(sets) -> np.ndarray:
    """(N,) bool: whether a set (N, 7) is small enough to be given as an answer; else "unsure"."""
    return (sets.sum(1) >= 1) & (sets.sum(1) <= MAX_ANSWER)


def scores(truth, probabilities, thresholds) -> dict:
    """How often the sets are right on calibrated `probabilities` (N, 7) that chose no threshold.

    held: the share whose set holds the true class, in all and by class; size: classes in a set;
    answered: the share of sets that are an answer; answered_held: of these, the share that holds
    the true class, which nothing promises to be 90 %.
    """
    sets = prediction_sets(probabilities, thresholds)
    right, answered = sets[np.arange(len(truth)), truth], is_answer(sets)
    by_class = {
        c: {
            "n": (truth == k).sum(),
            "held": right[truth == k].mean() if (truth == k).any() else None,
        }
        for k, c in enumerate(CLASSES)
    }
    return {
        "n": len(truth),
        "held": right.mean(),
        "by_class": by_class,
        "size": sets.sum(1).mean(),
        "answered": answered.mean(),
        "answered_held": right[answered].mean() if answered.any() else None,
    }
