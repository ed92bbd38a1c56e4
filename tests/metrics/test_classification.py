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
from sklearn import metrics as sk

from dermai_utils import files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.metrics import classification, predictions

# the scorer's, about pandas 4
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TEST_COUNTS = (171, 909, 93, 43, 217, 44, 35)  # the official test set
OFFICIAL_NAMES = [
    "accuracy",
    "sensitivity",
    "specificity",
    "dice",
    "ppv",
    "npv",
    "auc",
    "auc_sens_80",
    "ap",
]


def made(n=300, seed=0, signal=1.5, decimals=None, classes=range(7)):
    """Random truth over `classes` and probabilities that know something about it."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(list(classes), n)
    logits = rng.normal(size=(n, 7)) + signal * np.eye(7)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth, probabilities if decimals is None else probabilities.round(decimals)


def official(truth, probabilities, images, tmp_path, monkeypatch):
    """The official scorer's result, through the CSV files that it would read."""
    # gone in pandas 3
    monkeypatch.setattr(pd.DataFrame, "applymap", pd.DataFrame.map, raising=False)
    files.write_table(predictions.submission(images, probabilities), tmp_path / "submission.csv")
    hot = pd.DataFrame(np.eye(7)[truth], pd.Index(images, name="image"), CLASSES)
    hot.to_csv(tmp_path / "truth.csv")
    return ClassificationScore.from_file(
        tmp_path / "truth.csv", tmp_path / "submission.csv", ClassificationMetric.BALANCED_ACCURACY
    )


def names(n):
    return [f"ISIC_{35060 + i:07d}" for i in range(n)]  # ISIC_0035068 is one of them


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [None, 2])
def test_agrees_with_the_official_scorer(seed, decimals, tmp_path, monkeypatch):
    truth, probabilities = made(400, seed, signal=3, decimals=decimals)
    top_two = np.sort(probabilities, 1)[:, -2:]
    # the scorer calls a tie at the top undecided, that is wrong
    keep = top_two[:, 0] < top_two[:, 1]
    truth, probabilities = truth[keep], probabilities[keep]
    images = names(len(truth))
    theirs = official(truth, probabilities, images, tmp_path, monkeypatch)
    ours = classification.metrics(truth, probabilities, predictions.weights(images))
    assert ours["n"] == len(truth) - 1
    assert ours["balanced_accuracy"] == pytest.approx(theirs.overall, abs=1e-9)
    per_class = pd.DataFrame(ours["per_class"]).T.loc[list(CLASSES), OFFICIAL_NAMES].astype(float)
    np.testing.assert_allclose(
        per_class, theirs.per_category.loc[list(CLASSES), OFFICIAL_NAMES], rtol=0, atol=1e-9
    )


def test_a_submission_without_ties_gets_the_score_that_is_reported_here(tmp_path, monkeypatch):
    truth, probabilities = made(400, signal=2, decimals=1)
    probabilities[0], probabilities[1] = 0, 1  # seven ties at either end
    assert ((probabilities == probabilities.max(1, keepdims=True)).sum(1) > 1).sum() > 20
    images = names(400)
    table = predictions.submission(images, probabilities)
    values = table[list(CLASSES)].to_numpy()
    assert (values.argmax(1) == probabilities.argmax(1)).all()
    assert values.min() >= 0 and values.max() <= 1 and np.abs(values - probabilities).max() <= 1e-9
    ours = classification.metrics(truth, probabilities, predictions.weights(images))
    theirs = official(truth, probabilities, images, tmp_path, monkeypatch)
    assert ours["balanced_accuracy"] == pytest.approx(theirs.overall, abs=1e-12)


