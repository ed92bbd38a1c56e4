"""A pretrained network by name, with a new last layer of seven outputs, and where its layers are.

Normalisation is the first layer: whatever uses the network gives it colours in 0..1.
"""

import contextlib
import difflib
import functools
import re
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import nn

from dermai_utils.basics import CLASSES, UserError
from dermai_utils.weights import fetched, first_line, in_cache, load


class Normalise(nn.Module):
    """Subtract each colour's mean and divide by its standard deviation, as in pretraining."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images):
        return (images - self.mean) / self.std


def network(
    backbone: str = "resnet18", weights: str = "imagenet", size: int = 224, seed: int = 0
) -> nn.Sequential:
    """A classifier: (N, 3, size, size) float in 0..1 -> (N, 7) logits.

    backbone: a classifier of torchvision, timm:NAME, or small. weights: imagenet, none, or a
    .safetensors or .pth file. seed: of the new last layer, and of all layers with weights="none";
    the caller's random numbers stay as they are. UserError where one of them can't be had or
    doesn't fit.

    >>> net = network("timm:test_resnet", weights="none", size=32)
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 7])
    """
    check_name(backbone)
    make = {"timm": _timm, "small": _small}.get(backbone.partition(":")[0], _torchvision)
    with torch.random.fork_rng(devices=[]), _size_errors(backbone, size):
        torch.default_generator.manual_seed(seed)
        model, mean, std = make(backbone.removeprefix("timm:"), weights == "imagenet", size)
        net = nn.Sequential(OrderedDict(normalise=Normalise(mean, std), backbone=model))
        for layer in heads(net):
            # timm's own start for 1,000 classes gives seven of them logits of +-10
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    net.about = {"backbone": backbone, "weights": weights, "size": size}
    if weights not in ("imagenet", "none"):
        load(net.backbone, weights, heads(net))
    check_size(net, size)
    return net


class Small(nn.Module):
    """The sample's network, 105,000 weights: four convolutions, whose last map has an eighth of the
    image's side, so that Grad-CAM has 8 x 8 places at 64 px."""

    def __init__(self):
        super().__init__()
        layers = []
        for before, after, stride in ((3, 24, 2), (24, 48, 2), (48, 72, 2), (72, 96, 1)):
            convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        self.features, self.head = nn.Sequential(*layers), nn.Linear(96, len(CLASSES))

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))


def check_name(backbone: str) -> None:
    """UserError, with the nearest names, for a backbone that does not exist; builds none."""
    library, _, name = backbone.rpartition(":")
    if library == "timm":
        import timm

        names, known = timm.list_models(), timm.is_model(name)
    else:
        from torchvision import models

        names = ["small", *models.list_models(module=models)]
        known = backbone in names
    if not known:
        near = ", ".join(difflib.get_close_matches(name, names, 5)) or "none"
        raise UserError(
            f"backbone={backbone!r}: {library or 'torchvision'} has no such classifier; near: "
            f"{near}; give a classifier of torchvision, timm:NAME, or small"
        )


def check_size(net: nn.Module, size: int) -> None:
    """UserError where the network cannot take such images: odd patches, too many halvings."""
    name = getattr(net, "about", {}).get("backbone", type(net).__name__)
    with _size_errors(name, size), torch.inference_mode(), evaluating(net):
        logits = net(next(net.parameters()).new_zeros(1, 3, size, size))
    if tuple(logits.shape) != (1, len(CLASSES)):
        raise UserError(
            f"{name}: expected {len(CLASSES)} logits an image, got {tuple(logits.shape)[1:]}; "
            f"give its last layer {len(CLASSES)} outputs"
        )


@contextlib.contextmanager
def evaluating(net):
    """`net` as it is used, not trained: a layer that learns from what it sees would change."""
    was_training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(was_training)


@contextlib.contextmanager
def _size_errors(backbone, size):
    try:
        yield
    except (RuntimeError, AssertionError, ValueError) as reason:
        raise UserError(
            f"backbone={backbone}: it takes no images of {size} px ({first_line(reason)}); "
            "give size=224, or another backbone"
        ) from None


def _small(name, pretrained, size):
    if pretrained:
        raise UserError("backbone=small has no ImageNet weights: give weights=none")
    return Small(), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def _torchvision(name, pretrained, size):
    from torchvision import models

    default = models.get_model_weights(name).DEFAULT
    options = {"weights": default if pretrained else None}
    if name.startswith("vit_") and not pretrained:
        options["image_size"] = size  # its position table has one entry a patch
    if name in ("googlenet", "inception_v3") and not pretrained:
        options["init_weights"] = False  # theirs takes a minute
    build = functools.partial(models.get_model, name, **options)
    model = fetched(name, build, torch.hub.get_dir()) if pretrained else build()
    for extra in ("AuxLogits", "aux1", "aux2"):  # Inception's and GoogLeNet's training-only heads
        if hasattr(model, extra):
            setattr(model, extra, None)
            model.aux_logits = False
    if isinstance(model, models.DenseNet):  # whose last ReLU is no layer: Grad-CAM would miss it
        layers = dict(features=model.features, relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1))
        layers |= dict(flatten=nn.Flatten(), classifier=model.classifier)
        model = nn.Sequential(OrderedDict(layers))
    _replace_head(model)
    preset = default.transforms()
    return model, preset.mean, preset.std


