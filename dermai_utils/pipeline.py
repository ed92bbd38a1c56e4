"""The order of the stages. `ensure(cfg, "split")` makes what is missing or out of date, and says
why."""

import contextlib
import dataclasses
import functools
import importlib
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dermai_utils import files
from dermai_utils.config import DEFAULTS, UserError, did_you_mean, modernised


@dataclass(frozen=True)
class Stage:
    """A module with a `run(cfg)`, and all that what it makes depends on."""

    module: str
    fields: tuple  # the settings that change what it makes
    reads: Callable  # cfg -> files of earlier stages, by content
    makes: Callable  # cfg -> files that must be there afterwards
    after: tuple = ()  # stages that come first
    always: bool = False  # it finds out itself, quickly, what there is to do
    version: int = 0  # of the files' form, where it isn't that of version 0.1.0


def _members(cfg):
    return [folder / "best.pt" for folder in cfg.member_dirs]


def _own(cfg):
    """The user's own test set, where there is one: nothing is made again for an empty one."""
    with contextlib.suppress(FileNotFoundError):
        return [cfg.own_file] if cfg.own_file.read_bytes().count(b"\n") > 1 else []
    return []


def _near_duplicates(cfg):
    return [cfg.near_duplicates_file] if cfg.near_duplicates_file else []


_FEATURES = ("image_size", "backbone", "weights")
_TRAINING = (
    *_FEATURES,
    *("imbalance", "drw", "label_smoothing", "ema", "freeze", "head_rate", "schedule"),
    *("first_size", "augment", "epochs", "batch_size", "learning_rate", "weight_decay"),
    *("precision", "seed", "folds", "fold", "train_fraction", "extra_share", "run_name"),
)
STAGES = {
    "download": Stage(
        "data.download", (), lambda c: [], lambda c: [c.sources_file, c.rows_file], always=True
    ),
    "clean": Stage(
        "data.clean",
        ("image_size",),
        lambda c: [c.sources_file],
        lambda c: [c.table_file, c.rejected_file, c.data_file, c.pixels_file, c.own_file],
        after=("download",),
    ),
    "split": Stage(
        "data.split",
        (
            "split",
            "split_seed",
            "val_fraction",
            "test_fraction",
            "folds",
            "near_duplicates",
            "leaks",
        ),
        lambda c: [c.table_file, *_near_duplicates(c), *_own(c)],
        lambda c: [c.split_file, c.audit_file],
        after=("clean",),
    ),
    "linear_probe": Stage(
        "training.linear_probe",
        (*_FEATURES, "train_fraction", "fold"),
        lambda c: [c.table_file, c.split_file, *_own(c)],
        lambda c: [c.linear_probe_file],
        after=("split",),
        version=1,
    ),
    "near_duplicates": Stage(
        "report.near_duplicate_pairs",
        _FEATURES,
        lambda c: [c.table_file, *_own(c)],
        lambda c: [c.found_duplicates_file],
        after=("clean",),
    ),
    "leakage_effect": Stage(
        "training.leakage_effect",
        (*_FEATURES, "near_duplicates"),
        lambda c: [c.table_file, *_near_duplicates(c)],
        lambda c: [c.leakage_effect_file],
        after=("clean",),
        version=1,
    ),
    "train": Stage(
        "training.loop",
        _TRAINING,
        lambda c: [c.table_file, c.split_file],
        lambda c: [f / name for f in c.member_dirs for name in ("best.pt", "history.csv")],
        after=("split",),
    ),
    "evaluate": Stage(
        "report.evaluate",
        ("run_name", "tta"),  # what the members depend on is in their best.pt
        lambda c: [c.table_file, c.split_file, c.leakage_effect_file, *_members(c), *_own(c)],
        lambda c: [c.report_dir / f for f in ("metrics.json", "predictions.csv", "model_card.md")],
        after=("train",),
        version=2,
    ),
    "predictor": Stage(
        "predict.state",
        ("run_name", "tta"),
        lambda c: [
            *(c.table_file, c.split_file, *_members(c), *_own(c)),
            *(c.report_dir / name for name in ("predictions.csv", "metrics.json")),
        ],
        lambda c: [c.report_dir / f for f in ("predictor.npz", "predictor.json", "similar.json")],
        after=("evaluate",),
        version=3,
    ),
    "gradcam": Stage(  # and the report anew, with all that the stages before it found
        "report.gradcam",
        ("run_name", "seed"),
        lambda c: [
            *(_members(c)[0], c.report_dir / "predictions.csv"),
            c.report_dir / "similar.json",
        ],
        lambda c: [c.report_dir / "gradcam.png", c.report_dir / "report.html"],
        after=("predictor",),
        version=2,
    ),
}
RENAMED = {  # version 0.1.0's names
    "instant": "linear_probe",
    "duplicates": "near_duplicates",
    "inflation": "leakage_effect",
    "reference": "predictor",
}


