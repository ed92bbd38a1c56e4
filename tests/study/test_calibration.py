"""Every number against sklearn, scipy or a loop that counts by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_predictions import calibrated
from scipy.optimize import minimize
from scipy.stats import binomtest
from sklearn.metrics import log_loss, mean_squared_error

from dermai_utils.study import calibration as cal
from dermai_utils.study.decisions import aurc, risk_coverage

SEEDS, SIZES = st.integers(0, 10**6), st.integers(1, 60)


@settings(max_examples=40, deadline=None)
@given(SEEDS, SIZES)
def test_scores_agree_with_sklearn(seed, n):
    truth, probabilities = calibrated(n, seed)
    expected = log_loss(truth, probabilities, labels=range(7))
    assert cal.nll(truth, probabilities) == pytest.approx(expected, abs=1e-12)
    # sklearn before 1.7 has its Brier score for two classes
    expected = 7 * mean_squared_error(np.eye(7)[truth], probabilities)
    assert cal.brier(truth, probabilities) == pytest.approx(expected, abs=1e-12)


def test_a_sure_mistake_costs_what_sklearn_says():
    truth, sure = np.array([0, 1]), np.eye(7)[[0, 2]]
    assert cal.nll(truth, sure) == pytest.approx(log_loss(truth, sure, labels=range(7)))
    assert cal.brier(truth, sure) == 1


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_temperature_undoes_sharpening(sharpness):
    truth, probabilities = calibrated(20_000, 1, sharpness)
    found = cal.fit_temperature(truth, probabilities)
    assert found == pytest.approx(sharpness, rel=0.05)

    def loss(t):  # another optimiser, on another form of the same loss
        scaled = np.log(probabilities) / t
        return np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(truth)), truth])

    expected = minimize(loss, 1.0, method="Nelder-Mead", tol=1e-9).x[0]
    assert found == pytest.approx(expected, rel=1e-4)
    fixed = cal.apply_temperature(probabilities, found)
    assert cal.ece(truth, fixed) < 0.02 and cal.adaptive_ece(truth, fixed) < 0.02
    if sharpness != 1:
        assert cal.ece(truth, fixed) < 0.2 * cal.ece(truth, probabilities)
        assert cal.nll(truth, fixed) < cal.nll(truth, probabilities)


@settings(max_examples=40, deadline=None)
@given(SEEDS, SIZES, st.floats(0.1, 10))
def test_temperature_keeps_the_order_and_has_an_inverse(seed, n, temperature):
    _, probabilities = calibrated(n, seed)
    scaled = cal.apply_temperature(probabilities, temperature)
    np.testing.assert_allclose(scaled.sum(1), 1)
    assert (scaled.argmax(1) == probabilities.argmax(1)).all()
    if temperature > 0.5:  # else the smallest fall under the floor
        back = cal.apply_temperature(scaled, 1 / temperature)
        np.testing.assert_allclose(back, probabilities, atol=1e-9)
    np.testing.assert_allclose(cal.apply_temperature(probabilities, 1), probabilities, atol=1e-12)


def ece_by_hand(truth, probabilities, bins):
    total = 0
    for low, high in zip(np.arange(bins) / bins, np.arange(1, bins + 1) / bins, strict=True):
        inside = [i for i, p in enumerate(probabilities) if low < max(p) <= high]
        if inside:
            right = np.mean([probabilities[i].argmax() == truth[i] for i in inside])
            confidence = np.mean([max(probabilities[i]) for i in inside])
            total += abs(right - confidence) * len(inside) / len(truth)
    return total


@settings(max_examples=60, deadline=None)
@given(SEEDS, SIZES, st.integers(1, 20), st.sampled_from([None, 1]))
def test_ece_counted_by_hand(seed, n, bins, decimals):
    truth, probabilities = calibrated(n, seed, decimals=decimals)
    found = cal.ece(truth, probabilities, bins)
    assert found == pytest.approx(ece_by_hand(truth, probabilities, bins), abs=1e-12)
    table = cal.reliability(truth, probabilities, bins).query("n > 0")
    from_table = (table["n"] * (table["accuracy"] - table["confidence"]).abs()).sum() / n
    assert found == pytest.approx(from_table, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 8), st.integers(1, 9))
def test_adaptive_bins_hold_equally_many(seed, bins, each):
    truth, probabilities = calibrated(bins * each, seed)
    right, confidence = probabilities.argmax(1) == truth, probabilities.max(1)
    parts = np.split(np.argsort(confidence), bins)
    gaps = [abs(right[part].mean() - confidence[part].mean()) for part in parts]
    assert cal.adaptive_ece(truth, probabilities, bins) == pytest.approx(np.mean(gaps), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(SEEDS, SIZES, st.sampled_from([None, 1]))
def test_the_order_of_the_rows_does_not_matter(seed, n, decimals):
    truth, probabilities = calibrated(n, seed, decimals=decimals)
    order = np.random.default_rng(seed).permutation(n)
    for number in (cal.nll, cal.brier, cal.ece, cal.adaptive_ece, aurc):
        shuffled = number(truth[order], probabilities[order])
        assert shuffled == pytest.approx(number(truth, probabilities), abs=1e-12)


def test_reliability_has_every_bin_and_intervals_by_scipy():
    truth, probabilities = calibrated(300, 2)
    table = cal.reliability(truth, probabilities, 10)
    assert table["bin"].tolist() == pytest.approx([0.05 + k / 10 for k in range(10)])
    assert table["n"].sum() == 300
    for row in table[table["n"] > 0].itertuples():
        expected = binomtest(round(row.accuracy * row.n), row.n).proportion_ci(method="wilson")
        assert (row.low, row.high) == pytest.approx(tuple(expected), abs=1e-12)
        assert abs(row.confidence - row.bin) <= 0.05
    # the surest of 7 has over 1/7
    assert table["n"].iloc[0] == 0 and table.iloc[0, 2:].isna().all()


def test_of_no_images_nothing_is_defined():
    none = np.empty(0, int), np.empty((0, 7))
    numbers = (cal.nll, cal.brier, cal.ece, cal.adaptive_ece, aurc, cal.fit_temperature)
    assert np.isnan([number(*none) for number in numbers]).all()
    assert cal.reliability(*none)["n"].sum() == 0 and risk_coverage(*none).empty
