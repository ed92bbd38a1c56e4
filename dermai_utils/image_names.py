"""What an image's name says: the photograph that it shows, and the image it was made from."""

import re
from collections import Counter

TEST_NUMBERS = 34_524, 36_099  # of the official test set, ISIC_0034524 and on; none of HAM10000
MANY = 0.05, 20  # share of the images and number of them: with more, one id or stem is implausible
ARCHIVE_ID = re.compile(r"ISIC_(\d{7})(?!\d)", re.IGNORECASE)
# What follows X in the name of a picture made from X: _aug0, -flipped, _rotated90, Roboflow's.
_MADE = r"[ _-](?:aug|copy|rot|flip|crop)[a-z]*\d*|_(?:jpe?g|png|bmp|tiff?|webp)\.rf\.\w+"
_UUID = r"[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}"
_MADE_FROM = [
    re.compile(rf"(?:.*?_)?original_(.+)\.\w+_{_UUID}", re.IGNORECASE),  # Augmentor's
    re.compile(f"(.+?)(?:{_MADE})", re.IGNORECASE),
]
_NUMBERED = re.compile(
    r"(.+?)(?:[ _-]?\(\d+\)|_\d{1,2})"
)  # a copy only where X is there: X_1, X (1)


def base_id(image: str) -> str:
    """The photograph's id: the archive's id, wherever it stands in a name, else the name without
    `_downsampled`. Sources may give one other id, such as 1, to different photographs.

    >>> base_id("clinic:ISIC_0024306_downsampled"), base_id("clinic:1")
    ('ISIC_0024306', 'clinic:1')
    """
    found = ARCHIVE_ID.search(image)
    return found[0].upper() if found else image.removesuffix("_downsampled")


def is_archive_id(image: str) -> bool:
    """Whether a name holds an id of the ISIC archive, which means one photograph everywhere."""
    return bool(ARCHIVE_ID.search(image))


def is_official_test(image: str) -> bool:
    """Whether an id is one of the official test set's, by its number.

    >>> is_official_test("ISIC_0034524"), is_official_test("ISIC_0024306"), is_official_test("1")
    (True, False, False)
    """
    number = ARCHIVE_ID.fullmatch(image)
    return bool(number) and TEST_NUMBERS[0] <= int(number[1]) <= TEST_NUMBERS[1]


def families(images) -> list[str]:
    """(N,) the image that each was made from, by its name: X for X_aug0, X_flip (1) and the names
    of Augmentor and Roboflow, even where X is not there; for X_1 and X (1) only beside X.

    A stem of implausibly many images is no photograph's: of img_crop1 to img_crop500 each is one.
    """
    names, images = set(images), list(images)
    found = [_original(image, names) for image in images]
    many = {stem for stem, n in Counter(found).items() if implausible(n, len(images))} - names
    return [
        _original(image, names, siblings=False) if stem in many else stem
        for image, stem in zip(images, found, strict=True)
    ]


def implausible(count: int, images: int) -> bool:
    """Whether `count` of so many images are too many for one lesion."""
    share, least = MANY
    return count > max(share * images, least)


def _original(image, names, siblings=True):
    """siblings: X_aug0 and X_aug1 are made from X although no X is in `names`."""
    original, stem = image, image
    while True:
        made = next((m for form in _MADE_FROM if (m := form.fullmatch(stem))), None)
        match = made or _NUMBERED.fullmatch(stem)
        if not match:
            return original
        stem = match[1]
        if stem in names or (made and siblings):
            original = stem
