"""How a training stops and goes on: its files, its random numbers, and the signal that stops it."""

import contextlib
import os
import platform
import random
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tqdm.auto import tqdm

from dermai_utils import __version__, files, source
from dermai_utils.basics import UserError
from dermai_utils.runs import load_checkpoint, save_checkpoint, stored_table

NUMBERS = ("epoch", "batch", "seconds", "history_rows")  # of a training: plain Python
LAST, PREVIOUS, BEST, DONE = "last.pt", "last.previous.pt", "best.pt", "predictions.csv"


def accelerator(run) -> Accelerator:
    """accelerate's handle on the device or devices, with the run's precision."""
    if "RANK" not in os.environ:  # a notebook may come back with another precision
        AcceleratorState._reset_state(reset_partial_state=True)
    mixed = {"fp32": "no"}.get(run.precision, run.precision)
    options = {"cpu": run.device.type == "cpu", "mixed_precision": mixed}
    tracker = run.options.tracker
    options |= {"log_with": None if tracker == "none" else tracker, "project_dir": str(run.folder)}
    try:
        made = Accelerator(**options)
    except (ValueError, ImportError) as reason:
        raise UserError(f"tracker={tracker}: {str(reason).splitlines()[0]}") from None
    if run.mix.batch < made.num_processes:
        raise UserError(f"{made.num_processes} processes cannot share batches of {run.mix.batch}")
    made.init_trackers("tensorboard")  # the folder's name
    return made


# The folder.


