"""The training loop: one uint8 array, augmented on the device, checkpoints that a killed run goes on from."""

import contextlib
import ctypes
import dataclasses
import io
import math
import os
import pickle
import signal
import time

import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from tqdm.auto import tqdm

from dermai_utils import clean, evaluate, files, model, pixels, recipe, split
from dermai_utils.augment import Batches
from dermai_utils.config import CLASSES, DEFAULTS, UserError

RESIDENT_SHARE = 0.5  # of the GPU's free memory; the rest is for weights and activations
FREE_TO_CHANGE = (
    "cache_dir", "work_dir", "base_url", "workers", "checkpoint_minutes", "preset", "device", "views", "seeds", "ensemble",
    "masks",
)  # fmt: skip


class Interrupted(KeyboardInterrupt):
    """Training was stopped by hand; a checkpoint stands. In a notebook its one line is all that is shown."""

    def _render_traceback_(self):
        return [str(self)]


def choose_precision(device: str, wanted: str = "auto") -> tuple[str, str]:
    """(precision, the reason), by what the hardware is fast at, not by what it offers."""
    if wanted != "auto":
        return wanted, "as asked"
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        if major >= 8:
            return "bf16", f"compute capability {major}.{minor} is fast at it"
        return ("fp16", f"compute capability {major}.{minor} has no fast bf16") if major == 7 else ("fp32", "an older GPU")
    if device == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        return "bf16", "this CPU has AMX"
    return "fp32", "this CPU has no fast bf16" if device == "cpu" else "the safe choice on this device"


def quiet(text):
    """For `say`, where an earlier stage has said it already."""


def start(cfg, say=print) -> Accelerator:
    """accelerate's handle on the device(s), with the precision chosen and announced."""
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda: no CUDA GPU is visible; on Colab choose Runtime > Change runtime type > T4, or device=cpu"
        )
    if cfg.device == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps: no Apple GPU is visible; give device=auto or cpu")
    if "RANK" not in os.environ:  # a notebook may come back with another precision; accelerate would refuse it
        AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = cfg.device == "cpu"
    kind = PartialState(cpu=on_cpu).device.type
    precision, reason = choose_precision(kind, cfg.precision)
    accelerator = Accelerator(cpu=on_cpu, mixed_precision={"fp32": "no"}.get(precision, precision))
    if kind == "cpu":
        _keep_memory()
    together = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    if accelerator.is_main_process:
        say(f"train: {_device_name(kind)}{together}, {precision} ({reason})")
    return accelerator


