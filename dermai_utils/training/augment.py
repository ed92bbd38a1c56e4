"""Random geometry and colour, each image its own, on a whole batch at a time.

One affine map and one colour matrix an image, drawn from (seed, epoch, step) alone; normalisation
is part of the colour matrix. On a GPU both are applied to the whole batch at once; on a CPU by
OpenCV, image by image over all cores. Our own, because a batch costs one warp and one product,
where a chain of library transforms reads and writes the images once a step.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
import torch.nn.functional as F

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as torchvision's
# Clinics frame a lesion from near or far, under other light and cameras: hence scale, hue, gamma.
STRENGTH = dict(rotation=180.0, scale=1.6, aspect=1.15, shift=0.08)
STRENGTH |= dict(brightness=0.2, contrast=0.2, colour=0.2, gain=0.05, hue=10.0, gamma=0.3)


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


def colour(n: int, random=None) -> np.ndarray:
    """(n, 3, 4) float32: a colour matrix, and how much of the image's mean grey each channel gets.

    A turn of the hue (degrees about the grey axis of RGB), brightness, contrast and saturation as
    torchvision.transforms.functional defines them, then a gain for each channel.
    """
    if random is None:
        return np.tile(np.eye(3, 4, dtype=np.float32), (n, 1, 1))
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


def gamma(n: int, random=None) -> np.ndarray:
    """(n,) float32: the exponent of each image's values in 0..1; 1 without `random`."""
    if random is None:
        return np.ones(n, np.float32)
    return np.exp(random.uniform(-1, 1, n) * STRENGTH["gamma"]).astype(np.float32)


def warp(images, rows, maps, size: int, pool=None) -> np.ndarray:
    """(B, size, size, 3) uint8: `rows` of `images` (N, H, W, 3) uint8, mirrored at the border.

    `pool`: threads.
    """
    out = np.empty((len(rows), size, size, 3), np.uint8)
    options = dict(flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)

    def warp_one(k):
        cv2.warpAffine(images[rows[k]], maps[k], (size, size), dst=out[k], **options)

    list((pool.map if pool else map)(warp_one, range(len(rows))))
    return out


def paint(pixels, gammas, colours, mean, std, pool=None) -> torch.Tensor:
    """What `paint_on_device` does, by OpenCV: ten times as fast on a CPU as a product with an inner
    side of three."""
    out = np.empty(pixels.shape, np.float32)
    scale, offset = (
        1 / (255 * np.array(std, np.float32)),
        -np.array(mean, np.float32) / np.array(std, np.float32),
    )

    levels = np.linspace(0, 1, 256)

    def paint_one(k):
        if gammas[k] != 1:
            bent = np.rint(255 * levels ** gammas[k]).astype(np.uint8)
            cv2.LUT(pixels[k], bent, dst=pixels[k])
        matrix = colours[k] * scale[:, None]
        matrix[:, 3] = matrix[:, 3] * np.dot(GREY, cv2.mean(pixels[k])[:3]) + offset
        cv2.transform(pixels[k].astype(np.float32), matrix, dst=out[k])

    list((pool.map if pool else map)(paint_one, range(len(pixels))))
    return torch.from_numpy(out).permute(0, 3, 1, 2)  # no copy: this is channels last


def warp_on_device(images: torch.Tensor, maps: torch.Tensor, size: int) -> torch.Tensor:
    """(B, size, size, 3) float, 0..255: `images` (B, H, W, 3) uint8 on the device, mirrored at the
    border."""
    height, width = images.shape[1:3]
    middle = maps.new_tensor([[(width - 1) / 2], [(height - 1) / 2]])
    centre = maps[:, :, :2] @ maps.new_full((2, 1), (size - 1) / 2) + maps[:, :, 2:]
    theta = torch.cat([maps[:, :, :2] * size / 2, centre - middle], dim=2) * maps.new_tensor(
        [[2 / width], [2 / height]]
    )
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    pixels = images.permute(0, 3, 1, 2).float()
    warped = F.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    # OpenCV's uint8 are whole numbers: a run moves between devices unchanged
    return warped.round().permute(0, 2, 3, 1)


