import io
import sys

import pytest

from dermai_utils import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class OutStream(io.StringIO):
    """What standard error is in a notebook's kernel: no terminal, and yet shown as it moves."""

    __module__ = "ipykernel.iostream"


def shown(stream, monkeypatch, seconds):
    monkeypatch.setattr(progress, "SECONDS", seconds)
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in progress.bar(range(3), "train", unit="image", mininterval=0, leave=False, delay=0):
        pass
    return stream.getvalue()


def test_a_file_gets_a_line_now_and_then(monkeypatch):
    text = shown(io.StringIO(), monkeypatch, 0)
    assert "\r" not in text and text.endswith("\n")
    assert [line.split("|")[-1].split()[0] for line in text.splitlines()] == [
        *("0/3", "1/3", "2/3", "3/3", "3/3")
    ]


def test_what_takes_less_than_the_first_wait_writes_nothing_to_a_file(monkeypatch):
    assert shown(io.StringIO(), monkeypatch, 10) == ""


@pytest.mark.parametrize("stream", [Terminal, OutStream])
def test_a_terminal_and_a_notebook_see_it_move(monkeypatch, stream):
    text = shown(stream(), monkeypatch, 10)
    assert text.count("\r") >= 4 and "3/3" in text
