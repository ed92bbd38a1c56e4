"""The short form of `make faults`: ten kills. And what docs/faults.md says of the tests."""

import fnmatch
import os
import re
import subprocess
import sys

import pytest

from dermai_utils import pipeline
from dermai_utils.config import ROOT

PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_after_ten_kills_everything_is_as_in_an_undisturbed_run():
    command = [sys.executable, "tools/faults.py", "--kills", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("10 kills (") and all(
        f"{stage} " in last for stage in pipeline.order("gradcam")
    )


def test_every_test_that_is_named_exists():
    defined = {
        path.name: re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)
        for path in ROOT.glob("tests/**/test_*.py")
    }
    named = re.findall(r"`(?:(test_\w+\.py)?::)?(test_\w+\*?)`", PAGE)
    assert len(named) > 10
    for file, name in named:
        within = defined[file] if file else [test for tests in defined.values() for test in tests]
        assert fnmatch.filter(within, name), f"{file}::{name}"


def test_the_faults_are_counted():
    tables = PAGE.partition("## Bad input")[0]
    lines = len(re.findall(r"^\| (?!fault )", tables, re.M))
    assert f"**{lines} faults**" in PAGE