def _keep_memory():
    """Have glibc keep freed memory: it gives large tensors back to the system, which clears every page anew at each step.

    Measured on 2 AVX2 cores, EfficientNet-Lite0 at 128 px, batches of 64: 29 -> 49 images/s in training.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to tune
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for a large block
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def _device_name(kind):
    return torch.cuda.get_device_name() if kind == "cuda" else f"{kind}, {torch.get_num_threads()} threads"


def place(array, device, say=print):
    """The pixel array as a tensor on the GPU where it fits in half of the free memory, else left where it is."""
    if torch.device(device).type != "cuda":
        say(f"train: images are read from the mapped file, {array.nbytes / 1e9:.2f} GB (no CUDA GPU to hold them)")
        return array
    free = torch.cuda.mem_get_info()[0]
    if array.nbytes > RESIDENT_SHARE * free:
        say(f"train: images stay on disk ({array.nbytes / 1e9:.1f} GB is over half of the GPU's free {free / 1e9:.1f} GB)")
        return array
    say(f"train: all images on the GPU as uint8 ({array.nbytes / 1e9:.1f} of {free / 1e9:.1f} GB free)")
    resident = torch.empty(array.shape, dtype=torch.uint8, device=device)
    for k in range(0, len(array), 1024):  # in pieces: the array may be larger than the machine's memory
        resident[k : k + 1024] = torch.from_numpy(array[k : k + 1024].copy())
    return resident


def evaluation_batch(batch: int, device) -> int:
    """Images at a time where no gradient is kept: four batches on a GPU; a CPU gains nothing by more, and has less to spare."""
    return batch if torch.device(device).type == "cpu" else 4 * batch


def batches_for(cfg, net, device, say=quiet) -> Batches:
    """Where evaluation and training take their images from."""
    images = place(pixels.load(cfg.pixels_file), device, say)
    return Batches(images, cfg.image_size, net.mean, net.std, device, cfg.workers or os.cpu_count())


# A run.


def run(cfg) -> None:
    """Train to `cfg.epochs`, from the last checkpoint where there is one; leaves best.pt and history.csv in cfg.run_dir."""
    table = split.read(cfg)
    accelerator = start(cfg)
    run = Run(cfg, table, accelerator)
    run.restore()
    if accelerator.is_main_process:
        files.write_json(cfg.pending_dir / "config.json", run.settings)
    run.deliver(must=True)  # a folder that takes nothing is told now, not after a night
    with _stop_after_step() as stop:
        while run.epoch < cfg.epochs:
            run.train_epoch(stop)
            run.validate()
            if stop.is_set:
                run.bar.close()
                raise Interrupted(f"train: stopped after epoch {run.epoch}; run it again to go on from there")
    if run.bar:  # none where the last epoch was done before
        run.bar.close()
    run.deliver(must=True)
    best = max(run.history, key=lambda row: row["balanced_accuracy"])
    accelerator.print(f"train: best epoch {best['epoch']}, validation balanced accuracy {best['balanced_accuracy']:.3f}")


class Run:
    """The state of a training run, and what moves it on: an epoch, a validation, a checkpoint."""

    def __init__(self, cfg, table, accelerator):
        self.cfg, self.accelerator = cfg, accelerator
        table = table.assign(target=table["label"].map(CLASSES.index))
        train, self.val = (table[table["part"] == part] for part in ("train", "val"))
        if len(train) < 2 or self.val.empty:
            raise UserError(f"{cfg.split_file}: {len(train)} images to train on and {len(self.val)} for validation are "
                            "too few: add images, or raise val_fraction")  # fmt: skip
        self.rows, self.labels = train["row"].to_numpy(), train["target"].to_numpy(copy=True)
        net = model.build(cfg.backbone, cfg.weights, cfg.image_size, cfg.seed)
        if cfg.first_size:
            model.check_size(net, cfg.backbone, recipe.size(cfg, 0))
        device = accelerator.device
        self.batches = batches_for(cfg, net, device, accelerator.print)
        net = net.to(device, memory_format=torch.channels_last)  # what convolutions are fast at
        self.batch = min(cfg.batch_size, len(self.rows)) // accelerator.num_processes * accelerator.num_processes
        self.steps = len(self.rows) // self.batch  # the rest of an epoch's shuffle waits for another epoch
        self.frozen = recipe.frozen(net, cfg)
        self.average = recipe.averaged(net, cfg.ema)
        self.net, self.optimizer = accelerator.prepare(net, self._optimizer(net))
        self.schedule = recipe.schedule(self.optimizer.optimizer, cfg.schedule, cfg.epochs * self.steps)
        self.loss = recipe.Loss(cfg, self.labels, device)
        self.epoch, self.step, self.history, self.total = 0, 0, [], torch.zeros((), device=device)
        self.seconds, self.bar = 0.0, None
        self.settings = self._settings()  # read once: Drive may be gone when a checkpoint is due
        accelerator.print(f"train: {len(self.rows):,} images, {len(self.val):,} for validation, {self.steps:,} steps an epoch")

    def _optimizer(self, net):
        kind = torch.optim.AdamW if self.cfg.optimizer == "adamw" else torch.optim.Adam
        decay = {"weight_decay": self.cfg.weight_decay} if self.cfg.optimizer == "adamw" else {}
        fused = self.accelerator.device.type in ("cuda", "cpu")
        return kind(recipe.parameter_groups(net, self.cfg), fused=fused, **decay)

    def training_mode(self) -> None:
        """All layers in training mode but the frozen ones, whose batch statistics stay too."""
        self.net.train()
        for layer in self.frozen:
            layer.eval()

    def train_epoch(self, stop) -> None:
        """The steps of this epoch that are still to do. No step waits for the device: the loss adds up over there."""
        self.training_mode()
        self._bar()
        balance = self._phase(0) if self.cfg.imbalance == "sampler" else 0.0
        positions = recipe.order(self.labels, self.cfg.seed, self.epoch, balance)[: self.steps * self.batch]
        positions, size = positions.reshape(self.steps, self.batch), recipe.size(self.cfg, self.epoch)
        rank, share = self.accelerator.process_index, self.batch // self.accelerator.num_processes
        mine = slice(rank * share, (rank + 1) * share)
        targets = torch.from_numpy(self.labels[positions]).to(self.accelerator.device)
        todo = range(self.step, self.steps)
        jobs = ((self.rows[positions[k]], self._key(k), mine, size) for k in todo)
        started = saved = shown = time.monotonic()
        for k, images in zip(todo, self.batches.stream(jobs), strict=True):
            self._train_step(images, targets[k], mine, self._phase(k))
            self.step = k + 1
            now = time.monotonic()
            if now - shown > 1:  # reading the loss waits for the device: once a second, not once a step
                self.bar.set_postfix(epoch=f"{self.epoch + 1}/{self.cfg.epochs}", loss=f"{self.total.item() / self.step:.3f}")
                shown = now
            self.bar.update(self.batch)
            due = now - saved > 60 * self.cfg.checkpoint_minutes and self.step < self.steps  # else the epoch's own is near
            if due or stop.is_set:
                self.seconds += now - started
                started = saved = now
                self.save("last.pt")
            if stop.is_set:
                self.bar.close()
                raise Interrupted(
                    f"train: stopped after step {self.step} of epoch {self.epoch + 1}; run it again to go on from there"
                )
        self.seconds += time.monotonic() - started

    def _key(self, step):
        return (self.cfg.seed, self.epoch, step) if self.cfg.augment else None

    def _phase(self, step):
        return recipe.phase(self.cfg, (self.epoch + step / self.steps) / self.cfg.epochs)

    def _train_step(self, images, targets, mine=slice(None), phase=1.0):
        """One step on this process's share of a batch. The loss is the whole batch's weighted mean, however many share it."""
        with self.accelerator.autocast():
            losses = self.loss(self.net(images), targets[mine], phase)
        weight = self.loss.weight(targets, phase)
        loss = (losses * weight[mine]).sum() / weight.sum() * self.accelerator.num_processes  # accelerate averages over them
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.average:
            step = self.epoch * self.steps + self.step
            recipe.average(self.average, self.accelerator.unwrap_model(self.net), self.cfg.ema, step)
        self.total += loss.detach()

    def _kept_net(self):
        """The weights that count: their moving average where there is one."""
        return self.average if self.average else self.accelerator.unwrap_model(self.net)

    def validate(self) -> None:
        """Close the epoch: validation metrics, a row of history, best.pt if it is the best, last.pt."""
        net = self._kept_net()
        loss = self.accelerator.reduce(self.total, "mean").item() / self.steps
        row = {"epoch": self.epoch + 1, "loss": loss, **self._validation_scores(net)}
        row |= {"seconds": self.seconds, "images_per_second": self.steps * self.batch / max(self.seconds, 1e-9)}
        if not math.isfinite(row["loss"]):
            raise UserError(f"the loss is {row['loss']} in epoch {row['epoch']}: lower learning_rate or give precision=fp32")
        self.history.append(row)
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.total.zero_()
        if self.accelerator.is_main_process:
            best = row["balanced_accuracy"] == max(r["balanced_accuracy"] for r in self.history)
            self._announce(row, best)
            if best:
                self._save_best(net, row)
            clean.write_csv(pd.DataFrame(self.history), self.cfg.pending_dir / "history.csv")
        self.save("last.pt")

    def _validation_scores(self, net):
        truth = self.val["target"].to_numpy()
        with self.accelerator.autocast():
            at_once = evaluation_batch(self.batch, self.accelerator.device)
            logits = model.predict(net, self.batches, self.val["row"].to_numpy(), at_once)
        found = evaluate.metrics(truth, model.softmax(logits))
        loss = F.cross_entropy(torch.tensor(logits), torch.tensor(truth)).item()
        return {"val_loss": loss, **{name: found[name] for name in ("balanced_accuracy", "macro_f1", "macro_auc")}}

    def _announce(self, row, best):
        tqdm.write(
            f"epoch {row['epoch']}/{self.cfg.epochs}: loss {row['loss']:.3f}, validation balanced accuracy "
            f"{row['balanced_accuracy']:.3f}, macro F1 {row['macro_f1']:.3f}{' (best)' if best else ''}"
        )

    def _bar(self):
        if self.bar is None:
            total, done = self.cfg.epochs * self.steps * self.batch, (self.epoch * self.steps + self.step) * self.batch
            quiet = not self.accelerator.is_main_process
            self.bar = tqdm(total=total, initial=done, unit="image", unit_scale=True, desc="train", disable=quiet)

    # Checkpoints.

    def _settings(self):
        """What a run may not change midway, and what it is trained on."""
        settings = {k: v for k, v in dataclasses.asdict(self.cfg).items() if k not in FREE_TO_CHANGE}
        return settings | {
            "split file": files.checksum(self.cfg.split_file),
            "table": files.checksum(self.cfg.table_file),
        }

    def _save_best(self, net, row):
        about = {
            "backbone": self.cfg.backbone,
            "image_size": self.cfg.image_size,
            "classes": list(CLASSES),
            "metrics": row,
        }
        save(self.cfg.pending_dir / "best.pt", {"model": net.state_dict(), "about": about})

    def save(self, name) -> None:
        """All that the next step depends on. The checkpoint before this one is kept beside it.

        On the machine's own disk first: one that refuses to take the copy (Drive: errno 5, 107, quota) stops no training.
        """
        if not self.accelerator.is_main_process:
            return
        state = {
            "model": self.accelerator.unwrap_model(self.net).state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            "epoch": self.epoch, "step": self.step, "total": self.total, "seconds": self.seconds, "history": self.history,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "settings": self.settings,
        }  # fmt: skip
        save(self.cfg.pending_dir / name, state)
        self.deliver()

    def deliver(self, must=False, create=False) -> None:
        """Move what lies on the machine's own disk to run_dir; a disk that refuses is announced, or with `must` a UserError."""
        if not self.accelerator.is_main_process:
            return
        reason = files.deliver(self.cfg.pending_dir, self.cfg.run_dir, create)
        told = f"{self.cfg.run_dir} takes no files ({reason}); they wait in {self.cfg.pending_dir}"
        if reason and must:
            raise UserError(f"{told}: see to that disk (Drive: mount it again, or free some space), then run this again")
        if reason:
            tqdm.write(f"train: {told}, training goes on and the next checkpoint tries again")

    def restore(self) -> None:
        """Go on from last.pt, or the one before it; a UserError where it was started with other settings."""
        self.deliver(must=True, create=True)  # what a run before this one could not
        self.accelerator.wait_for_everyone()
        path = self.cfg.run_dir / "last.pt"
        for candidate in (path, path.with_suffix(".previous.pt")):
            if not candidate.exists():
                continue
            try:
                state = load(candidate)
            except ValueError as reason:
                self.accelerator.print(f"train: {self.cfg.show(candidate)} is broken ({reason}); trying the one before it")
                continue
            return self._restore(state)
        if path.exists():
            self.accelerator.print("train: no checkpoint can be read: starting from the first epoch")
        torch.manual_seed(self.cfg.seed)

    def _restore(self, state):
        then, now = DEFAULTS | state["settings"], self.settings
        changed = [f"{key} was {then.get(key)}, is {now.get(key)}" for key in now if then.get(key) != now[key]]
        if changed:
            folder = self.cfg.show(self.cfg.run_dir)
            raise UserError(f"{folder} holds an unfinished run with other settings ({'; '.join(changed)}): "
                            f"give them again to go on, another run_name to start afresh, or delete {folder}")  # fmt: skip
        self.accelerator.unwrap_model(self.net).load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.history, self.seconds = (state[k] for k in ("epoch", "step", "history", "seconds"))
        self.total = state["total"].to(self.accelerator.device)
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.accelerator.print(f"train: going on from epoch {self.epoch + 1}, step {self.step + 1}")


