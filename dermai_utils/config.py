"""Every setting in one flat dataclass, the class names, and where every artefact lies. Standard library only.

Sources, later wins: the defaults, the preset, `DERMAI_<FIELD>` in the environment, flags or a notebook's form.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")  # the official column order
CLASS_NAMES = {
    "MEL": "melanoma",
    "NV": "melanocytic nevus",
    "BCC": "basal cell carcinoma",
    "AKIEC": "actinic keratosis / Bowen's disease",
    "BKL": "benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".bmp", ".webp")
DISCLAIMER = "Research and education only. Not a medical device: never use it to decide about a person's skin."
ROOT = Path(__file__).resolve().parents[1]  # the repository
FIXTURE = ROOT / "tests" / "fixture"

PRESETS = {
    "sample": dict(
        backbone="timm:test_resnet", image_size=64, weights="none", epochs=20, batch_size=8, learning_rate=6e-3,
        imbalance="logit_adjustment",
    ),  # a toy of half a million weights
    "quick": dict(image_size=224, weights="imagenet", epochs=10, batch_size=64, learning_rate=7e-4, views=8),
    "quick_cpu": dict(
        backbone="timm:tf_efficientnet_lite0", image_size=160, first_size=112, weights="imagenet", freeze="early", epochs=10,
        batch_size=32, learning_rate=7e-4, views=8,
    ),  # for two processor cores
    "strong": dict(image_size=224, weights="imagenet", epochs=20, batch_size=64, learning_rate=7e-4, seeds=3, views=8),
}  # fmt: skip


class UserError(Exception):
    """A user's mistake, told in one line: what, where, what was expected, what to do. Exit status 2, no traceback."""

    def _render_traceback_(self):  # IPython's hook: a notebook shows the line alone
        return [f"error: {self}"]


