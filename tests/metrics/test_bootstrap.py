"""The weighted numbers against classification.metrics on really repeated rows; the intervals
against a known truth."""

import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from dermai_utils.config import UserError
from dermai_utils.metrics import bootstrap, classification, predictions

TEST_COUNTS = (171, 909, 93, 43, 217, 44, 35)  # the official test set
NAMES = classification.CONFUSION_METRICS + classification.AUC_METRICS


def made(n=300, seed=0, signal=1.5, decimals=None, classes=range(7)):
    """Random truth over `classes`, probabilities that know something about it, and lesions of 1 or
    2 images."""
    rng = np.random.default_rng(seed)
    lesions = np.sort(rng.integers(0, max(2 * n // 3, 1), n))
    truth = rng.choice(list(classes), n)[lesions % n]
    logits = rng.normal(size=(n, 7)) + signal * np.eye(7)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth, probabilities if decimals is None else probabilities.round(decimals), lesions


def numbers(truth, probabilities):
    found = classification.metrics(truth, probabilities)
    return np.array([found[name] for name in NAMES], float)  # None becomes NaN


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 60),
    st.sets(st.integers(0, 6), min_size=1),
    st.sampled_from([None, 1]),
)
def test_weights_count_like_repeated_rows(seed, n, classes, decimals):
    truth, probabilities, _ = made(n, seed, decimals=decimals, classes=classes)
    weights = np.random.default_rng(seed).integers(0, 4, (5, n))
    ours = classification.scalar_metrics(truth, probabilities, weights)
    for row, counts in zip(ours, weights, strict=True):
        expected = numbers(np.repeat(truth, counts), np.repeat(probabilities, counts, axis=0))
        np.testing.assert_allclose(row, expected, atol=1e-12)


def test_fractional_weights_agree_with_sklearn():
    truth, probabilities, _ = made(100, 1, decimals=2)
    weights = np.random.default_rng(0).random((3, 100))
    ours = classification.auc(truth == 1, probabilities[:, 1], weights)
    expected = [
        roc_auc_score(truth == 1, probabilities[:, 1], sample_weight=row) for row in weights
    ]
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 80), st.sets(st.integers(0, 6), min_size=1))
def test_draws_take_whole_lesions_and_every_class(seed, n, classes):
    truth, _, lesions = made(n, seed, classes=classes)
    weights = bootstrap._Lesions(lesions, truth).draw(np.random.default_rng(seed), 20)
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
    truth, _, lesions = made(200, 2)
    weights = bootstrap._Lesions(lesions, truth).draw(np.random.default_rng(0), 20_000)
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.05)


def coverage(reliability, images_a_lesion, clusters=True, n=2000, n_resamples=1000, seed=0):
    """Share of `n` made-up test sets whose 95 % interval of balanced accuracy holds the true one,
    and the intervals.

    Class k is right with a lesion's own chance, Beta-distributed around reliability[k]. All test
    sets have the same lesions, so one set of draws and a matrix product serve them all.
    """
    rng = np.random.default_rng(seed)
    truth = np.repeat(range(7), TEST_COUNTS)
    lesions = np.cumsum(
        (rng.random(len(truth)) < 1 / images_a_lesion) | (np.diff(truth, prepend=-1) > 0)
    )
    mean = np.repeat(reliability, TEST_COUNTS)
    spread = 0.7  # two images of one lesion agree with this correlation
    a, b = mean * (1 - spread) / spread, (1 - mean) * (1 - spread) / spread
    _, first = np.unique(lesions, return_index=True)
    right = (
        rng.random((len(truth), n))
        < rng.beta(a[first, None], b[first, None], (len(first), n))[lesions - 1]
    )

    def balanced_accuracy(weights):  # (R, N) -> (R, n)
        each = [
            weights[:, truth == k] @ right[truth == k] / weights[:, truth == k].sum(1)[:, None]
            for k in range(7)
        ]
        return np.mean(each, axis=0)

    units = lesions if clusters else np.arange(len(truth))
    options = dict(strata=truth, n_resamples=n_resamples, seed=seed, vectorised=True)
    low, high = bootstrap.by_lesion(balanced_accuracy, units, **options)
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


def test_headline_agrees_with_metrics_and_json():
    truth, probabilities, lesions = made(200, 4)
    found = bootstrap.intervals(truth, probabilities, lesions, n_resamples=200)
    assert tuple(found) == NAMES
    expected = numbers(truth, probabilities)
    assert [found[name]["value"] for name in NAMES] == pytest.approx(expected.tolist(), abs=1e-12)
    assert all(row["low"] < row["value"] < row["high"] for row in found.values())
    json.dumps(found, allow_nan=False)


def test_one_lesion_many_times_is_no_more_certain():
    truth, probabilities, lesions = made(150, 5)
    once = bootstrap.intervals(truth, probabilities, lesions, n_resamples=300)
    thrice = bootstrap.intervals(
        *(np.repeat(v, 3, axis=0) for v in (truth, probabilities, lesions)), n_resamples=300
    )
    for name in NAMES:
        assert thrice[name] == pytest.approx(once[name], abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.sets(st.integers(0, 6), min_size=1))
def test_the_order_of_the_rows_does_not_matter(seed, n, classes):
    truth, probabilities, lesions = made(n, seed, classes=classes)
    order = np.random.default_rng(seed).permutation(n)
    ours = bootstrap.intervals(truth, probabilities, lesions, n_resamples=50)
    shuffled = bootstrap.intervals(
        truth[order], probabilities[order], lesions[order], n_resamples=50
    )
    for name in NAMES:
        assert shuffled[name] == pytest.approx(ours[name], abs=1e-12)


