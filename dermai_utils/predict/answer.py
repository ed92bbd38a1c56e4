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
UNLIKE_MADE_UP = "the made-up pictures that this model learned from"
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
    similar: list  # of dicts: image, label, similarity (cosine, -1..1)
    square: np.ndarray | None = None
    gradcam: np.ndarray | None = None
    gradcam_note: str = ""  # what is to be said beside the map
    oddities: tuple = ()  # what is wrong with the picture, see ood.oddities
    scores: dict | None = None  # predictor.json, which counts how often answers are wrong
    made_up: bool = False  # whether the model learned from made-up pictures alone
    same_threshold: float = np.inf  # from this cosine on it is (nearly) a training image

    @property
    def foreign(self) -> bool:
        """Whether the picture is too unlike the training images for any diagnosis."""
        return self.distance > self.foreign_threshold

    @property
    def refusal(self) -> str:
        """Why there is no diagnosis, "" where there is one; goes on from "this picture"."""
        if not self.foreign:
            return ""
        if self.made_up:
            return f"is unlike {UNLIKE_MADE_UP}: its numbers mean nothing here"
        return FOREIGN

    @property
    def text(self) -> str:
        """The answer in words: one or two diagnoses, unsure, or no dermoscopic image."""
        if self.foreign:
            return f"This picture {self.refusal}."
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
            warnings.append(f"looks unlike {UNLIKE_MADE_UP}" if self.made_up else OTHER_SOURCE)
        return warnings

    @property
    def error_rates(self) -> list[str]:
        """How often an answer of this kind held the truth, and how many melanomas were missed."""
        return [] if self.foreign else error_rates(self.scores, self.possible)

    @property
    def outcome(self) -> str:
        """What came of it: "answered", "unsure" or "refused"."""
        return "refused" if self.foreign else "answered" if self.sure else "unsure"

    @property
    def row(self) -> dict:
        """A row of the CSV. Where there is no diagnosis, no number and no class suggests one."""
        refused = "unlike the made-up pictures" if self.made_up else "no dermoscopic image"
        answer = {"answered": " or ".join(self.possible), "unsure": "unsure", "refused": refused}
        shown = [np.nan] * len(CLASSES) if self.foreign else self.probabilities
        possible, similar = ((), ()) if self.foreign else (self.possible, self.similar)
        return {
            "picture": self.name,
            "answer": answer[self.outcome],
            "warnings": "; ".join(filter(None, [self.refusal, *self.warnings])),
            **dict(zip(CLASSES, shown, strict=True)),
            "possible": " ".join(possible),
            "how_often_wrong": " ".join(self.error_rates),
            "distance": self.distance,
            "ood_threshold": self.ood_threshold,
            "foreign_threshold": self.foreign_threshold,
            "similar": " ".join(f"{image['image']}:{image['label']}" for image in similar),
        }


def error_rates(scores: dict | None, possible) -> list[str]:
    """Two sentences beside an answer that names the classes `possible`, from predictor.json.

    "not known" where no images are left that chose nothing, or where an earlier version counted.
    """
    scores = scores or {}
    answers, melanomas = scores.get("answers", {}), scores.get("melanomas", {"answered": 0})
    where = SUBSET_NAMES.get(scores.get("subset"), "")
    counted = f"Counted on {scores.get('n', 0):,} images of the {where}: "
    kind = conformal.kinds(np.isin(CLASSES, possible)[None])[0]
    sentences, counts = [], answers.get(kind, {"n": 0})
    if kind and counts["n"]:
        share = percent(counts["held"] / counts["n"])
        sentences.append(
            f"{counted}answers of this kind ({kind}) held the truth for {counts['held']:,} of "
            f"{counts['n']:,} ({share})."
        )
    elif kind:
        sentences.append(f"How often an answer of this kind ({kind}) holds the truth is not known.")
    if melanomas["answered"]:
        without, answered = melanomas["without"], melanomas["answered"]
        sentences.append(
            f"{counted}of {melanomas['n']:,} melanomas, {answered:,} got an answer, and "
            f"{without:,} of these ({percent(without / answered)}) one without melanoma."
        )
    else:
        sentences.append("How many melanomas are answered without melanoma is not known.")
    return sentences
