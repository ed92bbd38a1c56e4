"""The settings of the command line, declared once: type, default, what is allowed, help.

Sources, later wins: the defaults, the preset, `DERMAI_<SETTING>` in the environment, flags.
docs/settings.md lists them all. Whatever is no setting here is an argument of a function.
Standard library only.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

from dermai_utils.basics import IMBALANCE, UserError, did_you_mean

PACKAGE = Path(__file__).resolve().parent
# Another package may have left a pyproject.toml in site-packages.
_IN_CHECKOUT = PACKAGE.with_name("pyproject.toml").exists() and "-packages" not in str(PACKAGE)
ROOT = PACKAGE.parent if _IN_CHECKOUT else Path.cwd()  # cache/ and work/ lie here by default

_LITE = dict(epochs=10, batch_size=32, learning_rate=7e-4, tta=4)
# The best single models with published predictions for the official test set are this network at
# this size: balanced accuracy 0.750, and 0.782 with age, sex and site. Not measured here.
_QUICK = dict(backbone="timm:tf_efficientnetv2_s.in21k_ft_in1k", size=384) | _LITE
_QUICK |= dict(learning_rate=3e-4)
_QUICK_CPU = dict(backbone="timm:tf_efficientnet_lite0", size=224, first_size=144) | _LITE
_QUICK_CPU |= dict(freeze="early")  # for two processor cores
_SAMPLE = dict(backbone="small", size=64, weights="none", epochs=60, batch_size=16)
# with a smaller val, some class would have one lesion to choose thresholds on
_SAMPLE |= dict(learning_rate=2e-3, val_fraction=0.25)
PRESETS = {
    "sample": _SAMPLE,
    "baseline": dict(backbone="resnet18", size=224, epochs=10, batch_size=64, learning_rate=7e-4),
    "quick": _QUICK,
    "quick_cpu": _QUICK_CPU,
    "strong": _QUICK | {"folds": 5},
    "strong_cpu": _QUICK_CPU | {"folds": 5},
}


def _setting(group, default, allowed, help):
    """A field of Settings. allowed: a value, [least, largest], a word of those below, or a tuple of
    such."""
    options = allowed if isinstance(allowed, tuple) else (allowed,)
    metadata = dict(group=group, allowed=options, help=help)
    return dataclasses.field(default=default, metadata=metadata)


TEXT, FOLDER, PATH, PATHS = "text", "a folder", "or a path", "folders"
FOLDER_NAME = "a plain folder name, without / or :"
NAMES = ("sample", "isic2018")  # made-up pictures; the official archives, which are downloaded
SEEDS = [0, 2**31 - 1]
_data, _split, _model, _train, _machine = (
    functools.partial(_setting, group)
    for group in ("Data and folders", "Split", "Model", "Training", "Machine")
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings, checked; `read()` makes one from every source.

    Raises UserError: one line that names the setting, what was given and what is allowed.
    """

    preset: str = _data("", ("", *PRESETS), "to start from; empty: by data and machine")
    data: str = _data("sample", (*NAMES, PATH), "the folder may hold any copy (docs/data.md)")
    test: tuple = _data((), PATHS, "labelled test sets of your own; may be given several times")
    extra: tuple = _data((), PATHS, "more training data, never in val; may be given several times")
    base_url: str = _data("", TEXT, "one address in place of the official mirrors")
    cache_dir: str = _data("", FOLDER, "large files that can be made again; empty: cache/DATA")
    work_dir: str = _data("", FOLDER, "small files to keep: runs, reports; empty: work/DATA")
    run_name: str = _data("first", FOLDER_NAME, "the folder of a run in WORK_DIR/runs")
    seed: int = _data(0, SEEDS, "for new weights, the order of batches and augmentation")

    # lesion: no lesion in two subsets; random: image by image, which leaks
    # given: the data's own; a path: somebody's table or folder (docs/data.md)
    split: str = _split("lesion", ("lesion", "random", "given", PATH), "how the subsets are made")
    leaks: str = _split("keep", ("keep", "leave_out"), "images that leak in a split of others")
    split_seed: int = _split(0, SEEDS, "for the split, so that several seeds can share one")
    near_duplicates: str = _split("listed", ("listed", "none", PATH), "pairs that stay together")
    val_fraction: float = _split(0.12, [0.01, 0.5], "to choose decision rule and thresholds on")
    test_fraction: str | float = _split(
        "auto", ("auto", [0.0, 0.5]), "auto: 0.12, 0 beside another test set"
    )
    folds: int = _split(0, (0, [2, 20]), "from 2: cross-validation, one network a fold; 0: one val")
    train_fraction: float = _split(1.0, [0.01, 1.0], "share of the training lesions to train on")

    size: int = _model(224, [32, 1024], "px, the side of the square that the network sees")
    backbone: str = _model("resnet18", TEXT, "a classifier of torchvision, timm:NAME, or small")
    weights: str = _model("imagenet", ("imagenet", "none", PATH), "a .safetensors or .pth file")

    imbalance: str = _train("none", IMBALANCE, "against the rarity of classes, in training")
    # early: layers whose map has a quarter of the side or more; backbone: all but the new head
    freeze: str = _train("none", ("none", "early", "backbone"), "layers that do not learn")
    first_size: int = _train(0, [0, 1024], "px, in the first epoch, rising to size; 0: size")
    epochs: int = _train(10, [1, 1000], "passes over the training images")
    batch_size: int = _train(64, [2, 4096], "images a step, on all devices together")
    learning_rate: float = _train(5e-4, [1e-7, 10.0], "the backbone's, at the schedule's peak")
    tta: int = _train(1, (1, 2, 4, 8), "flips and turns of a held-out image that are averaged")

    device: str = _machine("auto", ("auto", "cpu", "cuda", "mps"), "where the network computes")
    precision: str = _machine("auto", ("auto", "fp32", "fp16", "bf16"), "auto: the fastest one")
    tracker: str = _machine("none", ("none", "tensorboard"), "curves and images of a training")

    def __post_init__(self):
        for field in FIELDS.values():
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if self.val_fraction + (self.test_share or 0.0) > 0.8:
            raise UserError("val_fraction + test_fraction leave under 20 % to train on: lower one")

    @property
    def name(self) -> str:
        """`data` as a folder name: sample, isic2018, or the last part of the path."""
        path = Path(self.data).resolve()
        zipped = path.suffix.lower() == ".zip" and path.is_file()
        return self.data if self.data in NAMES else path.stem if zipped else path.name

    @property
    def test_sets(self) -> tuple:
        """`test`; without it, the sample is also evaluated on pictures of a second clinic."""
        return self.test or (str(PACKAGE / "sample_elsewhere"),) * (self.data == "sample")

    @property
    def test_share(self) -> float | None:
        """`test_fraction` as a number; None: auto."""
        return None if self.test_fraction == "auto" else self.test_fraction

    def _folder(self, given, kind):
        return Path(given).absolute() if given else ROOT / kind / self.name

    cache = property(lambda self: self._folder(self.cache_dir, "cache"))
    work = property(lambda self: self._folder(self.work_dir, "work"))
    runs = property(lambda self: self.work / "runs")
    run_folder = property(lambda self: self.runs / self.run_name)


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
_FOLDER_NAME = re.compile(r'(?![ .])[^/\\:*?"<>|\x00-\x1f]{1,80}(?<![ .])')
_KINDS = {int: "a whole number, ", float: "a number, "}


