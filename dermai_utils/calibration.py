"""Can the probabilities be believed, and what to decide by them: calibration, decision rules, thresholds, abstaining.

Everywhere, `truth` is (N,) int, `probabilities` (N, K) float summing to 1, confidence the largest of a row, and 0 an
exact zero that logarithms take as the smallest float64 step, 2.2e-16. Whatever is fitted or chosen (temperature, prior,
threshold) takes validation data; what it gives is then scored on other data. Of no images every number is NaN.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import norm, rankdata

from dermai_utils.config import UserError

_SMALLEST = np.finfo(float).eps  # as sklearn.metrics.log_loss


def fit_temperature(truth, probabilities) -> float:
    """The T, 0.05 to 20, at which `apply_temperature` has the least nll; over 1: the model was too sure.

    Guo et al. 2017, arxiv.org/abs/1706.04599. Fit on validation data only.
    """
    if not len(truth):
        return np.nan

    def loss(log_temperature):
        return nll(truth, apply_temperature(probabilities, np.exp(log_temperature)))

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.05, 20]), method="bounded", options={"xatol": 1e-6}).x))


def apply_temperature(probabilities, temperature: float) -> np.ndarray:
    """(N, K) float: softmax(log p / T). The ranking of the classes of an image, and so its prediction, stays."""
    return softmax(np.log(np.clip(probabilities, _SMALLEST, 1)) / temperature, axis=1)


def nll(truth, probabilities) -> float:
    """Negative log-likelihood, nats an image: -log of the true class's probability, on average."""
    return _mean(-np.log(np.clip(_of_truth(truth, probabilities), _SMALLEST, 1 - _SMALLEST)))


def brier(truth, probabilities) -> float:
    """Squared distance from the one-hot truth, summed over classes, 0 to 2, on average (Brier 1950)."""
    return _mean(np.square(probabilities).sum(1) - 2 * _of_truth(truth, probabilities) + 1)


def ece(truth, probabilities, bins=15) -> float:
    """Expected calibration error, 0 to 1: |accuracy - confidence| over equally wide bins, weighted by their images.

    Naeini et al. 2015, doi.org/10.1609/aaai.v29i1.9602; a bin holds its upper edge, not its lower one.
    """
    confidence, right = _top(truth, probabilities)
    return _gap(_wide_bins(confidence, bins), confidence, right)


def adaptive_ece(truth, probabilities, bins=15) -> float:
    """As `ece`, over bins of equally many images; images of equal confidence share a bin (Nixon et al. 2019,
    arxiv.org/abs/1904.01685, here for the predicted class only)."""
    confidence, right = _top(truth, probabilities)
    return _gap(((rankdata(confidence) - 0.5) / max(len(right), 1) * bins).astype(int), confidence, right)


def reliability(truth, probabilities, bins=15) -> pd.DataFrame:
    """The reliability diagram, one row for each of `bins` equally wide bins of confidence, empty ones too.

    Columns: bin (its middle), n (images), confidence and accuracy (means), low and high (Wilson's 95 % interval of
    accuracy, doi.org/10.1080/01621459.1927.10502953); NaN where n is 0.
    """
    confidence, right = _top(truth, probabilities)
    which = _wide_bins(confidence, bins)
    n = np.bincount(which, minlength=bins)
    sure, hits = (_ratio(np.bincount(which, values, bins), n) for values in (confidence, right))
    low, high = wilson(hits, n)
    middle = (np.arange(bins) + 0.5) / bins
    return pd.DataFrame({"bin": middle, "n": n, "confidence": sure, "accuracy": hits, "low": low, "high": high})


def wilson(share, n, level=0.95):
    """(low, high) of a binomial share of `n`, Wilson's score interval; NaN where `n` is 0."""
    z = norm.ppf((1 + level) / 2)
    centre = _ratio(share + _ratio(z * z / 2, n), 1 + _ratio(z * z, n))
    half = _ratio(z * np.sqrt(_ratio(share * (1 - share), n) + _ratio(z * z / 4, np.square(n))), 1 + _ratio(z * z, n))
    return centre - half, centre + half


