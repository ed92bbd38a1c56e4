"""Predictions of made-up classifiers, and the table that belongs to them."""

import numpy as np
import pandas as pd

from dermai_utils import predictions
from dermai_utils.basics import CLASSES

SHARES = pd.Series([0.1, 0.6, 0.1, 0.05, 0.1, 0.025, 0.025], CLASSES)


def calibrated(n=400, seed=0, sharpness=1.0, decimals=None):
    """Truth drawn from probabilities, which are then made too sure (sharpness > 1) or too shy."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 7))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (rng.random((n, 1)) > chances.cumsum(1)[:, :-1]).sum(1)
    sharp = chances**sharpness / (chances**sharpness).sum(1, keepdims=True)
    return truth, sharp if decimals is None else sharp.round(decimals)


def arrays(n=300, seed=0, signal=1.5, decimals=None, classes=range(7)):
    """Random truth over `classes`, probabilities that know something about it, and lesions of 1 or
    2 images."""
    rng = np.random.default_rng(seed)
    lesions = np.sort(rng.integers(0, max(2 * n // 3, 1), n))
    truth = rng.choice(list(classes), n)[lesions % n]
    logits = rng.normal(size=(n, 7)) + signal * np.eye(7)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth, probabilities if decimals is None else probabilities.round(decimals), lesions


def rows(n=400, seed=0, signal=2.0, lesions=300, power=0.0, **columns):
    """Rows of predictions with the classes about as unequal as they are, each class at least once.

    `power`: the shares of the classes weigh on the probabilities to this power, as those of a
    network do that was trained on such shares (1) or with a balanced sampler (0).
    """
    rng = np.random.default_rng(seed)
    truth = np.r_[np.arange(7), rng.choice(7, n - 7, p=SHARES)]
    logits = 1.5 * rng.normal(size=(n, 7)) + signal * np.eye(7)[truth]
    p = np.exp(logits) * SHARES.to_numpy() ** power
    names = [f"ISIC_{seed}_{k:05d}" for k in range(n)]
    columns = {"lesion_id": [f"HAM_{seed}_{k}" for k in rng.integers(0, lesions, n)]} | columns
    columns = {"subset": "test", "origin": ""} | columns
    return predictions.table(names, truth, p / p.sum(1, keepdims=True), **columns)


def table_of(rows, seed=0):
    """A run's table whose images are those of `rows`, all of them trained on."""
    rng, n = np.random.default_rng(seed), len(rows)
    return pd.DataFrame(
        {
            "image": rows["image"],
            "label": rows["truth"],
            "subset": "train",
            "source": "train",
            "age": rng.choice([25.0, 30, 59, 60, np.nan], n),
            "sex": rng.choice(["male", "female", ""], n),
            "localization": rng.choice(["back", "unknown"], n),
            "confirmed_by": rng.choice(["histo", "follow_up"], n),
        }
    )
