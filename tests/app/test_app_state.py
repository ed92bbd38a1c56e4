import dataclasses
import shutil

import numpy as np
import pandas as pd
import photos
import pytest

from dermai_utils import predictions, runs, splits
from dermai_utils.app import ood, state
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.study import calibration, conformal


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run whose files may be changed."""
    shutil.copytree(run.folder, tmp_path / "baseline")
    return runs.Run(tmp_path / "baseline", device="cpu")


def places(data, rows):
    return data.rows(rows["image"])


def test_the_warning_is_fixed_on_validation_and_passes_99_percent_of_it(run, data):
    """Anew from the network: the validation images' distances, and nothing of any test image."""
    fixed = state.load(run)
    about = fixed.about
    assert about["foreign_threshold"] == pytest.approx(1.3 * about["ood_threshold"])
    rows = predictions.scored_rows(run.predictions, "val")
    *_, texture = ood.describe(run, data.pixels, places(data, rows))
    far = fixed.distance(texture)
    assert about["ood_threshold"] == pytest.approx(np.quantile(far, 0.99), rel=1e-6)
    assert set(fixed.known["image"]) == set(run.table.loc[run.table["subset"] == "train", "image"])


def test_thresholds_and_temperature_are_those_of_the_lesions_of_validation(run):
    fixed, rows = state.load(run), predictions.scored_rows(run.predictions, "val")
    truth, probabilities = predictions.arrays(rows)
    temperature = calibration.fit_temperature(truth, probabilities)
    assert fixed.about["temperature"] == pytest.approx(temperature, abs=1e-9)
    probabilities = calibration.apply_temperature(probabilities, temperature)
    expected = conformal.class_thresholds(truth, probabilities, rows["lesion_id"])
    np.testing.assert_allclose(fixed.thresholds, expected, atol=1e-9)


def test_what_is_said_about_the_sets_is_counted_on_the_subset_to_quote(run):
    fixed, rows = state.load(run), predictions.scored_rows(run.predictions, "official")
    found, truths = fixed.about, rows["truth"].to_numpy()
    raw = np.log(np.clip(rows[list(CLASSES)].to_numpy(), 2.3e-16, 1)) / found["temperature"]
    p = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    sets = (p >= fixed.thresholds) | (p == p.max(1, keepdims=True))
    short = sets.sum(1) <= 2
    holds = sets[np.arange(len(sets)), [CLASSES.index(c) for c in truths]]
    assert 0 < short.sum() < len(sets) and 0 < holds.sum() < len(sets)  # or this tests nothing
    assert (found["subset"], found["n"]) == ("official", 42)
    assert found["size"] == pytest.approx(sets.sum(1).mean())
    assert found["held"] == pytest.approx(holds.mean())
    assert found["answered"] == pytest.approx(short.mean())
    assert found["answered_held"] == pytest.approx(holds[short].mean())
    melanoma = truths == "MEL"
    without = int((melanoma & short & ~holds).sum())
    expected = {"n": melanoma.sum(), "answered": (melanoma & short).sum(), "without": without}
    assert expected.items() <= found["melanomas"].items()
    assert sum(kind["n"] for kind in found["answers"].values()) == short.sum()
    assert sum(kind["held"] for kind in found["answers"].values()) == (short & holds).sum()


def test_similar_images_are_the_nearest_of_other_lesions(run, data):
    fixed, rows = state.load(run), predictions.primary_rows(run.predictions)
    assert set(fixed.about["similar"]) == set(rows["image"])
    _, features, _ = ood.describe(run, data.pixels, places(data, rows))
    nearest = fixed.known["image"].to_numpy()[fixed.similarity(features).argmax(1)]
    first = [fixed.about["similar"][image][0]["image"] for image in rows["image"]]
    assert first == nearest.tolist()


def by_hand(fixed, rows):
    """How many sets hold the truth, each part of `rows` judged by thresholds of the others."""
    held = 0
    for fold in sorted(set(rows["fold"])):
        others, one = rows[rows["fold"] != fold], rows[rows["fold"] == fold]
        truth, p = predictions.arrays(others)
        limits = conformal.class_thresholds(truth, fixed.calibrated(p), others["lesion_id"])
        truth, p = predictions.arrays(one)
        sets = conformal.prediction_sets(fixed.calibrated(p), limits)
        held += sets[np.arange(len(one)), truth].sum()
    return held / len(rows)


