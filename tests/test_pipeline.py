import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from dermai_utils import config, files, pipeline
from dermai_utils.__main__ import main
from dermai_utils.config import ROOT, UserError
from dermai_utils.training import loop

# the other stages are made when they are asked for
WAY = ["download", "clean", "split", "train", "evaluate", "predictor", "gradcam"]


@pytest.fixture
def way(tmp_path, small):
    """ensure(stage, field=value, ...) on the fixture in folders of its own, one epoch a run."""
    folders = dict(cache_dir=tmp_path / "cache", work_dir=tmp_path / "work")

    def ensure(stage, **given):
        cfg = config.load(env={}, **(folders | small | {"epochs": 1} | given))
        pipeline.ensure(cfg, stage)
        return cfg

    return ensure


def stages_made(capsys):
    """(made, up to date): the stages that the output names, in order."""
    said = capsys.readouterr().out
    current = re.findall(r"^(\w+): up to date", said, re.M)
    return [
        s for s in pipeline.STAGES if s not in current and re.search(rf"^{s}: ", said, re.M)
    ], current


def test_any_stage_can_come_first_and_a_second_time_skips_everything(way, capsys):
    cfg = way("gradcam")
    assert (cfg.report_dir / "gradcam.png").exists()
    made, current = stages_made(capsys)
    assert made == WAY and not current
    way("gradcam")
    made, current = stages_made(capsys)
    assert made == ["download"] and current == [
        "clean",
        "split",
        "train",
        "evaluate",
        "predictor",
        "gradcam",
    ]


