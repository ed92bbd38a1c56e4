"""How a training stops and goes on: its files, its random numbers, and the signal that stops it."""

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
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from dermai_utils import __version__, files, source
from dermai_utils.basics import UserError, counted
from dermai_utils.runs import load_checkpoint, save_checkpoint, stored_table

NUMBERS = ("epoch", "batch", "seconds", "history_rows")  # of a training: plain Python
LAST, PREVIOUS, BEST, DONE = "last.pt", "last.previous.pt", "best.pt", "predictions.csv"


def accelerator(run) -> Accelerator:
    """accelerate's handle on the device or devices, with the run's precision."""
    if "RANK" not in os.environ:  # a notebook may come back with another precision
        AcceleratorState._reset_state(reset_partial_state=True)
    tracker = None if run.options.tracker == "none" else run.options.tracker
    mixed = "no" if run.precision == "fp32" else run.precision
    options = dict(cpu=run.device.type == "cpu", mixed_precision=mixed, log_with=tracker)
    made = Accelerator(**options, project_dir=str(run.folder))
    made.init_trackers("tensorboard")  # the folder's name
    run.machine = f"{made.device.type} {run.precision}, {made.num_processes} processes"
    return made


# The folder.


def claim(run, stack) -> None:
    """Make the folder this training's until `stack` ends: begun now, or with the same settings."""
    stack.enter_context(files.disk_errors(run.folder))
    run.folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(files.locked(run.folder))
    files.sweep(run.folder)
    if before := files.read_json(run.folder / "settings.json"):
        return source.check_same(run, before)
    if trained := getattr(run._given, "trained_in", ""):
        raise UserError(
            f"this network was trained in {trained}: a new run needs a new one; build it again, "
            "for example net = dermai.network(...)"
        )
    shutil.rmtree(scratch(run), ignore_errors=True)  # left by a run whose folder was deleted
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU"
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else machine
    run.settings |= {"version": __version__, "date": time.strftime("%F"), "machine": machine}
    files.write_table(stored_table(run.dataset, run.subset), run.folder / "table.csv")
    files.write_json(run.folder / "settings.json", run.settings)


def scratch(run) -> Path:
    """A folder on this machine's own disk, for checkpoints that the run's folder refuses."""
    name = files.fingerprint(str(run.folder.absolute()))
    return Path(tempfile.gettempdir()) / "dermai-checkpoints" / name


# Saving and restoring.


def check_loss(run) -> None:
    """UserError where the loss became infinite or no number, before anything is written."""
    if not torch.isfinite(run.total):
        raise UserError(
            f"the loss is {run.total.item()} after step {run.batches_done}: this run cannot go on; "
            "start another with a lower learning rate (--run-name NAME --learning-rate "
            f"{run.options.learning_rate / 5:.0e}) or with --precision fp32"
        )


def _holders(run) -> dict:
    """The objects whose state goes into a checkpoint."""
    found = {"model": run.inside, "average": run.averaged, "schedule": run.schedule}
    found |= {"scaler": run.accelerator.scaler} if run.accelerator.scaler else {}
    return found | {"optimizer": run.optimizer}


def save(run) -> None:
    """Everything that the next batch depends on; the checkpoint before this one stays beside it.

    A disk that refuses (Drive: errno 5, 107, quota) stops no training: then the checkpoint lies on
    this machine's own disk, and the next one tries again.
    """
    check_loss(run)
    run.saved = time.monotonic()
    if not run.accelerator.is_main_process:
        return
    state = {name: holder.state_dict() for name, holder in _holders(run).items()}
    state |= {name: getattr(run, name) for name in NUMBERS}
    state |= {"total": run.total.item(), "machine": run.machine}
    try:
        if (run.folder / LAST).exists():
            os.replace(run.folder / LAST, run.folder / PREVIOUS)
        save_checkpoint(run.folder / LAST, state)
        _write_history(run)
        shutil.rmtree(scratch(run), ignore_errors=True)
    except OSError as reason:
        save_checkpoint(scratch(run) / LAST, state)
        tqdm.write(
            f"train: {run.folder} takes no files ({reason.strerror}); the checkpoint waits in "
            f"{scratch(run)}, training goes on and the next checkpoint tries again"
        )


