"""How a model is trained: what weighs how much in the loss, who learns how fast, and which weights are kept.

Each part is one Config field with a default that was measured; what didn't pay is in LOG.md.
"""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F

from dermai_utils import model
from dermai_utils.config import CLASSES

FOCUS = 2.0  # gamma of the focal loss (Lin et al. 2017, arXiv 1708.02002)
BETA = 0.999  # of the effective number of images (Cui et al. 2019, arXiv 1901.05555)
DEFERRED = (0.35, 0.65)  # shares of the steps: the balancing sets in after the first and is complete at the second


def class_weights(labels, kind: str = "class_weights") -> np.ndarray:
    """(7,) float32, 1 on average over the images; 0 for a class that isn't there.

    class_weights: inverse frequency. sqrt_weights: its square root. effective_number: over 1 - BETA^n, Cui et al. 2019.
    """
    counts = np.bincount(labels, minlength=len(CLASSES)).astype(float)
    worth = {"class_weights": counts, "sqrt_weights": np.sqrt(counts), "effective_number": 1 - BETA**counts}[kind]
    weights = np.where(counts > 0, 1 / np.maximum(worth, 1e-12), 0)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def order(labels, seed: int, epoch: int, balance: float = 0.0) -> np.ndarray:
    """(N,) positions to train on in this epoch: a permutation, or with `balance` draws; at 1 every class is equally likely."""
    random = np.random.default_rng((seed, epoch))
    if not balance:
        return random.permutation(len(labels))
    chance = class_weights(labels)[labels] ** balance
    return random.choice(len(labels), len(labels), p=chance / chance.sum())


def phase(cfg, done: float) -> float:
    """How much of the balancing is in force when the share `done` of all steps is done, 0 to 1; without `deferred` all."""
    start, full = DEFERRED
    return min(1.0, max(0.0, (done - start) / (full - start))) if cfg.deferred else 1.0


class Loss:
    """Cross-entropy with the balancing of `cfg.imbalance` and label smoothing; one value an image, weights apart."""

    def __init__(self, cfg, labels, device):
        self.kind, self.smoothing = cfg.imbalance, cfg.label_smoothing
        counts = np.bincount(labels, minlength=len(CLASSES))
        prior = np.maximum(counts, 1) / max(1, counts.sum())  # an absent class is taken as seen once
        self.log_prior = torch.from_numpy(np.log(prior).astype(np.float32)).to(device)
        weighted = self.kind in ("class_weights", "sqrt_weights", "effective_number")
        self.weights = torch.from_numpy(class_weights(labels, self.kind)).to(device) if weighted else None

    def weight(self, targets, phase: float) -> torch.Tensor:
        """(B,) what each image of class `targets` counts."""
        if self.weights is None:
            return torch.ones_like(targets, dtype=torch.float32)
        return self.weights[targets] ** phase

    def __call__(self, logits, targets, phase: float) -> torch.Tensor:
        """(B,) losses of (B, 7) logits. Logit adjustment: Menon et al. 2021, arXiv 2007.07314, tau = phase."""
        if self.kind == "logit_adjustment":
            logits = logits + phase * self.log_prior
        losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.smoothing)
        if self.kind == "focal":
            sure = logits.float().softmax(1).gather(1, targets[:, None])[:, 0]
            losses = losses * (1 - sure) ** (FOCUS * phase)
        return losses


def frozen(net, cfg) -> list:
    """Stop the layers that `cfg.freeze` names from learning, and return them: they stay in evaluation mode.

    early: up to the last one that works at a quarter of the image's side or more, which is half of the arithmetic for edges
    and colours that ImageNet has taught well. backbone: all but the new head.
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
    """AdamW's groups: what learns of the backbone at `learning_rate`, the new head at `head_rate` times that."""
    head = [p for name in net.head_names for p in net.get_submodule(name).parameters()]
    new = {id(p) for p in head}
    backbone = [p for p in net.parameters() if id(p) not in new and p.requires_grad]
    groups = [{"params": backbone, "lr": cfg.learning_rate}, {"params": head, "lr": cfg.learning_rate * cfg.head_rate}]
    return [group for group in groups if group["params"]]


def schedule(optimizer, kind: str, steps: int):
    """The learning rates over `steps` steps: one-cycle (Smith 2018, arXiv 1803.09820), a cosine to zero, or constant."""
    if kind == "one_cycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        warm_up = max(0.25, 2 / (steps + 1))  # a single step at least: torch divides by its length
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps + 1, pct_start=warm_up)
    shape = {"cosine": lambda k: (1 + math.cos(math.pi * k / steps)) / 2, "constant": lambda k: 1.0}[kind]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, shape)


def size(cfg, epoch: int) -> int:
    """The side, px, of the squares trained on in this epoch: from `first_size` to `image_size` over the first 60 % of them.

    Small pictures first are cheap (Howard's progressive resizing); in multiples of 16 px.
    """
    if not cfg.first_size or cfg.first_size >= cfg.image_size:
        return cfg.image_size
    share = min(1.0, epoch / max(1, round(0.6 * cfg.epochs)))
    return min(cfg.image_size, round((cfg.first_size + share * (cfg.image_size - cfg.first_size)) / 16) * 16)


def averaged(net, decay: float):
    """A copy of `net` to hold the moving average of its weights; None without decay."""
    return copy.deepcopy(net).requires_grad_(False) if decay else None


@torch.no_grad()
def average(kept, net, decay: float, step: int) -> None:
    """Move `kept` a step towards `net`, batch statistics too; `decay` rises to its value as (1 + step) / (10 + step).

    Without that rise (TensorFlow's ExponentialMovingAverage has it too) a run of few steps keeps its first weights.
    """
    decay = min(decay, (1 + step) / (10 + step))
    pairs = list(zip(kept.state_dict().values(), net.state_dict().values(), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], 1 - decay)
    for old, new in pairs:
        if not old.is_floating_point():  # batch norm's count of batches
            old.copy_(new)
