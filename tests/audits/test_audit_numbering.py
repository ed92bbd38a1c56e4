"""Class numbers: any permutation is recovered, or refused; never another one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermai_utils.audits import numbering
from dermai_utils.basics import CLASSES, UserError

NAMES = np.array(CLASSES)
ORDERS = st.permutations(range(7))
COUNTS = st.lists(st.integers(0, 60), min_size=7, max_size=7)
SEEDS = st.integers(0, 10_000)


def predicted(order, counts, signal, seed):
    """(probabilities with column k for class order[k], labels)."""
    rng, truth = np.random.default_rng(seed), np.repeat(np.arange(7), counts)
    logits = rng.normal(size=(len(truth), 7)) + signal * np.eye(7)[truth]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p[:, list(order)], NAMES[truth]


@settings(max_examples=150, deadline=None)
@given(order=ORDERS, counts=COUNTS, signal=st.sampled_from([0, 0.3, 1, 4]), seed=SEEDS)
def test_a_permutation_is_found_from_probabilities_or_refused(order, counts, signal, seed):
    try:
        found = numbering.from_probabilities(*predicted(order, counts, signal, seed), range(1, 8))
    except UserError as reason:
        assert "name the columns MEL, NV" in str(reason)
        assert signal < 4 or min(counts) < 20  # such predictions leave no doubt
    else:
        assert signal > 0
        assert found == {k + 1: CLASSES[c] for k, c in enumerate(order)}


@settings(max_examples=150, deadline=None)
@given(order=ORDERS, counts=COUNTS, noise=st.sampled_from([0, 0.02, 0.5]), seed=SEEDS)
def test_a_permutation_is_found_from_labels_or_refused(order, counts, noise, seed):
    rng, truth = np.random.default_rng(seed), np.repeat(np.arange(7), counts)
    given_numbers = np.argsort(order)[truth]
    wrong = rng.random(len(truth)) < noise
    labels = NAMES[np.where(wrong, rng.integers(0, 7, len(truth)), truth)]
    try:
        found = numbering.from_labels(given_numbers, labels, range(7))
    except UserError as reason:
        assert noise or counts.count(0) > 1, reason
    else:
        if not noise:
            assert found == {k: CLASSES[c] for k, c in enumerate(order)}
            assert counts.count(0) < 2


def test_a_number_with_two_classes_is_refused():
    with pytest.raises(UserError, match="number 0 is no single class .2 MEL, 1 NV"):
        numbering.from_labels([0, 0, 0, *range(1, 7)], ["MEL", "MEL", "NV", *CLASSES[1:]], range(7))
