"""Every number against sklearn, scipy or a loop that counts by hand; every choice against all other choices."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, mean_squared_error, recall_score, roc_curve

from dermai_utils import calibration as cal
from dermai_utils.config import UserError

seeds, sizes = st.integers(0, 10**6), st.integers(1, 60)


def made(n=400, seed=0, sharpness=1.0, decimals=None):
    """Truth drawn from calibrated probabilities, which are then made too sure (sharpness > 1) or too shy."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 7))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (rng.random((n, 1)) > chances.cumsum(1)[:, :-1]).sum(1)
    sharp = chances**sharpness / (chances**sharpness).sum(1, keepdims=True)
    return truth, sharp if decimals is None else sharp.round(decimals)


@settings(max_examples=40, deadline=None)
@given(seeds, sizes)
def test_scores_agree_with_sklearn(seed, n):
    truth, probabilities = made(n, seed)
    assert cal.nll(truth, probabilities) == pytest.approx(log_loss(truth, probabilities, labels=range(7)), abs=1e-12)
    expected = 7 * mean_squared_error(np.eye(7)[truth], probabilities)  # sklearn before 1.7 has its Brier score for two classes
    assert cal.brier(truth, probabilities) == pytest.approx(expected, abs=1e-12)


def test_a_sure_mistake_costs_what_sklearn_says():
    truth, sure = np.array([0, 1]), np.eye(7)[[0, 2]]
    assert cal.nll(truth, sure) == pytest.approx(log_loss(truth, sure, labels=range(7)))
    assert cal.brier(truth, sure) == 1


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_temperature_undoes_sharpening(sharpness):
    truth, probabilities = made(20_000, 1, sharpness)
    found = cal.fit_temperature(truth, probabilities)
    assert found == pytest.approx(sharpness, rel=0.05)
    truth_log = np.log(probabilities)

    def loss(t):  # another optimiser, on another form of the same loss
        scaled = truth_log / t
        return np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(truth)), truth])

    assert found == pytest.approx(minimize(loss, 1.0, method="Nelder-Mead", tol=1e-9).x[0], rel=1e-4)
    fixed = cal.apply_temperature(probabilities, found)
    assert cal.ece(truth, fixed) < 0.02 and cal.adaptive_ece(truth, fixed) < 0.02
    if sharpness != 1:
        assert cal.ece(truth, fixed) < 0.2 * cal.ece(truth, probabilities)
        assert cal.nll(truth, fixed) < cal.nll(truth, probabilities)


@settings(max_examples=40, deadline=None)
@given(seeds, sizes, st.floats(0.1, 10))
def test_temperature_keeps_the_order_and_has_an_inverse(seed, n, temperature):
    _, probabilities = made(n, seed)
    scaled = cal.apply_temperature(probabilities, temperature)
    np.testing.assert_allclose(scaled.sum(1), 1)
    assert (scaled.argmax(1) == probabilities.argmax(1)).all()
    if temperature > 0.5:  # else the smallest fall under the floor
        np.testing.assert_allclose(cal.apply_temperature(scaled, 1 / temperature), probabilities, atol=1e-9)
    np.testing.assert_allclose(cal.apply_temperature(probabilities, 1), probabilities, atol=1e-12)


def ece_by_hand(truth, probabilities, bins):
    total = 0
    for low, high in zip(np.arange(bins) / bins, np.arange(1, bins + 1) / bins, strict=True):
        inside = [i for i, p in enumerate(probabilities) if low < max(p) <= high]
        if inside:
            right = np.mean([probabilities[i].argmax() == truth[i] for i in inside])
            total += abs(right - np.mean([max(probabilities[i]) for i in inside])) * len(inside) / len(truth)
    return total


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, st.integers(1, 20), st.sampled_from([None, 1]))
def test_ece_counted_by_hand(seed, n, bins, decimals):
    truth, probabilities = made(n, seed, decimals=decimals)
    assert cal.ece(truth, probabilities, bins) == pytest.approx(ece_by_hand(truth, probabilities, bins), abs=1e-12)
    table = cal.reliability(truth, probabilities, bins).query("n > 0")
    from_table = (table["n"] * (table["accuracy"] - table["confidence"]).abs()).sum() / n
    assert cal.ece(truth, probabilities, bins) == pytest.approx(from_table, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 8), st.integers(1, 9))