@dataclass(frozen=True)
class Config:
    """All settings. `load()` builds one from every source; `Config()` is the sample on the defaults."""

    preset: str = ""  # sample | quick | quick_cpu | strong; empty: sample for data=sample, else quick
    data: str = "sample"  # sample (made-up, in the repository) | isic2018 (official archives) | a folder of yours
    base_url: str = ""  # one URL in place of the official mirrors
    cache_dir: str = ""  # large, can be rebuilt: archives, images, pixels; empty: cache/<data> in the repository
    work_dir: str = ""  # small, precious: table, split, runs, reports; empty: work/<data> in the repository
    run_name: str = "baseline"  # names the folder of a run's checkpoints and report
    seed: int = 0  # weights' initialisation, batch order, augmentation
    split: str = "lesion"  # lesion (no lesion on two sides) | random (image by image: leaks, for comparison)
    near_duplicates: str = "listed"  # listed (assets/near_duplicates.csv) | found (by stage duplicates) | none | your CSV
    split_seed: int = 0  # its own, so that several seeds can train on one split
    val_fraction: float = 0.12  # share of the images, for choosing the checkpoint
    test_fraction: float = 0.12  # share of the images, touched by the evaluation alone
    folds: int = 0  # 0: one validation part; k: k-fold, validation is part `fold`
    fold: int = 0  # 0 .. folds-1
    train_fraction: float = 1.0  # share of the training lesions that is trained on, for a learning curve
    image_size: int = 224  # px, the side of the square the model sees
    backbone: str = "resnet18"  # a torchvision classifier, or timm:NAME
    weights: str = "imagenet"  # imagenet | none | a .safetensors or .pth file
    imbalance: str = "none"  # none (the decision rule balances, see findings.rules) | class_weights (inverse frequency) |
    # sqrt_weights | effective_number | sampler (classes drawn evenly) | focal | logit_adjustment
    deferred: bool = True  # the balancing is phased in: none of it for the first 35 % of the steps, all from 65 % on
    label_smoothing: float = 0.0  # share of the truth that is spread over all classes
    ema: float = 0.99  # decay a step of the moving average of the weights that is evaluated and kept; 0: none
    freeze: str = "none"  # none | early (the layers at a quarter of the side or more stay as they are) | backbone (all but the
    # new head do)
    head_rate: float = 3.0  # the new head's learning rate over the backbone's
    schedule: str = "one_cycle"  # one_cycle | cosine | constant
    first_size: int = 0  # px; the side of the first epochs' squares, rising to image_size; 0: image_size throughout
    augment: bool = True  # random flips, rotation, scale, aspect, shift, brightness, contrast, colour
    optimizer: str = "adamw"  # adam | adamw
    epochs: int = 10  # passes over the training part
    batch_size: int = 64  # images, over all devices together
    learning_rate: float = 5e-4  # the backbone's, at the peak of the schedule
    weight_decay: float = 0.01  # per unit of learning rate; adamw only
    masks: str = ""  # a folder of lesion masks, <image>_segmentation.png, which stage gradcam compares its maps with
    device: str = "auto"  # auto | cpu | cuda | mps
    precision: str = "auto"  # auto | fp32 | fp16 | bf16
    workers: int = 0  # threads for decoding and augmenting; 0: one a core
    views: int = 1  # 1 | 2 | 4 | 8 flips and quarter turns of each image, whose logits are averaged in the evaluation
    seeds: int = 1  # more: that many runs, <run_name>-0 and on, from `seed` up, are trained and their answers averaged
    ensemble: str = ""  # names of trained runs, "a,b,c": run_name is then their mean, and nothing is trained
    checkpoint_minutes: float = 10.0  # minutes between checkpoints inside an epoch

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if self.folds == 1:
            raise UserError("folds=1 is no cross-validation: give 0 (one validation part) or 2 to 20")
        if self.fold >= max(self.folds, 1):
            raise UserError(
                f"fold={self.fold} is out of range: with folds={self.folds} it can be 0 to {max(self.folds, 1) - 1}"
            )
        if self.val_fraction + self.test_fraction > 0.8:
            raise UserError("val_fraction and test_fraction together leave under 20 % to train on: lower one of them")

    # Where every artefact lies.

    @property
    def source(self) -> str:  # a word that is safe in a path
        return self.data if self.data in ("sample", "isic2018") else Path(self.data).resolve().name

    @property
    def cache(self) -> Path:
        return Path(self.cache_dir).absolute() if self.cache_dir else ROOT / "cache" / self.source

    @property
    def work(self) -> Path:
        return Path(self.work_dir).absolute() if self.work_dir else ROOT / "work" / self.source

    @property
    def sources_file(self) -> Path:
        return self.cache / "sources.json"

    @property
    def pixels_file(self) -> Path:
        return self.cache / f"pixels_{self.image_size}.npy"

    @property
    def table_file(self) -> Path:
        return self.work / "table.csv"

    @property
    def rejected_file(self) -> Path:
        return self.work / "rejected.csv"

    @property
    def near_duplicates_file(self) -> Path | None:
        known = {"none": None, "listed": ROOT / "assets" / "near_duplicates.csv", "found": self.found_duplicates_file}
        return known.get(self.near_duplicates, Path(self.near_duplicates))

    @property
    def found_duplicates_file(self) -> Path:
        return self.work / "near_duplicates.csv"

    @property
    def inflation_file(self) -> Path:
        return self.work / "inflation.json"

    @property
    def split_file(self) -> Path:
        return self.work / "split.csv"

    @property
    def audit_file(self) -> Path:
        return self.work / "leakage.json"

    @property
    def instant_file(self) -> Path:
        return self.work / "instant.json"

    @property
    def run_dir(self) -> Path:
        return self.work / "runs" / self.run_name

    @property
    def member_dirs(self) -> list[Path]:  # of the runs whose predictions are averaged; else of the run itself
        several = [f"{self.run_name}-{k}" for k in range(self.seeds)] if self.seeds > 1 else [self.run_name]
        return [self.work / "runs" / name for name in _names(self.ensemble) or several]

    @property
    def pending_dir(self) -> Path:  # a run's files, on the machine's own disk, until they are in run_dir (on Drive, say)
        return self.cache / "pending" / f"{self.run_name}-{hashlib.sha256(str(self.run_dir).encode()).hexdigest()[:8]}"

    @property
    def report_dir(self) -> Path:
        return self.work / "report" / self.run_name

    def show(self, path) -> str:
        """`path` as a short name that reads the same on every machine: work/..., cache/..."""
        for name, folder in (("work", self.work), ("cache", self.cache), ("repository", ROOT)):
            if Path(path).is_relative_to(folder):
                return (Path(name) / Path(path).relative_to(folder)).as_posix()
        return str(path)