def prior_adjusted(probabilities, prior) -> np.ndarray:
    """(N, K) float: probabilities divided by the classes' `prior` (K,), their shares in training, and renormalised.

    If they are calibrated, the argmax of these has the best expected balanced accuracy, as the argmax of
    `probabilities` has the best accuracy (Menon et al. 2013, proceedings.mlr.press/v28/menon13a.html). A class of
    prior 0 gets probability 0. Raises UserError for a prior that can't be one.
    """
    prior = np.asarray(prior, float)
    if (prior < 0).any() or not prior.any():
        raise UserError(f"a prior is a share of the images for each class, none negative, got {prior.tolist()}")
    scaled = probabilities * np.divide(1, prior, out=np.zeros_like(prior), where=prior > 0)
    return scaled / np.maximum(scaled.sum(1, keepdims=True), np.finfo(float).tiny)


def threshold_at(positive, score, *, specificity=None, sensitivity=None) -> float:
    """The score from which on to call positive, so that one rate is at least as asked and the other is at its best.

    `positive` (N,) 0/1, `score` (N,) float, both of validation data; give one of the two rates, 0 to 1. It is one of
    the scores, inf if none may be called, NaN if the rate has no images to be counted on.
    """
    positive, score = np.asarray(positive, bool), np.asarray(score, float)
    if (specificity is None) == (sensitivity is None):
        raise UserError("a threshold is for one rate: give specificity or sensitivity, not both")
    candidates = np.append(np.unique(score), np.inf)  # ascending: sensitivity falls, specificity rises
    counted = np.sort(score[positive] if specificity is None else score[~positive])
    if not len(counted):
        return np.nan
    under = np.searchsorted(counted, candidates) / len(counted)  # share of them below each candidate
    if specificity is not None:
        return float(candidates[np.argmax(under >= specificity - 1e-12)])
    return float(candidates[np.flatnonzero(1 - under >= sensitivity - 1e-12)[-1]])


def operating_point(positive, score, threshold: float) -> dict:
    """Sensitivity, specificity, ppv and npv when score >= `threshold` is called positive; None where not defined.

    Ready for JSON: a threshold of inf (nothing is called) or NaN (nothing is known) is None too.
    """
    positive, called = np.asarray(positive, bool), np.asarray(score) >= threshold
    rates = {
        "sensitivity": _mean(called[positive]),
        "specificity": _mean(~called[~positive]),
        "ppv": _mean(positive[called]),
        "npv": _mean(~positive[~called]),
    }
    if np.isnan(threshold):
        rates = dict.fromkeys(rates, np.nan)
    plain = {name: None if np.isnan(rate) else rate for name, rate in rates.items()}
    return {"threshold": float(threshold) if np.isfinite(threshold) else None, **plain, "n": len(positive)}


def risk_coverage(truth, probabilities) -> pd.DataFrame:
    """What abstaining from the least sure images buys, one row an image, the surest first.

    Columns: coverage (share answered so far, 1/N to 1), risk (share of those that is wrong), confidence (of the last
    one). Among equally sure images the order is chance, so each counts with the errors of all of them on average.
    """
    confidence, right = _top(truth, probabilities)
    errors = pd.DataFrame({"confidence": confidence, "risk": 1.0 - right})
    errors["risk"] = errors.groupby("confidence")["risk"].transform("mean")
    errors = errors.sort_values("confidence", ascending=False, kind="stable", ignore_index=True)
    answered = np.arange(1, len(errors) + 1)
    coverage, risk = answered / max(len(errors), 1), errors["risk"].cumsum() / answered
    return pd.DataFrame({"coverage": coverage, "risk": risk, "confidence": errors["confidence"]})


def aurc(truth, probabilities) -> float:
    """Area under risk against coverage, 0 at best: the mean risk (Geifman et al. 2019, arxiv.org/abs/1805.08206)."""
    return _mean(risk_coverage(truth, probabilities)["risk"])


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
    return float(np.abs(np.bincount(which, right - confidence)).sum() / len(right)) if len(right) else np.nan


def _mean(values):
    return float(np.mean(values)) if len(values) else np.nan


def _ratio(part, whole):
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(whole) == 0, np.nan, np.divide(part, whole))
