"""What an answer about a new picture needs of a run: made once, then no image of the data set.

Conformal thresholds and the OOD threshold come from validation, the neighbours are the training
images. No threshold ever sees a test image.
"""

import zipfile
from dataclasses import dataclass, fields

import numpy as np

from dermai_utils import files
from dermai_utils.config import CLASSES
from dermai_utils.data import pixels, split
from dermai_utils.metrics import calibration, conformal
from dermai_utils.metrics.classification import jsonable
from dermai_utils.metrics.predictions import (
    SUBSET_NAMES,
    arrays,
    choices,
    of_rows,
    scored_rows,
    unseen_by_first,
)
from dermai_utils.metrics.text import percent, shown_subset
from dermai_utils.predict import ood
from dermai_utils.report import browse
from dermai_utils.training import checkpoint
from dermai_utils.training.inference import LoadedRun

SCALARS = ("temperature", "ood_threshold", "foreign_threshold", "tta", "checkpoints")
# Of at most so many training images the cosine with the nearest of another lesion is looked up, and
# this share lies below what counts as different: the rest may be near duplicates. With quick_cpu
# no one of 1,200 images of val and test is said to be a training image by this.
COMPARED, DIFFERENT, SAME = 1000, 0.95, 0.8
# The file and names of version 0.1.0, whose runs are still answered from.
OLD_FILE, OLD_NAMES = "reference.npz", {"ood_threshold": "farthest", "tta": "views"}