def stage_name(word: str, others=()) -> str:
    """The stage that `word` means, or itself where it is one of `others`; an old name is announced.

    UserError for another word.
    """
    if word in RENAMED:
        print(f"stage {word} is now called {RENAMED[word]}")
        return RENAMED[word]
    if word not in (*STAGES, *others):
        hint = did_you_mean(word, (*STAGES, *others))
        raise UserError(
            f"unknown stage {word!r:.80}: {hint or 'expected ' + ', '.join((*STAGES, *others))}"
        )
    return word


def ensure(cfg, stage: str) -> list[Path]:
    """Make everything up to and with `stage` that is missing or out of date; returns the files the
    stage made.

    Both folders are locked meanwhile. Whatever the disk refuses, and too little memory, is a
    UserError, as any wrong input is.
    """
    stage = stage_name(stage)
    check(cfg, stage)
    with _own_folders(cfg):
        for name in order(stage):
            try:
                with _main_first(cfg, name):
                    _make(cfg, name)
            except (RuntimeError, MemoryError) as reason:  # torch's errors of memory are the first
                if not _memory_is_short(reason):
                    raise
                said = str(reason).partition(". ")[0] or "this machine's"
                raise UserError(
                    f"{name}: out of memory ({said}): "
                    f"give a batch_size under {cfg.batch_size}, or a smaller image_size; "
                    "what is finished is kept"
                ) from None
            except OSError as reason:
                raise UserError(
                    f"{name}: {_in_words(reason)}; put that right and run it again: "
                    "what is finished is kept"
                ) from None
    return STAGES[stage].makes(cfg)


def check(cfg, stage: str = "evaluate") -> None:
    """UserError, before a folder is made or a file is fetched, for what can be told of the folders
    of data and the backbone."""
    importlib.import_module("dermai_utils.data.download").check(cfg)
    computes = any("backbone" in STAGES[name].fields for name in order(stage))
    if computes and not all(path.exists() for path in _members(cfg)):
        importlib.import_module("dermai_utils.training.model").check_name(cfg.backbone)


def predictor(cfg):
    """The run's Predictor; makes the run, or the stage "predictor", where that is missing."""
    from dermai_utils.predict import predictor, state

    found = state.load(cfg)
    counted = (cfg.report_dir / "predictor.json").exists()  # not after another evaluation
    if found is None or (cfg.pixels_file.exists() and (found.outdated or not counted)):
        what = "of an earlier version" if found and found.outdated else "not ready for predictions"
        print(f"predict: run {cfg.run_name} is {what}: making what is missing")
        ensure(cfg, "predictor")
    return predictor.Predictor(cfg)


def _is_main() -> bool:
    """Whether this is the main one of accelerate's processes, or there are no others."""
    return os.environ.get("RANK", "0") == "0"


def _main_first(cfg, name):
    """Of accelerate's processes the main one makes a stage, and the others find it made; they train
    together."""
    if "RANK" not in os.environ or name == "train":
        return contextlib.nullcontext()
    from accelerate import PartialState

    return PartialState(cpu=cfg.device == "cpu").main_process_first()


def _memory_is_short(reason):
    said = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA and MPS, the CPU
    return isinstance(reason, MemoryError) or any(words in str(reason) for words in said)


def _in_words(reason):
    text = reason.strerror or (str(reason).strip() or type(reason).__name__).splitlines()[0]
    path = reason.filename2 or reason.filename  # of a rename, the name that was to be
    return f"{path}: {text}" if path else text


@contextlib.contextmanager
def _own_folders(cfg):
    """cache_dir and work_dir exist, can be written, are locked, and free of what killed processes
    left there."""
    if not _is_main():  # the main one stands for all
        yield
        return
    with _no_empty_folders(cfg), contextlib.ExitStack() as locks:
        locked = [_claim(folder, locks) for folder in (cfg.cache, cfg.work)]
        if all(locked) and "RANK" not in os.environ:  # else others may be writing
            folders = [cfg.cache, *cfg.cache.glob("*/"), cfg.pending_dir]
            folders += [cfg.work, cfg.run_dir, *cfg.member_dirs]
            for folder in (*folders, cfg.report_dir, *cfg.report_dir.glob("*/")):
                files.sweep(folder)
        yield


@contextlib.contextmanager
def _no_empty_folders(cfg):
    """Of the folders that are made in this block, those that end empty, but for the lock, go."""
    new = [
        path for top in (cfg.cache, cfg.work) for path in (top, *top.parents) if not path.exists()
    ]
    try:
        yield
    finally:
        for path in new:
            with contextlib.suppress(OSError):
                if os.listdir(path) == [".lock"]:
                    (path / ".lock").unlink()
                path.rmdir()  # refused where it holds anything


