"""What setup() installs, what this machine can do, Drive and the browser with a stand-in."""

import subprocess
import sys
import types
import zipfile

import numpy
import pytest
import torch
from small import SMALL

from dermai_utils import colab, settings
from dermai_utils.basics import UserError

CONFLICT = """ERROR: Cannot install captum==0.9.0 and torch==9.9: conflicting dependencies.
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/
"""


@pytest.fixture
def pip(monkeypatch):
    """A stand-in for pip that installs nothing: `calls`, and `answer` (exit status, stderr)."""

    class Pip:
        calls, answer = [], (0, "")

    def run(command, **_):
        Pip.calls.append(command)
        return subprocess.CompletedProcess(command, Pip.answer[0], "", Pip.answer[1])

    monkeypatch.setattr(colab.subprocess, "run", run)
    return Pip


def test_where_nothing_is_missing_pip_is_not_called(pip):
    assert colab.install_missing(colab.requirements()) == [] and pip.calls == []


def test_only_what_is_missing_is_installed_and_what_is_there_is_pinned(pip):
    lines = ["torch>=2.4", "not-there>=1", "pillow>=10"]
    assert colab.install_missing(lines) == ["not-there>=1"]
    [command] = pip.calls
    assert "not-there>=1" in command
    assert not {"torch>=2.4", "pillow>=10", "--upgrade"} & set(command)
    pinned = dict(word.split("==") for word in command if "==" in word)
    assert pinned["numpy"] == numpy.__version__
    assert pinned["torch"].split("+")[0] == torch.__version__.split("+")[0]


@pytest.mark.parametrize(
    "stderr, reason",
    [(CONFLICT, "Cannot install captum==0.9.0 and torch==9.9"), ("", "?"), ("no\nspace", "space")],
)
def test_a_failing_pip_is_one_line_with_its_reason(pip, stderr, reason):
    pip.answer = (1, stderr)
    with pytest.raises(UserError) as error:
        colab.install_missing(["not-there>=1"])
    message = str(error.value)
    assert reason in message and "not-there" in message and "\n" not in message


