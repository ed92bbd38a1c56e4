"""Random geometry and colour, each image its own, on a whole batch at a time.

One affine map, one exponent and one colour matrix an image. On a GPU they are applied to the whole
batch at once; on a CPU by OpenCV, image by image over all cores. Our own, because a batch costs one
warp and one product, where a chain of library transforms reads and writes the images once a step.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
import torch.nn.functional as F

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as torchvision's
# Clinics frame a lesion from near or far, under other light and cameras: hence scale, hue, gamma.
STRENGTH = dict(rotation=180.0, scale=1.6, aspect=1.15, shift=0.08)
STRENGTH |= dict(brightness=0.2, contrast=0.2, colour=0.2, gain=0.05, hue=10.0, gamma=0.3)


def augment(images: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 3, size, size) float32 in about 0..1: each image flipped, turned, zoomed, shifted and
    coloured at random.

    images: (B, 3, H, W) uint8 on any device. One number of torch's generator decides all draws, so
    a batch repeats after torch.manual_seed. Colours may leave 0..1: torchvision cuts them off there
    after each step, and we never do, so that a bright place keeps its detail.

    >>> augment(torch.zeros(2, 3, 75, 100, dtype=torch.uint8), 64).shape
    torch.Size([2, 3, 64, 64])
    """
    random, n = np.random.default_rng(torch.randint(2**62, ()).item()), len(images)
    maps, colours = geometry(n, images.shape[2:], size, random), colour(n, random)
    return _painted(_warped(images, maps, size), gamma(n, random), colours)


def squares(images: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 3, size, size) float32 in 0..1: the central square of each image, as evaluation sees it.

    images: (B, 3, H, W) uint8 on any device.
    """
    pixels = _warped(images, geometry(len(images), images.shape[2:], size), size)
    return _channels_first(pixels.float() / 255)


# What is drawn for each image.


def geometry(n: int, shape, size: int, random=None) -> np.ndarray:
    """(n, 2, 3) float32 maps from output pixels (x, y, 1) to those of images of `shape` (H, W).

    Without `random`, the central square of the short side. With it (a numpy Generator), flips, any
    rotation, scale, aspect and shift are drawn for each image.
    """
    height, width = shape
    angle, zoom_x, zoom_y = np.zeros(n), np.ones(n), np.ones(n)
    shift = np.zeros((n, 2))
    if random is not None:
        s = STRENGTH
        angle = np.deg2rad(random.uniform(-s["rotation"], s["rotation"], n))
        scale = np.exp(random.uniform(-1, 1, n) * np.log(s["scale"]))
        aspect = np.exp(random.uniform(-1, 1, n) * np.log(s["aspect"]) / 2)
        zoom_x = scale * aspect * random.choice([-1.0, 1.0], n)  # rotated, one flip gives both
        zoom_y = scale / aspect
        shift = random.uniform(-s["shift"], s["shift"], (n, 2)) * min(shape)
    cos, sin, base = np.cos(angle), np.sin(angle), min(shape) / size
    linear = np.stack([cos * zoom_x, -sin * zoom_y, sin * zoom_x, cos * zoom_y], axis=-1)
    linear = base * linear.reshape(n, 2, 2)
    middle_in, middle_out = np.array([width - 1, height - 1]) / 2, np.full(2, (size - 1) / 2)
    offset = middle_in + shift - linear @ middle_out
    return np.concatenate([linear, offset[..., None]], axis=-1).astype(np.float32)


def colour(n: int, random) -> np.ndarray:
    """(n, 3, 4) float32: a colour matrix, and how much of the image's mean grey each channel gets.

    A turn of the hue (degrees about the grey axis of RGB), brightness, contrast and saturation by
    the formulas of torchvision.transforms.functional, then a gain for each channel.
    """
    s = STRENGTH
    brightness, contrast, saturation = (
        random.uniform(1 - s[k], 1 + s[k], n) for k in ("brightness", "contrast", "colour")
    )
    gain = np.exp(random.normal(0, s["gain"], (n, 3)))
    mix = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * np.array(GREY)
    mix = mix @ _hue_turn(np.deg2rad(random.uniform(-s["hue"], s["hue"], n)))
    matrix = gain[:, :, None] * mix * (contrast * brightness)[:, None, None]
    mean = gain * ((1 - contrast) * brightness)[:, None]
    return np.concatenate([matrix, mean[..., None]], axis=-1).astype(np.float32)


def _hue_turn(angle):
    """(n, 3, 3) rotations of RGB about its grey axis by `angle` (n,), in radians (Rodrigues)."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    return cos * np.eye(3) + sin * cross + (1 - cos) / 3


