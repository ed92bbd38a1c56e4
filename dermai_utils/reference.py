"""What an answer about a new picture stands on, made once a run: features of the training images, thresholds of validation.

Two questions. Which diagnoses can't be ruled out: a conformal set, which holds the true class for 90 % of the images of each
class (Sadinle, Lei and Wasserman 2019, doi.org/10.1080/01621459.2017.1395341). Does it look like what the model was trained
on: its Mahalanobis distance to the training images half-way through the network (Lee et al. 2018, arXiv 1807.03888); the last
features know seven diagnoses and nothing else, and a cat is near one of them. No threshold ever sees a test image.
"""

import contextlib
import zipfile
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.covariance import LedoitWolf

from dermai_utils import calibration, clean, explain, files, model, report, split, train
from dermai_utils.config import CLASSES, UserError
from dermai_utils.findings import arrays, plain

COVERAGE = 0.9  # of each class's images, the share whose set holds the class
FAMILIAR = 0.99  # of the validation images, the share that pass as dermoscopic
AT_MOST = 2  # classes: a set of more (or of none) is no answer
HALF_WAY = 16  # a map of a sixteenth of the image's side; of EfficientNet-Lite0's maps the one that tells best (LOG.md)


# Which diagnoses can't be ruled out.


def conformal_quantile(scores, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores: another score of their kind is at most that with a chance of `level`.

    inf where n is too small to say (under 9 for 0.9).
    """
    rank = int(np.ceil(round((len(scores) + 1) * level, 9)))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else np.inf


def class_thresholds(truth, probabilities, level: float = COVERAGE) -> np.ndarray:
    """(7,) float: the least probability at which each class is in the set, from validation's `truth` (N,) and (N, 7).

    Each class by its own images, so that a rare one is held as often as a common one. A class with too few to say shares the
    threshold of all (Ding et al. 2023, arXiv 2306.09335); where all are too few it is 0, and no class is ever ruled out.
    """
    own = probabilities[np.arange(len(truth)), truth]
    everyone = conformal_quantile(1 - own, level)
    limits = [conformal_quantile(1 - own[truth == k], level) for k in range(len(CLASSES))]
    return np.array([max(0.0, 1 - (limit if np.isfinite(limit) else everyone)) for limit in limits])


def possible(probabilities, thresholds) -> np.ndarray:
    """(N, 7) bool: which classes can't be ruled out. A row can be empty: then no class is as probable as it usually is."""
    return probabilities >= thresholds


def answers(sets) -> np.ndarray:
    """(N,) bool: whether a set (N, 7) says enough to be given as an answer; else the answer is "unsure"."""
    return (sets.sum(1) >= 1) & (sets.sum(1) <= AT_MOST)


# Does it look like what the model was trained on.


def unit(features) -> np.ndarray:
    """(N, D) float32 rows of length 1, so that a product of two is their cosine."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def described(net, batches, rows, batch_size: int, views: int = 1):
    """((N, 7) logits, (N, D) features of the last layer, (N, 2C) texture): what the network makes of rows of pixels.

    Texture is the mean and the standard deviation of each channel half-way. A network without maps (a transformer) has none:
    then the features stand in for it.
    """
    kept, hook = [], None
    with contextlib.suppress(UserError):
        hook = half_way(net, batches.size).register_forward_hook(lambda *args: kept.append(_texture(args[2])))
    try:
        logits, features = model.predict(net, batches, rows, batch_size, with_features=True, views=views)
    finally:
        if hook:
            hook.remove()
    return logits, features, np.concatenate(kept[::views]) if kept else features


def half_way(net, size: int):
    """The last module that runs once and has a map of at least 1/16 of the image's side."""
    maps = explain.feature_maps(net, size)
    modules = [module for module, _ in maps]
    return [module for module, side in maps if side * HALF_WAY >= size and modules.count(module) == 1][-1]


def _texture(maps):
    maps = maps.float().flatten(2)
    return torch.cat([maps.mean(2), maps.std(2)], 1).cpu().numpy()


def fitted(texture) -> tuple[np.ndarray, np.ndarray]:
    """The centre (D,) and the inverse covariance (D, D) of (M, D), float32; shrunk, so that few images are enough."""
    found = LedoitWolf().fit(texture.astype(np.float64))
    return found.location_.astype(np.float32), found.precision_.astype(np.float32)


def distance(texture, centre, precision) -> np.ndarray:
    """(N,) float: the Mahalanobis distance of each row of (N, D) from the centre."""
    away = texture.astype(np.float64) - centre
    return np.sqrt(np.maximum(((away @ precision) * away).sum(1), 0))


# The stage.


@dataclass(frozen=True)
class Reference:
    """Of a run: `features` (M, D) float16 of length 1, and for each of these training images its id, label, lesion and row."""

    features: np.ndarray
    image: np.ndarray
    label: np.ndarray
    lesion_id: np.ndarray
    row: np.ndarray  # in the pixel array
    thresholds: np.ndarray  # (7,), see class_thresholds
    temperature: float
    centre: np.ndarray  # (2C,) and
    precision: np.ndarray  # (2C, 2C): the training images half-way, see fitted
    farthest: float  # a picture beyond this distance is unlike the training images
    views: int  # of an image, over which the evaluation averaged
    checkpoints: str  # the checksum of the best.pt that all this is of, or those of an ensemble

    def similarity(self, features) -> np.ndarray:
        """(N, M) float32: the cosine of each of `features` (N, D) with each training image."""
        return unit(features) @ self.features.astype(np.float32).T


def load(cfg) -> Reference | None:
    """What `run` wrote; None where it is missing, not whole, or of another checkpoint than the one that is there."""
    try:
        with np.load(cfg.report_dir / "reference.npz", allow_pickle=False) as kept:
            found = {name: kept[name] for name in Reference.__dataclass_fields__}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    found |= {name: found[name].item() for name in ("temperature", "farthest", "views", "checkpoints")}
    return Reference(**found) if found["checkpoints"] == checkpoints(cfg) else None


def checkpoints(cfg) -> str:
    """The checksum of the run's best.pt, or of those of an ensemble's members; of one that is missing, nothing."""
    paths = [folder / "best.pt" for folder in cfg.member_dirs]
    return " ".join(files.checksum(path) if path.exists() else "missing" for path in paths)


def run(cfg) -> None:
    """Write reference.npz, and reference.json: how often the sets and the warning are right on the images that are quoted."""
    found, table = files.read_json(cfg.report_dir / "metrics.json"), split.read(cfg)
    predictions = clean.read_table(cfg.report_dir / "predictions.csv")
    quoted, training = found["headline"], table[table["part"] == "train"]
    parts = {part: report.counting(predictions, part) for part in ("val", quoted)}
    features, texture = _of_parts(cfg, {"train": training["row"]} | {part: rows["row"] for part, rows in parts.items()})
    centre, precision = fitted(texture["train"])
    far = {part: distance(texture[part], centre, precision) for part in parts}
    temperature = found["calibration"]["temperature"] or 1.0
    kept = Reference(
        row=training["row"].to_numpy(),
        **{name: training[name].to_numpy(str) for name in ("image", "label", "lesion_id")},
        features=unit(features["train"]).astype(np.float16), centre=centre, precision=precision,
        thresholds=class_thresholds(*calibrated(parts["val"], temperature)), temperature=temperature,
        farthest=float(np.quantile(far["val"], FAMILIAR)), views=cfg.views, checkpoints=checkpoints(cfg),
    )  # fmt: skip
    with files.atomic(cfg.report_dir / "reference.npz", "wb") as file:
        np.savez(file, **vars(kept))
    measured = scores(kept, parts[quoted], far[quoted])
    about = {"run": cfg.run_name, "part": quoted, "coverage": COVERAGE, "temperature": temperature,
             "thresholds": dict(zip(CLASSES, kept.thresholds, strict=True)), "farthest": kept.farthest}  # fmt: skip
    files.write_json(cfg.report_dir / "reference.json", plain(about | measured))
    print(f"reference: {len(training):,} training images; on the {report.PART_NAMES[quoted]} the sets hold the true class of "
          f"{measured['held']:.1%}, with {measured['size']:.2f} classes on average; {measured['unfamiliar']:.1%} look unlike "
          "the training images")  # fmt: skip


def _of_parts(cfg, rows):
    """({part: features}, {part: texture}) for {part: rows}, by the run's first model."""
    (net, *_), accelerator = opened(cfg)
    batches = train.batches_for(cfg, net, accelerator.device)
    at_once = train.evaluation_batch(cfg.batch_size, accelerator.device)
    with accelerator.autocast():
        found = {part: described(net, batches, some.to_numpy(), at_once) for part, some in rows.items()}
    return {part: some[1] for part, some in found.items()}, {part: some[2] for part, some in found.items()}


def opened(cfg):
    """([the run's model, or those of an ensemble], accelerate's handle on their device)."""
    accelerator = train.start(cfg, train.quiet)
    return [train.load_best(cfg, accelerator.device, folder)[0] for folder in cfg.member_dirs], accelerator


def calibrated(rows, temperature):
    """(truth (N,) int, calibrated probabilities (N, 7)) of predictions."""
    truth, probabilities = arrays(rows)
    return truth, calibration.apply_temperature(probabilities, temperature)


def scores(kept, rows, far) -> dict:
    """What the sets and the warning are worth on `rows` of predictions, whose distances are `far`.

    held: the share whose set holds the true class, in all and by class; size: classes in a set; answered: the share of sets
    that are an answer; answered_held: of these, the share that holds the true class, which nothing promises to be 90 %;
    unfamiliar: the share that gets the warning, wrongly.
    """
    truth, probabilities = calibrated(rows, kept.temperature)
    sets = possible(probabilities, kept.thresholds)
    right, size = sets[np.arange(len(truth)), truth], sets.sum(1)
    by_class = {c: {"n": (truth == k).sum(), "held": right[truth == k].mean() if (truth == k).any() else None}
                for k, c in enumerate(CLASSES)}  # fmt: skip
    answered = answers(sets)
    return {"n": len(truth), "held": right.mean(), "by_class": by_class, "size": size.mean(), "answered": answered.mean(),
            "answered_held": right[answered].mean() if answered.any() else None,
            "unfamiliar": (far > kept.farthest).mean()}  # fmt: skip
