"""Predictions of a made-up classifier."""

import numpy as np


def made(n=400, seed=0, sharpness=1.0, decimals=None):
    """Truth drawn from calibrated probabilities, which are then made too sure (sharpness > 1) or
    too shy."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 7))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (rng.random((n, 1)) > chances.cumsum(1)[:, :-1]).sum(1)
    sharp = chances**sharpness / (chances**sharpness).sum(1, keepdims=True)
    return truth, sharp if decimals is None else sharp.round(decimals)
