"""All folds as one run: one model a fold, each image judged by the model that did not learn it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from dermai_utils import config, files, pipeline
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import split
from dermai_utils.metrics import conformal
from dermai_utils.report import gradcam
from dermai_utils.training.inference import LoadedRun


@pytest.fixture(scope="module")
def folded(tmp_path_factory, made, small):
    folder = tmp_path_factory.mktemp("folds")
    given = small | dict(epochs=1, tta=2, folds=3, run_name="f")
    cfg = config.load(env={}, cache_dir=folder / "cache", work_dir=folder / "work", **given)
    pipeline.ensure(cfg, "predictor")
    return cfg


def of_member(cfg, k, rows):
    """What the model of fold `k` alone says."""
    alone = dataclasses.replace(cfg, fold=k, run_name=f"f-{k}")
    return LoadedRun(alone).probabilities(rows, cfg.tta)


def test_a_val_image_gets_the_model_of_its_fold_and_any_other_the_mean_of_all(folded):
    table = files.read_table(folded.report_dir / "predictions.csv")
    folds = files.read_table(folded.split_file).set_index("image")["subset"]
    rows, got = table["row"].to_numpy(), table[list(CLASSES)].to_numpy()
    members = [of_member(folded, k, rows) for k in range(3)]
    assert np.abs(members[0] - members[1]).max() > 1e-3
    for k in range(3):
        here = (table["image"].map(folds) == str(k)).to_numpy()
        assert here.sum() > 10
        np.testing.assert_allclose(got[here], members[k][here], atol=1e-6)
    official = (table["subset"] == "official").to_numpy()
    np.testing.assert_allclose(got[official], np.mean(members, axis=0)[official], atol=1e-6)
    training = split.read(folded)["source"].eq("train").sum()
    assert (table["subset"] == "val").sum() == training  # all of them, once


def test_maps_are_of_images_that_their_network_did_not_learn(folded):
    table = files.read_table(folded.report_dir / "predictions.csv")
    chosen = gradcam.choose(table.query("subset == 'val'"))
    assert len(chosen) and (chosen["fold"] == 0).all()


def test_it_is_found_again_by_its_name_alone_and_never_trained_twice(folded, capsys):
    given = dict(env={}, cache_dir=folded.cache_dir, work_dir=folded.work_dir, run_name="f")
    for cfg in (config.of_run(**given), config.of_run(**given, preset="sample", folds=3)):
        assert (cfg.folds, cfg.fold, cfg.tta) == (3, -1, 2)
        assert [folder.name for folder in cfg.member_dirs] == ["f-0", "f-1", "f-2"]
    pipeline.ensure(config.of_run(**given), "evaluate")
    assert "steps an epoch" not in capsys.readouterr().out


def test_an_ensemble_of_runs_that_differ_in_fold_needs_every_fold(folded):
    names = dataclasses.replace(folded, run_name="g", ensemble="f-0,f-1")
    with pytest.raises(UserError, match="no run holds out fold 2"):
        pipeline.ensure(names, "train")
    pipeline.ensure(dataclasses.replace(names, ensemble="f-0,f-1,f-2"), "train")
    joined = json.loads((names.run_dir / "config.json").read_text())
    assert (joined["folds"], joined["fold"], joined["ensemble"]) == (3, -1, "f-0,f-1,f-2")
    with pytest.raises(UserError, match="f-1 holds out fold 1: begin with a run that holds out"):
        pipeline.ensure(dataclasses.replace(names, ensemble="f-1,f-0,f-2"), "train")


def test_one_fold_of_a_run_of_all_is_never_judged_by_the_others_models(folded):
    """They learned it. Before, the mean of all three was taken, and its score quoted."""
    given = dict(env={}, cache_dir=folded.cache_dir, work_dir=folded.work_dir)
    before = (folded.run_dir / "config.json").read_bytes()
    with pytest.raises(
        UserError, match="fold=2: work/sample/runs/f is the mean of .* f-2 for that"
    ):
        pipeline.ensure(config.of_run(**given, run_name="f", fold=2), "evaluate")
    with pytest.raises(
        UserError, match="fold=1: .* each of them another fold, so the others learn"
    ):
        pipeline.ensure(
            config.of_run(**given, run_name="g", fold=1, ensemble="f-0,f-1,f-2"), "train"
        )
    assert (folded.run_dir / "config.json").read_bytes() == before


def test_the_linear_probe_of_another_fold_is_made_anew(folded, capsys):
    for fold, said in ((0, "linear_probe: val, n="), (1, "making it again, because fold changed")):
        pipeline.ensure(dataclasses.replace(folded, fold=fold, run_name="p"), "linear_probe")
        assert said in capsys.readouterr().out


def test_members_are_trained_anew_where_the_split_is_another_one(folded, tmp_path, capsys):
    """As a single run is: before, a run of folds that was found by its name never looked."""
    shutil.copytree(folded.work, tmp_path / "work")
    given = dict(env={}, cache_dir=folded.cache_dir, work_dir=tmp_path / "work")
    cfg = config.of_run(**given, run_name="f", split_seed=1)
    given_names = config.of_run(**given, run_name="old", ensemble="f-0,f-1,f-2", split_seed=1)
    with pytest.raises(UserError, match="f-0 was trained on another split than the one that is th"):
        pipeline.ensure(given_names, "train")
    assert "steps an epoch" not in capsys.readouterr().out
    pipeline.ensure(cfg, "train")
    assert capsys.readouterr().out.count("steps an epoch") == 3
    pipeline.ensure(given_names, "train")


def test_an_ensemble_of_one_fold_is_judged_on_that_fold_alone(folded):
    """Not on the other folds' images, which all of its models learned."""
    runs = folded.run_dir.parent
    shutil.copytree(runs / "f-1", runs / "again")
    given = dict(env={}, cache_dir=folded.cache_dir, work_dir=folded.work_dir, run_name="same")
    cfg = config.of_run(**given, ensemble="f-1,again")
    assert (cfg.folds, cfg.fold) == (3, 1)
    assert config.of_run(**given, ensemble="f-0,f-1,f-2").fold == -1
    val = split.read(cfg).query("subset == 'val'")
    assert set(val["fold"]) == {1}


