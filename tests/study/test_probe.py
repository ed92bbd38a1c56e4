"""On made-up features: a gap where images of a lesion look alike, none where they do not."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from dermai_utils import inference, networks, recipe
from dermai_utils.basics import CLASSES, ZERO_WEIGHT, UserError
from dermai_utils.study import probe


def data(look_alike, lesions=160, each=3, alone=40, told=0.4):
    """(features, table): lesions of `each` images and `alone` single ones; `look_alike`, 0 to 1:
    how much of an image is its lesion's own look; `told`: how clearly the class shows."""
    rng = np.random.default_rng(0)
    lesion = np.r_[np.repeat(np.arange(lesions), each), lesions + np.arange(alone)]
    label = rng.integers(0, 7, lesions + alone)[lesion]
    own = rng.normal(size=(lesions + alone, 12))[lesion]
    features = look_alike * own + (1 - look_alike) * rng.normal(size=(len(lesion), 12))
    table = pd.DataFrame({"image": [f"ISIC_{k:07d}" for k in range(len(lesion))]})
    table["label"], table["source"] = np.array(CLASSES)[label], "train"
    table["lesion_id"] = [f"HAM_{k}" for k in lesion]
    return features + told * np.eye(7, 12)[label], table


# The linear probe


def test_the_probe_finds_a_class_that_shows_and_scores_it_as_sklearn_does():
    """Features that show the class but for noise: another classifier that is right has the same
    numbers."""
    features, table = data(0.1, told=9)
    subset = np.array(["train", "train", "val", "official"])[np.arange(len(table)) % 4]
    table.loc[np.flatnonzero(subset == "official")[0], "image"] = ZERO_WEIGHT
    found = probe.linear_probe(features, table, pd.Series(subset), n_resamples=50)["subsets"]
    assert list(found) == ["val", "official"]
    labels, train, val = table["label"], subset == "train", subset == "val"
    nearest = KNeighborsClassifier(3).fit(features[train], labels[train])
    expected = balanced_accuracy_score(labels[val], nearest.predict(features[val]))
    assert expected == found["val"]["balanced_accuracy"]["value"] == 1
    assert found["val"]["n"] == val.sum()
    assert found["official"]["n"] == (subset == "official").sum() - 1
    json.dumps(found, allow_nan=False)


def test_a_frozen_vision_transformer_is_probed_and_learns_by_its_head_alone():
    """As DINOv2 and DINOv3 are used; a tiny one, of timm's own for tests."""
    net = networks.network("timm:test_vit", "none", 64)
    recipe.freeze(net, "backbone", 64)
    learns = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in learns} == {"weight", "bias"} and len(learns) == 2
    level = np.arange(70) % 7  # a class's images have its brightness: any features show that
    images = np.full((70, 64, 64, 3), 30 * (1 + level)[:, None, None, None], np.uint8)
    table = data(0.5)[1].head(70).assign(label=np.array(CLASSES)[level])
    logits, features = inference.predict(net, images, with_features=True)
    subset = pd.Series(np.array(["train", "val"])[np.arange(70) % 2])
    found = probe.linear_probe(features, table, subset, n_resamples=20)["subsets"]["val"]
    assert logits.shape == (70, 7) and found["balanced_accuracy"]["value"] > 0.5


def test_labels_of_held_out_images_are_not_used():
    features, table = data(0.5)
    subset = np.array(["train", "val", "Basel"])[np.arange(len(table)) % 3]
    plain = probe.linear_probe(features, table, subset, n_resamples=20)["subsets"]
    other = table.assign(label=table["label"].where(subset != "Basel", "NV"))
    changed = probe.linear_probe(features, other, subset, n_resamples=20)["subsets"]
    assert plain["val"] == changed["val"] and plain["Basel"] != changed["Basel"]


