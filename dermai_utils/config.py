"""Every setting, declared once, the class names, and where every file lies. Standard library only.

Sources, later wins: the defaults, the preset, `DERMAI_<SETTING>` in the environment, flags or a
notebook's form. docs/settings.md lists them all.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import os
import re
from pathlib import Path

CLASS_NAMES = {  # in the official column order
    "MEL": "melanoma",
    "NV": "melanocytic nevus",
    "BCC": "basal cell carcinoma",
    "AKIEC": "actinic keratosis / Bowen's disease",
    "BKL": "benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
}
CLASSES = tuple(CLASS_NAMES)
MALIGNANT = ("MEL", "BCC", "AKIEC")  # Tschandl et al. 2019, doi.org/10.1016/S1470-2045(19)30333-X
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".tif", ".tiff", ".bmp")
IMAGE_SUFFIXES += (".webp", ".heic", ".heif")
DISCLAIMER = (
    "Research and education only. Not a medical device: never use it to decide about a person's "
    "skin."
)

_PACKAGE = Path(__file__).resolve().parent
# Another package may have left a pyproject.toml in site-packages.
_IN_CHECKOUT = _PACKAGE.with_name("pyproject.toml").exists() and "-packages" not in str(_PACKAGE)
ROOT = _PACKAGE.parent if _IN_CHECKOUT else Path.cwd()  # where cache/ and work/ lie by default
SAMPLE = _PACKAGE / "sample"

PRESETS = {
    "sample": dict(  # half a million weights
        backbone="timm:test_resnet",
        image_size=64,
        weights="none",
        epochs=20,
        batch_size=8,
        learning_rate=6e-3,
    ),
    "baseline": dict(image_size=224, epochs=10, batch_size=64, learning_rate=7e-4),  # ResNet18
    "quick": dict(
        backbone="timm:tf_efficientnet_lite2",
        image_size=260,
        epochs=10,
        batch_size=32,
        learning_rate=7e-4,
        tta=4,
    ),
    "quick_cpu": dict(  # for two processor cores
        backbone="timm:tf_efficientnet_lite0",
        image_size=224,
        first_size=144,
        freeze="early",
        epochs=10,
        batch_size=32,
        learning_rate=7e-4,
        tta=4,
    ),
}
PRESETS |= {"strong": PRESETS["quick"] | {"folds": 5}}
PRESETS |= {"strong_cpu": PRESETS["quick_cpu"] | {"folds": 5}}
# Version 0.1.0's names, and the settings that it had, with the value that is the only one today.
RENAMED = {"views": "tta", "deferred": "drw"}
REMOVED = {"optimizer": "adamw", "masks": ""}


class UserError(Exception):
    """A user's mistake in one line: what, where, what was expected, what to do. Exit status 2."""

    def _render_traceback_(self):  # IPython's hook: a notebook shows the line alone
        return [f"error: {self}"]


def _setting(group, default, allowed, help):
    """A field of Config; allowed: a tuple of values, [least, largest], or a word of those below."""
    metadata = dict(group=group, allowed=allowed, help=help)
    return dataclasses.field(default=default, metadata=metadata)


