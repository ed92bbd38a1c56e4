"""metrics.json of the fixture's run, against other sources."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from dermai_utils import config, files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.metrics import classification, decisions, predictions
from dermai_utils.report import figures, summary

KEPT = ("run", "data", "split", "primary_subset", "note", "subsets")


@pytest.fixture(scope="module")
def found(made):
    return files.read_json(made.report_dir / "metrics.json")


@pytest.fixture(scope="module")
def subsets(made):
    table = files.read_table(made.report_dir / "predictions.csv")
    return predictions.by_subset(table)


def rows(n=400, seed=0, signal=2.0, lesions=300):
    """Predictions that know something, some lesions with several images."""
    rng = np.random.default_rng(seed)
    truth = np.r_[np.arange(7), rng.choice(7, n - 7, p=[0.1, 0.6, 0.1, 0.05, 0.1, 0.025, 0.025])]
    logits = 1.5 * rng.normal(size=(n, 7)) + signal * np.eye(7)[truth]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    images = [f"ISIC_{seed}_{k:05d}" for k in range(n)]
    lesion = [f"HAM_{seed}_{k}" for k in rng.integers(0, lesions, n)]
    return predictions.build(images, truth, p, lesion_id=lesion)


def table_of(frame, seed=0):
    rng = np.random.default_rng(seed)
    n = len(frame)
    return pd.DataFrame(
        {
            "image": frame["image"],
            "label": frame["truth"],
            "subset": "train",
            "source": "train",
            "age": rng.choice([25.0, 30, 59, 60, np.nan], n),
            "sex": rng.choice(["male", "female", ""], n),
            "localization": rng.choice(["back", "unknown"], n),
            "confirmed_by": rng.choice(["histo", "follow_up"], n),
        }
    )


def test_metrics_json_keeps_its_keys_and_holds_no_nan(made, found):
    assert list(found)[: len(KEPT)] == list(KEPT)
    assert (
        "NaN" not in (made.report_dir / "metrics.json").read_text()
        and not json.dumps(found, allow_nan=False) == ""
    )


def test_the_zero_weight_row_is_in_no_number(made, subsets, found):
    everything = files.read_table(made.report_dir / "predictions.csv")
    assert predictions.OFFICIAL_ZERO_WEIGHT in set(everything["image"])
    n = (everything["subset"] == "official").sum() - 1
    assert len(subsets["official"]) == n == found["subsets"]["official"]["n"]
    assert sum(found["mistakes"]["counts"][k] for k in ("most_confident",)) <= n
    reliability = found["calibration"]["before"]["reliability"]
    assert sum(row["n"] for row in reliability) == n == found["operating_points"][0]["scored"]["n"]
    assert found["risk_coverage"]["points"][0]["n"] == n


def test_intervals_hold_their_values(found, subsets):
    for subset, of_part in subsets.items():
        called = of_part["prediction"].map(CLASSES.index)
        truth = of_part["truth"].map(CLASSES.index)
        numbers = found["intervals"][subset]
        assert numbers["balanced_accuracy"]["value"] == pytest.approx(
            sk.recall_score(truth, called, average="macro")
        )
        assert numbers["accuracy"]["value"] == pytest.approx(sk.accuracy_score(truth, called))
        for row in numbers.values():
            assert row["low"] <= row["value"] <= row["high"]


def test_the_temperature_is_that_of_validation_alone():
    """By brute force over a grid, and it doesn't move with the part that is scored."""
    val, scored = rows(seed=1), rows(seed=2, signal=1)
    truth, p = predictions.arrays(val)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 4001))
    scaled = np.log(p)[None] / grid[:, None, None]
    losses = np.log(np.exp(scaled).sum(2)) - scaled[:, np.arange(len(p)), truth]
    found = summary.calibrated(val, scored)
    assert found["temperature"] == pytest.approx(grid[losses.mean(1).argmin()], rel=2e-3)
    assert found["temperature"] != pytest.approx(
        summary.calibrated(scored, scored)["temperature"], rel=0.05
    )
    truth, p = predictions.arrays(scored)
    assert found["before"]["nll"] == pytest.approx(sk.log_loss(truth, p, labels=range(7)))
    scaled = p ** (1 / found["temperature"])
    scaled /= scaled.sum(1, keepdims=True)
    assert found["after"]["nll"] == pytest.approx(sk.log_loss(truth, scaled, labels=range(7)))


