"""Weighted draws against their rules, and the intervals against a known truth."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_predictions import arrays
from scipy.stats import binom, binomtest

from dermai_utils import intervals, metrics, predictions
from dermai_utils.basics import UserError

TEST_COUNTS = (171, 909, 93, 43, 217, 44, 35)  # the official test set
NAMES = metrics.SCALAR_METRICS
SEEDS, CLASS_SETS = st.integers(0, 10**6), st.sets(st.integers(0, 6), min_size=1)


def draws(lesions, strata=None, n=200, seed=0):
    """(n, N): the weights that `interval` gives its statistic."""
    seen = []

    def statistic(weights):
        seen.append(weights)
        return weights.sum(1)

    options = dict(strata=strata, n_resamples=n, seed=seed, vectorised=True)
    intervals.interval(statistic, lesions, **options)
    return np.concatenate(seen)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 80), CLASS_SETS)
def test_draws_take_whole_lesions_and_every_class(seed, n, classes):
    truth, _, lesions = arrays(n, seed, classes=classes)
    weights = draws(lesions, truth, 20, seed)
    for lesion in np.unique(lesions):
        assert np.ptp(weights[:, lesions == lesion], axis=1).max() == 0
    _, first = np.unique(lesions, return_index=True)
    for k in np.unique(truth):
        rows = weights[:, first[truth[first] == k]]  # one column a lesion
        m = rows.shape[1]
        np.testing.assert_allclose(rows.sum(1), m)  # the class mix stays
        drawn = rows * max(m - 1, 1) / m
        np.testing.assert_allclose(drawn, drawn.round(), atol=1e-9)


def test_every_image_counts_once_on_average_and_alone_without_a_lesion():
    truth, _, lesions = arrays(200, 2)
    np.testing.assert_allclose(draws(lesions, truth, 20_000).mean(0), 1, atol=0.05)
    weights = draws(["", "b", "", "b", "c", ""])
    assert (weights[:, 1] == weights[:, 3]).all()
    for a, b in [(0, 2), (0, 5), (2, 5), (0, 4)]:
        assert (weights[:, a] != weights[:, b]).any()
    with pytest.raises(UserError, match='images without a lesion id: 1; write ""'):
        intervals.interval(np.sum, ["a", None])


def test_sets(counts, recalls, images_a_lesion, n, seed=0):
    """Made-up test sets: truth and lesions (N,), and right (N, n), each column a set's.

    Class k is right with a lesion's own chance, Beta-distributed around recalls[k]: two images of
    one lesion agree with a correlation of 0.7.
    """
    rng, classes = np.random.default_rng(seed), np.repeat(range(7), counts)
    images = 1 + (rng.random(len(classes)) < images_a_lesion - 1)
    lesions, spread = np.repeat(np.arange(len(classes)), images), 0.7
    mean = np.asarray(recalls)[classes, None] * (1 - spread) / spread
    chance = rng.beta(mean, (1 - spread) / spread - mean, (len(classes), n))[lesions]
    return classes[lesions], lesions, rng.random(chance.shape) < chance


test_sets.__test__ = False


def by_bootstrap(truth, lesions, right, n_resamples=500):
    """(low, high) of balanced accuracy, (n,) each: one set of draws serves all test sets."""

    def balanced_accuracy(weights):  # (R, N) -> (R, n)
        sides = [(weights[:, truth == k], right[truth == k]) for k in range(7)]
        return np.mean([w @ r / w.sum(1)[:, None] for w, r in sides], axis=0)

    options = dict(strata=truth, n_resamples=n_resamples, vectorised=True)
    return intervals.interval(balanced_accuracy, lesions, **options)


def share_of(low, high, value):
    return np.mean((np.nan_to_num(low) <= value) & (value <= np.nan_to_num(high)))


HARD = (0.6, 0.9, 0.8, 0.6, 0.7, 0.5, 0.85)


@pytest.mark.parametrize("recalls", [HARD, (0.75, 0.95, 0.93, 0.85, 0.82, 0.8, 0.97)])
def test_the_bootstrap_covers_the_truth(recalls):
    low, high = by_bootstrap(*test_sets(TEST_COUNTS, recalls, 1.3, 1000))
    ends = (binom.ppf(p, 1000, level) / 1000 for p, level in ((1e-3, 0.93), (1 - 1e-3, 0.97)))
    assert next(ends) <= share_of(low, high, np.mean(recalls)) <= next(ends)


def test_drawing_images_instead_of_lesions_is_too_sure():
    """The same test must see the mistake that lesions are there to avoid."""
    truth, lesions, right = test_sets(TEST_COUNTS, HARD, 2, 1000)
    low, high = by_bootstrap(truth, lesions, right)
    low_image, high_image = by_bootstrap(truth, np.arange(len(truth)), right)
    assert share_of(low_image, high_image, np.mean(HARD)) < 0.9
    assert share_of(low, high, np.mean(HARD)) > 0.92
    assert np.mean(high - low) > 1.15 * np.mean(high_image - low_image)


@pytest.mark.parametrize(
    "rarest, recall", [(6, 0.5), (6, 0.85), (6, 0.97), (14, 0.85), (14, 0.97), (44, 0.97)]
)
def test_few_lesions_or_few_mistakes_are_covered_too(rarest, recall):
    """Where the bootstrap alone covers 77 % (6 lesions, recalls of 0.97), as measured below."""
    counts, n = np.maximum(np.array(TEST_COUNTS) * rarest // 35, rarest), 300
    truth, lesions, right = test_sets(counts, [recall] * 7, 1.3, n)
    low, high = by_bootstrap(truth, lesions, right, 300)
    if (rarest, recall) == (6, 0.97):
        assert share_of(low, high, recall) < 0.85
    held, rare_held = [], []
    for k in range(n):
        predicted = np.where(right[:, k], truth, (truth + 1) % 7)
        exact = intervals.exact_ends(truth, predicted, lesions)
        low[k], high[k] = np.fmin(low[k], exact[0][0]), np.fmax(high[k], exact[1][0])
        rare = intervals.rate(right[truth == 6, k], lesions[truth == 6])
        rare_held.append(rare["low"] <= recall <= rare["high"])
        held.append(low[k] <= recall <= high[k])
    least = binom.ppf(1e-3, n, 0.94) / n
    assert np.mean(held) >= least and np.mean(rare_held) >= least


def test_an_exact_rate_is_scipys_and_adds_up_shares_of_lesions():
    for k, n in [(0, 3), (3, 3), (2, 7), (40, 44)]:
        found = intervals.rate(np.arange(n) < k, np.arange(n))
        expected = binomtest(k, n).proportion_ci()
        assert (found["low"], found["high"]) == pytest.approx(tuple(expected))
        assert (found["k"], found["n"], found["lesions"]) == (k, n, n)
    twice = intervals.rate(np.repeat(np.arange(7) < 2, 2), np.repeat(np.arange(7), 2))
    assert (twice["k"], twice["n"], twice["lesions"]) == (4, 14, 7)
    assert twice["low"] == pytest.approx(binomtest(2, 7).proportion_ci().low)
    halves = intervals.rate([True, False] * 4, list("aabbccdd"))  # two of four lesions
    assert halves["high"] == pytest.approx(binomtest(2, 4).proportion_ci().high)
    nothing = intervals.rate([], [])
    assert nothing == {"value": None, "low": None, "high": None, "k": 0, "n": 0, "lesions": 0}


def test_the_limits_of_a_mean_are_those_of_its_classes():
    """By hand: six lesions a class, five of them right in one of two classes, all in the other."""
    truth, predicted = np.repeat([0, 1], 6), np.repeat([0, 1], 6)
    predicted[0] = 1
    low, high = intervals.exact_ends(truth, predicted, np.arange(12))
    one, other = (binomtest(k, 6).proportion_ci() for k in (5, 6))
    down = np.hypot(5 / 6 - one.low, 1 - other.low) / 2
    up = np.hypot(one.high - 5 / 6, 0) / 2
    assert (low[0], high[0]) == pytest.approx((11 / 12 - down, 11 / 12 + up))
    accuracy = binomtest(11, 12).proportion_ci()
    assert (low[3], high[3]) == pytest.approx(tuple(accuracy))
    # F1 of the first class: 5 hits of the 6 that are it or called so; of the other 6 of 7
    one, other = (2 * np.array(binomtest(*x).proportion_ci()) for x in ((5, 6), (6, 7)))
    f1, (one, other) = (10 / 11, 12 / 13), (one / (1 + one / 2), other / (1 + other / 2))
    down = np.hypot(f1[0] - one[0], f1[1] - other[0]) / 2
    assert low[1] == pytest.approx(np.mean(f1) - down)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 60), CLASS_SETS, st.sampled_from([1.5, 9]))
def test_no_interval_is_a_point_and_each_holds_its_value(seed, n, classes, signal):
    truth, probabilities, lesions = arrays(n, seed, signal, classes=classes)
    found = intervals.intervals(truth, probabilities, lesions, n_resamples=30)
    rates = intervals.recalls(truth, probabilities.argmax(1), lesions)
    for row in [*found.values(), *rates.values()]:
        if row["value"] is not None:
            assert row["low"] <= row["value"] + 1e-12 and row["value"] <= row["high"] + 1e-12
            assert row["high"] - row["low"] > 0.001


def test_an_auc_of_one_has_a_lower_limit():
    """Newcombe 2006: the limits solve |AUC - a| = z sqrt(V(a)); and they widen with few lesions."""
    score, widths = np.arange(60.0), []
    for positives in (6, 30):
        positive = np.arange(60) >= 60 - positives
        value, low, high = intervals._auc_limits(positive, score, np.arange(60), 0.95)
        m, n = positives, 60 - positives
        spread = 1 + ((m + n) / 2 - 1) * ((1 - low) / (2 - low) + low / (1 + low))
        assert 1 - low == pytest.approx(1.96 * np.sqrt(low * (1 - low) * spread / m / n), rel=1e-2)
        assert value == high == 1
        widths.append(high - low)
    assert widths[0] > 2 * widths[1]


def test_values_are_the_metrics_the_seed_decides_and_the_level_widens():
    values = arrays(200, 4)
    options = dict(n_resamples=200)
    once, again, other = (intervals.intervals(*values, seed=s, **options) for s in (0, 0, 1))
    assert once == again != other and tuple(once) == NAMES
    wide = intervals.intervals(*values, level=0.99, **options)
    expected = metrics.all_metrics(*values[:2])
    for name, row in once.items():
        assert row["value"] == pytest.approx(expected[name], abs=1e-12)
        assert wide[name]["low"] < row["low"] < row["value"] < row["high"] < wide[name]["high"]
    json.dumps(once, allow_nan=False)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 60), CLASS_SETS)
def test_neither_the_order_of_the_rows_nor_more_images_of_each_lesion_matter(seed, n, classes):
    values = arrays(n, seed, classes=classes)
    order = np.random.default_rng(seed).permutation(n)
    found = intervals.intervals(*values, n_resamples=50)
    for rows in (order, np.repeat(np.arange(n), 3)):
        again = intervals.intervals(*(v[rows] for v in values), n_resamples=50)
        for name, row in found.items():
            assert again[name] == pytest.approx(row, abs=1e-12)


def test_a_plain_statistic_agrees_with_theory():
    """The mean of one number a lesion: the interval is Student's t."""
    values = np.random.default_rng(0).normal(size=40)

    def mean(weights):
        return np.average(values, weights=weights)

    found = intervals.interval(mean, np.arange(40), n_resamples=20_000)
    half = 2.0227 * values.std(ddof=1) / np.sqrt(40)  # t of 39 degrees of freedom
    expected = (values.mean() - half, values.mean() + half)
    assert found == pytest.approx(expected, abs=0.05 * half)


