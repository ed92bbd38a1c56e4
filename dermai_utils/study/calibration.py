"""Can the probabilities be believed? Temperature scaling, calibration errors, reliability diagram.

Everywhere `truth` is (N,) int, `probabilities` is (N, K) float whose rows sum to 1, and confidence
is the largest of a row. Fit the temperature on data that the network was not trained on, and score
it on other data. Of no images every number is NaN.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest

from dermai_utils import predictions
from dermai_utils.metrics import ratio
from dermai_utils.predictions import arrays

ENOUGH = 200  # images of the test subset, to fit the temperature of the mean of folds on them
NEW = ""  # no subset has this name: images that are new to the run
_SMALLEST = np.finfo(float).eps  # an exact 0 has no logarithm; as in sklearn.metrics.log_loss


def fit_temperature(truth, probabilities) -> float:
    """The T, 0.05 to 20, at which `apply_temperature` has the least nll; over 1: the network was
    overconfident (Guo et al. 2017, arxiv.org/abs/1706.04599)."""
    if not len(truth):
        return np.nan

    def loss(log_temperature):
        return nll(truth, apply_temperature(probabilities, np.exp(log_temperature)))

    options = dict(bounds=np.log([0.05, 20]), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(minimize_scalar(loss, **options).x))


def apply_temperature(probabilities, temperature) -> np.ndarray:
    """(N, K) float: softmax(log p / T). It keeps the order of an image's classes, so the predicted
    class stays. `temperature`: a number, or (N, 1)."""
    return softmax(np.log(np.clip(probabilities, _SMALLEST, 1)) / temperature, axis=1)


def temperatures(subsets: dict) -> dict:
    """{subset: (N,) temperature for each of its rows, and NEW: the number for new images}.

    `subsets`: {name: rows of predictions}, with val. No row is calibrated by what was fitted on it:
    with folds, rows of a fold get the temperature of the other folds. Official, own and new images
    are judged by the mean of all networks, which is less sure than each: five cheap networks of 96
    px that were calibrated one by one had an expected calibration error of 0.023 on images that
    none had learned, their mean 0.048, and 0.028 to 0.032 with a temperature of its own. So the
    mean's temperature is fitted on the test subset, where there is one of ENOUGH images (and one
    half of its lesions by the other, to be scored). Else all get that of the single networks.
    """

    def fit(rows):
        return fit_temperature(*arrays(rows))

    single, mean = predictions.cross_fit(subsets["val"], fit), mean_of_folds(subsets)
    new = single[-1] if mean is None else fit(mean)
    found = {name: np.full(len(rows), new) for name, rows in subsets.items()} | {NEW: new}
    found["val"] = predictions.fitted_for(single, subsets["val"])
    if mean is not None:
        half = _halves(predictions.lesions(mean))
        found["test"] = np.where(half, fit(mean[~half]), fit(mean[half]))
    return found


def mean_of_folds(subsets: dict):
    """The rows on which the mean of all folds' networks can be calibrated; None without any."""
    test = subsets.get("test", ())
    return test if "fold" in subsets["val"] and len(test) >= ENOUGH else None


def _halves(lesions):
    """(N,) bool: one half of the lesions, by chance."""
    _, lesion = np.unique(lesions, return_inverse=True)
    return (np.random.default_rng(0).permutation(lesion.max() + 1) % 2 == 0)[lesion]


def nll(truth, probabilities) -> float:
    """Negative log-likelihood, nats an image: -log of the true class's probability, on average."""
    own = np.asarray(probabilities, float)[np.arange(len(truth)), np.asarray(truth, int)]
    return float(-np.log(np.clip(own, _SMALLEST, 1)).mean()) if len(truth) else np.nan


def brier(truth, probabilities) -> float:
    """Squared distance from the one-hot truth, summed over classes, 0 to 2, on average (Brier
    1950). Our own: scikit-learn before 1.7 has it for two classes only."""
    one_hot = np.eye(np.shape(probabilities)[1])[np.asarray(truth, int)]
    return float(np.square(probabilities - one_hot).sum(1).mean()) if len(truth) else np.nan


def ece(truth, probabilities, bins=15) -> float:
    """Expected calibration error, 0 to 1: |accuracy - confidence| over equally wide bins, weighted
    by their images (Naeini et al. 2015, doi.org/10.1609/aaai.v29i1.9602)."""
    table = reliability(truth, probabilities, bins)
    gaps = (table["accuracy"] - table["confidence"]).abs() * table["n"]
    return float(gaps.sum() / len(truth)) if len(truth) else np.nan


def reliability(truth, probabilities, bins=15) -> pd.DataFrame:
    """The reliability diagram, one row for each of `bins` equally wide bins of confidence, empty
    ones too. A bin holds its upper edge, not its lower one.

    Columns: bin (its middle), n (images), confidence and accuracy (means), low and high (Wilson's
    95 % interval of accuracy, doi.org/10.1080/01621459.1927.10502953); NaN where n is 0.
    """
    confidence, right = np.max(probabilities, axis=1), np.argmax(probabilities, axis=1) == truth
    which = np.linspace(0, 1, bins + 1)[1:-1].searchsorted(confidence)
    n, hits = (np.bincount(which, weights, bins).astype(int) for weights in (None, right))
    table = pd.DataFrame({"bin": (np.arange(bins) + 0.5) / bins, "n": n})
    table["confidence"] = ratio(np.bincount(which, confidence, bins), n)
    table["accuracy"] = ratio(hits, n)
    table[["low", "high"]] = [_wilson(*row) for row in zip(hits, n, strict=True)]
    return table


def _wilson(hits, n):
    return tuple(binomtest(hits, n).proportion_ci(method="wilson")) if n else (np.nan, np.nan)