def paint_on_device(pixels, gammas, colours, mean, std) -> torch.Tensor:
    """(B, 3, S, S) float32, normalised, channels last in memory: `pixels` (B, S, S, 3), 0..255,
    through their exponents (B,) and matrices (B, 3, 4). All are tensors on the device."""
    flat = pixels.flatten(1, 2).float()
    flat = (255 * (flat / 255) ** gammas[:, None, None]).round()
    grey = flat.mean(dim=1) @ flat.new_tensor(GREY)
    scale, offset = 1 / (255 * flat.new_tensor(std)), -flat.new_tensor(mean) / flat.new_tensor(std)
    matrix = colours[:, :, :3] * scale[:, None]
    bias = colours[:, :, 3] * grey[:, None] * scale + offset
    painted = torch.baddbmm(bias[:, None], flat, matrix.transpose(1, 2))
    # no copy: this is channels last
    return painted.view(len(pixels), *pixels.shape[1:3], 3).permute(0, 3, 1, 2)


class Batches:
    """Rows of the pixel array -> normalised batches on the device, plain or augmented."""

    def __init__(self, images, size: int, mean, std, device, workers: int):
        """images: (N, H, W, 3) uint8, a tensor on the device, or an array in memory or on disk."""
        self.images, self.size, self.device = images, size, torch.device(device)
        self.mean, self.std = mean, std
        self.pool = ThreadPoolExecutor(workers)
        cv2.setNumThreads(1)  # one image is too small to share out; the threads here take one each

    def draw(self, rows, key=None, share=slice(None), size=None):
        """A finished batch on a CPU, else what `finish` needs on the device.

        key: (seed, epoch, step) of an augmented batch; None: the images as they are. share: the
        slice of the batch that this process makes; the draws are those of the whole batch, so that
        they don't depend on how many processes share it. size: another side than the usual, px.
        """
        size = size or self.size
        # a stream of its own: without `spawn_key`, (seed, epoch, 0) is that of `optim.order`
        own = None if key is None else np.random.SeedSequence(key, spawn_key=(0,))
        random = None if key is None else np.random.default_rng(own)
        maps = geometry(len(rows), self.images.shape[1:3], size, random)[share]
        colours, gammas = colour(len(rows), random)[share], gamma(len(rows), random)[share]
        rows, look = rows[share], (torch.from_numpy(gammas), torch.from_numpy(colours))
        if isinstance(self.images, torch.Tensor):
            return size, torch.as_tensor(rows), torch.from_numpy(maps), *look
        pixels = warp(self.images, rows, maps, size, self.pool)
        if self.device.type == "cpu":
            return paint(pixels, gammas, colours, self.mean, self.std, self.pool)
        return size, torch.from_numpy(pixels), None, *look

    def finish(self, drawn) -> torch.Tensor:
        """The rest, on the device: (B, 3, size, size) float32, normalised."""
        if isinstance(drawn, torch.Tensor):
            return drawn
        size, *tensors = drawn
        pixels, maps, *look = (x if x is None else self._move(x) for x in tensors)
        if maps is not None:
            pixels = warp_on_device(self.images[pixels], maps, size)
        return paint_on_device(pixels, *look, self.mean, self.std)

    def _move(self, tensor):
        if self.device.type == "cuda":  # pinned, so that the copy runs beside the step
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def __call__(self, rows, key=None, share=slice(None), size=None) -> torch.Tensor:
        return self.finish(self.draw(rows, key, share, size))

    def stream(self, jobs):
        """A batch for each (rows, key, ...) of `jobs`, the next one drawn while the device works on
        this one."""
        if self.device.type == "cpu":  # the cores are busy with the step itself: nothing to win
            yield from (self(*job) for job in jobs)
            return
        with ThreadPoolExecutor(1) as ahead:
            waiting = None
            for job in jobs:
                following = ahead.submit(self.draw, *job)
                if waiting is not None:
                    yield self.finish(waiting.result())
                waiting = following
            if waiting is not None:
                yield self.finish(waiting.result())
