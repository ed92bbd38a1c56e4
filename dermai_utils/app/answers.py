"""The words of an answer about one picture, and how often such answers are wrong."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dermai_utils.basics import CLASS_NAMES, CLASSES, DISCLAIMER, counted
from dermai_utils.predictions import images_of
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
MADE_UP = "unlike the made-up pictures that this model learned from"
SAMPLE_WARNING = "This model learned from made-up pictures: its answers mean nothing."


@dataclass(frozen=True)
class Answer:
    """What the model says about one picture. `square` and `gradcam` are None without `maps`.

    A picture farther than ood_threshold from the training images comes from another source; one
    farther than foreign_threshold is no dermoscopic image, and gets no diagnosis.
    """

    name: str
    probabilities: np.ndarray  # (7,) calibrated
    possible: tuple  # classes that cannot be ruled out, the most probable first
    distance: float  # from the training images
    similar: list  # of dicts: image, label, similarity (cosine, -1..1)
    about: dict  # answers.json: thresholds, and how often answers are wrong
    seen: str = ""  # "is, pixel for pixel, an image that the model learned from", or its name is
    oddities: tuple = ()  # faults of the picture itself, see ood.oddities
    square: np.ndarray | None = field(default=None, repr=False)  # (S, S, 3) uint8, what it saw
    gradcam: np.ndarray | None = field(default=None, repr=False)  # (S, S) in 0..1
    gradcam_note: str = ""  # a caution to show beside the map

    @property
    def diagnoses(self) -> dict[str, float]:
        """{class: calibrated probability}, the most probable first."""
        return {CLASSES[k]: float(self.probabilities[k]) for k in np.argsort(-self.probabilities)}

    @property
    def sure(self) -> bool:
        """Whether the possible classes are few enough to be an answer."""
        return 1 <= len(self.possible) <= conformal.MAX_ANSWER

    @property
    def foreign(self) -> bool:
        """Whether the picture is too unlike the training images for any diagnosis."""
        return self.distance > self.about["foreign_threshold"]

    @property
    def refusal(self) -> str:
        """Why there is no diagnosis, "" where there is one; it continues "This picture"."""
        if not self.foreign:
            return ""
        return f"is {MADE_UP}: its numbers mean nothing here" if self.about["made_up"] else FOREIGN

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
        if self.seen:
            warnings.append(f"{self.seen}: the answer does not test the model")
        if not self.foreign and self.distance > self.about["ood_threshold"]:
            warnings.append(f"looks {MADE_UP}" if self.about["made_up"] else OTHER_SOURCE)
        return warnings

    @property
    def error_rates(self) -> list[str]:
        """How often such an answer held the truth, and how many melanomas were missed."""
        return [] if self.foreign else error_rates(self.about, self.possible)

    @property
    def row(self) -> dict:
        """A row of the CSV. A refused picture gets no number and no class."""
        refused = MADE_UP.partition(" that")[0] if self.about["made_up"] else "no dermoscopic image"
        answer = {"answered": " or ".join(self.possible), "unsure": "unsure", "refused": refused}
        shown = [] if self.foreign else self.similar
        return {
            "picture": self.name,
            "answer": answer[self.outcome],
            "warnings": "; ".join(filter(None, [self.refusal, *self.warnings])),
            **(dict.fromkeys(CLASSES, np.nan) | ({} if self.foreign else self.diagnoses)),
            "possible": "" if self.foreign else " ".join(self.possible),
            "how_often_wrong": " ".join(self.error_rates),
            "distance": self.distance,
            **{name: self.about[name] for name in ("ood_threshold", "foreign_threshold")},
            "similar": " ".join(f"{one['image']}:{one['label']}" for one in shown),
        }


def error_rates(about: dict, possible) -> list[str]:
    """Two sentences about an answer that names the classes `possible`; about: answers.json.

    "not known" where every image chose a threshold.
    """
    base = f"Counted on {images_of(about['n'], about['subset_name'])}: "
    kind, melanomas, sentences = _kind(possible), about["melanomas"], []
    if kind and about["answers"][kind]["n"]:
        answers = about["answers"][kind]
        share = f"{answers['held']:,} of {answers['n']:,} ({_rate('held', 'n', answers)})"
        sentences = [f"{base}answers of this kind ({kind}) held the truth for {share}."]
    elif kind:
        sentences = [f"How often an answer of this kind ({kind}) holds the truth is not known."]
    if not melanomas["answered"]:
        return [*sentences, "How many melanomas get an answer without melanoma is not known."]
    missed = f"{melanomas['without']:,} of these ({_rate('without', 'answered', melanomas)})"
    got = f"of {counted(melanomas['n'], 'melanoma')}, {melanomas['answered']:,} got an answer"
    return [*sentences, f"{base}{got}, and {missed} one without melanoma."]


def _kind(possible) -> str:
    """Which of conformal.KINDS an answer with these classes is; "" for unsure."""
    return str(conformal.kinds(np.isin(CLASSES, possible)[None])[0])


def _rate(part, whole, row):
    """A percentage, with its 95 % interval."""
    share = percent(row[part] / row[whole])
    return f"{share}, 95 % interval {percent(row['low'])} to {percent(row['high'])}"


def table(answers) -> pd.DataFrame:
    """One row an answer: picture, answer, seven probabilities (NaN where refused), reasons."""
    return pd.DataFrame([answer.row for answer in answers])


def printed(answers) -> str:
    """What the terminal shows: a table, a line for each warning, how often such answers are right,
    the disclaimer."""
    shown = table(answers)[["picture", "answer", "possible", *CLASSES]]
    lines = [shown.to_string(index=False, float_format="{:.2f}".format, na_rep="-")]
    for answer in answers:
        warnings = filter(None, [answer.refusal, *answer.warnings])
        lines += [f"predict: warning: {answer.name} {warning}" for warning in warnings]
    shown = [answer for answer in answers if not answer.foreign]
    if shown:
        lines.append("possible: every class that cannot be ruled out; more than two are no answer")
        lines += _how_often_right(shown[0].about, {_kind(answer.possible) for answer in shown})
    lines += [SAMPLE_WARNING] * any(answer.about["made_up"] for answer in answers)
    return "\n".join([*lines, DISCLAIMER])


def _how_often_right(about, kinds) -> list[str]:
    """One line about those of conformal.KINDS that are here; none where all are unsure."""
    said = []
    for kind in [kind for kind in conformal.KINDS if kind in kinds]:
        n, held = about["answers"][kind]["n"], about["answers"][kind]["held"]
        share = f"{held:,} of {n:,} ({percent(held / n)})" if n else "not known"
        said.append(f"{kind} {share}")
    base = images_of(about["n"], about["subset_name"].partition(" (")[0])
    said = "; ".join(said)
    elsewhere = "on photos from elsewhere fewer do"
    return [f"such answers held the truth, on {base}: {said}; {elsewhere}"] if said else []
