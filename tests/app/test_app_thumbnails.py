from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from photos import encoded, picture
from PIL import Image, ImageOps

from dermai_utils import pixels
from dermai_utils.app import thumbnails

ORIGINALS = [picture(225, 300, seed) for seed in range(20)]
TABLE = pd.DataFrame({"image": [f"i{k}" for k in range(20)]})


@pytest.fixture(scope="module")
def known():
    """The thumbnails of all but the last, an official image that the run never saw."""
    table = TABLE.assign(subset=["train"] * 15 + ["val"] * 4 + ["official"])
    images = np.stack([pixels.decode(encoded(one), 225, 300) for one in ORIGINALS])
    data = SimpleNamespace(
        table=TABLE, pixels=images, rows=lambda names: [int(n[1:]) for n in names]
    )
    found = thumbnails.stored(table, data)
    assert found.shape == (20, 64) and not found[19].any()
    return found


def copied(image, known, **options):
    shown = pixels.decode(encoded(image, **options), 225, 300)
    return thumbnails.copied(shown[None], known).tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((120, 90)),
        lambda image: image.resize((900, 675)),
        lambda image: image.crop((37, 0, 262, 225)),  # the central square
        ImageOps.mirror,
        ImageOps.flip,
        lambda image: image.rotate(90, expand=True),
    ],
    ids=["smaller", "larger", "square", "mirrored", "upside down", "portrait"],
)
def test_a_copy_is_noticed(known, change):
    for k in (0, 16):
        assert copied(change(ORIGINALS[k]), known) == [k]
        assert copied(change(ORIGINALS[k]), known, kind="JPEG", quality=40) == [k]


def test_what_the_run_never_saw_is_no_copy(known):
    for image in (ORIGINALS[19], picture(225, 300, 99), Image.new("RGB", (300, 225), "grey")):
        assert copied(image, known) == [-1]
    assert thumbnails.copied(np.zeros((0, 225, 300, 3), np.uint8), known).tolist() == []
