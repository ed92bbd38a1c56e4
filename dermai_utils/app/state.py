"""What an answer about a new picture needs of a run: computed once, then without any image.

The thresholds come from the validation images, the neighbours are the training images. No threshold
ever depends on a test image. Of the packages that take long to import, an answer needs only
PyTorch and pandas; what `prepare` needs is imported there.
"""

import dataclasses
import hashlib

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy

from dermai_utils import files, pixels, predictions
from dermai_utils.app import ood, thumbnails
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.inference import softmax
from dermai_utils.study import conformal

FILE = "answers.safetensors"
SIMILAR = 3  # training images for each image of the subset to quote, for the report
PARTS = 5  # of the validation lesions, each scored by the thresholds of the others
PACKED = ("centre", "precision", "thumbnails")  # arrays that leave the machine in a pack


@dataclasses.dataclass(frozen=True)
class State:
    """The texture of the training images, their features where these are here, and `about`.

    `about` is answers.json: the temperature, the thresholds, the digest of the `weights` that all
    this belongs to, and how often answers are right on images that chose no threshold.
    """

    centre: np.ndarray  # (2C,) and
    precision: np.ndarray  # (2C, 2C): the texture of the training images, see ood.fit
    about: dict
    features: np.ndarray  # (M, D) float16, of length 1; M = 0 in a pack
    known: pd.DataFrame  # image, label and lesion_id of these M images
    thumbnails: np.ndarray  # (T, 64) int8 for the T rows of the run's table, see thumbnails.stored

    def calibrated(self, probabilities) -> np.ndarray:
        """(N, 7) calibrated probabilities, as `calibration.apply_temperature` gives them."""
        smallest = np.finfo(float).eps
        return softmax(np.log(np.clip(probabilities, smallest, 1)) / self.about["temperature"])

    @property
    def thresholds(self) -> np.ndarray:
        """(7,) float, see conformal.class_thresholds."""
        return np.array([self.about["thresholds"][c] for c in CLASSES])

    def distance(self, texture) -> np.ndarray:
        """(N,) float: the distance of each picture from the training images, see ood.distance."""
        return ood.distance(texture, self.centre, self.precision)

    def similarity(self, features) -> np.ndarray:
        """(N, M) float32: the cosine of each of `features` (N, D) with each training image."""
        if not len(self.features):
            return np.zeros((len(features), 0), np.float32)
        return unit(features) @ self.features.astype(np.float32).T


def unit(features) -> np.ndarray:
    """(N, D) float32 rows of length 1, so that a product of two is their cosine."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def nearest(known, cosines, n: int, lesion: str = "") -> list[dict]:
    """image, label and similarity of the `n` rows of `known` with the largest `cosines`, one of
    each lesion, and none of `lesion`."""
    rows = known.assign(similarity=np.asarray(cosines, float))
    rows = rows.sort_values("similarity", ascending=False, kind="stable")
    rows = rows[rows["lesion_id"] != lesion].drop_duplicates("lesion_id").head(n)
    return rows.drop(columns="lesion_id").to_dict("records")


def digest(networks) -> str:
    """SHA-256 of the networks' weights by name, whatever file they came from."""
    found = hashlib.sha256()
    for net in networks:
        for name, tensor in net.state_dict().items():
            found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def save(run, state: State) -> dict:
    """Write answers.safetensors and answers.json to the run's folder; returns what the latter
    has."""
    rows = pd.Index(run.table["image"]).get_indexer(state.known["image"]).astype(np.int32)
    arrays = {name: getattr(state, name) for name in (*PACKED, "features")}
    with files.atomic(run.folder / FILE, "wb") as file:
        file.write(safetensors.numpy.save(arrays | {"rows": rows}))
    files.write_json(run.folder / "answers.json", state.about)
    return state.about


def load(run) -> State:
    """What `save` wrote; UserError where it is missing, damaged or another network's."""
    path, why = run.folder / FILE, "is damaged"
    try:
        arrays = {"rows": [], "features": np.zeros((0, 0), np.float16)}  # a pack has none
        arrays |= safetensors.numpy.load(path.read_bytes())
        known = _named(run.table.iloc[arrays.pop("rows")])
        about = files.read_json(run.folder / "answers.json")
        if about["weights"] == digest(run.networks):
            return State(**arrays, known=known, about=about)
        why = "belongs to another network"
    except FileNotFoundError:
        why = "is missing"
    except (OSError, ValueError, TypeError, KeyError, IndexError, safetensors.SafetensorError):
        pass
    advice = f"python -m dermai_utils report {run.flags} makes it"
    raise UserError(f"{path} {why}: answers need it; where the data set is, {advice}") from None


def _named(rows):
    """image, label and lesion of rows of a run's table."""
    rows = rows.assign(lesion_id=predictions.lesions(rows))
    return rows[["image", "label", "lesion_id"]].reset_index(drop=True)


