"""Every choice against all other choices, every number against sklearn or a count by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_predictions import SHARES, calibrated, rows, table_of
from sklearn import metrics as sk

from dermai_utils import intervals, predictions
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.study import decisions as dec

PAIRS = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=40)
SEEDS, SIZES = st.integers(0, 10**6), st.integers(1, 60)


# The decision rule


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.floats(0.01, 1), min_size=7, max_size=7))
def test_the_correction_is_bayes_with_an_even_prior(seed, prior):
    prior = np.array(prior) / sum(prior)
    likelihood = np.random.default_rng(seed).random((20, 7)) + 0.01  # p(image | class)
    posterior = likelihood * prior / (likelihood * prior).sum(1, keepdims=True)
    corrected = dec.prior_corrected(posterior, prior, 1)
    np.testing.assert_allclose(corrected, likelihood / likelihood.sum(1, keepdims=True), atol=1e-12)
    for other in ((np.full(7, 1 / 7), 1), (prior, 0)):
        np.testing.assert_allclose(dec.prior_corrected(posterior, *other), posterior, atol=1e-12)
    back = dec.prior_corrected(corrected, prior, -1)
    np.testing.assert_allclose(back, posterior, atol=1e-12)


def test_a_class_that_was_never_trained_stays_out():
    prior = [0, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1]
    for tau in (1, 0, np.array([[0.5], [-1]])):
        corrected = dec.prior_corrected(np.full((2, 7), 1 / 7), prior, tau)
        assert corrected[:, 0].tolist() == [0, 0] and corrected.sum(1) == pytest.approx(1)
    for prior in ([0] * 7, [-1, 2, 0, 0, 0, 0, 0]):
        with pytest.raises(UserError, match="a share of the images"):
            dec.prior_corrected(np.ones((1, 7)), prior, 1)


@pytest.mark.parametrize("seed, power", [(0, 0.0), (1, 0.5), (2, 1.0), (3, -1.0)])
def test_the_exponent_has_the_least_log_loss_with_equal_classes(seed, power):
    """Against a grid of temperatures and exponents."""
    val = rows(800, seed, power=power)
    truth, p = predictions.arrays(val)
    equal = 1 / np.bincount(truth, minlength=7)[truth]

    def loss(temperature, tau):
        q = (p / SHARES.to_numpy() ** tau) ** (1 / temperature)
        q /= q.sum(1, keepdims=True)
        return np.average(-np.log(q[np.arange(len(q)), truth]), weights=equal), q

    found, q = loss(0.7, 0.3)
    expected = sk.log_loss(truth, q, labels=range(7), sample_weight=equal)
    assert found == pytest.approx(expected)
    grid = [(t, tau) for t in np.arange(0.3, 3, 0.1) for tau in np.arange(-2, 3, 0.1)]
    best = min(grid, key=lambda pair: loss(*pair)[0])[1]
    assert dec.tuned_tau(val, SHARES) == pytest.approx(np.clip(best, -1, 1), abs=0.15)


def test_a_few_images_hardly_move_the_exponent():
    """Two images of two classes, which any exponent separates; and none of a trained class."""
    val = rows(400, 1)
    few = val[val["truth"].isin(["MEL", "NV"])].drop_duplicates("truth")
    assert abs(dec.tuned_tau(few, SHARES)) < 1
    untrained = SHARES.where(SHARES.index != "MEL", 0)
    assert dec.tuned_tau(val[val["truth"] == "MEL"], untrained) == 0


def test_both_rules_are_counted_as_sklearn_counts():
    val, prior = rows(seed=1, power=0.5), pd.Series([0.1, 0.6, 0.1, 0.1, 0.1, 0, 0], CLASSES)
    found, (truth, p) = dec.compare_rules(val, prior), predictions.arrays(val)
    assert found["chosen"] == "prior_corrected" and found["training_prior"] == prior.to_dict()
    assert found["tau"] == dec.tuned_tau(val, prior) > 0
    by_rule = dec.called(val, found)
    called = by_rule["prediction"].map(CLASSES.index).to_numpy()
    assert (called == dec.prior_corrected(p, prior, found["tau"]).argmax(1)).all()
    assert by_rule["confidence"].tolist() == p[np.arange(len(p)), called].tolist()
    for rule, one in {"argmax": p.argmax(1), "prior_corrected": called}.items():
        f1, accuracy = sk.f1_score(truth, one, average="macro"), sk.accuracy_score(truth, one)
        scores = found["rules"][rule]["val"]
        assert (scores["macro_f1"], scores["accuracy"]) == pytest.approx((f1, accuracy))
        expected = sk.balanced_accuracy_score(truth, one)
        assert scores["balanced_accuracy"] == pytest.approx(expected)
    plain = found | {"tau": 0.0, "chosen": "argmax"}
    assert dec.called(rows(), plain).equals(rows())


def test_the_prior_is_that_of_the_training_images_at_home():
    table = table_of(rows(70)).assign(subset=["train", "val"] * 35)
    table["source"] = np.where(np.arange(70) % 10 == 0, "extra", "train")
    train = table[(table["subset"] == "train") & (table["source"] == "train")]["label"].tolist()
    expected = {c: train.count(c) / len(train) for c in CLASSES}
    assert dec.training_prior(table).to_dict() == pytest.approx(expected)
    folds = dec.training_prior(table.assign(subset="val", source="train"))
    assert folds.sum() == pytest.approx(1) and folds["NV"] == (table["label"] == "NV").mean()


# Thresholds


@settings(max_examples=150, deadline=None)
@given(
    PAIRS,
    st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.95, 1.0]),
    st.sampled_from(["sensitivity", "specificity"]),
)
def test_no_other_threshold_is_better(pairs, asked, rate):
    positive, score = np.array(pairs, int).T
    other = {"sensitivity": "specificity", "specificity": "sensitivity"}[rate]
    chosen = dec.threshold_at(positive, score, rate, asked)
    if not (positive if rate == "sensitivity" else 1 - positive).any():
        assert np.isnan(chosen)
        return
    point = dec.operating_point(positive, score, chosen)
    assert point[rate] >= asked
    points = [dec.operating_point(positive, score, t) for t in [*np.arange(-0.5, 9), np.inf]]
    allowed = [p[other] for p in points if p[rate] >= asked and p[other] is not None]
    assert not allowed or point[other] == max(allowed)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(0, 9))
def test_an_operating_point_agrees_with_sklearn(pairs, threshold):
    positive, score = np.array(pairs, int).T
    tn, fp, fn, tp = sk.confusion_matrix(positive, score >= threshold, labels=[0, 1]).ravel()
    shares = dict(
        sensitivity=(tp, tp + fn), specificity=(tn, tn + fp), ppv=(tp, tp + fp), npv=(tn, tn + fn)
    )
    point = dec.operating_point(positive, score, threshold)
    for name, (part, whole) in shares.items():
        assert point[name] == (pytest.approx(part / whole) if whole else None)
    json.dumps(point, allow_nan=False)


def test_a_threshold_needs_a_rate_and_images():
    with pytest.raises(UserError, match="'ppv': expected sensitivity or specificity"):
        dec.threshold_at([0, 1], [0.1, 0.9], "ppv", 0.9)
    unknown = dec.operating_point([0, 1], [0.1, 0.9], np.nan)
    assert list(unknown.values()) == [None] * 4
    none = dec.threshold_at([1, 0], [0.5, 0.9], "specificity", 1)
    none = dec.operating_point([1, 0], [0.5, 0.9], none)
    assert none == {"sensitivity": 0, "specificity": 1, "ppv": None, "npv": 0.5}


def test_thresholds_are_chosen_on_validation_and_counted_on_both():
    val, scored = rows(600, 1), rows(500, 2)
    points = dec.operating_points(val, scored)
    assert [(p["target"], p["rate"], p["level"]) for p in points] == [
        (target, *level) for target in ("melanoma", "malignant") for level in dec.LEVELS
    ]
    for point in points:
        classes = ["MEL"] if point["target"] == "melanoma" else ["MEL", "BCC", "AKIEC"]
        chosen = dec.threshold_at(*dec.binary(val, classes), point["rate"], point["level"])
        assert point["threshold"] == chosen
        for part, some in (("val", val), ("scored", scored)):
            positive, called = some["truth"].isin(classes), some[classes].sum(axis=1) >= chosen
            expected = dec.operating_point(positive, some[classes].sum(axis=1), chosen)
            assert point[part].items() >= expected.items() and point[part]["n"] == len(some)
        for rate, side in zip(dec.RATES, (positive, ~positive), strict=True):
            right = (called == positive)[side].to_numpy()
            expected = intervals.rate(right, predictions.lesions(scored[side]))
            for key in ("low", "high", "k", "n", "lesions"):
                assert point["scored"][f"{rate}_{key}"] == expected[key]
    assert dec.operating_points(val, val)[0]["scored"].items() >= points[0]["val"].items()


# Abstaining


@settings(max_examples=40, deadline=None)
@given(SEEDS, SIZES)
def test_risk_coverage_counted_by_hand(seed, n):
    truth, probabilities = calibrated(n, seed)
    table = dec.risk_coverage(truth, probabilities)
    surest = sorted(range(n), key=lambda i: -probabilities[i].max())
    wrong = [probabilities[i].argmax() != truth[i] for i in surest]
    assert table["coverage"].tolist() == pytest.approx([k / n for k in range(1, n + 1)])
    assert table["risk"].tolist() == pytest.approx([sum(wrong[:k]) / k for k in range(1, n + 1)])
    assert table["confidence"].tolist() == [probabilities[i].max() for i in surest]


def test_equally_sure_images_count_with_their_mean():
    """As over all orders of them: one of three is wrong."""
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.55, 0.45]])
    found = dec.risk_coverage(np.array([0, 1, 0, 0, 1]), p)["risk"]
    assert found.tolist() == pytest.approx([0, 1 / 3 / 2, 2 / 3 / 3, 1 / 4, 2 / 5])


def test_abstaining_is_counted_by_hand():
    val, scored = rows(seed=1), rows(seed=2)
    found, points = dec.abstaining(val, scored), dec.abstaining(val, val)["points"]
    curve = dec.risk_coverage(*predictions.arrays(scored))
    assert found["aurc"] == pytest.approx(curve["risk"].mean())
    assert [point["asked"] for point in found["points"]] == [1, 0.9, 0.8, 0.7, 0.6, 0.5]
    for point in points:  # the image at the threshold is answered
        assert point["asked"] <= point["coverage"] <= point["asked"] + 1.001 / len(val)
    for point in found["points"]:
        answered = scored[scored["confidence"] >= point["threshold"]]
        assert (point["n"], point["coverage"]) == (len(answered), len(answered) / len(scored))
        assert point["risk"] == pytest.approx((answered["truth"] != answered["prediction"]).mean())
        assert point["risk_low"] < point["risk"] < point["risk_high"]