@dataclass(frozen=True)
class PredictorState:
    """Of a run, for each of M training images: features, id, label and lesion; thresholds."""

    features: np.ndarray  # (M, D) float16, of length 1
    image: np.ndarray
    label: np.ndarray
    lesion_id: np.ndarray
    thresholds: np.ndarray  # (7,), see conformal.class_thresholds
    temperature: float
    centre: np.ndarray  # (2C,) and
    precision: np.ndarray  # (2C, 2C): the training images' texture, see ood.fit
    ood_threshold: float  # beyond it a picture comes from another source, see ood.thresholds
    foreign_threshold: float  # beyond it, it is no dermoscopic image
    tta: int  # flips and turns of an image, over which the evaluation averaged
    checkpoints: str  # the checksum of the best.pt that all this is of, or those of an ensemble

    def similarity(self, features) -> np.ndarray:
        """(N, M) float32: the cosine of each of `features` (N, D) with each training image."""
        return unit(features) @ self.features.astype(np.float32).T

    def distance(self, texture) -> np.ndarray:
        """(N,) float: see ood.distance; NaN where an earlier version made the file."""
        if self.outdated:
            return np.full(len(texture), np.nan)
        return ood.distance(texture, self.centre, self.precision)

    def same_threshold(self) -> float:
        """The cosine from which a picture is (nearly) a training image: a good part of the way from
        what images of different lesions reach to 1. That depends on the network."""
        step = -(-len(self.features) // COMPARED)
        cosines = self.similarity(self.features[::step])
        cosines[self.lesion_id[::step, None] == self.lesion_id] = -1
        nearest = cosines.max(1)
        nearest = nearest[nearest > -1]
        different = float(np.quantile(nearest, DIFFERENT)) if len(nearest) else 1.0
        return different + SAME * (1 - different)

    @property
    def outdated(self) -> bool:
        """Whether an earlier version made it, which looked at another layer, and one threshold."""
        return bool(np.isnan(self.foreign_threshold))


def unit(features) -> np.ndarray:
    """(N, D) float32 rows of length 1, so that a product of two is their cosine."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def load(cfg) -> PredictorState | None:
    """What `run` wrote; None where it is missing, broken or of another checkpoint."""
    path, names = cfg.report_dir / "predictor.npz", {}
    if not path.exists():
        path, names = path.with_name(OLD_FILE), OLD_NAMES
    try:
        with np.load(path, allow_pickle=False) as archive:
            wanted = {f.name: names.get(f.name, f.name) for f in fields(PredictorState)}
            values = {"foreign_threshold": np.array(np.nan)}  # which earlier versions do not have
            values |= {k: archive[v] for k, v in wanted.items() if k not in values or v in archive}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    state = PredictorState(**values | {name: values[name].item() for name in SCALARS})
    return state if state.checkpoints == checkpoint.checksums(cfg) else None


def run(cfg) -> None:
    """Write predictor.npz, predictor.json: how often the sets and the OOD warning are right on the
    primary subset, and for the report the training images most like each mistake."""
    metrics = files.read_json(cfg.report_dir / "metrics.json")
    table = split.read(split.of_first_model(cfg))
    table_rows = files.read_table(cfg.report_dir / "predictions.csv")
    primary, training = metrics["primary_subset"], table[table["subset"] == "train"]
    rows = {subset: scored_rows(table_rows, subset) for subset in metrics["subsets"]}
    loaded = LoadedRun(cfg)
    loaded.networks = loaded.networks[:1]  # features and texture are those of the first one
    _, features, texture = ood.describe(loaded, training["row"].to_numpy())
    centre, precision = ood.fit(texture)
    unseen = {name: unseen_by_first(each) for name, each in rows.items()}
    described = {n: ood.describe(loaded, r["row"].to_numpy()) for n, r in unseen.items()}
    far = {name: ood.distance(each[2], centre, precision) for name, each in described.items()}
    temperature = metrics["calibration"]["temperature"] or 1.0
    state = PredictorState(
        **{name: training[name].to_numpy(str) for name in ("image", "label", "lesion_id")},
        features=unit(features).astype(np.float16),
        centre=centre,
        precision=precision,
        thresholds=_thresholds(rows["val"], temperature),
        temperature=temperature,
        **ood.thresholds(far["val"]),
        tta=cfg.tta,
        checkpoints=checkpoint.checksums(cfg),
    )
    with files.atomic(cfg.report_dir / "predictor.npz", "wb") as file:
        np.savez(file, **vars(state))
    _write_scores(cfg, state, primary, rows, far, shown_subset(metrics, primary))
    similarity = state.similarity(described[primary][1])
    browse.save_similar(cfg, unseen[primary], similarity, training, pixels.load(cfg.pixels_file))


def _thresholds(rows, temperature):
    truth, probabilities = _calibrated(rows, temperature)
    return conformal.class_thresholds(truth, probabilities, rows["lesion_id"].to_numpy(str))


def _write_scores(cfg, state, subset, rows, far, shown):
    distances = {name: far[name] for name in rows if name != "val"}
    looks = {name: _looks(state, each) for name, each in distances.items()}
    nothing = {"out_of_distribution": None, "foreign": None}
    settings = {
        "run": cfg.run_name,
        "subset": shown,
        "levels": dict(zip(CLASSES, conformal.LEVELS, strict=True)),
        "temperature": state.temperature,
        "thresholds": dict(zip(CLASSES, state.thresholds, strict=True)),
        "ood_threshold": state.ood_threshold,
        "foreign_threshold": state.foreign_threshold,
        "looks": looks,
    }
    scores = _scores(state, subset, rows[subset]) | looks.get(subset, nothing)
    files.write_json(cfg.report_dir / "predictor.json", jsonable(settings | scores))
    print(f"predictor: {len(state.image):,} training images; {_summary(shown, scores)}")


def _looks(state, distances):
    """How many look like another source, and how many like no dermoscopic image at all."""
    return {
        "n": len(distances),
        "out_of_distribution": (distances > state.ood_threshold).mean(),
        "foreign": (distances > state.foreign_threshold).mean(),
    }


def _scores(state, subset, rows):
    """conformal.scores on images that chose no threshold; of val, only where folds allow it: each
    by thresholds of the other folds."""
    if subset == "val" and "fold" not in rows:
        rows = rows[:0]  # they chose the thresholds: their error rates would be too good
    thresholds = {-1: state.thresholds}
    if subset == "val" and len(rows):
        thresholds = choices(rows, lambda others: _thresholds(others, state.temperature))
    thresholds = of_rows(thresholds, rows)
    return conformal.scores(*_calibrated(rows, state.temperature), thresholds)


def _summary(subset, scores):
    if not scores["n"]:
        return "how often an answer is wrong is not known: no images that chose nothing"
    melanomas = scores["melanomas"]
    return (
        f"of the {scores['n']:,} images of the {SUBSET_NAMES[subset]} {scores['answered']:.1%} get "
        f"an answer; {melanomas['without']} of {melanomas['answered']} melanomas with an answer "
        f"got one without melanoma; {percent(scores['out_of_distribution'])} look out of "
        "distribution"
    )


def _calibrated(rows, temperature):
    """(truth (N,) int, calibrated probabilities (N, 7)) of predictions."""
    truth, probabilities = arrays(rows)
    return truth, calibration.apply_temperature(probabilities, temperature)
