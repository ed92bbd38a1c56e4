"""On made-up features: a gap where images of a lesion look alike, none where they don't."""

import json

import numpy as np
import pandas as pd
import pytest

from dermai_utils.config import CLASSES, UserError
from dermai_utils.training import leakage_effect


def data(look_alike, seed=0, lesions=160, each=3, alone=40, dims=12):
    """(features, table): lesions of `each` images and `alone` single ones; `look_alike`: how much
    of the look is the lesion's own, 0 to 1. The class is told weakly, by the mean of some features.
    """
    rng = np.random.default_rng(seed)
    lesion = np.r_[np.repeat(np.arange(lesions), each), lesions + np.arange(alone)]
    label = rng.integers(0, 7, lesions + alone)[lesion]
    own = rng.normal(size=(lesions + alone, dims))[lesion]
    features = (
        look_alike * own
        + (1 - look_alike) * rng.normal(size=(len(lesion), dims))
        + 0.4 * np.eye(7, dims)[label]
    )
    images = [f"ISIC_{k:07d}" for k in range(len(lesion))]
    table = pd.DataFrame(
        {
            "image": images,
            "label": np.array(CLASSES)[label],
            "lesion_id": [f"HAM_{k}" for k in lesion],
            "duplicate_of": "",
        }
    )
    return features, table


def test_look_alike_lesions_inflate_and_the_interval_excludes_zero():
    found = leakage_effect.leakage_effect(*data(0.95), seeds=range(2), n_resamples=300)
    assert found["prone_images"] == 480 and found["images"] == 520
    near = found["classifiers"]["nearest neighbour"]
    assert near["difference"] > 0.4 and near["low"] > 0.3  # a sibling gives the label away
    assert found["classifiers"]["logistic regression"]["difference"] > 0
    for name in leakage_effect.CLASSIFIERS:
        row = found["classifiers"][name]
        assert (
            row["difference"]
            == pytest.approx(row["random"] - row["lesion"])
            == pytest.approx(np.mean(row["by_seed"]))
        )
        assert row["low"] <= row["difference"] <= row["high"] and len(row["by_seed"]) == 2
    json.dumps(found, allow_nan=False)


def test_independent_images_inflate_nothing():
    found = leakage_effect.leakage_effect(*data(0.0), seeds=range(3), n_resamples=300)
    for name in leakage_effect.CLASSIFIERS:
        assert abs(found["classifiers"][name]["difference"]) < 0.05
        assert found["classifiers"][name]["low"] < 0 < found["classifiers"][name]["high"]


def test_every_image_is_predicted_by_a_model_that_saw_no_image_of_its_group():
    features, table = data(0.5, lesions=40, alone=10)
    groups = table["lesion_id"].to_numpy()
    features[:, 0] = np.arange(len(features))  # so that each row can be told
    seen = []

    class Spy:
        def fit(self, x, y):
            self.trained = x[:, 0].astype(int)
            return self

        def predict(self, x):
            mine = x[:, 0].astype(int)
            assert not set(groups[mine]) & set(groups[self.trained])
            assert len(mine) + len(self.trained) == len(features)
            seen.extend(mine)
            return np.zeros(len(x), int)

    leakage_effect.out_of_fold(
        Spy, features, table["label"].map(CLASSES.index).to_numpy(), groups, 4, 0
    )
    assert sorted(seen) == list(range(len(features)))


def test_near_duplicate_pairs_join_their_lesions():
    features, table = data(0.0, lesions=20, each=2, alone=40)
    singles = table["image"].tail(4).to_list()
    found = leakage_effect.leakage_effect(
        features, table, [singles[:2], singles[2:]], seeds=[0], n_resamples=20
    )
    assert found["prone_images"] == 44


@pytest.mark.parametrize(
    "labels",
    [["NV"], ["NV"] * 8, ["MEL", "NV"]],
    ids=["one image", "one class", "one lesion a class"],
)
def test_too_few_images_for_the_folds_are_one_line(labels):
    table = pd.DataFrame(
        {"image": [f"i{k}" for k in range(len(labels))], "label": labels, "duplicate_of": ""}
    )
    table["lesion_id"] = table["image"]
    with pytest.raises(UserError, match="too few for 4 folds"):
        leakage_effect.leakage_effect(
            np.random.default_rng(0).normal(size=(len(table), 3)), table, seeds=[0], n_resamples=10
        )


def test_fewer_lesions_than_folds_are_dealt_all_the_same():
    table = pd.DataFrame(
        {
            "image": list("abcd"),
            "label": ["MEL", "NV"] * 2,
            "duplicate_of": "",
            "lesion_id": list("xxyy"),
        }
    )
    found = leakage_effect.leakage_effect(
        np.random.default_rng(0).normal(size=(4, 3)), table, seeds=[0], n_resamples=10
    )
    assert found["prone_images"] == 4


def test_features_of_other_images_are_refused():
    features, table = data(0.5, lesions=10)
    with pytest.raises(UserError, match="rows of features"):
        leakage_effect.leakage_effect(features[:-1], table)
