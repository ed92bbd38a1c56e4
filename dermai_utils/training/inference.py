"""A run opened once: its networks on the device, with precision and images; logits and features.

Training, evaluation, Grad-CAM and your own photo all get their device from `start` and their
predictions from `predict`; `LoadedRun` holds what the last three need.
"""

import contextlib
import ctypes
import os

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from dermai_utils import progress
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import pixels
from dermai_utils.training import model
from dermai_utils.training.augment import Batches
from dermai_utils.training.checkpoint import load_network

RESIDENT_SHARE = 0.5  # of the GPU's free memory; the rest is for weights and activations


def choose_precision(device: str, wanted: str = "auto") -> tuple[str, str]:
    """(precision, the reason), by what the hardware is fast at, not by what it offers."""
    if wanted == "fp16" and device == "cpu":
        return "fp32", "fp16 was asked for, but a CPU has no loss scaling for it"
    if wanted != "auto":
        return wanted, "as asked"
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        if major >= 8:
            return "bf16", f"compute capability {major}.{minor} is fast at it"
        if major == 7:
            return "fp16", f"compute capability {major}.{minor} has no fast bf16"
        return "fp32", "an older GPU"
    if device == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        return "bf16", "this CPU has AMX"
    return "fp32", "this CPU has no fast bf16" if device == "cpu" else "the safe choice here"


def quiet(text):
    """For `say`, where an earlier stage has said it already."""


def start(cfg, say=print, **options) -> Accelerator:
    """accelerate's handle on the device(s), with the precision chosen and announced; `options` are
    its own."""
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda: no CUDA GPU is visible; on Colab choose Runtime > Change runtime type > "
            "T4, or device=cpu"
        )
    if cfg.device == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps: no Apple GPU is visible; give device=auto or cpu")
    if "RANK" not in os.environ:
        # A notebook may come back with another precision, which accelerate would refuse.
        AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = cfg.device == "cpu"
    kind = PartialState(cpu=on_cpu).device.type
    precision, reason = choose_precision(kind, cfg.precision)
    options |= {"mixed_precision": {"fp32": "no"}.get(precision, precision)}
    accelerator = Accelerator(cpu=on_cpu, **options)
    if kind == "cpu":
        _keep_memory()
    n = accelerator.num_processes
    if accelerator.is_main_process:
        together = f", {n} processes" if n > 1 else ""
        name = torch.cuda.get_device_name() if kind == "cuda" else kind
        say(f"train: {name}{together}, {precision} ({reason})")
    return accelerator


def _keep_memory():
    """Have glibc keep freed memory; else the kernel clears every page of a large tensor each step.

    Measured on 2 AVX2 cores, EfficientNet-Lite0 at 128 px, batches of 64: 29 -> 49 images/s.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to tune
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for a large block
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def place(array, device, say=print):
    """The pixel array on the GPU where it fits in half of the free memory, else where it is."""
    gigabytes = array.nbytes / 1e9
    if torch.device(device).type != "cuda":
        say(
            f"train: images are read from the mapped file, {gigabytes:.2f} GB "
            "(no CUDA GPU to hold them)"
        )
        return array
    free = torch.cuda.mem_get_info()[0]
    if array.nbytes > RESIDENT_SHARE * free:
        half = f"over half of the GPU's free {free / 1e9:.1f} GB"
        say(f"train: images stay on disk ({gigabytes:.1f} GB is {half})")
        return array
    say(f"train: all images on the GPU as uint8 ({gigabytes:.1f} of {free / 1e9:.1f} GB free)")
    resident = torch.empty(array.shape, dtype=torch.uint8, device=device)
    for k in range(0, len(array), 1024):  # in pieces: the array may be larger than the memory
        resident[k : k + 1024] = torch.from_numpy(array[k : k + 1024].copy())
    return resident


def batches(cfg, network, images, device) -> Batches:
    """Batches of `images`, normalised as `network` expects them."""
    workers = cfg.workers or os.cpu_count()
    return Batches(images, cfg.image_size, network.mean, network.std, device, workers)


def evaluation_batch(batch: int, device) -> int:
    """Images at a time without gradients: four batches on a GPU; a CPU gains nothing by more."""
    return batch if torch.device(device).type == "cpu" else 4 * batch


@torch.inference_mode()
def predict(network, batches, rows, batch_size: int, with_features: bool = False, tta: int = 1):
    """(N, 7) float32 logits for rows of the pixel array, in order, averaged over `tta` of each.

    `tta`: how many of the eight flips and quarter turns (see `dihedral`). With `with_features` the
    head's (N, D) inputs too, of the image as it is.
    """
    network.eval()
    logits, features = [], []
    hook = model.head(network).register_forward_pre_hook(lambda _, args: features.append(args[0]))
    try:
        jobs = [(rows[k : k + batch_size], None) for k in range(0, len(rows), batch_size)]
        stream, options = batches.stream(jobs), dict(unit="batch", delay=2, leave=False)
        bar = progress.bar(stream, "predict", len(jobs), **options)
        for number, images in enumerate(bar, 1):
            logits.append(sum(network(dihedral(images, k)).float() for k in range(tta)) / tta)
            del features[number if with_features else 0 :]
    finally:
        hook.remove()
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


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, 7) logits -> float64 probabilities that sum to 1."""
    return torch.from_numpy(logits).double().softmax(dim=1).numpy()


