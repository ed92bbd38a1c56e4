import os
import sys
import types

import pytest
import torch

from dermai_utils import config, machine


@pytest.fixture
def check(monkeypatch, tmp_path, capsys):
    """What machine.check says of these settings on a machine without a GPU that trains on 100 images/s."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "images_per_second", lambda cfg: 100.0)

    def said(**given):
        folders = {"cache_dir": tmp_path / "cache", "work_dir": tmp_path / "work"}
        cfg = config.load(env={}, **folders | {"data": "isic2018"} | given)
        machine.check(cfg)
        return capsys.readouterr().out

    return said


def test_the_time_to_expect_follows_from_the_speed_and_what_is_left(check, tmp_path):
    # 10,015 images, 12 % of them for validation and 12 % for test: 7,611 trained on, 1,202 looked at for a third of the time
    assert "about 13 min for 10 epochs, at 100 images/s" in check(epochs=10)  # 10 x 8,012 / 100 / 60 = 13.4
    assert "about 2.2 h for 100 epochs" in check(epochs=100)
    history = tmp_path / "work" / "runs" / "baseline" / "history.csv"
    history.parent.mkdir(parents=True)
    history.write_text("epoch,loss\n" + "1,0.5\n" * 4)
    assert "about 8 min for the 6 epochs of 10 that are left" in check(epochs=10)
    assert "run baseline is trained" in check(epochs=4)
    assert "10 s for 1,000 images and one epoch" in check(epochs=10, data=tmp_path)


def test_the_disk_is_compared_with_what_the_official_data_takes(check, monkeypatch, tmp_path):
    # archives and images 5.8 GB, and 11,527 x 225 x 300 x 3 bytes = 2.33 GB
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=8.0e9))
    assert "8 GB free, about 8.1 GB needed: TOO LITTLE" in check()
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=8.2e9))
    assert "TOO LITTLE" not in check()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "sources.json").write_text("{}")
    assert "about 2.3 GB needed" in check()
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

    monkeypatch.setattr(machine, "images_per_second", full)
    assert "smaller batch_size" in check(batch_size=512)


def test_little_memory_is_told(check, monkeypatch):
    monkeypatch.setattr(machine, "memory_gb", lambda: 3.0)
    assert "smaller batch_size" in check()
    monkeypatch.setattr(machine, "memory_gb", lambda: None)  # Windows doesn't tell
    assert "memory" not in check()


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="the oracle is Linux's")
def test_memory_is_what_the_system_says():
    with open("/proc/meminfo") as file:
        assert machine.memory_gb() == pytest.approx(int(file.readline().split()[1]) * 1024 / 1e9, rel=0.01)


def test_the_speed_is_measured_on_real_steps(small):
    assert machine.images_per_second(config.load(env={}, **small), steps=1) > 0
