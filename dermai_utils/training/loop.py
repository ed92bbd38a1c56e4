"""The training loop: one uint8 array, augmented on the device; a killed run goes on from its last
checkpoint, bit for bit."""

import dataclasses
import math
import time

import pandas as pd
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from dermai_utils import environment, files, progress
from dermai_utils.config import CLASSES, OF_THE_MACHINE, UserError
from dermai_utils.data import pixels, split
from dermai_utils.metrics import classification
from dermai_utils.training import checkpoint, inference, model, optim, tracking

# what each start says anew, and what is of several runs: all else a run keeps, in its config.json
NOT_KEPT = {*OF_THE_MACHINE, "tracker", "test", "seeds", "ensemble"}
FREE_TO_CHANGE = NOT_KEPT | {"precision", "tta"}  # when an unfinished run goes on, see `_restore`
# the checksums of table and split stand for these
FREE_TO_CHANGE |= {"data", "extra", "leaks", "test_fraction"}


class Interrupted(KeyboardInterrupt):
    """Training was stopped by hand; a checkpoint stands. A notebook shows its one line alone."""

    def _render_traceback_(self):
        return [str(self)]


def run(cfg, set_aside=None) -> None:
    """Train to `cfg.epochs`, from the last checkpoint where there is one.

    Leaves best.pt and history.csv in cfg.run_dir. set_aside: moves a finished run out of the way,
    once it is sure that this one can start: its network stands, its weights were found.
    """
    run = Run(cfg, split.read(cfg), inference.start(cfg, **tracking.options(cfg)))
    if set_aside and run.accelerator.is_main_process:
        set_aside()
    run.restore()
    if run.accelerator.is_main_process:
        kept = {k: v for k, v in dataclasses.asdict(cfg).items() if k not in NOT_KEPT}
        about = kept | run.settings | environment.provenance()
        files.write_json(cfg.pending_dir / "config.json", about)
    run.deliver(must=True)  # a folder that takes nothing is told now, not after a night
    with tracking.tracked(run), checkpoint.stop_after_step() as stop:
        while run.epoch < cfg.epochs:
            run.train_epoch(stop)
            run.validate()
            if stop.is_set:
                run.interrupt(f"epoch {run.epoch}")
    run.close_bar()
    run.finish()
    last = run.history[-1]
    run.accelerator.print(
        f"train: the averaged weights of epoch {last['epoch']} are kept, macro AUC on validation "
        f"{last['macro_auc']:.3f}"
    )


