"""A network's logits and features for an array of pictures; the device and its precision."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from dermai_utils import progress
from dermai_utils.augmentation import squares
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.networks import evaluating, head

RESIDENT_SHARE = 0.5  # of the GPU's free memory; the rest is for weights and activations
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def device(name: str = "auto") -> torch.device:
    """auto, cpu, cuda or mps as a device; auto is the fastest one here. UserError without it."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda: no CUDA GPU is visible; on Colab choose Runtime > Change runtime type > "
            "T4, or give device=cpu"
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps: no Apple GPU is visible; give device=auto or cpu")
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def precision(device, wanted: str = "auto") -> str:
    """fp32, fp16 or bf16: by default what the hardware is fast at, not all that it offers."""
    kind = torch.device(device).type
    if kind == "cpu" and wanted == "fp16":  # a CPU has no loss scaling for it
        return "fp32"
    if wanted != "auto":
        return wanted
    if kind == "cuda":
        generation = torch.cuda.get_device_capability()[0]
        return "bf16" if generation >= 8 else "fp16" if generation == 7 else "fp32"
    amx = kind == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    return "bf16" if amx else "fp32"


def autocast(device, precision: str = "fp32"):
    """A context in which a network computes in that precision."""
    if precision not in DTYPES:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, DTYPES[precision])


@torch.inference_mode()
def predict(
    net, pixels, size=None, *, rows=None, tta=1, batch=64, precision="fp32", with_features=False
):
    """(N, 7) float32 logits of N pictures; with_features: also the head's (N, D) inputs.

    net: a network of seven outputs, which computes where its weights are. pixels: (N, H, W, 3)
    uint8, perhaps a memory map; rows: of these rows alone, in their order. size: the side in px of
    the central squares that the network gets, by default net.about's. tta: the logits are the mean
    over so many flips and quarter turns of each picture (1, 2, 4 or 8).

    >>> from dermai_utils import network
    >>> net = network("timm:test_resnet", weights="none", size=32)
    >>> predict(net, np.zeros((5, 75, 100, 3), np.uint8)).shape
    (5, 7)
    """
    size = size or getattr(net, "about", {}).get("size")
    if size is None:
        raise UserError("predict: give size, the side in px of the squares that the network gets")
    where, features, logits = next(net.parameters()).device, [], []
    rows = np.arange(len(pixels)) if rows is None else np.asarray(rows)
    chunks = [rows[k : k + batch] for k in range(0, len(rows), batch)]
    keep = head(net).register_forward_pre_hook(lambda _, args: features.append(args[0]))
    with keep, evaluating(net):  # a handle removes its hook at the end of the block
        gathered = ahead(lambda chunk: gather(pixels, chunk, where), chunks, where)
        bar = progress.bar(gathered, "predict", len(chunks), unit="batch", delay=2, leave=False)
        for number, images in enumerate(bar, 1):
            images = squares(images, size)
            with autocast(where, precision):
                logits.append(sum(net(dihedral(images, k)).float() for k in range(tta)) / tta)
            del features[number if with_features else 0 :]  # those of the picture as it is stay
    logits = torch.cat(logits).cpu().numpy() if logits else np.zeros((0, len(CLASSES)), np.float32)
    if not with_features:
        return logits
    pooled = [f.float().flatten(2).mean(2) if f.ndim == 4 else f.float() for f in features]
    return logits, torch.cat(pooled).cpu().numpy()


def dihedral(images: torch.Tensor, k: int) -> torch.Tensor:
    """One of the eight flips and quarter turns of square images (B, 3, S, S); 0: as they are."""
    order = (0, 2, 4, 6, 1, 3, 5, 7)[k]  # the first two: a half turn; the first four: mirrored too
    images = images.flip(3) if order >= 4 else images
    return images.rot90(order % 4, (2, 3)) if order % 4 else images


def softmax(logits) -> np.ndarray:
    """(N, 7) logits -> float64 probabilities that sum to 1."""
    return torch.as_tensor(logits).double().softmax(dim=1).numpy()


# How pictures come to the device.


def place(pixels, device):
    """The pixel array as a tensor on the GPU where it fits in half of the free memory, else as it
    is."""
    if torch.device(device).type != "cuda":
        return pixels
    free = torch.cuda.mem_get_info()[0]
    if pixels.nbytes > RESIDENT_SHARE * free:
        print(f"images stay on disk: {pixels.nbytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
        return pixels
    resident = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for k in range(0, len(pixels), 1024):  # in pieces: the array may be larger than the memory
        resident[k : k + 1024] = torch.from_numpy(pixels[k : k + 1024].copy())
    return resident


def gather(pixels, rows, device) -> torch.Tensor:
    """(B, 3, H, W) uint8 on the device: these rows of an array, or of a tensor that lies there."""
    if isinstance(pixels, torch.Tensor):
        return pixels[torch.as_tensor(rows, device=pixels.device)].permute(0, 3, 1, 2)
    images = torch.from_numpy(np.ascontiguousarray(pixels[rows])).permute(0, 3, 1, 2)
    if torch.device(device).type == "cuda":  # pinned, so that the copy runs beside the step
        return images.pin_memory().to(device, non_blocking=True)
    return images.to(device)


def ahead(function, items, device):
    """function(item) for each item, the next one computed while the device works on this one."""
    if torch.device(device).type == "cpu":  # the cores are busy with the step itself
        yield from map(function, items)
        return
    with ThreadPoolExecutor(1) as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == 2:
                yield waiting.pop(0).result()
        for last in waiting:
            yield last.result()