def test_the_zero_weight_row_changes_the_numbers():
    truth, probabilities = made(50, signal=9)
    images = names(50)
    row = images.index(predictions.OFFICIAL_ZERO_WEIGHT)
    probabilities[row] = np.eye(7)[(truth[row] + 1) % 7]
    assert predictions.weights(images).sum() == 49
    without = np.delete(truth, row), np.delete(probabilities, row, 0)
    weighted = classification.metrics(truth, probabilities, predictions.weights(images))
    assert (
        weighted == classification.metrics(*without) != classification.metrics(truth, probabilities)
    )


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(2, 60),
    st.sets(st.integers(0, 6), min_size=1),
    st.sampled_from([None, 1]),
)
def test_agrees_with_sklearn(seed, n, classes, decimals):
    truth, probabilities = made(n, seed, decimals=decimals, classes=classes)
    called, ours = probabilities.argmax(1), classification.metrics(truth, probabilities)
    present = np.unique(truth)
    same = {
        "accuracy": sk.accuracy_score(truth, called),
        "balanced_accuracy": sk.recall_score(
            truth, called, labels=present, average="macro", zero_division=0
        ),
        "macro_f1": sk.f1_score(truth, called, labels=present, average="macro", zero_division=0),
        "weighted_f1": sk.f1_score(
            truth, called, labels=present, average="weighted", zero_division=0
        ),
    }
    assert {key: ours[key] for key in same} == pytest.approx(same, abs=1e-12)
    assert ours["confusion"] == sk.confusion_matrix(truth, called, labels=range(7)).tolist()
    columns = sk.precision_recall_fscore_support(
        truth, called, labels=range(7), zero_division=np.nan
    )
    for k, name in enumerate(CLASSES):
        row, positive = ours["per_class"][name], truth == k
        assert row["n"] == positive.sum()
        if not positive.any():
            undefined = [
                "precision",
                "recall",
                "f1",
                "auc",
                "ap",
                "sensitivity",
                "ppv",
                "dice",
                "auc_sens_80",
            ]
            assert [row[key] for key in undefined] == [None] * len(undefined)
        else:
            assert row["ap"] == pytest.approx(
                sk.average_precision_score(positive, probabilities[:, k]), abs=1e-12
            )
            expected = [
                None if np.isnan(column[k]) else pytest.approx(column[k], abs=1e-12)
                for column in columns
            ]
            assert [row["precision"], row["recall"], row["f1"], row["n"]] == expected
        if 0 < positive.sum() < n:
            assert row["auc"] == pytest.approx(
                sk.roc_auc_score(positive, probabilities[:, k]), abs=1e-12
            )
    known = [row["auc"] for row in ours["per_class"].values() if row["auc"] is not None]
    assert ours["macro_auc"] == (pytest.approx(np.mean(known)) if known else None)
    malignant = np.isin(truth, [0, 2, 3])
    if 0 < malignant.sum() < n:
        expected = sk.roc_auc_score(malignant, probabilities[:, [0, 2, 3]].sum(1))
        assert ours["malignant_auc"] == pytest.approx(expected, abs=1e-12)
    else:
        assert ours["malignant_auc"] is None
    json.dumps(ours, allow_nan=False)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(pairs):
    positive, score = np.array(pairs).T
    up, down = score[positive == 1], score[positive == 0]
    if not len(up) or not len(down):
        assert np.isnan(classification.auc(positive, score)[0])
    else:
        expected = np.mean((up[:, None] > down) + 0.5 * (up[:, None] == down))
        assert classification.auc(positive, score)[0] == pytest.approx(expected, abs=1e-12)


def test_a_perfect_and_a_useless_classifier():
    truth = np.repeat(range(7), TEST_COUNTS)
    perfect = classification.metrics(truth, np.eye(7)[truth])
    primary_subset = (
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "weighted_f1",
        "macro_auc",
        "malignant_auc",
    )
    assert [perfect[key] for key in primary_subset] == [1] * 6
    assert perfect["per_class"]["DF"]["auc_sens_80"] == 1
    # all tied: the first class takes them
    useless = classification.metrics(truth, np.full((len(truth), 7), 1 / 7))
    assert useless["balanced_accuracy"] == pytest.approx(1 / 7)
    assert useless["macro_auc"] == useless["malignant_auc"] == 0.5
    assert useless["per_class"]["NV"]["precision"] is None and useless["per_class"]["NV"]["f1"] == 0
    assert np.array(useless["confusion"])[:, 0].sum() == len(truth)


def test_nothing_at_all_is_not_defined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = classification.metrics(np.empty(0, int), np.empty((0, 7)))
    assert empty["n"] == 0 and empty["confusion"] == [[0] * 7] * 7
    assert [empty[key] for key in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc")] == [
        None
    ] * 4


@pytest.mark.parametrize(
    "truth, probabilities, said",
    [
        ([0, 1], np.ones((2, 6)), "(N, 7)"),
        ([0, 1], np.full((2, 7), np.nan), "NaN"),
        ([0, 7], np.ones((2, 7)), "outside 0 to 6"),
        ([-1, 1], np.ones((2, 7)), "outside 0 to 6"),
    ],
)
def test_unusable_arrays_are_refused(truth, probabilities, said):
    with pytest.raises(UserError) as error:
        classification.metrics(truth, probabilities)
    assert said in str(error.value)