def save(path, state) -> None:
    """torch.save, atomically, with the checksum of its bytes at the end."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    with files.atomic(path, "wb") as file:
        file.write(data + files.digest(data))


def load(path, device="cpu") -> dict:
    """What `save` wrote; ValueError where the file isn't whole. Tensors and plain Python only: no code is executed."""
    with open(path, "rb") as file:
        content = file.read()
    data, digest = content[:-32], content[-32:]
    if files.digest(data) != digest:
        raise ValueError("its checksum doesn't match its content")
    try:
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as reason:
        raise ValueError(f"it holds no checkpoint ({str(reason).splitlines()[0][:100]})") from None


def load_best(cfg, device="cpu", folder=None):
    """The best checkpoint's model, on `device`, in evaluation mode, and what it says about itself.

    folder: of the run; by default `cfg`'s own, or that of the first member of an ensemble.
    """
    path = (folder or cfg.member_dirs[0]) / "best.pt"
    try:
        state = load(path, device)
    except FileNotFoundError:
        raise UserError(f"{cfg.show(path)}: there is no such run; train it first, or name another") from None
    except ValueError as reason:
        raise UserError(f"{path}: {reason}; delete it and train again") from None
    about = state["about"]
    if about["image_size"] != cfg.image_size:
        raise UserError(f"{cfg.show(path.parent)} was trained at {about['image_size']} px, not {cfg.image_size}")
    net = model.build(about["backbone"], "none", about["image_size"])
    net.load_state_dict(state["model"])
    return net.to(device, memory_format=torch.channels_last).eval(), about


