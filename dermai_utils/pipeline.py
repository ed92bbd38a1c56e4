"""The order of the stages. `ensure(cfg, "split")` makes what is missing or out of date, and says why."""

import contextlib
import dataclasses
import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dermai_utils import files
from dermai_utils.config import DEFAULTS, UserError


@dataclass(frozen=True)
class Stage:
    """One step of the way: what runs it, the settings it depends on, the stages and files it reads, the files it makes."""

    module: str  # dermai_utils.<module>.run(cfg)
    fields: tuple  # settings that change what it makes
    reads: Callable  # cfg -> files of earlier stages, by content
    makes: Callable  # cfg -> files that must be there afterwards
    after: tuple = ()  # stages that come first
    always: bool = False  # it finds out itself, quickly, what there is to do


_TRAINING = (
    "image_size", "backbone", "weights", "imbalance", "deferred", "label_smoothing", "ema", "freeze", "head_rate", "schedule",
    "first_size", "augment", "optimizer", "epochs", "batch_size", "learning_rate", "weight_decay", "precision",
    "seed", "folds", "fold", "train_fraction", "run_name",
)  # fmt: skip

STAGES = {
    "download": Stage("download", (), lambda c: [], lambda c: [c.sources_file], always=True),
    "clean": Stage(
        "clean", ("image_size",), lambda c: [c.sources_file], lambda c: [c.table_file, c.rejected_file, c.pixels_file],
        after=("download",),
    ),
    "split": Stage(
        "split", ("split", "split_seed", "val_fraction", "test_fraction", "folds", "near_duplicates"),
        lambda c: [c.table_file, *filter(None, [c.near_duplicates_file])],
        lambda c: [c.split_file, c.audit_file], after=("clean",),
    ),
    "instant": Stage(
        "instant", ("image_size", "backbone", "weights", "train_fraction"), lambda c: [c.table_file, c.split_file],
        lambda c: [c.instant_file], after=("split",),
    ),
    "duplicates": Stage(
        "find_duplicates", ("backbone", "weights", "image_size"), lambda c: [c.table_file],
        lambda c: [c.found_duplicates_file], after=("clean",),
    ),
    "inflation": Stage(
        "inflation", ("backbone", "weights", "image_size", "near_duplicates"),
        lambda c: [c.table_file, *filter(None, [c.near_duplicates_file])], lambda c: [c.inflation_file], after=("clean",),
    ),
    "train": Stage(
        "train", _TRAINING, lambda c: [c.table_file, c.split_file],
        lambda c: [folder / name for folder in c.member_dirs for name in ("best.pt", "history.csv")], after=("split",),
    ),
    "evaluate": Stage(
        "report", ("run_name", "views"),  # the members are among the files it reads
        lambda c: [c.table_file, c.split_file, c.inflation_file, *(folder / "best.pt" for folder in c.member_dirs)],
        lambda c: [c.report_dir / "metrics.json", c.report_dir / "predictions.csv", c.report_dir / "model_card.md"],
        after=("train",),
    ),
    "gradcam": Stage(
        "explain", ("run_name", "seed", "masks"), lambda c: [c.member_dirs[0] / "best.pt", c.report_dir / "predictions.csv"],
        lambda c: [c.report_dir / "gradcam.png", c.report_dir / "report.html"], after=("evaluate",),
    ),
    "reference": Stage(
        "reference", ("run_name", "views"),
        lambda c: [c.table_file, c.split_file, *(folder / "best.pt" for folder in c.member_dirs),
                   c.report_dir / "predictions.csv", c.report_dir / "metrics.json"],
        lambda c: [c.report_dir / "reference.npz", c.report_dir / "reference.json"], after=("evaluate",),
    ),
}  # fmt: skip


def ensure(cfg, stage: str) -> list[Path]:
    """Make everything up to and with `stage` that is missing or out of date; returns the files the stage made.

    Both folders are this process's own meanwhile. Whatever the disk refuses is a UserError, as any wrong input is.
    """
    if stage not in STAGES:
        raise UserError(f"unknown stage {stage!r}: the stages are {', '.join(STAGES)}")
    if cfg.masks:  # told now, not after the training
        importlib.import_module("dermai_utils.masks").find(cfg.masks)
    with _alone(cfg):
        for name in order(stage):
            try:
                with _main_first(cfg, name):
                    _make(cfg, name)
            except OSError as reason:
                raise UserError(f"{name}: {_told(reason)}; put that right and run it again: what is finished is kept") from None
    return STAGES[stage].makes(cfg)


