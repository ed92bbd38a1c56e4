"""What a training is made of: its options, and its replaceable parts (loss, optimiser, schedule,
sampler) with the default of each. LOG.md holds what brought nothing."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dermai_utils.augmentation import augment
from dermai_utils.basics import CLASSES, IMBALANCE, UserError, did_you_mean
from dermai_utils.networks import early_layers, heads, weighted_layers

FREEZE = ("none", "early", "backbone")
ABSENT = 1e-6  # images, for the logarithm of the share of a class without any
SMALL = 600_000  # parameters; a smaller network's layers are so short that two threads only wait
# shares of the steps between which the balancing is phased in: deferred re-weighting, which
# Cao et al. 2019, arXiv 1906.07413, switch on at once
DEFERRED = (0.35, 0.65)


def phase(progress: float) -> float:
    """How much of the balancing is on, 0 to 1, after the share `progress` of all steps."""
    start, end = DEFERRED
    return min(1.0, max(0.0, (progress - start) / (end - start)))


# The loss.


class CrossEntropy(nn.Module):
    """Cross-entropy of (B, 7) logits, with one of IMBALANCE against the rarity of classes.

    labels: (N,) int of the training images. class_weights: by inverse frequency.
    logit_adjustment: the logarithm of each class's share is added to its logit (Menon et al. 2021,
    arXiv 2007.07314). Training sets `phase`, 0 to 1, how much of it is on.
    """

    def __init__(self, labels=(), imbalance="none"):
        super().__init__()
        self.imbalance, self.phase = imbalance, 1.0
        # a class without an image counts as seen once
        self.register_buffer("log_share", torch.from_numpy(_log_shares(labels, least=1)))
        self.register_buffer("class_weights", torch.from_numpy(class_weights(labels)))

    @property
    def weight(self):
        """(7,) the weight of each class's images in the mean, as nn.CrossEntropyLoss has it."""
        return self.class_weights**self.phase if self.imbalance == "class_weights" else None

    def forward(self, logits, labels):
        if self.imbalance == "logit_adjustment":
            logits = logits + self.phase * self.log_share
        return F.cross_entropy(logits, labels, self.weight)


def class_weights(labels) -> np.ndarray:
    """(7,) float32, inverse to the classes' frequency: 1 on average over the images; 0 for a class
    without any.

    >>> class_weights([0, 0, 0, 0, 1])[:3].tolist()
    [0.625, 2.5, 0.0]
    """
    counts = np.bincount(np.asarray(labels, int), minlength=len(CLASSES)).astype(float)
    weights = np.where(counts > 0, 1 / np.maximum(counts, 1), 0)
    return (weights * counts.sum() / max((weights * counts).sum(), 1)).astype(np.float32)


# The optimiser and its schedule.


def adamw(net, learning_rate=5e-4, head_rate=3.0, weight_decay=0.01, fused=None):
    """AdamW for the weights that learn: the new head's at `head_rate` times the backbone's rate.

    Biases and norms, which have one dimension, do not decay.
    """
    head = {id(p) for layer in heads(net) for p in layer.parameters()}
    rates, decays = (learning_rate, learning_rate * head_rate), (weight_decay, 0.0)
    groups = [{"lr": lr, "weight_decay": decay, "params": []} for lr in rates for decay in decays]
    for p in net.parameters():
        if p.requires_grad:
            groups[2 * (id(p) in head) + (p.ndim <= 1)]["params"].append(p)
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=fused)


