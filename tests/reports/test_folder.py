"""What a report leaves in a run's folder, for runs of every kind."""

import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest
from conftest import FakeDataset, FakeRun, made_predictions, made_run, made_table
from PIL import Image
from sklearn import metrics as sk

from dermai_utils import files, predictions
from dermai_utils.basics import CLASSES, ZERO_WEIGHT, UserError
from dermai_utils.metrics import CONFUSION_METRICS
from dermai_utils.reports import comparison, folder, maps, report
from dermai_utils.study import evaluation


def test_one_decision_rule_names_every_class(made):
    """Headline, class table, mistakes, predictions.csv and submission.csv; argmax is beside it. The
    image that does not count is submitted and not scored."""
    run, found = made[0], made[0].metrics
    subsets = predictions.by_subset(run.predictions)
    submitted = files.read_table(run.folder / "submission.csv").set_index("image")
    assert found["decisions"]["chosen"] == "prior_corrected"  # or this test shows nothing
    assert set(subsets) == {"val", "official", "Basel"} == set(found["subsets"])
    prior = np.array([found["decisions"]["training_prior"][c] for c in CLASSES])
    for name, rows in subsets.items():
        truth, p = predictions.arrays(rows)
        called = (p / prior ** found["decisions"]["tau"]).argmax(1)
        assert list(rows["prediction"]) == [CLASSES[k] for k in called]
        assert rows["confidence"].to_numpy() == pytest.approx(p[np.arange(len(p)), called])
        for source, expected in ((found, called), (found["argmax"], p.argmax(1))):
            score = sk.recall_score(truth, expected, average="macro")
            assert source["subsets"][name]["balanced_accuracy"] == pytest.approx(score)
            assert source["intervals"][name]["balanced_accuracy"]["value"] == pytest.approx(score)
    rows = subsets["official"]
    largest = submitted.loc[rows["image"], list(CLASSES)].idxmax(axis=1)
    assert list(rows["prediction"]) == list(largest)
    wrong = (rows["prediction"] != rows["truth"]).sum()
    assert found["mistakes"]["counts"]["most_confident"] == wrong
    assert ZERO_WEIGHT in submitted.index and len(submitted) == 140 == len(rows) + 1


def test_files_of_an_earlier_report_are_gone_and_the_run_s_own_stay(tmp_path):
    """A report of the same run without its official test set, where there was one with it."""
    run, _ = made_run(tmp_path / "first")
    old = ("submission.csv", "gradcam.jpg", "confusion_x.png", "mistakes/3.jpg")
    own = ("best.pt", "settings.json", "answers.json", "history.csv", "gradcam.json")
    (run.folder / "mistakes").mkdir()
    for name in old + own:
        (run.folder / name).write_text("{}")
    rows = run.first[run.first["subset"] != "official"]
    table = run.table[run.table["subset"] != "official"]
    run = dataclasses.replace(run, first=rows, table=table)
    assert report(run) == run.folder / "report.html"
    assert not [name for name in old if (run.folder / name).exists()]
    assert all((run.folder / name).read_text() == "{}" for name in own)
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "submission.csv" not in text and "Where does it look?" not in text
    assert run.metrics["primary_subset"] == "Basel"
    again = evaluation.evaluate(run.predictions, run.table)  # with the rule's class in them
    assert {name: run.metrics[name] for name in again} == again


def test_a_test_set_that_is_given_later_is_added_to_predictions_not_to_the_table(tmp_path):
    run, dataset = made_run(tmp_path / "first")
    more = made_table({"Rio": 40}, seed=5).drop(columns="subset")
    table = pd.concat([dataset.table, more], ignore_index=True)
    pixels = np.concatenate([dataset.pixels, dataset.pixels[:40]])
    table, rows = folder.known(run, FakeDataset(table, pixels))
    pd.testing.assert_frame_equal(rows[rows["subset"] != "Rio"], run.first)
    assert list(rows.loc[rows["subset"] == "Rio", "image"]) == list(more["image"])
    assert (table["subset"] == "Rio").sum() == 40 and "Rio" not in set(run.table["subset"])
    same, rows = folder.known(run, dataset)
    pd.testing.assert_frame_equal(same, run.table)
    pd.testing.assert_frame_equal(rows, run.first)


@pytest.fixture(scope="module")
def of_folds(tmp_path_factory):
    """A run of three folds with an official test set, and its report."""
    run, dataset = made_run(tmp_path_factory.mktemp("folds") / "three")
    fold = np.where(run.table["source"] == "train", np.arange(len(run.table)) % 3, -1)
    table = run.table.assign(subset=run.table["subset"].replace("train", "val"), fold=fold)
    table = table[table["subset"].isin(["val", "official"])]
    rows = made_predictions(table).assign(fold=table["fold"].to_numpy())
    options = dict(table=table, first=rows, history=None, folds=3, members=[run] * 3)
    run = dataclasses.replace(run, **options)
    report(run)
    return run