def _is_main() -> bool:
    """Whether this is the main one of accelerate's processes, or there are no others."""
    return os.environ.get("RANK", "0") == "0"


def _main_first(cfg, name):
    """Of accelerate's processes the main one makes a stage, and the others find it made; they train together."""
    if "RANK" not in os.environ or name == "train":
        return contextlib.nullcontext()
    from accelerate import PartialState

    return PartialState(cpu=cfg.device == "cpu").main_process_first()


def _told(reason):
    text = reason.strerror or (str(reason).strip() or type(reason).__name__).splitlines()[0]
    where = reason.filename2 or reason.filename  # of a rename, the name that was to be
    return f"{where}: {text}" if where else text


@contextlib.contextmanager
def _alone(cfg):
    """cache_dir and work_dir exist, can be written, are locked, and free of what killed processes left there."""
    if not _is_main():  # the main one stands for all
        yield
        return
    with contextlib.ExitStack() as held:
        sure = [_claim(folder, held) for folder in (cfg.cache, cfg.work)]
        if all(sure) and "RANK" not in os.environ:  # else others may be writing
            for folder in (cfg.cache, *cfg.cache.glob("*/"), cfg.pending_dir, cfg.work, cfg.run_dir, cfg.report_dir):
                files.sweep(folder)
        yield


def _claim(folder, held) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sure = held.enter_context(files.locked(folder))
        files.try_write(folder)
    except OSError as reason:
        raise UserError(f"{folder}: cannot write there ({_told(reason)}); give another cache_dir or work_dir") from None
    return sure


def order(stage: str) -> list[str]:
    """The stages that `stage` needs, in the order in which they are made, itself the last."""
    return [name for first in STAGES[stage].after for name in order(first)] + [stage]


def _make(cfg, name):
    if name == "train" and cfg.member_dirs != [cfg.run_dir]:
        _make_members(cfg)
        return
    stage = STAGES[name]
    run = importlib.import_module(f"dermai_utils.{stage.module}").run
    if stage.always:
        run(cfg)
        return
    marker = _marker(cfg, name)
    made_from = _made_from(cfg, stage)
    reasons = files.changes(marker, made_from, {field: DEFAULTS[field] for field in stage.fields})
    if not reasons:
        print(f"{name}: up to date, {cfg.show(stage.makes(cfg)[0])}")
        return
    if reasons != ["not made yet"]:
        print(f"{name}: making it again, because {', '.join(reasons)}")
        if name == "train" and _is_main():
            _set_aside(cfg)
    run(cfg)
    if _is_main():
        files.mark(marker, made_from, stage.makes(cfg))


def _make_members(cfg):
    """Train the runs of `seeds` that are missing; those of `ensemble` are there, or a UserError says which one isn't."""
    if not cfg.ensemble:
        for k, folder in enumerate(cfg.member_dirs):
            print(f"train: run {k + 1} of {cfg.seeds}, {folder.name}")
            _make(dataclasses.replace(cfg, seeds=1, seed=cfg.seed + k, run_name=folder.name), "train")
    if _is_main():
        importlib.import_module("dermai_utils.train").join_members(cfg)


def _made_from(cfg, stage):
    settings = dataclasses.asdict(cfg)
    return {field: settings[field] for field in stage.fields} | {
        cfg.show(p) if len(cfg.member_dirs) > 1 else p.name: _checksum(p) for p in stage.reads(cfg)
    }


def _checksum(path):
    return files.checksum(path) if path.exists() else None  # the stage itself says best what is missing


def _marker(cfg, name):
    folder = {"train": cfg.run_dir} | dict.fromkeys(("evaluate", "gradcam", "reference"), cfg.report_dir)
    return folder.get(name, cfg.work) / f".{name}.json"


def _set_aside(cfg):
    """A finished run that is to be made again isn't lost: it moves to <run_name>.previous."""
    previous = cfg.run_dir.with_name(f"{cfg.run_name}.previous")
    if previous.exists():
        shutil.rmtree(previous)
    cfg.run_dir.rename(previous)
    print(f"train: the finished run is kept as {cfg.show(previous)}")
