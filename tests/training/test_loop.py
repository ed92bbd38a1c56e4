import contextlib
import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from test_bad_input import Evil

from dermai_utils import config, files, pipeline
from dermai_utils.config import UserError
from dermai_utils.data import split
from dermai_utils.training import augment, checkpoint, inference, loop, model


def equal(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_the_same_seed_repeats_a_run_and_another_does_not(fresh, weights_of):
    first, again, other = fresh(run_name="a"), fresh(run_name="b"), fresh(run_name="c", seed=1)
    for cfg in (first, again, other):
        loop.run(cfg)
    assert equal(weights_of(first), weights_of(again))
    assert not equal(weights_of(first), weights_of(other))
    scores = [
        pd.read_csv(cfg.run_dir / "history.csv").drop(columns=["seconds", "images_per_second"])
        for cfg in (first, again)
    ]
    pd.testing.assert_frame_equal(*scores)


SETTINGS = [
    dict(imbalance="none"),
    dict(imbalance="class_weights"),
    dict(imbalance="sampler", drw=False),
    dict(schedule="constant"),
    dict(imbalance="logit_adjustment", first_size=16),
    dict(imbalance="class_weights", ema=0.0),
    dict(freeze="backbone", head_rate=300.0, epochs=12),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_learns(fresh, settings):
    cfg = fresh(**(dict(epochs=6, augment=False, learning_rate=2e-3) | settings))
    loop.run(cfg)
    history = files.read_table(cfg.run_dir / "history.csv")
    assert history["loss"].iloc[-1] < 0.7 * history["loss"].iloc[0]


@pytest.mark.parametrize(
    "freeze, still", [("none", []), ("early", ["conv1", "bn1", "layer1"]), ("backbone", None)]
)
def test_frozen_layers_stay_as_they_are_batch_statistics_too(fresh, weights_of, freeze, still):
    cfg = fresh(backbone="resnet18", freeze=freeze, epochs=1, ema=0.0)
    before = model.build("resnet18", "none", cfg.image_size, cfg.seed).state_dict()
    loop.run(cfg)
    same = {key for key, value in weights_of(cfg).items() if torch.equal(value, before[key])}
    still = [name for name in before if name.split(".")[0] != "fc"] if still is None else still
    assert same == {key for key in before if any(key.startswith(name) for name in still)}


def test_the_averaged_weights_of_the_last_epoch_are_kept(fresh):
    cfg = fresh(epochs=4)
    loop.run(cfg)
    history = files.read_table(cfg.run_dir / "history.csv")
    about = checkpoint.load(cfg.run_dir / "best.pt")["about"]
    assert about["metrics"]["epoch"] == 4
    table = split.read(cfg)
    val = table[table["subset"] == "val"]
    predicted = inference.LoadedRun(cfg).logits(val["row"].to_numpy()).argmax(1)
    truth = val["label"].map(config.CLASSES.index).to_numpy()
    recalls = [(predicted[truth == k] == k).mean() for k in np.unique(truth)]
    assert np.mean(recalls) == pytest.approx(history["balanced_accuracy"].iloc[-1])


@pytest.mark.parametrize("steps", [1, 3, 5, 6, 8])  # 5 steps an epoch
def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(fresh, stop, state_of, steps):
    whole, stopped = fresh(run_name="whole"), fresh(run_name="stopped")
    loop.run(whole)
    stop(stopped, steps)
    state = checkpoint.load(stopped.run_dir / "last.pt")
    assert 5 * state["epoch"] + state["step"] == steps  # nothing that was done is lost
    loop.run(stopped)
    a, b = state_of(whole), state_of(stopped)
    assert equal(a["model"], b["model"]) and torch.equal(a["rng"], b["rng"])
    assert a["average"] and equal(a["average"], b["average"])
    assert equal(a["optimizer"]["state"][0], b["optimizer"]["state"][0])
    timeless = [
        [{k: v for k, v in row.items() if "second" not in k} for row in state["history"]]
        for state in (a, b)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_that_is_stopped_while_it_validates_ends_after_that(fresh, monkeypatch, epoch):
    plain, cfg = loop.Run._validation_scores, fresh()

    def stopped(self, net):
        if self.epoch + 1 == epoch:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, net)

    monkeypatch.setattr(loop.Run, "_validation_scores", stopped)
    with pytest.raises(loop.Interrupted, match=f"stopped after epoch {epoch}; run it again"):
        loop.run(cfg)
    assert checkpoint.load(cfg.run_dir / "last.pt")["epoch"] == epoch


def test_a_broken_checkpoint_falls_back_to_the_one_before(fresh, stop, weights_of, capsys):
    whole, broken = fresh(run_name="whole", epochs=3), fresh(run_name="broken", epochs=3)
    loop.run(whole)
    stop(broken, 11)
    last = broken.run_dir / "last.pt"
    last.write_bytes(last.read_bytes()[:-100])
    loop.run(broken)
    said = capsys.readouterr().out
    assert "last.pt is broken" in said and "going on from epoch 3, step 1" in said
    assert equal(weights_of(whole), weights_of(broken))


def test_where_both_checkpoints_are_broken_it_says_that_it_starts_over(
    fresh, stop, weights_of, capsys
):
    whole, broken = fresh(run_name="whole"), fresh(run_name="broken")
    loop.run(whole)
    stop(broken, 5)
    for name in ("last.pt", "last.previous.pt"):
        (broken.run_dir / name).write_bytes(b"")
    loop.run(broken)
    assert "no checkpoint can be read: starting from the first epoch" in capsys.readouterr().out
    assert equal(weights_of(whole), weights_of(broken))


def test_code_in_a_checkpoint_is_never_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    checkpoint.save(tmp_path / "x.pt", {"model": Evil()})
    with pytest.raises(ValueError, match="holds no checkpoint"):
        checkpoint.load(tmp_path / "x.pt")
    assert not (tmp_path / "evil").exists()


def test_a_checkpoint_that_is_not_on_the_disk_leaves_the_one_before(tmp_path, monkeypatch):
    def power_cut(_):
        raise KeyboardInterrupt

    checkpoint.save(tmp_path / "x.pt", {"model": torch.zeros(2)})
    before = (tmp_path / "x.pt").read_bytes()
    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "x.pt", {"model": torch.ones(2)})
    assert (tmp_path / "x.pt").read_bytes() == before and [
        path.name for path in tmp_path.iterdir()
    ] == ["x.pt"]


def test_one_flipped_bit_is_noticed(fresh, tmp_path):
    checkpoint.save(tmp_path / "x.pt", {"model": torch.zeros(100)})
    data = bytearray((tmp_path / "x.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        checkpoint.load(tmp_path / "x.pt")


def test_an_unfinished_run_of_a_version_without_a_setting_goes_on(fresh, stop, capsys):
    cfg = fresh()
    stop(cfg, 2)
    state = checkpoint.load(cfg.run_dir / "last.pt")
    del state["settings"]["train_fraction"]
    checkpoint.save(cfg.run_dir / "last.pt", state)
    loop.run(cfg)
    assert "going on from epoch 1, step 3" in capsys.readouterr().out


def test_an_unfinished_run_goes_on_after_its_data_was_moved(fresh, stop, capsys):
    """The checksums of table and split tell whether it is the same."""
    stop(fresh(data="/before/ham"), 2)
    cfg = fresh(data="/now/ham")
    loop.run(cfg)
    assert "going on from epoch 1, step 3" in capsys.readouterr().out
    assert files.read_json(cfg.run_dir / "config.json")["data"] == "/now/ham"


def test_an_unfinished_run_refuses_other_settings_and_names_them(fresh, stop):
    cfg = fresh()
    stop(cfg, 2)
    before = (cfg.run_dir / "last.pt").read_bytes()
    with pytest.raises(UserError, match="learning_rate was 0.006, is 0.5"):
        loop.run(fresh(learning_rate=0.5))
    cfg = fresh()
    subsets = files.read_table(cfg.split_file)
    subsets.loc[subsets["subset"].eq("val").idxmax(), "subset"] = "train"
    files.write_table(subsets, cfg.split_file)
    with pytest.raises(UserError, match="other settings .split file was .*, is .*another run_name"):
        loop.run(cfg)
    assert (cfg.run_dir / "last.pt").read_bytes() == before


def test_no_setting_that_training_depends_on_is_free_to_change():
    """But the precision: an unfinished run moves to another one, and says so."""
    assert set(loop.FREE_TO_CHANGE) & set(pipeline.STAGES["train"].fields) == {"precision"}


def test_a_checkpoint_is_due_after_some_minutes(fresh, monkeypatch):
    saved = []
    plain = loop.Run.save
    monkeypatch.setattr(
        loop.Run,
        "save",
        lambda self, name: (saved.append((self.epoch, self.step)), plain(self, name))[1],
    )
    loop.run(fresh(checkpoint_minutes=0, epochs=1))
    assert len(saved) > 2 and saved[-1] == (1, 0) and (0, 1) in saved


def test_precision_goes_by_what_is_fast(monkeypatch):
    for capability, expected in (
        ((9, 0), "bf16"),
        ((8, 0), "bf16"),
        ((7, 5), "fp16"),
        ((6, 1), "fp32"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert inference.choose_precision("cuda")[0] == expected
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert inference.choose_precision("cpu")[0] == "fp32"
    assert inference.choose_precision("cpu", "bf16")[0] == "bf16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_one_line(fresh):
    with pytest.raises(UserError, match="no CUDA GPU"):
        loop.run(fresh(device="cuda"))


def drive_away(monkeypatch, code, calls):
    """Delivery number k to run_dir fails with `code` where `calls(k)`, as Drive's do when it is
    gone or full."""
    plain, count = files._move, [0]

    def move(path, target):
        count[0] += 1
        if calls(count[0]):
            raise OSError(code, os.strerror(code))
        plain(path, target)

    monkeypatch.setattr(files, "_move", move)


@pytest.mark.parametrize(
    "code", [errno.EIO, errno.ENOTCONN, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get
)
def test_a_drive_that_goes_away_for_a_while_costs_nothing(
    fresh, weights_of, monkeypatch, capsys, code
):
    whole, broken = fresh(run_name="whole"), fresh(run_name="broken")
    loop.run(whole)
    capsys.readouterr()
    drive_away(monkeypatch, code, lambda k: k == 2)  # the first is config.json
    loop.run(broken)
    told = [line for line in capsys.readouterr().out.splitlines() if "takes no files" in line]
    assert len(told) == 1 and os.strerror(code) in told[0] and str(broken.pending_dir) in told[0]
    assert {p.name for p in broken.run_dir.iterdir()} >= {
        "best.pt",
        "last.pt",
        "history.csv",
        "config.json",
    }
    assert not list(broken.pending_dir.iterdir()) and equal(weights_of(whole), weights_of(broken))


def test_a_drive_that_stays_away_is_told_at_the_end_and_the_next_run_brings_the_files(
    fresh, weights_of, monkeypatch, capsys
):
    whole, lost = fresh(run_name="whole"), fresh(run_name="lost")
    loop.run(whole)
    with monkeypatch.context() as patch:
        drive_away(patch, errno.ENOTCONN, lambda k: k > 1)
        with pytest.raises(UserError, match="takes no files") as caught:
            loop.run(lost)
    assert str(lost.pending_dir) in str(caught.value) and "run this again" in str(caught.value)
    assert not (lost.run_dir / "best.pt").exists()
    loop.run(lost)  # nothing is left to train
    assert capsys.readouterr().out.count("epoch 2/2") == 2
    assert equal(weights_of(whole), weights_of(lost)) and (lost.run_dir / "best.pt").exists()


@pytest.mark.parametrize("back", [True, False], ids=["comes back", "stays away"])
def test_a_work_dir_that_is_unmounted_while_training(fresh, weights_of, monkeypatch, capsys, back):
    """With all that lies in it, the split too; and nothing is made anew where it was, on the
    machine's own disk."""
    cfg = fresh(epochs=3)
    drive, away = cfg.work, cfg.work.with_name("unmounted")
    plain = loop.Run.validate

    def unmount(self):
        if self.epoch == 0:
            drive.rename(away)
        if self.epoch == 2 and back:
            away.rename(drive)
        plain(self)

    with (
        monkeypatch.context() as patch,
        contextlib.nullcontext() if back else pytest.raises(UserError, match="they wait in"),
    ):
        patch.setattr(loop.Run, "validate", unmount)
        loop.run(cfg)
    assert capsys.readouterr().out.count("takes no files") == (2 if back else 3)
    if not back:
        assert not drive.exists()
        away.rename(drive)
        loop.run(cfg)
    assert not list(cfg.pending_dir.iterdir())
    whole = fresh(run_name="whole", epochs=3)
    loop.run(whole)
    assert equal(weights_of(whole), weights_of(cfg))


@pytest.mark.parametrize("read_only", [False, True], ids=["a file in its place", "read-only"])
def test_a_run_folder_that_takes_nothing_is_told_before_training(fresh, monkeypatch, read_only):
    cfg = fresh()
    if read_only:
        drive_away(monkeypatch, errno.EROFS, lambda k: True)
    else:
        (cfg.work / "runs").mkdir()
        cfg.run_dir.write_text("in the way")
    monkeypatch.setattr(loop.Run, "train_epoch", lambda *_: pytest.fail("trained"))
    with pytest.raises(UserError, match="takes no files"):
        loop.run(cfg)
    assert not list(cfg.run_dir.iterdir()) if read_only else cfg.run_dir.read_text() == "in the way"


def test_first_images_too_small_for_the_backbone_are_one_line(fresh):
    with pytest.raises(UserError, match="takes no images of 32 px"):
        loop.run(fresh(backbone="alexnet", image_size=64, first_size=32))


def test_too_few_images_are_one_line(fresh):
    cfg = fresh()
    files.write_table(files.read_table(cfg.split_file).assign(subset="train"), cfg.split_file)
    with pytest.raises(UserError, match="0 for validation are too few"):
        loop.run(cfg)


def test_the_draws_do_not_depend_on_how_many_share_a_batch():
    images = np.random.default_rng(0).integers(0, 256, (8, 75, 100, 3), np.uint8)
    batches = augment.Batches(images, 32, (0, 0, 0), (1, 1, 1), "cpu", 1)
    whole = batches(np.arange(8), (0, 0, 0))
    halves = [batches(np.arange(8), (0, 0, 0), mine) for mine in (slice(0, 4), slice(4, 8))]
    assert torch.equal(whole, torch.cat(halves))


@pytest.mark.parametrize(
    "backbone, tolerance", [("timm:test_vit", 1e-5), ("timm:test_resnet", 0.1)]
)
def test_two_processes_give_the_metrics_of_one(made, small, tmp_path, backbone, tolerance):
    """Equal but for rounding without batch normalisation; with it, each process has its own
    statistics (half the images)."""
    histories = []
    for processes in (1, 2):
        work = tmp_path / str(processes)
        given = small | {
            "backbone": backbone,
            "image_size": 64,
            "batch_size": 31,  # one process has 15, the other 16
            "epochs": 1,
            "learning_rate": 1e-3,
        }
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        # What `accelerate launch` starts on several GPUs; on CPUs alone it would want MPI.
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        folders = [f"--cache-dir={tmp_path / 'cache'}", f"--work-dir={work}"]
        command = [sys.executable, *launch, "-m", "dermai_utils", "train", *flags, *folders]
        done = subprocess.run(command, cwd=config.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("2 processes" in done.stdout) == (processes == 2)
        histories.append(pd.read_csv(work / "runs" / "baseline" / "history.csv"))
    one, two = (
        history[["loss", "val_loss", "balanced_accuracy", "macro_auc"]].to_numpy()
        for history in histories
    )
    np.testing.assert_allclose(one, two, atol=tolerance)
