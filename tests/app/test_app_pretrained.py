"""The model that comes with the package. Where a checkout has none yet, a stand-in is tested."""

import dataclasses
import html
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import photos
import pytest
import safetensors.torch
import torch

import dermai_utils as dermai
from dermai_utils import files, pixels, runs, settings
from dermai_utils.app import clinic, lite0, pack, predictor, state
from dermai_utils.basics import DISCLAIMER, ZERO_WEIGHT, UserError
from dermai_utils.copies.unpack import unpack


@pytest.fixture(scope="module")
def rounded(tmp_path_factory, data):
    """A run of Lite0 whose weights are rounded to half precision, ready to pack."""
    made = photos.run(tmp_path_factory.mktemp("runs") / "tiny", data, backbone=lite0.NAME)
    weights = {k: v.half().float() if v.is_floating_point() else v for k, v in _model(made).items()}
    runs.save_checkpoint(made.folder / "best.pt", {"model": weights, "about": {"epoch": 1}})
    made = runs.Run(made.folder, device="cpu")
    files.write_table(made.predict(data), made.folder / "predictions.csv")
    state.save(made, state.prepare(made, data))
    return made


def _model(run):
    return runs.load_checkpoint(run.folder / "best.pt")["model"]


@pytest.fixture(scope="module")
def stand_in(rounded, tmp_path_factory):
    """The folder of a shipped model."""
    folder = tmp_path_factory.mktemp("weights") / "dermai-lite0"
    shutil.copytree(unpack(pack.pack(rounded), folder.parent / "unpacked"), folder)
    return folder


@pytest.fixture
def shipped(stand_in, monkeypatch):
    monkeypatch.setattr(pack, "SHIPPED", stand_in)
    return dermai.pretrained(device="cpu")


def test_pack_and_run_agree_to_a_millionth_on_200_images(shipped, rounded):
    """timm's network, and ours with the weights of the pack, through the whole of an answer."""
    images = np.random.default_rng(0).integers(0, 256, (200, 75, 100, 3), np.uint8)
    images[:147] = np.stack([photos.tinted("MEL", k) for k in range(147)])
    names = [str(k) for k in range(200)]
    ours, theirs = (
        predictor.Predictor(run)(names, images, maps=False) for run in (shipped, rounded)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)
        assert one.possible == other.possible
        assert one.distance == pytest.approx(other.distance, rel=1e-4)
    assert len({one.possible for one in ours}) > 1  # or this tests nothing
    assert type(shipped.net.backbone).__module__ == lite0.__name__
    assert type(rounded.net.backbone).__module__.startswith("timm")
    stored = safetensors.torch.load_file(shipped.folder / pack.WEIGHTS).values()
    assert {tensor.dtype for tensor in stored} == {torch.float16, torch.int64}  # nothing is lost


def test_a_changed_file_is_refused(shipped, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(shipped.folder, tmp_path / "weights"))
    with open(folder / "answers.json", "a") as file:
        file.write(" ")
    monkeypatch.setattr(pack, "SHIPPED", folder)
    with pytest.raises(UserError, match="answers.json is not what its list says"):
        dermai.pretrained()


def test_the_shipped_card_says_what_its_split_is():
    card = (pack.SHIPPED / "model_card.md").read_text("utf-8")
    assert "Split: given as a file (the official training images, without 9 that show what" in card
    pack.check(pack.SHIPPED, pack.SHIPPED)


def test_a_package_without_its_model_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "SHIPPED", tmp_path / "none")
    with pytest.raises(UserError, match="comes without its model; .* --run-name NAME"):
        dermai.pretrained()


def test_leaks_into_somebodys_test_set_are_counted_by_their_reason():
    learned = pd.DataFrame(
        [
            ("ISIC_0000001", "L1", "a", "train"),
            ("ISIC_0000002", "L2", "b", "val"),
            ("ISIC_0000003", "L3", "c", "left out"),
            ("1", "", "d", "train"),
            ("ISIC_0000005", "M", "i", "official"),
            (dermai.near_duplicates()[0][0], "", "j", "train"),
        ],
        columns=["image", "lesion_id", "pixel_hash", "subset"],
    )
    tests = pd.DataFrame(
        [
            ("clinic:ISIC_0000001", "", "e"),
            ("x", "L2", "f"),
            ("y", "", "a"),
            (dermai.near_duplicates()[0][1], "", "k"),
            ("ISIC_0000003", "", "g"),
            ("1", "M", "h"),
            ("z", "M", "i"),
        ],
        columns=["image", "lesion_id", "pixel_hash"],
    ).assign(source="clinic", label="NV")
    found = clinic.leaking(learned, tests)
    assert found["image"].tolist() == tests["image"].tolist()[:4]
    assert found["reason"].tolist() == [
        *("the same image ids", "the same lesions", "the same pixels"),
        "near-duplicates or related images",
    ]
    (line,) = clinic.said(found, tests)
    assert line.startswith("clinic: 4 of 7 images left out") and "1 × the same lesions" in line
    assert "; leaks.csv); 3 left. Caution: under 10 lesions" in line and "(NV 2)" in line
    many = tests[:1].loc[[0] * 10].assign(image=[f"n{k}" for k in range(10)], pixel_hash="")
    (line,) = clinic.said(clinic.leaking(learned, many), many)
    assert line == "clinic: none of 10 images leaks, as far as ids, pixels and looks tell"


