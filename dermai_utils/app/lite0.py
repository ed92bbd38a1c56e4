"""EfficientNet-Lite0 in plain PyTorch: timm's layers under timm's names, without importing timm.

The library takes as long to import as PyTorch itself, too long for one answer about one photo.
Tan and Le 2019 (arXiv 1905.11946); the "lite" form has no squeeze-and-excitation, and ReLU6.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import nn

from dermai_utils.basics import CLASSES
from dermai_utils.networks import Normalise

NAME = "timm:tf_efficientnet_lite0"
# (blocks, kernel, stride of the first, expansion, channels)
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)]
STAGES += [(3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]
STEM, HEAD = 32, 1280  # channels


class SameConv(nn.Conv2d):
    """A convolution padded as in TensorFlow: as little as needed, the odd pixel at the end."""

    def forward(self, x):
        padding = []
        for side in (x.shape[3], x.shape[2]):
            kernel, stride = self.kernel_size[0], self.stride[0]
            needed = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            padding += [needed // 2, needed - needed // 2]
        return super().forward(F.pad(x, padding))


class Norm(nn.BatchNorm2d):
    """Batch normalisation, with ReLU6 after it where `active`."""

    def __init__(self, channels, active=True):
        super().__init__(channels, eps=1e-3)
        self.active = active

    def forward(self, x):
        x = super().forward(x)
        return F.relu6(x) if self.active else x


def convolution(before, after, kernel=1, stride=1, groups=1):
    kind = SameConv if stride > 1 else nn.Conv2d
    padding = 0 if stride > 1 else kernel // 2
    return kind(before, after, kernel, stride, padding, groups=groups, bias=False)


class Block(nn.Sequential):
    """An inverted residual: expand, filter each channel, project; without `expansion` no expand."""

    def __init__(self, before, after, kernel, stride, expansion):
        middle = before * expansion
        depthwise = convolution(middle, middle, kernel, stride, groups=middle)
        layers = [("conv_dw", depthwise), (f"bn{1 + (expansion > 1)}", Norm(middle))]
        if expansion > 1:
            layers = [("conv_pw", convolution(before, middle)), ("bn1", Norm(middle)), *layers]
        last = ("conv_pwl", "bn3") if expansion > 1 else ("conv_pw", "bn2")
        layers += zip(last, (convolution(middle, after), Norm(after, active=False)), strict=True)
        super().__init__(OrderedDict(layers))
        self.residual = stride == 1 and before == after

    def forward(self, x):
        return super().forward(x) + x if self.residual else super().forward(x)


class Lite0(nn.Module):
    """(N, 3, S, S) normalised -> (N, 7) logits."""

    def __init__(self):
        super().__init__()
        self.conv_stem, self.bn1 = convolution(3, STEM, 3, 2), Norm(STEM)
        stages, before = [], STEM
        for n, kernel, stride, expansion, after in STAGES:
            blocks = [Block(before, after, kernel, stride, expansion)]
            blocks += [Block(after, after, kernel, 1, expansion) for _ in range(n - 1)]
            stages, before = [*stages, nn.Sequential(*blocks)], after
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = convolution(before, HEAD), Norm(HEAD)
        self.classifier = nn.Linear(HEAD, len(CLASSES))

    def forward(self, x):
        x = self.blocks(self.bn1(self.conv_stem(x)))
        return self.classifier(self.bn2(self.conv_head(x)).mean((2, 3)))


def network(size: int) -> nn.Sequential:
    """The network that `networks.network(NAME, "none", size)` builds, but for its random start."""
    half = (0.5, 0.5, 0.5)
    net = nn.Sequential(OrderedDict(normalise=Normalise(half, half), backbone=Lite0()))
    net.about = {"backbone": NAME, "weights": "none", "size": size}
    return net
