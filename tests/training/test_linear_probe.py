import dataclasses

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from dermai_utils import config, files, pipeline
from dermai_utils.data import split
from dermai_utils.training import features, linear_probe


@pytest.fixture
def cfg(made, tmp_path):
    for name in ("table.csv", "split.csv"):
        (tmp_path / name).write_bytes((made.work / name).read_bytes())
    return dataclasses.replace(made, work_dir=str(tmp_path))


def test_it_finds_what_the_features_tell_and_scores_it_as_scikit_learn_does(cfg, monkeypatch):
    """Features that give the class away but for noise: the numbers are those of another classifier
    that is right."""
    table = split.read(cfg)
    labels = table["label"].map(config.CLASSES.index).to_numpy()
    told = np.eye(7)[labels] * 9 + np.random.default_rng(0).normal(0, 0.5, (len(labels), 7))
    monkeypatch.setattr(features, "features", lambda cfg: told.astype(np.float32))
    linear_probe.run(cfg)
    found = files.read_json(cfg.linear_probe_file)
    train, val = (np.flatnonzero(table["subset"] == subset) for subset in ("train", "val"))
    nearest = KNeighborsClassifier(3).fit(told[train], labels[train]).predict(told[val])
    expected = balanced_accuracy_score(labels[val], nearest)
    assert expected == 1
    assert found["subsets"]["val"]["balanced_accuracy"]["value"] == pytest.approx(expected)
    assert found["subsets"]["val"]["n"] == len(val)


def test_labels_of_held_out_images_play_no_part(cfg, monkeypatch):
    table = split.read(cfg)
    other = table.assign(label=table["label"].where(table["subset"] == "train", "NV"))
    fitted = []
    monkeypatch.setattr(
        features,
        "features",
        lambda cfg: np.random.default_rng(0).normal(size=(len(table), 5)).astype(np.float32),
    )
    for one in (table, other):
        monkeypatch.setattr(split, "read", lambda cfg, one=one: one)
        monkeypatch.setattr(
            linear_probe,
            "_scores",
            lambda model, *rest: (
                fitted.append(model[-1].coef_)
                or {"n": 0, **{name: {"value": None} for name in linear_probe.METRICS}}
            ),
        )
        linear_probe.run(cfg)
    np.testing.assert_array_equal(fitted[0], fitted[-1])


def test_the_stage_makes_its_file_and_is_not_made_twice(cfg, capsys):
    assert pipeline.ensure(cfg, "linear_probe") == [cfg.linear_probe_file]
    found = files.read_json(cfg.linear_probe_file)
    assert set(found["subsets"]) >= {"val", "official"} and found["fit"] >= 0
    capsys.readouterr()
    pipeline.ensure(cfg, "linear_probe")
    assert "linear_probe: up to date" in capsys.readouterr().out
