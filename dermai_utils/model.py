"""A pretrained backbone by name, with a new head of seven outputs."""

import contextlib
import difflib
import re
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn
from tqdm.auto import tqdm

from dermai_utils.config import CLASSES, UserError


def build(backbone: str, weights: str = "none", image_size: int = 224, seed: int = 0) -> nn.Module:
    """A classifier with 7 logits; `model.mean` and `model.std` are what its weights expect of RGB in 0..1.

    backbone: a torchvision classifier, or timm:NAME. weights: imagenet, none, or a .safetensors or .pth file.
    """
    torch.manual_seed(seed)
    make = _timm if backbone.startswith("timm:") else _torchvision
    with _told_in_pixels(backbone, image_size):
        model = make(backbone.removeprefix("timm:"), weights == "imagenet", image_size)
    for layer in (layer for name in model.head_names for layer in model.get_submodule(name).modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):  # timm's own start for 1,000 classes gives seven of them logits of +-10
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if weights not in ("imagenet", "none"):
        load_backbone(model, weights)
    check_size(model, backbone, image_size)
    return model


def check_size(model: nn.Module, backbone: str, image_size: int) -> None:
    """A UserError where the network cannot take such images: patches that don't divide them, too many halvings."""
    with _told_in_pixels(backbone, image_size), torch.inference_mode():
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    model.train()


@contextlib.contextmanager
def _told_in_pixels(backbone, image_size):
    try:
        yield
    except (RuntimeError, AssertionError, ValueError) as reason:
        line = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        raise UserError(
            f"backbone={backbone}: it takes no images of {image_size} px ({line}); give image_size=224, or another backbone"
        ) from None


def _torchvision(name, pretrained, image_size):
    from torchvision import models

    names = [n for n in models.list_models(module=models) if not n.startswith("quantized")]
    if name not in names:
        raise UserError(f"backbone={name!r}: no such torchvision classifier; it has {', '.join(names)}; or give timm:NAME")
    known = models.get_model_weights(name).DEFAULT
    options = {"weights": known} if pretrained else {"weights": None}
    if name.startswith("vit_") and not pretrained:
        options["image_size"] = image_size  # its position table has one entry a patch
    if name in ("googlenet", "inception_v3") and not pretrained:
        options["init_weights"] = False  # theirs takes a minute
    model = _fetched(lambda: models.get_model(name, **options), name)
    for extra in ("AuxLogits", "aux1", "aux2"):  # Inception's and GoogLeNet's training-only heads
        if hasattr(model, extra):
            setattr(model, extra, None)
            model.aux_logits = False
    preset = known.transforms()
    model.mean, model.std = tuple(preset.mean), tuple(preset.std)
    _replace_head(model)
    return model


def _timm(name, pretrained, image_size):
    import timm

    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), 5))
        raise UserError(f"backbone='timm:{name}': timm has no such model; near: {near or 'none, see timm.list_models()'}")
    fixed = {"img_size": image_size} if re.match("vit|deit|swin|beit|eva|cait", name) else {}
    model = _fetched(lambda: timm.create_model(name, pretrained=pretrained, num_classes=len(CLASSES), **fixed), name)
    model.mean, model.std = tuple(model.default_cfg["mean"]), tuple(model.default_cfg["std"])
    last = model.get_classifier()  # a distilled transformer has two
    last = last if isinstance(last, tuple | list) else [last]
    model.head_names = [n for n, m in model.named_modules() if any(m is layer for layer in last)]
    return model


def _fetched(make, name):
    try:
        return make()
    except (OSError, RuntimeError) as reason:
        line = str(reason).strip().splitlines()[0]
        raise UserError(
            f"{name}: its ImageNet weights could not be fetched ({line}); go online, or give weights=FILE or none"
        ) from None


def _replace_head(model):
    """Swap the last layer with 1,000 outputs for one with seven."""
    name, old = [(n, m) for n, m in model.named_modules() if getattr(m, "out_features", getattr(m, "out_channels", 0)) == 1000][
        -1
    ]
    if isinstance(old, nn.Conv2d):  # SqueezeNet
        new = nn.Conv2d(old.in_channels, len(CLASSES), old.kernel_size)
    else:
        new = nn.Linear(old.in_features, len(CLASSES), bias=old.bias is not None)
    model.get_submodule(name.rpartition(".")[0])._modules[name.rpartition(".")[2]] = new
    model.head_names = [name]