_PATH, _TEXT, _BOOL = "text, or a path", "text", "true or false"
_SHARE = "auto, or 0.0 to 0.5"
_SEEDS = [0, 2**31 - 1]
_data, _split, _model, _train, _machine, _eval = (
    functools.partial(_setting, group)
    for group in ("Data and folders", "Split", "Model", "Training", "Machine", "Evaluation")
)


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings, and where every file lies. `load()` makes one from every source."""

    preset: str = _data(
        "", ("", *PRESETS), "settings to start from; empty: sample for data=sample, else quick"
    )
    data: str = _data(
        "sample",
        _PATH,
        "sample, isic2018 (official archives), or a folder with any copy (docs/data.md)",
    )
    test: str = _data(
        "", _PATH, "a labelled test set of your own, in any layout, evaluated beside the others"
    )
    extra: str = _data(
        "", _PATH, "further training data, in any layout; never in val or in a test subset"
    )
    base_url: str = _data("", _TEXT, "one address in place of the official mirrors")
    cache_dir: str = _data("", _PATH, "large files, can be made again; empty: cache/DATA")
    work_dir: str = _data("", _PATH, "small files to keep: runs, reports; empty: work/DATA")
    run_name: str = _data("baseline", _TEXT, "the folder of a run's checkpoints and report")
    seed: int = _data(0, _SEEDS, "for new weights, the order of batches, augmentation")

    split: str = _split(
        "lesion", ("lesion", "random"), "no lesion in two subsets, or image by image, which leaks"
    )
    near_duplicates: str = _split(
        "listed", _PATH, "pairs kept in one subset: listed, found (by the stage), none, or a CSV"
    )
    leaks: str = _split(
        "leave_out",
        ("leave_out", "refuse"),
        "training images that leak into official or own: left out, or the split is refused",
    )
    split_seed: int = _split(0, _SEEDS, "for the split, so that several seeds can share one")
    val_fraction: float = _split(
        0.12, [0.01, 0.5], "share of val, on which decision rule and thresholds are chosen"
    )
    test_fraction: str = _split(
        "auto",
        _SHARE,
        "share of test, which only evaluation reads, 0 to 0.5; auto: 0.12, or 0 with an official "
        "test set, or where the first split was made with one of your own",
    )
    folds: int = _split(0, [0, 20], "from 2: cross-validation, a model a fold; 0: one val")
    fold: int = _split(-1, [-1, 19], "train one fold's model alone; -1: all folds, as one run")
    train_fraction: float = _split(
        1.0, [0.01, 1.0], "share of the training lesions to train on, for a learning curve"
    )

    image_size: int = _model(224, [32, 1024], "px, the side of the square that the model sees")
    backbone: str = _model("resnet18", _TEXT, "a classifier of torchvision, or timm:NAME")
    weights: str = _model("imagenet", _PATH, "imagenet, none, or a .safetensors or .pth file")

    imbalance: str = _train(
        "none",
        ("none", "class_weights", "sampler", "logit_adjustment"),
        "none (only the decision rule corrects for the prior), inverse class frequency as weights, "
        "classes drawn equally often, or the prior's logarithm added to the logits",
    )
    drw: bool = _train(
        True, _BOOL, "deferred re-weighting: imbalance phased in, 35 to 65 % of the steps"
    )
    label_smoothing: float = _train(0.0, [0.0, 0.5], "share of the target spread over all classes")
    ema: float = _train(
        0.99, [0.0, 0.99999], "decay per step of the moving average of the weights; 0: no average"
    )
    freeze: str = _train(
        "none",
        ("none", "early", "backbone"),
        "what does not learn: layers at a quarter of the side or more, or all but the new head",
    )
    head_rate: float = _train(3.0, [0.01, 1000.0], "the new head's rate over the backbone's")
    schedule: str = _train("one_cycle", ("one_cycle", "constant"), "of the learning rate")
    first_size: int = _train(
        0, [0, 1024], "px, the side in the first epoch, rising to image_size; 0: image_size"
    )
    augment: bool = _train(True, _BOOL, "random flips, rotation, scale, shift, contrast, colour")
    extra_share: float = _train(
        0.33, [0.05, 0.75], "share of `extra` images in a batch, its sources equally"
    )
    epochs: int = _train(10, [1, 1000], "passes over the training images")
    batch_size: int = _train(64, [2, 4096], "images per step, on all devices together")
    learning_rate: float = _train(5e-4, [1e-7, 10.0], "the backbone's, at the schedule's peak")
    weight_decay: float = _train(0.01, [0.0, 1.0], "AdamW's, per unit of learning rate")

    device: str = _machine("auto", ("auto", "cpu", "cuda", "mps"), "where the model computes")
    precision: str = _machine("auto", ("auto", "fp32", "fp16", "bf16"), "auto: the fastest one")
    workers: int = _machine(0, [0, 256], "threads that decode and augment; 0: one per core")
    checkpoint_minutes: float = _machine(10.0, [0.0, 1e6], "minutes between two checkpoints")
    tracker: str = _machine(
        "none", ("none", "tensorboard"), "curves, images, figures in cache_dir/tensorboard"
    )

    tta: int = _eval(
        1, (1, 2, 4, 8), "test-time augmentation: flips and turns of an image, logits averaged"
    )
    seeds: int = _eval(1, [1, 20], "from 2: an ensemble of so many runs, RUN_NAME-0 and on")
    ensemble: str = _eval("", _TEXT, 'trained runs, "a,b,c", whose ensemble run_name is')

    def __post_init__(self):
        for field in FIELDS.values():
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if self.folds == 1:
            raise UserError("folds=1 is no cross-validation: give 0 (one val subset) or 2 to 20")
        if not self.folds:
            object.__setattr__(self, "fold", 0)
        elif self.fold >= self.folds:
            last = self.folds - 1
            raise UserError(
                f"fold={self.fold} is out of range: with folds={self.folds} it is 0 to {last}"
            )
        if self.folds and self.seeds > 1:
            raise UserError(f"folds={self.folds} and seeds={self.seeds}: give one of them")
        if self.val_fraction + self.test_share(False) > 0.8:
            raise UserError("val_fraction + test_fraction leave under 20 % to train on: lower one")

    @property
    def source(self) -> str:
        """`data` as a word that is safe in a path."""
        return self.data if self.data in ("sample", "isic2018") else Path(self.data).resolve().name

    def _folder(self, given, name):
        return Path(given).absolute() if given else ROOT / name / self.source

    cache = property(lambda self: self._folder(self.cache_dir, "cache"))
    work = property(lambda self: self._folder(self.work_dir, "work"))
    sources_file = property(lambda self: self.cache / "sources.json")
    rows_file = property(lambda self: self.cache / "rows.csv")
    pixels_file = property(lambda self: self.cache / f"pixels_{self.image_size}.npy")
    table_file = property(lambda self: self.work / "table.csv")
    own_file = property(lambda self: self.work / "own.csv")
    data_file = property(lambda self: self.work / "data.json")
    rejected_file = property(lambda self: self.work / "rejected.csv")
    found_duplicates_file = property(lambda self: self.work / "near_duplicates.csv")
    leakage_effect_file = property(lambda self: self.work / "leakage_effect.json")
    split_file = property(lambda self: self.work / "split.csv")
    audit_file = property(lambda self: self.work / "leakage.json")
    linear_probe_file = property(lambda self: self.work / "linear_probe.json")
    tracker_dir = property(lambda self: self.cache / "tensorboard" / self.run_name)
    run_dir = property(lambda self: self.work / "runs" / self.run_name)
    report_dir = property(lambda self: self.work / "report" / self.run_name)

    def test_share(self, elsewhere: bool) -> float:
        """`test_fraction` as a number; elsewhere: whether an official or own test set is there."""
        if self.test_fraction == "auto":
            return 0.0 if elsewhere else 0.12
        return float(self.test_fraction)

    @property
    def near_duplicates_file(self) -> Path | None:
        listed = _PACKAGE / "data" / "near_duplicates.csv"
        files = {"none": None, "listed": listed, "found": self.found_duplicates_file}
        return files.get(self.near_duplicates, Path(self.near_duplicates))

    @property
    def member_dirs(self) -> list[Path]:
        """Of the runs that an ensemble or the folds average; else of the run itself."""
        several = self.folds if self.fold < 0 else self.seeds
        numbered = [f"{self.run_name}-{k}" for k in range(several)]
        names = _names(self.ensemble) or (numbered if several > 1 else [self.run_name])
        return [self.work / "runs" / name for name in names]

    @property
    def pending_dir(self) -> Path:
        """On this machine's disk: a run's files, until they are in run_dir (which may be Drive)."""
        digest = hashlib.sha256(str(self.run_dir).encode()).hexdigest()[:8]
        return self.cache / "pending" / f"{self.run_name}-{digest}"

    def show(self, path) -> str:
        """`path` as a short name that reads the same on every machine: work/DATA/... or
        cache/DATA/..., where it lies unless work_dir or cache_dir say something else."""
        own = {f"work/{self.source}": self.work, f"cache/{self.source}": self.cache}
        for name, folder in (own | {"repository": ROOT}).items():
            if Path(path).is_relative_to(folder):
                return (Path(name) / Path(path).relative_to(folder)).as_posix()
        return str(path)


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
DEFAULTS = {name: field.default for name, field in FIELDS.items()}  # also of runs before a setting
OF_THE_MACHINE = "cache_dir work_dir base_url workers device checkpoint_minutes preset".split()
_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_FOLDER_NAME = re.compile(r'(?![ .])[^/\\:*?"<>|]{1,80}(?<![ .])')
LONGEST = 255  # bytes of a name: what nearly every disk takes
_KINDS = {int: "a whole number", float: "a number", bool: _BOOL}


def allowed(field) -> str:
    """What a field of Config may be, in words."""
    limits = field.metadata["allowed"]
    if isinstance(limits, list):
        return f"{limits[0]} to {limits[1]}"
    return limits if isinstance(limits, str) else ", ".join(str(x) or "(empty)" for x in limits)


def did_you_mean(word, words) -> str:
    """A question that names the nearest of `words`; "" where none is near."""
    near = difflib.get_close_matches(str(word), [str(candidate) for candidate in words], 1)
    return f"did you mean {near[0]}?" if near else ""


def _checked(field, value):
    """`value` as the field's type; UserError names the field, what was given, what is allowed."""
    limits, shown = field.metadata["allowed"], f"{field.name}={value!r:.80}"
    try:
        value = _converted(field.type, value)
    except (ValueError, KeyError):
        raise UserError(f"{shown}: expected {_KINDS[field.type]}") from None
    if isinstance(limits, tuple) and value not in limits:
        hint = did_you_mean(value, limits)
        raise UserError(f"{shown}: expected one of {allowed(field)}{hint and '; ' + hint}")
    if isinstance(limits, list) and not limits[0] <= value <= limits[1]:
        raise UserError(f"{field.name}={value}: expected {allowed(field)}")
    if field.type is str and re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value):
        raise UserError(f"{shown}: expected plain characters, without line breaks or the like")
    if limits == _PATH and any(len(os.fsencode(name)) > LONGEST for name in Path(value).parts):
        raise UserError(
            f"{shown}: expected folders and files whose names have at most {LONGEST} bytes"
        )
    if limits == _SHARE and value != "auto":
        value = str(_share(shown, value))
    runs = {"run_name": [value], "ensemble": _names(str(value))}.get(field.name, [])
    check_run_names(shown, runs)
    return os.path.expanduser(value) if limits == _PATH else value


