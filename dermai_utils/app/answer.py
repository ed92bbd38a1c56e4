"""The words of an answer about one picture, and how often such answers are wrong."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermai_utils.basics import CLASS_NAMES, CLASSES, DISCLAIMER
from dermai_utils.study import conformal
from dermai_utils.study.text import percent

FOREIGN = (
    "does not look like a dermoscopic image, and the model knows nothing else: its numbers mean "
    "nothing here"
)
OTHER_SOURCE = (
    "looks unlike the training images (another clinic or camera?): expect more mistakes than "
    "counted below"
)
MADE_UP_PICTURES = "the made-up pictures that this model learned from"
SAMPLE_WARNING = "This model learned from made-up pictures: its answers mean nothing."


@dataclass(frozen=True)
class Answer:
    """What the model says about one picture. `square` and `gradcam` are None without `maps`.

    A picture farther than `ood_threshold` from the training images comes from another source; one
    farther than `foreign_threshold` is no dermoscopic image, and gets no diagnosis.
    """

    name: str
    probabilities: np.ndarray  # (7,) calibrated
    possible: tuple  # classes that cannot be ruled out, the most probable first
    sure: bool  # they are few enough to be an answer
    distance: float  # from the training images
    ood_threshold: float
    foreign_threshold: float
    similar: list  # of dicts: image, label, similarity (cosine, -1..1)
    square: np.ndarray | None = None  # (S, S, 3) uint8, the part that the network saw
    gradcam: np.ndarray | None = None  # (S, S) in 0..1, for the most probable class
    gradcam_note: str = ""  # a caution to show beside the map
    oddities: tuple = ()  # faults of the picture itself, see ood.oddities
    scores: dict | None = None  # answers.json: how often answers are wrong
    made_up: bool = False  # the model learned from made-up pictures only
    same_threshold: float = np.inf  # from this cosine on, it is (nearly) a training image

    @property
    def diagnoses(self) -> dict[str, float]:
        """{class: calibrated probability}, the most probable first."""
        return {CLASSES[k]: float(self.probabilities[k]) for k in np.argsort(-self.probabilities)}

    @property
    def foreign(self) -> bool:
        """Whether the picture is too unlike the training images for any diagnosis."""
        return self.distance > self.foreign_threshold

    @property
    def refusal(self) -> str:
        """Why there is no diagnosis, "" where there is one; it continues "This picture"."""
        if not self.foreign:
            return ""
        unlike = f"is unlike {MADE_UP_PICTURES}: its numbers mean nothing here"
        return unlike if self.made_up else FOREIGN

    @property
    def outcome(self) -> str:
        """ "answered", "unsure" or "refused"."""
        return "refused" if self.foreign else "answered" if self.sure else "unsure"

    @property
    def text(self) -> str:
        """The answer in words: one or two diagnoses, unsure, or the refusal."""
        if self.foreign:
            return f"This picture {self.refusal}."
        if self.sure:
            return " or ".join(CLASS_NAMES[c] for c in self.possible)
        return f"unsure: {len(self.possible)} diagnoses cannot be ruled out"

    @property
    def warnings(self) -> list[str]:
        """What to know before reading the answer; each continues "This picture"."""
        warnings = list(self.oddities)
        if self.similar and self.similar[0]["similarity"] >= self.same_threshold:
            same = self.similar[0]
            warnings.append(
                f"is (nearly) the training image {same['image']}, labelled "
                f"{CLASS_NAMES[same['label']]}: the answer does not test the model"
            )
        if not self.foreign and self.distance > self.ood_threshold:
            warnings.append(f"looks unlike {MADE_UP_PICTURES}" if self.made_up else OTHER_SOURCE)
        return warnings

    @property
    def error_rates(self) -> list[str]:
        """How often such an answer held the truth, and how many melanomas were missed."""
        return [] if self.foreign else error_rates(self.scores, self.possible)

    @property
    def row(self) -> dict:
        """A row of the CSV. A refused picture gets no number and no class."""
        refused = "unlike the made-up pictures" if self.made_up else "no dermoscopic image"
        answer = {"answered": " or ".join(self.possible), "unsure": "unsure", "refused": refused}
        numbers = [np.nan] * len(CLASSES) if self.foreign else self.probabilities
        possible, similar = ((), ()) if self.foreign else (self.possible, self.similar)
        return {
            "picture": self.name,
            "answer": answer[self.outcome],
            "warnings": "; ".join(filter(None, [self.refusal, *self.warnings])),
            **dict(zip(CLASSES, numbers, strict=True)),
            "possible": " ".join(possible),
            "how_often_wrong": " ".join(self.error_rates),
            "distance": self.distance,
            "ood_threshold": self.ood_threshold,
            "foreign_threshold": self.foreign_threshold,
            "similar": " ".join(f"{image['image']}:{image['label']}" for image in similar),
        }


def error_rates(scores: dict | None, possible) -> list[str]:
    """Two sentences about an answer that names the classes `possible`, from answers.json.

    "not known" where every image chose a threshold.
    """
    scores = scores or {"n": 0}
    counted = f"Counted on {scores['n']:,} images of the {scores.get('subset_name')}: "
    kind = conformal.kinds(np.isin(CLASSES, possible)[None])[0]
    sentences, answers = [], scores.get("answers", {}).get(kind, {"n": 0})
    if kind and answers["n"]:
        sentences.append(
            f"{counted}answers of this kind ({kind}) held the truth for {answers['held']:,} of "
            f"{answers['n']:,} ({percent(answers['held'] / answers['n'])})."
        )
    elif kind:
        sentences.append(f"How often an answer of this kind ({kind}) holds the truth is not known.")
    melanomas = scores.get("melanomas", {"answered": 0})
    if answered := melanomas["answered"]:
        without = melanomas["without"]
        sentences.append(
            f"{counted}of {melanomas['n']:,} melanomas, {answered:,} got an answer, and "
            f"{without:,} of these ({percent(without / answered)}) one without melanoma."
        )
    else:
        sentences.append("How many melanomas get an answer without melanoma is not known.")
    return sentences


def frame(answers) -> pd.DataFrame:
    """One row for each answer: picture, answer, seven probabilities (NaN where refused), reasons."""
    return pd.DataFrame([answer.row for answer in answers])


def printed(answers) -> str:
    """What the terminal shows: a table, a line for each warning, the disclaimer."""
    table = frame(answers)[["picture", "answer", "possible", *CLASSES]]
    lines = [table.to_string(index=False, float_format="{:.2f}".format, na_rep="-")]
    for answer in answers:
        warnings = filter(None, [answer.refusal, *answer.warnings])
        lines += [f"predict: warning: {answer.name} {warning}" for warning in warnings]
    lines += [SAMPLE_WARNING] * any(answer.made_up for answer in answers)
    return "\n".join([*lines, DISCLAIMER])
