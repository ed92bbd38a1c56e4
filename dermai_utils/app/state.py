"""What an answer about a new picture needs of a run: computed once, then without any image.

The thresholds come from the validation images, the neighbours are the training images. No threshold
ever depends on a test image.
"""

import hashlib
import zipfile
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermai_utils import files, pixels, predictions
from dermai_utils.app import ood
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.metrics import jsonable
from dermai_utils.study import calibration, conformal, decisions

ARRAYS = ("features", "image", "label", "lesion_id", "centre", "precision")
# The cosine with the nearest image of another lesion is looked up for at most COMPARED training
# images. A share DIFFERENT of these lies below what different lesions reach; the rest may be near
# duplicates. With quick_cpu no one of 1,200 images of val and test is called a training image.
COMPARED, DIFFERENT, SAME = 1000, 0.95, 0.8
SIMILAR, LISTED = 3, 200  # training images for each of so many mistakes, for the report


@dataclass(frozen=True)
class State:
    """Features, id, label and lesion of M training images, their texture, and `about`.

    `about` is answers.json: the temperature, the thresholds, the digest of the `weights` that all
    this belongs to, and how often answers are right on images that chose no threshold.
    """

    features: np.ndarray  # (M, D) float16, of length 1
    image: np.ndarray
    label: np.ndarray
    lesion_id: np.ndarray
    centre: np.ndarray  # (2C,) and
    precision: np.ndarray  # (2C, 2C): the texture of the training images, see ood.fit
    about: dict

    def calibrated(self, probabilities) -> np.ndarray:
        """(N, 7) calibrated probabilities."""
        return calibration.apply_temperature(probabilities, self.about["temperature"])

    @property
    def thresholds(self) -> np.ndarray:
        """(7,) float, see conformal.class_thresholds."""
        return np.array([self.about["thresholds"][c] for c in CLASSES])

    def distance(self, texture) -> np.ndarray:
        """(N,) float: the distance of each picture from the training images, see ood.distance."""
        return ood.distance(texture, self.centre, self.precision)

    def similarity(self, features) -> np.ndarray:
        """(N, M) float32: the cosine of each of `features` (N, D) with each training image."""
        return unit(features) @ self.features.astype(np.float32).T

    def neighbours(self, places, cosines) -> list[dict]:
        """image, label and similarity of the training images at `places`; cosines: (M,)."""
        rows = pd.DataFrame({"image": self.image, "label": self.label, "similarity": cosines})
        return rows.astype({"similarity": float}).iloc[places].to_dict("records")


def unit(features) -> np.ndarray:
    """(N, D) float32 rows of length 1, so that a product of two is their cosine."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def same_threshold(state) -> float:
    """The cosine from which a picture is (nearly) a training image.

    It depends on the network: 4/5 of the way from what images of different lesions reach to 1.
    """
    step = -(-len(state.features) // COMPARED)
    cosines = state.similarity(state.features[::step])
    cosines[state.lesion_id[::step, None] == state.lesion_id] = -1
    nearest = cosines.max(1)
    nearest = nearest[nearest > -1]
    different = float(np.quantile(nearest, DIFFERENT)) if len(nearest) else 1.0
    return different + SAME * (1 - different)


def digest(networks) -> str:
    """SHA-256 of the networks' weights by name, whatever file they came from."""
    found = hashlib.sha256()
    for net in networks:
        for name, tensor in net.state_dict().items():
            found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def save(run, state: State) -> dict:
    """Write answers.npz and answers.json to the run's folder; returns what the latter has."""
    with files.atomic(run.folder / "answers.npz", "wb") as file:
        np.savez(file, **{name: getattr(state, name) for name in ARRAYS})
    files.write_json(run.folder / "answers.json", state.about)
    return state.about


def load(run) -> State:
    """What `save` wrote; UserError where it is missing, damaged or another network's."""
    path, why = run.folder / "answers.npz", "is damaged"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ARRAYS}
        state = State(**arrays, about=files.read_json(run.folder / "answers.json"))
        if state.about["weights"] == digest(run.networks):
            return state
        why = "belongs to another network"
    except FileNotFoundError:
        why = "is missing"
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    advice = f"python -m dermai_utils report --run-name {run.name} makes it"
    raise UserError(f"{path} {why}: answers need it; where the data set is, {advice}") from None


