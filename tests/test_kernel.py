"""A training in a notebook's kernel: the stop button, and the same cell again."""

import contextlib
import os

import colab
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from dermai_utils.settings import ROOT

LOOP = """
import os, signal
import dermai_utils as dermai
ds = dermai.load("sample", size=32, cache="cache")
net = dermai.network("timm:test_resnet", weights="none", size=32)
options = dict(epochs=2, batch_size=32, device="cpu")
with dermai.Training("run", ds, dermai.split(ds.table), net, **options) as run:
    for epoch in run.epochs():
        for images, labels in run.batches():
            run.step(run.loss(run.net(images), labels))
            if run.batches_done == {step}:
                os.kill(os.getpid(), signal.SIGINT)
        run.validate()
"""


def executed(folder, step=-1):
    """The cell of a loop that gets the stop button's signal in a step."""
    cell = new_code_cell(LOOP.format(step=step))
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with contextlib.suppress(CellExecutionError):
        colab.executed(new_notebook(cells=[cell]), folder, env)
    return cell


def test_a_loop_goes_on_where_the_stop_button_left_it(tmp_path):
    cell = executed(tmp_path, step=1)
    [error] = [output for output in cell.outputs if output.output_type == "error"]
    assert len(error.traceback) == 1 and "stopped after step 2 of epoch 1" in error.traceback[0]
    cell = executed(tmp_path)
    said = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    assert "going on from epoch" in said and "epoch 2/2" in said
