"""metrics.json against a golden file, sklearn, and counts."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_predictions import SHARES, rows, table_of
from sklearn import metrics as sk

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
    second = made[made["subset"] == "Basel"].assign(subset="Bern")
    second["image"] = "Bern:" + second["image"]
    both = pd.concat([made[made["subset"] != "official"], second], ignore_index=True)
    found = evaluation.evaluate(both, table, n_resamples=20)
    assert found["primary_subset"] == "Basel" and list(found["elsewhere"]) == ["Basel", "Bern"]
    alone = both[both["subset"] != "Bern"]
    alone = evaluation.evaluate(alone, table, n_resamples=20)["elsewhere"]["Basel"]
    assert found["elsewhere"]["Basel"] == alone
    assert found["elsewhere"]["Bern"]["decisions"]["rules"] == alone["decisions"]["rules"]
    assert list(found["elsewhere"]["Bern"]["by_source"]) == ["BCN", "MSK"]


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
    of_mean = folds and len(subsets) > 1  # the mean of folds has a temperature of its own
    assert found["fitted_by"]["note"] == (evaluation.FOLDS[bool(of_mean)] if folds else "")
    on_test = found["fitted_by"]["temperature"] == "the mean of all networks, on the test subset"
    assert on_test == bool(of_mean)
    for name, part in predictions.by_subset(made).items():
        scores = decisions.by_chosen_rule(part, found["decisions"])
        expected = sk.roc_auc_score(predictions.arrays(part)[0], scores, multi_class="ovr")
        assert found["rule_scores"][name]["macro_auc"] == pytest.approx(expected)


def test_one_rule_gives_every_class_and_argmax_stands_beside_it(golden):
    made, table = golden
    found = evaluation.evaluate(made, table, n_resamples=20)
    called = decisions.called(made, found["decisions"])
    for name, part in predictions.by_subset(called).items():
        argmax = predictions.arrays(part)[1].argmax(1)
        by_rule = part["prediction"].map(CLASSES.index)
        assert (argmax != by_rule).any()
        truth = part["truth"].map(CLASSES.index)
        for source, one in ((found, by_rule), (found["argmax"], argmax)):
            options = dict(labels=np.unique(truth), average="macro", zero_division=0)
            score = sk.recall_score(truth, one, **options)
            assert source["subsets"][name]["balanced_accuracy"] == pytest.approx(score)
            row = source["intervals"][name]["balanced_accuracy"]
            assert row["value"] == pytest.approx(score) and row["low"] <= score <= row["high"]
            recalls = [row["value"] for row in source["recalls"][name].values()]
            assert np.nanmean(np.array(recalls, float)) == pytest.approx(score)
            matrix = sk.confusion_matrix(truth, one, labels=range(7))
            assert source["subsets"][name]["confusion"] == matrix.tolist()
            assert source["subsets"][name]["macro_auc"] == found["subsets"][name]["macro_auc"]
    both = found["decisions"]["rules"]
    for source, rule in ((found, "prior_corrected"), (found["argmax"], "argmax")):
        rows = source["intervals"][found["primary_subset"]]
        assert both[rule]["scored"] == {name: rows[name] for name in decisions.RULE_SCORES}
    primary = predictions.primary_rows(called)
    wrong = (primary["prediction"] != primary["truth"]).sum()
    assert found["mistakes"]["counts"]["most_confident"] == wrong


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


def test_subgroups_are_counted_by_hand_and_small_ones_marked():
    scored = rows(400)
    table = table_of(scored)
    described = evaluation.with_metadata({"test": scored}, table)
    found = metrics.jsonable(evaluation.subgroups(described, "test", 50))
    joined, groups = scored.merge(table, on="image"), found["groups"]
    groups = {(column, row["group"]): row for column in groups for row in groups[column]}
    age = joined["age"]
    expected = {
        ("age_band", "under 30"): age < 30,
        ("age_band", "30 to 44"): (30 <= age) & (age < 45),
        ("age_band", "45 to 59"): (45 <= age) & (age < 60),
        ("age_band", "60 to 74"): (60 <= age) & (age < 75),
        ("age_band", "unknown"): age.isna(),
        ("sex", "unknown"): joined["sex"] == "",
        ("sex", "male"): joined["sex"] == "male",
        ("localization", "unknown"): joined["localization"] == "unknown",
        ("confirmed_by", "histo"): joined["confirmed_by"] == "histo",
    }
    for key, chosen in expected.items():
        some, row = joined[chosen], groups[key]
        assert (row["n"], row["lesions"]) == (len(some), some["lesion_id"].nunique())
        right = (some["truth"] == some["prediction"]).sum()
        assert (row["accuracy_k"], row["small"]) == (right, len(some) < 50)
    for column, lines in found["groups"].items():
        assert sum(row["n"] for row in lines) == len(scored), column


def test_subgroups_come_from_a_subset_with_metadata():
    """The official test set is given without age, sex and localization."""
    val, scored = rows(60, 1), rows(60, 2)
    given, nothing = table_of(val), dict(age=np.nan, sex="", localization="", confirmed_by="")
    table = pd.concat([given, table_of(scored).assign(**nothing)])
    described = evaluation.with_metadata({"val": val, "official": scored}, table)
    assert evaluation.subgroups(described, "official", 10)["subset"] == "val"
    described = evaluation.with_metadata({"val": val}, given.assign(**nothing))
    found = evaluation.subgroups(described, "val", 10)
    assert found["subset"] is None and found["groups"] == {}


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
    for row in found["costly"]:
        assert row["truth"] in malignant and row["prediction"] not in malignant
    listed = evaluation.listed_mistakes({"mistakes": found}, scored, "most_confident")
    assert list(listed["image"]) == list(once["image"])


@pytest.mark.parametrize("folds", [False, True])
def test_near_duplicate_pairs_are_counted_by_subset(folds):
    table = pd.DataFrame({"image": list("abcdef"), "fold": [0, 1, 1, -1, -1, -1]})
    table["subset"] = ["val", "val" if folds else "train", "val", "official", "left out", "test"]
    table = table if folds else table.drop(columns="fold")
    pairs = ["ab", "bc", "ad", "ae", "de", "af", "az"]
    found = evaluation.near_duplicate_counts(table, pairs)
    apart = 2 if folds else 3  # b and c: one fold, or train and val
    assert found == {"pairs": 6, "in_two_subsets": apart, "with_official": 1, "left_out": 2}
