"""The training loop: a run goes on from its last checkpoint, bit for bit.

`train` is the loop as most need it. Notebook 04 writes it out, to be changed:

    with Training("runs/mine", dataset, subset, net) as run:
        for epoch in run.epochs():
            for images, labels in run.batches():
                run.step(run.loss(run.net(images), labels))
            run.validate()
"""

import contextlib
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dermai_utils import checkpoints, inference, metrics, progress, recipe, source
from dermai_utils.augmentation import augment as default_augment
from dermai_utils.basics import CLASSES, PARTS, UserError
from dermai_utils.networks import check_size
from dermai_utils.runs import Run, join_folds

SHOWN = ("balanced_accuracy", "macro_f1", "macro_auc")  # of validation, in the history
_NAMES = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}


def train(dataset, subset, net, folder, **options) -> Run:
    """Train `net` on the images whose `subset` is train, and return the finished run.

    options: those of `Training`. The same call goes on where an earlier one was stopped, and
    returns at once where the run is finished.

    >>> from dermai_utils import load, network, split
    >>> data, net = load("sample", size=32), network("small", "none", 32)  # doctest: +ELLIPSIS
    data: ...
    >>> run = train(data, split(data.table), net, "first", epochs=1)  # doctest: +ELLIPSIS
    train: ...
    >>> sorted(run.predictions["subset"].unique())
    ['official', 'val']
    """
    with Training(folder, dataset, subset, net, **options) as run:
        for _ in run.epochs():
            for images, labels in run.batches():
                run.step(run.loss(run.net(images), labels))
            run.validate()
    return run


def train_folds(dataset, folds, make_network, folder, **options) -> Run:
    """Train a network a fold, each a run in `folder`, and return the run of all of them.

    folds: (N,) subset names with "0" to "n-1" (`splits.folds`). make_network(): a new network.
    """
    numbers = sorted(set(folds[folds.str.isdecimal()]), key=int)
    for k in numbers:
        print(f"train: fold {k}, {int(k) + 1} of {len(numbers)}")
        subset = folds.mask(folds.str.isdecimal(), "train").mask(folds == k, "val")
        net = make_network()
        train(dataset, subset, net, Path(folder) / k, **options)
    return join_folds(folder, dataset, folds, net, options.get("device", "auto"))