class LoadedRun:
    """A trained run: its network, or those of an ensemble, device, precision and images.

    `networks`: [its best checkpoint], or those of the members; `accelerator`, `device`. `images`:
    another pixel array (N, H, W, 3) uint8 than the data set's, such as a user's own photos. The
    features and Grad-CAM of an ensemble are those of its first network.
    """

    def __init__(self, cfg, images=None, networks=None, say=quiet):
        self.cfg, self.accelerator = cfg, start(cfg, say)
        self.device = self.accelerator.device
        self.networks = networks or [load_network(cfg, f, self.device) for f in cfg.member_dirs]
        self._images = images

    @classmethod
    def of_backbone(cls, cfg):
        """`cfg.backbone` with `cfg.weights` as it comes: frozen ImageNet features, no run."""
        network = model.build(cfg.backbone, cfg.weights, cfg.image_size)
        run = cls(cfg, networks=[network], say=print)
        network.to(run.device, memory_format=torch.channels_last)
        return run

    def batches(self, network=None) -> Batches:
        """Batches as `network` (by default the first one) expects them."""
        if self._images is None:
            self._images = place(pixels.load(self.cfg.pixels_file), self.device, quiet)
        return batches(self.cfg, network or self.networks[0], self._images, self.device)

    def with_images(self, images) -> "LoadedRun":
        """The same networks over another pixel array."""
        other = object.__new__(LoadedRun)
        other.__dict__ = self.__dict__ | {"_images": images}
        return other

    def logits(self, rows, network=None, with_features: bool = False, tta: int = 1):
        """`predict` for rows of the pixel array by `network` (by default the first one)."""
        network = network or self.networks[0]
        at_once = evaluation_batch(self.cfg.batch_size, self.device)
        with self.accelerator.autocast():
            return predict(network, self.batches(network), rows, at_once, with_features, tta)

    def probabilities(self, rows, tta: int = 1, networks=None) -> np.ndarray:
        """(N, 7) float64: the mean of the probabilities of the networks, or some of them, for rows
        of the pixel array."""
        networks = self.networks if networks is None else networks
        return np.mean([softmax(self.logits(rows, net, tta=tta)) for net in networks], axis=0)

    def inputs(self, rows) -> torch.Tensor:
        """(B, 3, S, S) float32 on the device: what the first network sees of these rows."""
        return self.batches()(rows)

    def squares(self, inputs: torch.Tensor) -> np.ndarray:
        """(B, S, S, 3) uint8: normalised `inputs` as the pictures they were."""
        network = self.networks[0]
        std, mean = (inputs.new_tensor(x)[:, None, None] for x in (network.std, network.mean))
        pictures = ((inputs * std + mean) * 255).round().clamp(0, 255).byte()
        return pictures.permute(0, 2, 3, 1).cpu().numpy()
