"""What a run needs against what is here; Drive and the browser, each with a stand-in."""

import os
import sys
import types
import zipfile

import pytest
import torch

from dermai_utils import config, runtime


@pytest.fixture
def check(monkeypatch, tmp_path, capsys):
    """What runtime.check says of these settings on a machine without a GPU that trains on 100
    images/s."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runtime, "images_per_second", lambda cfg: 100.0)

    def said(**given):
        folders = {"cache_dir": tmp_path / "cache", "work_dir": tmp_path / "work"}
        cfg = config.load(env={}, **folders | {"data": "isic2018"} | given)
        runtime.check(cfg)
        return capsys.readouterr().out

    return said


def test_the_time_to_expect_follows_from_the_speed_and_what_is_left(check, tmp_path):
    # 10,015 images, 12 % of them for validation and 12 % for test: 7,611 trained on, 1,202 looked
    # at for a third of the time
    # 10 x 8,012 / 100 / 60 = 13.4
    assert "about 13 min for 10 epochs, at 100 images/s" in check(epochs=10)
    assert "about 2.2 h for 100 epochs" in check(epochs=100)
    history = tmp_path / "work" / "runs" / "baseline" / "history.csv"
    history.parent.mkdir(parents=True)
    history.write_text("epoch,loss\n" + "1,0.5\n" * 4)
    assert "about 8 min for the 6 epochs of 10 that are left" in check(epochs=10)
    assert "run baseline is trained" in check(epochs=4)
    assert "10 s for 1,000 images and one epoch" in check(epochs=10, data=tmp_path)


def test_the_disk_is_compared_with_what_the_official_data_takes(check, monkeypatch, tmp_path):
    # archives and images 5.8 GB, and 11,527 x 300 x 400 x 3 bytes = 4.15 GB
    monkeypatch.setattr(
        runtime.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=9.0e9)
    )
    assert "9 GB free, about 9.9 GB needed: TOO LITTLE" in check()
    monkeypatch.setattr(
        runtime.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10.2e9)
    )
    assert "TOO LITTLE" not in check()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "sources.json").write_text("{}")
    assert "about 4.1 GB needed" in check()
    assert "needed" not in check(data="sample")


def test_without_a_gpu_it_says_what_to_click(check, monkeypatch):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    assert "quick_cpu" in check()
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert "Accelerator > GPU T4" in check()
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    assert "Change runtime type > T4 GPU" in check()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "slowly" not in check()


def test_a_batch_that_does_not_fit_is_told_and_stops_nothing(check, monkeypatch):
    def full(cfg):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    monkeypatch.setattr(runtime, "images_per_second", full)
    assert "smaller batch_size" in check(batch_size=512)


def test_little_memory_is_told(check, monkeypatch):
    monkeypatch.setattr(runtime, "memory_gb", lambda: 3.0)
    assert "smaller batch_size" in check()
    monkeypatch.setattr(runtime, "memory_gb", lambda: None)  # Windows doesn't tell
    assert "memory" not in check()


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="the oracle is Linux's")
def test_memory_is_what_the_system_says():
    with open("/proc/meminfo") as file:
        assert runtime.memory_gb() == pytest.approx(
            int(file.readline().split()[1]) * 1024 / 1e9, rel=0.01
        )


def test_the_speed_is_measured_on_real_steps(small):
    assert runtime.images_per_second(config.load(env={}, **small), steps=1) > 0


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
    package.drive, package.files = types.SimpleNamespace(mount=mount), types.SimpleNamespace()
    package.files.download, package.files.upload = asked.saved.append, lambda: asked.chosen
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", package)
    monkeypatch.setattr(runtime, "DRIVE", tmp_path / "drive")
    return asked


def test_drive_is_mounted_only_when_asked_and_holds_the_results_not_the_images(
    google, tmp_path, capsys
):
    assert runtime.drive_folders(False, "sample") == {} and google.mounts == []
    cfg = config.load(env={}, data="isic2018", **runtime.drive_folders(True, "isic2018"))
    assert google.mounts == [str(tmp_path / "drive")]
    assert cfg.run_dir.is_relative_to(
        tmp_path / "drive" / "MyDrive" / "DermAI-ISIC2018" / "isic2018"
    )
    assert not cfg.cache.is_relative_to(tmp_path / "drive") and not list(cfg.work.iterdir())
    assert str(cfg.work) in capsys.readouterr().out
    # two data sets never share a table
    assert runtime.drive_folders(True, "sample") != runtime.drive_folders(True, "isic2018")


def test_a_repository_that_lies_on_drive_has_its_images_elsewhere(google, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path / "drive" / "MyDrive" / "repository")
    cfg = config.load(env={}, **runtime.drive_folders(True))
    assert cfg.cache == tmp_path / "cache" / "sample"


REFUSALS = (
    ValueError("mount failed"),
    Exception("Error: credential propagation\nwas unsuccessful"),
    OSError(5, ""),
)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_mount_is_one_line_and_the_run_stays_here(google, refusal, capsys):
    google.refusal = refusal
    assert runtime.drive_folders(True) == {}
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "not mounted" in out and "this machine" in out


def test_a_full_drive_is_one_line_too(google, tmp_path, capsys):
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    (tmp_path / "drive" / "MyDrive" / "DermAI-ISIC2018").write_text(
        "a file where the folder should be"
    )
    assert runtime.drive_folders(True) == {} and capsys.readouterr().out.count("\n") == 1


def test_without_colab_there_is_no_drive_no_download_and_no_upload(capsys, tmp_path):
    assert runtime.drive_folders(True) == {}
    runtime.download(tmp_path / "x.zip")
    assert runtime.upload() == {}
    out = capsys.readouterr().out
    assert out.count("\n") == 3 and out.count("not on Colab") == 2 and "x.zip" in out


def test_the_report_goes_to_the_browser_as_one_zip(google, tmp_path):
    report = tmp_path / "baseline"
    report.mkdir()
    for name in ("report.html", "metrics.json", ".evaluate.json"):
        (report / name).write_text(name)
    runtime.download(runtime.zip_folder(report))
    assert google.saved == [str(tmp_path / "baseline.zip")]
    with zipfile.ZipFile(tmp_path / "baseline.zip") as bundle:
        assert {name: bundle.read(name).decode() for name in bundle.namelist()} == {
            "baseline/report.html": "report.html",
            "baseline/metrics.json": "metrics.json",
        }


def test_an_upload_is_what_was_chosen_and_nothing_is_one_line(google, capsys):
    google.chosen = {"mine.jpg": b"..."}
    assert runtime.upload() == google.chosen and not capsys.readouterr().out
    google.chosen = {}
    assert runtime.upload() == {} and capsys.readouterr().out.startswith(
        "upload: nothing was chosen"
    )
