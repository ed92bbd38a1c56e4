"""Can the probabilities be believed? Temperature scaling, calibration errors, reliability diagram.

Everywhere `truth` is (N,) int, `probabilities` is (N, K) float whose rows sum to 1, and confidence
is the largest of a row. Logarithms take an exact 0 as the smallest float64 step, 2.2e-16. Fit the
temperature on validation data and score it on other data. Of no images every number is NaN.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest, rankdata

from dermai_utils.metrics import ratio

_SMALLEST = np.finfo(float).eps  # as sklearn.metrics.log_loss


def fit_temperature(truth, probabilities) -> float:
    """The T, 0.05 to 20, at which `apply_temperature` has the least nll; over 1: the network was
    overconfident.

    Guo et al. 2017, arxiv.org/abs/1706.04599. Fit on validation data only.
    """
    if not len(truth):
        return np.nan

    def loss(log_temperature):
        return nll(truth, apply_temperature(probabilities, np.exp(log_temperature)))

    options = dict(bounds=np.log([0.05, 20]), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(minimize_scalar(loss, **options).x))


def apply_temperature(probabilities, temperature: float) -> np.ndarray:
    """(N, K) float: softmax(log p / T). It keeps the order of an image's classes, so the predicted
    class stays."""
    return softmax(np.log(np.clip(probabilities, _SMALLEST, 1)) / temperature, axis=1)


def nll(truth, probabilities) -> float:
    """Negative log-likelihood, nats an image: -log of the true class's probability, on average."""
    return _mean(-np.log(np.clip(_of_truth(truth, probabilities), _SMALLEST, 1 - _SMALLEST)))


def brier(truth, probabilities) -> float:
    """Squared distance from the one-hot truth, summed over classes, 0 to 2, on average (Brier
    1950)."""
    return _mean(np.square(probabilities).sum(1) - 2 * _of_truth(truth, probabilities) + 1)


def ece(truth, probabilities, bins=15) -> float:
    """Expected calibration error, 0 to 1: |accuracy - confidence| over equally wide bins, weighted
    by their images.

    Naeini et al. 2015, doi.org/10.1609/aaai.v29i1.9602; a bin holds its upper edge, not its lower
    one.
    """
    confidence, right = _top(truth, probabilities)
    return _gap(_wide_bins(confidence, bins), confidence, right)


def adaptive_ece(truth, probabilities, bins=15) -> float:
    """As `ece`, over bins of equally many images; images of equal confidence share a bin (Nixon et
    al. 2019, arxiv.org/abs/1904.01685, here for the predicted class only)."""
    confidence, right = _top(truth, probabilities)
    share = (rankdata(confidence) - 0.5) / max(len(right), 1)
    return _gap((share * bins).astype(int), confidence, right)


def reliability(truth, probabilities, bins=15) -> pd.DataFrame:
    """The reliability diagram, one row for each of `bins` equally wide bins of confidence, empty
    ones too.

    Columns: bin (its middle), n (images), confidence and accuracy (means), low and high (Wilson's
    95 % interval of accuracy, doi.org/10.1080/01621459.1927.10502953); NaN where n is 0.
    """
    confidence, right = _top(truth, probabilities)
    which = _wide_bins(confidence, bins)
    n, hits = (np.bincount(which, weights, bins).astype(int) for weights in (None, right))
    table = pd.DataFrame({"bin": (np.arange(bins) + 0.5) / bins, "n": n})
    table["confidence"] = ratio(np.bincount(which, confidence, bins), n)
    table["accuracy"] = ratio(hits, n)
    table[["low", "high"]] = [_wilson(*row) for row in zip(hits, n, strict=True)]
    return table


def _wilson(hits, n):
    return tuple(binomtest(hits, n).proportion_ci(method="wilson")) if n else (np.nan, np.nan)


def _of_truth(truth, probabilities):
    return np.asarray(probabilities, float)[np.arange(len(truth)), np.asarray(truth, int)]


def _top(truth, probabilities):
    """(N,) float and (N,) bool: the confidence of each prediction, and whether it is right."""
    probabilities = np.asarray(probabilities, float)
    return probabilities.max(1), probabilities.argmax(1) == truth


def _wide_bins(confidence, bins):
    return np.linspace(0, 1, bins + 1)[1:-1].searchsorted(confidence)


def _gap(which, confidence, right):
    """Sum over bins of |accuracy - confidence| times the share of images in the bin."""
    gaps = np.abs(np.bincount(which, right - confidence))
    return float(gaps.sum() / len(right)) if len(right) else np.nan


def _mean(values):
    return float(np.mean(values)) if len(values) else np.nan