def test_rules_divide_and_multiply_by_the_training_shares():
    val, scored, prior = (
        rows(seed=1),
        rows(seed=2),
        pd.Series([0.1, 0.6, 0.1, 0.1, 0.1, 0, 0], CLASSES),
    )
    found = decisions.compare_rules(val, scored, prior, 2000)
    truth, p = predictions.arrays(scored)
    inverse = np.array([10, 1 / 0.6, 10, 10, 10, 0, 0])
    called = {
        "argmax": p.argmax(1),
        "prior_adjusted": (p * inverse).argmax(1),
        "prior_restored": (p * prior.to_numpy()).argmax(1),
        "prior_tuned": (
            p * np.power(inverse, found["tau"], out=np.zeros(7), where=inverse > 0)
        ).argmax(1),
    }
    for rule, one in called.items():
        values = {name: row["value"] for name, row in found["rules"][rule]["scored"].items()}
        assert values == pytest.approx(
            {
                "balanced_accuracy": sk.balanced_accuracy_score(truth, one),
                "macro_f1": sk.f1_score(truth, one, average="macro"),
                "accuracy": sk.accuracy_score(truth, one),
            }
        )
    of_val = {rule: row["val"]["balanced_accuracy"] for rule, row in found["rules"].items()}
    truth, p = predictions.arrays(val)
    assert of_val["argmax"] == pytest.approx(sk.balanced_accuracy_score(truth, p.argmax(1)))
    assert found["chosen"] == ("prior_tuned" if found["tau"] else "argmax")
    assert len(set(of_val.values())) >= 3
    called = decisions.by_chosen_rule(scored, found).argmax(1)
    assert sk.balanced_accuracy_score(predictions.arrays(scored)[0], called) == pytest.approx(
        found["rules"][found["chosen"]]["scored"]["balanced_accuracy"]["value"]
    )


SHARES = pd.Series([0.1, 0.6, 0.1, 0.05, 0.1, 0.025, 0.025], CLASSES)


def leaning(table, power):
    """`table` with its probabilities times the classes' shares to a power, as a network has them
    that learned from such shares (1) or from a balanced sampler (0)."""
    p = table[list(CLASSES)].to_numpy() * SHARES.to_numpy() ** power
    table[list(CLASSES)] = p / p.sum(1, keepdims=True)
    return table


@pytest.mark.parametrize("seed, power", [(0, 0.0), (1, 0.5), (2, 1.0), (3, -1.0)])
def test_the_exponent_has_the_least_log_loss_with_equal_classes(seed, power):
    """Against scikit-learn's log loss over a grid of temperatures and exponents."""
    val = leaning(rows(800, seed=seed), power)
    truth, p = predictions.arrays(val)
    numbers = [CLASSES.index(name) for name in val["truth"]]
    equal = 1 / np.bincount(numbers, minlength=7)[numbers]
    found = decisions.tuned_tau(val, SHARES)

    def loss(temperature, tau):
        q = (p / SHARES.to_numpy() ** tau) ** (1 / temperature)
        q /= q.sum(1, keepdims=True)
        return sk.log_loss(numbers, q, labels=range(7), sample_weight=equal)

    grid = {(t, tau): loss(t, tau) for t in np.arange(0.3, 3, 0.1) for tau in np.arange(-2, 3, 0.1)}
    best = min(grid, key=grid.get)[1]
    assert found == pytest.approx(np.clip(best, -1, 1), abs=0.15)


@pytest.mark.parametrize("power", [-0.75, 0.25, 0.75])
def test_what_training_did_to_the_prior_is_taken_back(power):
    plain, leant = rows(800, seed=4), leaning(rows(800, seed=4), power)
    expected = decisions.tuned_tau(plain, SHARES) + power
    assert decisions.tuned_tau(leant, SHARES) == pytest.approx(expected, abs=0.05)


