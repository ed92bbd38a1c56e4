"""The model as one file with its preprocessing inside (.pt2, and ONNX).

    images (N, H, W, 3) uint8, the stored size (pixels.shape) -> probabilities (N, 7) float32

Inside: the central square, its bilinear resize, normalisation, the network with the test-time
augmentation of the evaluation, the temperature. A picture comes to the stored size as pixels.decode
brings it there: whole, its aspect ratio kept, edges repeated.
"""

import importlib.util
import io
import json

import numpy as np
import torch
from torch import nn

from dermai_utils import files
from dermai_utils.config import CLASSES, DISCLAIMER, UserError
from dermai_utils.data import pixels, split
from dermai_utils.training import augment
from dermai_utils.training.checkpoint import load_network
from dermai_utils.training.inference import dihedral

TOLERANCE = 1e-4  # of a probability, between the file and the model
CHECKED = 64  # images
ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")


class WithPreprocessing(nn.Module):
    """(N, H, W, 3) uint8 -> (N, 7) float32 probabilities, for any N."""

    def __init__(
        self, network, shape: tuple[int, int], size: int, temperature: float, tta: int = 1
    ):
        super().__init__()
        self.network, self.temperature, self.tta = network, temperature, tta
        (scale, _, left), (_, _, top) = augment.geometry(1, shape, size)[0].tolist()
        self.register_buffer("rows", interpolation(size, shape[0], scale, top))
        self.register_buffer("columns", interpolation(size, shape[1], scale, left).T.contiguous())
        self.register_buffer("mean", 255 * torch.tensor(network.mean)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(network.std)[:, None, None])

    def forward(self, images):
        # (N, 3, S, S), 0..255
        square = self.rows @ images.permute(0, 3, 1, 2).float() @ self.columns
        # Whole numbers, as OpenCV's warp leaves them: a network may depend on that.
        square = (square.round() - self.mean) / self.std
        logits = sum(self.network(dihedral(square, k)) for k in range(self.tta)) / self.tta
        return (logits / self.temperature).softmax(dim=1)


def interpolation(size: int, length: int, scale: float, start: float) -> torch.Tensor:
    """(size, length) float32: row k has the bilinear weights of place `start + k * scale`.

    Upright resizing is a product with one such matrix a side: the same in every runtime, where
    grid_sample and resize differ.
    """
    places = (start + scale * torch.arange(size, dtype=torch.float64))[:, None]
    return (1 - (places.clamp(0, length - 1) - torch.arange(length)).abs()).clamp_min(0).float()


def command(predictor) -> list:
    """Write model.onnx, model.pt2 and export.json (how well they agree) to the run's report folder;
    returns their paths.

    The ONNX file only where what it needs is installed. UserError where a file doesn't give what
    the model gives.
    """
    cfg, temperature = predictor.cfg, predictor.state.temperature
    whole = with_preprocessing(cfg, temperature, predictor.state.tta)
    images = test_images(cfg)
    with torch.inference_mode():
        expected = whole(torch.from_numpy(images)).numpy()
    answers = predictor([""] * len(images), images, maps=False)
    resize = difference(expected, np.stack([answer.probabilities for answer in answers]))
    report = {
        "input": ["N", *images.shape[1:]],
        "classes": CLASSES,
        "temperature": temperature,
        "checkpoints": predictor.state.checkpoints,  # this and `tta` tell evaluate.run whose it is
        "tta": predictor.state.tta,
        "note": DISCLAIMER,
        "images": len(images),
        "preprocessing": resize,
    }
    paths = _write(cfg, whole, images, expected, report)
    files.write_json(cfg.report_dir / "export.json", report)
    print(
        f"export: its resize and training's give probabilities {resize['largest']:.1e} apart at "
        f"most, {resize['mean']:.1e} on average; {resize['same_class']:.1%} of the images get the "
        "same class"
    )
    return paths