def test_without_a_test_set_each_fifth_of_validation_is_scored_by_the_others(copy, data):
    rows = copy.predictions[copy.predictions["subset"] == "val"].reset_index(drop=True)
    photos.files.write_table(rows, copy.folder / "predictions.csv")
    fixed = state.prepare(copy, data)
    found = fixed.about
    assert (found["subset"], found["n"]) == ("val", 42)
    assert "each part judged by thresholds of the others" in found["subset_name"]
    parts = splits.stratified(rows["lesion_id"], rows["truth"], np.ones(5), seed=0)
    assert rows.assign(fold=parts).groupby("lesion_id")["fold"].nunique().max() == 1
    assert found["held"] == pytest.approx(by_hand(fixed, rows.assign(fold=parts)))


def test_with_folds_each_fold_is_scored_by_the_others_and_neighbours_are_the_first_networks(
    data, tmp_path
):
    made = photos.run(tmp_path / "folds", data, folds=3)
    rows = made.predictions
    photos.files.write_table(rows[rows["subset"] == "val"], made.folder / "predictions.csv")
    fixed = state.prepare(made, data)
    training = made.table[(made.table["subset"] == "val") & (made.table["fold"] != 0)]
    assert fixed.known["image"].tolist() == training["image"].tolist()
    held = by_hand(fixed, made.predictions)
    assert fixed.about["n"] == 105 and fixed.about["held"] == pytest.approx(held)


def test_another_network_or_a_broken_file_is_one_line(copy):
    assert state.load(copy)
    path, whole = copy.folder / state.FILE, (copy.folder / state.FILE).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged: .* report --data sample --run-name baseline"):
        state.load(copy)
    path.write_bytes(whole)
    copy.net.backbone.fc.bias.data += 1
    with pytest.raises(UserError, match="belongs to another network"):
        state.load(copy)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        state.load(copy)


def test_data_that_changed_meanwhile(copy, data):
    """Images that are gone are left out; data without them all, or of another size, is refused."""
    few = dataclasses.replace(data, table=data.table[10:].reset_index(drop=True))
    few = dataclasses.replace(few, pixels=data.pixels[10:])
    assert len(state.prepare(copy, few).known) == 53
    without_test = dataclasses.replace(data, table=data.table[:105], pixels=data.pixels[:105])
    assert state.prepare(copy, without_test).about["similar"] == {}
    none = dataclasses.replace(data, table=data.table[105:].reset_index(drop=True))
    with pytest.raises(UserError, match="its images are not in sample"):
        state.prepare(copy, dataclasses.replace(none, pixels=data.pixels[105:]))
    with pytest.raises(UserError, match="load it with size=32"):
        state.prepare(copy, dataclasses.replace(data, pixels=data.pixels[:, :50]))


def test_neighbours_are_one_of_each_lesion_and_none_of_the_pictures_own():
    known = pd.DataFrame({"image": list("abcd"), "label": "NV", "lesion_id": list("xxyz")})
    cosines = [0.8, 0.9, 0.7, 0.6]
    assert [one["image"] for one in state.nearest(known, cosines, 2)] == ["b", "c"]
    assert [one["image"] for one in state.nearest(known, cosines, 2, "x")] == ["c", "d"]


def test_no_part_of_validation_is_scored_by_thresholds_that_it_chose():
    logits = np.random.default_rng(1).normal(size=(700, 7)) + 2 * np.eye(7)[np.arange(700) % 7]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ids = [f"i{k}" for k in range(700)]
    rows = predictions.table(ids, np.arange(700) % 7, p, subset="val", lesion_id=ids)
    about = {"temperature": 1.0, "thresholds": dict.fromkeys(CLASSES, 0.5)}
    fixed = state.State(None, None, about, None, None, None)
    parts = splits.stratified(ids, rows["truth"], np.ones(5), seed=0)
    expected = by_hand(fixed, rows.assign(fold=parts))
    truth, p = predictions.arrays(rows)
    by_all = conformal.class_thresholds(truth, fixed.calibrated(p), ids)
    by_all = conformal.scores(truth, fixed.calibrated(p), by_all)["held"]
    found = state._scores(fixed, "val", rows)["held"]
    assert found == pytest.approx(expected) and found != pytest.approx(by_all)
