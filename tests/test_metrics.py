"""Every number against another source: sklearn, isic-challenge-scoring (the official scorer) or
counting by hand."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isic_challenge_scoring.classification import ClassificationMetric, ClassificationScore
from isic_challenge_scoring.types import ScoreError
from made_up_predictions import arrays
from sklearn import metrics as sk

from dermai_utils import files, metrics, predictions
from dermai_utils.basics import CLASSES, UserError

# the scorer's, about pandas 4
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TEST_COUNTS = (171, 909, 93, 43, 217, 44, 35)  # the official test set
OFFICIAL = "accuracy sensitivity specificity dice ppv npv auc auc_sens_80 ap".split()
SEEDS, CLASS_SETS = st.integers(0, 10**6), st.sets(st.integers(0, 6), min_size=1)


def official(truth, probabilities, images, folder, monkeypatch):
    """The official scorer's result, through the CSV files that it would read."""
    # gone in pandas 3
    monkeypatch.setattr(pd.DataFrame, "applymap", pd.DataFrame.map, raising=False)
    files.write_table(predictions.submission(images, probabilities), folder / "submission.csv")
    hot = pd.DataFrame(np.eye(7)[truth], pd.Index(images, name="image"), CLASSES)
    hot.to_csv(folder / "truth.csv")
    return score_files(folder)


def score_files(folder):
    paths = folder / "truth.csv", folder / "submission.csv"
    return ClassificationScore.from_file(*paths, ClassificationMetric.BALANCED_ACCURACY)


def names(n):
    return [f"ISIC_{35060 + i:07d}" for i in range(n)]  # ZERO_WEIGHT is one of them


@pytest.mark.parametrize("seed, decimals", [(0, None), (1, 2), (2, None), (3, 2)])
def test_agrees_with_the_official_scorer(seed, decimals, tmp_path, monkeypatch):
    truth, probabilities, _ = arrays(400, seed, signal=3, decimals=decimals)
    top_two = np.sort(probabilities, 1)[:, -2:]
    # the scorer calls a tie at the top undecided, that is wrong
    keep = top_two[:, 0] < top_two[:, 1]
    truth, probabilities = truth[keep], probabilities[keep]
    images = names(len(truth))
    theirs = official(truth, probabilities, images, tmp_path, monkeypatch)
    ours = metrics.all_metrics(truth, probabilities, predictions.weights(images))
    assert ours["n"] == len(truth) - 1
    assert ours["balanced_accuracy"] == pytest.approx(theirs.overall, abs=1e-9)
    per_class = pd.DataFrame(ours["per_class"]).T.loc[list(CLASSES), OFFICIAL].astype(float)
    expected = theirs.per_category.loc[list(CLASSES), OFFICIAL]
    np.testing.assert_allclose(per_class, expected, rtol=0, atol=1e-9)


def test_a_submission_with_ties_gets_the_score_that_is_reported_here(tmp_path, monkeypatch):
    truth, probabilities, _ = arrays(400, signal=2, decimals=1)
    probabilities[0], probabilities[1] = 0, 1  # seven ties at either end
    assert ((probabilities == probabilities.max(1, keepdims=True)).sum(1) > 1).sum() > 20
    images = names(400)
    values = predictions.submission(images, probabilities)[list(CLASSES)].to_numpy()
    assert (values.argmax(1) == probabilities.argmax(1)).all()
    assert values.min() >= 0 and values.max() <= 1 and np.abs(values - probabilities).max() <= 1e-9
    ours = metrics.all_metrics(truth, probabilities, predictions.weights(images))
    theirs = official(truth, probabilities, images, tmp_path, monkeypatch)
    assert ours["balanced_accuracy"] == pytest.approx(theirs.overall, abs=1e-12)


def test_whole_numbers_stay_floats_in_the_submission(tmp_path, monkeypatch):
    """The scorer refuses a column of 0 and 1 without a decimal point."""
    truth = np.arange(7)
    assert official(truth, np.eye(7)[truth], names(7)[::-1], tmp_path, monkeypatch).overall == 1
    text = (tmp_path / "submission.csv").read_text()
    (tmp_path / "submission.csv").write_text(text.replace(".0", ""))
    with pytest.raises(ScoreError, match="non-floating"):
        score_files(tmp_path)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(2, 60), CLASS_SETS, st.sampled_from([None, 1]))