def test_a_run_of_folds_says_who_judged_which_image(of_folds):
    """Out of fold one network judges an image, elsewhere the mean of all: never in one table."""
    text, card = page_of(of_folds), (of_folds.folder / "model_card.md").read_text()
    assert "3 folds, by lesion" in text and "9.0 minutes" in text  # three times three
    assert '<th scope="row">fold / fold</th>' in text  # folds of pairs count as subsets
    assert (of_folds.folder / "learning_curves.png").exists()
    chosen = maps.choose(predictions.scored_rows(of_folds.predictions, "val"))
    assert set(chosen["fold"]) == {0}  # the maps are of images that the first network does not know
    tables = r'<p class="caption">(.*?)</p>.*?<thead>(.*?)</thead>'
    heads = {caption[:11]: head for caption, head in re.findall(tables, text)}
    assert "official" in heads["The mean of"] and "folds" not in heads["The mean of"]
    assert "all folds" in heads["Out of fold"] and "official" not in heads["Out of fold"]
    scores = [line for line in card.splitlines() if line.startswith("|  |") and "official" in line]
    assert len(scores) == 1 and "folds" not in scores[0]
    fitted = "fitted to predictions of single networks, each on the fold that it did not learn"
    for content in (text, card):
        assert content.count(fitted) == 2 and "validation images" not in content
    assert of_folds.metrics["fitted_by"]["note"] in text and "validation subset" not in text


def page_of(run):
    return " ".join((run.folder / "report.html").read_text(encoding="utf-8").split())


def test_the_audit_is_that_of_the_run_s_table_and_keeps_what_later_test_sets_share(made, tmp_path):
    run = dataclasses.replace(made[0], folder=tmp_path)

    def audited(table, *tests):
        return folder.audited(run, (), table, tests)

    leaky = run.table.copy()
    leaky.loc[leaky["subset"] == "val", "lesion_id"] = run.table["lesion_id"][0]
    rows = audited(leaky)
    assert rows["train/val"]["lesions"] == 1 and rows["train/val"]["patients"] is None
    leaks = folder.leaks(rows, ["val", "official"])
    assert leaks == {"val": ["train and val share 1 × lesions"], "official": []}
    copies = run.table[run.table["subset"] == "train"].head(3)
    table = pd.concat([run.table, copies.assign(subset="Rio", source="Rio")], ignore_index=True)
    rows = audited(table, "Rio")
    assert rows["train/val"]["lesions"] == 0 == rows["val/Rio"]["images"]
    (leak,) = folder.leaks(rows, ["Rio"])["Rio"]
    assert leak.startswith("train and Rio share 3 × images")
    assert audited(run.table, "Rio") == rows  # a later report without these images
    assert "train/Rio" not in audited(run.table)  # nor with them


def test_near_duplicates_stand_side_by_side_and_a_lost_list_is_said(made, capsys):
    run, dataset = made
    place = {image: k for k, image in enumerate(dataset.table["image"])}
    pairs = [("tra_0000", "val_0001"), ("tra_0002", "not here"), ("tra_0003", "off_0001")]
    found = folder._near_duplicates(dataset, pairs, place)
    assert found["near_duplicates.jpg"].alt.startswith("Photographs: 2 pairs")
    assert folder._near_duplicates(dataset, pairs[1:2], place) == {}
    lost = dataclasses.replace(run, settings=run.settings | {"near_duplicates": "gone/pairs.csv"})
    assert len(folder.near_duplicates(lost)) == len(folder.near_duplicates(run)) > 50
    assert "gone/pairs.csv is not here" in capsys.readouterr().out


# Grad-CAM of a run.


def test_the_maps_of_a_run_are_checked_and_drawn(made):
    run, dataset = made
    found = files.read_json(run.folder / "gradcam.json")
    names = {"deletion", "insertion", "deletion_random", "insertion_random"}
    assert set(found["mean"]) == names | {"randomised_correlation"}
    mean = np.mean([row["deletion"] for row in found["images"]])
    assert found["mean"]["deletion"] == pytest.approx(mean)
    assert {row["kind"] for row in found["images"]} == {"correct", "wrong"}
    for name in ("gradcam.jpg", "gradcam_mistakes.jpg"):
        assert Image.open(run.folder / name).format == "JPEG"  # a fifth of the bytes of a PNG
    rows = predictions.primary_rows(run.predictions).iloc[[5, 2]]
    seen = maps.squares(run, dataset, rows)
    assert seen.shape == (2, 3, 32, 32) and 0 <= seen.min() and seen.max() <= 1
    place = list(dataset.table["image"]).index(rows["image"].iloc[0])
    central = dataset.pixels[place][:, 4:28] / 255
    assert float(seen[0].mean()) == pytest.approx(central.mean(), abs=0.02)


