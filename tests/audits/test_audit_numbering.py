"""Class numbers: any permutation is recovered, or refused; never another one."""

import numpy as np
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