def test_agrees_with_sklearn(seed, n, classes, decimals):
    truth, probabilities, _ = arrays(n, seed, decimals=decimals, classes=classes)
    called, ours = probabilities.argmax(1), metrics.all_metrics(truth, probabilities)
    options = dict(labels=np.unique(truth), zero_division=0)
    same = {
        "accuracy": sk.accuracy_score(truth, called),
        "balanced_accuracy": sk.recall_score(truth, called, average="macro", **options),
        "macro_f1": sk.f1_score(truth, called, average="macro", **options),
        "weighted_f1": sk.f1_score(truth, called, average="weighted", **options),
    }
    assert {key: ours[key] for key in same} == pytest.approx(same, abs=1e-12)
    assert ours["confusion"] == sk.confusion_matrix(truth, called, labels=range(7)).tolist()
    known = [row["auc"] for row in ours["per_class"].values() if row["auc"] is not None]
    assert ours["macro_auc"] == (pytest.approx(np.mean(known)) if known else None)
    malignant, expected = np.isin(truth, [0, 2, 3]), None
    if 0 < malignant.sum() < n:
        expected = sk.roc_auc_score(malignant, probabilities[:, [0, 2, 3]].sum(1))
        expected = pytest.approx(expected, abs=1e-12)
    assert ours["malignant_auc"] == expected
    json.dumps(ours, allow_nan=False)
    options = dict(labels=range(7), zero_division=np.nan)
    theirs = sk.precision_recall_fscore_support(truth, called, **options)
    for k, name in enumerate(CLASSES):
        row, positive, score = ours["per_class"][name], truth == k, probabilities[:, k]
        assert row["n"] == positive.sum()
        if not positive.any():
            undefined = "precision recall f1 auc ap sensitivity ppv dice auc_sens_80".split()
            assert [row[key] for key in undefined] == [None] * len(undefined)
            continue
        expected = sk.average_precision_score(positive, score)
        assert row["ap"] == pytest.approx(expected, abs=1e-12)
        for key, column in zip(("precision", "recall", "f1"), theirs, strict=False):
            expected = None if np.isnan(column[k]) else pytest.approx(column[k], abs=1e-12)
            assert row[key] == expected
        if positive.sum() < n:
            expected = sk.roc_auc_score(positive, score)
            assert row["auc"] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 60), CLASS_SETS, st.sampled_from([None, 1]))
def test_weights_count_like_repeated_rows(seed, n, classes, decimals):
    truth, probabilities, _ = arrays(n, seed, decimals=decimals, classes=classes)
    weights = np.random.default_rng(seed).integers(0, 4, (5, n))
    ours = metrics.scalar_metrics(truth, probabilities, weights)
    for row, counts in zip(ours, weights, strict=True):
        repeated = np.repeat(truth, counts), np.repeat(probabilities, counts, axis=0)
        found = metrics.all_metrics(*repeated)
        expected = np.array([found[name] for name in metrics.SCALAR_METRICS], float)  # None: NaN
        np.testing.assert_allclose(row, expected, atol=1e-12)


def test_fractional_weights_agree_with_sklearn():
    truth, probabilities, _ = arrays(100, 1, decimals=2)
    positive, score = truth == 1, probabilities[:, 1]
    weights = np.random.default_rng(0).random((3, 100))
    expected = [sk.roc_auc_score(positive, score, sample_weight=row) for row in weights]
    np.testing.assert_allclose(metrics.auc(positive, score, weights), expected, atol=1e-12)


def test_scores_of_a_rule_change_classes_and_no_ranking():
    truth, probabilities, _ = arrays(200)
    other = probabilities[:, ::-1]
    found = metrics.all_metrics(truth, probabilities, scores=other)
    plain = metrics.all_metrics(truth, probabilities)
    assert found["accuracy"] == np.mean(other.argmax(1) == truth) != plain["accuracy"]
    assert found["per_class"]["MEL"]["sensitivity"] == np.mean(other[truth == 0, 0] > 0.5)
    assert found["macro_auc"] == plain["macro_auc"]
    for name in ("auc", "ap", "auc_sens_80"):
        assert found["per_class"]["DF"][name] == plain["per_class"]["DF"][name]


def test_a_perfect_and_a_useless_classifier():
    truth = np.repeat(range(7), TEST_COUNTS)
    perfect = metrics.all_metrics(truth, np.eye(7)[truth])
    assert [perfect[key] for key in metrics.SCALAR_METRICS] == [1] * 6
    assert perfect["per_class"]["DF"]["auc_sens_80"] == 1
    # all tied: the first class takes them
    useless = metrics.all_metrics(truth, np.full((len(truth), 7), 1 / 7))
    assert useless["balanced_accuracy"] == pytest.approx(1 / 7)
    assert useless["macro_auc"] == useless["malignant_auc"] == 0.5
    assert useless["per_class"]["NV"]["precision"] is None and useless["per_class"]["NV"]["f1"] == 0
    assert np.array(useless["confusion"])[:, 0].sum() == len(truth)


def test_nothing_at_all_is_not_defined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = metrics.all_metrics(np.empty(0, int), np.empty((0, 7)))
    assert empty["n"] == 0 and empty["confusion"] == [[0] * 7] * 7
    assert [empty[key] for key in metrics.SCALAR_METRICS] == [None] * 6


@pytest.mark.parametrize(
    "truth, probabilities, message",
    [
        ([0, 1], np.ones((2, 6)), r"\(N, 7\)"),
        ([0, 1], np.full((2, 7), np.nan), "NaN"),
        ([0, 1], np.full((2, 7), -np.inf), r"without a probability .*: 2"),
        ([0, 7], np.ones((2, 7)), "outside 0 to 6"),
        ([-1, 1], np.ones((2, 7)), "outside 0 to 6"),
    ],
)
def test_unusable_arrays_are_refused(truth, probabilities, message):
    with pytest.raises(UserError, match=message):
        metrics.all_metrics(truth, probabilities)
