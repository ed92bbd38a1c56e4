"""A pretrained backbone by name, with a new head of seven outputs."""

import contextlib
import difflib
import functools
import pickle
import re
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import requests
import safetensors.torch
import torch
from torch import nn

from dermai_utils import files
from dermai_utils.config import CLASSES, UserError

UNREADABLE = (OSError, RuntimeError, EOFError)  # from the hubs, or from a damaged file of theirs
UNREADABLE += (pickle.UnpicklingError, safetensors.SafetensorError)
HUB_TIMEOUT = 5.0  # seconds to find out that Hugging Face cannot be reached
THREADS = torch.get_num_threads()  # all that this process may use
# parameters; the layers of a smaller network are so short that two threads only wait for each other
SMALL = 600_000


def build(backbone: str, weights: str = "none", image_size: int = 224, seed: int = 0) -> nn.Module:
    """A classifier with 7 logits; `model.mean` and `model.std` are what it expects of RGB in 0..1.

    backbone: a torchvision classifier, or timm:NAME. weights: imagenet, none, or a .safetensors or
    .pth file. UserError where one of them can't be had or doesn't fit. From here on torch computes
    with one thread for a small network (under 600,000 parameters), else with all it may use.
    """
    torch.manual_seed(seed)
    check_name(backbone)
    make = _timm if backbone.startswith("timm:") else _torchvision
    with _size_errors(backbone, image_size):
        model = make(backbone.removeprefix("timm:"), weights == "imagenet", image_size)
    for layer in (layer for head in heads(model) for layer in head.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # timm's own start for 1,000 classes gives seven of them logits of +-10
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if weights not in ("imagenet", "none"):
        load_backbone(model, weights)
    check_size(model, backbone, image_size)
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    torch.set_num_threads(1 if small else THREADS)
    return model


def check_name(backbone: str) -> None:
    """UserError for a backbone that there is not; builds none."""
    name = backbone.removeprefix("timm:")
    if name != backbone:
        import timm

        if not timm.is_model(name):
            near = ", ".join(difflib.get_close_matches(name, timm.list_models(), 5))
            raise UserError(
                f"backbone={backbone!r}: timm has no such model; "
                f"near: {near or 'none, see timm.list_models()'}"
            )
        return
    from torchvision import models

    names = [n for n in models.list_models(module=models) if not n.startswith("quantized")]
    if name not in names:
        raise UserError(
            f"backbone={name!r}: no such torchvision classifier; it has {', '.join(names)}; "
            "or give timm:NAME"
        )


def check_size(model: nn.Module, backbone: str, image_size: int) -> None:
    """UserError where the network cannot take such images: odd patches, too many halvings."""
    device = next(model.parameters()).device
    with _size_errors(backbone, image_size), torch.inference_mode():
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    model.train()


@contextlib.contextmanager
def _size_errors(backbone, image_size):
    try:
        yield
    except (RuntimeError, AssertionError, ValueError) as reason:
        raise UserError(
            f"backbone={backbone}: it takes no images of {image_size} px ({_first_line(reason)}); "
            "give image_size=224, or another backbone"
        ) from None


def _first_line(reason):
    return (str(reason).strip() or type(reason).__name__).splitlines()[0]


def _torchvision(name, pretrained, image_size):
    from torchvision import models

    default = models.get_model_weights(name).DEFAULT
    options = {"weights": default if pretrained else None}
    if name.startswith("vit_") and not pretrained:
        options["image_size"] = image_size  # its position table has one entry a patch
    if name in ("googlenet", "inception_v3") and not pretrained:
        options["init_weights"] = False  # theirs takes a minute
    find = functools.partial(_in_torch_hub, default.url if pretrained else None)
    model = _loaded(lambda path: models.get_model(name, **options), name, find)
    for extra in ("AuxLogits", "aux1", "aux2"):  # Inception's and GoogLeNet's training-only heads
        if hasattr(model, extra):
            setattr(model, extra, None)
            model.aux_logits = False
    preset = default.transforms()
    model.mean, model.std = tuple(preset.mean), tuple(preset.std)
    _replace_head(model)
    return model


def _timm(name, pretrained, image_size):
    import timm

    options = {"pretrained": pretrained, "num_classes": len(CLASSES)}
    if re.match("vit|deit|swin|beit|eva|cait", name):
        options["img_size"] = image_size
    cfg = timm.get_pretrained_cfg(name) if pretrained else None

    def make(path):
        if pretrained and not path:
            _check_hub(name, cfg)
        # the file itself, where it is: to ask for a newer one takes a minute without a network
        known = path and not cfg.custom_load
        own = {"pretrained_cfg_overlay": {"file": str(path)}} if known else {}
        return timm.create_model(name, **options, **own)

    model = _loaded(make, name, functools.partial(_in_hugging_face, cfg))
    model.mean, model.std = tuple(model.default_cfg["mean"]), tuple(model.default_cfg["std"])
    last = model.get_classifier()  # a distilled transformer has two
    last = last if isinstance(last, tuple | list) else [last]
    model.head_names = [n for n, m in model.named_modules() if any(m is layer for layer in last)]
    return model


def _loaded(make, name, find):
    """`make(find())`: a network from the file of its weights in the cache, None where it must be
    fetched. A damaged one is fetched again, once."""
    for first in (True, False):
        path = find()
        try:
            return make(path)
        except UNREADABLE as reason:
            if path is None:
                raise _not_fetched(name, reason) from None
            if not first or _has_checksum(path) is not False:
                raise UserError(
                    f"{name}: its ImageNet weights in {path} cannot be read "
                    f"({_first_line(reason)}); delete that file and run this again"
                ) from None
        print(f"model: {path} is damaged (not the checksum in its name): fetching it again")
        path.resolve().unlink()
        path.unlink(missing_ok=True)


def _not_fetched(name, reason) -> UserError:
    return UserError(
        f"{name}: its ImageNet weights could not be fetched ({_first_line(reason)}); "
        "go online, or give weights=FILE or none"
    )


def _has_checksum(path) -> bool | None:
    """Whether a file has the SHA-256 that its name ends in or is; None where it names none."""
    digits = re.search(r"(?:-|^)([0-9a-f]{8,64})(?:\.\w+)?$", path.resolve().name)
    return files.checksum(path).startswith(digits[1]) if digits else None


def _in_torch_hub(url):
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url or "").path).name)
    return path if path.is_file() else None


