"""`make colab`'s judgement: it must be able to say no. (That it says yes takes minutes: a workflow
asks every week.)"""

import importlib.util
import json
import re

import nbformat
import pytest

from dermai_utils.config import ROOT

SPEC = importlib.util.spec_from_file_location("alone", ROOT / "tools" / "colab.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def cell(printed):
    return nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", text=printed)])


BEFORE = {"numpy": "2.1.3"}
AFTER = BEFORE | {"captum": "0.9.0", tool.PACKAGE: "0.1.0"}
VERSION = "DermAI-ISIC2018 0.1.0, Python 3.13\n"
INSTALLING = "setup: installing captum>=0.7\n"


@pytest.mark.parametrize(
    "looks, again, complaint",
    [
        ((BEFORE, AFTER, AFTER), VERSION, ""),
        ((BEFORE, BEFORE, BEFORE), VERSION, "did not come from the setup cell"),
        ((AFTER, AFTER, AFTER), VERSION, "did not come from the setup cell"),
        (
            (BEFORE, AFTER | {"numpy": "2.2.0"}, AFTER | {"numpy": "2.2.0"}),
            VERSION,
            "changed numpy 2.1.3 -> 2.2.0",
        ),
        ((BEFORE, {}, {}), VERSION, "changed numpy 2.1.3 -> None"),
        ((BEFORE, AFTER, AFTER | {"more": "1"}), VERSION, "no no-op"),
        ((BEFORE, AFTER, AFTER), INSTALLING + VERSION, "no no-op"),
    ],
)
def test_a_setup_cell_that_changes_what_is_there_or_works_twice_is_found(looks, again, complaint):
    look = [cell(json.dumps(found)) for found in looks]
    wrong, installed = tool.judge(cell(INSTALLING + VERSION), cell(again), look)
    assert complaint in " ".join(wrong) and bool(wrong) == bool(complaint)
    assert installed == sorted(set(looks[1]) - set(looks[0]))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_every_notebook_can_be_given_an_address_and_keeps_its_other_cells(path):
    old = nbformat.read(path, as_version=4)
    notebook, setup, again, look, before = tool.prepared(path, "git+file:///x.git@v1")
    assert '--no-deps git+file:///x.git@v1"' in setup.source and setup.source == again.source
    assert all(any(cell is c for c in notebook.cells) for cell in (*look, setup, again))
    added = [c for c in notebook.cells if c not in old.cells]
    assert len(added) == 5 and len(notebook.cells) == len(old.cells) + 4
    assert before and all(text or results for _, (text, results) in before)


def test_colabs_versions_are_exact():
    lines = [
        line
        for line in (ROOT / "requirements-colab.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert lines and all(re.fullmatch(r"[a-z_-]+==\d+(\.\d+)+", line) for line in lines)