def prepare(run, dataset) -> State:
    """Compute what answers about new pictures need; `save` stores it.

    dataset: the data that the run was trained on, at the run's size. Images that are not in it any
    more are left out. UserError where the size differs, or where no training or no validation image
    is there.

    >>> prepare(run, load("sample", size=run.size)).thresholds.shape    # doctest: +SKIP
    (7,)
    """
    if tuple(dataset.pixels.shape[1:3]) != pixels.shape(run.size):
        raise UserError(f"{dataset.name}: load it with size={run.size}, as run {run.name} was")
    place = pd.Series(range(len(dataset.table)), dataset.table["image"])

    def described(rows):
        """The rows that the data has, with their features and texture by the first network."""
        rows = rows[rows["image"].isin(place.index)]
        where = place[rows["image"]].to_numpy()
        return (rows, *ood.describe(run, dataset.pixels, where)[1:]) if len(rows) else None

    rows = predictions.by_subset(run.predictions)
    first = {name: predictions.unseen_by_first(each) for name, each in rows.items()}
    found = {name: described(each) for name, each in first.items()}
    known = described(_first_training(run.table))
    if not known or not found.get("val"):
        need = "answers need its training and its validation images"
        raise UserError(f"run {run.name}: its images are not in {dataset.name}; {need}")
    training, features, texture = known
    about = {"weights": digest(run.networks), "made_up": run.settings.get("data") == "sample"}
    about["temperature"] = calibration.fit_temperature(*predictions.arrays(rows["val"]))
    ids = (training["image"].to_numpy(str), training["label"].to_numpy(str))
    ids += (predictions.lesions(training),)
    state = State(unit(features).astype(np.float16), *ids, *ood.fit(texture), about)
    about |= {"thresholds": dict(zip(CLASSES, _thresholds(state, rows["val"]), strict=True))}
    about |= {"same_threshold": same_threshold(state)}
    about |= ood.thresholds(state.distance(found["val"][2]))
    about |= jsonable(_counted(run, state, rows, found))
    return state


def _first_training(table):
    """The rows that the first network was trained on."""
    fold = table["fold"] if "fold" in table else pd.Series(-1, table.index)
    return table[(table["subset"] == "train") | (fold > 0)]


def _thresholds(state, rows):
    truth, probabilities = predictions.arrays(rows)
    lesions = predictions.lesions(rows)
    return conformal.class_thresholds(truth, state.calibrated(probabilities), lesions)


def _counted(run, state, rows, found) -> dict:
    """What was counted on the subset to quote, and on every test set."""
    subset = predictions.primary_subset(rows)
    name = predictions.subset_name(subset, run.settings.get("data", ""), run.folds)
    unlike = {k: _unlike(state, each[2]) for k, each in found.items() if each and k != "val"}
    similar = {}
    if found[subset]:
        similar = _similar(state, _called(run, rows["val"], found[subset][0]), found[subset][1])
    return {
        **{"run": run.name, "subset": subset, "subset_name": name},
        "levels": dict(zip(CLASSES, conformal.LEVELS, strict=True)),
        **_scores(state, subset, rows[subset]),
        **unlike.get(subset, {"out_of_distribution": None, "foreign": None}),
        **{"unlike": unlike, "similar": similar},
    }


def _scores(state, subset, rows):
    """conformal.scores of images that chose no threshold.

    Validation images chose them, so their error rates would be too good. With folds, each fold is
    scored by the thresholds of the other folds.
    """
    if subset == "val" and "fold" not in rows:
        rows = rows[:0]
    thresholds = {-1: state.thresholds}
    if subset == "val" and len(rows):
        thresholds = predictions.cross_fit(rows, lambda others: _thresholds(state, others))
    truth, probabilities = predictions.arrays(rows)
    thresholds = predictions.fitted_for(thresholds, rows)
    return conformal.scores(truth, state.calibrated(probabilities), thresholds)


def _unlike(state, texture):
    """The shares that look like another source, and like no dermoscopic image at all."""
    far, names = state.distance(texture), ("out_of_distribution", "foreign")
    limits = (state.about["ood_threshold"], state.about["foreign_threshold"])
    return {"n": len(far)} | {k: (far > x).mean() for k, x in zip(names, limits, strict=True)}


def _called(run, val, rows):
    """`rows` with the classes of the rule that `val` chooses: the report lists its mistakes."""
    prior = decisions.training_prior(run.table)
    return decisions.called(rows, decisions.compare_rules(val, rows, prior, n_resamples=1))


def _similar(state, rows, features) -> dict:
    """{image: the training images most like it, of other lesions} of the surest mistakes."""
    cosines, found = dict(zip(rows["image"], state.similarity(features), strict=True)), {}
    for row in predictions.mistakes(rows).head(LISTED).to_dict("records"):
        others = np.where(state.lesion_id == row["lesion_id"], -np.inf, cosines[row["image"]])
        found[row["image"]] = state.neighbours(np.argsort(-others)[:SIMILAR], others)
    return found
