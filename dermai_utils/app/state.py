"""What an answer about a new picture needs of a run: computed once, then without any image.

The thresholds come from the validation images, the neighbours are the training images. No threshold
ever depends on a test image.
"""

import hashlib
import zipfile
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dermai_utils import files, pixels, predictions
from dermai_utils.app import ood
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.metrics import jsonable
from dermai_utils.study import calibration, conformal
from dermai_utils.study.text import percent

ARRAYS = ("features", "image", "label", "lesion_id", "thresholds", "centre", "precision")
NUMBERS = ("temperature", "ood_threshold", "foreign_threshold", "weights")
# The cosine with the nearest image of another lesion is looked up for at most COMPARED training
# images. A share DIFFERENT of these lies below what different lesions reach; the rest may be near
# duplicates. With quick_cpu no one of 1,200 images of val and test is called a training image.
COMPARED, DIFFERENT, SAME = 1000, 0.95, 0.8
SIMILAR, LISTED = 3, 200  # training images for each of so many mistakes, for the report


@dataclass(frozen=True)
class State:
    """Features, id, label and lesion of M training images; thresholds; what was counted.

    `scores` is what answers.json has on top: how often answers are right on images that chose no
    threshold, and which pictures would be called out of distribution.
    """

    features: np.ndarray  # (M, D) float16, of length 1
    image: np.ndarray
    label: np.ndarray
    lesion_id: np.ndarray
    thresholds: np.ndarray  # (7,), see conformal.class_thresholds
    centre: np.ndarray  # (2C,) and
    precision: np.ndarray  # (2C, 2C): the texture of the training images, see ood.fit
    temperature: float
    ood_threshold: float  # see ood.thresholds
    foreign_threshold: float
    weights: str  # the digest of the networks that all this belongs to
    scores: dict

    def similarity(self, features) -> np.ndarray:
        """(N, M) float32: the cosine of each of `features` (N, D) with each training image."""
        return unit(features) @ self.features.astype(np.float32).T

    def distance(self, texture) -> np.ndarray:
        """(N,) float: the distance of each picture from the training images, see ood.distance."""
        return ood.distance(texture, self.centre, self.precision)

    def same_threshold(self) -> float:
        """The cosine from which a picture is (nearly) a training image.

        It depends on the network: 4/5 of the way from what images of different lesions reach to 1.
        """
        step = -(-len(self.features) // COMPARED)
        cosines = self.similarity(self.features[::step])
        cosines[self.lesion_id[::step, None] == self.lesion_id] = -1
        nearest = cosines.max(1)
        nearest = nearest[nearest > -1]
        different = float(np.quantile(nearest, DIFFERENT)) if len(nearest) else 1.0
        return different + SAME * (1 - different)

    @property
    def summary(self) -> str:
        """How often answers are right, in one sentence."""
        if not self.scores["n"]:
            return "it is not known how often an answer is wrong: every image chose a threshold"
        scores, melanomas = self.scores, self.scores["melanomas"]
        return (
            f"of the {scores['n']:,} images of the {scores['subset_name']}, "
            f"{percent(scores['answered'])} get an answer; {melanomas['without']} of "
            f"{melanomas['answered']} melanomas with an answer got one without melanoma; "
            f"{percent(scores['out_of_distribution'])} look out of distribution"
        )


def unit(features) -> np.ndarray:
    """(N, D) float32 rows of length 1, so that a product of two is their cosine."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def digest(networks) -> str:
    """SHA-256 of the networks' weights by name, whatever file they were in."""
    found = hashlib.sha256()
    for net in networks:
        for name, tensor in net.state_dict().items():
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def load(run) -> State:
    """What `prepare` wrote to the run's folder; UserError where it is missing, damaged or another
    network's."""
    try:
        with np.load(run.folder / "answers.npz", allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ARRAYS}
        scores = files.read_json(run.folder / "answers.json")
        state = State(**arrays, **{name: scores[name] for name in NUMBERS}, scores=scores)
        why = "" if state.weights == digest(run.networks) else "belongs to another network"
    except FileNotFoundError:
        why = "is missing"
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        why = "is damaged"
    if why:
        raise UserError(
            f"{run.folder / 'answers.npz'} {why}: answers need it; where the data set is, "
            f"python -m dermai_utils evaluate --run-name {run.name} makes it (in Python: "
            "prepare(run, dataset))"
        )
    return state


def prepare(run, dataset) -> State:
    """Compute what answers about new pictures need, and store it in the run's folder.

    dataset: the data that the run was trained on, at the run's size; images that are not there any
    more, or have other pixels now, are left out. Writes answers.npz and answers.json. UserError
    where the size differs, or no training or validation image is there.

    >>> prepare(run, load("sample", size=run.size)).thresholds.shape    # doctest: +SKIP
    (7,)
    """
    place, rows = _places(run, dataset), predictions.by_subset(run.predictions)

    def described(rows):
        """The rows that the data has, with their features and texture by the first network."""
        rows = rows.assign(place=rows["image"].map(place).fillna(-1).astype(int))
        rows = rows[rows["place"] >= 0]
        return rows, *ood.describe(run, dataset.pixels, rows["place"].to_numpy())[1:]

    training, features, texture = described(_first_training(run.table))
    found = {name: described(predictions.unseen_by_first(each)) for name, each in rows.items()}
    if not len(training) or not len(found.get("val", [()])[0]):
        need = "answers need its training and its validation images"
        raise UserError(f"run {run.name}: its images are not in {dataset.name}; {need}")
    centre, precision = ood.fit(texture)
    far = {name: ood.distance(each[2], centre, precision) for name, each in found.items()}
    temperature = calibration.fit_temperature(*predictions.arrays(rows["val"]))
    state = State(
        features=unit(features).astype(np.float16),
        **{name: training[name].to_numpy(str) for name in ("image", "label")},
        lesion_id=predictions.lesions(training),
        thresholds=_thresholds(rows["val"], temperature),
        centre=centre,
        precision=precision,
        temperature=temperature,
        **ood.thresholds(far["val"]),
        weights=digest(run.networks),
        scores={},
    )
    scores = _counted(run, state, rows, far, found)
    state = replace(state, scores=jsonable(scores))
    save(state, run.folder)
    return state


def save(state: State, folder) -> None:
    """Write answers.npz (arrays) and answers.json (numbers and counts)."""
    with files.atomic(folder / "answers.npz", "wb") as file:
        np.savez(file, **{name: getattr(state, name) for name in ARRAYS})
    files.write_json(folder / "answers.json", state.scores)


def _places(run, dataset) -> pd.Series:
    """The row of dataset.pixels for each image of the run; -1 where it is not there, or differs."""
    shape = pixels.shape(run.size)
    if tuple(dataset.pixels.shape[1:3]) != shape:
        raise UserError(
            f"run {run.name} was trained at {run.size} px, {dataset.name} was loaded at another "
            f"size; load it with size={run.size}"
        )
    here, there = (t["image"] + " " + t["pixel_hash"] for t in (dataset.table, run.table))
    places = pd.Series(pd.Index(here).get_indexer(there), run.table["image"])
    if missing := int((places < 0).sum()):
        print(
            f"answers: {missing:,} of the run's {len(places):,} images are not in {dataset.name} "
            "any more, or have other pixels; left out"
        )
    return places


def _first_training(table):
    """The rows that the first network was trained on."""
    fold = table["fold"] if "fold" in table else pd.Series(-1, table.index)
    return table[(table["subset"] == "train") | (fold > 0)]


def _thresholds(rows, temperature):
    truth, probabilities = _calibrated(rows, temperature)
    return conformal.class_thresholds(truth, probabilities, predictions.lesions(rows))


def _calibrated(rows, temperature):
    """(truth (N,) int, calibrated probabilities (N, 7)) of predictions."""
    truth, probabilities = predictions.arrays(rows)
    return truth, calibration.apply_temperature(probabilities, temperature)


def _counted(run, state, rows, far, found) -> dict:
    """answers.json: thresholds, and what was counted on the subset to quote."""
    primary = predictions.primary_subset(rows)
    name = predictions.subset_name(primary, run.settings["data"], run.folds)
    unlike = {subset: _unlike(state, far[subset]) for subset in rows if subset != "val"}
    unseen, features, _ = found[primary]
    return (
        {"run": run.name, "subset": primary, "subset_name": name}
        | {number: getattr(state, number) for number in NUMBERS}
        | {"thresholds": dict(zip(CLASSES, state.thresholds, strict=True))}
        | {"levels": dict(zip(CLASSES, conformal.LEVELS, strict=True))}
        | _scores(state, primary, rows[primary])
        | unlike.get(primary, {"out_of_distribution": None, "foreign": None})
        | {"unlike": unlike, "similar": _similar(state, unseen, state.similarity(features))}
    )


def _scores(state, subset, rows):
    """conformal.scores of images that chose no threshold.

    Validation images chose them, so their error rates would be too good. With folds, each fold is
    scored by the thresholds of the other folds.
    """
    if subset == "val" and "fold" not in rows:
        rows = rows[:0]
    thresholds = np.repeat(state.thresholds[None], len(rows), axis=0)
    if subset == "val" and len(rows):
        fitted = predictions.cross_fit(rows, lambda val: _thresholds(val, state.temperature))
        thresholds = predictions.fitted_for(fitted, rows)
    return conformal.scores(*_calibrated(rows, state.temperature), thresholds)


def _unlike(state, distances):
    """The shares that look like another source, and like no dermoscopic image at all."""
    return {
        "n": len(distances),
        "out_of_distribution": (distances > state.ood_threshold).mean(),
        "foreign": (distances > state.foreign_threshold).mean(),
    }


def _similar(state, rows, similarity) -> dict:
    """{image: the training images most like it, of other lesions} of the most confident mistakes."""
    found, order = {}, {image: k for k, image in enumerate(rows["image"])}
    for row in predictions.mistakes(rows).head(LISTED).to_dict("records"):
        cosines = similarity[order[row["image"]]]
        cosines = np.where(state.lesion_id == row["lesion_id"], -np.inf, cosines)
        found[row["image"]] = neighbours(state, np.argsort(-cosines)[:SIMILAR], cosines)
    return found


def neighbours(state, places, cosines) -> list[dict]:
    """image, label and similarity of the training images at `places`."""
    return [
        {
            "image": str(state.image[k]),
            "label": str(state.label[k]),
            "similarity": float(cosines[k]),
        }
        for k in places
    ]