def one_cycle(optimizer, steps: int):
    """The learning rates over `steps` steps: one cycle, Smith 2018, arXiv 1803.09820."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    warm_up = max(0.25, 2 / (steps + 1))  # a single step at least: torch divides by its length
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peaks, total_steps=steps + 1, pct_start=warm_up
    )


def side(size: int, first_size: int, epoch: int, epochs: int) -> int:
    """The side, px, of this epoch's squares: from `first_size` (0: none) in the first epoch to
    `size` after 60 % of them, in steps of 16 px.

    Small images first are cheap (Howard's progressive resizing).
    """
    if not first_size or first_size >= size:
        return size
    share = min(1.0, epoch / max(1, round(0.6 * epochs)))
    rising = round((first_size + share * (size - first_size)) / 16) * 16
    return min(size, max(rising, first_size))


def freeze(net, what: str, size: int) -> list:
    """The layers that stop learning; they are to stay in evaluation mode.

    early: up to the last one whose map has a quarter of the image's side or more: half of the
    arithmetic, for edges and colours that ImageNet has taught well. backbone: all but the head.
    """
    layers = []
    if what == "early":
        layers = early_layers(net, size)
    if what == "backbone":
        head = heads(net)
        layers = [layer for layer in weighted_layers(net) if layer not in head]
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(False)
    return layers


@torch.no_grad()
def move_average(average, net, decay: float, step: int) -> None:
    """Move the network `average` a step towards `net`, batch statistics too.

    The decay rises to its value as (1 + step) / (10 + step), as in TensorFlow's
    ExponentialMovingAverage: else a run of few steps would keep its first weights.
    """
    decay = min(decay, (1 + step) / (10 + step))
    pairs = list(zip(average.state_dict().values(), net.state_dict().values(), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], 1 - decay)
    for old, new in pairs:
        if not old.is_floating_point():  # batch norm's count of batches
            old.copy_(new)


def threads_for(net, stack) -> None:
    """Until `stack` ends, torch computes with one thread for a small network."""
    stack.callback(torch.set_num_threads, torch.get_num_threads())
    if sum(parameter.numel() for parameter in net.parameters()) < SMALL:
        torch.set_num_threads(1)


# Which images an epoch shows.


def shuffled(labels, key) -> np.ndarray:
    """(N,) positions to train on in an epoch: a permutation drawn from key, (seed, epoch)."""
    return np.random.default_rng(key).permutation(len(labels))


def balanced(labels, key, epochs=0) -> np.ndarray:
    """(N,) draws in which every class comes equally often; with `epochs`, phased in over them."""
    share = phase(key[1] / epochs) if epochs else 1.0
    if not share:
        return shuffled(labels, key)
    chance = class_weights(labels)[labels] ** share
    return np.random.default_rng(key).choice(len(labels), len(labels), p=chance / chance.sum())


def sampler_for(imbalance: str, epochs: int):
    """The sampler that `imbalance` asks for: sampler(labels, (seed, epoch)) -> positions."""
    return functools.partial(balanced, epochs=epochs) if imbalance == "sampler" else shuffled


class Mix:
    """How home's training images and those of other sources (`extra`) share the batches.

    Each home image comes once an epoch; beside them `extra_share` of a batch is from the other
    sources, each equally often. A class that is rarer or absent in a source must not teach that it
    is so at home: see `log_odds`.

    origins (N,): "" for home, else the source. source (N,): 0 for home, then 1 to S - 1.
    """

    def __init__(self, origins, labels, batch_size: int, extra_share: float = 0.33):
        origins, self.labels = np.asarray(origins), np.asarray(labels)
        self.names = sorted(set(origins) - {""})
        self.source = np.array([1 + self.names.index(o) if o else 0 for o in origins], np.int64)
        self.home, *self.others = (
            np.flatnonzero(self.source == k) for k in range(len(self.names) + 1)
        )
        n, whole = max(len(self.names), 1), min(batch_size, len(origins))
        of_each = max(1, round(whole * extra_share / n))
        self.each = min(of_each, (whole - 1) // n) if self.names else 0
        self.of_home = min(whole - self.each * len(self.names), len(self.home))
        self.batch = self.of_home + self.each * len(self.names)
        # the rest of a shuffle waits for another epoch
        self.steps = len(self.home) // self.of_home

    def positions(self, order, seed: int, epoch: int) -> np.ndarray:
        """(steps, batch) positions: `order` (of home's images), and the others'."""
        columns = [self.home[order[: self.steps * self.of_home]].reshape(self.steps, -1)]
        for k, rows in enumerate(self.others):
            n = self.steps * self.each
            drawn = rows[_cycled(len(rows), epoch * n, n, (seed, k))]
            columns.append(drawn.reshape(self.steps, -1))
        return np.concatenate(columns, axis=1)

    def log_odds(self, order) -> np.ndarray:
        """(S, 7) float32: logarithms of the shares of a source's classes over those of home's, as
        `order` shows them.

        Added to the logits of a source's images in the loss, they let the network learn home's
        shares, or those that the sampler makes of them (logit adjustment, Menon et al. 2021,
        arXiv 2007.07314, with the prior of each source).
        """
        # a class that home has, and the sampler left out by chance, is not absent
        least = np.where(np.isin(np.arange(len(CLASSES)), self.labels[self.home]), 1, ABSENT)
        home = _log_shares(self.labels[self.home[order]], least)
        odds = [_log_shares(self.labels[rows]) - home for rows in self.others]
        return np.stack([np.zeros_like(home), *odds])

    def __str__(self):
        sizes = zip(self.names, self.others, strict=True)
        sizes = ", ".join(f"{name} {len(rows):,}" for name, rows in sizes)
        each = f", {self.each} of each in a batch of {self.batch}"
        return f" and from other sources {sizes}{each}" if self.names else ""


def _log_shares(labels, least=ABSENT):
    """(7,) float32 logarithms of the classes' shares; a rarer one counts as `least` images."""
    counts = np.bincount(np.asarray(labels, int), minlength=len(CLASSES))
    return np.log(np.maximum(counts, least) / max(1, counts.sum())).astype(np.float32)


def _cycled(n, first, count, seed):
    """(count,) numbers below n: an endless row of shuffles, from its place `first` on."""
    rounds = range(first // n, -(-(first + count) // n))
    row = np.concatenate([np.random.default_rng((*seed, k, 1)).permutation(n) for k in rounds])
    return row[first % n :][:count]


# All of it.


@dataclass
class Options:
    """The options of a training. All but those of the machine belong to the run."""

    epochs: int = 10  # passes over the training images
    batch_size: int = 64  # images a step, on all devices together
    learning_rate: float = 5e-4  # AdamW's, of the backbone, at the schedule's peak
    head_rate: float = 3.0  # the new head's rate over the backbone's
    weight_decay: float = 0.01  # AdamW's, per unit of learning rate
    seed: int = 0  # of the order of batches, augmentation, dropout
    size: int = 0  # px, the side of the network's squares; 0: as `network` was told
    first_size: int = 0  # px, the side in the first epoch, which then rises; 0: size
    imbalance: str = "none"  # none, class_weights, sampler, logit_adjustment: see recipe.py
    freeze: str = "none"  # none, early, backbone: which layers do not learn
    average: float = 0.99  # decay per step of the moving average of the weights; 0: no average
    extra_share: float = 0.33  # share of a batch that is from `extra` sources
    tta: int = 1  # flips and turns that the predictions at the end average
    device: str = "auto"  # auto, cpu, cuda, mps
    precision: str = "auto"  # auto, fp32, fp16, bf16
    checkpoint_minutes: float = 10.0  # between two checkpoints; also one after each epoch
    tracker: str = "none"  # tensorboard: curves in the run's folder
    # What a reader may replace; None: the standard one.
    loss: Callable | None = None  # loss(logits, labels) -> the mean over the batch
    augment: Callable = augment  # uint8 (B, 3, H, W), size -> (B, 3, size, size), about 0..1
    optimizer: Callable | None = None  # optimizer(net)
    schedule: Callable = one_cycle  # schedule(optimizer, steps)
    sampler: Callable | None = None  # sampler(labels, (seed, epoch)) -> positions


MACHINE = ("device", "precision", "checkpoint_minutes", "tracker", "tta")  # may change midway


def options(given: dict) -> Options:
    """Options of these values; UserError for another name or value, or without a size."""
    for name in given:
        if name not in Options.__dataclass_fields__:
            hint = did_you_mean(name, Options.__dataclass_fields__)
            raise UserError(f"unknown option {name} of a training; {hint or 'see Options'}")
    made = Options(**given)
    choices = {"imbalance": IMBALANCE, "freeze": FREEZE, "tracker": ("none", "tensorboard")}
    for name, known in choices.items():
        if getattr(made, name) not in known:
            value = getattr(made, name)
            raise UserError(f"{name}={value!r}: expected one of {', '.join(known)}")
    if not made.size:
        raise UserError("give size: the side in px of the squares that your network gets")
    return made