def test_test_sets_alone_keep_their_ids(tmp_path, capsys):
    """Also that of the official image that does not count, which is in the sample as well."""
    made_up, folder = settings.PACKAGE / "sample", tmp_path / "official test"
    folder.mkdir()
    for path in made_up.glob("ISIC2018_Task3_Test_*"):
        shutil.copy(path, folder)
    found = clinic.load([folder], 32, tmp_path / "cache")
    said = capsys.readouterr().out.splitlines()
    assert all("official test" in line for line in said) and "layout official" in said[0]
    assert set(found.table["source"]) == {"official test"}
    assert ZERO_WEIGHT in set(found.table["image"])
    place = found.table.set_index("image")["path"].items()
    for row, (_, path) in list(zip(found.table.index, place, strict=True))[:5]:
        expected = pixels.decode(Path(path).read_bytes(), *pixels.shape(32))
        np.testing.assert_array_equal(found.pixels[row], expected)


def test_a_report_about_a_clinic_without_training(shipped, stand_in, tmp_path, capsys):
    """Leaks are left out, also what has the pixels of a training image under another name and
    checksum; answers and distances are counted on the clinic's other images. They are few: the
    screen has counts, no score."""
    data = photos.dataset(tmp_path)
    own = data.table.assign(source="clinic").iloc[55:130]
    own.loc[own.index[10:], ["lesion_id", "pixel_hash"]] = [
        [f"C{k // 2}", f"c{k}"] for k in range(65)
    ]
    own["image"] = [f"ISIC_08000{k}" if k > 65 else f"ISIC_0700{k}" for k in own.index]
    tests = dataclasses.replace(data, table=own)
    page = clinic.evaluate(shipped, tests, tmp_path / "pretrained")
    leaks = files.read_table(tmp_path / "pretrained" / "leaks.csv")
    assert page == tmp_path / "pretrained" / "report.html" and page.exists()
    said = capsys.readouterr().out
    assert len(leaks) == 50 and "clinic: 50 of 75 images left out" in said
    assert "40 × the same picture, resized, saved again or turned" in said
    assert "get an answer" in said and "look like another source's" in said
    assert "n=25, right are MEL" in said and "balanced accuracy" not in said
    found = files.read_json(page.with_name("metrics.json"))
    answers = files.read_json(page.with_name("answers.json"))
    assert found["primary_subset"] == "clinic" and found["subsets"]["clinic"]["n"] == 25
    assert answers["n"] == answers["unlike"]["clinic"]["n"] == 25
    rows = files.read_table(page.with_name("predictions.csv")).set_index("image")
    images = own.index[own["image"].isin(rows.index)]
    expected = shipped.probabilities(data.pixels, rows=images.to_numpy())
    np.testing.assert_allclose(rows.loc[own.loc[images, "image"], "MEL"], expected[:, 0], atol=1e-6)
    assert not (stand_in / "report.html").exists()


def test_two_folders_of_one_name_keep_their_reports(tmp_path, capsys):
    mine, yours = [tmp_path / "a" / "images"], [tmp_path / "b" / "images"]
    folder = tmp_path / "pretrained" / "images"
    assert clinic.free_folder(folder, mine) == clinic.free_folder(folder, mine) == folder
    assert capsys.readouterr().out == ""
    other = clinic.free_folder(folder, yours)
    assert other != folder and other.parent == folder.parent
    assert f"{folder} is about another test set; this report goes to {other.name}" in (
        capsys.readouterr().out
    )
    assert clinic.free_folder(folder, yours) == other
    assert clinic.free_folder(folder, mine) == folder


def test_a_space_shows_the_page_and_does_not_promise_that_photos_stay(
    shipped, tmp_path, monkeypatch
):
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    demo = runpy.run_path(str(settings.ROOT / "spaces" / "app.py"))["demo"]
    parts = (getattr(block, "value", None) for block in demo.blocks.values())
    said = html.unescape(" ".join(part for part in parts if isinstance(part, str)))
    said = " ".join(said.split())
    assert "They go to the machine that runs this page" in said and DISCLAIMER in said
    assert "stay on this machine" not in said and predictor.description(shipped) in said
    ours, its = (
        (settings.ROOT / name).read_text().splitlines()
        for name in ("requirements-app.txt", "spaces/requirements.txt")
    )
    assert ours[-1] in its


HEAVY = ("timm", "torchvision", "scipy", "sklearn", "matplotlib", "requests", "jinja2")


def test_an_answer_loads_nothing_that_it_does_not_need(stand_in, tmp_path):
    photos.picture().save(tmp_path / "photo.png")
    code = (
        "import sys; from dermai_utils.app import pack; pack.SHIPPED = pack.Path(sys.argv[1]);"
        "from dermai_utils import cli; cli.main(['predict', '--image', 'photo.png']);"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": str(pack.Path(dermai.__file__).parents[1])}
    words = [sys.executable, "-c", code, str(stand_in)]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("answers by dermai-lite0, the model that comes with the package")
    assert lines[-1] == "[]", done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "own_predictions.csv")
    assert table["picture"].tolist() == ["photo.png"]