def test_a_few_images_hardly_move_the_exponent():
    """Two images of two classes, which any exponent parts; and none of a class that was learned."""
    val = rows(400, seed=1)
    few = val[val["truth"].isin(["MEL", "NV"])].drop_duplicates("truth")
    assert abs(decisions.tuned_tau(few, SHARES)) < 1
    unlearned = SHARES.where(SHARES.index != "MEL", 0)
    assert decisions.tuned_tau(val[val["truth"] == "MEL"], unlearned) == 0


def test_the_rule_is_fixed_on_validation():
    """Validation as after plain training, the other part as after training with class weights:
    their best rules differ."""
    prior = pd.Series([0.1, 0.6, 0.1, 0.05, 0.1, 0.025, 0.025], CLASSES)
    val, scored = rows(800, seed=1), rows(800, seed=2)
    val[list(CLASSES)] *= prior.to_numpy()
    val[list(CLASSES)] /= val[list(CLASSES)].sum(axis=1).to_numpy()[:, None]
    found = decisions.compare_rules(val, scored, prior, 2000)
    scored = {
        rule: row["scored"]["balanced_accuracy"]["value"] for rule, row in found["rules"].items()
    }
    assert found["chosen"] == "prior_tuned" and found["tau"] > 0
    assert max(scored, key=scored.get) == "argmax"


def test_out_of_fold_each_fold_is_scored_by_what_the_others_chose():
    """Folds that want another exponent, temperature and threshold; by hand, fold by fold."""
    prior = pd.Series([0.1, 0.6, 0.1, 0.05, 0.1, 0.025, 0.025], CLASSES)
    parts = []
    for k, power in enumerate((0.0, 1.0, 1.0)):
        part = rows(300, seed=k, signal=1.0 + k).assign(fold=k, subset="val")
        p = part[list(CLASSES)].to_numpy() * prior.to_numpy() ** power
        part[list(CLASSES)] = p / p.sum(1, keepdims=True)
        parts.append(part.assign(image=[f"{k}_{name}" for name in part["image"]]))
    val = pd.concat(parts, ignore_index=True)
    rules = decisions.compare_rules(val, val, prior, 50)
    called = decisions.called(val, rules)
    calibrated, points = summary.calibrated(val, val), decisions.operating_points(val, val, 50)
    truth, after, melanoma = val["truth"].to_numpy(), [], []
    for k, part in enumerate(parts):
        others = pd.concat([other for j, other in enumerate(parts) if j != k])
        tau = decisions.tuned_tau(others, prior)
        assert rules["tau_of_fold"][str(k)] == tau
        p = part[list(CLASSES)].to_numpy()
        expected = np.array(CLASSES)[(p / prior.to_numpy() ** tau).argmax(1)]
        assert list(called.loc[called["fold"] == k, "prediction"]) == list(expected)
        temperature = summary.calibrated(others, others)["temperature"]
        scaled = p ** (1 / temperature)
        after.append(scaled / scaled.sum(1, keepdims=True))
        mel = others.loc[others["truth"] == "MEL", "MEL"]
        threshold = np.sort(mel)[int(np.floor(0.1 * len(mel)))]
        melanoma.append(p[:, 0] >= threshold)
    assert len(set(rules["tau_of_fold"].values())) > 1
    score = sk.balanced_accuracy_score(truth, called["prediction"])
    scored = rules["rules"]["prior_tuned"]["scored"]["balanced_accuracy"]
    assert scored["value"] == pytest.approx(score)
    numbers = [CLASSES.index(name) for name in truth]
    expected = sk.log_loss(numbers, np.concatenate(after), labels=range(7))
    assert calibrated["after"]["nll"] == pytest.approx(expected)
    found = {(p["target"], p["rate"], p["level"]): p for p in points}
    point = found["melanoma", "sensitivity", 0.9]["scored"]
    positive, melanoma = truth == "MEL", np.concatenate(melanoma)
    assert point["sensitivity"] == pytest.approx(melanoma[positive].mean())
    assert point["specificity"] == pytest.approx(1 - melanoma[~positive].mean())
    assert point["sensitivity_low"] <= point["sensitivity"] <= point["sensitivity_high"]
    away = rows(200, seed=9).assign(fold=-1, subset="own")
    whole = decisions.by_chosen_rule(away, rules | {"tau_of_fold": {}})
    assert (decisions.by_chosen_rule(away, rules) == whole).all()


