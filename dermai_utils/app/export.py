"""The network as one file: model.pt2 by torch.export, model.onnx by torch.onnx.

    squares (N, 3, S, S) float32, RGB in 0..1 -> probabilities (N, 7) float32, calibrated

Inside are the normalisation (the network's first layer), the test-time augmentation, the mean over
the networks of folds, and the temperature. A square is what `augmentation.squares` makes of a
picture that `pixels.decode` brought to the stored size.
"""

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dermai_utils import files, pixels
from dermai_utils.app import state
from dermai_utils.augmentation import squares
from dermai_utils.basics import CLASSES, DISCLAIMER, UserError
from dermai_utils.inference import dihedral

TOLERANCE = 1e-4  # of a probability, between a file and the run's networks
CHECKED = 64  # images
ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")
SMALLEST = np.finfo(float).eps  # as in calibration.apply_temperature


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


def export(run, folder=None) -> list[Path]:
    """Write model.pt2 and model.onnx to `folder`, by default the run's; returns their paths.

    Each file is checked against the networks on this CPU, on noise of many scales. The ONNX file
    needs requirements-export.txt; without it there is none, and a line says so. UserError where a
    file gives other probabilities than the networks.

    >>> [path.name for path in export(run)]    # doctest: +SKIP
    ['model.pt2', 'model.onnx']
    """
    model = Calibrated(run.networks, state.load(run).about["temperature"], run.tta).eval()
    inputs = squares(_noise(run.size), run.size).contiguous()
    with torch.inference_mode():
        expected = model(inputs).numpy()
    about = {"classes": CLASSES, "temperature": model.temperature, "note": DISCLAIMER}
    about = {name: json.dumps(value) for name, value in about.items()}
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (inputs[:2],), dynamic_shapes=dynamic)
    path = Path(folder or run.folder) / "model.pt2"
    with files.atomic(path, "wb") as file:
        torch.export.save(program, file, extra_files=about)
    check(path, inputs, expected)
    if missing := [name for name in ONNX_NEEDS if importlib.util.find_spec(name) is None]:
        advice = "pip install -r requirements-export.txt, then export again"
        print(f"export: no ONNX file ({', '.join(missing)} not installed): {advice}")
        return [path]
    names = dict(input_names=["squares"], output_names=["probabilities"])
    onnx = torch.onnx.export(program, **names, verbose=False).model_proto
    for key, value in about.items():
        onnx.metadata_props.add(key=key, value=value)
    with files.atomic(path.with_suffix(".onnx"), "wb") as file:
        file.write(onnx.SerializeToString())
    check(path.with_suffix(".onnx"), inputs, expected)
    return [path, path.with_suffix(".onnx")]


def _noise(size) -> torch.Tensor:
    """(CHECKED, 3, H, W) uint8 at the stored size."""
    noise = torch.rand(CHECKED, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    noise = nn.functional.interpolate(noise, pixels.shape(size), mode="bicubic")
    return (255 * noise.clamp(0, 1)).byte()


def opened(path):
    """What is in a file: a function of a tensor (N, 3, S, S) that returns an array (N, 7)."""
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return lambda inputs: module(inputs).detach().numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {"squares": inputs.numpy()})[0]


def check(path, inputs, expected) -> None:
    """Compare what a file gives for one image, and for the others, with `expected` (N, 7).

    UserError where a probability differs by more than TOLERANCE; the file is deleted then.
    """
    run = opened(path)
    apart = np.abs(np.concatenate([run(inputs[:1]), run(inputs[1:])]) - expected).max()
    if not apart <= TOLERANCE:
        path.unlink()
        raise UserError(
            f"{path.name} differs from the run by {apart:.1e}, {TOLERANCE} is allowed: it was "
            "deleted; another version of torch or onnxscript may do better"
        )
    print(f"export: {path.name} agrees with the run to {apart:.1e} on {CHECKED} images")