DEFAULTS = {field.name: field.default for field in dataclasses.fields(Config)}  # of a new field: what was done before it
_CHOICES = {
    "preset": ("", *PRESETS),
    "split": ("lesion", "random"),
    "imbalance": ("none", "class_weights", "sqrt_weights", "effective_number", "sampler", "focal", "logit_adjustment"),
    "freeze": ("none", "early", "backbone"),
    "views": (1, 2, 4, 8),
    "schedule": ("one_cycle", "cosine", "constant"),
    "optimizer": ("adam", "adamw"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "fp32", "fp16", "bf16"),
}
_RANGES = {
    "seed": (0, 2**31 - 1),
    "split_seed": (0, 2**31 - 1),
    "val_fraction": (0.01, 0.5),
    "test_fraction": (0.0, 0.5),
    "train_fraction": (0.01, 1.0),
    "folds": (0, 20),
    "fold": (0, 19),
    "image_size": (32, 1024),
    "epochs": (1, 1000),
    "batch_size": (2, 4096),
    "learning_rate": (1e-7, 10.0),
    "weight_decay": (0.0, 1.0),
    "seeds": (1, 20),
    "label_smoothing": (0.0, 0.5),
    "ema": (0.0, 0.99999),
    "head_rate": (0.01, 1000.0),
    "first_size": (0, 1024),
    "workers": (0, 256),
    "checkpoint_minutes": (0.0, 1e6),
}
_PATHS = ("data", "cache_dir", "work_dir", "near_duplicates", "weights", "masks")
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _checked(field, value):
    """`value` as the field's type, or a UserError that names the field, what was given and what is allowed."""
    name, kind = field.name, field.type
    try:
        if kind is bool and not isinstance(value, bool):
            value = _WORDS[str(value).strip().lower()]
        elif kind in (int, float) and (isinstance(value, bool) or kind(str(value)) != float(str(value))):
            raise ValueError
        value = kind(str(value)) if kind in (int, float) else kind(value)
    except (ValueError, KeyError):
        expected = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise UserError(f"{name}={value!r:.80}: expected {expected}") from None
    if name in _CHOICES and value not in _CHOICES[name]:
        near = difflib.get_close_matches(str(value), [str(choice) for choice in _CHOICES[name]], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        allowed = ", ".join(str(c) or "(empty)" for c in _CHOICES[name])
        raise UserError(f"{name}={value!r:.80}: expected one of {allowed}{hint}")
    if name in _RANGES and not _RANGES[name][0] <= value <= _RANGES[name][1]:
        raise UserError(f"{name}={value}: expected {_RANGES[name][0]} to {_RANGES[name][1]}")
    if kind is str and re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value):
        raise UserError(f"{name}={value!r:.80}: expected plain characters, without line breaks or the like")
    runs = [value] if name == "run_name" else _names(value) if name == "ensemble" else []
    if not all(re.fullmatch(r'[^/\\:*?"<>|]{1,80}', run) and run == run.strip(" .") for run in runs):
        raise UserError(f'{name}={value!r:.80}: expected a plain folder name, without / \\ : * ? " < > |')
    return os.path.expanduser(value) if name in _PATHS else value


def _names(text):
    """The runs of a list "a, b,c"."""
    return [name.strip() for name in text.split(",") if name.strip()]


def load(env=os.environ, **given) -> Config:
    """A Config from the defaults, the preset, the environment and `given` (None or "" there: not set).

    An unknown field is a UserError that suggests the nearest one.
    """
    return Config(**_with_preset(_given(env, given)))


def of_run(env=os.environ, **given) -> Config:
    """As `load`, but a run that was trained keeps the settings it was trained with, unless `env` or `given` set them.

    So evaluating a run needs its name alone, and never trains it again by mistake.
    """
    values = _given(env, given)
    asked = Config(**_with_preset(values))
    kept = asked.member_dirs[0] / "config.json"
    if os.path.exists(kept):  # False for a path that cannot be one, which the stage says better
        values = {k: v for k, v in _settings_in(kept).items() if k in DEFAULTS} | {"run_name": asked.run_name} | values
    return Config(**_with_preset(values))


def _settings_in(path):
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as reason:
        raise UserError(f"{path}: cannot be read as a run's settings ({reason}); delete it, or give another run_name") from None


def _given(env, given):
    values = {key[7:].lower(): text for key, text in env.items() if key.startswith("DERMAI_") and text != ""}
    values |= {key: value for key, value in given.items() if value is not None and value != ""}
    for name in values:
        if name not in DEFAULTS:
            near = difflib.get_close_matches(name, DEFAULTS, 1)
            hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(DEFAULTS)}"
            raise UserError(f"unknown setting {name}: {hint}")
    return values


def _with_preset(values):
    preset = values.get("preset") or ("sample" if values.get("data", "sample") == "sample" else "quick")
    return PRESETS.get(preset, {}) | values | {"preset": preset}