def test_a_comparison_is_paired():
    truth, a, lesions = arrays(400, 7)
    b = 0.98 * a + 0.02 * np.eye(7)[truth]
    same = intervals.compare(truth, a, a, lesions, n_resamples=100)
    assert all(row == {"value": 0, "low": None, "high": None} for row in same.values())
    ours = intervals.compare(truth, b, a, lesions, n_resamples=300)
    mirrored = intervals.compare(truth, a, b, lesions, n_resamples=300)
    alone = [intervals.intervals(truth, p, lesions, n_resamples=300) for p in (b, a)]
    for name in NAMES:
        value, low, high = ours[name].values()
        assert value == pytest.approx(alone[0][name]["value"] - alone[1][name]["value"])
        assert mirrored[name] == pytest.approx({"value": -value, "low": -high, "high": -low})
        assert value > 0 and high - low < 0.6 * (alone[0][name]["high"] - alone[0][name]["low"])
    with pytest.raises(UserError, match="same images"):
        intervals.compare(truth, a, a[:-1], lesions)


def test_the_rules_of_a_comparison_change_classes_and_no_ranking():
    truth, a, lesions = arrays(200, 8)
    b = arrays(200, 9)[1]
    rules = intervals.compare(truth, a, b, lesions, scores=(b, a), n_resamples=50)
    turned = intervals.compare(truth, b, a, lesions, n_resamples=50)
    assert rules["accuracy"] == turned["accuracy"] and rules["macro_auc"] != turned["macro_auc"]