def test_a_network_that_is_not_here_is_a_note_not_an_error(made, monkeypatch):
    def lost(*_):
        raise UserError("trained with Tiny: give it as open_run(..., net=...)")

    monkeypatch.setattr(FakeRun, "net", property(lost, lost), raising=False)
    run, dataset = made
    rows = predictions.primary_rows(run.predictions)
    figures, checks = maps.explain(run, dataset, rows, rows.head(0))
    assert figures == {} and checks["images"] == [] and "give it as open_run" in checks["note"]


def test_a_class_gets_its_surest_right_wrong_and_unsure_image():
    frame = pd.DataFrame({"image": list("abcde"), "truth": "NV"})
    frame["prediction"] = ["NV", "NV", "MEL", "MEL", "NV"]
    frame["confidence"] = [0.9, 0.8, 0.7, 0.95, 0.3]
    chosen = maps.choose(frame).set_index("kind")["image"].to_dict()
    assert chosen == {"correct": "a", "wrong": "d", "least sure": "e"}
    assert maps.choose(frame[:0]).empty


@pytest.mark.parametrize(
    "gains, verdict",
    [
        ([0.1, 0.2, 0.1, 0.2], "better"),
        ([0.1, -0.2, 0.1, 0.2], "not clearly better"),
        ([0.1, 0.1], "not clearly better"),
        ([-0.1, -0.2, -0.1, -0.2], "not clearly better"),
    ],
)
def test_maps_are_better_than_random_ones_by_more_than_chance_only(gains, verdict):
    """Twice the standard error, and at least three images; deletion is better where it is lower."""
    random = {"insertion_random": 0.5, "deletion_random": 0.5}
    images = [{"insertion": 0.5 + gain, "deletion": 0.5 - gain} | random for gain in gains]
    assert set(maps.verdicts({"images": images}).values()) == {verdict}
    assert ("not clearly better" in maps.note({"images": images})) == (verdict != "better")
    assert "Nobody checked" in maps.note(None)


# Two runs.


PRIOR = [0.1, 0.6, 0.1, 0.05, 0.1, 0.025, 0.025]


def written(folder, rows, tau=0.0):
    """A run with a report by these predictions, as far as a comparison reads it."""
    prior = dict(zip(CLASSES, PRIOR, strict=True))
    chosen = "prior_corrected" if tau else "argmax"
    rule = {"training_prior": prior, "tau": tau, "chosen": chosen}
    files.write_json(folder / "metrics.json", {"decisions": rule})
    return FakeRun(folder, {}, pd.DataFrame(), rows)


def test_two_runs_are_compared_on_the_same_images(tmp_path):
    rows = made_predictions(made_table({"test": 150}))
    truth, p = predictions.arrays(rows)
    perfect = rows.assign(**dict(zip(CLASSES, np.eye(7)[truth].T, strict=True)))
    one, two = written(tmp_path / "one", perfect), written(tmp_path / "two", rows.iloc[::-1])
    expected = 1 - sk.balanced_accuracy_score(truth, p.argmax(1))
    found = comparison(one, two)  # in any order
    for name in ("balanced_accuracy", "balanced_accuracy (argmax)"):
        row = found.loc[name]
        assert row["value"] == pytest.approx(expected) and 0 < row["low"] < row["value"]
    with pytest.raises(UserError, match="three share no test subset"):
        comparison(one, written(tmp_path / "three", rows.head(20)))
    with pytest.raises(
        UserError, match="first python -m dermai_utils report --data sample --run-name four"
    ):
        comparison(one, FakeRun(tmp_path / "four", {}, pd.DataFrame(), rows))


def test_dividing_the_prior_out_makes_no_better_run(tmp_path):
    """One network twice: as it is, and with its prior divided out, each with its own rule. They
    predict the same, though argmax tells them apart."""
    rows = made_predictions(made_table({"test": 150}))
    plain, p = written(tmp_path / "plain", rows, tau=1.0), rows[list(CLASSES)].to_numpy() / PRIOR
    divided = rows.assign(**dict(zip(CLASSES, (p / p.sum(1, keepdims=True)).T, strict=True)))
    found = comparison(plain, written(tmp_path / "divided", divided))["value"]
    assert all(math.isclose(found[name], 0, abs_tol=1e-12) for name in CONFUSION_METRICS)
    assert found["balanced_accuracy (argmax)"] < -0.05
