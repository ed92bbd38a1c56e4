"""A run's folder: opened anywhere, judged by the right networks, refused where it is not whole."""

import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import Evil, Small, data, same_weights

from dermai_utils import commands, files, inference, runs, training
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.networks import network
from dermai_utils.runs import open_run

FEW = dict(epochs=1, batch_size=8, learning_rate=0.01, device="cpu")


def probabilities(rows):
    return rows[list(CLASSES)].to_numpy()


def dataset(seed=0):
    return data(seed=seed)[0]


def joined(*parts):
    """One dataset of several, each with its own source and names."""
    whole = dataset()
    tables = [p.table.assign(source=name, image=name + p.table["image"]) for name, p in parts]
    whole.table = pd.concat([whole.table, *tables], ignore_index=True)
    whole.pixels = np.concatenate([whole.pixels, *(p.pixels for _, p in parts)])
    return whole


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of a network by name."""
    folder = tmp_path_factory.mktemp("runs") / "baseline"
    net = network("timm:test_resnet", "none", 32)
    training.train(*data(), net, folder, **FEW, tta=2)
    return folder


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """Three folds of a network of one's own, beside a test subset and an official test set."""
    folder = tmp_path_factory.mktemp("runs") / "folds"
    whole, (_, subset) = joined(("official", dataset(seed=1))), data()
    ids = pd.Series(np.arange(70) // 2 % 3, dtype=str)
    folds = pd.concat([subset.where(subset == "test", ids), pd.Series(["official"] * 70)])
    folds = folds.reset_index(drop=True)
    run = training.train_folds(whole, folds, Small, folder, **FEW | dict(epochs=3), tta=2)
    return whole, folds, run


def test_an_opened_run_is_the_one_that_was_trained(trained, tmp_path):
    """Moved to another place, and under another name."""
    moved = tmp_path / "elsewhere" / "other name"
    shutil.copytree(trained, moved)
    run, (whole, subset) = open_run(moved), data()
    assert (run.name, run.size, run.tta, run.folds) == ("other name", 32, 2, 0)
    assert run.settings["backbone"] == "timm:test_resnet" and run.settings["epochs"] == 1
    assert run.table["image"].equals(whole.table["image"]) and run.table["subset"].equals(subset)
    assert run.history["epoch"].tolist() == [1] and run.metrics is None
    assert not run.net.training and run.networks[0] is run.net
    text = "".join(p.read_text() for p in moved.iterdir() if p.suffix in (".json", ".csv"))
    assert str(trained.parent) not in text and "path" not in run.table
    held_out = subset[subset.isin(["val", "test"])].index
    assert set(run.predictions["image"]) == set(whole.table.loc[held_out, "image"])
    pd.testing.assert_frame_equal(run.predict(whole), run.predictions, rtol=1e-6)


def test_a_test_set_that_came_later_is_predicted_too_and_gone_images_are_counted(trained, capsys):
    run, later = open_run(trained), joined(("Basel", dataset(seed=1)), ("extra", dataset(seed=2)))
    rows = run.predict(later)
    assert rows["subset"].value_counts().to_dict() == {"Basel": 70, "val": 14, "test": 14}
    own = rows[rows["subset"] == "Basel"]
    expected = run.probabilities(dataset(seed=1).pixels)
    np.testing.assert_allclose(probabilities(own), expected, atol=1e-6)
    later.table = later.table.iloc[::-1][:-1].reset_index(drop=True)  # without I000, of val
    later.pixels = later.pixels[::-1][:-1]
    capsys.readouterr()
    fewer = run.predict(later)
    assert "held-out images of run baseline that the data lacks: 1" in capsys.readouterr().out
    assert len(fewer) == len(rows) - 1
    before = probabilities(rows.set_index("image").loc[fewer["image"]])
    np.testing.assert_allclose(probabilities(fewer), before, atol=1e-6)
    gone = run.table.tail(1).assign(image="R1", source="Rio", subset="Rio")
    run.table = pd.concat([run.table, gone], ignore_index=True)
    assert "Rio" not in set(run.predict(dataset())["subset"])  # trained with, not given now
    assert "that the data lacks" not in capsys.readouterr().out
    basel = later.table[later.table["source"] == "Basel"].assign(subset="Basel")
    run.table = pd.concat([run.table, basel], ignore_index=True)
    assert run.predict(later)["image"].is_unique  # trained with, and given now


def test_what_changed_in_the_data_is_counted(trained):
    run, whole = open_run(trained), dataset()
    assert run.changes(whole) == ""
    whole.table.loc[3, "label"] = "DF"
    whole.table.loc[[4, 5], "pixel_hash"] = "another"
    whole.table.loc[6, "image"] = "new"
    whole.table = whole.table.drop(index=7)
    said = "images gone: 2, new images: 1, another label: 1, another pixel_hash: 2"
    assert run.changes(whole) == said
    assert run.changes(joined(("Basel", dataset(seed=1)))) == ""  # a test set, which is judged


def test_a_run_on_changed_data_says_which_images_its_scores_are_of(trained, monkeypatch, capsys):
    run, whole = open_run(trained), joined(("official", dataset(seed=1)))
    monkeypatch.setattr(commands, "load", lambda *_: whole)
    commands._dataset_of(SimpleNamespace(name=run.settings["data"]), run)
    said = capsys.readouterr().out
    assert "70" in said and "the images that it had then" in said
    assert "another --run-name" in said


# Folds.


def test_an_image_of_a_fold_is_judged_by_the_one_network_that_did_not_learn_it(folded):
    whole, folds, run = folded
    rows = run.predictions.set_index("image")
    nets = [open_run(run.folder / str(k), Small()).net for k in range(3)]
    each = [inference.softmax(inference.predict(n, whole.pixels, 16, tta=2)) for n in nets]
    for net, same in zip(nets, run.networks, strict=True):
        assert same_weights(net.state_dict(), same.state_dict())
    assert np.abs(each[0] - each[1]).max() > 1e-3
    for place, (image, fold) in enumerate(zip(whole.table["image"], folds, strict=True)):
        one = fold.isdecimal()
        expected = each[int(fold)][place] if one else np.mean([p[place] for p in each], axis=0)
        np.testing.assert_allclose(probabilities(rows.loc[[image]])[0], expected, atol=1e-6)
        assert rows["fold"][image] == (int(fold) if one else -1)
        assert rows["subset"][image] == ("val" if one else fold)
    assert len(rows) == len(folds) and rows.index.is_unique
    table = whole.table.set_index("image").loc[rows.index]
    assert (rows["truth"] == table["label"]).all()
    assert (rows["lesion_id"] == table["lesion_id"]).all()


def test_no_network_of_a_fold_learned_an_image_of_it(folded):
    """Nor of another one's lesion; each image is trained on by the other two."""
    whole, folds, run = folded
    assert [member.name for member in run.members] == ["0", "1", "2"]
    for k, member in enumerate(run.members):
        subset = member.table["subset"]
        assert ((subset == "val") == (folds == str(k))).all()
        assert ((subset == "train") == (folds.str.isdecimal() & (folds != str(k)))).all()
        val = member.table.loc[subset == "val", "lesion_id"]
        assert not set(val) & set(member.table.loc[subset == "train", "lesion_id"])


def test_a_run_of_folds_opens_whole_and_judges_new_pictures_by_all(folded, tmp_path):
    whole, folds, trained = folded
    shutil.copytree(trained.folder, tmp_path / "moved")
    for name in ("settings.json", "table.csv", "predictions.csv"):
        (tmp_path / "moved" / name).unlink()
    runs.join_folds(tmp_path / "moved", whole, folds, Small())  # from the folders alone
    for name in ("table.csv", "predictions.csv"):
        assert (tmp_path / "moved" / name).read_bytes() == (trained.folder / name).read_bytes()
    run = open_run(tmp_path / "moved", Small())
    assert (run.folds, run.name, len(run.networks)) == (3, "moved", 3)
    assert run.table["fold"].tolist() == [int(f) if f.isdecimal() else -1 for f in folds]
    assert set(run.table["subset"]) == {"val", "test", "official"}
    pixels = dataset(seed=3).pixels
    each = [member.probabilities(pixels) for member in run.members]
    later = joined(("official", dataset(seed=1)), ("Basel", dataset(seed=3)))
    basel = run.predict(later).query("subset == 'Basel'")
    assert (basel["fold"] == -1).all() and len(basel) == 70
    np.testing.assert_allclose(probabilities(basel), np.mean(each, axis=0), atol=1e-6)


def test_a_run_of_folds_is_no_place_for_a_single_one(folded):
    whole, folds, run = folded
    subset = folds.replace({"0": "val", "1": "train", "2": "train"})
    with pytest.raises(UserError, match="folds was 3, is 0.*another --run-name"):
        training.train(whole, subset, Small(), run.folder, **FEW)


# What is refused.


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(first_size=32), "backbone=mine: it takes no images of 32 px"),
        (dict(imbalance="weights"), "imbalance='weights': expected one of none, class_weights"),
        (dict(tracker="board"), "tracker='board': expected one of none, tensorboard"),
        (dict(freeze="all"), "freeze='all': expected one of none, early, backbone"),
        (dict(size=0), "give size"),
        (dict(epoch=3), "unknown option epoch of a training; did you mean epochs"),
    ],
)
def test_a_training_that_cannot_begin_leaves_nothing(tmp_path, options, said):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 7, 40), torch.nn.Flatten())
    net.about = {"backbone": "mine", "size": 40}
    with pytest.raises(UserError, match=said):
        training.train(*data(), net, tmp_path / "run", **FEW | options)
    whole, subset = data()
    with pytest.raises(UserError, match="too few images: 56 to train on, 0 for validation"):
        subset = subset.replace({"val": "train"})
        training.train(whole, subset, net, tmp_path / "run", **FEW)
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_there_is_answered_with_those_that_are(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "baseline")
    with pytest.raises(UserError, match="there is no such run; did you mean baseline"):
        open_run(tmp_path / "basline")
    with pytest.raises(UserError, match="there is no such run; runs there: baseline"):
        open_run(tmp_path / "xyz")
    (tmp_path / "baseline" / "predictions.csv").unlink()
    with pytest.raises(UserError, match="baseline is not trained to its end"):
        open_run(tmp_path / "baseline")


