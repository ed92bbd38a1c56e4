"""A run that goes on elsewhere: under another precision, on another device, on fewer of them."""

import itertools
import types
import warnings

import pytest
import torch

from dermai_utils import config, files
from dermai_utils.training import checkpoint, inference, loop, model, optim


@pytest.fixture
def scaled(monkeypatch):
    """scaled(**options): from now on as on a GPU in fp16, of which accelerate makes the scaler;
    scaled(): no longer."""
    plain = inference.start

    def turn(**options):
        def start(cfg):
            accelerator = plain(cfg)
            if options:
                accelerator.scaler = torch.amp.GradScaler("cpu", **options)
                accelerator.state._mixed_precision = "fp16"
            return accelerator

        monkeypatch.setattr(inference, "start", start)

    return turn


STEPS = 5  # an epoch
SCALES = dict(init_scale=2.0, growth_interval=3)  # doubled every third step
MACHINES = {
    "fp32": (dict(precision="fp32"), {}),
    "bf16": (dict(precision="bf16"), {}),
    "fp16": (dict(precision="auto"), SCALES),
}


@pytest.mark.parametrize("before, after", [*itertools.permutations(MACHINES, 2), ("fp32", "fp32")])
def test_a_run_goes_on_in_any_precision_and_says_what_changed(
    fresh, stop, state_of, scaled, capsys, before, after
):
    settings, options = MACHINES[before]
    scaled(**options)
    stop(fresh(**settings), 3)
    settings, options = MACHINES[after]
    scaled(**options)
    capsys.readouterr()
    loop.run(fresh(**settings))
    line = next(x for x in capsys.readouterr().out.splitlines() if "going on" in x)
    changed = f"(cpu {before} before, cpu {after} now: the same batches"
    assert changed in line if before != after else line.endswith("epoch 1, step 4")
    state = state_of(fresh())
    assert state["schedule"]["last_epoch"] == 2 * STEPS and len(state["history"]) == 2
    assert all(torch.isfinite(x).all() for x in state["average"].values())
    # a step computed as on the device that it goes on on: fused where no scaler asks for more
    assert {group["fused"] for group in state["optimizer"]["param_groups"]} == {after != "fp16"}
    steps_of_fp16 = 2 * STEPS - (0 if before == "fp16" else 3)
    assert state["scaler"].get("scale") == (2.0 * 2 ** (steps_of_fp16 // 3) if options else None)


def test_the_scaler_of_half_precision_goes_on_as_it_was(fresh, stop, state_of, scaled):
    scaled(**SCALES)
    whole, stopped = fresh(run_name="whole"), fresh(run_name="stopped")
    loop.run(whole)
    stop(stopped, 5)
    loop.run(stopped)
    a, b = (state_of(cfg)["scaler"] for cfg in (whole, stopped))
    assert a == b and a["scale"] == 2.0 * 2 ** (2 * STEPS // 3)


def test_a_checkpoint_of_a_version_that_kept_the_states_of_two_gpus(fresh, stop, capsys):
    """And no word of the machine: what changed is not known, which the line says."""
    cfg = fresh()
    stop(cfg, 3)
    state = checkpoint.load(cfg.run_dir / "last.pt")
    del state["machine"], state["device_rng"]
    state["cuda_rng"] = [torch.zeros(16, dtype=torch.uint8)] * 2
    checkpoint.save(cfg.run_dir / "last.pt", state)
    loop.run(cfg)
    line = "going on from epoch 1, step 4 (cpu fp32; on what before is not known)"
    assert line in capsys.readouterr().out


STATES = {
    "cpu": {},
    "cuda": {"device_rng": {"cuda": "one"}},
    "two GPUs of version 0.1.0": {"cuda_rng": ["one", "two"]},
    "mps": {"device_rng": {"mps": "one"}},
}


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("left_by", STATES)
def test_random_numbers_go_on_on_the_same_kind_of_device_alone(monkeypatch, left_by, device):
    drawn = {}
    for kind in ("cuda", "mps"):
        monkeypatch.setattr(getattr(torch, kind), "get_rng_state", lambda kind=kind: f"of {kind}")
        monkeypatch.setattr(
            getattr(torch, kind), "set_rng_state", lambda s, kind=kind: drawn.update({kind: s})
        )
    own = checkpoint.random_state(torch.device(device))
    assert own["device_rng"] == ({} if device == "cpu" else {device: f"of {device}"})
    state = {"rng": torch.get_rng_state()} | STATES[left_by]
    checkpoint.set_random_state(state, torch.device(device))
    same = device == left_by != "cpu" or (device == "cuda" and "two" in left_by)
    assert drawn == ({device: "one"} if same else {})


def test_what_changed_in_words():
    accelerator = types.SimpleNamespace(
        device=torch.device("cuda"), mixed_precision="fp16", num_processes=2
    )
    two, one = checkpoint.machine(accelerator), dict(device="mps", precision="fp32", processes=1)
    assert "cuda fp16 x 2 processes before, mps fp32 now" in checkpoint.moved(two, one)
    assert checkpoint.moved(one, one) == ""


def test_a_step_that_the_scaler_skips_is_none_of_the_schedule_and_nothing_is_warned_of(
    fresh, scaled, state_of, monkeypatch
):
    plain = optim.Loss.__call__
    monkeypatch.setattr(optim.Loss, "__call__", lambda *given: 100 * plain(*given))
    scaled(init_scale=2.0**127, growth_interval=1000)  # overflows until it is halved often enough
    cfg = fresh(epochs=5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*optimizer.step")
        loop.run(cfg)
    state = state_of(cfg)
    skipped = 127 - torch.tensor(state["scaler"]["scale"]).log2().item()
    assert skipped >= 1 and state["schedule"]["last_epoch"] == 5 * STEPS - skipped
    assert state["optimizer"]["state"][0]["step"] == 5 * STEPS - skipped


def test_half_precision_on_a_cpu_is_said_to_be_what_it_is(fresh, capsys):
    accelerator = inference.start(fresh(precision="fp16"))
    line = capsys.readouterr().out
    assert "fp32 (fp16 was asked for" in line and "(as asked)" not in line
    with accelerator.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.float32


# What a finished run leaves.


def test_a_finished_run_keeps_what_predicting_and_further_training_need(fresh, capsys):
    cfg = fresh()
    loop.run(cfg)
    sizes = {path.name: path.stat().st_size for path in cfg.run_dir.iterdir()}
    assert sizes.keys() == {"best.pt", "config.json", "history.csv", "last.pt"}
    assert sizes["last.pt"] < 20_000 < sizes["best.pt"] and not list(cfg.pending_dir.iterdir())
    further = fresh(run_name="further", weights=str(cfg.run_dir / "best.pt"), epochs=1)
    network = model.build(further.backbone, further.weights, further.image_size)
    best = checkpoint.load(cfg.run_dir / "best.pt")["model"]
    assert all(torch.equal(value, best[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("left", ["the last checkpoint", "both", "the word that it is done"])
def test_a_run_killed_in_its_last_moments_only_has_to_say_so(fresh, monkeypatch, capsys, left):
    cfg = fresh()
    with monkeypatch.context() as patch:
        if left != "the word that it is done":
            patch.setattr(loop.Run, "finish", lambda self: None)
        loop.run(cfg)
    if left == "the last checkpoint":
        (cfg.run_dir / "last.previous.pt").unlink()
    before = (cfg.run_dir / "best.pt").read_bytes()
    monkeypatch.setattr(loop.Run, "train_epoch", lambda *_: pytest.fail("trained"))
    loop.run(cfg)
    assert "are kept, macro AUC" in capsys.readouterr().out.splitlines()[-1]
    assert (cfg.run_dir / "best.pt").read_bytes() == before
    assert {path.name for path in cfg.run_dir.glob("last*")} == {"last.pt"}


def test_a_finished_run_refuses_other_settings_too(fresh):
    cfg = fresh()
    loop.run(cfg)
    with pytest.raises(config.UserError, match="epochs was 2, is 3"):
        loop.run(fresh(epochs=3))
    assert len(files.read_table(cfg.run_dir / "history.csv")) == 2
