"""What setup() installs: what is missing; what is there stays as it is."""

import subprocess

import numpy
import pytest
import torch

from dermai_utils import config, environment

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

    monkeypatch.setattr(environment.subprocess, "run", run)
    return Pip


def test_where_nothing_is_missing_pip_is_not_called(pip):
    assert environment.install_missing() == [] and pip.calls == []


def test_only_what_is_missing_is_installed_and_what_is_there_is_pinned(pip, monkeypatch):
    lines = ["torch>=2.4", "not-there>=1", "pillow>=10"]
    monkeypatch.setattr(environment, "requirements", lambda: lines)
    assert environment.install_missing() == ["not-there>=1"]
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
def test_a_failing_pip_is_one_line_with_its_reason(pip, monkeypatch, stderr, reason):
    monkeypatch.setattr(environment, "requirements", lambda: ["not-there>=1"])
    pip.answer = (1, stderr)
    with pytest.raises(config.UserError) as error:
        environment.install_missing()
    message = str(error.value)
    assert reason in message and "not-there" in message and "\n" not in message
