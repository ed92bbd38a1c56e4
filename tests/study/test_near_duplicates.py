"""On made-up skin, copies turned, zoomed and relit are found, strangers with one ruler are not."""

import cv2
import numpy as np
import pandas as pd
import pytest

from dermai_utils.study import near_duplicates

H, W = 150, 200


def skin(seed):
    """A lesion on textured skin, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    texture = sum(cv2.GaussianBlur(rng.normal(size=(H, W)), (0, 0), s) * s for s in (2, 4, 8))
    y, x = np.mgrid[:H, :W]
    lesion = np.hypot(y - 75, x - 100) + 25 * texture < 40
    gray = 170 + 25 * texture - 60 * cv2.GaussianBlur(lesion.astype(float), (0, 0), 2)
    return np.clip(gray[..., None] * [1.0, 0.8, 0.75], 0, 255).astype(np.uint8)


def photographed_again(image, angle, zoom, light):
    turn = cv2.getRotationMatrix2D((W / 2, H / 2), angle, zoom)
    turned = cv2.warpAffine(image, turn, (W, H), borderMode=cv2.BORDER_REFLECT)
    return np.clip(turned.astype(float) * light + 5, 0, 255).astype(np.uint8)


def with_ruler(image):
    image, rng = image.copy(), np.random.default_rng(99)
    for x in np.cumsum(rng.integers(3, 9, 36)):
        # irregular, like ticks with digits
        image[130 : rng.integers(134, 140), x : x + rng.integers(1, 4)] = 20
    return image


def with_rim(image):
    y, x = np.mgrid[:H, :W]
    light = np.clip((115 - np.hypot(y - 75, x - 100)) / 12, 0.03, 1)
    return (image * light[..., None]).astype(np.uint8)


CHANGES = [(0, 1.0, 0.8), (12, 1.1, 1.1), (-60, 0.9, 0.9), (170, 1.25, 0.85)]


@pytest.fixture(scope="module")
def collection():
    """12 strangers, a to l, and the first 4 once more, m to p; features: brightness alone."""
    images = [skin(s) for s in range(12)]
    images += [photographed_again(images[i], *change) for i, change in enumerate(CHANGES)]
    images, names = np.stack(images), list("abcdefghijklmnop")
    features = images[:, ::30, ::40].reshape(len(images), -1).astype(float)
    table = pd.DataFrame({"image": names, "source": "train", "lesion_id": names})
    return table.assign(pixel_hash=names), images, features


def found(pairs):
    return set(zip(pairs["image_a"], pairs["image_b"], strict=True))


def test_copies_are_found_and_nothing_else_and_no_pair_that_is_known(collection):
    table, *arrays = collection
    every = near_duplicates.search(table, *arrays)
    assert list(every) == ["image_a", "image_b", "score"]
    assert found(every) == {("a", "m"), ("b", "n"), ("c", "o"), ("d", "p")}
    scores = every["score"].tolist()
    assert scores == sorted(scores, reverse=True) and scores[-1] >= near_duplicates.INLIERS
    table = table.copy()
    table.loc[table["image"] == "m", "lesion_id"] = "a"  # known to be one lesion
    table.loc[table["image"] == "n", "pixel_hash"] = "b"  # the same pixels: known too
    table.loc[table["image"].isin(["c", "o"]), "source"] = "official"  # both: leaks nothing
    table.loc[table["image"] == "p", "source"] = "Basel"
    assert found(near_duplicates.search(table, *arrays)) == {("d", "p")}
    nothing = near_duplicates.search(table.assign(source="train", lesion_id="one"), *arrays)
    assert list(nothing) == list(every) and nothing.empty


@pytest.mark.parametrize("decorate", [with_ruler, with_rim])
def test_a_shared_ruler_or_rim_is_no_evidence(decorate):
    assert scores_of_strangers(decorate).max() < near_duplicates.INLIERS


def test_a_shared_ruler_does_agree_on_a_transform(monkeypatch):
    """The test above can fail: without a least spread of the inliers a ruler counts as a lesion."""
    monkeypatch.setattr(near_duplicates, "SPREAD", (0.0, 0.0))
    assert scores_of_strangers(with_ruler).max() >= near_duplicates.INLIERS


def scores_of_strangers(decorate):
    described = near_duplicates.describe(np.stack([decorate(skin(s)) for s in range(20, 26)]))
    return near_duplicates.verify(described, [(i, j) for i in range(6) for j in range(i)])


def test_any_stored_size_gives_the_same_answer_and_blank_images_score_zero(collection):
    images = collection[1][[1, 13, 5]]
    large = [cv2.resize(image, (400, 300), interpolation=cv2.INTER_CUBIC) for image in images]
    described = near_duplicates.describe([*large, *np.zeros((2, H, W, 3), np.uint8)])
    scores = near_duplicates.verify(described, [(0, 1), (0, 2), (3, 4)])
    assert scores[0] >= 10 and scores[1:].tolist() == [0, 0]


def test_candidates_are_the_nearest_of_other_groups():
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(60, 8)), np.arange(60) // 2
    features[7] = features[40] + 1e-3
    blank = [(np.zeros((0, 2)), np.zeros((0, 128)))] * 60  # no texture
    pairs = near_duplicates.candidates(features, groups, blank, 50)
    assert tuple(pairs[0]) == (7, 40) and len(pairs) == 50
    assert (pairs[:, 0] < pairs[:, 1]).all() and (groups[pairs[:, 0]] != groups[pairs[:, 1]]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    every = near_duplicates.candidates(features[:4], np.array([0, 0, 1, 2]), blank[:4], 1000)
    assert {tuple(pair) for pair in every} == {(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
