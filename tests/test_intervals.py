"""Weighted draws against their rules, and the intervals against a known truth."""

import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_predictions import arrays
from scipy.stats import binom

from dermai_utils import intervals, metrics, predictions
from dermai_utils.basics import UserError

TEST_COUNTS = (171, 909, 93, 43, 217, 44, 35)  # the official test set
NAMES = metrics.SCALAR_METRICS
SEEDS, CLASS_SETS = st.integers(0, 10**6), st.sets(st.integers(0, 6), min_size=1)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 80), CLASS_SETS)
def test_draws_take_whole_lesions_and_every_class(seed, n, classes):
    truth, _, lesions = arrays(n, seed, classes=classes)
    weights = intervals._Lesions(lesions, truth).draw(np.random.default_rng(seed), 20)
    for lesion in np.unique(lesions):
        assert np.ptp(weights[:, lesions == lesion], axis=1).max() == 0
    _, first = np.unique(lesions, return_index=True)
    for k in np.unique(truth):
        rows = weights[:, first[truth[first] == k]]  # one column a lesion
        m = rows.shape[1]
        np.testing.assert_allclose(rows.sum(1), m)  # the class mix stays
        drawn = rows * max(m - 1, 1) / m
        np.testing.assert_allclose(drawn, drawn.round(), atol=1e-9)


def test_every_image_counts_once_on_average():
    truth, _, lesions = arrays(200, 2)
    weights = intervals._Lesions(lesions, truth).draw(np.random.default_rng(0), 20_000)
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.05)


def coverage(reliability, images_a_lesion, clusters=True, n=2000, n_resamples=1000, seed=0):
    """Share of `n` made-up test sets whose 95 % interval of balanced accuracy holds the true one,
    and the intervals.

    Class k is right with a lesion's own chance, Beta-distributed around reliability[k]. All test
    sets have the same lesions, so one set of draws and a matrix product serve them all.
    """
    rng, truth = np.random.default_rng(seed), np.repeat(range(7), TEST_COUNTS)
    new = (rng.random(len(truth)) < 1 / images_a_lesion) | (np.diff(truth, prepend=-1) > 0)
    lesions, mean = np.cumsum(new), np.repeat(reliability, TEST_COUNTS)
    spread = 0.7  # two images of one lesion agree with this correlation
    a, b = mean * (1 - spread) / spread, (1 - mean) * (1 - spread) / spread
    _, first = np.unique(lesions, return_index=True)
    chance = rng.random((len(truth), n))
    right = chance < rng.beta(a[first, None], b[first, None], (len(first), n))[lesions - 1]

    def balanced_accuracy(weights):  # (R, N) -> (R, n)
        recalls = []
        for k in range(7):
            of_class = weights[:, truth == k]
            recalls.append(of_class @ right[truth == k] / of_class.sum(1)[:, None])
        return np.mean(recalls, axis=0)

    units = lesions if clusters else np.arange(len(truth))
    options = dict(strata=truth, n_resamples=n_resamples, seed=seed, vectorised=True)
    low, high = intervals.interval(balanced_accuracy, units, **options)
    return np.mean((low <= np.mean(reliability)) & (np.mean(reliability) <= high)), low, high


@pytest.mark.parametrize(
    "reliability", [(0.6, 0.9, 0.8, 0.6, 0.7, 0.5, 0.85), (0.75, 0.95, 0.93, 0.85, 0.82, 0.8, 0.97)]
)
def test_intervals_cover_the_truth(reliability):
    covered, _, _ = coverage(reliability, 1.3)
    assert binom.ppf(1e-3, 2000, 0.93) / 2000 <= covered <= binom.ppf(1 - 1e-3, 2000, 0.97) / 2000


def test_drawing_images_instead_of_lesions_is_too_sure():
    """The same test must see the mistake that lesions are there to avoid."""
    reliability = (0.6, 0.9, 0.8, 0.6, 0.7, 0.5, 0.85)
    by_image, low, high = coverage(reliability, 2, clusters=False, n=1000)
    by_lesion, low_lesion, high_lesion = coverage(reliability, 2, n=1000)
    assert by_image < 0.9 < 0.92 < by_lesion
    assert np.mean(high_lesion - low_lesion) > 1.15 * np.mean(high - low)


def test_values_agree_with_the_metrics_and_lie_in_their_intervals():
    truth, probabilities, lesions = arrays(200, 4)
    found = intervals.intervals(truth, probabilities, lesions, n_resamples=200)
    expected = metrics.all_metrics(truth, probabilities)
    assert tuple(found) == NAMES
    for name, row in found.items():
        assert row["value"] == pytest.approx(expected[name], abs=1e-12)
        assert row["low"] < row["value"] < row["high"]
    json.dumps(found, allow_nan=False)


def test_one_lesion_many_times_is_no_more_certain():
    once = arrays(150, 5)
    thrice = intervals.intervals(*(np.repeat(v, 3, axis=0) for v in once), n_resamples=300)
    for name, row in intervals.intervals(*once, n_resamples=300).items():
        assert thrice[name] == pytest.approx(row, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 60), CLASS_SETS)
