"""`make gpu`: it runs on a CPU with --tiny, and goes on where it was stopped."""

import json
import subprocess
import sys

import bench
import pytest

from dermai_utils.settings import ROOT


def part(paths, folder):
    yield bench.ratio("faster", 2.0, 1.0)
    yield "fastai", None, "fastai is not installed"


def test_what_was_measured_is_not_measured_again_and_what_is_missing_is_not_measured(
    tmp_path, capsys
):
    target = tmp_path / "gpu.json"
    bench.measure({"one": part}, target, tmp_path, 1)
    assert "fastai: not measured (fastai is not installed)" in capsys.readouterr().out
    rows = json.loads(target.read_text())["parts"]["one"]
    assert [(row["figure"], row["detail"]) for row in rows][0] == (2, "2 / 1")
    parts = {"one": lambda *_: pytest.fail("measured again"), "two": part}
    bench.measure(parts, target, tmp_path, 1)
    assert list(json.loads(target.read_text())["parts"]) == ["one", "two"]


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    target = tmp_path / "gpu.json"
    command = [sys.executable, ROOT / "tools" / "gpu.py", "--tiny", "--json", target]
    subprocess.run(command, check=True)
    parts = json.loads(target.read_text())["parts"]
    assert list(parts) == ["input", "training", "memory", "resume", "lite2"]
    assert all(row["figure"] <= 0.02 for row in parts["resume"])
