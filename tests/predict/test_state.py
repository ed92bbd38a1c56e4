import dataclasses
import shutil

import numpy as np
import pytest

from dermai_utils import files, pipeline
from dermai_utils.config import CLASSES
from dermai_utils.metrics import calibration, conformal, predictions
from dermai_utils.predict import ood, state
from dermai_utils.training.inference import LoadedRun


def test_the_warning_is_fixed_on_validation_and_passes_99_percent_of_it(made):
    """Anew from the checkpoint: the validation images' distances, and nothing of any test image."""
    fixed = state.load(made)
    assert fixed.foreign_threshold == pytest.approx(1.3 * fixed.ood_threshold)
    table = files.read_table(made.report_dir / "predictions.csv")
    rows = predictions.scored_rows(table, "val")["row"].to_numpy()
    *_, texture = ood.describe(LoadedRun(made), rows)
    far = ood.distance(texture, fixed.centre, fixed.precision)
    assert fixed.ood_threshold == pytest.approx(np.quantile(far, 0.99), rel=1e-4)
    table = files.read_table(made.split_file)
    assert set(fixed.image) == set(table.loc[table["subset"] == "train", "image"])


def test_what_is_told_about_the_sets_is_counted_on_the_quoted_part(made):
    found, fixed = files.read_json(made.report_dir / "predictor.json"), state.load(made)
    rows = predictions.scored_rows(
        files.read_table(made.report_dir / "predictions.csv"), "official"
    )
    raw = np.log(np.clip(rows[list(CLASSES)].to_numpy(), 2.3e-16, 1)) / fixed.temperature
    probabilities = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    sets = [
        {c for c, p, t in zip(CLASSES, row, fixed.thresholds, strict=True) if p >= t}
        | {CLASSES[row.argmax()]}
        for row in probabilities
    ]
    assert found["n"] == len(rows) and found["size"] == pytest.approx(
        np.mean([len(s) for s in sets])
    )
    assert found["held"] == pytest.approx(
        np.mean([t in s for t, s in zip(rows["truth"], sets, strict=True)])
    )
    short = [1 <= len(s) <= 2 for s in sets]
    right = [
        t in s for t, s, is_answer in zip(rows["truth"], sets, short, strict=True) if is_answer
    ]
    assert found["answered"] == pytest.approx(np.mean(short)) and found["answered_held"] == (
        pytest.approx(np.mean(right)) if right else None
    )
    assert sum(row["n"] for row in found["by_class"].values()) == found["n"]
    melanoma = rows["truth"].to_numpy() == "MEL"
    assert found["melanomas"] == {
        "n": melanoma.sum(),
        "answered": (melanoma & short).sum(),
        "without": sum("MEL" not in sets[k] for k in np.flatnonzero(melanoma & short)),
    }
    assert sum(kind["n"] for kind in found["answers"].values()) == sum(short)
    assert sum(kind["held"] for kind in found["answers"].values()) == sum(right)


def test_thresholds_are_those_of_the_lesions_of_validation(made):
    fixed = state.load(made)
    table = files.read_table(made.report_dir / "predictions.csv")
    truth, probabilities = predictions.arrays(rows := predictions.scored_rows(table, "val"))
    probabilities = calibration.apply_temperature(probabilities, fixed.temperature)
    expected = conformal.class_thresholds(truth, probabilities, rows["lesion_id"])
    np.testing.assert_allclose(fixed.thresholds, expected)


def test_without_images_that_chose_nothing_no_error_rate_is_known(made, tmp_path, capsys):
    """A run with neither test subset nor official images: its thresholds saw all that there is."""
    shutil.copytree(made.work, tmp_path / "work")
    cfg = dataclasses.replace(made, work_dir=str(tmp_path / "work"))
    metrics = files.read_json(cfg.report_dir / "metrics.json") | {"primary_subset": "val"}
    files.write_json(cfg.report_dir / "metrics.json", metrics)
    state.run(cfg)
    found = files.read_json(cfg.report_dir / "predictor.json")
    assert found["n"] == 0 and found["melanomas"]["n"] == 0 and found["answered_held"] is None
    assert found["out_of_distribution"] is None and "not known" in capsys.readouterr().out


def test_of_another_checkpoint_or_broken_it_does_not_count(made, tmp_path):
    shutil.copytree(made.work, tmp_path / "work")
    cfg = dataclasses.replace(made, work_dir=str(tmp_path / "work"))
    assert state.load(cfg) is not None
    path, best = cfg.report_dir / "predictor.npz", cfg.run_dir / "best.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert state.load(cfg) is None
    path.write_bytes(whole)
    best.write_bytes(best.read_bytes() + b"x")
    assert state.load(cfg) is None


def written_before(cfg, name, old):
    """Replaces predictor.npz by a file of an earlier version: other names, one threshold, and the
    texture of another layer."""
    now = vars(state.load(cfg))
    earlier = now | {"centre": np.zeros(99), "precision": np.eye(99)}
    del earlier["foreign_threshold"]
    marker = files.read_json(cfg.report_dir / ".predictor.json")
    marker["made_from"]["the form of its files"] = 1
    files.write_json(cfg.report_dir / ".predictor.json", marker)
    (cfg.report_dir / "predictor.npz").unlink()
    np.savez(cfg.report_dir / name, **{old.get(k, k): v for k, v in earlier.items()})
    return now


@pytest.mark.parametrize(
    "name, old",
    [("reference.npz", {"ood_threshold": "farthest", "tta": "views"}), ("predictor.npz", {})],
)
def test_a_run_of_an_earlier_version_still_answers(made, tmp_path, name, old):
    """But whether a picture is out of distribution is not known; with the images it is made
    anew."""
    shutil.copytree(made.work, tmp_path / "work")
    cfg = dataclasses.replace(
        made, work_dir=str(tmp_path / "work"), cache_dir=str(tmp_path / "none")
    )
    now = written_before(cfg, name, old)
    then = state.load(cfg)
    assert then.outdated and then.ood_threshold == now["ood_threshold"] and then.tta == now["tta"]
    np.testing.assert_array_equal(then.features, now["features"])
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 43, 3), np.uint8)
    answer = pipeline.predictor(cfg)(["a"], image)[0]
    assert np.isnan(answer.distance) and not answer.foreign
    assert "out of distribution" in answer.warnings[0]
    with_images = dataclasses.replace(cfg, cache_dir=made.cache_dir)
    assert not pipeline.predictor(with_images).state.outdated
