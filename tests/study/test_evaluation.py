"""metrics.json against a golden file, sklearn, and counts."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_predictions import SHARES, rows, table_of

from dermai_utils import metrics, predictions
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.study import decisions, evaluation

GOLDEN = Path(__file__).with_name("golden")


def differences(expected, found, path=""):
    """Where two values of JSON differ, numbers by more than 1e-9."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() | found.keys():
            yield from differences(expected.get(key, ...), found.get(key, ...), f"{path}/{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for k, pair in enumerate(zip(expected, found, strict=True)):
            yield from differences(*pair, f"{path}/{k}")
    elif isinstance(expected, float) and isinstance(found, float):
        if abs(expected - found) > 1e-9:
            yield path, expected, found
    elif expected != found:
        yield path, expected, found


@pytest.fixture(scope="module")
def golden():
    """(predictions, table): three folds, an official test set without lesions, an own test set."""
    table = pd.read_csv(GOLDEN / "table.csv", keep_default_na=False)
    table["age"] = pd.to_numeric(table["age"], errors="coerce")
    columns = {name: table[name].to_numpy() for name in ("subset", "lesion_id", "origin", "fold")}
    truth = table["label"].map(CLASSES.index).to_numpy()
    return predictions.table(table["image"], truth, table[list(CLASSES)], **columns), table


def test_every_number_is_that_of_the_golden_file(golden):
    made, table = golden
    images = table["image"].tolist()
    pairs = list(zip(images[:60:2], images[:-60:-2], strict=True))
    pairs += [(images[0], images[100]), ("x", "y")]
    found = evaluation.evaluate(made, table, pairs, n_resamples=200)
    expected = json.loads((GOLDEN / "metrics.json").read_text())
    expected |= {"note": found["note"], "folds": 3}
    assert list(differences(expected, found)) == []
    assert "official" in found["subsets"] and found["decisions"]["chosen"] == "prior_corrected"
    json.dumps(found, allow_nan=False)


def test_two_own_test_sets_are_each_scored_alone(golden):
    made, table = golden
    made = made[made["subset"] != "official"]
    second = made[made["subset"] == "Basel"].assign(subset="Bern")
    second["image"] = "Bern:" + second["image"]
    both = evaluation.evaluate(pd.concat([made, second], ignore_index=True), table, n_resamples=20)
    alone = evaluation.evaluate(made, table, n_resamples=20)["elsewhere"]["Basel"]
    assert both["primary_subset"] == "Basel" and list(both["elsewhere"]) == ["Basel", "Bern"]
    basel, bern = both["elsewhere"].values()
    assert basel == alone and bern["decisions"]["rules"] == alone["decisions"]["rules"]
    assert list(bern["by_source"]) == ["BCN", "MSK"]


def test_a_table_read_by_pandas_gives_the_same_numbers(golden, tmp_path):
    """pandas.read_csv makes NaN of a lesion that is not known."""
    made, table = golden
    made.to_csv(tmp_path / "predictions.csv", index=False)
    back = pd.read_csv(tmp_path / "predictions.csv")
    assert back["lesion_id"].isna().any() and back["origin"].isna().any()
    found, expected = (evaluation.evaluate(one, table, n_resamples=20) for one in (back, made))
    for kind in ("intervals", "lesions_known", "elsewhere", "subgroups"):
        assert list(differences(expected[kind], found[kind])) == []


def test_without_validation_nothing_can_be_chosen():
    scored = rows(60)
    with pytest.raises(UserError, match="hold test but no val: .*; predict val too"):
        evaluation.evaluate(scored, table_of(scored))


@pytest.mark.parametrize(
    "subsets, folds, same",
    [({"val": 90}, 0, True), ({"val": 90}, 3, False), ({"val": 90, "test": 90}, 0, False),
     ({"val": 90, "test": 300}, 3, False)],
)  # fmt: skip
def test_what_the_rule_and_the_temperature_were_chosen_on(subsets, folds, same):
    parts = [rows(n, k, subset=name, fold=-1) for k, (name, n) in enumerate(subsets.items())]
    parts[0]["fold"] = np.arange(90) % 3
    made = pd.concat(parts, ignore_index=True).drop(columns=[] if folds else "fold")
    found = evaluation.evaluate(made, table_of(made), n_resamples=10)
    assert found["chosen_and_scored_on_the_same_images"] == same and found["folds"] == folds
    of_mean = bool(folds) and len(subsets) > 1  # the mean of folds has a temperature of its own
    assert found["fitted_by"]["note"] == (evaluation.FOLDS[of_mean] if folds else "")
    on_test = found["fitted_by"]["temperature"] == "the mean of all networks, on the test subset"
    assert on_test == of_mean


def test_each_fold_is_scored_by_what_the_other_folds_chose():
    """Folds that want another exponent and threshold; by hand, fold by fold. For temperatures see
    test_calibration."""
    parts = [rows(300, k, 1.0 + k, power=min(k, 1), fold=k, subset="val") for k in range(3)]
    val, melanoma = pd.concat(parts, ignore_index=True), []
    rules = decisions.compare_rules(val, SHARES)
    scores, points = decisions.by_chosen_rule(val, rules), decisions.operating_points(val, val)
    for k, part in enumerate(parts):
        others = val[val["fold"] != k]
        tau = decisions.tuned_tau(others, SHARES)
        assert rules["tau_of_fold"][str(k)] == tau
        expected = part[list(CLASSES)].to_numpy() / SHARES.to_numpy() ** tau
        expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(scores[val["fold"] == k], expected)
        mel = np.sort(others.loc[others["truth"] == "MEL", "MEL"])
        melanoma.append(part["MEL"] >= mel[int(np.floor(0.1 * len(mel)))])
    assert len(set(rules["tau_of_fold"].values())) > 1
    positive, melanoma = val["truth"] == "MEL", np.concatenate(melanoma)
    found = {(p["target"], p["rate"], p["level"]): p["scored"] for p in points}
    point = found["melanoma", "sensitivity", 0.9]
    assert point["sensitivity"] == pytest.approx(melanoma[positive].mean())
    assert point["specificity"] == pytest.approx(1 - melanoma[~positive].mean())
    away = rows(200, 9, fold=-1)  # no fold: by what all folds chose
    whole = decisions.by_chosen_rule(away, rules | {"tau_of_fold": {}})
    assert (decisions.by_chosen_rule(away, rules) == whole).all()


def test_subgroups_are_counted_by_hand_on_a_subset_with_metadata():
    """On validation, which has metadata, where the official test set comes without any."""
    val, nothing = rows(400), dict(age=np.nan, sex="", localization="", confirmed_by="")
    table, subsets = table_of(val), {"val": val, "official": rows(60, 2)}
    both = pd.concat([table, table_of(subsets["official"]).assign(**nothing)])
    described = evaluation.with_metadata(subsets, both)
    found = metrics.jsonable(evaluation.subgroups(described, "official", 10))
    assert found["subset"] == "val"
    joined, groups = val.merge(table, on="image"), found["groups"]
    assert all(sum(row["n"] for row in lines) == len(val) for lines in groups.values())
    groups = {row["group"]: row for lines in (groups["age_band"], groups["sex"]) for row in lines}
    bands = {"under 30": (0, 30), "30 to 44": (30, 45), "60 to 74": (60, 75)}
    chosen = {name: joined["age"].between(*ends, "left") for name, ends in bands.items()}
    for name, some in (chosen | {"unknown": joined["sex"] == ""}).items():
        some, row = joined[some], groups[name]
        assert (row["n"], row["lesions"]) == (len(some), some["lesion_id"].nunique())
        right = (some["truth"] == some["prediction"]).sum()
        assert (row["accuracy_k"], row["small"]) == (right, len(some) < 50)
    described = evaluation.with_metadata({"val": val}, table.assign(**nothing))
    assert evaluation.subgroups(described, "val", 10)["subset"] is None


def test_a_planted_label_error_leads_the_candidates():
    """Not one that histopathology confirmed, though the model is surer there."""
    scored = rows(300, signal=4)
    table = table_of(scored)
    histo = (table["confirmed_by"] == "histo").to_numpy()
    right = (scored["truth"] == "NV") & (scored["prediction"] == "NV")
    doubtful, confirmed = scored.index[right & ~histo][5], scored.index[right & histo][5]
    for planted, p in ((doubtful, 0.994), (confirmed, 0.9952)):
        scored.loc[planted, [*CLASSES]] = np.where(np.array(CLASSES) == "NV", p, (1 - p) / 6)
        scored.loc[planted, ["truth", "confidence"]] = ["BKL", p]
    found = evaluation.mistakes(scored, table)
    listed = found["likely_mislabelled"]
    assert listed[0]["image"] == scored.loc[doubtful, "image"]
    assert "histo" not in {row["confirmed_by"] for row in listed}
    own = {c: scored.loc[scored["truth"] == c, c].mean() for c in CLASSES}
    wrong = scored[scored["truth"] != scored["prediction"]]
    candidates = [
        (row[row["truth"]] - row["confidence"], row["image"], row["lesion_id"])
        for row in wrong[~histo[wrong.index]].to_dict("records")
        if row["confidence"] >= own[row["prediction"]]
    ]
    assert found["counts"]["likely_mislabelled"] == len(candidates)
    lesions = list(dict.fromkeys(lesion for _, _, lesion in sorted(candidates)))
    assert [row["lesion_id"] for row in listed] == lesions[:12]


def test_the_most_confident_mistakes_one_a_lesion():
    scored = rows(300)
    scored.loc[scored.index[:150], "lesion_id"] = ""  # each its own
    found = evaluation.mistakes(scored, table_of(scored))
    wrong = scored[scored["truth"] != scored["prediction"]]
    assert found["counts"]["most_confident"] == len(wrong) > 12
    wrong = wrong.assign(lesion=predictions.lesions(wrong))
    once = wrong.sort_values("confidence", ascending=False).drop_duplicates("lesion").head(12)
    assert [row["image"] for row in found["most_confident"]] == list(once["image"])
    malignant = ("MEL", "BCC", "AKIEC")
    kinds = {(r["truth"] in malignant, r["prediction"] in malignant) for r in found["costly"]}
    assert kinds == {(True, False)}


@pytest.mark.parametrize("folds", [False, True])
def test_near_duplicate_pairs_are_counted_by_subset(folds):
    table = pd.DataFrame({"image": list("abcdef"), "fold": [0, 1, 1, -1, -1, -1]})
    table["subset"] = ["val", "val" if folds else "train", "val", "official", "left out", "test"]
    table = table if folds else table.drop(columns="fold")
    pairs = ["ab", "bc", "ad", "ae", "de", "af", "az"]
    found = evaluation.near_duplicate_counts(table, pairs)
    apart = 2 if folds else 3  # b and c: one fold, or train and val
    assert found == {"pairs": 6, "in_two_subsets": apart, "with_official": 1, "left_out": 2}
