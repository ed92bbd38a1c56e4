"""How a model is trained: the loss and its balancing, learning rates, frozen layers, the average of
the weights.

Each choice is a setting with a default that was measured; LOG.md holds what brought nothing.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F

from dermai_utils.config import CLASSES
from dermai_utils.training import model

# shares of the steps between which the balancing is phased in: deferred re-weighting (DRW), which
# Cao et al. 2019, arXiv 1906.07413, switch on at once
DRW = (0.35, 0.65)


def class_weights(labels) -> np.ndarray:
    """(7,) float32, inverse to the classes' frequency: 1 on average over the images; 0 for a class
    without any."""
    counts = np.bincount(labels, minlength=len(CLASSES)).astype(float)
    weights = np.where(counts > 0, 1 / np.maximum(counts, 1), 0)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def order(labels, seed: int, epoch: int, balance: float = 0.0) -> np.ndarray:
    """(N,) positions to train on in this epoch: a permutation, or with `balance` (0 to 1) draws,
    which at 1 are of every class equally often."""
    random = np.random.default_rng((seed, epoch))
    if not balance:
        return random.permutation(len(labels))
    chance = class_weights(labels)[labels] ** balance
    return random.choice(len(labels), len(labels), p=chance / chance.sum())


class Mix:
    """How home's training images and those of other sources (`extra`) share the batches.

    Each home image comes once an epoch; beside them `extra_share` of a batch is from the other
    sources, each equally often. A class that is rarer or absent in a source must not teach that it
    is so at home: `log_odds` (S, 7), added to the logits of a source's images in the loss, are the
    logarithms of its classes' shares over those at home, so that the network learns home's (logit
    adjustment, Menon et al. 2021, arXiv 2007.07314, with the prior of each source).

    `home`: positions of home's images; `source` (N,): 0 for home, then 1 to S - 1.
    """

    def __init__(self, origins, targets, cfg):
        names, targets = sorted(set(origins) - {""}), np.asarray(targets)
        self.source = np.array([0 if o == "" else 1 + names.index(o) for o in origins], np.int64)
        self.home = np.flatnonzero(self.source == 0)
        self.batch = min(cfg.batch_size, len(targets))
        share = max(1, round(self.batch * cfg.extra_share / max(len(names), 1)))  # of each source
        self.each = min(share, (self.batch - 1) // max(len(names), 1)) if names else 0
        self.of_home = min(self.batch - self.each * len(names), len(self.home))
        self.batch = self.of_home + self.each * len(names)
        # the rest of a shuffle waits for another epoch
        self.steps = len(self.home) // self.of_home
        self.others = [np.flatnonzero(self.source == k + 1) for k in range(len(names))]
        self.log_odds = np.stack(
            [_log_shares(targets[rows]) for rows in (self.home, *self.others)]
        ).astype(np.float32)
        self.log_odds -= self.log_odds[:1].copy()
        sizes = (f"{name} {len(r):,}" for name, r in zip(names, self.others, strict=True))
        per_batch = f", {self.each} of each in a batch of {self.batch}"
        self.words = f" and from other sources {', '.join(sizes)}{per_batch}" if names else ""

    def positions(self, order, seed: int, epoch: int) -> np.ndarray:
        """(steps, batch) positions: `order` of home's images (see `order`), and the others'."""
        columns = [self.home[order[: self.steps * self.of_home]].reshape(self.steps, -1)]
        for k, rows in enumerate(self.others):
            n = self.steps * self.each
            drawn = rows[_cycled(len(rows), epoch * n, n, (seed, k))]
            columns.append(drawn.reshape(self.steps, -1))
        return np.concatenate(columns, axis=1)


def _log_shares(targets):
    """(7,) logarithms of the classes' shares; an absent one counts as a millionth of an image."""
    counts = np.bincount(targets, minlength=len(CLASSES))
    return np.log(np.maximum(counts, 1e-6) / max(1, counts.sum()))