class Run:
    """The state of a training run, and what moves it on: an epoch, a validation, a checkpoint."""

    def __init__(self, cfg, table, accelerator):
        self.cfg, self.accelerator, device = cfg, accelerator, accelerator.device
        table = table.assign(target=table["label"].map(CLASSES.index))
        train, self.val = (table[table["subset"] == subset] for subset in ("train", "val"))
        if len(train) < 2 or self.val.empty:
            raise UserError(
                f"{cfg.split_file}: {len(train)} images to train on and {len(self.val)} for "
                "validation are too few: add images, or raise val_fraction"
            )
        self.mix = optim.Mix(split.origins(train), train["target"], cfg)
        self.rows, self.labels = train["row"].to_numpy(), train["target"].to_numpy(copy=True)
        self.batch, self.steps = self.mix.batch, self.mix.steps
        if self.batch < accelerator.num_processes:
            n = accelerator.num_processes
            raise UserError(f"{n} processes cannot share batches of {self.batch}: start fewer")
        network = self._network()
        images = inference.place(pixels.load(cfg.pixels_file), device, accelerator.print)
        self.batches = inference.batches(cfg, network, images, device)
        network = network.to(device, memory_format=torch.channels_last)
        self.frozen = optim.frozen(network, cfg)
        self.average = optim.averaged(network, cfg.ema)
        optimizer = self._optimizer(network)
        # before `prepare`, which keeps the optimizer's step as it then is, to replace it each time
        self.schedule = optim.schedule(optimizer, cfg.schedule, cfg.epochs * self.steps)
        self.net, self.optimizer = accelerator.prepare(network, optimizer)
        self.loss = optim.Loss(cfg, self.labels[self.mix.home], device)
        self.log_odds = torch.from_numpy(self.mix.log_odds).to(device)
        self.epoch, self.step, self.history, self.total = 0, 0, [], torch.zeros((), device=device)
        self.seconds, self.bar = 0.0, None
        self.settings = self._settings()  # read once: Drive may be gone when a checkpoint is due
        accelerator.print(
            f"train: {len(self.mix.home):,} images{self.mix.words}, {len(self.val):,} for "
            f"validation, {self.steps:,} steps an epoch"
        )

    def _network(self):
        cfg = self.cfg
        network = model.build(cfg.backbone, cfg.weights, cfg.image_size, cfg.seed)
        if cfg.first_size:
            model.check_size(network, cfg.backbone, optim.size(cfg, 0))
        return network

    def _optimizer(self, network):
        # not under a loss scaler: a fused one skips a step in its kernel, and nobody hears of it
        fused = self.accelerator.device.type in ("cuda", "cpu") and not self.accelerator.scaler
        groups = optim.parameter_groups(network, self.cfg)
        return torch.optim.AdamW(groups, fused=fused, weight_decay=self.cfg.weight_decay)

    def training_mode(self) -> None:
        """All layers in training mode but the frozen ones, whose batch statistics stay too."""
        self.net.train()
        for layer in self.frozen:
            layer.eval()

    def train_epoch(self, stop) -> None:
        """The steps of this epoch that are still to do; no step waits for the device."""
        self.training_mode()
        self._show_bar()
        positions, share = self.positions(), self._share()
        targets = torch.from_numpy(self.labels[positions]).to(self.accelerator.device)
        sources = torch.from_numpy(self.mix.source[positions]).to(self.accelerator.device)
        steps, size = range(self.step, self.steps), optim.size(self.cfg, self.epoch)
        jobs = ((self.rows[positions[k]], self.key(k), share, size) for k in steps)
        started = saved = shown = time.monotonic()
        for k, images in zip(steps, self.batches.stream(jobs), strict=True):
            self.train_step(images, targets[k], share, self._drw_share(k), sources[k])
            self.step, now = k + 1, time.monotonic()
            if now - shown > 1:  # reading the loss waits for the device: once a second is enough
                shown = now
                self._show_loss()
            self.bar.update(self.batch)
            overdue = now - saved > 60 * self.cfg.checkpoint_minutes and self.step < self.steps
            if overdue or stop.is_set:
                self.seconds += now - started
                started = saved = now
                self.save("last.pt")
            if stop.is_set:
                self.interrupt(f"step {self.step} of epoch {self.epoch + 1}")
        self.seconds += time.monotonic() - started

    steps_done = property(lambda self: self.epoch * self.steps + self.step)  # in all epochs

    def positions(self):
        """(steps, batch) positions among the training images of this epoch."""
        balance = self._drw_share(0) if self.cfg.imbalance == "sampler" else 0.0
        order = optim.order(self.labels[self.mix.home], self.cfg.seed, self.epoch, balance)
        return self.mix.positions(order, self.cfg.seed, self.epoch)

    def _share(self):
        """This process's part of each batch: the steps do not depend on how many share it."""
        k, processes = self.accelerator.process_index, self.accelerator.num_processes
        return slice(self.batch * k // processes, self.batch * (k + 1) // processes)

    def key(self, step: int):
        """What batch `step` of this epoch is augmented by; None: not at all."""
        return (self.cfg.seed, self.epoch, step) if self.cfg.augment else None

    def _drw_share(self, step):
        return optim.drw_share(self.cfg, (self.epoch + step / self.steps) / self.cfg.epochs)

    def train_step(self, images, targets, share=slice(None), drw_share=1.0, sources=None) -> None:
        """One step on this process's `share` of a batch, whose (B,) `targets` are all given, and
        `sources`, where there is `extra`.

        The loss is the whole batch's weighted mean, however many processes share it.
        """
        with self.accelerator.autocast():
            several = sources is not None and len(self.log_odds) > 1
            log_odds = self.log_odds[sources[share]] if several else None
            losses = self.loss(self.net(images), targets[share], drw_share, log_odds)
        weight = self.loss.weight(targets, drw_share)
        loss = (losses * weight[share]).sum() / weight.sum()
        loss = loss * self.accelerator.num_processes  # accelerate takes the mean over them
        self.accelerator.backward(loss)
        self.optimizer.step()
        if not self.optimizer.step_was_skipped:  # by the loss scaler, where a gradient overflowed
            self.schedule.step()
        self.optimizer.zero_grad()
        if self.average:
            network = self.accelerator.unwrap_model(self.net)
            optim.average(self.average, network, self.cfg.ema, self.steps_done)
        self.total += loss.detach()

    def validate(self) -> None:
        """Close the epoch: validation metrics, a row of history, best.pt, last.pt.

        best.pt holds the averaged weights as they are now, so at the end those of the last epoch:
        over 16 runs these were as good as those of any epoch that validation would choose, or
        better (LOG.md), and nothing is chosen.
        """
        network = self.average or self.accelerator.unwrap_model(self.net)
        loss = self.accelerator.reduce(self.total, "mean").item() / self.steps
        row = {"epoch": self.epoch + 1, "loss": loss, **self._validation_scores(network)}
        speed = self.steps * self.batch / max(self.seconds, 1e-9)
        row |= {"seconds": self.seconds, "images_per_second": speed}
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} in epoch {row['epoch']}: "
                "lower learning_rate or give precision=fp32"
            )
        self.history.append(row)
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.total.zero_()
        tracking.log_epoch(self, row)
        if self.accelerator.is_main_process:
            self._announce(row)
            self._save_best(network, row)
            files.write_table(pd.DataFrame(self.history), self.cfg.pending_dir / "history.csv")
        self.save("last.pt")

    def _validation_scores(self, network):
        truth, rows = self.val["target"].to_numpy(), self.val["row"].to_numpy()
        at_once = inference.evaluation_batch(self.batch, self.accelerator.device)
        with self.accelerator.autocast():
            logits = inference.predict(network, self.batches, rows, at_once)
        metrics = classification.metrics(truth, inference.softmax(logits))
        loss = F.cross_entropy(torch.tensor(logits), torch.tensor(truth)).item()
        names = ("balanced_accuracy", "macro_f1", "macro_auc")
        return {"val_loss": loss, **{name: metrics[name] for name in names}}

    # What is shown.

    def _announce(self, row):
        tqdm.write(
            f"epoch {row['epoch']}/{self.cfg.epochs}: loss {row['loss']:.3f}, "
            f"validation balanced accuracy {row['balanced_accuracy']:.3f}, "
            f"macro F1 {row['macro_f1']:.3f}"
        )

    def _show_bar(self):
        if self.bar is None:
            self.bar = progress.bar(
                total=self.cfg.epochs * self.steps * self.batch,
                initial=self.steps_done * self.batch,
                unit="image",
                unit_scale=True,
                desc="train",
                disable=not self.accelerator.is_main_process,
            )

    def _show_loss(self):
        epoch, loss = f"{self.epoch + 1}/{self.cfg.epochs}", self.total.item() / self.step
        self.bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}")
        self.accelerator.log({"train/loss": loss} | tracking.rates(self), step=self.steps_done)

    def close_bar(self) -> None:
        """Leave the progress bar as it stands; there is none where nothing was left to train."""
        if self.bar:
            self.bar.close()

    def interrupt(self, after: str):
        """Raise Interrupted: the run was stopped by hand after a step or an epoch."""
        self.close_bar()
        raise Interrupted(f"train: stopped after {after}; run it again to go on from there")

    # Checkpoints.

    def _settings(self):
        """What a run may not change midway, and what it is trained on."""
        settings = dataclasses.asdict(self.cfg)
        settings = {k: v for k, v in settings.items() if k not in FREE_TO_CHANGE}
        sources = {"split file": self.cfg.split_file, "table": self.cfg.table_file}
        return settings | {name: files.checksum(path) for name, path in sources.items()}

    def _save_best(self, network, row):
        settings = {"backbone": self.cfg.backbone, "image_size": self.cfg.image_size}
        about = settings | {"classes": list(CLASSES), "metrics": row}
        state = {"model": network.state_dict(), "about": about}
        checkpoint.save(self.cfg.pending_dir / "best.pt", state)

    def save(self, name) -> None:
        """All that the next step depends on. The checkpoint before this one is kept beside it.

        On the machine's own disk first: one that refuses to take the copy (Drive: errno 5, 107,
        quota) stops no training.
        """
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "model": self.accelerator.unwrap_model(self.net).state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            **{key: getattr(self, key) for key in ("epoch", "step", "total", "seconds", "history")},
            **checkpoint.random_state(self.accelerator.device),
            "machine": checkpoint.machine(self.accelerator),
            "settings": self.settings,
        }
        checkpoint.save(self.cfg.pending_dir / name, state)
        self.deliver()

    def finish(self) -> None:
        """Leave a last.pt that says only that all is done.

        What a step would go on from is four times as large as best.pt, from which predictions and
        further training (weights=.../best.pt) are made.
        """
        if self.accelerator.is_main_process:
            state = {key: getattr(self, key) for key in ("epoch", "step", "history", "settings")}
            checkpoint.save(self.cfg.pending_dir / "last.pt", state)
            self.deliver(must=True)
            (self.cfg.run_dir / "last.previous.pt").unlink(missing_ok=True)

    def deliver(self, must=False, create=False) -> None:
        """Move what lies on the machine's own disk to run_dir.

        A disk that refuses is announced, or with `must` a UserError.
        """
        if not self.accelerator.is_main_process:
            return
        folder, pending = self.cfg.run_dir, self.cfg.pending_dir
        reason = files.deliver(pending, folder, create)
        refusal = f"{folder} takes no files ({reason}); they wait in {pending}"
        if reason and must:
            raise UserError(
                f"{refusal}: see to that disk (Drive: mount it again, or free some space), "
                "then run this again"
            )
        if reason:
            tqdm.write(f"train: {refusal}, training goes on and the next checkpoint tries again")

    def restore(self) -> None:
        """Go on from last.pt, or the one before it; UserError where it has other settings."""
        self.deliver(must=True, create=True)  # what a run before this one could not
        self.accelerator.wait_for_everyone()
        path = self.cfg.run_dir / "last.pt"
        for candidate in filter(lambda p: p.exists(), (path, path.with_suffix(".previous.pt"))):
            try:
                return self._restore(checkpoint.load(candidate))
            except ValueError as reason:
                name = self.cfg.show(candidate)
                self.accelerator.print(f"train: {name} is broken ({reason}); trying the one before")
        if path.exists():
            self.accelerator.print(
                "train: no checkpoint can be read: starting from the first epoch"
            )
        torch.manual_seed(self.cfg.seed)

    def _restore(self, state):
        """Go on from `state`, which another device, precision or number of processes may have left.

        The line that is printed says what changed.
        """
        checkpoint.check_settings(state["settings"], self.settings, self.cfg.show(self.cfg.run_dir))
        for key in ("epoch", "step", "history"):
            setattr(self, key, state[key])
        if "model" not in state:
            return self.accelerator.print(f"train: all {self.epoch} epochs are done")
        self.accelerator.unwrap_model(self.net).load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(checkpoint.fitted(state["optimizer"], self.optimizer))
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler and state["scaler"]:  # else its scale begins anew
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.seconds, self.total = state["seconds"], state["total"].to(self.accelerator.device)
        checkpoint.set_random_state(state, self.accelerator.device)
        self.accelerator.print(
            f"train: going on from epoch {self.epoch + 1}, step {self.step + 1}"
            f"{checkpoint.moved(state.get('machine'), checkpoint.machine(self.accelerator))}"
        )