@pytest.mark.parametrize(
    "change, remade",
    [
        (dict(seed=1), ["train", "evaluate", "predictor", "gradcam"]),
        (dict(learning_rate=0.01), ["train", "evaluate", "predictor", "gradcam"]),
        (dict(split_seed=1), ["split", "train", "evaluate", "predictor", "gradcam"]),
        # not the split: the table is the same
        (dict(image_size=80), ["clean", "train", "evaluate", "predictor", "gradcam"]),
        (dict(workers=1), []),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_a_changed_field_remakes_what_depends_on_it_and_no_more(way, capsys, change, remade):
    way("gradcam")
    capsys.readouterr()
    way("gradcam", **change)
    made, current = stages_made(capsys)
    assert made == ["download", *remade]
    assert set(current) == set(WAY) - {"download", *remade}


def test_a_report_is_made_anew_with_the_leakage_effect(way, capsys):
    cfg = way("evaluate")
    assert files.read_json(cfg.report_dir / "metrics.json")["leakage_effect"] is None
    way("leakage_effect")
    capsys.readouterr()
    way("evaluate")
    made, current = stages_made(capsys)
    assert made == ["download", "evaluate"] and current == ["clean", "split", "train"]
    found = files.read_json(cfg.report_dir / "metrics.json")["leakage_effect"]
    assert found["classifiers"] == files.read_json(cfg.leakage_effect_file)["classifiers"]
    assert (cfg.report_dir / "leakage_effect.png").exists()


def test_a_lost_cache_is_rebuilt_and_the_precious_part_stays(way, capsys):
    """A fresh Colab machine with work_dir on Drive: the images are gone, the run is not."""
    cfg = way("evaluate")
    before = files.checksum(cfg.run_dir / "best.pt")
    shutil.rmtree(cfg.cache)
    capsys.readouterr()
    way("evaluate")
    made, current = stages_made(capsys)
    assert made == ["download", "clean"] and current == ["split", "train", "evaluate"]
    assert files.checksum(cfg.run_dir / "best.pt") == before


def as_version_0_1_0(cfg, *stages):
    """Write the markers of `stages` anew, as version 0.1.0 would have written them."""
    old_names = {"tta": "views", "drw": "deferred"}
    later = {"train_fraction", "near_duplicates", "the form of its files"}
    for name in stages:
        marker = pipeline._marker(cfg, name)
        record = files.read_json(marker)
        then = {old_names.get(k, k): v for k, v in record["made_from"].items() if k not in later}
        if name == "train":
            then |= {"optimizer": "adamw"}
        if name == "gradcam":
            then |= {"masks": ""}
        files.write_json(marker, record | {"made_from": then})


def test_a_run_of_an_earlier_version_stands_and_its_report_is_made_again(way, capsys):
    """An update must not train for hours again; what has other keys today is made again."""
    cfg = way("gradcam")
    as_version_0_1_0(cfg, *WAY[1:])
    capsys.readouterr()
    way("gradcam")
    said = capsys.readouterr().out
    assert (
        said.count("up to date") == 3
        and "evaluate: making it again, because the form of its" in said
    )
    as_version_0_1_0(cfg, "train")
    way("train", train_fraction=0.5)
    assert "because train_fraction changed" in capsys.readouterr().out


def test_a_run_with_an_optimizer_that_is_gone_is_made_again(way, capsys):
    cfg = way("train")
    marker = pipeline._marker(cfg, "train")
    record = files.read_json(marker)
    record["made_from"]["optimizer"] = "adam"
    files.write_json(marker, record)
    way("train")
    assert "making it again, because optimizer changed" in capsys.readouterr().out


def test_an_ensemble_and_its_members_share_table_and_split(way, capsys):
    way("train", seeds=2)
    capsys.readouterr()
    cfg = way("train", run_name="baseline-0")
    assert stages_made(capsys)[1] == ["clean", "split", "train"]
    # version 0.1.0 wrote the tables' folders into an ensemble's markers
    marker = cfg.work / ".split.json"
    record = files.read_json(marker)
    then = {f"work/{k}" if k == "table.csv" else k: v for k, v in record["made_from"].items()}
    files.write_json(marker, record | {"made_from": then})
    way("split")
    assert "split" in stages_made(capsys)[1]


@pytest.mark.parametrize("old, new", pipeline.RENAMED.items())
def test_old_names_of_stages_are_understood(old, new, capsys):
    assert new in pipeline.STAGES and pipeline.stage_name(old) == new
    assert capsys.readouterr().out == f"stage {old} is now called {new}\n"


def test_a_predictor_makes_the_run_that_it_needs(way, capsys):
    cfg = way("split")
    found = pipeline.predictor(cfg)
    assert found.cfg == cfg and (cfg.run_dir / "best.pt").exists()
    capsys.readouterr()
    pipeline.predictor(cfg)
    assert "predict: run" not in capsys.readouterr().out
    (cfg.report_dir / ".evaluate.json").unlink()
    way("evaluate")  # another evaluation: how often its answers are right is to be counted anew
    found = pipeline.predictor(cfg)
    assert "not ready for predictions" in capsys.readouterr().out and found.scores["n"] > 0


def test_a_finished_run_is_set_aside_not_lost(way, capsys):
    cfg = way("train")
    before = files.checksum(cfg.run_dir / "best.pt")
    way("train", seed=1)
    assert files.checksum(cfg.run_dir.with_name("baseline.previous") / "best.pt") == before
    said = capsys.readouterr().out
    assert "kept as work/sample/runs/baseline.previous (--run-name baseline.previous)" in said
    assert "give another --run-name" in said


def test_a_run_that_was_set_aside_is_never_replaced_and_is_a_run_as_any_other(way, capsys):
    cfg = way("train")
    runs = {files.checksum(cfg.run_dir / "best.pt")}
    for seed in (1, 2):
        way("train", seed=seed)
        runs.add(files.checksum(cfg.run_dir / "best.pt"))
    names = ["baseline", "baseline.previous", "baseline.previous-2"]
    kept = [cfg.run_dir.with_name(name) for name in names]
    assert len(runs) == 3 and {files.checksum(folder / "best.pt") for folder in kept} == runs
    capsys.readouterr()
    way("train", run_name="baseline.previous")
    way("train", run_name="baseline.previous-2", seed=1)
    assert stages_made(capsys)[1].count("train") == 2


def test_a_finished_run_stays_where_the_new_one_cannot_start(way, tmp_path):
    cfg = way("train")
    for wrong in ({"weights": tmp_path / "gone.pth"}, {"backbone": "timm:nothing"}):
        with pytest.raises(UserError):
            way("train", **wrong)
        assert [path.name for path in cfg.run_dir.parent.iterdir()] == ["baseline"]


def without_times(folder, target):
    shutil.copytree(folder, target, copy_function=shutil.copyfile)


def test_folders_that_were_moved_or_copied_are_up_to_date(way, tmp_path, capsys):
    cfg = way("gradcam")
    for k, bring in enumerate((shutil.move, shutil.copytree, without_times)):
        place = tmp_path / f"place {k}"
        place.mkdir()
        for folder in (cfg.cache, cfg.work):
            bring(folder, place / folder.name)
            shutil.rmtree(folder, ignore_errors=True)
        capsys.readouterr()
        cfg = way("gradcam", cache_dir=place / "cache", work_dir=place / "work")
        made, current = stages_made(capsys)
        assert made == ["download"] and len(current) == len(WAY) - 1


def test_a_run_whose_marker_has_the_paths_of_an_earlier_version_stands(way, capsys, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 2**17)
    cfg = way("train")
    marker, best = pipeline._marker(cfg, "train"), cfg.run_dir / "best.pt"
    record = files.read_json(marker)
    then = {str(cfg.run_dir / name): stamp for name, stamp in record["outputs"].items()}
    then[str(best)] = [best.stat().st_size, best.stat().st_mtime_ns]
    files.write_json(marker, record | {"outputs": then})
    for seconds in (None, (0, 0)):  # the first start gives it a stamp that survives a copy
        if seconds:
            os.utime(best, seconds)
        capsys.readouterr()
        way("train")
        assert "train" in stages_made(capsys)[1]


def test_a_run_is_found_by_its_name_with_all_that_it_was_trained_with(way, capsys):
    """Also with what an unfinished run may change."""
    cfg = way("evaluate", precision="fp32", test_fraction=0.2, near_duplicates="none", tta=2)
    given = dict(env={}, cache_dir=cfg.cache, work_dir=cfg.work)
    again = config.of_run(**given)
    differ = {name for name in config.FIELDS if getattr(again, name) != getattr(cfg, name)}
    assert differ <= loop.NOT_KEPT
    capsys.readouterr()
    pipeline.ensure(again, "evaluate")
    assert stages_made(capsys)[0] == ["download"]
    other = config.of_run(**given, tta=4, test_fraction=0.1)
    assert (other.tta, other.test_fraction, other.precision) == (4, "0.1", "fp32")


def test_leftovers_are_swept_at_the_next_start(way):
    cfg = way("download")
    folders = (
        cfg.cache,
        cfg.cache / "images",
        cfg.pending_dir,
        cfg.work,
        cfg.run_dir,
        cfg.run_dir.with_name("baseline-1"),
        cfg.report_dir,
        cfg.report_dir / "mistakes",
    )
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".half.csv.123.tmp").touch()
    way("download", folds=2)
    assert not any((folder / ".half.csv.123.tmp").exists() for folder in folders)


def test_two_runs_live_side_by_side(way, capsys):
    way("evaluate", run_name="a")
    way("evaluate", run_name="b", seed=1)
    capsys.readouterr()
    way("evaluate", run_name="a")
    assert stages_made(capsys)[0] == ["download"]


def test_a_wrong_folder_leaves_no_folders_behind(way, tmp_path):
    (tmp_path / "nothing").mkdir()
    for data in ("gone", "nothing"):
        with pytest.raises(UserError, match=str(tmp_path / data)):
            way("split", data=tmp_path / data, work_dir=tmp_path / "deep" / "work")
        assert [path.name for path in tmp_path.iterdir()] == ["nothing"]


def test_a_misspelt_backbone_is_told_before_anything_is_made(way, tmp_path):
    for backbone in ("resnet81", "timm:test_resnett"):
        with pytest.raises(UserError, match="backbone="):
            way("evaluate", backbone=backbone)
    assert not list(tmp_path.iterdir())
    way("split", backbone=backbone)  # which needs none


def a_copy(folder):
    shutil.copytree(config.SAMPLE, folder)
    return folder


def test_work_dir_is_of_one_folder_of_data_and_a_moved_one_goes_on(way, tmp_path, capsys):
    mine, other = (a_copy(tmp_path / name / "kaggle") for name in "ab")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    cfg = way("split", data=mine)
    before = cfg.table_file.read_bytes()
    for given in ({}, {"weights": "imagenet"}):
        with pytest.raises(UserError, match=f"was made from {mine}.*another --work-dir") as said:
            way("train", data=other, **given)
        assert "\n" not in str(said.value) and cfg.table_file.read_bytes() == before
    way("split", data=tmp_path / "link" / "kaggle")  # the same folder by another way
    mine.rename(tmp_path / "b" / "old")
    way("split", data=other)
    with pytest.raises(UserError, match="was made from"):
        way("split", data=a_copy(mine))


def test_a_work_dir_of_a_version_that_wrote_no_folder_down(way, tmp_path):
    mine, other = (a_copy(tmp_path / name / "kaggle") for name in "ab")
    cfg = way("split", data=mine)
    (cfg.work / ".data.json").unlink()
    sources = files.read_json(cfg.sources_file)
    images = {"train": [str(mine / "images")]}
    files.write_json(cfg.sources_file, sources | {"images": images})
    with pytest.raises(UserError, match=f"was made from {mine}"):
        way("split", data=other)


def test_a_folder_that_cannot_be_written_is_one_line(way, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write there"):
        way("split", work_dir=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "dermai_utils", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "said", ["CUDA out of memory. Tried to allocate 2.00 GiB", "MPS backend out of memory", ""]
)
def test_too_little_memory_is_one_line_and_another_error_a_traceback(way, said, monkeypatch):
    def step(*_, **__):
        raise RuntimeError(said) if said else MemoryError

    monkeypatch.setattr(loop.Run, "train_step", step)
    with pytest.raises(UserError, match="train: out of memory.*give a batch_size under 16"):
        way("train")
    monkeypatch.setattr(loop.Run, "train_step", lambda *_, **__: [][0])
    with pytest.raises(IndexError):
        way("train")


def test_the_command_ends_with_the_path_of_what_it_made(tmp_path):
    status, out, _ = command(
        "split", "--cache-dir", str(tmp_path / "c"), "--work-dir", str(tmp_path / "w")
    )
    assert status == 0 and out.splitlines()[-1] == str(tmp_path / "w" / "split.csv")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["split", "--epoch", "3"], "did you mean epochs?"),
        (["split", "--epochs", "x"], "epochs='x'"),
        (["splitt"], "splitt"),
        (["split", "--data", "/no/such/folder"], "/no/such/folder"),
        (["split", "stray"], "stray"),
    ],
)
def test_a_usage_error_is_status_2_and_no_traceback(arguments, said):
    status, _, err = command(*arguments)
    assert status == 2 and said in err and "Traceback" not in err


