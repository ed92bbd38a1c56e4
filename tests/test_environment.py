"""What the setup cell does: install what is missing, and leave alone what is there."""

import subprocess

import numpy
import pytest
import torch

from dermai_utils import config, environment

CONFLICT = """ERROR: Cannot install captum==0.9.0 and torch==9.9 because these package versions have conflicting dependencies.
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/
"""


@pytest.fixture
def pip(monkeypatch):
    """A stand-in for pip that never installs: `calls` has (command, its constraints); `answer` is (exit status, stderr)."""

    class Pip:
        calls, answer = [], (0, "")

    def run(command, **_):
        constraints = open(command[command.index("--constraint") + 1]).read().splitlines()
        Pip.calls.append((command, constraints))
        return subprocess.CompletedProcess(command, Pip.answer[0], "", Pip.answer[1])

    monkeypatch.setattr(environment.subprocess, "run", run)
    return Pip


def test_where_nothing_is_missing_pip_is_not_called(pip):
    assert environment.install_missing() == [] and pip.calls == []


def test_only_what_is_missing_is_installed_and_what_is_there_is_pinned(pip, monkeypatch):
    monkeypatch.setattr(environment, "requirements", lambda: ["torch>=2.4", "not-there>=1", "pillow>=10"])
    assert environment.install_missing() == ["not-there>=1"]
    [(command, constraints)] = pip.calls
    assert "not-there>=1" in command and not {"torch>=2.4", "pillow>=10", "--upgrade"} & set(command)
    pinned = dict(line.split("==") for line in constraints)
    assert pinned["numpy"] == numpy.__version__ and pinned["torch"].split("+")[0] == torch.__version__.split("+")[0]


@pytest.mark.parametrize(
    "stderr, told", [(CONFLICT, "Cannot install captum==0.9.0 and torch==9.9"), ("", "?"), ("no\nspace", "space")]
)
def test_a_failing_pip_is_one_line_with_its_reason(pip, monkeypatch, stderr, told):
    monkeypatch.setattr(environment, "requirements", lambda: ["not-there>=1"])
    pip.answer = (1, stderr)
    with pytest.raises(config.UserError) as error:
        environment.install_missing()
    assert told in str(error.value) and "not-there" in str(error.value) and "\n" not in str(error.value)
