import numpy as np
import photos
import pytest
import torch

from dermai_utils import inference, networks, runs
from dermai_utils.app import export, state
from dermai_utils.augmentation import squares
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.inference import dihedral
from dermai_utils.study import calibration


def test_the_whole_is_networks_mean_and_temperature():
    nets = [networks.network("timm:test_resnet", "none", 32, seed=k).eval() for k in range(2)]
    images = np.random.default_rng(0).integers(0, 256, (3, 75, 100, 3), np.uint8)
    inputs = squares(torch.from_numpy(images).permute(0, 3, 1, 2), 32)
    with torch.inference_mode():
        each = [((net(inputs) + net(dihedral(inputs, 1))) / 2).softmax(1) for net in nets]
        found = export.Calibrated(nets, 2.5, tta=2).eval()(inputs)
    expected = calibration.apply_temperature((sum(each) / 2).numpy(), 2.5)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    import shutil

    folder = tmp_path_factory.mktemp("exported") / "baseline"
    shutil.copytree(run.folder, folder)
    return export.export(runs.Run(folder, device="cpu"))


def test_the_files_give_what_the_run_answers_for_any_number_of_pictures(exported, run, data):
    assert "model.pt2" in [path.name for path in exported]
    fixed = state.load(run)
    for path in exported:
        opened = export.opened(path)
        for n in (1, 5):
            inputs = squares(inference.gather(data.pixels, np.arange(n), "cpu"), photos.SIZE)
            found = opened(inputs.contiguous())
            assert found.shape == (n, len(CLASSES)) and found.dtype == np.float32
            expected = fixed.calibrated(run.probabilities(data.pixels[:n]))
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


def test_a_file_that_disagrees_is_refused_and_removed(tmp_path):
    path, expected = tmp_path / "model.pt2", np.full((3, 7), 1 / 7)
    path.write_bytes(b"x")
    with pytest.raises(UserError, match="differs from the run by 2.0e-04"):
        other = lambda inputs: expected[: len(inputs)] + 2e-4  # noqa: E731
        export.agreement(path, other, np.zeros((3, 2)), expected)
    assert not path.exists()


def test_without_onnx_there_is_a_line_that_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert list(export.writers()) == ["pt2"]
    assert "requirements-export.txt" in capsys.readouterr().out
