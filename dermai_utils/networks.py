"""A pretrained network by name, with a new last layer of seven outputs, and where its layers are.

Normalisation is the first layer: whatever uses the network gives it colours in 0..1.
"""

import contextlib
import difflib
import functools
import re
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from dermai_utils.basics import CLASSES, UserError

HUB_TIMEOUT = 5.0  # seconds to find out that Hugging Face cannot be reached


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
        load_weights(net, weights)
    check_size(net, size)
    return net


class Small(nn.Module):
    """The sample's network, 112,000 weights: four convolutions, whose last map has an eighth of the
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

        names = [n for n in models.list_models(module=models) if not n.startswith("quantized")]
        names, known = ["small", *names], backbone in ("small", *names)
    if not known:
        near = ", ".join(difflib.get_close_matches(name, names, 5)) or "none"
        raise UserError(
            f"backbone={backbone!r}: {library or 'torchvision'} has no such classifier; near: "
            f"{near}; give a classifier of torchvision, timm:NAME, or small"
        )


def check_size(net: nn.Module, size: int) -> None:
    """UserError where the network cannot take such images: odd patches, too many halvings."""
    parameter, was_training = next(net.parameters()), net.training
    name = getattr(net, "about", {}).get("backbone", type(net).__name__)
    with _size_errors(name, size), torch.inference_mode():
        logits = net.eval()(parameter.new_zeros(1, 3, size, size))
    net.train(was_training)
    if tuple(logits.shape) != (1, len(CLASSES)):
        raise UserError(
            f"{name}: expected {len(CLASSES)} logits an image, got {tuple(logits.shape)[1:]}; "
            f"give its last layer {len(CLASSES)} outputs"
        )


@contextlib.contextmanager
def _size_errors(backbone, size):
    try:
        yield
    except (RuntimeError, AssertionError, ValueError) as reason:
        raise UserError(
            f"backbone={backbone}: it takes no images of {size} px ({_first_line(reason)}); "
            "give size=224, or another backbone"
        ) from None


def _first_line(reason):
    return (str(reason).strip() or type(reason).__name__).splitlines()[0]


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
    model = _fetched(name, build, torch.hub.get_dir()) if pretrained else build()
    for extra in ("AuxLogits", "aux1", "aux2"):  # Inception's and GoogLeNet's training-only heads
        if hasattr(model, extra):
            setattr(model, extra, None)
            model.aux_logits = False
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
        path = _in_cache(name, timm.get_pretrained_cfg(name))
        own = {"pretrained_cfg_overlay": {"file": path}} if path else {}
        build = functools.partial(timm.create_model, name, **options, **own)
        model = _fetched(name, build, path or torch.hub.get_dir())
    return model, model.default_cfg["mean"], model.default_cfg["std"]


def _fetched(name, make, cache):
    """`make()`, which fetches weights; UserError where they cannot be had or read."""
    import pickle

    import safetensors

    try:
        return make()
    except OSError as reason:  # urllib's, requests' and Hugging Face's errors are all of these
        raise _not_had(name, _first_line(reason)) from None
    except (RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as reason:
        raise UserError(
            f"{name}: its ImageNet weights in {cache} cannot be read ({_first_line(reason)}): "
            "delete that file and try again"
        ) from None


def _not_had(name, why):
    return UserError(
        f"{name}: its ImageNet weights could not be had ({why}); "
        "go online, or give weights=FILE or none"
    )


def _in_cache(name, cfg):
    """The file of timm's weights in Hugging Face's cache; UserError at once where it must be
    fetched and the hub cannot be reached.

    Its client would try for a minute, and even for a file in the cache ask for a newer one.
    """
    import requests
    from huggingface_hub import constants, try_to_load_from_cache

    if not cfg.hf_hub_id or cfg.custom_load:
        return None
    names = (cfg.hf_hub_filename, "model.safetensors", "pytorch_model.bin")
    paths = (try_to_load_from_cache(cfg.hf_hub_id, name) for name in names if name)
    if path := next((path for path in paths if isinstance(path, str)), None):
        return path
    try:
        if not constants.HF_HUB_OFFLINE:
            requests.head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except requests.RequestException as reason:
        raise _not_had(name, type(reason).__name__) from None


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


# Weights from a file.


def load_weights(net: nn.Module, path) -> None:
    """Load a weights file into a `network`: all but the head, and the head where it fits.

    UserError that lists what differs. A run's best.pt is such a file too.
    """
    given = {key.removeprefix("backbone."): value for key, value in read_weights(path).items()}
    given = {key: value for key, value in given.items() if not key.startswith("normalise.")}
    wanted, layers = net.backbone.state_dict(), heads(net)
    names = [f"{n}." for n, m in net.backbone.named_modules() if any(m is h for h in layers)]
    head = {key for key in wanted if key.startswith(tuple(names))}
    missing = wanted.keys() - given.keys() - head
    wrong = [f"missing {key}" for key in missing if not key.endswith("num_batches_tracked")]
    wrong += [f"unexpected {key}" for key in given.keys() - wanted.keys()]
    shared = given.keys() & wanted.keys()
    fits = {key for key in shared if given[key].shape == wanted[key].shape}
    wrong += [
        f"{key} is {tuple(given[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in shared - head - fits
    ]
    if wrong:
        more = f" and {len(wrong) - 12} more" if len(wrong) > 12 else ""
        raise UserError(
            f"{path}: these weights are not for this backbone: "
            f"{'; '.join(sorted(wrong)[:12])}{more}"
        )
    state = {k: given[k].float() if given[k].is_floating_point() else given[k] for k in fits}
    net.backbone.load_state_dict(state, strict=False)
    with_head = "its head too" if fits & head else "a new head"
    print(f"weights: {len(given):,} tensors from {Path(path).name}; {with_head}")


def read_weights(path) -> dict:
    """The tensors in a .safetensors or .pth file, by name; a pickle is never executed."""
    import safetensors.torch

    try:
        if str(path).endswith(".safetensors"):
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"weights={path}: no such file; give imagenet, none, or a .safetensors or .pth file"
        ) from None
    except Exception as reason:  # each format has errors of its own; none of them is the program's
        raise UserError(
            f"weights={path}: cannot be read as tensors ({_first_line(reason)[:160]}); "
            "expected a state_dict, not a whole model"
        ) from None
    if isinstance(state, dict):
        state = state.get("model", state.get("state_dict", state))
    values = state.values() if isinstance(state, dict) else [None]
    if not all(isinstance(value, torch.Tensor) for value in values):
        raise UserError(f"weights={path}: holds no state_dict of tensors; save model.state_dict()")
    if all(key.startswith("module.") for key in state):  # DataParallel's
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


# A network's layers.


def heads(net: nn.Module) -> list[nn.Module]:
    """The layers that give the logits: the last one of seven outputs, and in a distilled
    transformer the one beside it. UserError for a network without such a layer."""
    layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    layers = {n: m for n, m in layers.items() if _outputs(m) == len(CLASSES)}
    if not layers:
        raise UserError(
            f"{type(net).__name__} has no layer of {len(CLASSES)} outputs: its last layer must "
            f"give one logit for each of {', '.join(CLASSES)}"
        )
    parent, last = list(layers)[-1].rpartition(".")[0], list(layers.values())[-1]
    same = (type(last), last.weight.shape)
    beside = [m for n, m in layers.items() if n.rpartition(".")[0] == parent]
    return [m for m in beside if (type(m), m.weight.shape) == same]


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
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
    """How a map of a square image lies in memory; "" for another shape."""
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
