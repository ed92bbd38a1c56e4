"""Grad-CAM and saliency: where in the image the evidence for a class lies, and whether to believe
it."""

import copy
import warnings

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import ConstantInputWarning, spearmanr
from torch import nn

from dermai_utils import networks

AT_ONCE = 8  # images whose gradients are in memory


def gradcam(net: nn.Module, images: torch.Tensor, targets) -> np.ndarray:
    """(N, S, S) float32 maps in 0 to 1: where the evidence for each image's target class lies.

    `images` (N, 3, S, S) in 0 to 1; `targets` (N,) int. The map is that of the last feature map
    with more than one place (networks.feature_maps): its channels, weighted by their mean
    gradient, added, and cut off at 0 (Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2).
    UserError where the network has no such map, as a vision transformer.

    >>> net = networks.network("timm:test_resnet", weights="none", size=64)
    >>> gradcam(net, torch.rand(2, 3, 64, 64), [4, 1]).shape
    (2, 64, 64)
    """
    with networks.evaluating(net):
        place = networks.feature_maps(net, images.shape[-1])[-1]

    def maps(batch, classes):
        outputs = []
        with networks.hooked([place.module], _keep(outputs)):
            score = net(batch).gather(1, classes).sum()
        gradients = torch.autograd.grad(score, outputs)
        gradient, activation = (place.first(x[0].detach().float()) for x in (gradients, outputs))
        maps = (gradient.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True).relu()
        return _resized(maps, batch.shape[-2:])

    return _in_batches(maps, net, images, targets)


def saliency(net: nn.Module, images: torch.Tensor, targets) -> np.ndarray:
    """(N, S, S) float32 maps in 0 to 1: the largest absolute gradient of the target's logit over
    the three colours (Simonyan et al. 2014, arXiv 1312.6034), averaged over 5 x 5 pixels because
    nobody sees a single one. Arguments as for `gradcam`.

    >>> net = networks.network("timm:test_resnet", weights="none", size=64)
    >>> saliency(net, torch.rand(2, 3, 64, 64), [4, 1]).shape
    (2, 64, 64)
    """

    def maps(batch, classes):
        (gradient,) = torch.autograd.grad(net(batch).gather(1, classes).sum(), batch)
        maps = gradient.float().abs().amax(1, keepdim=True)
        return F.avg_pool2d(maps, 5, stride=1, padding=2)

    return _in_batches(maps, net, images, targets)


def _in_batches(maps, net, images, targets) -> np.ndarray:
    """(N, S, S) float32 in 0 to 1: what `maps` makes of AT_ONCE images and targets (n, 1), on the
    network's device and with gradients."""
    device = next(net.parameters()).device
    targets = torch.as_tensor(targets, device=device).long()[:, None]
    found = [np.empty((0, *images.shape[-2:]), np.float32)]
    with networks.evaluating(net), torch.enable_grad():
        for start in range(0, len(images), AT_ONCE):
            batch = images[start : start + AT_ONCE].detach().to(device, copy=True)
            batch_maps = maps(batch.requires_grad_(), targets[start : start + AT_ONCE])
            found.append(_unit(batch_maps[:, 0]))
    return np.concatenate(found)


def _keep(outputs):
    def hook(_, __, output):
        outputs.append(output)
        return output.clone()  # the next layer may change it in place

    return hook


def _resized(maps, size):
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _unit(maps) -> np.ndarray:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low).clamp_min(1e-12)).cpu().numpy()


# Checks. A map says nothing if a random map, or the map of a random network, is as good.


@torch.inference_mode()
def curves(net: nn.Module, images: torch.Tensor, targets, maps, steps: int = 10) -> dict:
    """{"deletion", "insertion"}: (N, steps + 1) float, the target's probability while the places
    that `maps` (N, S, S) mark are taken away or put back, the most marked first.

    Deletion starts at the image and blurs it place by place; insertion starts at the blurred image
    and sharpens it. With a good map deletion falls soon and insertion rises soon (Petsiuk et al.
    2018, arXiv 1806.07421; blurred in place of grey, because grey edges are evidence of their own).
    """
    device = next(net.parameters(), images).device
    images = images.to(device)
    rank = torch.as_tensor(np.ascontiguousarray(maps), device=device).flatten(1)
    rank = rank.argsort(1, descending=True).argsort(1)  # 0: the most marked
    rank = rank.view(len(images), 1, *images.shape[2:])
    blurred = blur(images)
    ways = {"deletion": (images, blurred), "insertion": (blurred, images)}
    targets = torch.as_tensor(targets, device=device).long()[:, None]
    values = {name: [] for name in ways}
    for step in range(steps + 1):
        first = rank < rank[0].numel() * step / steps
        for name, (before, after) in ways.items():
            probabilities = net(torch.where(first, after, before)).float().softmax(1)
            values[name].append(probabilities.gather(1, targets)[:, 0])
    return {name: torch.stack(each, 1).cpu().numpy() for name, each in values.items()}


def blur(images: torch.Tensor) -> torch.Tensor:
    """`images` (..., S, S) without detail: averaged to 4 x 4 places, and back to their size."""
    means = F.adaptive_avg_pool2d(images.cpu(), 4)  # an Apple GPU has it for some sizes only
    return _resized(means.to(images.device), images.shape[-2:])


def random_maps(n: int, size: int, seed: int, cells: int = 7) -> np.ndarray:
    """(n, size, size) float32 in 0 to 1: noise as coarse as a Grad-CAM of `cells` x `cells`
    places, so that only the places differ."""
    noise = torch.rand(n, 1, cells, cells, generator=torch.Generator().manual_seed(seed))
    return _unit(_resized(noise, (size, size))[:, 0])


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of `net` with every layer initialised anew: the same architecture, but it has learned
    nothing."""
    other = copy.deepcopy(net)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in other.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return other.eval()


def rank_correlation(a, b) -> np.ndarray:
    """(N,) Spearman's correlation of the maps (N, S, S) of two networks; NaN where a map is
    constant.

    About 1 means that the maps do not depend on what was learned: they only find edges (Adebayo et
    al. 2018, arXiv 1810.03292).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        pairs = zip(a, b, strict=True)
        return np.array([spearmanr(x.ravel(), y.ravel()).statistic for x, y in pairs])


def check(net: nn.Module, images: torch.Tensor, targets, seed: int = 0) -> pd.DataFrame:
    """One row an image: the means of its deletion and insertion curves with Grad-CAM and with a
    random map (columns "..._random"), and `randomised_correlation`, the rank correlation of its
    Grad-CAM with that of a randomised network. Arguments as for `gradcam`.

    >>> net = networks.network("timm:test_resnet", weights="none", size=64)
    >>> check(net, torch.rand(2, 3, 64, 64), [4, 1]).columns[-1]
    'randomised_correlation'
    """
    maps = gradcam(net, images, targets)
    noise = random_maps(len(images), images.shape[-1], seed)
    by_map, by_noise = (curves(net, images, targets, which) for which in (maps, noise))
    columns = {name: curve.mean(1) for name, curve in by_map.items()}
    columns |= {f"{name}_random": curve.mean(1) for name, curve in by_noise.items()}
    other = gradcam(randomised(net, seed), images, targets)
    return pd.DataFrame(columns | {"randomised_correlation": rank_correlation(maps, other)})
