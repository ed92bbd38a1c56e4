"""Where a network still has a map of the image: for Grad-CAM and the out-of-distribution check."""

from typing import NamedTuple

import torch
from torch import nn

from dermai_utils.config import UserError
from dermai_utils.training.model import head, hooked


class FeatureMap(NamedTuple):
    """A module whose output is a map of the image, (N, C, side, side), or channels_last."""

    module: nn.Module
    side: int
    channels_last: bool

    def first(self, output: torch.Tensor) -> torch.Tensor:
        """The module's `output` as (N, C, side, side)."""
        return output.permute(0, 3, 1, 2) if self.channels_last else output


@torch.no_grad()
def feature_maps(model: nn.Module, size: int) -> list[FeatureMap]:
    """Every module whose output the network goes on with as a map of the image, in the order they
    end; a module that runs twice, twice.

    A block counts as a whole, and so does a sequence of blocks; what lies inside a block (a branch,
    an attention matrix) does not. UserError where the last thing that comes before the head is no
    map but a list of tokens, as in a vision transformer.
    """
    names = {module: name for name, module in model.named_modules() if name}
    maps, running = [], True

    def note(module, _, output):
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) and running else ()
        maps.append((module, shape))

    def stop(*_):
        nonlocal running
        running = False

    device = next(model.parameters()).device
    handle = head(model).register_forward_pre_hook(stop)
    try:
        with hooked(names, note):
            model(torch.zeros(1, 3, size, size, device=device))
    finally:
        handle.remove()
    blocks = {
        names[module]
        for module, shape in maps
        if len(shape) == 4 and type(module).forward is not nn.Sequential.forward
    }
    outside = [(m, shape) for m, shape in maps if not _parents(names[m]) & blocks]
    whole = [k for k, (m, shape) in enumerate(outside) if _layout(shape) and not _is_pool(m)]
    after = outside[whole[-1] + 1 :] if whole else []
    if not whole or any(len(shape) == 3 and shape[1] > 1 for _, shape in after):
        raise UserError(
            "Grad-CAM needs a convolutional feature map, and this backbone (a transformer on "
            "tokens) has none"
        )
    places = (outside[k] for k in whole)
    return [FeatureMap(m, shape[2], _layout(shape) == "channels last") for m, shape in places]


def _layout(shape):
    """How a map of a square image lies in memory; "" where a shape is none of a map."""
    if len(shape) != 4 or shape[0] != 1 or shape[2] == 1:  # more rows than images: windows
        return ""
    if shape[2] == shape[3]:
        return "channels first"
    return "channels last" if shape[1] == shape[2] else ""


def _parents(name):
    """The names of the modules that the one called a.b.c lies in: {a, a.b}."""
    parts = name.split(".")
    return {".".join(parts[:k]) for k in range(1, len(parts))}


def _is_pool(module):
    return isinstance(module, nn.AdaptiveAvgPool2d)  # VGG's makes 7 x 7 of whatever comes