def _write_history(run):
    if run.history_rows:
        files.write_table(pd.DataFrame(run.history_rows), run.folder / "history.csv")


def restore(run) -> None:
    """Go on from the newest whole checkpoint; without one, keep the state of now as the first."""
    say, states = run.accelerator.print, []
    run.accelerator.wait_for_everyone()
    run._given.trained_in = str(run.folder)
    if (run.folder / DONE).exists():
        run.epoch = run.options.epochs
        return say(f"train: already done: {counted(run.epoch, 'epoch')}")
    for path in _checkpoints(run):
        try:
            states += [load_checkpoint(path)] if path.exists() else []
        except UserError as reason:
            say(f"train: {reason}")
    if not states:
        return save(run)
    state = max(states, key=lambda state: (state["epoch"], state["batch"]))
    run.saved = time.monotonic()
    for name in NUMBERS:
        setattr(run, name, state[name])
    run.total.fill_(state["total"])
    groups = zip(state["optimizer"]["param_groups"], run.optimizer.param_groups, strict=True)
    for old, own in groups:  # the way of computing is the device's, not the checkpoint's
        old["fused"] = own.get("fused")
    for name, holder in _holders(run).items():
        if state.get(name):  # a loss scaler may be new, and its scale then begins anew
            holder.load_state_dict(state[name])
    run.bar.update(run.batches_done * run.mix.batch)
    moved = f" ({state['machine']} before, {run.machine} now: the same batches, other rounding)"
    moved = moved if state["machine"] != run.machine else ""
    say(f"train: going on from epoch {run.epoch + 1}, step {run.batch + 1}{moved}")


def _checkpoints(run):
    return run.folder / LAST, run.folder / PREVIOUS, scratch(run) / LAST


def finish(run) -> None:
    """Leave best.pt, the history and the predictions of every held-out image; the run is whole."""
    main = run.accelerator.is_main_process
    if not (run.folder / DONE).exists():
        run.networks = [run.averaged.eval()]
        if main:
            with files.disk_errors(run.folder):
                save_checkpoint(run.folder / BEST, {"model": run.averaged.state_dict()})
                _write_history(run)
                files.write_table(run.predict(run.dataset), run.folder / DONE)
    for path in _checkpoints(run) if main else ():
        path.unlink(missing_ok=True)
    run.accelerator.wait_for_everyone()
    run.accelerator.end_training()
    run.net = run.networks[0]


# Random numbers.


def keep_generators(device, stack) -> None:
    """Put Python's, numpy's and torch's random generators back when `stack` ends."""
    stack.callback(random.setstate, random.getstate())
    stack.callback(np.random.set_state, np.random.get_state())
    devices = [] if device.type == "cpu" else [device]  # the CPU's is always kept
    stack.enter_context(torch.random.fork_rng(devices, device_type=device.type))


def seed(key) -> None:
    """Seed them all by key (seed, epoch, batch)."""
    # a stream of its own: without `spawn_key`, (seed, epoch, 0) is that of the sampler
    set_seed(int(np.random.SeedSequence(key, spawn_key=(0,)).generate_state(1)[0]))


# Stopping by hand.


def stop_after_batch(stack) -> threading.Event:
    """Until `stack` ends, Ctrl-C and the notebook's stop button set this flag, which is read after
    each batch. A second one stops at once."""
    flag, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def on_signal(*_):
        flag.set()
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is threading.main_thread():  # no other one gets a signal
        signal.signal(signal.SIGINT, on_signal)
        stack.callback(signal.signal, signal.SIGINT, before)
    return flag
