"""A training in a notebook's kernel: the stop button, a lost machine, and the same cell again."""

import os

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
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
                os.kill(os.getpid(), signal.{signal})
        run.validate()
"""


def start(folder, step=-1, signal="SIGINT"):
    """(the cell, what stopped it or None) of a loop that gets a signal in a step."""
    cell = new_code_cell(LOOP.format(step=step, signal=signal))
    quiet = ["--IPKernelApp.log_level=ERROR"]
    options = dict(kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client = NotebookClient(new_notebook(cells=[cell]), extra_arguments=quiet, **options)
    try:
        client.execute(env=os.environ | {"PYTHONPATH": str(ROOT)})
    except (CellExecutionError, DeadKernelError) as stopped:
        return cell, stopped
    return cell, None


def test_a_loop_goes_on_where_the_stop_button_left_it(tmp_path):
    cell, _ = start(tmp_path, step=1)
    [error] = [output for output in cell.outputs if output.output_type == "error"]
    assert len(error.traceback) == 1 and "stopped after step 2 of epoch 1" in error.traceback[0]
    goes_on(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_loop_goes_on_where_a_lost_machine_left_it(tmp_path):
    assert isinstance(start(tmp_path, step=9, signal="SIGKILL")[1], DeadKernelError)
    goes_on(tmp_path)


def goes_on(folder):
    cell, lost = start(folder)
    said = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    assert lost is None and "going on from epoch" in said and "epoch 2/2" in said
