"""Every number against sklearn, scipy or a loop that counts by hand; every choice against all other
choices."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made
from sklearn.metrics import confusion_matrix, recall_score, roc_curve

from dermai_utils.config import UserError
from dermai_utils.metrics import decisions as dec

scored = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=40)

seeds, sizes = st.integers(0, 10**6), st.integers(1, 60)


@settings(max_examples=40, deadline=None)
@given(seeds, st.lists(st.floats(0.01, 1), min_size=7, max_size=7))
def test_prior_adjusted_is_bayes_with_an_even_prior(seed, prior):
    prior = np.array(prior) / sum(prior)
    likelihood = np.random.default_rng(seed).random((20, 7)) + 0.01  # p(image | class)
    posterior = likelihood * prior / (likelihood * prior).sum(1, keepdims=True)
    adjusted = dec.prior_adjusted(posterior, prior)
    np.testing.assert_allclose(adjusted, likelihood / likelihood.sum(1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(
        dec.prior_adjusted(posterior, np.full(7, 1 / 7)), posterior, atol=1e-12
    )


def test_prior_adjusted_trades_accuracy_for_balanced_accuracy():
    rng, prior = np.random.default_rng(3), np.array([0.11, 0.67, 0.05, 0.03, 0.11, 0.01, 0.02])
    truth = rng.choice(7, 20_000, p=prior)
    # that of the image under each class
    density = np.exp(2 * (rng.normal(size=(20_000, 7)) + 2 * np.eye(7)[truth]))
    probabilities = density * prior / (density * prior).sum(1, keepdims=True)
    rules = [p.argmax(1) for p in (probabilities, dec.prior_adjusted(probabilities, prior))]
    accuracy = [np.mean(rule == truth) for rule in rules]
    balanced = [recall_score(truth, rule, average="macro") for rule in rules]
    assert accuracy[0] > accuracy[1] and balanced[1] > balanced[0] + 0.02


def test_a_class_that_was_never_trained_stays_out():
    adjusted = dec.prior_adjusted(np.full((2, 7), 1 / 7), [0, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert adjusted[:, 0].tolist() == [0, 0] and adjusted.sum(1) == pytest.approx(1)
    for prior in ([0] * 7, [-1, 2, 0, 0, 0, 0, 0]):
        with pytest.raises(UserError, match="a share of the images"):
            dec.prior_adjusted(np.ones((1, 7)), prior)


@settings(max_examples=150, deadline=None)
@given(
    scored,
    st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.95, 1.0]),
    st.sampled_from(["sensitivity", "specificity"]),
)
def test_no_other_threshold_is_better(pairs, asked, rate):
    positive, score = np.array(pairs, int).T
    other = {"sensitivity": "specificity", "specificity": "sensitivity"}[rate]
    chosen = dec.threshold_at(positive, score, **{rate: asked})
    if not (positive if rate == "sensitivity" else 1 - positive).any():
        assert np.isnan(chosen)
        return
    point = dec.operating_point(positive, score, chosen)
    assert point[rate] >= asked
    points = [dec.operating_point(positive, score, t) for t in [*np.arange(-0.5, 9), np.inf]]
    allowed = [p[other] for p in points if p[rate] >= asked and p[other] is not None]
    assert not allowed or point[other] == max(allowed)


def test_thresholds_lie_on_the_roc_curve():
    rng = np.random.default_rng(4)
    positive = rng.integers(0, 2, 500)
    score = rng.normal(size=500) + positive
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    at = dec.operating_point(positive, score, dec.threshold_at(positive, score, specificity=0.9))
    assert at["sensitivity"] == pytest.approx(tpr[1 - fpr >= 0.9].max())
    at = dec.operating_point(positive, score, dec.threshold_at(positive, score, sensitivity=0.95))
    assert at["specificity"] == pytest.approx(1 - fpr[tpr >= 0.95].min())


@settings(max_examples=60, deadline=None)
@given(scored, st.integers(0, 9))
def test_operating_point_agrees_with_sklearn(pairs, threshold):
    positive, score = np.array(pairs, int).T
    tn, fp, fn, tp = confusion_matrix(positive, score >= threshold, labels=[0, 1]).ravel()
    subsets = dict(
        sensitivity=(tp, tp + fn), specificity=(tn, tn + fp), ppv=(tp, tp + fp), npv=(tn, tn + fn)
    )
    point = dec.operating_point(positive, score, threshold)
    assert point["n"] == len(positive) and point["threshold"] == threshold
    for name, (subset, whole) in subsets.items():
        assert point[name] == (pytest.approx(subset / whole) if whole else None)
    json.dumps(point, allow_nan=False)


def test_a_threshold_needs_one_rate_and_images():
    for rates in ({}, {"specificity": 0.9, "sensitivity": 0.9}):
        with pytest.raises(UserError, match="one rate"):
            dec.threshold_at([0, 1], [0.1, 0.9], **rates)
    nothing = dec.operating_point([0, 1], [0.1, 0.9], np.nan)
    assert nothing == dict(
        threshold=None, sensitivity=None, specificity=None, ppv=None, npv=None, n=2
    )
    none_called = dec.operating_point(
        [1, 0], [0.5, 0.9], dec.threshold_at([1, 0], [0.5, 0.9], specificity=1)
    )
    assert none_called == dict(threshold=None, sensitivity=0, specificity=1, ppv=None, npv=0.5, n=2)


@settings(max_examples=40, deadline=None)
@given(seeds, sizes)
def test_risk_coverage_counted_by_hand(seed, n):
    truth, probabilities = made(n, seed)
    table = dec.risk_coverage(truth, probabilities)
    surest = sorted(range(n), key=lambda i: -probabilities[i].max())
    wrong = [probabilities[i].argmax() != truth[i] for i in surest]
    assert table["coverage"].tolist() == pytest.approx([k / n for k in range(1, n + 1)])
    assert table["risk"].tolist() == pytest.approx([sum(wrong[:k]) / k for k in range(1, n + 1)])
    assert table["confidence"].tolist() == [probabilities[i].max() for i in surest]
    assert dec.aurc(truth, probabilities) == pytest.approx(table["risk"].mean())


def test_ties_are_answered_in_the_order_of_chance():
    """The mean of the curve over all orders of equally sure images."""
    truth = np.array([0, 1, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.55, 0.45]])
    rng = np.random.default_rng(0)
    wrong = np.array([[0, *rng.permutation([1, 0, 0]), 1] for _ in range(20_000)])
    expected = (wrong.cumsum(1) / np.arange(1, 6)).mean(0)
    assert dec.risk_coverage(truth, probabilities)["risk"].tolist() == pytest.approx(
        expected, abs=0.01
    )
