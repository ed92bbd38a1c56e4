"""What an answer about a new picture stands on, made once a run: features of the training images, thresholds of validation.

Two questions. Which diagnoses can't be ruled out: a conformal set, which holds the true class for 90 % of the images of each
class (Sadinle, Lei and Wasserman 2019, doi.org/10.1080/01621459.2017.1395341). Does it look like what the model was trained
on: its distance to the nearest training images in the model's features (Sun et al. 2022, arXiv 2204.06507). No threshold ever
sees a test image.
"""

import zipfile
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from dermai_utils import calibration, clean, files, model, report, split, train
from dermai_utils.config import CLASSES, UserError
from dermai_utils.findings import arrays, plain

COVERAGE = 0.9  # of each class's images, the share whose set holds the class
FAMILIAR = 0.99  # of the validation images, the share that pass as dermoscopic
AT_MOST = 2  # classes: a set of more (or of none) is no answer
NEIGHBOURS = 10  # the distance is to the tenth nearest: one odd training image makes nothing familiar


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


def distance(similarity, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """(N,) float: 1 - the cosine with the tenth most similar training image; `similarity` (N, M) has them all."""
    k = min(neighbours, similarity.shape[1])
    return 1 - np.partition(similarity, -k, axis=1)[:, -k]


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
    farthest: float  # a picture beyond this distance is unlike the training images
    checkpoint: str  # the checksum of the best.pt that all this is of

    def similarity(self, features) -> np.ndarray:
        """(N, M) float32: the cosine of each of `features` (N, D) with each training image."""
        return unit(features) @ self.features.astype(np.float32).T


def load(cfg) -> Reference | None:
    """What `run` wrote; None where it is missing, not whole, or of another checkpoint than the one that is there."""
    path, best = cfg.report_dir / "reference.npz", cfg.run_dir / "best.pt"
    try:
        with np.load(path, allow_pickle=False) as kept:
            found = {name: kept[name] for name in Reference.__dataclass_fields__}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    found |= {name: found[name].item() for name in ("temperature", "farthest", "checkpoint")}
    return Reference(**found) if best.exists() and files.checksum(best) == found["checkpoint"] else None


def run(cfg) -> None:
    """Write reference.npz, and reference.json: how often the sets and the warning are right on the images that are quoted."""
    found = files.read_json(cfg.report_dir / "metrics.json")
    predictions = clean.read_table(cfg.report_dir / "predictions.csv")
    parts = {part: report.counting(predictions, part) for part in ("val", found["headline"])}
    table = split.read(cfg)
    training = table[table["part"] == "train"]
    net, accelerator = opened(cfg)
    batches = train.batches_for(cfg, net, accelerator.device)
    rows = {"train": training["row"]} | {part: some["row"] for part, some in parts.items()}
    with accelerator.autocast():
        features = {part: _features(net, batches, some.to_numpy(), cfg.batch_size, part) for part, some in rows.items()}
    kept = Reference(
        features=unit(features["train"]).astype(np.float16),
        **{name: training[name].to_numpy(str) for name in ("image", "label", "lesion_id")},
        row=training["row"].to_numpy(), thresholds=np.zeros(len(CLASSES)), farthest=0.0,
        temperature=found["calibration"]["temperature"] or 1.0, checkpoint=files.checksum(cfg.run_dir / "best.pt"),
    )  # fmt: skip
    far = {part: distance(kept.similarity(features[part])) for part in parts}
    truth, probabilities = calibrated(kept, parts["val"])
    fixed = {"thresholds": class_thresholds(truth, probabilities), "farthest": float(np.quantile(far["val"], FAMILIAR))}
    kept = Reference(**(vars(kept) | fixed))
    with files.atomic(cfg.report_dir / "reference.npz", "wb") as file:
        np.savez(file, **vars(kept))
    measured = scores(kept, parts[found["headline"]], far[found["headline"]])
    about = {"run": cfg.run_name, "part": found["headline"], "coverage": COVERAGE, "temperature": kept.temperature,
             "thresholds": dict(zip(CLASSES, kept.thresholds, strict=True)), "farthest": kept.farthest}  # fmt: skip
    files.write_json(cfg.report_dir / "reference.json", plain(about | measured))
    print(f"reference: {len(training):,} training images; on the {report.PART_NAMES[found['headline']]} the sets hold the true "
          f"class of {measured['held']:.1%}, with {measured['size']:.2f} classes on average; {measured['unfamiliar']:.1%} "
          "look unlike the training images")  # fmt: skip


def opened(cfg):
    """(the best checkpoint's model, on its device, and accelerate's handle on that); UserError where cfg isn't the run's."""
    accelerator = train.start(cfg, train.quiet)
    net, about = train.load_best(cfg, accelerator.device)
    if about["image_size"] != cfg.image_size:
        raise UserError(f"{cfg.show(cfg.run_dir)} was trained at {about['image_size']} px, not {cfg.image_size}")
    return net, accelerator


def _features(net, batches, rows, batch, part):
    chunks = [rows[k : k + batch] for k in range(0, len(rows), batch)]
    bar = tqdm(chunks, f"features of {part}", mininterval=0.5)
    return np.concatenate([model.predict(net, batches, chunk, batch, with_features=True)[1] for chunk in bar])


def calibrated(kept, rows):
    """(truth (N,) int, calibrated probabilities (N, 7)) of predictions."""
    truth, probabilities = arrays(rows)
    return truth, calibration.apply_temperature(probabilities, kept.temperature)


def scores(kept, rows, far) -> dict:
    """What the sets and the warning are worth on `rows` of predictions, whose distances are `far`.

    held: the share whose set holds the true class, in all and by class; size: classes in a set; answered: the share of sets
    that are an answer; unfamiliar: the share that gets the warning, wrongly.
    """
    truth, probabilities = calibrated(kept, rows)
    sets = possible(probabilities, kept.thresholds)
    right, size = sets[np.arange(len(truth)), truth], sets.sum(1)
    by_class = {c: {"n": (truth == k).sum(), "held": right[truth == k].mean() if (truth == k).any() else None}
                for k, c in enumerate(CLASSES)}  # fmt: skip
    return {"n": len(truth), "held": right.mean(), "by_class": by_class, "size": size.mean(),
            "answered": answers(sets).mean(), "unfamiliar": (far > kept.farthest).mean()}  # fmt: skip