def test_without_another_test_set_error_rates_come_from_the_thresholds_of_the_other_folds(
    folded, tmp_path
):
    """By hand: thresholds of two folds, counted on the third; distances of the first fold alone."""
    state = files.read_json(folded.report_dir / "predictor.json")
    assert state["subset"] == "made_up" and state["looks"]["official"]["n"] == state["n"]
    cfg = dataclasses.replace(folded, work_dir=str(tmp_path))
    for name in ("table.csv", "split.csv"):
        whole = files.read_table(folded.work / name)
        official = files.read_table(folded.table_file).query("source == 'test'")["image"]
        files.write_table(whole[~whole["image"].isin(official)], tmp_path / name)
    for k in range(3):
        for name in ("best.pt", "history.csv", "config.json"):
            target = cfg.run_dir.with_name(f"f-{k}") / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((folded.run_dir.with_name(f"f-{k}") / name).read_bytes())
    from dermai_utils.predict import state as predictor
    from dermai_utils.report import evaluate

    files.write_json(cfg.run_dir / "config.json", files.read_json(folded.run_dir / "config.json"))
    evaluate.run(cfg)
    predictor.run(cfg)
    got = files.read_json(cfg.report_dir / "predictor.json")
    assert got["subset"] == "folds" and got["out_of_distribution"] is None
    rows = files.read_table(cfg.report_dir / "predictions.csv")
    truth = rows["truth"].map(CLASSES.index).to_numpy()
    logits = np.log(np.maximum(rows[list(CLASSES)].to_numpy(), 1e-300)) / got["temperature"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    right = np.zeros(len(rows), bool)
    for k in range(3):
        here = (rows["fold"] == k).to_numpy()
        chosen = conformal.class_thresholds(
            truth[~here], p[~here], rows["lesion_id"].to_numpy(str)[~here]
        )
        sets = conformal.prediction_sets(p[here], chosen)
        right[here] = sets[np.arange(here.sum()), truth[here]]
    assert got["n"] == len(rows) and got["held"] == pytest.approx(right.mean())
