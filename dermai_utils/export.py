"""The model as one file with its preprocessing inside: stored pixels in, calibrated probabilities out. .pt2, and ONNX.

    images (N, H, W, 3) uint8, the stored size (pixels.shape)  ->  probabilities (N, 7) float32, in the order of CLASSES

Inside: the central square, its bilinear resize, normalisation, the network on as many views as the evaluation took, the
temperature. A picture comes to the stored size as pixels.decode brings it there: whole, its aspect ratio kept, edges repeated.
"""

import importlib.util
import io
import json

import numpy as np
import torch
from torch import nn

from dermai_utils import augment, files, model, pixels, predict, split, train
from dermai_utils.config import CLASSES, DISCLAIMER, UserError

TOLERANCE = 1e-4  # of a probability, between the file and the model
CHECKED = 64  # images
ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")


class WithPreprocessing(nn.Module):
    """(N, H, W, 3) uint8 -> (N, 7) float32 probabilities, for any N."""

    def __init__(self, net: nn.Module, shape: tuple[int, int], size: int, temperature: float, views: int = 1):
        super().__init__()
        self.net, self.temperature, self.views = net, temperature, views
        (scale, _, left), (_, _, top) = augment.geometry(1, shape, size)[0].tolist()
        self.register_buffer("rows", interpolation(size, shape[0], scale, top))
        self.register_buffer("columns", interpolation(size, shape[1], scale, left).T.contiguous())
        self.register_buffer("mean", 255 * torch.tensor(net.mean)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(net.std)[:, None, None])

    def forward(self, images):
        square = self.rows @ images.permute(0, 3, 1, 2).float() @ self.columns  # (N, 3, size, size), 0..255
        square = (square.round() - self.mean) / self.std  # whole, as OpenCV's warp leaves them: a net may hang on that
        logits = sum(self.net(model.turned(square, view)) for view in range(self.views)) / self.views
        return (logits / self.temperature).softmax(dim=1)


def interpolation(size: int, length: int, scale: float, start: float) -> torch.Tensor:
    """(size, length) float32: row k has the bilinear weights of place `start + k * scale` among `length` pixels.

    Upright resizing is a product with one such matrix a side: the same in every runtime, where grid_sample and resize differ.
    """
    places = (start + scale * torch.arange(size, dtype=torch.float64))[:, None]
    return (1 - (places.clamp(0, length - 1) - torch.arange(length)).abs()).clamp_min(0).float()


def command(cfg) -> list:
    """Write model.onnx, model.pt2 and export.json (how well they agree) to the run's report folder; returns their paths.

    The ONNX file only where what it needs is installed. UserError where a file doesn't give what the model gives.
    """
    predictor = predict.Predictor(cfg)
    whole = with_preprocessing(cfg, predictor.kept.temperature, predictor.kept.views)
    images = some_images(cfg)
    with torch.inference_mode():
        expected = whole(torch.from_numpy(images)).numpy()
    trained = np.stack([answer.probabilities for answer in predictor([""] * len(images), images, maps=False)])
    found = {"input": ["N", *images.shape[1:]], "classes": CLASSES, "temperature": predictor.kept.temperature,
             "note": DISCLAIMER, "images": len(images), "preprocessing": difference(expected, trained)}  # fmt: skip
    program = torch.export.export(whole, (torch.from_numpy(images[:2]),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    made = {kind: cfg.report_dir / f"model.{kind}" for kind in kinds()}
    for kind, path in made.items():
        save, opened = FORMATS[kind]
        with files.atomic(path, "wb") as file:
            file.write(save(program, found))
        found[kind] = agreement(path, opened, images, expected)
        print(f"export: {path.name} agrees with the model to {found[kind]['largest']:.1e} on {len(images)} images")
    files.write_json(cfg.report_dir / "export.json", found)
    apart = found["preprocessing"]
    print(f"export: its resize and training's give probabilities {apart['largest']:.1e} apart at most, {apart['mean']:.1e} on "
          f"average; {apart['same_class']:.1%} of the images get the same class")  # fmt: skip
    return list(made.values())


def kinds() -> list[str]:
    """The formats that can be made here; why not the others is said."""
    missing = [name for name in ONNX_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"export: no ONNX file ({', '.join(missing)} not installed): pip install -r requirements-export.txt, and again")
    return [kind for kind in FORMATS if kind != "onnx" or not missing]


def with_preprocessing(cfg, temperature: float, views: int) -> WithPreprocessing:
    """The run's best checkpoint on the CPU, ready to be exported; UserError for an ensemble."""
    if len(cfg.member_dirs) > 1:
        raise UserError(
            f"run {cfg.run_name} is a mean of several: export its runs one by one, --run-name {cfg.member_dirs[0].name}"
        )
    net = train.load_best(cfg)[0].to(memory_format=torch.contiguous_format)
    return WithPreprocessing(net, pixels.shape(cfg.image_size), cfg.image_size, temperature, views).eval()


def some_images(cfg) -> np.ndarray:
    """(N, H, W, 3) uint8 to compare on: validation images, or noise of many scales where the images aren't here."""
    if cfg.pixels_file.exists() and cfg.split_file.exists():
        table = split.read(cfg)
        rows = table.loc[table["part"] == "val", "row"].head(CHECKED).to_numpy()
        return np.array(pixels.load(cfg.pixels_file)[rows])
    noise = torch.rand(CHECKED, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    noise = nn.functional.interpolate(noise, pixels.shape(cfg.image_size), mode="bicubic").clamp(0, 1)
    return (255 * noise).byte().permute(0, 2, 3, 1).contiguous().numpy()


def pt2_bytes(program, about) -> bytes:
    """The exported program as torch.export saves it."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"about.json": json.dumps(about)})
    return buffer.getvalue()


def onnx_bytes(program, about) -> bytes:
    """The exported program as an ONNX file that says what its outputs are."""
    made = torch.onnx.export(program, input_names=["images"], output_names=["probabilities"], verbose=False).model_proto
    for key in ("classes", "temperature", "note"):
        made.metadata_props.add(key=key, value=about[key] if key == "note" else json.dumps(about[key]))
    return made.SerializeToString()


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
    """`difference` of the file from the model, asked for one image and for the others at once; UserError over TOLERANCE."""
    run = opened(path)
    found = difference(np.concatenate([run(images[:1]), run(images[1:])]), expected)
    if not found["largest"] <= TOLERANCE:
        path.unlink()
        raise UserError(f"{path.name} differs from the model by {found['largest']:.1e}, allowed is {TOLERANCE}: it was "
                        "deleted; another version of torch or onnxscript may do better")  # fmt: skip
    return found


def difference(a, b) -> dict:
    """Of two (N, 7) of probabilities: the largest and the mean distance, and the share of rows with the same class."""
    distance = np.abs(a - b)
    return {"largest": float(distance.max()), "mean": float(distance.mean()),
            "same_class": float((a.argmax(1) == b.argmax(1)).mean())}  # fmt: skip