def test_a_network_of_ones_own_is_given_again(folded):
    folder = folded[2].folder / "0"
    with pytest.raises(UserError, match=r"0 was trained with Small: give it as .*net=\.\.\."):
        open_run(folder).net  # noqa: B018
    with pytest.raises(UserError, match="do not fit Small .*size mismatch for head") as caught:
        wide = Small()
        wide.head = torch.nn.Linear(8, 9)
        open_run(folder, wide).net  # noqa: B018
    assert "\n" not in str(caught.value)
    given = Small(seed=5)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    run = open_run(folder, given)
    assert run.net is not given and same_weights(given.state_dict(), before)
    assert not same_weights(run.net.state_dict(), before)


@pytest.mark.parametrize("fault", ["half", "flipped bit", "empty", "gone", "pickle", "in a zip"])
def test_broken_weights_are_one_line_and_no_code_in_them_is_executed(trained, tmp_path, fault):
    shutil.copytree(trained, tmp_path / "run")
    path, evil = tmp_path / "run" / "best.pt", tmp_path / "executed"
    content, code = bytearray(path.read_bytes()), pickle.dumps({"model": Evil(evil)}, protocol=2)
    content[len(content) // 2] ^= 1
    changed = {"half": content[:9000], "flipped bit": content, "empty": b""}
    changed["pickle"] = code + files.digest(code)
    said = dict.fromkeys(("half", "flipped bit", "empty"), "broken, its checksum")
    path.unlink()
    if fault in changed:
        path.write_bytes(changed[fault])
    elif fault == "in a zip":
        runs.save_checkpoint(path, {"model": Evil(evil)})
    run = open_run(tmp_path / "run")
    with pytest.raises(UserError, match=said.get(fault, "no checkpoint")) as caught:
        run.networks  # noqa: B018
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not evil.exists() and len(run.predictions)  # which need no network


def test_a_finished_runs_weights_begin_another(trained):
    run = open_run(trained)
    net = network("timm:test_resnet", str(trained / "best.pt"), 32)
    assert same_weights(net.state_dict(), run.net.state_dict())
