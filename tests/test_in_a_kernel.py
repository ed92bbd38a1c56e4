"""Notebooks as a person runs them, in a kernel: stopped midway and run again, and with a photo of
their own."""

import os

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from dermai_utils.config import DISCLAIMER, ROOT
from dermai_utils.predict import pictures

STOP = """
import os, signal
from dermai_utils.training import loop
steps, plain = [], loop.Run.train_step
def step(*given):
    steps.append(0)
    if len(steps) == {step}:
        os.kill(os.getpid(), signal.{signal})
    return plain(*given)
loop.Run.train_step = step
"""


@pytest.fixture
def start(small, tmp_path, monkeypatch):
    """start(name, until) runs the code cells of a notebook up to one with `until` in it: (cells,
    what stopped them or None).

    `change` is (old, new) in the form; `before` is run before the last cell; `beside` are folders
    with more packages.
    """

    def run(name, until, change=("", ""), before="", beside=(), **settings):
        given = (
            small
            | {"data": "sample", "cache_dir": tmp_path / "cache", "work_dir": tmp_path / "work"}
            | settings
        )
        for field, value in given.items():
            monkeypatch.setenv(f"DERMAI_{field.upper()}", str(value))
        notebook = jupytext.read(ROOT / "notebooks" / f"{name}.py")
        where = {"metadata": {"path": str(tmp_path)}}
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *beside]))
        last = next(
            k
            for k, cell in enumerate(notebook.cells)
            if cell.cell_type == "code" and until in cell.source
        )
        cells = notebook.cells = [
            cell for cell in notebook.cells[: last + 1] if cell.cell_type == "code"
        ]
        form = next(cell for cell in cells if change[0] in cell.source)
        form.source = form.source.replace(*change)
        if before:
            cells.insert(-1, nbformat.v4.new_code_cell(before))
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            resources=where,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
        try:
            client.execute()
        except (CellExecutionError, DeadKernelError) as stopped:
            return cells, stopped
        return cells, None

    return run


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_run_all_goes_on_where_the_stop_button_or_a_lost_machine_left_it(start):
    train = 'ensure(cfg, "train")'
    cells, _ = start("00_run_all", train, before=STOP.format(step=2, signal="SIGINT"))
    [error] = [output for output in cells[-1].outputs if output.output_type == "error"]
    assert error.traceback == [
        "train: stopped after step 2 of epoch 1; run it again to go on from there"
    ]

    cells, lost = start("00_run_all", train, before=STOP.format(step=4, signal="SIGKILL"))
    assert "split: up to date" in printed(cells[-1]) and "going on from epoch 1, step 3" in printed(
        cells[-1]
    )
    assert isinstance(lost, DeadKernelError)  # in the second epoch; the first is kept

    cells, lost = start("00_run_all", train)
    assert (
        lost is None
        and "going on from epoch 2, step 1" in printed(cells[-1])
        and "epoch 2/2" in printed(cells[-1])
    )


@pytest.fixture
def uploads(made, tmp_path, monkeypatch):
    """A folder that the stand-in for google.colab uploads, with a picture and a text in it."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    (folder / "mine.jpg").write_bytes(pictures.example(made).read_bytes())
    (folder / "notes.txt").write_text("no picture")
    monkeypatch.setenv("STAND_IN_UPLOADS", str(folder))
    return folder


def test_an_uploaded_photo_gets_its_answer(start, made, uploads):
    given = dict(
        change=("upload = False", "upload = True"), beside=[str(ROOT / "tools" / "stand_in")]
    )
    cells, error = start(
        "07_predict", "config.DISCLAIMER", **given, cache_dir=made.cache_dir, work_dir=made.work_dir
    )
    assert error is None
    shown = next(cell for cell in cells if "model.figure" in cell.source)
    assert "left out: 1 (notes.txt: not an image)" in printed(shown)
    assert [list(output.data) for output in shown.outputs if "data" in output] == [
        ["text/plain", "image/jpeg"]
    ]
    assert printed(cells[-1]).startswith("mine.jpg: ") and DISCLAIMER in printed(cells[-1])