def test_the_order_of_the_rows_does_not_matter(seed, n, classes):
    values = arrays(n, seed, classes=classes)
    order = np.random.default_rng(seed).permutation(n)
    shuffled = intervals.intervals(*(v[order] for v in values), n_resamples=50)
    for name, row in intervals.intervals(*values, n_resamples=50).items():
        assert shuffled[name] == pytest.approx(row, abs=1e-12)


def test_the_seed_decides_and_the_level_widens():
    values = arrays(200, 6)
    once, again, other = (
        intervals.intervals(*values, seed=seed, n_resamples=200) for seed in (0, 0, 1)
    )
    assert once == again != other
    wide = intervals.intervals(*values, level=0.99, n_resamples=200)
    for name in NAMES:
        assert wide[name]["low"] < once[name]["low"] < once[name]["high"] < wide[name]["high"]


def test_a_plain_statistic_agrees_with_theory():
    """The mean of one number a lesion: the interval is Student's t."""
    values = np.random.default_rng(0).normal(size=40)

    def mean(weights):
        return np.average(values, weights=weights)

    found = intervals.interval(mean, np.arange(40), n_resamples=20_000)
    half = 2.0227 * values.std(ddof=1) / np.sqrt(40)  # t of 39 degrees of freedom
    expected = (values.mean() - half, values.mean() + half)
    assert found == pytest.approx(expected, abs=0.05 * half)


def test_an_image_without_a_lesion_is_a_lesion_of_its_own():
    lesions = np.array(["", "b", "", "b", "c", ""])
    weights = intervals._Lesions(lesions).draw(np.random.default_rng(0), 200)
    assert (weights[:, 1] == weights[:, 3]).all()
    for a, b in [(0, 2), (0, 5), (2, 5), (0, 4)]:
        assert (weights[:, a] != weights[:, b]).any()
    with pytest.raises(UserError, match='1 images have no lesion id: write ""'):
        intervals.interval(np.sum, ["a", None])


def test_a_comparison_is_paired():
    truth, a, lesions = arrays(400, 7)
    b = 0.98 * a + 0.02 * np.eye(7)[truth]
    same = intervals.compare(truth, a, a, lesions, n_resamples=100)
    assert all(row == {"value": 0, "low": 0, "high": 0} for row in same.values())
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


def test_rules_of_a_comparison_and_several_pairs_of_models():
    truth, a, lesions = arrays(200, 8)
    _, b, _ = arrays(200, 9)
    rules = intervals.compare(truth, a, b, lesions, scores=(b, a), n_resamples=50)
    turned = intervals.compare(truth, b, a, lesions, n_resamples=50)
    assert rules["accuracy"] == turned["accuracy"] and rules["macro_auc"] != turned["macro_auc"]
    twice = intervals.compare(truth, np.stack([a, b]), np.stack([b, b]), lesions, n_resamples=50)
    once = intervals.compare(truth, a, b, lesions, n_resamples=50)
    assert twice["macro_f1"]["value"] == pytest.approx(once["macro_f1"]["value"] / 2)
    assert twice["macro_f1"]["low"] == pytest.approx(once["macro_f1"]["low"] / 2)


def test_a_number_that_is_not_defined_is_none():
    empty = intervals.intervals(np.empty(0, int), np.empty((0, 7)), np.empty(0), n_resamples=10)
    assert all(row == {"value": None, "low": None, "high": None} for row in empty.values())
    truth = np.ones(9, int)
    nevi = intervals.intervals(truth, np.eye(7)[truth], np.arange(9), n_resamples=10)
    assert nevi["accuracy"] == {"value": 1, "low": 1, "high": 1}
    assert nevi["macro_auc"] == nevi["malignant_auc"] == {"value": None, "low": None, "high": None}


def test_small_classes_widen_the_percentiles():
    many, few, one = (
        intervals._percentiles(np.array(sizes), 0.95) for sizes in ([5000], [5000, 5], [1])
    )
    assert many == pytest.approx((0.025, 0.975), abs=1e-4) and one == pytest.approx((0.025, 0.975))
    # nearly t of 4 degrees of freedom: 2.776 standard deviations
    assert few[0] == pytest.approx(0.00276, abs=2e-4)


def test_subgroups_are_marked_not_hidden():
    truth, probabilities, lesions = arrays(300, 8)
    sex = np.where(np.arange(300) < 10, None, np.where(np.arange(300) % 3, "male", "female"))
    sex[11] = "unknown"
    names = [f"i{k}" for k in range(300)]
    ids = [f"L{k}" if k % 5 else "" for k in lesions]
    frame = predictions.table(names, truth, probabilities, lesion_id=ids, sex=sex)
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


def test_subgroups_keep_the_order_of_a_category():
    truth, probabilities, lesions = arrays(60, 9)
    bands = pd.cut(np.arange(60.0) * 2, [0, 9, 80, 100], labels=["under 9", "9 to 80", "over 80"])
    columns = dict(lesion_id=[str(k) for k in lesions], age=bands)
    frame = predictions.table(range(60), truth, probabilities, **columns)
    found = intervals.subgroups(frame, "age", n_resamples=20)
    # 0 and over 100 are in no band
    assert found.index.tolist() == ["under 9", "9 to 80", "over 80", "unknown"]


def test_two_thousand_draws_of_two_thousand_images_are_quick():
    values, start = arrays(2000, 10), time.process_time()
    intervals.intervals(*values)
    assert time.process_time() - start < 5  # s of one core; 0.6 s where this was written