def allowed(field) -> str:
    """What a field of Settings may be, in words."""
    options = field.metadata["allowed"]
    words = (f"{o[0]} to {o[1]}" if isinstance(o, list) else str(o) or "(empty)" for o in options)
    return ", ".join(words)


def _checked(field, value):
    """`value`, or the value that this text means. UserError."""
    if field.type is tuple:
        paths = filter(None, value.split(os.pathsep)) if isinstance(value, str) else value
        return tuple(_one(field, path) for path in paths)
    return _one(field, value)


def _one(field, value):
    options, text = field.metadata["allowed"], str(value)
    for option in options:
        if (found := _read(option, text)) is not None:
            return found
    expected = f"{_KINDS.get(field.type, '')}{allowed(field)}"
    missing = "no such file or folder; " if {PATH, PATHS} & set(map(str, options)) else ""
    hint = did_you_mean(text, options)
    hint = f"; {hint}" if hint else ""
    raise UserError(f"{field.name}={text!r:.80}: {missing}expected {expected}{hint}")


def _read(option, text):
    """The value of `text` where `option` allows it, else None."""
    if isinstance(option, list):
        with contextlib.suppress(ValueError):
            number = type(option[0])(text)
            return number if option[0] <= number <= option[1] else None
        return None
    if option == FOLDER_NAME:
        return text if _FOLDER_NAME.fullmatch(text) else None
    if option in (FOLDER, PATH, PATHS):
        path = os.path.expanduser(text)
        return path if option == FOLDER or os.path.exists(path) else None
    return text if option == TEXT else option if text == str(option) else None


