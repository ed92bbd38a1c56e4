"""Every number against sklearn, scipy or a loop that counts by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_predictions import calibrated, rows
from scipy.optimize import minimize
from scipy.stats import binomtest
from sklearn.metrics import log_loss, mean_squared_error

from dermai_utils import predictions
from dermai_utils.study import calibration as cal
from dermai_utils.study.decisions import risk_coverage

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
    sure = np.eye(7)[(truth + np.arange(n) % 2) % 7]  # every other one is a sure mistake
    assert cal.nll(truth, sure) == pytest.approx(log_loss(truth, sure, labels=range(7)))
    assert cal.brier(truth, sure) == pytest.approx(2 * (n // 2) / n)


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
    assert cal.ece(truth, fixed) < 0.02
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
    numbers = (cal.nll, cal.brier, cal.ece, cal.fit_temperature)
    assert np.isnan([number(*none) for number in numbers]).all()
    assert cal.reliability(*none)["n"].sum() == 0 and risk_coverage(*none).empty


def test_the_mean_of_folds_gets_a_temperature_of_its_own_where_no_network_learned_the_images():
    """By hand; and no image is calibrated by a temperature that was fitted on it."""
    val = pd.concat([rows(150, k, 1.0 + k, fold=k) for k in range(3)], ignore_index=True)
    test, official = rows(400, 7, signal=3.0, fold=-1), rows(50, 8, fold=-1)
    subsets = {"val": val, "test": test, "official": official}

    def fit(part):
        return cal.fit_temperature(*predictions.arrays(part))

    found = cal.temperatures(subsets)
    assert found[cal.NEW] == fit(test) != pytest.approx(fit(val), rel=0.05)
    assert (found["official"] == found[cal.NEW]).all()
    for k in range(3):
        assert (found["val"][val["fold"] == k] == fit(val[val["fold"] != k])).all()
    one, other = np.unique(found["test"])
    assert 0.3 < (found["test"] == one).mean() < 0.7
    for mine, others in ((one, other), (other, one)):
        assert mine == fit(test[found["test"] == others])
    assert not set(test["lesion_id"][found["test"] == one]) & set(
        test["lesion_id"][found["test"] == other]
    )
    few = cal.temperatures(subsets | {"test": test[:100]})
    plain = cal.temperatures({name: part.drop(columns="fold") for name, part in subsets.items()})
    for single in (few, plain):
        assert single[cal.NEW] == fit(val) and (single["test"] == fit(val)).all()
    assert (plain["val"] == fit(val)).all()