def test_the_prior_is_that_of_the_training_part(made, found):
    split = files.read_table(made.split_file).merge(files.read_table(made.table_file), on="image")
    train = split.loc[split["subset"] == "train", "label"].tolist()
    assert found["decisions"]["training_prior"] == pytest.approx(
        {c: train.count(c) / len(train) for c in CLASSES}
    )


def test_thresholds_come_from_validation_and_rates_from_the_headline_part():
    val, scored = rows(600, seed=1), rows(500, seed=2)
    points = decisions.operating_points(val, scored, 2000)
    assert [(p["target"], p["rate"], p["level"]) for p in points] == [
        (finding, *target) for finding in ("melanoma", "malignant") for target in decisions.LEVELS
    ]
    for point in points:
        classes = ["MEL"] if point["target"] == "melanoma" else ["MEL", "BCC", "AKIEC"]
        best = {}
        for subset, some in (("val", val), ("scored", scored)):
            positive, score = (
                some["truth"].isin(classes).to_numpy(),
                some[classes].sum(axis=1).to_numpy(),
            )
            called = score >= point["threshold"]
            expected = (
                sk.recall_score(positive, called),
                sk.recall_score(~positive, ~called),
                sk.precision_score(positive, called),
            )
            assert [
                point[subset][k] for k in ("sensitivity", "specificity", "ppv")
            ] == pytest.approx(expected)
            best[subset] = (positive, score)
        assert point["val"][point["rate"]] >= point["level"] - 1e-12
        other = "sensitivity" if point["rate"] == "specificity" else "specificity"
        positive, score = best["val"]
        for threshold in score:  # no other threshold that keeps the rate has a better other one
            rates = {
                "sensitivity": (score[positive] >= threshold).mean(),
                "specificity": (score[~positive] < threshold).mean(),
            }
            assert (
                rates[point["rate"]] < point["level"] - 1e-12
                or rates[other] <= point["val"][other] + 1e-12
            )
        for rate in ("sensitivity", "specificity"):
            rates = point["scored"]
            assert rates[f"{rate}_low"] <= rates[rate] <= rates[f"{rate}_high"]


def test_rates_of_several_images_a_lesion_have_wider_intervals():
    """Each image twice under one lesion id tells nothing new; the same rows as lesions of their own
    would seem to."""
    val, once = rows(300, seed=1, lesions=10**6), rows(300, seed=2, lesions=10**6)
    twice = pd.concat([once, once.assign(image=once["image"] + "b")], ignore_index=True)
    pretended = twice.assign(lesion_id=twice["image"])
    width = []
    for some in (once, twice, pretended):
        scored = decisions.operating_points(val, some, 2000)[0]["scored"]
        width.append(scored["sensitivity_high"] - scored["sensitivity_low"])
    assert width[1] == pytest.approx(width[0], rel=0.15) and width[2] < 0.85 * width[0]


