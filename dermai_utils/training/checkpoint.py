"""Checkpoints: whole or refused, tensors and plain Python only, and the trained network in one."""

import contextlib
import io
import pickle
import signal

import torch

from dermai_utils import files
from dermai_utils.config import DEFAULTS, UserError, supported
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


def check_settings(before, now, folder) -> None:
    """UserError that names the settings in which `now` differs from those `before` of the run in
    `folder`."""
    before = DEFAULTS | supported(before, folder)
    changed = [f"{k} was {before.get(k)}, is {now[k]}" for k in now if before.get(k) != now[k]]
    if changed:
        raise UserError(
            f"{folder} holds an unfinished run with other settings ({'; '.join(changed)}): "
            f"give them again to go on, another run_name to start afresh, or delete {folder}"
        )


# A run that moves to another machine.


def machine(accelerator) -> dict:
    """The device, the precision and the number of processes, of which a run may have others when it
    goes on."""
    precision = accelerator.mixed_precision
    return {
        "device": accelerator.device.type,
        "precision": "fp32" if precision == "no" else precision,
        "processes": accelerator.num_processes,
    }


def moved(before, now) -> str:
    """What has changed from one `machine` (None: not known) to another, as the end of a line."""
    if before is None:
        return f" ({_in_words(now)}; on what before is not known)"
    if before == now:
        return ""
    return (
        f" ({_in_words(before)} before, {_in_words(now)} now: the same batches and learning rates, "
        "but other rounding and other draws of dropout)"
    )


def _in_words(machine):
    n = machine["processes"]
    return f"{machine['device']} {machine['precision']}" + (f" x {n} processes" if n > 1 else "")


def random_state(device) -> dict:
    """The state of the random numbers of the CPU and of the `device` in use."""
    own = {} if device.type == "cpu" else {device.type: getattr(torch, device.type).get_rng_state()}
    return {"rng": torch.get_rng_state(), "device_rng": own}


def set_random_state(state, device) -> None:
    """Go on with the draws of a checkpoint; the device's own as they are, where another kind left
    it."""
    torch.set_rng_state(state["rng"])
    of_all_gpus = state.get("cuda_rng", [])  # as version 0.1.0 had it
    own = state.get("device_rng") or dict(zip(["cuda"], of_all_gpus, strict=False))
    if device.type in own:
        getattr(torch, device.type).set_rng_state(own[device.type])


def fitted(state, optimizer) -> dict:
    """An optimizer's state with the way of computing that `optimizer` has on its device."""
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    return state | {"param_groups": [group | {"fused": own["fused"]} for group, own in groups]}


# Networks.


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


def kept_epoch(folder) -> int:
    """The epoch, from 1, whose weights are in `folder`'s best.pt."""
    return load(folder / "best.pt")["about"]["metrics"]["epoch"]


def checksums(cfg) -> str:
    """The checksum of the run's best.pt, or those of an ensemble's members."""
    paths = [folder / "best.pt" for folder in cfg.member_dirs]
    return " ".join(files.checksum(path) if path.exists() else "missing" for path in paths)


def join_members(cfg) -> None:
    """Write the config.json of a run that is the mean of others.

    They share the present split. Either all of them hold out the same images, or together they hold
    out each fold, the first one fold 0: a UserError names the one that doesn't fit, or the folds
    that are missing.
    """
    folders, split = cfg.member_dirs, files.checksum(cfg.split_file)
    settings = [files.read_json(folder / "config.json") or {} for folder in folders]
    for folder, member in zip(folders, settings, strict=True):
        if not (folder / "best.pt").exists():
            raise UserError(
                f"ensemble: {cfg.show(folder)} holds no trained run; "
                "train it first, or leave it out"
            )
        for name in ("split file", "folds", "image_size"):
            if member.get(name) != settings[0].get(name):
                raise UserError(
                    f"ensemble: {cfg.show(folder)} and {cfg.show(folders[0])} differ in {name}: "
                    "their predictions can't be averaged honestly"
                )
        if member.get("split file") != split:
            raise UserError(
                f"ensemble: {cfg.show(folder)} was trained on another split than the one that is "
                "there now, so it may have learned what it would be judged on: train it anew, or "
                "give data, test, extra and the settings of the split as they were"
            )
    held_out = {member.get("fold", 0) for member in settings}
    missing = sorted(set(range(settings[0].get("folds", 0))) - held_out)
    if len(held_out) > 1 and missing:
        raise UserError(
            f"ensemble: no run holds out fold {', '.join(map(str, missing))}, whose images would "
            "be judged by models that learned them: train and add those, or runs of one fold alone"
        )
    first = settings[0].get("fold", 0)
    if len(held_out) > 1 and first:
        raise UserError(
            f"ensemble: {cfg.show(folders[0])} holds out fold {first}: begin with a run that holds "
            "out fold 0, by which Grad-CAM and predictions go"
        )
    fold = -1 if len(held_out) > 1 else first
    if cfg.fold != fold:
        whole = "each of them another fold" if fold < 0 else f"fold {fold}"
        raise UserError(
            f"fold={cfg.fold}: the runs of {cfg.show(cfg.run_dir)} hold out {whole}, so the others "
            "learned its images; leave fold out, or give the run_name of a single one"
        )
    own = {name: getattr(cfg, name) for name in ("run_name", "tta", "seeds", "seed")}
    own["ensemble"] = ",".join(f.name for f in folders) if cfg.ensemble else ""
    files.write_json(cfg.run_dir / "config.json", settings[0] | own | {"fold": fold})


def held_out_folds(cfg) -> list[int]:
    """The fold that each of the run's networks did not learn from, as its config.json says."""
    return [(files.read_json(f / "config.json") or {}).get("fold", 0) for f in cfg.member_dirs]


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
