"""A backbone's weights: from a file, or fetched by torchvision and timm through their caches."""

from pathlib import Path

import torch
from torch import nn

from dermai_utils.basics import UserError, counted

HUB_TIMEOUT = 5.0  # seconds to find out that Hugging Face cannot be reached


def load(model: nn.Module, path, heads) -> None:
    """Load a weights file into a network: all but its `heads`, and those too where they fit.

    UserError that lists what differs. A run's best.pt is such a file too.
    """
    given = {key.removeprefix("backbone."): value for key, value in read(path).items()}
    names = tuple(f"{n}." for n, m in model.named_modules() if any(m is h for h in heads))
    head = {key: value for key, value in model.state_dict().items() if key.startswith(names)}
    fits = all(key in given and given[key].shape == value.shape for key, value in head.items())
    left_out = ("normalise.",) if fits else ("normalise.", *names)
    state = {key: value for key, value in given.items() if not key.startswith(left_out)}
    try:
        model.load_state_dict(state if fits else state | head)
    except RuntimeError as reason:  # a line for missing, unexpected and other tensors each
        wrong = " ".join(line.strip() for line in str(reason).splitlines()[1:])
        raise UserError(f"{path}: these weights are not for this backbone: {wrong:.600}") from None
    which = "its head too" if fits else "a new head"
    print(f"weights: {counted(len(given), 'tensor')} from {Path(path).name}; {which}")


def read(path) -> dict:
    """The tensors in a .safetensors or .pth file, by name; a pickle is never executed."""
    import safetensors.torch

    try:
        if str(path).endswith(".safetensors"):
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as reason:  # each format has errors of its own; none of them is the program's
        raise UserError(
            f"weights={path}: cannot be read as tensors ({first_line(reason)[:160]}); "
            "expected a .safetensors or .pth file with a state_dict, not a whole model"
        ) from None
    if isinstance(state, dict):
        state = state.get("model", state.get("state_dict", state))
    values = state.values() if isinstance(state, dict) else [None]
    if not all(isinstance(value, torch.Tensor) for value in values):
        raise UserError(f"weights={path}: holds no state_dict of tensors; save model.state_dict()")
    if all(key.startswith("module.") for key in state):  # DataParallel's
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


# ImageNet weights, which a library fetches.


def fetched(name, make, cache=""):
    """`make()`, which fetches weights; UserError where they cannot be had or read."""
    import pickle

    import safetensors

    try:
        return make()
    except OSError as reason:  # urllib's, requests' and Hugging Face's errors are all of these
        raise UserError(
            f"{name}: its ImageNet weights could not be had ({type(reason).__name__}); "
            "go online, or give as weights a file or none"
        ) from None
    except (RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as reason:
        raise UserError(
            f"{name}: its ImageNet weights in {cache} cannot be read ({first_line(reason)}): "
            "delete that file and try again"
        ) from None


def in_cache(cfg):
    """The file of timm's weights in Hugging Face's cache, else None; an OSError at once where it
    must be fetched and the hub cannot be reached.

    Its client would try for a minute, and even for a file in the cache ask for a newer one.
    """
    import requests
    from huggingface_hub import constants, try_to_load_from_cache

    if not cfg.hf_hub_id or cfg.custom_load:
        return None
    path = try_to_load_from_cache(cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors")
    if isinstance(path, str):  # else it is not there
        return path
    if not constants.HF_HUB_OFFLINE:
        requests.head(constants.ENDPOINT, timeout=HUB_TIMEOUT)


def first_line(reason) -> str:
    """The first line of an error, or its name."""
    return (str(reason).strip() or type(reason).__name__).splitlines()[0]
