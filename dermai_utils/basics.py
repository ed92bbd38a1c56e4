"""What every module needs: the seven classes, the disclaimer, and the error of a user's mistake.

Standard library only.
"""

import difflib
import shlex

CLASS_NAMES = {  # in the official column order
    "MEL": "melanoma",
    "NV": "melanocytic nevus",
    "BCC": "basal cell carcinoma",
    "AKIEC": "actinic keratosis / Bowen's disease",
    "BKL": "benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
}
CLASSES = tuple(CLASS_NAMES)
MALIGNANT = ("MEL", "BCC", "AKIEC")  # Tschandl et al. 2019, doi.org/10.1016/S1470-2045(19)30333-X
ZERO_WEIGHT = "ISIC_0035068"  # the official test image that the official scorer ignores
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".tif", ".tiff", ".bmp")
IMAGE_SUFFIXES += (".webp", ".heic", ".heif", ".dcm")
IMBALANCE = ("none", "class_weights", "sampler", "logit_adjustment")  # see recipe.py
PARTS = ("network", "loss", "augment", "optimizer", "schedule", "sampler")  # a reader may replace
DISCLAIMER = (
    "Research and education only. Not a medical device: never use it to decide about a person's "
    "skin."
)
UNDEFINED = "not defined"  # a number that does not exist, such as the recall of no image


class UserError(Exception):
    """A user's mistake in one line: what, where, what was expected, what to do. Exit status 2."""

    def _render_traceback_(self):  # IPython's hook: a notebook shows the line alone
        return [f"error: {self}"]


def counted(n: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "image"), counted(1240, "image")
    ('1 image', '1,240 images')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def data_flag(data: str) -> str:
    """The words that give a data set on the command line; of a folder only the name is known.

    >>> data_flag("sample"), data_flag("clinic")
    ('--data sample', '--data path/to/clinic')
    """
    return f"--data {shlex.quote(data if data in ('sample', 'isic2018') else f'path/to/{data}')}"


def did_you_mean(word, words) -> str:
    """A question that names the nearest of `words`, in any case; "" where none is near."""
    plain = {str(candidate).casefold(): candidate for candidate in words}
    near = difflib.get_close_matches(str(word).casefold(), plain, 1)
    return f"did you mean {plain[near[0]]}?" if near else ""
