"""On made-up skin, copies turned, zoomed and relit are found, strangers with one ruler are not."""

import cv2
import numpy as np
import pandas as pd
import pytest

from dermai_utils import config, files
from dermai_utils.config import UserError
from dermai_utils.data import near_duplicates, split
from dermai_utils.report import near_duplicate_pairs
from dermai_utils.training import features

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
    image = image.copy()
    rng = np.random.default_rng(99)
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
    """12 strangers, the first 4 once more under another group; features: brightness alone."""
    images = [skin(s) for s in range(12)]
    images += [photographed_again(images[i], *change) for i, change in enumerate(CHANGES)]
    images = np.stack(images)
    features = images[:, ::30, ::40].reshape(len(images), -1).astype(float)
    return images, features, np.arange(len(images))


def test_copies_are_found_and_nothing_else(collection):
    images, features, groups = collection
    pairs = near_duplicates.find(images, features, groups, n_pairs=200)
    assert {tuple(pair) for pair in pairs[:, :2]} == {(i, 12 + i) for i in range(4)}
    assert (np.diff(pairs[:, 2]) <= 0).all() and pairs[-1, 2] >= near_duplicates.INLIERS


def test_only_pairs_of_two_groups_or_sets(collection):
    images, features, groups = collection
    same = np.where(groups >= 12, groups - 12, groups)
    assert len(near_duplicates.find(images, features, same, n_pairs=200)) == 0
    sets = np.isin(groups, [0, 1, 13]).astype(int)
    pairs = near_duplicates.find(images, features, sets, n_pairs=200)
    assert {tuple(pair) for pair in pairs[:, :2]} == {(0, 12)}  # 1 and 13 lie in the same set


@pytest.mark.parametrize("decorate", [with_ruler, with_rim])
def test_a_shared_ruler_or_rim_is_no_evidence(decorate):
    images = np.stack([decorate(skin(s)) for s in range(20, 26)])
    pairs = np.array([(i, j) for i in range(6) for j in range(i)])
    scores = near_duplicates.verify(near_duplicates.describe(images), pairs)
    assert (scores < near_duplicates.INLIERS).all()


def test_a_shared_ruler_does_agree_on_a_transform(monkeypatch):
    """The test above can fail: without a least spread of the inliers a ruler counts as a lesion."""
    monkeypatch.setattr(near_duplicates, "SPREAD", (0.0, 0.0))
    described = near_duplicates.describe(np.stack([with_ruler(skin(s)) for s in range(20, 26)]))
    scores = near_duplicates.verify(described, [(i, j) for i in range(6) for j in range(i)])
    assert scores.max() >= near_duplicates.INLIERS


def test_any_stored_size_gives_the_same_answer(collection):
    images = collection[0][[1, 13, 5]]
    large = [cv2.resize(image, (400, 300), interpolation=cv2.INTER_CUBIC) for image in images]
    scores = near_duplicates.verify(near_duplicates.describe(large), [(0, 1), (0, 2)])
    assert scores[0] >= 10 and scores[1] == 0


def test_blank_images_score_zero():
    described = near_duplicates.describe(np.zeros((2, H, W, 3), np.uint8))
    assert near_duplicates.verify(described, [(0, 1)]).tolist() == [0]
    assert near_duplicates.verify(described, np.zeros((0, 2), int)).shape == (0,)


def test_candidates_are_the_nearest_of_other_groups():
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(60, 8)), np.arange(60) // 2
    features[7] = features[40] + 1e-3
    pairs = near_duplicates.candidates(features, groups, n_pairs=50)
    assert tuple(pairs[0]) == (7, 40) and len(pairs) == 50
    assert (pairs[:, 0] < pairs[:, 1]).all() and (groups[pairs[:, 0]] != groups[pairs[:, 1]]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)


def test_candidates_can_be_all_pairs():
    groups = np.array([0, 0, 1, 2])
    features = np.random.default_rng(0).normal(size=(4, 3))
    pairs = near_duplicates.candidates(features, groups, n_pairs=1000)
    assert {tuple(pair) for pair in pairs} == {(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


# The stage.


@pytest.fixture
def stage(collection, tmp_path, monkeypatch):
    """Config on the collection: training images a to l, copies of the first four as m to p."""
    images, look, _ = collection
    cfg = config.load(
        env={},
        cache_dir=str(tmp_path / "c"),
        work_dir=str(tmp_path / "w"),
        image_size=128,
        near_duplicates="found",
    )
    cfg.cache.mkdir()
    cfg.work.mkdir()
    np.save(cfg.pixels_file, images[::-1])  # the rows aren't the table's order
    names = list("abcdefghijklmnop")
    table = pd.DataFrame(
        {
            "image": names,
            "source": "train",
            "label": "NV",
            "lesion_id": names,
            "duplicate_of": "",
            "row": np.arange(15, -1, -1),
        }
    )
    monkeypatch.setattr(features, "features", lambda _: look)
    return cfg, table


def made_by(cfg, table):
    files.write_table(table, cfg.table_file)
    near_duplicate_pairs.run(cfg)
    return {tuple(pair) for pair in split.near_duplicates(cfg)}


def test_the_stage_lists_pairs_across_lesions_and_with_official_images(stage, capsys):
    cfg, table = stage
    table.loc[table["image"] == "m", "lesion_id"] = "a"  # known to be one lesion
    table.loc[table["image"] == "n", "duplicate_of"] = "b"  # the same pixels: known too
    table.loc[table["image"].isin(["c", "o", "p"]), "source"] = "test"
    assert made_by(cfg, table) == {("d", "p")}  # c and o are both official
    text = "0 pairs of training images under two lesion ids, 1 of a training and a test image"
    assert text in capsys.readouterr().out
    scores = files.read_table(cfg.found_duplicates_file)["score"]
    assert (scores >= near_duplicates.INLIERS).all()
    sheet = cv2.imread(str(cfg.found_duplicates_file.with_suffix(".jpg")))
    assert sheet.shape[1] > 2 * sheet.shape[0] and sheet.std() > 30


def test_what_the_stage_found_is_kept_on_one_side(stage):
    cfg, table = stage
    with pytest.raises(UserError, match="python -m dermai_utils near_duplicates makes it"):
        split.near_duplicates(cfg)
    assert made_by(cfg, table) == {("a", "m"), ("b", "n"), ("c", "o"), ("d", "p")}
    groups = dict(zip(table["image"], split.groups(table, split.near_duplicates(cfg)), strict=True))
    assert groups["a"] == groups["m"] != groups["b"] == groups["n"]
    assert len(set(groups.values())) == 12


def test_no_pair_is_an_empty_list(stage):
    cfg, table = stage
    assert made_by(cfg, table.assign(lesion_id="one")) == set()