def test_setup_never_installs_torch_into_somebodys_kernel(monkeypatch):
    monkeypatch.setattr(colab.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no PyTorch; choose the kernel .venv, or .* \(5 GB\)"):
        colab.setup()


def test_setup_prints_one_line(capsys):
    colab.setup()
    assert capsys.readouterr().out.startswith("DermAI-ISIC2018 0.")


# This machine.


def test_the_time_follows_from_the_speed():
    # 10,015 images, 12 % of them for validation, which takes a third of the time
    s = settings.read({}, data="isic2018", epochs=10)
    assert "about 15 min for 10 epochs, at 100 images/s" in colab.time_line(s, 100)
    assert "about 1.7 h for 10 epochs" in colab.time_line(s, 15)
    folds = settings.read({}, data="isic2018", preset="strong", epochs=10)
    assert "about 72 min for 10 epochs" in colab.time_line(folds, 100)


def test_of_a_folder_the_time_is_that_of_a_thousand_images(tmp_path):
    s = settings.read({}, data=tmp_path)
    assert "10 s for 1,000 images and one epoch" in colab.time_line(s, 100)


def test_a_batch_that_does_not_fit_is_said():
    s = settings.read({}, data="isic2018", batch_size=512)
    assert "a batch of 512 does not fit" in colab.time_line(s, 0)


def test_the_disk_is_compared_with_what_the_official_data_takes(tmp_path):
    # archives and images 5.8 GB, and 11,527 x 300 x 400 x 3 bytes = 4.15 GB
    s = settings.read({}, data="isic2018", size=260, cache_dir=tmp_path / "cache")
    assert "disk: 9 GB free, up to 9.9 GB needed: TOO LITTLE" in colab.disk_line(s, 9.0)
    assert "TOO LITTLE" not in colab.disk_line(s, 10.2)
    (tmp_path / "cache" / "images").mkdir(parents=True)
    assert "up to 4.1 GB needed" in colab.disk_line(s, 9.0)


def test_the_speed_is_measured_on_real_steps(tmp_path):
    s = settings.read({}, **SMALL | {"data": tmp_path, "freeze": "early"})
    assert colab.images_per_second(s, steps=1) > 0


def test_without_a_gpu_it_says_what_to_choose(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    colab.check(settings.read({}, **SMALL | {"data": tmp_path}))
    said = capsys.readouterr().out
    assert "no GPU: it works, slowly" in said and "quick_cpu" in said and "time: " in said


# Drive and the browser.


@pytest.fixture
def google(monkeypatch, tmp_path):
    """A stand-in for google.colab: what was asked (`mounts`, `saved`), what mount answers
    (`refusal`), an upload (`chosen`)."""
    asked = types.SimpleNamespace(mounts=[], saved=[], refusal=None, chosen={})

    def mount(path):
        asked.mounts.append(path)
        if asked.refusal:
            raise asked.refusal
        (tmp_path / "drive" / "MyDrive").mkdir(parents=True, exist_ok=True)

    package = types.ModuleType("google.colab")
    package.drive = types.SimpleNamespace(mount=mount)
    package.files = types.SimpleNamespace(download=asked.saved.append, upload=lambda: asked.chosen)
    monkeypatch.setitem(sys.modules, "google.colab", package)
    monkeypatch.setattr(colab, "DRIVE", tmp_path / "drive")
    return asked


def test_drive_is_mounted_only_when_asked_and_holds_the_results_not_the_images(
    google, tmp_path, capsys
):
    assert colab.drive_folders(False) == {} and google.mounts == []
    s = settings.read({}, data="isic2018", **colab.drive_folders(True, "isic2018"))
    assert google.mounts == [str(tmp_path / "drive")]
    assert s.work == tmp_path / "drive" / "MyDrive" / "DermAI-ISIC2018" / "isic2018"
    assert not s.cache.is_relative_to(tmp_path / "drive") and not list(s.work.iterdir())
    assert str(s.work) in capsys.readouterr().out
    # two data sets never share a table
    assert colab.drive_folders(True, "sample") != colab.drive_folders(True, "isic2018")


def test_a_repository_on_drive_has_its_images_elsewhere(google, tmp_path, monkeypatch):
    monkeypatch.setattr(colab, "ROOT", tmp_path / "drive" / "MyDrive" / "repository")
    assert colab.drive_folders(True)["cache_dir"] == str(tmp_path / "cache" / "sample")


@pytest.mark.parametrize(
    "refusal",
    [ValueError("mount failed"), Exception("Error: credential\nwas unsuccessful"), OSError(5, "")],
)
def test_a_refused_mount_is_one_line_and_the_run_stays_here(google, refusal, capsys):
    google.refusal = refusal
    assert colab.drive_folders(True) == {}
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "not mounted" in out and "this machine" in out


def test_a_drive_that_takes_nothing_is_one_line_too(google, tmp_path, capsys):
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    (tmp_path / "drive" / "MyDrive" / "DermAI-ISIC2018").write_text("a file, no folder")
    assert colab.drive_folders(True) == {} and capsys.readouterr().out.count("\n") == 1


def test_without_colab_there_is_no_drive_no_download_and_no_upload(capsys, tmp_path):
    assert colab.drive_folders(True) == {} and colab.upload() == {}
    colab.download(tmp_path / "x.zip")
    out = capsys.readouterr().out
    assert out.count("\n") == 3 and out.count("not on Colab") == 2 and "x.zip" in out


def test_the_report_goes_to_the_browser_as_one_zip_without_checkpoints(google, tmp_path):
    folder = tmp_path / "first"
    folder.mkdir()
    for name in ("report.html", "metrics.json", "best.pt", ".lock"):
        (folder / name).write_text(name)
    colab.download(colab.zip_folder(folder))
    assert google.saved == [str(tmp_path / "first.zip")]
    with zipfile.ZipFile(tmp_path / "first.zip") as bundle:
        assert sorted(bundle.namelist()) == ["first/metrics.json", "first/report.html"]


def test_an_upload_is_what_was_chosen_and_nothing_is_one_line(google, capsys):
    google.chosen = {"mine.jpg": b"..."}
    assert colab.upload() == google.chosen and not capsys.readouterr().out
    google.chosen = {}
    assert colab.upload() == {} and "nothing was chosen" in capsys.readouterr().out
