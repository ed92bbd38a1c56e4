"""The training loop: a run goes on from its last checkpoint, bit for bit.

`train` is the loop as most need it. Notebook 04 writes it out, to be changed:

    with Training("runs/mine", dataset, subset, net) as run:
        for epoch in run.epochs():
            for images, labels in run.batches():
                run.step(run.loss(run.net(images), labels))
            run.validate()
"""

import contextlib
import copy
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dermai_utils import checkpoints, inference, metrics, progress, recipe, source
from dermai_utils.basics import CLASSES, UserError, counted
from dermai_utils.networks import check_size
from dermai_utils.runs import Run, join_folds

SHOWN = ("balanced_accuracy", "macro_f1", "macro_auc")  # of validation, in the history


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
    options: the fields of `recipe.Options`, among them loss, augment, optimizer, schedule and
    sampler. These, and the network, belong to the run: going on with others is refused. So is a
    network that was trained before. settings: what else settings.json is to keep.

    For each batch all random generators are seeded anew, so that the transforms of any library and
    random numbers in the loop's body repeat after a stop. UserError where there is nothing to train
    or to validate on, or where the network takes no images of `size` or `first_size`.
    """

    net = None

    def __init__(self, folder, dataset, subset, net, *, settings=None, **options):
        about = getattr(net, "about", {})
        o = self.options = recipe.options({"size": about.get("size", 0)} | options)
        super().__init__(folder, net, o.device, o.precision)
        for side in {o.size, o.first_size or o.size}:
            check_size(net, side)
        self.dataset, self.subset = dataset, subset
        table = dataset.table.assign(target=dataset.table["label"].map(CLASSES.index))
        train, self.val = (table[subset == name] for name in ("train", "val"))
        if len(train) < 2 or self.val.empty:
            raise UserError(
                f"too few images: {len(train)} to train on, {len(self.val)} for validation; add "
                "images, or raise val_fraction"
            )
        self.rows, self.labels = train.index.to_numpy(), train["target"].to_numpy(copy=True)
        origins = train["origin"].where(train["source"] == "extra", "")
        self.mix = recipe.Mix(origins, self.labels, o.batch_size, o.extra_share)
        self.sampler = o.sampler or recipe.sampler_for(o.imbalance, o.epochs)
        self.criterion = o.loss or recipe.CrossEntropy(self.labels[self.mix.home], o.imbalance)
        self.identity, prints = source.identity(net, o)
        kept = {"run_name": self.name, "data": dataset.name, "tta": o.tta, "sources": prints}
        self.settings = kept | (settings or {}) | self.identity
        # batch: those done in this epoch. part: of the batch's loss, for this process
        self.epoch, self.batch, self.seconds, self.history_rows, self.part = 0, 0, 0.0, [], 1.0

    # The block.

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.accelerator = checkpoints.accelerator(self)
            self.device = self.accelerator.device
            if self.accelerator.is_main_process:
                checkpoints.claim(self, stack)
            checkpoints.keep_generators(self.device, stack)
            self.stop = checkpoints.stop_after_batch(stack)
            recipe.threads_for(self._given, stack)
            self._prepare()
            stack.enter_context(self.bar)
            checkpoints.restore(self)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, value, trace):
        with self._stack:
            if kind is None and self.epoch >= self.options.epochs:
                checkpoints.finish(self)
            elif kind is None:
                print("train: the loop was left; the same call goes on from the last checkpoint")

    def _prepare(self):
        """Network, optimiser, schedule and pictures on the device."""
        o, mix = self.options, self.mix
        net = self.inside = self._given.to(self.device, memory_format=torch.channels_last)
        self.frozen = recipe.freeze(net, o.freeze, o.size)
        self.averaged = copy.deepcopy(net).requires_grad_(False) if o.average else net
        # not fused under a loss scaler: it skips a step in its kernel, and nobody hears of it
        fused = self.device.type in ("cuda", "cpu") and not self.accelerator.scaler
        rates = o.learning_rate, o.head_rate, o.weight_decay
        optimizer = o.optimizer(net) if o.optimizer else recipe.adamw(net, *rates, fused)
        # before `prepare`, which keeps the optimizer's step as it then is, to replace it each time
        self.schedule = o.schedule(optimizer, o.epochs * mix.steps)
        self.net, self.optimizer = self.accelerator.prepare(net, optimizer)
        if isinstance(self.criterion, torch.nn.Module):
            self.criterion.to(self.device)
        self.total = torch.zeros((), device=self.device)  # the losses of this epoch
        self.pixels = inference.place(self.dataset.pixels, self.device)
        self.accelerator.print(
            f"train: {counted(len(mix.home), 'image')}{mix}, {len(self.val):,} for validation, "
            f"{counted(mix.steps, 'step')} an epoch, {self.device.type} {self.precision}"
        )
        shown = self.accelerator.is_main_process
        options = dict(desc="train", unit="image", unit_scale=True, disable=not shown)
        self.bar = progress.bar(total=o.epochs * mix.steps * mix.batch, **options)

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
            self.epoch, self.batch = self.epoch + 1, 0
            self._checkpoint()

    def batches(self):
        """(images, labels) on the device for each step of this epoch that is still to do.

        A batch counts as done when the loop asks for the next one.
        """
        o, mix = self.options, self.mix
        self.net.train()
        for layer in self.frozen:  # their batch statistics stay, too
            layer.eval()
        if not self.batch:
            self.total.zero_()
            self.seconds = 0.0
        order = self.sampler(self.labels[mix.home], (o.seed, self.epoch))
        positions, odds = mix.positions(order, o.seed, self.epoch), mix.log_odds(order)
        odds = torch.from_numpy(odds).to(self.device)
        side = recipe.side(o.size, o.first_size, self.epoch, o.epochs)
        gathered = inference.ahead(
            lambda k: inference.gather(self.pixels, self.rows[positions[k]], self.device),
            range(self.batch, mix.steps),
            self.device,
        )
        # every process augments the whole batch, so that draws do not depend on how many share it
        k, n = self.accelerator.process_index, self.accelerator.num_processes
        mine, started = slice(mix.batch * k // n, mix.batch * (k + 1) // n), time.monotonic()
        for images in gathered:
            here = positions[self.batch]
            self.log_odds = odds[torch.from_numpy(mix.source[here[mine]]).to(self.device)]
            checkpoints.seed((o.seed, self.epoch, self.batch))
            yield o.augment(images, side)[mine], self._labels(here, mine)
            self.batch += 1
            now = time.monotonic()
            self.seconds, started = self.seconds + now - started, now
            self._show()
            if self.stop.is_set() or now - self.saved > 60 * o.checkpoint_minutes:
                self._checkpoint()

    def _labels(self, positions, mine):
        """This process's labels; what `loss` needs of the batch is noted."""
        labels = torch.from_numpy(self.labels[positions]).to(self.device)
        if self.options.loss is None:
            steps = self.options.epochs * self.mix.steps
            self.criterion.phase = recipe.phase(self.batches_done / steps)
        if (n := self.accelerator.num_processes) > 1:  # it takes the mean over processes
            weight = getattr(self.criterion, "weight", None)
            each = torch.ones_like(labels, dtype=torch.float) if weight is None else weight[labels]
            self.part = n * each[mine].sum() / each.sum()
        return labels[mine]

    def loss(self, logits, labels):
        """The loss of this batch: a mean over all its images, however many processes share it."""
        return self.criterion(logits + self.log_odds, labels) * self.part

    def step(self, loss) -> None:
        """Backward, optimiser, schedule, and the average of the weights; nothing waits."""
        self.accelerator.backward(loss)
        self.optimizer.step()
        if not self.optimizer.step_was_skipped:  # by the loss scaler: a gradient overflowed
            self.schedule.step()
        self.optimizer.zero_grad()
        if decay := self.options.average:
            recipe.move_average(self.averaged, self.inside, decay, self.batches_done)
        self.total += loss.detach()

    def validate(self) -> dict:
        """Score the validation images with the averaged weights: a row of the history."""
        number, o = self.epoch + 1, self.options
        checkpoints.check_loss(self)
        loss = self.accelerator.reduce(self.total, "mean").item() / self.mix.steps
        options = dict(rows=self.val.index, batch=self.mix.batch, precision=self.precision)
        logits = inference.predict(self.averaged, self.pixels, o.size, **options)
        truth = self.val["target"].to_numpy()
        scores = metrics.all_metrics(truth, inference.softmax(logits))
        val_loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(truth))
        row = {"epoch": number, "loss": loss, "val_loss": val_loss.item()}
        row |= {name: scores[name] for name in SHOWN} | {"seconds": self.seconds}
        self.history_rows.append(row)
        self.accelerator.log(row, step=self.batches_done)
        if self.accelerator.is_main_process:
            shown = {name: scores[name] for name in SHOWN if scores[name] is not None}
            values = ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in shown.items())
            tqdm.write(f"epoch {number}/{o.epochs}: loss {loss:.3f}, validation {values}")
        return row

    def _show(self):
        if self.bar.update(self.mix.batch):  # not at each batch: reading the loss waits
            loss, epoch = self.total.item() / self.batch, self.epoch + 1
            self.bar.set_postfix_str(f"epoch {epoch}/{self.options.epochs}, loss {loss:.3f}")
            shown = {"loss": loss, "rate": self.schedule.get_last_lr()[0]}
            self.accelerator.log(shown, step=self.batches_done)

    def _checkpoint(self):
        checkpoints.save(self)
        if self.stop.is_set() and self.batches_done < self.options.epochs * self.mix.steps:
            place = f"step {self.batch} of epoch {self.epoch + 1}"
            raise Interrupted(f"train: stopped after {place}; run it again to go on from there")


class Interrupted(KeyboardInterrupt):
    """Training was stopped by hand, and a checkpoint stands. A notebook shows its one line."""

    def _render_traceback_(self):
        return [str(self)]
