"""Checkpoints: whole or refused, tensors and plain Python only, and the trained network in one."""

import contextlib
import io
import pickle
import signal

import torch

from dermai_utils import files
from dermai_utils.config import UserError
from dermai_utils.training import model


def save(path, state) -> None:
    """torch.save, atomically, with the checksum of its bytes at the end."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    with files.atomic(path, "wb") as file:
        file.write(data + files.digest(data))


def load(path, device="cpu") -> dict:
    """What `save` wrote; ValueError where the file isn't whole. No code in it is executed."""
    with open(path, "rb") as file:
        content = file.read()
    data, digest = content[:-32], content[-32:]
    if files.digest(data) != digest:
        raise ValueError("its checksum doesn't match its content")
    try:
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as reason:
        line = str(reason).splitlines()[0][:100]
        raise ValueError(f"it holds no checkpoint ({line})") from None


def load_network(cfg, folder, device="cpu") -> torch.nn.Module:
    """The network of `folder`'s best.pt, on `device`, in evaluation mode.

    UserError where there is no such run, its file is broken, or it was trained at another size.
    """
    path = folder / "best.pt"
    try:
        state = load(path, device)
    except FileNotFoundError:
        raise UserError(
            f"{cfg.show(path)}: there is no such run; train it first, or name another"
        ) from None
    except ValueError as reason:
        raise UserError(f"{path}: {reason}; delete it and train again") from None
    size, backbone = state["about"]["image_size"], state["about"]["backbone"]
    if size != cfg.image_size:
        raise UserError(f"{cfg.show(folder)} was trained at {size} px, not {cfg.image_size}")
    network = model.build(backbone, "none", size)
    network.load_state_dict(state["model"])
    return network.to(device, memory_format=torch.channels_last).eval()


def checksums(cfg) -> str:
    """The checksum of the run's best.pt, or those of an ensemble's members."""
    paths = [folder / "best.pt" for folder in cfg.member_dirs]
    return " ".join(files.checksum(path) if path.exists() else "missing" for path in paths)


def join_members(cfg) -> None:
    """Write the config.json of a run that is the mean of others.

    All of them must have been held out from the same images: a UserError names the one that wasn't.
    """
    folders = cfg.member_dirs
    settings = [files.read_json(folder / "config.json") or {} for folder in folders]
    for folder, member in zip(folders, settings, strict=True):
        if not (folder / "best.pt").exists():
            raise UserError(
                f"ensemble: {cfg.show(folder)} holds no trained run; "
                "train it first, or leave it out"
            )
        for name in ("split file", "folds", "fold", "image_size"):
            if member.get(name) != settings[0].get(name):
                raise UserError(
                    f"ensemble: {cfg.show(folder)} and {cfg.show(folders[0])} differ in {name}: "
                    "their predictions can't be averaged honestly"
                )
    own = {"run_name": cfg.run_name, "tta": cfg.tta, "ensemble": ",".join(f.name for f in folders)}
    files.write_json(cfg.run_dir / "config.json", settings[0] | own)


class _Flag:
    is_set = False


@contextlib.contextmanager
def stop_after_step():
    """Ctrl-C and the notebook's stop button set a flag that the loop reads after each step.

    A second one stops at once.
    """
    flag = _Flag()

    def on_signal(*_):
        if flag.is_set:
            raise KeyboardInterrupt
        flag.is_set = True

    try:
        before = signal.signal(signal.SIGINT, on_signal)
    except ValueError:  # not the main thread: nothing to catch there
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