def load_backbone(model: nn.Module, path) -> None:
    """Load all but the head from a weights file; a file whose keys or shapes don't match is a UserError that lists them."""
    given, wanted = read_weights(path), model.state_dict()
    head = {key for key in wanted if key.startswith(tuple(f"{name}." for name in model.head_names))}
    wrong = [f"missing {key}" for key in wanted.keys() - given.keys() - head if not key.endswith("num_batches_tracked")]
    wrong += [f"unexpected {key}" for key in given.keys() - wanted.keys()]
    wrong += [
        f"{key} is {tuple(given[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in (given.keys() & wanted.keys()) - head
        if given[key].shape != wanted[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 12} more" if len(wrong) > 12 else ""
        raise UserError(f"{path}: these weights are not for this backbone: {'; '.join(sorted(wrong)[:12])}{more}")
    fits = {key for key in head & given.keys() if given[key].shape == wanted[key].shape}
    model.load_state_dict({key: given[key].float() if given[key].is_floating_point() else given[key]
                           for key in (given.keys() & wanted.keys()) - (head - fits)}, strict=False)  # fmt: skip
    print(f"model: {len(given):,} tensors from {Path(path).name}; {'its head too' if fits else 'a new head'}")


def read_weights(path) -> dict:
    """The tensors in a .safetensors or .pth file, by name; a pickle is never executed (weights_only)."""
    try:
        if str(path).endswith(".safetensors"):
            given = safetensors.torch.load_file(path)
        else:
            given = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"weights={path}: no such file; give imagenet, none, or a .safetensors or .pth file") from None
    except Exception as reason:  # each format has errors of its own; none of them is the program's
        line = (str(reason).strip() or type(reason).__name__).splitlines()[0][:160]
        raise UserError(
            f"weights={path}: cannot be read as tensors ({line}); expected a state_dict, not a whole model"
        ) from None
    given = given.get("model", given.get("state_dict", given)) if isinstance(given, dict) else None
    if not isinstance(given, dict) or not all(isinstance(value, torch.Tensor) for value in given.values()):
        raise UserError(f"weights={path}: holds no state_dict of tensors; save model.state_dict()")
    return given


def head(model: nn.Module) -> nn.Module:
    """The layer that gives the logits."""
    return model.get_submodule(model.head_names[0])


def weighted_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that have weights of their own."""
    return [layer for layer in model.modules() if any(True for _ in layer.parameters(recurse=False))]


@torch.inference_mode()
def early_layers(model: nn.Module, image_size: int) -> list[nn.Module]:
    """The layers with weights, in the order they run, up to the last whose maps have a quarter of the image's side or more.

    None of a transformer's, whose patches are smaller than that from the start.
    """
    ran = []
    hooks = [layer.register_forward_hook(lambda layer, _, out: ran.append((layer, out))) for layer in weighted_layers(model)]
    check_size(model, "", image_size)
    for hook in hooks:
        hook.remove()
    fine = [k for k, (_, out) in enumerate(ran, 1) if out.ndim == 4 and 4 * out.shape[2] >= image_size]
    return [layer for layer, _ in ran[: max(fine, default=0)]]


@torch.inference_mode()
def predict(model: nn.Module, batches, rows, batch_size: int, with_features: bool = False, views: int = 1):
    """(N, 7) float32 logits for rows of the pixel array, in order, averaged over `views` of each (see `turned`).

    With `with_features` the head's (N, D) inputs too, of the plain view.
    """
    model.eval()
    logits, features = [], []
    hook = head(model).register_forward_pre_hook(lambda module, args: features.append(args[0]))
    try:
        jobs = [(rows[k : k + batch_size], None) for k in range(0, len(rows), batch_size)]
        bar = tqdm(batches.stream(jobs), "predict", len(jobs), unit="batch", delay=2, leave=False)
        for number, images in enumerate(bar, 1):
            logits.append(sum(model(turned(images, view)).float() for view in range(views)) / views)
            del features[number if with_features else 0 :]
    finally:
        hook.remove()
    logits = torch.cat(logits).cpu().numpy() if logits else np.zeros((0, len(CLASSES)), np.float32)
    if not with_features:
        return logits
    pooled = [f.float().flatten(2).mean(2) if f.ndim == 4 else f.float() for f in features]
    return logits, torch.cat(pooled).cpu().numpy()


def turned(images: torch.Tensor, view: int) -> torch.Tensor:
    """One of the eight flips and quarter turns of square images (B, 3, S, S); 0 is the images as they are."""
    order = (0, 2, 4, 6, 1, 3, 5, 7)[view]  # the first two: upright and upside down; the first four: both mirrored too
    images = images.flip(3) if order >= 4 else images
    return images.rot90(order % 4, (2, 3)) if order % 4 else images


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, 7) logits -> float64 probabilities that sum to 1."""
    return torch.from_numpy(logits).double().softmax(dim=1).numpy()