def check_run_names(shown, names) -> None:
    """UserError, which begins with `shown`, where one of the names cannot be a run's folder."""
    if not all(map(_FOLDER_NAME.fullmatch, names)):
        raise UserError(f'{shown}: expected a plain folder name, without / \\ : * ? " < > |')


def _share(shown, value):
    """A share as a float. UserError."""
    try:
        value = _converted(float, value)
    except ValueError:
        value = -1
    if not 0 <= value <= 0.5:
        raise UserError(f"{shown}: expected {_SHARE}")
    return value


def _converted(kind, value):
    """`value`, or its text, as a `kind`; ValueError or KeyError where it is none."""
    if kind is bool:
        return value if isinstance(value, bool) else _BOOLS[str(value).strip().lower()]
    if kind is str:
        return str(value)
    number = kind(str(value))
    if isinstance(value, bool) or number != float(str(value)):  # 2.5 for an int; nan
        raise ValueError
    return number


def _names(text):
    """The runs of a list "a, b,c"."""
    return [name.strip() for name in text.split(",") if name.strip()]


def load(env=os.environ, **given) -> Config:
    """A Config from the defaults, the preset, the environment and `given` (None or "": not set)."""
    return Config(**_with_preset(_from_sources(env, given)))


def of_run(env=os.environ, **given) -> Config:
    """As `load`, but a run that was trained keeps its settings, unless `env` or `given` set them:
    evaluating it needs its name alone, and never trains it again by mistake."""
    values = _from_sources(env, given)
    asked = Config(**_with_preset(values))
    path = asked.member_dirs[0] / "config.json"
    if os.path.exists(asked.run_dir / "config.json"):
        path = asked.run_dir / "config.json"
    if os.path.exists(path):  # False for a path that cannot be one, which the stage says better
        try:
            trained = supported(dict(json.loads(path.read_text(encoding="utf-8"))), path)
        except (OSError, ValueError, TypeError) as reason:
            raise UserError(
                f"{path}: cannot be read as a run's settings ({reason}); delete it, or give "
                "another run_name"
            ) from None
        trained = {name: trained[name] for name in trained if name in FIELDS}
        if path.parent != asked.run_dir:  # a member's own
            trained |= {"fold": _common_fold(asked), "seed": asked.seed}
        values = trained | {"run_name": asked.run_name} | values
    return Config(**_with_preset(values))


