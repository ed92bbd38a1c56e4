import shutil
from pathlib import Path

import numpy as np
import photos
import pytest
import torch

from dermai_utils import inference
from dermai_utils.app import export, state
from dermai_utils.augmentation import squares
from dermai_utils.basics import CLASSES, UserError


@pytest.fixture(scope="module")
def exported(folds, tmp_path_factory):
    return export.export(folds, tmp_path_factory.mktemp("exported"))


def test_the_files_give_what_the_run_answers_for_any_number_of_pictures(exported, folds, data):
    """Three networks and test-time augmentation, which turns the picture."""
    assert "model.pt2" in [path.name for path in exported] and folds.tta == 2
    for path in exported:
        opened = export.opened(path)
        for n in (1, 5):
            inputs = squares(inference.gather(data.pixels, np.arange(n), "cpu"), photos.SIZE)
            found = opened(inputs.contiguous())
            assert found.shape == (n, len(CLASSES)) and found.dtype == np.float32
            expected = state.load(folds).calibrated(folds.probabilities(data.pixels[:n]))
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_onnx_file_says_what_its_outputs_are(exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = next(path for path in exported if path.suffix == ".onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert '"MEL", "NV", "BCC"' in about["classes"] and "Not a medical device" in about["note"]
    assert session.get_inputs()[0].shape[1:] == [3, photos.SIZE, photos.SIZE]
    assert isinstance(session.get_inputs()[0].shape[0], str)  # any number of images


def test_a_file_that_disagrees_is_refused_and_removed(exported, tmp_path):
    path = Path(shutil.copy(exported[0], tmp_path))
    inputs = torch.rand(3, 3, photos.SIZE, photos.SIZE)
    with pytest.raises(UserError, match="differs from the run by 2.0e-0"):
        export.check(path, inputs, export.opened(path)(inputs) + 2e-3)
    assert not path.exists()


def test_without_onnx_there_is_a_line_that_says_what_to_install(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "ONNX_NEEDS", ("no_such_module",))
    assert [path.name for path in export.export(run, tmp_path)] == ["model.pt2"]
    assert "requirements-export.txt" in capsys.readouterr().out