def test_two_runs_are_compared_by_a_command(made, tmp_path, capsys):
    for name in ("one", "two"):
        shutil.copytree(made.report_dir, tmp_path / "report" / name)
    words = ["compare", "--work-dir", str(tmp_path), "--run-name", "one"]
    assert main([*words, "--other", "two"]) == 0
    said = capsys.readouterr().out
    assert "one minus two" in said and re.search(r"balanced_accuracy +0.0 +0.0 +0.0", said)
    assert "over 0: one is better" in said
    assert main(words) == 2 and "--other NAME" in capsys.readouterr().err
    for other in ("report/two", "..", "two/"):
        assert main([*words, "--other", other]) == 2
        assert f"error: other={other!r}: expected a plain folder name" in capsys.readouterr().err


def test_interrupted_is_status_130(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "ensure", stop)
    assert main(["split"]) == 130
    assert "run it again" in capsys.readouterr().err


def test_ctrl_c_in_training_is_status_130_and_one_line(way, small, tmp_path, monkeypatch, capsys):
    cfg = way("split")
    plain = loop.Run.train_step
    monkeypatch.setattr(
        loop.Run,
        "train_step",
        lambda *given: (os.kill(os.getpid(), signal.SIGINT), plain(*given))[1],
    )
    given = small | {"cache_dir": cfg.cache, "work_dir": cfg.work}
    assert (
        main(
            ["evaluate", *(f"--{name.replace('_', '-')}={value}" for name, value in given.items())]
        )
        == 130
    )
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == "train: stopped after step 1 of epoch 1; run it again to go on from there"
    )


def test_work_dir_holds_small_files_and_no_image_of_the_data(made):
    """It may lie on Drive."""
    images = {
        files.checksum(path)
        for path in (made.cache / "images").rglob("*.jpg")
        if path.stat().st_size
    }
    left = [path for path in made.work.rglob("*") if path.is_file()]
    assert not images & {files.checksum(path) for path in left} and not any(
        path.suffix == ".npy" for path in left
    )
    assert sum(path.stat().st_size for path in left if path.suffix != ".pt") < 5e6


def test_metrics_hold_every_held_out_part(made):
    found = files.read_json(made.report_dir / "metrics.json")
    assert set(found["subsets"]) == {"val", "official"} and found["primary_subset"] == "official"
    predictions = files.read_table(made.report_dir / "predictions.csv")
    assert predictions["image"].is_unique
    # ISIC_0035068 weighs zero
    assert found["subsets"]["official"]["n"] == (predictions["subset"] == "official").sum() - 1
    submission = files.read_table(made.report_dir / "submission.csv")
    assert (
        "ISIC_0035068" in set(submission["image"])
        and len(submission) == (predictions["subset"] == "official").sum()
    )
