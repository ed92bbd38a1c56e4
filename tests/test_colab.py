"""What setup() installs, what this machine can do, Drive and the browser with a stand-in."""

import importlib
import sys
import zipfile

import numpy
import pytest
import torch
from small import SMALL

from dermai_utils import colab, settings
from dermai_utils.basics import UserError


def test_setup_prints_one_line_where_nothing_is_missing(capsys):
    colab.setup()
    said = capsys.readouterr().out
    assert said.startswith("DermAI-ISIC2018 0.") and said.count("\n") == 1


def test_a_failing_pip_is_one_line_with_its_reason(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match="^pip could not install not-there>=1: ERROR: Could not"):
        colab.install_missing(["pillow>=10", "not-there>=1"])


def test_what_is_there_is_pinned():
    command = colab.pip_command(["not-there>=1"])
    pinned = dict(word.split("==") for word in command if "==" in word)
    assert pinned["numpy"] == numpy.__version__ and "not-there>=1" in command
    assert pinned["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_setup_never_installs_torch_into_somebodys_kernel(monkeypatch):
    monkeypatch.setattr(colab.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no PyTorch; choose the kernel .venv, or .* \(5 GB\)"):
        colab.setup()


# This machine.


@pytest.mark.parametrize(
    "given, images, speed, said",
    [
        # 12 % of the images for validation, which takes a third of the time
        (
            dict(epochs=10),
            10_015,
            15,
            "about 1.7 h for 10,015 images and 10 epochs, at 15 images/s",
        ),
        (dict(epochs=10, preset="strong"), 10_015, 100, "about 72 min for 10,015 images"),
        (dict(batch_size=512), 10_015, 0, "batches of 512 do not fit"),
        (dict(data="."), 0, 100, "10 s for 1,000 images and one epoch"),
    ],
)
def test_the_time_follows_from_the_speed(given, images, speed, said):
    s = settings.read({}, **{"data": "isic2018"} | given)
    assert said in colab.time_line(s, speed, images)


def test_the_disk_is_compared_with_what_the_official_data_takes(tmp_path):
    # archives and images 5.8 GB, and 11,527 x 300 x 400 x 3 bytes = 4.15 GB
    s = settings.read({}, data="isic2018", size=260, cache_dir=tmp_path / "cache")
    assert "disk: 9 GB free, up to 9.9 GB needed: TOO LITTLE" in colab.disk_line(s, 9.0)
    assert "TOO LITTLE" not in colab.disk_line(s, 10.2)
    (tmp_path / "cache" / "images").mkdir(parents=True)
    assert "up to 4.1 GB needed" in colab.disk_line(s, 9.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_speed_is_measured_and_without_a_gpu_it_says_what_to_choose(tmp_path, capsys):
    colab.check(settings.read({}, **SMALL | {"data": tmp_path, "freeze": "early"}))
    said = capsys.readouterr().out
    assert "no GPU: it works, slowly" in said and "images/s" in said


# Drive and the browser.


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """My Drive, as Colab mounts it."""
    monkeypatch.setitem(sys.modules, "google.colab", None)  # its kernel has imported it
    folder = tmp_path / "drive" / "MyDrive"
    folder.mkdir(parents=True)
    return folder


def test_drive_holds_the_results_and_not_the_images(drive, tmp_path, capsys):
    s = settings.read({}, **colab.drive_folders(True, "isic2018", lambda: drive))
    assert s.work == drive / "DermAI-ISIC2018" / "isic2018" and not list(s.work.iterdir())
    assert not s.cache.is_relative_to(drive) and str(s.work) in capsys.readouterr().out
    on_drive = colab.drive_folders(True, "isic2018", lambda: drive, root=drive / "repository")
    assert on_drive["cache_dir"] == str(tmp_path / "cache" / "isic2018")


@pytest.mark.parametrize("refusal", [Exception("Error: credential\nno"), OSError(5, ""), None])
def test_a_refused_mount_is_one_line_and_the_run_stays_here(drive, refusal, capsys):
    (drive / "DermAI-ISIC2018").write_text("a file, no folder")

    def mount():
        if refusal:
            raise refusal
        return drive

    assert colab.drive_folders(True, mount=mount) == colab.drive_folders(False, mount=mount) == {}
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "not mounted" in out and "this machine" in out


def test_without_colab_there_is_no_drive_no_download_and_no_upload(capsys, tmp_path):
    assert colab.drive_folders(True) == {} and colab.upload() == {}
    colab.download(tmp_path / "x.zip")
    out = capsys.readouterr().out
    assert out.count("\n") == 3 and out.count("not on Colab") == 2 and "x.zip" in out


def test_on_colab_the_report_goes_to_the_browser_as_one_zip(drive, monkeypatch, capsys):
    monkeypatch.syspath_prepend(settings.ROOT / "tools" / "stand_in")
    monkeypatch.delitem(sys.modules, "google.colab")
    importlib.import_module("google.colab")  # as Colab's kernel does
    for name in ("report.html", "metrics.json", "best.pt", ".lock"):
        (drive / name).write_text(name)
    archive = colab.zip_folder(drive)
    colab.download(archive)
    assert colab.upload() == {}
    said = capsys.readouterr().out
    assert "download: MyDrive.zip\n" in said and "nothing was chosen" in said
    names = {name for name in zipfile.ZipFile(archive).namelist() if name[-1] != "/"}
    assert names == {"MyDrive/metrics.json", "MyDrive/report.html"}