def nvidia_gpu() -> str:
    """Name and memory of the first NVIDIA GPU; "" without one. Without importing torch."""
    if not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    return "" if answer.returncode else answer.stdout.strip().partition("\n")[0]


def read(env=os.environ, **given) -> Settings:
    """Settings from the defaults, the preset, `env` and `given` (None, "" and (): not set).

    >>> read({"DERMAI_EPOCHS": "3"}, data="sample", size=96).epochs
    3
    """
    given = {name: value for name, value in given.items() if value not in (None, "", (), [])}
    ours = {key: text for key, text in env.items() if key.startswith("DERMAI_") and text}
    values = {key[7:].lower(): text for key, text in ours.items()} | given
    for name in values.keys() - FIELDS.keys():
        hint = did_you_mean(name, FIELDS) or f"the settings are {', '.join(FIELDS)}"
        raise UserError(f"unknown setting {name}: {hint}")
    if "preset" not in values:
        real = "quick" if nvidia_gpu() else "quick_cpu"
        values["preset"] = "sample" if values.get("data", "sample") == "sample" else real
    return Settings(**PRESETS.get(values["preset"], {}) | values)


def training_options(s: Settings) -> dict:
    """The further arguments of `training.Training`: what trains a run, and what it keeps."""
    names = "epochs batch_size learning_rate seed imbalance freeze first_size tta device precision"
    kept = "near_duplicates split split_seed val_fraction test_fraction train_fraction"
    options = {name: getattr(s, name) for name in (*names.split(), "tracker")}
    options["settings"] = {name: getattr(s, name) for name in kept.split()} | {"data": s.name}
    return options


def page() -> str:
    """docs/settings.md."""
    lines = [
        "# Settings\n\nWritten by `python -m dermai_utils settings > docs/settings.md`.\n",
        "Sources, later wins: the default, the preset, `DERMAI_<SETTING>` in the environment "
        "(several paths are separated as in `PATH`), a flag (`--epochs 3`). A run keeps the "
        "settings that it was trained with; to train with others, give another `run_name`.",
    ]
    for group, fields in itertools.groupby(FIELDS.values(), key=lambda f: f.metadata["group"]):
        lines.append(
            f"\n## {group}\n\n| setting | default | allowed | meaning |\n|---|---|---|---|"
        )
        for field in fields:
            default = f"`{field.default}`" if field.default not in ("", ()) else ""
            meaning = field.metadata["help"]
            lines.append(f"| `{field.name}` | {default} | {allowed(field)} | {meaning} |")
    lines.append("\n## Presets\n\n| preset | settings |\n|---|---|")
    for preset, values in PRESETS.items():
        lines.append(f"| `{preset}` | {', '.join(f'`{k}={v}`' for k, v in values.items())} |")
    return "\n".join(lines) + "\n"