def test_the_seed_decides_and_the_level_widens():
    truth, probabilities, lesions = made(200, 6)
    once, again, other = (
        bootstrap.intervals(truth, probabilities, lesions, seed=s, n_resamples=200)
        for s in (0, 0, 1)
    )
    assert once == again != other
    wide = bootstrap.intervals(truth, probabilities, lesions, level=0.99, n_resamples=200)
    for name in NAMES:
        assert wide[name]["low"] < once[name]["low"] < once[name]["high"] < wide[name]["high"]


def test_a_plain_statistic_agrees_with_theory():
    """The mean of one number a lesion: the interval is Student's t."""
    values = np.random.default_rng(0).normal(size=40)

    def mean(weights):
        return np.average(values, weights=weights)

    low, high = bootstrap.by_lesion(mean, np.arange(40), n_resamples=20_000)
    half = 2.0227 * values.std(ddof=1) / np.sqrt(40)  # t of 39 degrees of freedom
    assert (low, high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.05 * half
    )


def test_difference_is_paired():
    truth, a, lesions = made(400, 7)
    b = 0.98 * a + 0.02 * np.eye(7)[truth]
    same = bootstrap.difference(truth, a, a, lesions, n_resamples=100)
    assert all(row == {"value": 0, "low": 0, "high": 0} for row in same.values())
    ours = bootstrap.difference(truth, b, a, lesions, n_resamples=300)
    mirrored = bootstrap.difference(truth, a, b, lesions, n_resamples=300)
    alone = [bootstrap.intervals(truth, p, lesions, n_resamples=300) for p in (b, a)]
    for name in NAMES:
        value, low, high = ours[name].values()
        assert value == pytest.approx(alone[0][name]["value"] - alone[1][name]["value"])
        assert mirrored[name] == pytest.approx({"value": -value, "low": -high, "high": -low})
        assert value > 0 and high - low < 0.6 * (alone[0][name]["high"] - alone[0][name]["low"])
    with pytest.raises(UserError, match="same images"):
        bootstrap.difference(truth, a, a[:-1], lesions)


def test_what_is_not_defined_is_none():
    empty = bootstrap.intervals(np.empty(0, int), np.empty((0, 7)), np.empty(0), n_resamples=10)
    assert all(row == {"value": None, "low": None, "high": None} for row in empty.values())
    nevi = bootstrap.intervals(
        np.ones(9, int), np.eye(7)[np.ones(9, int)], np.arange(9), n_resamples=10
    )
    assert nevi["accuracy"] == {"value": 1, "low": 1, "high": 1}
    assert nevi["macro_auc"] == nevi["malignant_auc"] == {"value": None, "low": None, "high": None}
    with pytest.raises(UserError, match="1 images have no lesion id"):
        bootstrap.by_lesion(np.sum, ["a", None])


def test_small_classes_widen_the_percentiles():
    many, few, one = (
        bootstrap._percentiles(np.array(sizes), 0.95) for sizes in ([5000], [5000, 5], [1])
    )
    assert many == pytest.approx((0.025, 0.975), abs=1e-4) and one == pytest.approx((0.025, 0.975))
    # nearly t of 4 degrees of freedom: 2.776 standard deviations
    assert few[0] == pytest.approx(0.00276, abs=2e-4)


def test_subgroups_are_marked_not_hidden():
    truth, probabilities, lesions = made(300, 8)
    sex = np.where(np.arange(300) < 10, None, np.where(np.arange(300) % 3, "male", "female"))
    sex[11] = "unknown"
    frame = predictions.build(range(300), truth, probabilities, lesion_id=lesions, sex=sex)
    found = bootstrap.subgroups(frame, "sex", min_n=20, n_resamples=100)
    assert found.index.tolist() == ["female", "male", "unknown"] and found.index.name == "sex"
    assert found["n"].sum() == 300 and found.loc["unknown", "n"] == 11
    assert found["small"].tolist() == [False, False, True]
    for value, row in found.iterrows():
        inside = frame["sex"].fillna("unknown") == value
        expected = classification.metrics(truth[inside], probabilities[inside])
        assert row["balanced_accuracy"] == pytest.approx(expected["balanced_accuracy"])
        assert row["accuracy"] == pytest.approx(expected["accuracy"])
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert (row["lesions"], row["classes"]) == (
            len(set(lesions[inside])),
            len(set(truth[inside])),
        )


def test_subgroups_keep_the_order_of_a_category():
    truth, probabilities, lesions = made(60, 9)
    bands = pd.cut(np.arange(60.0) * 2, [0, 9, 80, 100], labels=["under 9", "9 to 80", "over 80"])
    frame = predictions.build(range(60), truth, probabilities, lesion_id=lesions, age=bands)
    found = bootstrap.subgroups(frame, "age", n_resamples=20)
    # 0 and over 100 are in no band
    assert found.index.tolist() == ["under 9", "9 to 80", "over 80", "unknown"]


def test_two_thousand_draws_of_two_thousand_images_are_quick():
    truth, probabilities, lesions = made(2000, 10)
    start = time.process_time()
    bootstrap.intervals(truth, probabilities, lesions)
    assert time.process_time() - start < 5  # s of one core; 0.6 s where this was written