def test_of_folds_the_first_is_validation():
    features, table = data(0.5)
    fold = np.arange(len(table)) % 4
    plain = np.where(fold == 3, "test", np.where(fold == 0, "val", "train"))
    folds = np.where(fold == 3, "test", fold.astype(str))
    a, b = (probe.linear_probe(features, table, s, n_resamples=20) for s in (plain, folds))
    assert a == b and list(a["subsets"]) == ["val", "test"]


def test_a_class_that_is_missing_in_training_is_one_line():
    features, table = data(0.5)
    subset = np.where(table["label"].isin(["DF", "VASC"]), "val", "train")
    with pytest.raises(UserError, match="no image of DF, VASC in the training subset"):
        probe.linear_probe(features, table, subset)
    with pytest.raises(UserError, match="rows of features"):
        probe.linear_probe(features[:-1], table, subset)


# The leakage effect


def test_look_alike_lesions_inflate_and_independent_images_do_not():
    found = probe.leakage_effect(*data(0.95), seeds=range(2), n_resamples=300)
    assert found["prone_images"] == 480 and found["images"] == 520
    near = found["classifiers"]["nearest neighbour"]
    assert near["difference"] > 0.4 and near["low"] > 0.3  # a sibling gives the label away
    assert found["classifiers"]["logistic regression"]["difference"] > 0
    for row in found["classifiers"].values():
        assert row["difference"] == pytest.approx(row["random"] - row["lesion"])
        assert row["difference"] == pytest.approx(np.mean(row["by_seed"]))
        assert row["low"] <= row["difference"] <= row["high"] and len(row["by_seed"]) == 2
    json.dumps(found, allow_nan=False)
    found = probe.leakage_effect(*data(0.0), seeds=range(3), n_resamples=300)
    for row in found["classifiers"].values():
        assert abs(row["difference"]) < 0.05 and row["low"] < 0 < row["high"]


def test_every_image_is_predicted_by_a_model_that_saw_no_image_of_its_group():
    features, table = data(0.5, lesions=40, alone=10)
    groups, truth = table["lesion_id"].to_numpy(), table["label"].map(CLASSES.index).to_numpy()
    features[:, 0] = np.arange(len(features))  # so that each row can be told
    seen = []

    class Spy(ClassifierMixin, BaseEstimator):
        def fit(self, x, y):
            self.trained_, self.classes_ = x[:, 0].astype(int), np.unique(y)
            return self

        def predict(self, x):
            mine = x[:, 0].astype(int)
            assert not set(groups[mine]) & set(groups[self.trained_])
            assert len(mine) + len(self.trained_) == len(features)
            seen.extend(mine)
            return np.zeros(len(x), int)

    probe.out_of_fold(Spy(), features, truth, groups, 4, 0)
    assert sorted(seen) == list(range(len(features)))


def test_near_duplicate_pairs_join_lesions_and_test_images_take_no_part():
    features, table = data(0.0, lesions=20, each=2, alone=40)
    singles = table["image"].tail(4).to_list()
    pairs, options = [singles[:2], singles[2:]], dict(seeds=[0], n_resamples=20)
    found = probe.leakage_effect(features, table, pairs, **options)
    assert found["prone_images"] == 44
    more = pd.concat([table, table.assign(image="x" + table["image"], source="official")])
    twice = np.concatenate([features, features])
    assert probe.leakage_effect(twice, more, pairs, **options) == found


@pytest.mark.parametrize(
    "labels, lesions, message",
    [
        (["NV"] * 8, "aabbccdd", "too few for 4 folds"),  # one class
        (["MEL", "MEL", "NV"], "aab", "too few for 4 folds"),  # one lesion a class
        (["MEL", "NV"] * 4, "abcdefgh", "no lesion has two images"),
    ],
)
def test_what_cannot_be_measured_is_one_line(labels, lesions, message):
    table = pd.DataFrame({"image": list("abcdefgh")[: len(labels)], "label": labels})
    table = table.assign(lesion_id=list(lesions), source="train")
    with pytest.raises(UserError, match=message):
        probe.leakage_effect(np.arange(len(table))[:, None], table, seeds=[0], n_resamples=10)
