"""Which class is which number? Found from images whose class is known, or refused."""

import itertools

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

from dermai_utils.basics import CLASSES, UserError

AGREE = 0.9  # share of a number's images that must have its class; labels may have been corrected
CLEAR = 3.0  # standard errors by which two classes must be told apart
ADVICE = "name the columns MEL, NV, BCC, AKIEC, BKL, DF and VASC"


def from_labels(numbers, labels, columns) -> dict:
    """{number: class} from images whose class number and class are both known.

    numbers (N,): the number that a table gives each image. labels (N,): of CLASSES. columns: the
    seven numbers. UserError unless each number stands for one class: a number without an image gets
    the class that is left, two such numbers are ambiguous.

    >>> from_labels([0, 0, 1, 2, 3, 4, 5], ["NV", "NV", *CLASSES[:1], *CLASSES[2:6]], range(7))[6]
    'VASC'
    """
    counts = pd.crosstab(np.asarray(numbers), np.asarray(labels))
    counts = counts.reindex(index=list(columns), columns=list(CLASSES), fill_value=0)
    rows, chosen = linear_sum_assignment(-counts.to_numpy())
    found = {int(counts.index[k]): CLASSES[c] for k, c in zip(rows, chosen, strict=True)}
    images = counts.sum(axis=1)
    if (images == 0).sum() > 1:
        absent = ", ".join(map(str, images.index[images == 0]))
        raise UserError(f"class numbers {absent} have no image whose class is known; {ADVICE}")
    for number, name in found.items():
        if counts.loc[number, name] < AGREE * images[number]:
            said = ", ".join(f"{n:,} {c}" for c, n in counts.loc[number].nlargest(2).items())
            raise UserError(f"class number {number} is no single class ({said}); {ADVICE}")
    return found


def from_probabilities(probabilities, labels, columns) -> dict:
    """{number: class} from the probabilities (N, 7) of images whose `labels` (N,) are known.

    Each column goes to the class whose images it ranks highest, all seven at once (the assignment
    with the largest sum of AUCs). UserError unless then the two columns of each pair of classes
    tell the images of the one from those of the other, by CLEAR standard errors (Mann-Whitney).

    >>> truth = np.arange(70) % 7
    >>> shifted = np.roll(np.eye(7)[truth], 1, axis=1)
    >>> from_probabilities(shifted, np.array(CLASSES)[truth], range(7))[0]
    'VASC'
    """
    p, labels = np.asarray(probabilities, float), np.asarray(labels)
    known = [labels == name for name in CLASSES]
    if absent := ", ".join(name for name in CLASSES if name not in set(labels)):
        why = f"no image is known to be {absent}"
        raise UserError(f"which class is which number is not known: {why}; {ADVICE}")
    ranks = rankdata(p, axis=0)
    mean = np.array([ranks[rows].mean(axis=0) for rows in known])  # (class, column)
    n = np.array([rows.sum() for rows in known])[:, None]
    aucs = (mean - (n + 1) / 2) / (len(p) - n).clip(1)
    _, column = linear_sum_assignment(-aucs)
    logs = np.log(np.clip(p[:, column], 1e-12, None))  # in the order of CLASSES
    for a, b in itertools.combinations(range(len(CLASSES)), 2):
        if _told_apart(logs[:, a] - logs[:, b], known[a], known[b]) < CLEAR:
            why = f"{CLASSES[a]} and {CLASSES[b]} may be swapped"
            raise UserError(f"which class is which number is not clear: {why}; {ADVICE}")
    return {int(list(columns)[k]): CLASSES[c] for c, k in enumerate(column)}


def _told_apart(score, one, other) -> float:
    """By how many standard errors the images `one` score higher than the `other`s."""
    n, m = one.sum(), other.sum()
    ranks = rankdata(np.r_[score[one], score[other]])[:n]
    area = (ranks.mean() - (n + 1) / 2) / m
    return (area - 0.5) / np.sqrt((n + m + 1) / (12 * n * m))