def test_the_report_table_agrees_with_sklearn():
    truth, probabilities = made(200, 3)
    table = classification.class_table(classification.metrics(truth, probabilities))
    theirs = sk.classification_report(
        truth, probabilities.argmax(1), target_names=CLASSES, output_dict=True
    )
    rows = {
        **{name: name for name in CLASSES},
        "macro mean": "macro avg",
        "weighted mean": "weighted avg",
    }
    for ours, row in rows.items():
        expected = [theirs[row][key] for key in ("precision", "recall", "f1-score", "support")]
        assert table.loc[ours, ["precision", "recall", "f1", "n"]].tolist() == pytest.approx(
            expected
        )
    truth_hot = np.eye(7)[truth]
    for average in ("macro", "weighted"):
        expected = sk.roc_auc_score(truth_hot, probabilities, average=average)
        assert table.loc[f"{average} mean", "auc"] == pytest.approx(expected)


def test_a_class_without_a_sample_is_printed_as_not_defined():
    truth, probabilities = made(60, classes=range(6))
    table = classification.class_table(classification.metrics(truth, probabilities))
    printed = classification.readable(table)
    assert printed.loc["VASC"].tolist() == ["not defined"] * 4 + ["0"]
    assert printed.loc["MEL", "recall"] == f"{table.loc['MEL', 'recall']:.3f}"
    assert "not defined" not in printed.loc["macro mean"].tolist()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda images, p: (images, p[:, :6]), "(3, 7)"),
        (lambda images, p: (images[:2], p), "(2, 7)"),
        (lambda images, p: (images[:0], p[:0]), "0 images"),
        (lambda images, p: (images, np.where(np.eye(3, 7) > 0, np.nan, p)), "a: "),
        (lambda images, p: (images, p + 0.5 * np.eye(3, 7)[::-1]), "a: "),
        (lambda images, p: (images, p - 2 * np.eye(3, 7)), "a: "),
        (lambda images, p: (["a", "b", "a"], p), "a is twice"),
    ],
)
def test_a_bad_submission_is_refused_and_not_written(change, said, tmp_path):
    images, probabilities = change(["a", "b", "c"], np.full((3, 7), 0.6))
    with pytest.raises(UserError) as error:
        files.write_table(predictions.submission(images, probabilities), tmp_path / "s.csv")
    assert said in str(error.value)
    assert not list(tmp_path.iterdir())


def test_whole_numbers_stay_floats_in_the_submission(tmp_path, monkeypatch):
    """The scorer refuses a column of 0 and 1 without a decimal point."""
    truth = np.arange(7)
    assert official(truth, np.eye(7)[truth], names(7)[::-1], tmp_path, monkeypatch).overall == 1
    text = (tmp_path / "submission.csv").read_text()
    (tmp_path / "submission.csv").write_text(text.replace(".0", ""))
    with pytest.raises(ScoreError, match="non-floating"):
        ClassificationScore.from_file(
            tmp_path / "truth.csv",
            tmp_path / "submission.csv",
            ClassificationMetric.BALANCED_ACCURACY,
        )


def test_a_submission_keeps_every_bit(tmp_path):
    _, probabilities = made(20, 5)
    files.write_table(predictions.submission(names(20), probabilities), tmp_path / "s.csv")
    header, *rows = [line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines()]
    assert header == ["image", *CLASSES] and [row[0] for row in rows] == names(20)
    assert [[float(v) for v in row[1:]] for row in rows] == probabilities.tolist()


def test_mistakes_come_most_confident_first():
    truth, probabilities = made(200, 7)
    frame = predictions.build(names(200), truth, probabilities, age=range(200))
    assert list(frame) == ["image", "truth", "prediction", *CLASSES, "confidence", "age"]
    assert (frame["truth"] == [CLASSES[k] for k in truth]).all()
    wrong = sorted((-p.max(), i) for i, p in enumerate(probabilities) if p.argmax() != truth[i])
    assert predictions.mistakes(frame).head(10)["age"].tolist() == [i for _, i in wrong[:10]]
    cost = [
        i for _, i in wrong if truth[i] in (0, 2, 3) and probabilities[i].argmax() in (1, 4, 5, 6)
    ]
    assert predictions.costly_mistakes(frame).head(999)["age"].tolist() == cost and cost
    assert predictions.mistakes(frame[frame["truth"] == frame["prediction"]]).head(5).empty
