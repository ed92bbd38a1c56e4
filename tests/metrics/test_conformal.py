import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermai_utils.metrics import conformal

RANDOM = np.random.default_rng(0)
# as unequal as the real classes, with 40 images in the smallest
SHARES = np.array([0.11, 0.60, 0.05, 0.04, 0.11, 0.05, 0.04])


def images(n):
    """Truth and probabilities of a classifier that is bad at rare classes, so that one threshold
    for all can't suit them."""
    truth = RANDOM.choice(7, n, p=SHARES)
    logits = (
        RANDOM.normal(0, 1, (n, 7)) + 3 * np.sqrt(SHARES) * np.eye(7)[truth] + 2 * np.log(SHARES)
    )
    return truth, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_sets_hold_each_class_as_often_as_promised():
    """The oracle is the theory: of images of one kind, coverage is ceil((n + 1) 0.9) / (n + 1) on
    average over draws."""
    held, expected = [], []
    for _ in range(60):
        truth, probabilities = images(1000)
        thresholds = conformal.class_thresholds(truth, probabilities)
        n = np.bincount(truth, minlength=7)
        new_truth, new = images(2000)
        sets = conformal.prediction_sets(new, thresholds)
        right = sets[np.arange(2000), new_truth]
        held.append([right[new_truth == k].mean() for k in range(7)])
        expected.append(np.ceil((n + 1) * 0.9) / (n + 1))
    np.testing.assert_allclose(np.mean(held, 0), np.mean(expected, 0), atol=0.02)
    assert np.mean(held, 0).min() >= 0.89


def test_one_threshold_for_all_would_not_do_that():
    """The simulation is one where it matters, so the test above can fail."""
    truth, probabilities = images(50_000)
    own = probabilities[np.arange(len(truth)), truth]
    right = own >= 1 - conformal.quantile(1 - own, 0.9)
    assert right.mean() == pytest.approx(0.9, abs=0.005)
    assert min(right[truth == k].mean() for k in range(7)) < 0.8


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=0, max_size=60), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_quantile_leaves_enough_scores_under_it(scores, level):
    limit = conformal.quantile(scores, level)
    under = sum(score <= limit for score in scores)
    assert under >= (len(scores) + 1) * level - 1e-6 or np.isinf(limit)
    assert np.isinf(limit) == ((len(scores) + 1) * level > len(scores) + 1e-6)


def test_a_class_with_too_few_images_shares_the_threshold_of_all():
    truth = np.array([0] * 20 + [1] * 8)  # nine would be enough
    probabilities = np.full((28, 7), 0.01)
    probabilities[np.arange(28), truth] = [0.5 + 0.02 * k for k in range(20)] + [0.2] * 8
    thresholds = conformal.class_thresholds(truth, probabilities)
    assert thresholds[0] == pytest.approx(0.5 + 0.02)  # the 19th of 20 scores, ceil(21 * 0.9)
    everyone = conformal.quantile(1 - probabilities[np.arange(28), truth], 0.9)
    assert thresholds[1:] == pytest.approx(1 - everyone)
    # nothing is known: nothing ruled out
    assert conformal.class_thresholds(truth[:5], probabilities[:5]) == pytest.approx(0)


def test_an_answer_has_one_or_two_classes():
    sets = np.array([[k < n for k in range(7)] for n in range(8)])
    assert conformal.is_answer(sets).tolist() == [False, True, True] + [False] * 5