def prepare(run, dataset) -> State:
    """Compute what answers about new pictures need; `save` stores it.

    dataset: the data that the run was trained on, at the run's size. Images that are not in it any
    more are left out. UserError where the size differs, or where no training or no validation image
    is there.

    >>> prepare(run, load("sample", size=run.size)).thresholds.shape    # doctest: +SKIP
    (7,)
    """
    from dermai_utils.study import calibration

    if tuple(dataset.pixels.shape[1:3]) != pixels.shape(run.size):
        raise UserError(f"{dataset.name}: load it with size={run.size}, as run {run.name} was")
    subsets = predictions.by_subset(run.predictions)
    fold = run.table["fold"] if run.folds else 0  # the first network learned all folds but 0
    first = run.table[(run.table["subset"] == "train") | (fold > 0)]
    known = _described(run, dataset, first)
    found = _described(run, dataset, predictions.unseen_by_first(subsets["val"]))
    if not known or not found:
        need = "answers need its training and its validation images"
        raise UserError(f"run {run.name}: its images are not in {dataset.name}; {need}")
    training, features, texture = known
    centre, precision = ood.fit(texture)
    temperatures = calibration.temperatures(subsets)
    thresholds = _thresholds(_calibrated(subsets["val"], temperatures["val"]))
    about = {
        "run": run.name,
        "weights": digest(run.networks),
        "made_up": run.settings.get("data") == "sample",
        "temperature": temperatures[calibration.NEW],
        "thresholds": dict(zip(CLASSES, thresholds, strict=True)),
        **ood.thresholds(ood.distance(found[2], centre, precision)),
    }
    features, small = unit(features).astype(np.float16), thumbnails.stored(run.table, dataset)
    state = State(centre, precision, about, features, _named(training), small)
    counts = counted(run, state, run.predictions, dataset)
    return dataclasses.replace(state, about=about | counts)


def _described(run, dataset, rows):
    """(`rows` that the data has, their features, their texture) by the first network, or None."""
    place = pd.Series(dataset.table.index, dataset.table["image"])
    rows = rows[rows["image"].isin(place.index)]
    where = place[rows["image"]].to_numpy()
    return (rows, *ood.describe(run, dataset.pixels, where)[1:]) if len(rows) else None


def _calibrated(rows, temperatures):
    """`rows` of predictions with calibrated probabilities; `temperatures` (N,): each row's own."""
    from dermai_utils.study import calibration

    p = calibration.apply_temperature(rows[list(CLASSES)], temperatures[:, None])
    return rows.assign(**dict(zip(CLASSES, p.T, strict=True)))


def _thresholds(rows):
    return conformal.class_thresholds(*predictions.arrays(rows), predictions.lesions(rows))


def counted(run, state, rows, dataset) -> dict:
    """What was counted on the subset to quote, and on every test set; for answers.json.

    rows: predictions of val and of the test sets; dataset: their pictures, where they are here.
    """
    from dermai_utils.metrics import jsonable
    from dermai_utils.study import calibration

    subsets = predictions.by_subset(rows)
    temperatures = calibration.temperatures(subsets)
    subsets = {name: _calibrated(of, temperatures[name]) for name, of in subsets.items()}
    subset = predictions.primary_subset(subsets)
    name = predictions.subset_name(subset, run.settings.get("data", ""), run.folds)
    if subset == "val":
        name = f"{name.partition(' (')[0]} (each part judged by thresholds of the others)"
    sets, unlike, similar = {}, {}, {}
    for each, of in subsets.items():
        sets[each] = _scores(state, each, of)
        found = _described(run, dataset, predictions.unseen_by_first(of))
        if found and each != "val":
            far = state.distance(found[2])
            unlike[each] = {
                "n": len(far),
                "out_of_distribution": (far > state.about["ood_threshold"]).mean(),
                "foreign": (far > state.about["foreign_threshold"]).mean(),
            }
        if found and each == subset:
            similar = _similar(state, *found[:2])
    quoted = {"subset": subset, "subset_name": name} | sets[subset]
    return jsonable(quoted | {"sets": sets, "unlike": unlike, "similar": similar})


def _scores(state, subset, rows):
    """conformal.scores of `rows` with calibrated probabilities, of images that chose no threshold.

    Validation images chose them, so their error rates would be too good: each fold, or else each
    fifth of the validation lesions, is scored by the thresholds of the others.
    """
    from dermai_utils import splits

    thresholds = {-1: state.thresholds}
    if subset == "val":
        if "fold" not in rows:
            parts = (predictions.lesions(rows), rows["truth"], np.ones(PARTS))
            rows = rows.assign(fold=splits.stratified(*parts, seed=0))
        thresholds = predictions.cross_fit(rows, _thresholds)
    thresholds = predictions.fitted_for(thresholds, rows)
    truth, probabilities = predictions.arrays(rows)
    return conformal.scores(truth, probabilities, thresholds, predictions.lesions(rows))


def _similar(state, rows, features) -> dict:
    """{image: the training images most like it, of other lesions}; the report shows them beside
    its mistakes."""
    if not len(state.features):
        return {}
    each = zip(rows["image"], predictions.lesions(rows), state.similarity(features), strict=True)
    return {
        image: nearest(state.known, cosines, SIMILAR, lesion) for image, lesion, cosines in each
    }