def join_members(cfg) -> None:
    """Write the config.json of a run that is the mean of others.

    All of them must have been held out from the same images: a UserError names the one that wasn't.
    """
    settings = [files.read_json(folder / "config.json") or {} for folder in cfg.member_dirs]
    for folder, one in zip(cfg.member_dirs, settings, strict=True):
        if not (folder / "best.pt").exists():
            raise UserError(f"ensemble: {cfg.show(folder)} holds no trained run; train it first, or leave it out")
        for name in ("split file", "folds", "fold", "image_size"):
            if one.get(name) != settings[0].get(name):
                raise UserError(f"ensemble: {cfg.show(folder)} and {cfg.show(cfg.member_dirs[0])} differ in {name}: their "
                                "predictions can't be averaged honestly")  # fmt: skip
    names = ",".join(folder.name for folder in cfg.member_dirs)
    files.write_json(
        cfg.run_dir / "config.json", settings[0] | {"run_name": cfg.run_name, "views": cfg.views, "ensemble": names}
    )


class _Flag:
    is_set = False


@contextlib.contextmanager
def _stop_after_step():
    """Ctrl-C and the notebook's stop button set a flag that the loop reads after each step; a second one stops at once."""
    flag = _Flag()

    def on_signal(*_):
        if flag.is_set:
            raise KeyboardInterrupt
        flag.is_set = True

    try:
        before = signal.signal(signal.SIGINT, on_signal)
    except ValueError:  # not the main thread: nothing to catch there
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