def gamma(n: int, random) -> np.ndarray:
    """(n,) float32: the exponent of each image's values in 0..1."""
    return np.exp(random.uniform(-1, 1, n) * STRENGTH["gamma"]).astype(np.float32)


# Applied: on a CPU image by image, on another device to the whole batch.


def _warped(images, maps, size):
    """(B, size, size, 3) of whole numbers 0..255: `images` through `maps`, mirrored at the edge."""
    if images.device.type != "cpu":
        return warp_on_device(images, torch.from_numpy(maps).to(images.device), size)
    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    out = np.empty((len(pixels), size, size, 3), np.uint8)
    options = dict(flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)
    _each(
        lambda k: cv2.warpAffine(pixels[k], maps[k], (size, size), dst=out[k], **options), len(out)
    )
    return torch.from_numpy(out)


def _painted(pixels, gammas, colours):
    if pixels.device.type != "cpu":
        gammas, colours = (torch.from_numpy(x).to(pixels.device) for x in (gammas, colours))
        return paint_on_device(pixels, gammas, colours)
    return paint(pixels.numpy(), gammas, colours)


def _each(function, n):
    """function(0) to function(n - 1) over all cores; OpenCV works outside Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(function, range(n)))


def _channels_first(pixels):
    return pixels.permute(0, 3, 1, 2)  # no copy: in memory this is channels last


def paint(pixels: np.ndarray, gammas, colours) -> torch.Tensor:
    """What `paint_on_device` does, by OpenCV: ten times as fast on a CPU as a product with an inner
    side of three. `pixels` is overwritten."""
    out, levels = np.empty(pixels.shape, np.float32), np.linspace(0, 1, 256)

    def paint_one(k):
        bent = np.rint(255 * levels ** gammas[k]).astype(np.uint8)
        cv2.LUT(pixels[k], bent, dst=pixels[k])
        matrix = colours[k] / np.float32(255)
        matrix[:, 3] *= np.dot(GREY, cv2.mean(pixels[k])[:3])
        cv2.transform(pixels[k].astype(np.float32), matrix, dst=out[k])

    _each(paint_one, len(pixels))
    return _channels_first(torch.from_numpy(out))


def warp_on_device(images: torch.Tensor, maps: torch.Tensor, size: int) -> torch.Tensor:
    """(B, size, size, 3) float, 0..255: `images` (B, 3, H, W) uint8, mirrored at the edge."""
    height, width = images.shape[2:]
    middle = maps.new_tensor([[(width - 1) / 2], [(height - 1) / 2]])
    centre = maps[:, :, :2] @ maps.new_full((2, 1), (size - 1) / 2) + maps[:, :, 2:]
    theta = torch.cat([maps[:, :, :2] * size / 2, centre - middle], dim=2)
    theta = theta * maps.new_tensor([[2 / width], [2 / height]])
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    options = dict(mode="bilinear", padding_mode="reflection", align_corners=False)
    warped = F.grid_sample(images.float(), grid, **options)
    # OpenCV's uint8 are whole numbers: a run moves between devices unchanged
    return warped.round().permute(0, 2, 3, 1)


def paint_on_device(pixels: torch.Tensor, gammas, colours) -> torch.Tensor:
    """(B, 3, S, S) float32 in about 0..1: `pixels` (B, S, S, 3), 0..255, through their exponents
    (B,) and colour matrices (B, 3, 4)."""
    flat = pixels.flatten(1, 2).float()
    flat = (255 * (flat / 255) ** gammas[:, None, None]).round()
    grey = flat.mean(dim=1) @ flat.new_tensor(GREY)
    bias = colours[:, :, 3] * grey[:, None] / 255
    painted = torch.baddbmm(bias[:, None], flat, (colours[:, :, :3] / 255).transpose(1, 2))
    return _channels_first(painted.view(len(pixels), *pixels.shape[1:3], 3))