def _common_fold(asked) -> int:
    """The fold that all runs of `ensemble` hold out; -1 where they differ, or are all folds."""
    if not asked.ensemble:
        return -1
    paths = [folder / "config.json" for folder in asked.member_dirs]
    texts = [path.read_text(encoding="utf-8") for path in paths if os.path.exists(path)]
    folds = {json.loads(text).get("fold", 0) for text in texts}
    return folds.pop() if len(folds) == 1 else -1


def _from_sources(env, given):
    """What the environment and `given` set, `given` last, under today's names."""
    env = {key[7:].lower(): text for key, text in env.items() if key.startswith("DERMAI_")}
    values = {}
    for source in (env, given):
        source = {k: v for k, v in source.items() if v is not None and v != ""}
        values |= modernised(source)
        for old in (name for name in source if name not in values):
            removed = f"was removed, it is always {REMOVED.get(old)}"
            print("setting", old, f"is now called {RENAMED[old]}" if old in RENAMED else removed)
    for name in (name for name in values if name not in FIELDS):
        if name in REMOVED:
            raise UserError(f"setting {name} was removed, it is always {REMOVED[name] or 'empty'}")
        hint = did_you_mean(name, FIELDS) or f"the settings are {', '.join(FIELDS)}"
        raise UserError(f"unknown setting {name}: {hint}")
    return values


def _with_preset(values):
    default = "sample" if values.get("data", "sample") == "sample" else "quick"
    preset = values.get("preset") or default
    return PRESETS.get(preset, {}) | values | {"preset": preset}


def modernised(settings: dict) -> dict:
    """`settings` of an earlier version under today's names, without what was removed since.

    A removed setting stays where it had another value than the only one of today: it must show.
    """
    items = sorted(settings.items(), key=lambda item: item[0] not in RENAMED)  # today's name wins
    return {RENAMED.get(name, name): v for name, v in items if (name, v) not in REMOVED.items()}


def supported(settings: dict, source) -> dict:
    """`modernised` settings of a run; UserError, naming `source`, for a value that is gone."""
    settings, choices = modernised(settings), dict.fromkeys(REMOVED, ())
    choices |= {name: field.metadata["allowed"] for name, field in FIELDS.items()}
    for name, value in settings.items():
        if isinstance(choices.get(name), tuple) and value not in choices[name]:
            raise UserError(
                f"{source}: this version has no {name}={value}; give another run_name, or go on "
                "with the version that started the run"
            )
    return settings
