"""What the page, the notebook and the CSV say about one picture, and how often that is wrong."""

from dataclasses import dataclass

import numpy as np

from dermai_utils.config import CLASS_NAMES, CLASSES
from dermai_utils.metrics import conformal
from dermai_utils.metrics.predictions import SUBSET_NAMES
from dermai_utils.metrics.text import percent

FOREIGN = (
    "does not look like a dermoscopic image, and the model knows nothing else: its numbers mean "
    "nothing here"
)
OTHER_SOURCE = (
    "looks unlike the training images (another clinic or camera?): expect more mistakes than "
    "counted below"
)
DISTANCE_UNKNOWN = (
    "may be out of distribution: an earlier version made what that is judged by; where the data "
    "set is, `python -m dermai_utils predictor` makes it anew"
)


@dataclass(frozen=True)
class Answer:
    """About one picture. `square` (what the network saw) is (S, S, 3) uint8, `gradcam` (of the most
    probable class) (S, S) in 0..1; both may be None."""

    name: str
    probabilities: np.ndarray  # (7,) calibrated
    possible: tuple  # the classes that can't be ruled out, the most probable first
    sure: bool  # whether these are few enough to be an answer
    distance: float  # to the training images; NaN where that is not known
    ood_threshold: float  # beyond it a picture comes from another source,
    foreign_threshold: float  # and beyond this one it is no dermoscopic image
    similar: list  # of dicts: image, label, similarity (cosine, -1..1), row
    square: np.ndarray | None = None
    gradcam: np.ndarray | None = None
    gradcam_note: str = ""  # what is to be said beside the map
    oddities: tuple = ()  # what is wrong with the picture, see ood.oddities
    scores: dict | None = None  # predictor.json, which counts how often answers are wrong
    same_threshold: float = np.inf  # from this cosine on it is (nearly) a training image

    @property
    def foreign(self) -> bool:
        """Whether the picture is too unlike the training images for any diagnosis."""
        return self.distance > self.foreign_threshold

    @property
    def text(self) -> str:
        """The answer in words: one or two diagnoses, unsure, or no dermoscopic image."""
        if self.foreign:
            return f"This picture {FOREIGN}."
        if self.sure:
            return " or ".join(CLASS_NAMES[c] for c in self.possible)
        return f"unsure: {len(self.possible)} diagnoses cannot be ruled out"

    @property
    def warnings(self) -> list[str]:
        """What to know before reading the answer; each goes on from "this picture"."""
        warnings = list(self.oddities)
        if self.similar and self.similar[0]["similarity"] >= self.same_threshold:
            same = self.similar[0]
            warnings.append(
                f"is (nearly) the training image {same['image']}, labelled "
                f"{CLASS_NAMES[same['label']]}: the answer is no test of the model"
            )
        if np.isnan(self.distance):
            warnings.append(DISTANCE_UNKNOWN)
        elif not self.foreign and self.distance > self.ood_threshold:
            warnings.append(OTHER_SOURCE)
        return warnings

    @property
    def error_rates(self) -> list[str]:
        """How often an answer of this kind held the truth, and how many melanomas were missed."""
        return [] if self.foreign else error_rates(self.scores, self.possible)

    @property
    def row(self) -> dict:
        """A row of the CSV."""
        answer = " or ".join(self.possible) if self.sure else "unsure"
        return {
            "picture": self.name,
            "answer": "no dermoscopic image" if self.foreign else answer,
            "warnings": "; ".join(self.warnings),
            **dict(zip(CLASSES, self.probabilities, strict=True)),
            "possible": " ".join(self.possible),
            "how_often_wrong": " ".join(self.error_rates),
            "distance": self.distance,
            "ood_threshold": self.ood_threshold,
            "foreign_threshold": self.foreign_threshold,
            "similar": " ".join(f"{image['image']}:{image['label']}" for image in self.similar),
        }


def error_rates(scores: dict | None, possible) -> list[str]:
    """Two sentences beside an answer that names the classes `possible`, from predictor.json.

    "not known" where no images are left that chose nothing, or where an earlier version counted.
    """
    scores = scores or {}
    answers, melanomas = scores.get("answers", {}), scores.get("melanomas", {"answered": 0})
    where = SUBSET_NAMES.get(scores.get("subset"), "")
    kind = conformal.kinds(np.isin(CLASSES, possible)[None])[0]
    sentences, counts = [], answers.get(kind, {"n": 0})
    if kind and counts["n"]:
        share = percent(counts["held"] / counts["n"])
        sentences.append(
            f"Answers of this kind ({kind}) held the truth for {counts['held']:,} of "
            f"{counts['n']:,} images ({share}) of the {where}."
        )
    elif kind:
        sentences.append(f"How often an answer of this kind ({kind}) holds the truth is not known.")
    if melanomas["answered"]:
        without, answered = melanomas["without"], melanomas["answered"]
        sentences.append(
            f"Of {melanomas['n']:,} melanomas of the {where}, {answered:,} got an answer, and "
            f"{without:,} of these ({percent(without / answered)}) one without melanoma."
        )
    else:
        sentences.append("How many melanomas are answered without melanoma is not known.")
    return sentences