def test_abstaining_is_counted_by_hand():
    val, scored = rows(seed=1), rows(seed=2)
    found = decisions.abstaining(val, scored)
    for point in found["points"]:
        answered = scored[scored["confidence"] >= point["threshold"]]
        assert (val["confidence"] >= point["threshold"]).mean() >= point["asked"] - 1e-9
        assert point["n"] == len(answered) and point["coverage"] == pytest.approx(
            len(answered) / len(scored)
        )
        assert point["risk"] == pytest.approx((answered["truth"] != answered["prediction"]).mean())
    assert [point["asked"] for point in found["points"]] == [1, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert found["points"][0]["n"] == len(scored)


def test_subgroups_are_counted_by_hand_and_small_ones_marked():
    scored = rows(400)
    table = table_of(scored)
    found = classification.jsonable(
        summary.subgroups(summary.with_metadata({"test": scored}, table), "test")
    )
    joined = scored.merge(table, on="image")
    groups = {
        (column, row["group"]): row for column, lines in found["groups"].items() for row in lines
    }
    expected = {
        ("age_band", "under 30"): joined["age"] < 30,
        ("age_band", "30 to 44"): joined["age"].between(30, 44.9),
        ("age_band", "45 to 59"): joined["age"].between(45, 59),
        ("age_band", "60 to 74"): joined["age"].between(60, 74),
        ("age_band", "unknown"): joined["age"].isna(),
        ("sex", "unknown"): joined["sex"] == "",
        ("sex", "male"): joined["sex"] == "male",
        ("localization", "unknown"): joined["localization"] == "unknown",
        ("confirmed_by", "histo"): joined["confirmed_by"] == "histo",
    }
    for key, chosen in expected.items():
        some = joined[chosen]
        assert (
            groups[key]["n"] == len(some) and groups[key]["lesions"] == some["lesion_id"].nunique()
        )
        called, present = some["prediction"], sorted(some["truth"].unique())
        assert groups[key]["balanced_accuracy"] == pytest.approx(
            sk.recall_score(some["truth"], called, labels=present, average="macro", zero_division=0)
        )
        assert groups[key]["small"] == (len(some) < 50)
    few = summary.subgroups(summary.with_metadata({"test": scored.head(60)}, table), "test")
    assert {row["small"] for row in few["groups"]["sex"]} == {True}
    for column, lines in found["groups"].items():
        assert sum(row["n"] for row in lines) == len(scored), column


def test_subgroups_come_from_a_part_with_metadata(found, made):
    """The official test set is given without age, sex and localization."""
    table = files.read_table(made.table_file)
    known = table[(table["source"] == "test") & (table["sex"] != "")]
    assert (
        known.empty
        and found["primary_subset"] == "official"
        and found["subgroups"]["subset"] == "val"
    )


def test_without_any_metadata_there_are_no_subgroups():
    scored = rows(60)
    table = table_of(scored).assign(age=np.nan, sex="", localization="", confirmed_by="")
    found = summary.subgroups(summary.with_metadata({"test": scored}, table), "test")
    assert found["subset"] is None and found["groups"] == {}


def test_mistakes_are_the_wrong_ones_and_a_planted_label_error_leads_the_candidates():
    scored = rows(300, signal=4)
    table = table_of(scored)
    followed = (table["confirmed_by"] != "histo").to_numpy()
    sure = scored.index[(scored["truth"] == "NV") & (scored["prediction"] == "NV") & followed][5]
    histo = scored.index[(scored["truth"] == "NV") & (scored["prediction"] == "NV") & ~followed][5]
    # the second is surer, but seen under the microscope
    for planted, p in ((sure, 0.994), (histo, 0.9952)):
        scored.loc[planted, [*CLASSES]] = np.where(np.array(CLASSES) == "NV", p, (1 - p) / 6)
        scored.loc[planted, ["truth", "confidence"]] = ["BKL", p]
    found = summary.mistakes(scored, table)
    assert found["likely_mislabelled"][0]["image"] == scored.loc[sure, "image"]
    wrong = scored[scored["truth"] != scored["prediction"]]
    assert found["counts"]["most_confident"] == len(wrong) > 12
    once = wrong.sort_values("confidence", ascending=False).drop_duplicates("lesion_id").head(12)
    assert [row["image"] for row in found["most_confident"]] == list(once["image"])
    malignant = ("MEL", "BCC", "AKIEC")
    assert all(
        row["truth"] in malignant and row["prediction"] not in malignant for row in found["costly"]
    )
    own = {c: scored.loc[scored["truth"] == c, c].mean() for c in CLASSES}
    candidates = [
        image
        for _, image in sorted(
            (row["truth_p"] - row["confidence"], row["image"])
            for row in (
                {**r, "truth_p": r[r["truth"]]}
                for r in wrong[followed[wrong.index]].to_dict("records")
            )
            if row["confidence"] >= own[row["prediction"]]
        )
    ]
    lesion = scored.set_index("image")["lesion_id"]
    assert found["counts"]["likely_mislabelled"] == len(candidates)
    candidates = list(dict.fromkeys(lesion[candidates]))  # one image a lesion
    assert [row["lesion_id"] for row in found["likely_mislabelled"]] == candidates[:12]
    assert "histo" not in {row["confirmed_by"] for row in found["likely_mislabelled"]}


def test_the_smallest_class_and_what_one_image_of_it_is_worth():
    truth = np.repeat(range(7), (171, 909, 93, 43, 217, 44, 35))
    scored = pd.DataFrame({"truth": np.array(CLASSES)[truth]})
    found = summary.smallest_class(scored)
    assert (
        found["class"] == "VASC"
        and found["n"] == 35
        and found["one_image"] == pytest.approx(0.00408, abs=1e-5)
    )
    recalls = np.ones(7)
    recalls[6] = 34 / 35
    assert found["one_image"] == pytest.approx(1 - recalls.mean())


def decided(tau):
    """metrics.json's decisions of a run whose training had these shares of the classes."""
    prior = dict(zip(CLASSES, [0.1, 0.6, 0.1, 0.05, 0.1, 0.025, 0.025], strict=True))
    return {"training_prior": prior, "tau": tau, "chosen": "prior_tuned" if tau else "argmax"}


def test_dividing_the_prior_out_makes_no_better_run(made, tmp_path, monkeypatch):
    """The same network, once as it is and once with its prior divided out of the probabilities,
    each with its own rule: the same predictions, though argmax alone tells them apart."""
    plain = rows(seed=1).assign(subset="test")
    prior = np.array(list(decided(0.0)["training_prior"].values()))
    p = plain[list(CLASSES)].to_numpy() * prior
    plain[list(CLASSES)] = p / p.sum(1, keepdims=True)
    divided = plain.copy()
    divided[list(CLASSES)] = p / prior / (p / prior).sum(1, keepdims=True)
    monkeypatch.setattr(config.Config, "report_dir", tmp_path / "plain")
    for name, table, tau in (("plain", plain, 1.0), ("divided", divided, 0.0)):
        files.write_table(table, tmp_path / name / "predictions.csv")
        files.write_json(tmp_path / name / "metrics.json", {"decisions": decided(tau)})
    difference = figures.compare(made, "divided")["value"]
    for name in classification.CONFUSION_METRICS:
        assert difference[name] == pytest.approx(0, abs=1e-12)
    assert difference["balanced_accuracy (argmax)"] < -0.05


def test_one_decision_rule_names_every_class(corrected):
    """Headline, class table, mistakes, predictions.csv and submission.csv; argmax is beside it."""
    found = files.read_json(corrected.report_dir / "metrics.json")
    table = files.read_table(corrected.report_dir / "predictions.csv")
    subsets = predictions.by_subset(table)
    assert found["decisions"]["chosen"] == "prior_tuned"  # else this test shows nothing
    for name, of_subset in subsets.items():
        truth, p = predictions.arrays(of_subset)
        prior = np.array([found["decisions"]["training_prior"][c] for c in CLASSES])
        called = (p / prior ** found["decisions"]["tau"]).argmax(1)
        assert list(of_subset["prediction"]) == [CLASSES[k] for k in called]
        chosen = p[np.arange(len(p)), called]
        assert of_subset["confidence"].to_numpy() == pytest.approx(chosen)
        for source, expected in ((found, called), (found["argmax"], p.argmax(1))):
            score = sk.recall_score(truth, expected, average="macro")
            assert source["subsets"][name]["balanced_accuracy"] == pytest.approx(score)
            assert source["intervals"][name]["balanced_accuracy"]["value"] == pytest.approx(score)
            matrix = sk.confusion_matrix(truth, expected, labels=range(7))
            assert source["subsets"][name]["confusion"] == matrix.tolist()
            assert source["subsets"][name]["macro_auc"] == found["subsets"][name]["macro_auc"]
    submitted = files.read_table(corrected.report_dir / "submission.csv").set_index("image")
    rows = subsets["official"]
    called = submitted.loc[rows["image"], list(CLASSES)].to_numpy().argmax(1)
    assert list(rows["prediction"]) == [CLASSES[k] for k in called]
    wrong = (rows["prediction"] != rows["truth"]).sum()
    assert found["mistakes"]["counts"]["most_confident"] == wrong


def test_two_runs_are_compared_on_the_same_images(made, tmp_path, monkeypatch):
    table = files.read_table(made.report_dir / "predictions.csv")
    perfect = table.copy()
    perfect[list(CLASSES)] = np.eye(7)[[CLASSES.index(c) for c in perfect["truth"]]]
    monkeypatch.setattr(config.Config, "report_dir", tmp_path / "one")
    files.write_table(perfect, tmp_path / "one" / "predictions.csv")
    files.write_table(table.iloc[::-1], tmp_path / "two" / "predictions.csv")  # in any order
    files.write_table(table.head(20), tmp_path / "three" / "predictions.csv")
    for name in ("one", "two", "three"):
        files.write_json(tmp_path / name / "metrics.json", {"decisions": decided(0.0)})
    rows = predictions.scored_rows(table, "official")
    truth, p = predictions.arrays(rows)
    expected = 1 - sk.balanced_accuracy_score(truth, p.argmax(1))
    difference = figures.compare(made, "two")["value"]
    assert difference["balanced_accuracy"] == pytest.approx(expected)
    assert difference["balanced_accuracy (argmax)"] == pytest.approx(expected)
    with pytest.raises(UserError, match="three"):
        figures.compare(made, "three")
    with pytest.raises(UserError, match=r"evaluate that run first \(runs .*one, three, two\)"):
        figures.compare(made, "four")


def test_the_report_of_two_thousand_predictions_takes_seconds():
    import time

    val, scored = rows(2000, 1, lesions=1500), rows(2000, 2, lesions=1500)
    table = pd.concat([table_of(val), table_of(scored)])
    started = time.process_time()
    summary.summarise({"val": val, "test": scored}, "test", table)
    assert time.process_time() - started < 40


def test_an_own_test_set_of_several_sources_is_scored_by_source():
    """Against scikit-learn, by argmax of what the chosen rule makes of the probabilities."""
    val, own = rows(seed=1), rows(seed=2, signal=1.0)
    names = np.where(np.arange(len(own)) % 3 == 0, "MSK4_", "BCN_")
    own = own.assign(lesion_id=names + own["lesion_id"].str[4:].to_numpy())
    table = table_of(val).assign(subset="train")
    prior = decisions.training_prior(table)
    own = own[own["truth"] != "DF"]
    found = summary.elsewhere(val, own, prior, val)
    home = val[val["truth"] != "DF"]
    assert found["same_classes"]["n"] == len(home) < len(val)
    expected = sk.balanced_accuracy_score(home["truth"], home["prediction"])
    same = found["same_classes"]["argmax"]["balanced_accuracy"]
    assert same["value"] == pytest.approx(expected)
    assert sorted(found["by_source"]) == ["BCN", "MSK"]
    for name, prefix in (("BCN", "BCN_"), ("MSK", "MSK4_")):
        some = own[own["lesion_id"].str.startswith(prefix)]
        scores = decisions.by_chosen_rule(some, found["decisions"])
        called = np.array(CLASSES)[scores.argmax(1)]
        got = found["by_source"][name]
        assert got["n"] == len(some) and got["classes"] == some["truth"].nunique()
        expected = sk.balanced_accuracy_score(some["truth"], called)
        assert got["balanced_accuracy"]["value"] == pytest.approx(expected)
    one = own.assign(lesion_id="HAM_" + own["lesion_id"])
    assert summary.elsewhere(val, one, prior, val)["by_source"] == {}