def _timm(name, pretrained, size):
    import timm

    options = {"pretrained": pretrained, "num_classes": len(CLASSES)}
    if re.match("vit|deit|swin|beit|eva|cait", name):
        options["img_size"] = size
    if not pretrained:
        model = timm.create_model(name, **options)
    elif not timm.is_model_pretrained(name):
        raise UserError(f"timm has no ImageNet weights of {name}: give weights=FILE or none")
    else:
        path = fetched(name, functools.partial(in_cache, timm.get_pretrained_cfg(name)))
        own = {"pretrained_cfg_overlay": {"file": path}} if path else {}
        build = functools.partial(timm.create_model, name, **options, **own)
        model = fetched(name, build, path or torch.hub.get_dir())
    return model, model.default_cfg["mean"], model.default_cfg["std"]


def _replace_head(model):
    """Replace the last layer, of 1,000 outputs, by one of seven."""
    name, old = [(n, m) for n, m in model.named_modules() if _outputs(m) == 1000][-1]
    if isinstance(old, nn.Conv2d):  # SqueezeNet
        new = nn.Conv2d(old.in_channels, len(CLASSES), old.kernel_size)
    else:
        new = nn.Linear(old.in_features, len(CLASSES), bias=old.bias is not None)
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent)._modules[child] = new


def _outputs(layer):
    return getattr(layer, "out_features", getattr(layer, "out_channels", 0))


# A network's layers.


def heads(net: nn.Module) -> list[nn.Module]:
    """The layers that give the logits: the last one of seven outputs, and one of the same
    shape, as a distilled transformer has. UserError for a network without such a layer."""
    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    layers = [m for m in layers if _outputs(m) == len(CLASSES)]
    if not layers:
        raise UserError(
            f"{type(net).__name__} has no layer of {len(CLASSES)} outputs: its last layer must "
            f"give one logit for each of {', '.join(CLASSES)}"
        )
    return [m for m in layers if m.weight.shape == layers[-1].weight.shape]


def head(net: nn.Module) -> nn.Module:
    """The first of the `heads`, whose input is the features."""
    return heads(net)[0]


def weighted_layers(net: nn.Module) -> list[nn.Module]:
    """The layers that have weights of their own."""
    return [layer for layer in net.modules() if any(True for _ in layer.parameters(False))]


def early_layers(net: nn.Module, size: int) -> list[nn.Module]:
    """The layers with weights, in the order they run, up to the last whose maps have a quarter of
    the image's side or more.

    None of a transformer's, whose patches are smaller than that from the start.
    """
    outputs = _outputs_of(net, weighted_layers(net), size)
    fine = [k for k, (_, x) in enumerate(outputs, 1) if len(x) == 4 and 4 * x[2] >= size]
    return [layer for layer, _ in outputs[: max(fine, default=0)]]


def _outputs_of(net, layers, size):
    """[(layer, shape of its output; () of a tuple)] for an image, in the order they end."""
    found = []

    def note(layer, _, output):
        found.append((layer, tuple(getattr(output, "shape", ()))))

    with hooked(layers, note):
        check_size(net, size)
    return found


@contextlib.contextmanager
def hooked(layers, hook):
    """While it lasts, `hook(layer, inputs, output)` is called after each of `layers`."""
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(layer.register_forward_hook(hook))
        yield


class FeatureMap(NamedTuple):
    """A module whose output is a map of the image, (N, C, side, side), or channels last."""

    module: nn.Module
    side: int
    channels_last: bool

    def first(self, output: torch.Tensor) -> torch.Tensor:
        """The module's `output` as (N, C, side, side)."""
        return output.permute(0, 3, 1, 2) if self.channels_last else output


def feature_maps(net: nn.Module, size: int) -> list[FeatureMap]:
    """Every module whose output the network goes on with as a map of the image, in the order they
    end; the last one is Grad-CAM's. A module that runs twice is listed twice.

    A block counts as a whole, and so does a sequence of blocks; what lies inside a block (a branch,
    an attention matrix) does not. UserError where the head's input is a list of tokens, as in a
    vision transformer.
    """
    names = {module: name for name, module in net.named_modules() if name}
    maps = _outputs_of(net, names, size)
    maps = maps[: [module for module, _ in maps].index(head(net))]
    inside = tuple(
        f"{names[module]}."
        for module, shape in maps
        if len(shape) == 4 and type(module).forward is not nn.Sequential.forward
    )
    outside = [(m, shape) for m, shape in maps if not names[m].startswith(inside)]
    # VGG's pool makes 7 x 7 of whatever comes
    pools = nn.AdaptiveAvgPool2d
    whole = [k for k, (m, s) in enumerate(outside) if _layout(s) and not isinstance(m, pools)]
    after = outside[whole[-1] + 1 :] if whole else []
    if not whole or any(len(shape) == 3 and shape[1] > 1 for _, shape in after):
        raise UserError(
            "Grad-CAM needs a convolutional feature map, and this backbone (a transformer on "
            "tokens) has none"
        )
    places = (outside[k] for k in whole)
    return [FeatureMap(m, shape[2], _layout(shape) == "channels last") for m, shape in places]


def _layout(shape):
    """How a map of a square image lies in memory; "" for another shape."""
    if len(shape) != 4 or shape[0] != 1 or shape[2] == 1:  # more rows than images: windows
        return ""
    if shape[2] == shape[3]:
        return "channels first"
    return "channels last" if shape[1] == shape[2] else ""
