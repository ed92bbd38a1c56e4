import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from dermai_utils import config, files, pipeline
from dermai_utils.config import CLASSES, UserError
from dermai_utils.training import checkpoint


@pytest.fixture
def two(made, tmp_path):
    """A work folder with the finished run and a second one, with other weights."""
    shutil.copytree(made.work, tmp_path / "work")
    cfg = dataclasses.replace(made, work_dir=str(tmp_path / "work"))
    shutil.copytree(cfg.run_dir, cfg.run_dir.with_name("other"))
    path = cfg.run_dir.with_name("other") / "best.pt"
    state, generator = checkpoint.load(path), torch.Generator().manual_seed(0)
    for tensor in state["model"].values():
        if tensor.is_floating_point():
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    checkpoint.save(path, state)
    return cfg


def predictions(cfg, **given):
    cfg = dataclasses.replace(cfg, **given)
    pipeline.ensure(cfg, "evaluate")
    return files.read_table(cfg.report_dir / "predictions.csv")[list(CLASSES)].to_numpy()


def test_an_ensemble_is_the_mean_of_its_members_and_trains_nothing(two, capsys):
    one, other = predictions(two), predictions(two, ensemble="other", run_name="alone")
    assert np.abs(one - other).max() > 0.01
    both = predictions(two, ensemble="baseline, other", run_name="both")
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)
    assert "steps an epoch" not in capsys.readouterr().out
    again = config.of_run(env={}, cache_dir=two.cache, work_dir=two.work, run_name="both")
    assert again.ensemble == "baseline,other" and again.image_size == two.image_size
    pipeline.ensure(again, "gradcam")
    assert (again.report_dir / "report.html").exists()


def test_members_that_were_not_held_out_from_the_same_images_are_refused(two):
    settings = two.run_dir.with_name("other") / "config.json"
    kept = json.loads(settings.read_text())
    files.write_json(settings, kept | {"split file": "another"})
    with pytest.raises(
        UserError, match="work/sample/runs/other and work/sample/runs/baseline differ in split file"
    ):
        predictions(two, ensemble="baseline,other", run_name="both")
    with pytest.raises(UserError, match="work/sample/runs/nowhere holds no trained run"):
        predictions(two, ensemble="baseline,nowhere", run_name="both")
    assert not (two.run_dir.with_name("both") / "config.json").exists()


def test_test_time_augmentation_changes_the_answer_little_and_the_report_is_made_again(two, capsys):
    plain, turned = predictions(two), predictions(two, tta=8)
    assert 0 < np.abs(plain - turned).max() < 0.5
    assert "evaluate: making it again, because tta changed" in capsys.readouterr().out


def test_several_seeds_are_trained_in_turn_and_a_second_call_trains_none(two, capsys):
    cfg = dataclasses.replace(two, seeds=2, epochs=1, run_name="several", tta=2)
    assert pipeline.ensure(cfg, "evaluate") == pipeline.STAGES["evaluate"].makes(cfg)
    assert [files.read_json(folder / "config.json")["seed"] for folder in cfg.member_dirs] == [0, 1]
    assert capsys.readouterr().out.count("steps an epoch") == 2
    pipeline.ensure(cfg, "evaluate")
    said = capsys.readouterr().out
    assert "steps an epoch" not in said and "evaluate: up to date" in said
    again = config.of_run(env={}, cache_dir=two.cache, work_dir=two.work, run_name="several")
    assert again.member_dirs == cfg.member_dirs and again.tta == 2
    by_preset = config.of_run(
        env={}, cache_dir=two.cache, work_dir=two.work, run_name="several", seeds=2
    )
    assert by_preset.run_name == "several" and by_preset.member_dirs == cfg.member_dirs