def _cycled(n, first, count, seed):
    """(count,) numbers below n: an endless row of shuffles, from its place `first` on."""
    rounds = range(first // n, -(-(first + count) // n))
    row = np.concatenate([np.random.default_rng((*seed, k, 1)).permutation(n) for k in rounds])
    return row[first % n :][:count]


def drw_share(cfg, progress: float) -> float:
    """The share of the balancing, 0 to 1, after the share `progress` of all steps; 1 without
    `drw`."""
    start, end = DRW
    return min(1.0, max(0.0, (progress - start) / (end - start))) if cfg.drw else 1.0


class Loss:
    """Cross-entropy with label smoothing and the balancing that `cfg.imbalance` names.

    The loss of each image and its weight are two things: a batch may be shared among processes.
    """

    def __init__(self, cfg, labels, device):
        self.smoothing, self.log_prior, self.weights = cfg.label_smoothing, None, None
        if cfg.imbalance == "logit_adjustment":
            counts = np.bincount(labels, minlength=len(CLASSES))
            # an absent class counts as seen once
            prior = np.maximum(counts, 1) / max(1, counts.sum())
            self.log_prior = torch.from_numpy(np.log(prior).astype(np.float32)).to(device)
        if cfg.imbalance == "class_weights":
            self.weights = torch.from_numpy(class_weights(labels)).to(device)

    def weight(self, targets, drw_share: float) -> torch.Tensor:
        """(B,) the weight of each image, by its class in `targets` (B,)."""
        if self.weights is None:
            return torch.ones_like(targets, dtype=torch.float32)
        return self.weights[targets] ** drw_share

    def __call__(self, logits, targets, drw_share: float, log_odds=None) -> torch.Tensor:
        """(B,) losses of (B, 7) logits, unweighted. Logit adjustment: Menon et al. 2021, arXiv
        2007.07314, with tau = drw_share; `log_odds` (B, 7): see Mix."""
        if self.log_prior is not None:
            logits = logits + drw_share * self.log_prior
        if log_odds is None:
            options = dict(reduction="none", label_smoothing=self.smoothing)
            return F.cross_entropy(logits, targets, **options)
        losses = F.cross_entropy(logits + log_odds, targets, reduction="none")
        # smoothing asks some probability of each class, also of those that a source lacks: with
        # their odds of a millionth it would teach that they are frequent there
        uniform = -F.log_softmax(logits, dim=1).mean(dim=1)
        return losses + self.smoothing * (uniform - losses)


def frozen(net, cfg) -> list:
    """The layers that `cfg.freeze` names, which stop learning here; they stay in evaluation mode.

    early: up to the last one whose map has a quarter of the image's side or more: half of the
    arithmetic, for edges and colours that ImageNet has taught well. backbone: all but the new head.
    """
    head = {layer for name in net.head_names for layer in net.get_submodule(name).modules()}
    layers = {
        "none": lambda: [],
        "early": lambda: model.early_layers(net, cfg.image_size),
        "backbone": lambda: [layer for layer in model.weighted_layers(net) if layer not in head],
    }[cfg.freeze]()
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(False)
    return layers


def parameter_groups(net, cfg) -> list[dict]:
    """AdamW's groups: the backbone's weights that learn, at `learning_rate`, and the new head's, at
    `head_rate` times that."""
    head = [p for name in net.head_names for p in net.get_submodule(name).parameters()]
    in_head = {id(p) for p in head}
    backbone = [p for p in net.parameters() if id(p) not in in_head and p.requires_grad]
    groups = [
        {"params": backbone, "lr": cfg.learning_rate},
        {"params": head, "lr": cfg.learning_rate * cfg.head_rate},
    ]
    return [group for group in groups if group["params"]]


def schedule(optimizer, kind: str, steps: int):
    """The learning rates over `steps` steps: one-cycle (Smith 2018, arXiv 1803.09820), constant."""
    if kind == "constant":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    peaks = [group["lr"] for group in optimizer.param_groups]
    warm_up = max(0.25, 2 / (steps + 1))  # a single step at least: torch divides by its length
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peaks, total_steps=steps + 1, pct_start=warm_up
    )


def size(cfg, epoch: int) -> int:
    """The side, px, of this epoch's squares: from `first_size` in the first to `image_size` after
    60 % of them.

    Small images first are cheap (Howard's progressive resizing); in multiples of 16 px.
    """
    if not cfg.first_size or cfg.first_size >= cfg.image_size:
        return cfg.image_size
    share = min(1.0, epoch / max(1, round(0.6 * cfg.epochs)))
    side = cfg.first_size + share * (cfg.image_size - cfg.first_size)
    return min(cfg.image_size, round(side / 16) * 16)


def averaged(net, decay: float):
    """A copy of `net` to hold the moving average of its weights; None without decay."""
    return copy.deepcopy(net).requires_grad_(False) if decay else None


@torch.no_grad()
def average(averaged_net, net, decay: float, step: int) -> None:
    """Move `averaged_net` a step towards `net`, batch statistics too.

    The decay rises to its value as (1 + step) / (10 + step), as in TensorFlow's
    ExponentialMovingAverage: else a run of few steps would keep its first weights.
    """
    decay = min(decay, (1 + step) / (10 + step))
    states = averaged_net.state_dict().values(), net.state_dict().values()
    pairs = list(zip(*states, strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], 1 - decay)
    for old, new in pairs:
        if not old.is_floating_point():  # batch norm's count of batches
            old.copy_(new)
