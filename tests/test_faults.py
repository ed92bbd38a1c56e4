"""The short form of `make faults`: ten kills."""

import os
import subprocess
import sys

import pytest

from dermai_utils import pipeline
from dermai_utils.config import ROOT


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_after_ten_kills_everything_is_as_in_an_undisturbed_run():
    command = [sys.executable, "tools/faults.py", "--kills", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("10 kills (") and all(f"{stage} " in last for stage in pipeline.STAGES)