@contextlib.contextmanager
def claimed(run):
    """While it lasts, the folder is this training's: begun now, or begun with the same settings."""
    if not run.accelerator.is_main_process:
        yield
        return
    with files.disk_errors(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
        with files.locked(run.folder):
            files.sweep(run.folder)
            _begin(run)
            yield


def _begin(run):
    before = files.read_json(run.folder / "settings.json")
    if before and before.get("folds"):
        raise UserError(f"{run.folder} holds a run of folds; give another --run-name")
    if before:
        return source.check_same(run, before)
    if trained := getattr(run._given, "trained_in", ""):
        raise UserError(
            f"this network was trained in {trained}: a new run needs a new one; build it again, "
            "for example net = dermai.network(...)"
        )
    shutil.rmtree(scratch(run), ignore_errors=True)  # left by a run whose folder was deleted
    made = {"version": __version__, "date": time.strftime("%F"), "machine": machine_name()}
    files.write_table(stored_table(run.dataset, run.subset), run.folder / "table.csv")
    run.settings |= made
    files.write_json(run.folder / "settings.json", run.settings)


def machine_name() -> str:
    """The GPU, or the processor and its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {os.cpu_count()} cores, no GPU"


def scratch(run) -> Path:
    """A folder on this machine's own disk, for checkpoints that the run's folder refuses."""
    name = files.fingerprint(str(run.folder.absolute()))
    return Path(tempfile.gettempdir()) / "dermai-checkpoints" / name


# Saving and restoring.


def check_loss(run) -> None:
    """UserError where the loss became infinite or no number, before anything is written."""
    if not torch.isfinite(run.total):
        raise UserError(
            f"the loss is {run.total.item()} in epoch {run.epoch + 1}: this run cannot go on; "
            "start another with a lower learning rate (--run-name NAME --learning-rate "
            f"{run.options.learning_rate / 5:.0e}) or with --precision fp32"
        )


def save(run) -> None:
    """Everything that the next batch depends on; the checkpoint before this one stays beside it.

    A disk that refuses (Drive: errno 5, 107, quota) stops no training: then the checkpoint lies on
    this machine's own disk, and the next one tries again.
    """
    check_loss(run)
    if not run.accelerator.is_main_process:
        return
    scaler = run.accelerator.scaler
    state = {
        "model": run.inside.state_dict(),
        "average": run.averaged.state_dict() if run.averaged else {},
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "scaler": scaler.state_dict() if scaler else {},
        "total": run.total,
        "generators": _states(run.device),
        "machine": _machine(run),
        **{name: getattr(run, name) for name in NUMBERS},
    }
    try:
        if (run.folder / LAST).exists():
            os.replace(run.folder / LAST, run.folder / PREVIOUS)
        save_checkpoint(run.folder / LAST, state)
        if run.history_rows:
            files.write_table(pd.DataFrame(run.history_rows), run.folder / "history.csv")
        shutil.rmtree(scratch(run), ignore_errors=True)
    except OSError as reason:
        save_checkpoint(scratch(run) / LAST, state)
        tqdm.write(
            f"train: {run.folder} takes no files ({reason.strerror}); the checkpoint waits in "
            f"{scratch(run)}, training goes on and the next checkpoint tries again"
        )


def restore(run) -> None:
    """Go on from the newest whole checkpoint; without one, keep the state of now as the first."""
    o, say = run.options, run.accelerator.print
    run.accelerator.wait_for_everyone()
    run._given.trained_in = str(run.folder)
    if (run.folder / DONE).exists():
        run.epoch = o.epochs
        say(f"train: all {o.epochs} epochs are done")
        return
    places = (run.folder / LAST, run.folder / PREVIOUS, scratch(run) / LAST)
    states = []
    for path in filter(Path.exists, places):
        try:
            states.append(load_checkpoint(path))
        except UserError as reason:
            say(f"train: {reason}")
    if not states:
        torch.manual_seed(o.seed)
        save(run)
        return
    _go_on(run, max(states, key=lambda state: (state["epoch"], state["batch"])))


def _go_on(run, state):
    for name in NUMBERS:
        setattr(run, name, state[name])
    run.inside.load_state_dict(state["model"])
    if run.averaged:
        run.averaged.load_state_dict(state["average"])
    groups = zip(state["optimizer"]["param_groups"], run.optimizer.param_groups, strict=True)
    # the way of computing is the device's, not the checkpoint's
    groups = [old | {k: own[k] for k in ("fused",) if k in own} for old, own in groups]
    run.optimizer.load_state_dict(state["optimizer"] | {"param_groups": groups})
    run.schedule.load_state_dict(state["schedule"])
    if run.accelerator.scaler and state["scaler"]:  # else its scale begins anew
        run.accelerator.scaler.load_state_dict(state["scaler"])
    run.total = state["total"].to(run.device)
    _set_states(state["generators"], run.device)
    run.bar.update(run.batches_done * run.mix.batch)
    before, now = state["machine"], _machine(run)
    moved = f" ({before} before, {now} now: the same batches, other rounding)"
    run.accelerator.print(
        f"train: going on from epoch {run.epoch + 1}, step {run.batch + 1}"
        f"{moved if before != now else ''}"
    )


def _machine(run):
    n = run.accelerator.num_processes
    return f"{run.device.type} {run.precision}" + (f" x {n} processes" if n > 1 else "")


def finish(run) -> None:
    """Leave best.pt, the history and the predictions of every held-out image; the run is whole."""
    if not (run.folder / DONE).exists():
        run.networks = [(run.averaged or run.inside).eval()]
        if run.accelerator.is_main_process:
            with files.disk_errors(run.folder):
                about = {k: run.settings.get(k) for k in ("backbone", "size")}
                state = {"model": run.net_state(), "about": about}
                save_checkpoint(run.folder / BEST, state)
                if run.history_rows:
                    files.write_table(pd.DataFrame(run.history_rows), run.folder / "history.csv")
                files.write_table(run.predict(run.dataset), run.folder / DONE)
    if run.accelerator.is_main_process:
        for path in (run.folder / LAST, run.folder / PREVIOUS, scratch(run) / LAST):
            path.unlink(missing_ok=True)
    run.accelerator.wait_for_everyone()
    run.accelerator.end_training()
    run.net = run.networks[0]


# Random numbers.


def _generators(device):
    """The modules that hold torch's generators: the CPU's, and that of the device in use."""
    own = {} if device.type == "cpu" else {device.type: getattr(torch, device.type)}
    return {"cpu": torch} | own


def _states(device):
    return {name: module.get_rng_state() for name, module in _generators(device).items()}


def _set_states(states, device):
    """The device's own generator stays as it is where another kind of device left the states."""
    for name, module in _generators(device).items():
        if name in states:
            module.set_rng_state(states[name])


@contextlib.contextmanager
def generators_kept(device):
    """Put Python's, numpy's and torch's random generators back at the end."""
    python, array = random.getstate(), np.random.get_state()
    tensors = _states(device)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        _set_states(tensors, device)


@contextlib.contextmanager
def seeded(key, device):
    """Seed them all by key (seed, epoch, batch), and put them back at the end."""
    # a stream of its own: without `spawn_key`, (seed, epoch, 0) is that of the sampler
    seed = int(np.random.SeedSequence(key, spawn_key=(0,)).generate_state(1)[0])
    with generators_kept(device):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield


# Stopping by hand.


@contextlib.contextmanager
def stop_after_batch():
    """Ctrl-C and the notebook's stop button set a flag that is read after each batch.

    A second one stops at once.
    """
    flag = threading.Event()

    def on_signal(*_):
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    main = threading.current_thread() is threading.main_thread()  # no other one gets a signal
    before = signal.signal(signal.SIGINT, on_signal) if main else None
    try:
        yield flag
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