def test_a_number_that_is_not_defined_is_none():
    empty = intervals.intervals(np.empty(0, int), np.empty((0, 7)), np.empty(0), n_resamples=10)
    nothing = {"value": None, "low": None, "high": None}
    assert all(row == nothing for row in empty.values())
    truth = np.ones(9, int)
    nevi = intervals.intervals(truth, np.eye(7)[truth], np.arange(9), n_resamples=10)
    assert nevi["accuracy"] == pytest.approx({"value": 1, "low": 0.025 ** (1 / 9), "high": 1})
    assert nevi["macro_auc"] == nevi["malignant_auc"] == nothing


def test_subgroups_are_marked_not_hidden():
    truth, probabilities, lesions = arrays(300, 8)
    sex = np.where(np.arange(300) < 10, None, np.where(np.arange(300) % 3, "male", "female"))
    sex[11] = "unknown"
    ids = [f"L{k}" if k % 5 else "" for k in lesions]
    bands = pd.cut(np.arange(300.0), [0, 9, 80, 200], labels=["under 9", "9 to 80", "over 80"])
    columns = dict(lesion_id=ids, sex=sex, age=bands)
    frame = predictions.table([*map(str, range(300))], truth, probabilities, **columns)
    by_age = intervals.subgroups(frame, "age", n_resamples=20)  # 0 and over 200 are in no band
    assert by_age.index.tolist() == ["under 9", "9 to 80", "over 80", "unknown"]
    found = intervals.subgroups(frame, "sex", min_n=20, n_resamples=100)
    assert found.index.tolist() == ["female", "male", "unknown"] and found.index.name == "sex"
    assert found["n"].sum() == 300 and found.loc["unknown", "n"] == 11
    assert found["small"].tolist() == [False, False, True]
    for value, row in found.iterrows():
        inside = (frame["sex"].fillna("unknown") == value).to_numpy()
        expected = metrics.all_metrics(truth[inside], probabilities[inside])
        for name in ("balanced_accuracy", "accuracy"):
            assert row[name] == pytest.approx(expected[name])
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        known = frame.loc[inside, "lesion_id"]
        assert row["lesions"] == (known == "").sum() + known[known != ""].nunique()
        assert row["classes"] == len(set(truth[inside]))