def _claim(folder, locks) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        locked = locks.enter_context(files.locked(folder))
        files.try_write(folder)
    except OSError as reason:
        raise UserError(
            f"{folder}: cannot write there ({_in_words(reason)}); "
            "give another cache_dir or work_dir"
        ) from None
    return locked


def order(stage: str) -> list[str]:
    """The stages that `stage` needs, in the order in which they are made, itself the last."""
    return [name for first in STAGES[stage].after for name in order(first)] + [stage]


def _make(cfg, name):
    if name == "train" and cfg.member_dirs != [cfg.run_dir]:
        _make_members(cfg)
        return
    if name == "train" and cfg.folds and not (cfg.run_dir / "best.pt").exists():
        if (files.read_json(cfg.run_dir / "config.json") or {}).get("fold") == -1:
            raise UserError(
                f"fold={cfg.fold}: {cfg.show(cfg.run_dir)} is the mean of a run for each fold: "
                f"leave fold out, or give --run-name {cfg.run_name}-{cfg.fold} for that one alone"
            )
    stage = STAGES[name]
    run = importlib.import_module(f"dermai_utils.{stage.module}").run
    if stage.always:
        run(cfg)
        return
    marker = _marker(cfg, name)
    made_from = _made_from(cfg, stage)
    defaults = {field: DEFAULTS[field] for field in stage.fields}
    outputs = stage.makes(cfg)
    reasons = files.changes(
        marker, made_from, outputs, lambda then: defaults | _modern_marker(then)
    )
    if not reasons:
        print(f"{name}: up to date, {cfg.show(outputs[0])}")
        if _is_main():
            files.renew(marker, outputs)
        return
    again = reasons != ["not made yet"]
    if again:
        print(f"{name}: making it again, because {', '.join(reasons)}")
    if again and name == "train":
        run(cfg, functools.partial(_set_aside, cfg))
    else:
        run(cfg)
    if cfg.tracker != "none" and name in ("evaluate", "gradcam"):
        importlib.import_module("dermai_utils.training.tracking").log_figures(cfg)
    if _is_main():
        files.mark(marker, made_from, outputs)


def _make_members(cfg):
    """Train the runs of `folds` or `seeds` that are missing; UserError where one of `ensemble` is
    missing."""
    if not cfg.ensemble:
        for k, folder in enumerate(cfg.member_dirs):
            print(f"train: run {k + 1} of {len(cfg.member_dirs)}, {folder.name}")
            own = {"fold": k} if cfg.folds else {"seeds": 1, "seed": cfg.seed + k}
            _make(dataclasses.replace(cfg, **own, run_name=folder.name), "train")
    if _is_main():
        importlib.import_module("dermai_utils.training.checkpoint").join_members(cfg)


def _made_from(cfg, stage):
    settings = dataclasses.asdict(cfg)
    made_from = {field: settings[field] for field in stage.fields}
    if stage.version:
        made_from["the form of its files"] = stage.version
    # the stage itself says best what is missing
    sums = {p: files.checksum(p) if p.exists() else None for p in stage.reads(cfg)}
    return made_from | {_key(cfg, path): checksum for path, checksum in sums.items()}


def _key(cfg, path):
    """What a file is called in a marker. An ensemble reads several best.pt."""
    several = path.suffix == ".pt" and len(cfg.member_dirs) > 1
    return (Path("work") / path.relative_to(cfg.work)).as_posix() if several else path.name


def _modern_marker(made_from):
    """`made_from` of an earlier version: with today's settings, and the names of tables without
    the folder, which ensembles had."""
    made_from = {k if k.endswith(".pt") else k.split("/")[-1]: v for k, v in made_from.items()}
    return modernised(made_from)


def _marker(cfg, name):
    of_report = name in ("evaluate", "gradcam", "predictor")
    folder = cfg.run_dir if name == "train" else cfg.report_dir if of_report else cfg.work
    return folder / f".{name}.json"


def _set_aside(cfg):
    """A finished run that is to be made again isn't lost: it moves to <run_name>.previous, or
    .previous-2 and so on, which is a run as any other."""
    names = (
        f"{cfg.run_name}.previous{k and f'-{k}' or ''}"
        for k in itertools.chain([0], itertools.count(2))
    )
    previous = next(path for path in map(cfg.run_dir.with_name, names) if not path.exists())
    cfg.run_dir.rename(previous)
    marker = previous / ".train.json"
    record = files.read_json(marker)
    record["made_from"]["run_name"] = previous.name
    files.write_json(marker, record)
    print(
        f"train: the finished run is kept as {cfg.show(previous)} (--run-name {previous.name}); "
        "to train beside a finished run, give another --run-name"
    )
