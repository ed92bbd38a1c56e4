import dataclasses
import shutil

import cv2
import numpy as np
import pytest
import torch

from dermai_utils import files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import pixels
from dermai_utils.predict import export, predictor
from dermai_utils.report import evaluate, summary
from dermai_utils.training import augment, checkpoint, inference, model


@pytest.mark.parametrize(
    "shape, size", [((225, 300), 224), ((150, 200), 128), ((75, 100), 64), ((60, 60), 60)]
)
def test_the_resize_inside_is_that_of_training(shape, size):
    """Against OpenCV's warp in float, with the maps of training: the only difference left is
    OpenCV's 1/32 pixel steps."""
    image = cv2.GaussianBlur(np.random.default_rng(0).random((*shape, 3), np.float32), (0, 0), 3)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(
        image,
        augment.geometry(1, shape, size)[0],
        (size, size),
        flags=flags,
        borderMode=cv2.BORDER_REFLECT,
    )
    net = model.build("timm:test_resnet", "none", size)
    whole = export.WithPreprocessing(net, shape, size, 1.0)
    found = (
        (whole.rows @ torch.from_numpy(image).permute(2, 0, 1) @ whole.columns)
        .permute(1, 2, 0)
        .numpy()
    )
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_the_whole_is_preprocessing_model_temperature():
    net = model.build("timm:test_resnet", "none", 64, seed=1).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, *pixels.shape(64), 3), np.uint8)
    whole = export.WithPreprocessing(net, pixels.shape(64), 64, 2.5, tta=2).eval()
    maps, plain = augment.geometry(3, pixels.shape(64), 64), torch.from_numpy(augment.colour(3))
    warped = augment.warp_on_device(
        torch.from_numpy(images), torch.from_numpy(maps), 64
    ).round()  # another way to resize
    batch = augment.paint_on_device(warped, torch.ones(3), plain, net.mean, net.std)
    with torch.inference_mode():
        logits = (net(batch) + net(inference.dihedral(batch, 1))) / 2
        expected = (logits / 2.5).softmax(1).numpy()
        np.testing.assert_allclose(whole(torch.from_numpy(images)).numpy(), expected, atol=1e-5)


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(made.work, folder / "work")
    cfg = dataclasses.replace(made, work_dir=str(folder / "work"))
    return cfg, export.command(predictor.Predictor(cfg))


def test_each_file_gives_what_the_model_gives_for_any_number_of_images(exported):
    cfg, paths = exported
    found = files.read_json(cfg.report_dir / "export.json")
    shape = pixels.shape(cfg.image_size)
    whole = export.with_preprocessing(cfg, found["temperature"], 1)
    for path in paths:
        run = export.FORMATS[path.suffix[1:]][1](path)
        for n in (1, 5):
            images = np.random.default_rng(n).integers(0, 256, (n, *shape, 3), np.uint8)
            with torch.inference_mode():
                expected = whole(torch.from_numpy(images)).numpy()
            given = run(images)
            assert given.shape == (n, len(CLASSES)) and given.dtype == np.float32
            np.testing.assert_allclose(given, expected, atol=1e-4)
        assert found[path.suffix[1:]]["largest"] <= 1e-4
    # a sanity check alone: it is measured and told, not promised
    assert found["preprocessing"]["largest"] < 0.2


def test_the_onnx_file_says_what_its_outputs_are(exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    session = onnxruntime.InferenceSession(
        exported[0].report_dir / "model.onnx", providers=["CPUExecutionProvider"]
    )
    about = session.get_modelmeta().custom_metadata_map
    assert '"MEL", "NV", "BCC"' in about["classes"] and "Not a medical device" in about["note"]
    assert session.get_inputs()[0].shape[1:] == [*pixels.shape(exported[0].image_size), 3]
    assert isinstance(session.get_inputs()[0].shape[0], str)  # any number of images


@pytest.mark.parametrize("change", ["another network", "another tta"])
def test_an_export_stays_while_its_model_is_evaluated_and_no_longer(
    exported, tmp_path, monkeypatch, capsys, change
):
    monkeypatch.setattr(summary, "RESAMPLES", 100)
    shutil.copytree(exported[0].work, tmp_path / "work")
    cfg = dataclasses.replace(exported[0], work_dir=str(tmp_path / "work"))
    names = {path.name for path in exported[1]} | {"export.json"}
    evaluate.run(cfg)
    assert names <= {path.name for path in cfg.report_dir.iterdir()}
    if change == "another network":
        path = cfg.run_dir / "best.pt"
        state = checkpoint.load(path)
        checkpoint.save(path, state | {"about": state["about"] | {"trained": "again"}})
    else:
        cfg = dataclasses.replace(cfg, tta=2)
    capsys.readouterr()
    evaluate.run(cfg)
    assert not names & {path.name for path in cfg.report_dir.iterdir()}
    assert "model.pt2, export.json of an earlier model removed" in capsys.readouterr().out
    assert "model.pt2" not in (cfg.work / "index.html").read_text(encoding="utf-8")


def test_a_file_that_disagrees_is_refused_and_removed(tmp_path):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"x")
    expected = np.full((3, 7), 1 / 7)
    with pytest.raises(UserError, match="differs from the model by 2.0e-04"):
        export.agreement(
            path,
            lambda path: lambda images: expected[: len(images)] + 2e-4,
            np.zeros((3, 2, 2, 3)),
            expected,
        )
    assert not path.exists()


def test_without_onnx_there_is_a_line_that_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert export.kinds() == ["pt2"]
    assert "requirements-export.txt" in capsys.readouterr().out
