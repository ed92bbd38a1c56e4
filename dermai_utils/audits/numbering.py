"""Which class is which number? Found from images whose class is known, or refused."""

import itertools

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import mannwhitneyu

from dermai_utils import metrics
from dermai_utils.basics import CLASSES, UserError

CLEAR = 0.00135  # one-sided p (three standard errors) below which two classes are told apart
ADVICE = "name the columns MEL, NV, BCC, AKIEC, BKL, DF and VASC"


def from_probabilities(probabilities, labels, columns) -> dict:
    """{number: class} from the probabilities (N, 7) of images whose `labels` (N,) are known.

    Each column goes to the class whose images it ranks highest, all seven at once (the assignment
    with the largest sum of AUCs). UserError unless then the two columns of each pair of classes
    tell the images of the one from those of the other (Mann-Whitney test, p below CLEAR).

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
    aucs = np.array([[metrics.auc(rows, score)[0] for score in p.T] for rows in known])
    _, column = linear_sum_assignment(-aucs)
    logs = np.log(np.clip(p[:, column], 1e-12, None))  # in the order of CLASSES
    options = dict(alternative="greater", method="asymptotic", use_continuity=False)
    for a, b in itertools.combinations(range(len(CLASSES)), 2):
        apart = logs[:, a] - logs[:, b]
        if not mannwhitneyu(apart[known[a]], apart[known[b]], **options).pvalue < CLEAR:
            why = f"{CLASSES[a]} and {CLASSES[b]} may be swapped"
            raise UserError(f"which class is which number is not clear: {why}; {ADVICE}")
    return {int(list(columns)[k]): CLASSES[c] for c, k in enumerate(column)}