class Training(Run):
    """A run in the making: its folder, and what a loop over epochs and batches needs.

    folder: the run's. dataset: a Dataset. subset: (N,) names; train and val are used here. net: a
    module with seven outputs for images in 0..1; `net` is also what computes inside the block.
    Further options: see `recipe.Options`. A reader may replace

    - loss(logits, labels) -> the mean over the batch,
    - augment(images, size): uint8 (B, 3, H, W) -> float32 (B, 3, size, size) in 0..1; all random
      generators are seeded for each batch, so that any library's transforms repeat,
    - optimizer(net), schedule(optimizer, steps), sampler(labels, (seed, epoch)) -> positions.

    They belong to the run: going on with others is refused. So is a network that was trained
    before. UserError where there is nothing to train or to validate on, or where the network takes
    no images of `size` or `first_size`.
    """

    net = None

    def __init__(
        self,
        folder,
        dataset,
        subset,
        net,
        *,
        loss=None,
        augment=default_augment,
        optimizer=None,
        schedule=recipe.one_cycle,
        sampler=None,
        settings=None,
        **options,
    ):
        about = getattr(net, "about", {})
        o = self.options = recipe.options({"size": about.get("size", 0)} | options)
        super().__init__(folder, net, o.device, o.precision)
        for side in {o.size, o.first_size or o.size}:
            check_size(net, side)
        self.dataset, self.subset, self.augment = dataset, subset, augment
        self.schedule_factory, self.optimizer_factory = schedule, optimizer or self._adamw
        self.sampler = sampler or recipe.sampler_for(o.imbalance, o.epochs)
        table = dataset.table.assign(target=dataset.table["label"].map(CLASSES.index))
        train, self.val = (table[subset == name] for name in ("train", "val"))
        if len(train) < 2 or self.val.empty:
            raise UserError(
                f"{len(train)} images to train on and {len(self.val)} for validation are too few: "
                "add images, or raise val_fraction"
            )
        self.rows, self.labels = train.index.to_numpy(), train["target"].to_numpy(copy=True)
        origins = train["origin"].where(train["source"] == "extra", "")
        self.mix = recipe.Mix(origins, self.labels, o.batch_size, o.extra_share)
        self.criterion = loss or recipe.CrossEntropy(self.labels[self.mix.home], o.imbalance)
        parts = dict(loss=loss, augment=augment, optimizer=optimizer, schedule=schedule)
        self._describe(about, parts | {"sampler": sampler}, settings or {})
        self.epoch, self.batch, self.history_rows = 0, 0, []  # batch: those done in this epoch
        self.seconds, self._odds, self._part, self._stepped = 0.0, None, 1.0, False

    def _describe(self, about, parts, settings):
        """settings.json: what the run is (`identity`), and what else the caller wants kept."""
        own = {name: source.name_of(part) for name, part in parts.items() if source.is_own(part)}
        own |= {} if "backbone" in about else {"network": source.name_of(self._given)}
        prints = {name: source.fingerprint(part) for name, part in parts.items()}
        prints["network"] = source.fingerprint([about, str(self._given)])
        options = {k: v for k, v in asdict(self.options).items() if k not in recipe.MACHINE}
        identity = options | about | own
        self.identity = [*identity, *(name for name in PARTS if name not in identity)]
        kept = {"run_name": self.name, "tta": self.options.tta, "sources": prints}
        kept |= {"data": self.dataset.name, "folds": 0}
        self.settings = kept | settings | identity

    def _adamw(self, net):
        o, fused = self.options, self.device.type in ("cuda", "cpu")
        # not under a loss scaler: a fused one skips a step in its kernel, and nobody hears of it
        fused = fused and not self.accelerator.scaler
        return recipe.adamw(net, o.learning_rate, o.head_rate, o.weight_decay, fused)

    # The block.

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.accelerator = checkpoints.accelerator(self)
            self.device = self.accelerator.device
            stack.enter_context(checkpoints.claimed(self))
            stack.enter_context(checkpoints.generators_kept(self.device))
            stack.enter_context(recipe.threads_for(self._given))
            self.stop = stack.enter_context(checkpoints.stop_after_batch())
            self._prepare()
            checkpoints.restore(self)
            stack.callback(self._close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, value, trace):
        with self._stack:
            if kind is None and self.epoch >= self.options.epochs:
                checkpoints.finish(self)
            elif kind is None:
                checkpoints.save(self)
                print(f"train: stopped in epoch {self.epoch + 1}; the same call goes on from there")

    def net_state(self) -> dict:
        """The state of the averaged network, or without an average of the network."""
        return (self.averaged or self.inside).state_dict()

    def _prepare(self):
        """Network, optimiser, schedule and pictures on the device."""
        o, say = self.options, self.accelerator.print
        inside = self._given.to(self.device, memory_format=torch.channels_last)
        self.frozen = recipe.freeze(inside, o.freeze, o.size)
        self.averaged = recipe.copied(inside) if o.average else None
        optimizer = self.optimizer_factory(inside)
        # before `prepare`, which keeps the optimizer's step as it then is, to replace it each time
        self.schedule = self.schedule_factory(optimizer, o.epochs * self.mix.steps)
        self.net, self.optimizer = self.accelerator.prepare(inside, optimizer)
        self.inside = self.accelerator.unwrap_model(self.net)
        if isinstance(self.criterion, torch.nn.Module):
            self.criterion.to(self.device)
        self.log_odds = torch.from_numpy(self.mix.log_odds).to(self.device)
        self.total = torch.zeros((), device=self.device)  # the losses of this epoch
        self.pixels = inference.place(self.dataset.pixels, self.device)
        say(
            f"train: {len(self.mix.home):,} images{self.mix}, {len(self.val):,} for validation, "
            f"{self.mix.steps:,} steps an epoch, {self.device.type} {self.precision}"
        )
        self.bar = progress.bar(
            total=o.epochs * self.mix.steps * self.mix.batch,
            unit="image",
            unit_scale=True,
            desc="train",
            disable=not self.accelerator.is_main_process,
        )

    def _close(self):
        self.bar.close()
        if isinstance(self.criterion, recipe.CrossEntropy):
            self.criterion.phase = 1.0

    # What the loop calls.

    @property
    def batches_done(self) -> int:
        """In all epochs."""
        return self.epoch * self.mix.steps + self.batch

    def epochs(self):
        """The numbers, from 0, of the epochs that are still to do."""
        while self.epoch < self.options.epochs:
            yield self.epoch
            if self.batch < self.mix.steps:  # the reader left the loop over batches
                return
            checkpoints.check_loss(self)
            self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
            self.total.zero_()
            checkpoints.save(self)
            self._stop_here(f"epoch {self.epoch}")

    def batches(self):
        """(images, labels) on the device for each step of this epoch that is still to do.

        A batch counts as done when the loop asks for the next one.
        """
        o = self.options
        self.net.train()
        for layer in self.frozen:  # their batch statistics stay, too
            layer.eval()
        order = self.sampler(self.labels[self.mix.home], (o.seed, self.epoch))
        positions = self.mix.positions(order, o.seed, self.epoch)
        side = recipe.side(o.size, o.first_size, self.epoch, o.epochs)
        gathered = inference.ahead(
            lambda k: inference.gather(self.pixels, self.rows[positions[k]], self.device),
            range(self.batch, self.mix.steps),
            self.device,
        )
        # every process augments the whole batch, so that draws do not depend on how many share it
        k, n = self.accelerator.process_index, self.accelerator.num_processes
        mine = slice(self.mix.batch * k // n, self.mix.batch * (k + 1) // n)
        started = saved = time.monotonic()
        for images in gathered:
            here = positions[self.batch]
            with checkpoints.seeded((o.seed, self.epoch, self.batch), self.device):
                images = self.augment(images, side)[mine]
            self._stepped = False
            try:
                yield images, self._labels(here, mine)
            except GeneratorExit:  # the reader left the loop, perhaps after the step
                self.batch += self._stepped
                raise
            self.batch += 1
            now = time.monotonic()
            self.seconds, started = self.seconds + now - started, now
            self._show()
            overdue = now - saved > 60 * o.checkpoint_minutes
            if self.stop.is_set() or overdue and self.batch < self.mix.steps:
                checkpoints.save(self)
                saved = started = time.monotonic()
            self._stop_here(f"step {self.batch} of epoch {self.epoch + 1}")

    def _labels(self, positions, mine):
        """This process's labels; what `loss` needs of the batch is noted."""
        labels = torch.from_numpy(self.labels[positions]).to(self.device)
        if self.mix.names:
            sources = torch.from_numpy(self.mix.source[positions[mine]]).to(self.device)
            self._odds = self.log_odds[sources]
        done = self.batches_done / (self.options.epochs * self.mix.steps)
        if isinstance(self.criterion, recipe.CrossEntropy):
            self.criterion.phase = recipe.phase(done)
        if (n := self.accelerator.num_processes) > 1:  # it takes the mean over processes
            weight = getattr(self.criterion, "weight", None)
            weight = torch.ones(len(CLASSES), device=self.device) if weight is None else weight
            self._part = n * weight[labels[mine]].sum() / weight[labels].sum()
        return labels[mine]

    def loss(self, logits, labels):
        """The loss of this batch: a mean over all its images, however many processes share it."""
        if self._odds is not None:
            logits = logits + self._odds
        return self.criterion(logits, labels) * self._part

    def step(self, loss) -> None:
        """Backward, optimiser, schedule, and the average of the weights; nothing waits."""
        self.accelerator.backward(loss)
        self.optimizer.step()
        if not self.optimizer.step_was_skipped:  # by the loss scaler: a gradient overflowed
            self.schedule.step()
        self.optimizer.zero_grad()
        if self.averaged:
            o = self.options
            recipe.move_average(self.averaged, self.inside, o.average, self.batches_done)
        self.total += loss.detach()
        self._stepped = True

    def validate(self) -> dict | None:
        """Score the validation images with the averaged weights: a row of the history.

        None in an epoch that validate_every leaves out.
        """
        number, o = self.epoch + 1, self.options
        if number % o.validate_every and number < o.epochs:
            return None
        checkpoints.check_loss(self)
        loss = self.accelerator.reduce(self.total, "mean").item() / self.mix.steps
        net, truth = self.averaged or self.inside, self.val["target"].to_numpy()
        options = dict(rows=self.val.index, batch=self.mix.batch, precision=self.precision)
        logits = inference.predict(net, self.pixels, o.size, **options)
        scores = metrics.all_metrics(truth, inference.softmax(logits))
        val_loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(truth))
        row = {"epoch": number, "loss": loss, "val_loss": val_loss.item()}
        row |= {name: scores[name] for name in SHOWN} | {"seconds": self.seconds}
        row["images_per_second"] = self.mix.steps * self.mix.batch / max(self.seconds, 1e-9)
        self.history_rows.append(row)
        self.accelerator.log(row, step=self.batches_done)
        if self.accelerator.is_main_process:
            values = ", ".join(f"{_NAMES[n]} {_text(row[n])}" for n in _NAMES)
            tqdm.write(f"epoch {number}/{o.epochs}: loss {loss:.3f}, validation {values}")
        return row

    def _show(self):
        self.bar.update(self.mix.batch)
        now = time.monotonic()
        if now - getattr(self, "_shown", 0) > 1:  # reading the loss waits for the device
            self._shown, loss = now, self.total.item() / self.batch
            self.bar.set_postfix(
                epoch=f"{self.epoch + 1}/{self.options.epochs}", loss=f"{loss:.3f}"
            )
            rate = self.schedule.get_last_lr()[0]
            self.accelerator.log({"loss": loss, "rate": rate}, step=self.batches_done)

    def _stop_here(self, place):
        if self.stop.is_set() and self.batches_done < self.options.epochs * self.mix.steps:
            self.bar.close()
            raise Interrupted(f"train: stopped after {place}; run it again to go on from there")


class Interrupted(KeyboardInterrupt):
    """Training was stopped by hand, and a checkpoint stands. A notebook shows its one line."""

    def _render_traceback_(self):
        return [str(self)]


def _text(value):
    return "not defined" if value is None or math.isnan(value) else f"{value:.3f}"