def test_adaptive_bins_hold_equally_many(seed, bins, each):
    truth, probabilities = made(bins * each, seed)
    order = np.argsort(probabilities.max(1))
    gaps = [
        abs(np.mean(probabilities[part].argmax(1) == truth[part]) - probabilities[part].max(1).mean())
        for part in np.split(order, bins)
    ]
    assert cal.adaptive_ece(truth, probabilities, bins) == pytest.approx(np.mean(gaps), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seeds, sizes, st.sampled_from([None, 1]))
def test_the_order_of_the_rows_does_not_matter(seed, n, decimals):
    truth, probabilities = made(n, seed, decimals=decimals)
    order = np.random.default_rng(seed).permutation(n)
    for number in (cal.nll, cal.brier, cal.ece, cal.adaptive_ece, cal.aurc):
        assert number(truth[order], probabilities[order]) == pytest.approx(number(truth, probabilities), abs=1e-12)


def test_reliability_has_every_bin_and_wilson_from_scipy():
    truth, probabilities = made(300, 2)
    table = cal.reliability(truth, probabilities, 10)
    assert table["bin"].tolist() == pytest.approx([0.05 + k / 10 for k in range(10)]) and table["n"].sum() == 300
    for row in table.itertuples():
        if row.n:
            interval = binomtest(round(row.accuracy * row.n), row.n).proportion_ci(method="wilson")
            assert (row.low, row.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
            assert abs(row.confidence - row.bin) <= 0.05
    assert table["n"].iloc[0] == 0 and table.iloc[0, 2:].isna().all()  # the surest of 7 has over 1/7


@settings(max_examples=40, deadline=None)
@given(seeds, st.lists(st.floats(0.01, 1), min_size=7, max_size=7))
def test_prior_adjusted_is_bayes_with_an_even_prior(seed, prior):
    prior = np.array(prior) / sum(prior)
    likelihood = np.random.default_rng(seed).random((20, 7)) + 0.01  # p(image | class)
    posterior = likelihood * prior / (likelihood * prior).sum(1, keepdims=True)
    adjusted = cal.prior_adjusted(posterior, prior)
    np.testing.assert_allclose(adjusted, likelihood / likelihood.sum(1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(cal.prior_adjusted(posterior, np.full(7, 1 / 7)), posterior, atol=1e-12)


def test_prior_adjusted_trades_accuracy_for_balanced_accuracy():
    rng, prior = np.random.default_rng(3), np.array([0.11, 0.67, 0.05, 0.03, 0.11, 0.01, 0.02])
    truth = rng.choice(7, 20_000, p=prior)
    density = np.exp(2 * (rng.normal(size=(20_000, 7)) + 2 * np.eye(7)[truth]))  # that of the image under each class
    probabilities = density * prior / (density * prior).sum(1, keepdims=True)
    rules = [p.argmax(1) for p in (probabilities, cal.prior_adjusted(probabilities, prior))]
    accuracy = [np.mean(rule == truth) for rule in rules]
    balanced = [recall_score(truth, rule, average="macro") for rule in rules]
    assert accuracy[0] > accuracy[1] and balanced[1] > balanced[0] + 0.02


def test_a_class_that_was_never_trained_stays_out():
    adjusted = cal.prior_adjusted(np.full((2, 7), 1 / 7), [0, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert adjusted[:, 0].tolist() == [0, 0] and adjusted.sum(1) == pytest.approx(1)
    for prior in ([0] * 7, [-1, 2, 0, 0, 0, 0, 0]):
        with pytest.raises(UserError, match="a share of the images"):
            cal.prior_adjusted(np.ones((1, 7)), prior)


scored = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(scored, st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.95, 1.0]), st.sampled_from(["sensitivity", "specificity"]))
def test_no_other_threshold_is_better(pairs, asked, rate):
    positive, score = np.array(pairs, int).T
    other = {"sensitivity": "specificity", "specificity": "sensitivity"}[rate]
    chosen = cal.threshold_at(positive, score, **{rate: asked})
    if not (positive if rate == "sensitivity" else 1 - positive).any():
        assert np.isnan(chosen)
        return
    point = cal.operating_point(positive, score, chosen)
    assert point[rate] >= asked
    points = [cal.operating_point(positive, score, t) for t in [*np.arange(-0.5, 9), np.inf]]
    allowed = [p[other] for p in points if p[rate] >= asked and p[other] is not None]
    assert not allowed or point[other] == max(allowed)


def test_thresholds_lie_on_the_roc_curve():
    rng = np.random.default_rng(4)
    positive = rng.integers(0, 2, 500)
    score = rng.normal(size=500) + positive
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    at = cal.operating_point(positive, score, cal.threshold_at(positive, score, specificity=0.9))
    assert at["sensitivity"] == pytest.approx(tpr[1 - fpr >= 0.9].max())
    at = cal.operating_point(positive, score, cal.threshold_at(positive, score, sensitivity=0.95))
    assert at["specificity"] == pytest.approx(1 - fpr[tpr >= 0.95].min())


@settings(max_examples=60, deadline=None)
@given(scored, st.integers(0, 9))
def test_operating_point_agrees_with_sklearn(pairs, threshold):
    positive, score = np.array(pairs, int).T
    tn, fp, fn, tp = confusion_matrix(positive, score >= threshold, labels=[0, 1]).ravel()
    parts = dict(sensitivity=(tp, tp + fn), specificity=(tn, tn + fp), ppv=(tp, tp + fp), npv=(tn, tn + fn))
    point = cal.operating_point(positive, score, threshold)
    assert point["n"] == len(positive) and point["threshold"] == threshold
    for name, (part, whole) in parts.items():
        assert point[name] == (pytest.approx(part / whole) if whole else None)
    json.dumps(point, allow_nan=False)


def test_a_threshold_needs_one_rate_and_images():
    for rates in ({}, {"specificity": 0.9, "sensitivity": 0.9}):
        with pytest.raises(UserError, match="one rate"):
            cal.threshold_at([0, 1], [0.1, 0.9], **rates)
    nothing = cal.operating_point([0, 1], [0.1, 0.9], np.nan)
    assert nothing == dict(threshold=None, sensitivity=None, specificity=None, ppv=None, npv=None, n=2)
    none_called = cal.operating_point([1, 0], [0.5, 0.9], cal.threshold_at([1, 0], [0.5, 0.9], specificity=1))
    assert none_called == dict(threshold=None, sensitivity=0, specificity=1, ppv=None, npv=0.5, n=2)


@settings(max_examples=40, deadline=None)
@given(seeds, sizes)
def test_risk_coverage_counted_by_hand(seed, n):
    truth, probabilities = made(n, seed)
    table = cal.risk_coverage(truth, probabilities)
    surest = sorted(range(n), key=lambda i: -probabilities[i].max())
    wrong = [probabilities[i].argmax() != truth[i] for i in surest]
    assert table["coverage"].tolist() == pytest.approx([k / n for k in range(1, n + 1)])
    assert table["risk"].tolist() == pytest.approx([sum(wrong[:k]) / k for k in range(1, n + 1)])
    assert table["confidence"].tolist() == [probabilities[i].max() for i in surest]
    assert cal.aurc(truth, probabilities) == pytest.approx(table["risk"].mean())


def test_ties_are_answered_in_the_order_of_chance():
    """The mean of the curve over all orders of equally sure images."""
    truth = np.array([0, 1, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.55, 0.45]])
    rng = np.random.default_rng(0)
    wrong = np.array([[0, *rng.permutation([1, 0, 0]), 1] for _ in range(20_000)])
    expected = (wrong.cumsum(1) / np.arange(1, 6)).mean(0)
    assert cal.risk_coverage(truth, probabilities)["risk"].tolist() == pytest.approx(expected, abs=0.01)


def test_of_no_images_nothing_is_defined():
    none = np.empty(0, int), np.empty((0, 7))
    numbers = (cal.nll, cal.brier, cal.ece, cal.adaptive_ece, cal.aurc, cal.fit_temperature)
    assert np.isnan([number(*none) for number in numbers]).all()
    assert cal.reliability(*none)["n"].sum() == 0 and cal.risk_coverage(*none).empty
