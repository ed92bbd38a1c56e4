"""Scores held against the functions that make the report, and against a count by hand."""

from pathlib import Path

import made_up_predictions as made
import numpy as np
import pandas as pd
import pytest

from dermai_utils import intervals, metrics, predictions
from dermai_utils.audits import inputs
from dermai_utils.audits.scores import compared, of_difference, scores
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.study import calibration, decisions

ROWS = made.rows(500, power=1.0)
PRIOR = made.SHARES
DRAWS = dict(n_resamples=100)


def test_scores_are_those_of_the_report():
    found = scores(ROWS, PRIOR, **DRAWS)
    truth, p = predictions.arrays(ROWS)
    lesions, corrected = predictions.lesions(ROWS), decisions.prior_corrected(p, PRIOR, 1)
    plain = intervals.intervals(truth, p, lesions, **DRAWS)
    by_rule = intervals.intervals(truth, p, lesions, corrected, **DRAWS)
    for name, row in plain.items():
        assert found["argmax"][name] == pytest.approx(row)
    for name, row in found["prior_corrected"].items():
        assert row == pytest.approx(by_rule[name])
    whole = metrics.all_metrics(truth, p)
    assert found["argmax"]["melanoma_auc"]["value"] == pytest.approx(
        whole["per_class"]["MEL"]["auc"]
    )
    assert found["ece"] == calibration.ece(truth, p)
    assert "where" not in found and found["n_shared"] is None


def test_where_the_leak_is():
    """Images of shared lesions are all right, a third of the others is wrong."""
    truth = np.arange(420) % 7
    shared = np.arange(420) % 3 == 0
    named = np.where(~shared & (np.arange(420) % 9 == 1), (truth + 1) % 7, truth)
    lesions = [f"L{k}" for k in range(420)]
    rows = predictions.table(lesions, truth, np.eye(7)[named], lesion_id=lesions)
    found = scores(rows, np.ones(7), shared, **DRAWS)
    wrong = np.array([(named != truth)[(truth == k) & ~shared].mean() for k in range(7)])
    where = {name: row["value"] for name, row in found["where"].items()}
    expected = {"shared": 1.0, "not_shared": 1 - wrong.mean(), "difference": wrong.mean()}
    assert where == pytest.approx(expected) and found["n_shared"] == 140
    assert found["where"]["difference"]["low"] > 0
    assert "where" not in scores(rows, np.ones(7), shared & False, **DRAWS)


def test_another_file_is_compared_on_the_images_of_both():
    other = made.rows(500, signal=1.0).sample(frac=0.7, random_state=0)
    other["image"] = ROWS["image"].loc[other.index]
    found = compared(ROWS, other, PRIOR, **DRAWS)
    mine, theirs = ROWS.loc[sorted(other.index)], other.sort_index()
    truth, p = predictions.arrays(mine)
    q, lesions = theirs[list(CLASSES)].to_numpy(), predictions.lesions(mine)
    expected = intervals.compare(truth, p, q, lesions, **DRAWS)
    assert found["n"] == 350
    for name, row in expected.items():
        assert found["minus"][name] == pytest.approx(row)
    a, b = (decisions.prior_corrected(x, PRIOR, 1) for x in (p, q))
    by_rule = intervals.compare(truth, p, q, lesions, (a, b), **DRAWS)["balanced_accuracy"]
    assert found["minus"]["balanced_accuracy_prior_corrected"] == pytest.approx(by_rule)
    for key, minus in found["minus"].items():  # a difference fits the two scores beside it
        a, b = (of_difference(found[each], key)["value"] for each in ("first", "other"))
        assert minus["value"] == pytest.approx(a - b)
    with pytest.raises(UserError, match="b.csv has none of the scored images"):
        compared(ROWS, other.assign(image="z" + other["image"]), PRIOR, "b.csv", **DRAWS)


PUBLIC = Path(__file__).resolve().parents[3] / "shared" / "public_predictions"
PUBLISHED = {"PanDerm": (0.8822, 0.7831, 0.8811, 0.8518), "MONET": (0.8516, 0.6620, 0.8456, 0.7906)}


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the published predictions are not on this machine")
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("with_labels", [True, False])
def test_published_predictions_give_their_published_scores(name, with_labels, tmp_path):
    path = PUBLIC / f"{name}_HAM-official-7-lp.csv"
    if not with_labels:  # then the class numbers are found from the probabilities alone
        frame = pd.read_csv(path, dtype=str).drop(columns=["true_label", "predicted_label"])
        path = tmp_path / path.name
        frame.to_csv(path, index=False)
    found = inputs.audit_files([path], cache=tmp_path, **DRAWS)
    assert "labels: 0 AKIEC, 1 BCC, 2 BKL, 3 DF, 4 MEL, 5 NV, 6 VASC" in found["notes"][0]
    argmax = found["scores"]["argmax"]
    values = [argmax[m]["value"] for m in ("accuracy", "balanced_accuracy", "weighted_f1")]
    values.append(found["scores"]["prior_corrected"]["balanced_accuracy"]["value"])
    assert [round(value, 4) for value in values] == list(PUBLISHED[name])
    assert found["sentence"].startswith("613 of 1,503 predicted images show a lesion")
    assert found["verdict"]["name"] == "unknown"
