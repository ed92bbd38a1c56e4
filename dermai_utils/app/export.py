"""The network as one file: .pt2 by torch.export, and ONNX by torch.onnx.

    squares (N, 3, S, S) float32, RGB in 0..1 -> probabilities (N, 7) float32, calibrated

Inside are the normalisation (the network's first layer), the test-time augmentation, the mean over
the networks of folds, and the temperature. A square is what `augmentation.squares` makes of a
picture that `pixels.decode` brought to the stored size.
"""

import copy
import importlib.util
import io
import json

import numpy as np
import torch
from torch import nn

from dermai_utils import files, pixels
from dermai_utils.app import state
from dermai_utils.augmentation import squares
from dermai_utils.basics import CLASSES, DISCLAIMER, UserError
from dermai_utils.inference import dihedral
from dermai_utils.study.calibration import apply_temperature

TOLERANCE = 1e-4  # of a probability, between the file and the run's networks
CHECKED = 64  # images
ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")
SMALLEST = np.finfo(float).eps  # as calibration.apply_temperature


class Calibrated(nn.Module):
    """(N, 3, S, S) float32 in 0..1 -> (N, 7) float32 probabilities, for any N."""

    def __init__(self, networks, temperature: float, tta: int = 1):
        super().__init__()
        self.networks = nn.ModuleList(copy.deepcopy(net).cpu() for net in networks)
        self.networks.to(memory_format=torch.contiguous_format)
        self.temperature, self.tta = temperature, tta

    def forward(self, squares):
        probabilities = sum(self._one(net, squares) for net in self.networks) / len(self.networks)
        return (probabilities.clamp_min(SMALLEST).log() / self.temperature).softmax(dim=1)

    def _one(self, net, squares):
        return (sum(net(dihedral(squares, k)) for k in range(self.tta)) / self.tta).softmax(dim=1)


def export(run, dataset=None) -> list:
    """Write model.pt2, model.onnx and export.json (how well they agree) to the run's folder.

    dataset: its first validation images are what the files are checked on; without it noise of many
    scales. Returns the paths of the model files; the ONNX file only where its packages are
    installed. UserError where a file gives other probabilities than the run.

    >>> [path.name for path in export(run)]    # doctest: +SKIP
    ['model.onnx', 'model.pt2']
    """
    temperature = state.load(run).temperature
    whole = Calibrated(run.networks, temperature, run.tta).eval()
    images = _images(run, dataset)
    inputs = squares(torch.from_numpy(images).permute(0, 3, 1, 2), run.size)
    inputs = inputs.contiguous()
    with torch.inference_mode():
        expected = whole(inputs).numpy()
    report = {
        "input": ["N", *inputs.shape[1:]],
        "classes": CLASSES,
        "temperature": temperature,
        "tta": run.tta,
        "note": DISCLAIMER,
        "images": len(images),
        "run": difference(expected, apply_temperature(run.probabilities(images), temperature)),
    }
    paths = _write(run.folder, whole, inputs, expected, report)
    files.write_json(run.folder / "export.json", report)
    return paths


def _write(folder, whole, inputs, expected, report):
    """The file of every format, each checked; `report` gains how well each agrees."""
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(whole, (inputs[:2],), dynamic_shapes=dynamic)
    paths = {kind: folder / f"model.{kind}" for kind in kinds()}
    for kind, path in paths.items():
        to_bytes, opened = FORMATS[kind]
        with files.atomic(path, "wb") as file:
            file.write(to_bytes(program, report))
        report[kind] = agreement(path, opened, inputs, expected)
        largest = report[kind]["largest"]
        print(f"export: {path.name} agrees with the run to {largest:.1e} on {len(inputs)} images")
    return list(paths.values())


def kinds() -> list[str]:
    """The formats that can be made here; a line says why another one cannot."""
    missing = [name for name in ONNX_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"export: no ONNX file ({', '.join(missing)} not installed): "
            "pip install -r requirements-export.txt, then export again"
        )
    return [kind for kind in FORMATS if kind != "onnx" or not missing]


def _images(run, dataset) -> np.ndarray:
    """(N, H, W, 3) uint8 to compare on."""
    if dataset is not None:
        val = run.table.loc[run.table["subset"] == "val", "image"]
        return np.array(dataset.pixels[np.flatnonzero(dataset.table["image"].isin(val))[:CHECKED]])
    noise = torch.rand(CHECKED, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    noise = nn.functional.interpolate(noise, pixels.shape(run.size), mode="bicubic")
    return (255 * noise.clamp(0, 1)).byte().permute(0, 2, 3, 1).contiguous().numpy()


def _pt2_bytes(program, report) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"about.json": json.dumps(report)})
    return buffer.getvalue()


def _onnx_bytes(program, report) -> bytes:
    names = dict(input_names=["squares"], output_names=["probabilities"])
    onnx = torch.onnx.export(program, **names, verbose=False).model_proto
    onnx.metadata_props.add(key="note", value=report["note"])
    for key in ("classes", "temperature"):
        onnx.metadata_props.add(key=key, value=json.dumps(report[key]))
    return onnx.SerializeToString()


def _run_pt2(path):
    program = torch.export.load(path).module()
    return lambda inputs: program(inputs).detach().numpy()


def _run_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {"squares": inputs.numpy()})[0]


FORMATS = {"onnx": (_onnx_bytes, _run_onnx), "pt2": (_pt2_bytes, _run_pt2)}


def agreement(path, opened, inputs, expected) -> dict:
    """`difference` between a file and the run, for one image and for the others at once.

    UserError where it is above TOLERANCE; the file is deleted then.
    """
    run = opened(path)
    result = difference(np.concatenate([run(inputs[:1]), run(inputs[1:])]), expected)
    if not result["largest"] <= TOLERANCE:
        path.unlink()
        raise UserError(
            f"{path.name} differs from the run by {result['largest']:.1e}, {TOLERANCE} is allowed: "
            "it was deleted; another version of torch or onnxscript may do better"
        )
    return result


def difference(a, b) -> dict:
    """Of two (N, 7): the largest and the mean distance, and the share of rows of the same class."""
    distance = np.abs(a - b)
    same_class = float((a.argmax(1) == b.argmax(1)).mean())
    return {"largest": float(distance.max()), "mean": float(distance.mean())} | {
        "same_class": same_class
    }