def _in_hugging_face(cfg):
    """The file of timm's weights in the cache of the hub that they are fetched from."""
    if cfg is None or not cfg.hf_hub_id:
        return _in_torch_hub(cfg and cfg.url)
    for name in filter(None, (cfg.hf_hub_filename, "model.safetensors", "pytorch_model.bin")):
        path = huggingface_hub.try_to_load_from_cache(cfg.hf_hub_id, name)
        if isinstance(path, str):
            return Path(path)


def _check_hub(name, cfg):
    """UserError at once where Hugging Face cannot be reached: its client tries for a minute."""
    if cfg.hf_hub_id and not huggingface_hub.constants.HF_HUB_OFFLINE:
        try:
            requests.head(huggingface_hub.constants.ENDPOINT, timeout=HUB_TIMEOUT)
        except requests.RequestException as reason:
            raise _not_fetched(name, f"{type(reason).__name__}") from None


def _replace_head(model):
    """Swap the last layer with 1,000 outputs for one with seven."""
    layers = [(n, m) for n, m in model.named_modules() if _outputs(m) == 1000]
    name, old = layers[-1]
    if isinstance(old, nn.Conv2d):  # SqueezeNet
        new = nn.Conv2d(old.in_channels, len(CLASSES), old.kernel_size)
    else:
        new = nn.Linear(old.in_features, len(CLASSES), bias=old.bias is not None)
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent)._modules[child] = new
    model.head_names = [name]


def _outputs(layer):
    return getattr(layer, "out_features", getattr(layer, "out_channels", 0))


def load_backbone(model: nn.Module, path) -> None:
    """Load all but the head from a weights file; UserError that lists what differs."""
    given, wanted = read_weights(path), model.state_dict()
    prefixes = tuple(f"{name}." for name in model.head_names)
    head = {key for key in wanted if key.startswith(prefixes)}
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
    state = {k: v.float() if v.is_floating_point() else v for k, v in given.items() if k in fits}
    model.load_state_dict(state, strict=False)
    with_head = "its head too" if fits & head else "a new head"
    print(f"model: {len(given):,} tensors from {Path(path).name}; {with_head}")


def read_weights(path) -> dict:
    """The tensors in a .safetensors or .pth file, by name; a pickle is never executed."""
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
    if isinstance(state, dict) and all(str(key).startswith("module.") for key in state):
        state = {key.removeprefix("module."): x for key, x in state.items()}  # of DataParallel
    if not all(isinstance(value, torch.Tensor) for value in values):
        raise UserError(f"weights={path}: holds no state_dict of tensors; save model.state_dict()")
    return state


# A network's layers.


def heads(model: nn.Module) -> list[nn.Module]:
    """The layers that give the logits: one, or two of a distilled transformer."""
    return [model.get_submodule(name) for name in model.head_names]


def head(model: nn.Module) -> nn.Module:
    """The first of the `heads`, whose input is the features."""
    return heads(model)[0]


def weighted_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that have weights of their own."""
    return [layer for layer in model.modules() if any(True for _ in layer.parameters(False))]


@torch.inference_mode()
def early_layers(model: nn.Module, image_size: int) -> list[nn.Module]:
    """The layers with weights, in the order they run, up to the last whose maps have a quarter of
    the image's side or more.

    None of a transformer's, whose patches are smaller than that from the start.
    """
    outputs = []
    with hooked(weighted_layers(model), lambda layer, _, out: outputs.append((layer, out))):
        check_size(model, "", image_size)
    fine = [
        k for k, (_, x) in enumerate(outputs, 1) if x.ndim == 4 and 4 * x.shape[2] >= image_size
    ]
    return [layer for layer, _ in outputs[: max(fine, default=0)]]


@contextlib.contextmanager
def hooked(layers, hook):
    """While it lasts, `hook` sees what each of `layers` gives."""
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