def _write(cfg, whole, images, expected, report):
    """The files of every format, each checked; `report` gains how well each agrees."""
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(whole, (torch.from_numpy(images[:2]),), dynamic_shapes=dynamic)
    paths = {kind: cfg.report_dir / f"model.{kind}" for kind in kinds()}
    for kind, path in paths.items():
        to_bytes, opened = FORMATS[kind]
        with files.atomic(path, "wb") as file:
            file.write(to_bytes(program, report))
        report[kind] = agreement(path, opened, images, expected)
        largest = report[kind]["largest"]
        print(f"export: {path.name} agrees with the model to {largest:.1e} on {len(images)} images")
    return list(paths.values())


def kinds() -> list[str]:
    """The formats that can be made here; why not the others is said."""
    missing = [name for name in ONNX_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"export: no ONNX file ({', '.join(missing)} not installed): "
            "pip install -r requirements-export.txt, and again"
        )
    return [kind for kind in FORMATS if kind != "onnx" or not missing]


def with_preprocessing(cfg, temperature: float, tta: int) -> WithPreprocessing:
    """The run's best checkpoint on the CPU, ready to be exported; UserError for an ensemble."""
    if len(cfg.member_dirs) > 1:
        raise UserError(
            f"run {cfg.run_name} is a mean of several: export its runs one by one, "
            f"--run-name {cfg.member_dirs[0].name}"
        )
    network = load_network(cfg, cfg.run_dir).to(memory_format=torch.contiguous_format)
    shape = pixels.shape(cfg.image_size)
    return WithPreprocessing(network, shape, cfg.image_size, temperature, tta).eval()


def test_images(cfg) -> np.ndarray:
    """(N, H, W, 3) uint8 to compare on: validation images, or where they aren't here noise of many
    scales."""
    if cfg.pixels_file.exists() and cfg.split_file.exists():
        table = split.read(cfg)
        rows = table.loc[table["subset"] == "val", "row"].head(CHECKED).to_numpy()
        return np.array(pixels.load(cfg.pixels_file)[rows])
    noise = torch.rand(CHECKED, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    noise = nn.functional.interpolate(noise, pixels.shape(cfg.image_size), mode="bicubic")
    return (255 * noise.clamp(0, 1)).byte().permute(0, 2, 3, 1).contiguous().numpy()


def pt2_bytes(program, report) -> bytes:
    """The exported program as torch.export saves it."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"about.json": json.dumps(report)})
    return buffer.getvalue()


def onnx_bytes(program, report) -> bytes:
    """The exported program as an ONNX file that says what its outputs are."""
    names = dict(input_names=["images"], output_names=["probabilities"])
    onnx = torch.onnx.export(program, **names, verbose=False).model_proto
    onnx.metadata_props.add(key="note", value=report["note"])
    for key in ("classes", "temperature"):
        onnx.metadata_props.add(key=key, value=json.dumps(report[key]))
    return onnx.SerializeToString()


def run_pt2(path):
    """images -> probabilities, by torch.export."""
    program = torch.export.load(path).module()
    return lambda images: program(torch.from_numpy(images)).detach().numpy()


def run_onnx(path):
    """images -> probabilities, by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


FORMATS = {"onnx": (onnx_bytes, run_onnx), "pt2": (pt2_bytes, run_pt2)}


def agreement(path, opened, images, expected) -> dict:
    """`difference` of the file from the model, for one image and for the others at once.

    Over TOLERANCE the file is deleted: UserError.
    """
    run = opened(path)
    result = difference(np.concatenate([run(images[:1]), run(images[1:])]), expected)
    if not result["largest"] <= TOLERANCE:
        path.unlink()
        raise UserError(
            f"{path.name} differs from the model by {result['largest']:.1e}, allowed is "
            f"{TOLERANCE}: it was deleted; another version of torch or onnxscript may do better"
        )
    return result


def difference(a, b) -> dict:
    """Of two (N, 7): the largest and the mean distance, and the share of rows of the same class."""
    distance = np.abs(a - b)
    return {
        "largest": float(distance.max()),
        "mean": float(distance.mean()),
        "same_class": float((a.argmax(1) == b.argmax(1)).mean()),
    }
