"""The plain path that results and speed are compared with gives the same images as the array, where nothing is random."""

import sys

import numpy as np
import torch
from PIL import Image

from dermai_utils import augment, config, pixels

sys.path.insert(0, str(config.ROOT / "tools"))
import plain  # noqa: E402


def both(tmp_path, size=64):
    paths = {}
    for row in range(6):
        small = np.random.default_rng(row).integers(0, 256, (6, 8, 3), np.uint8)
        paths[row] = tmp_path / f"{row}.jpg"
        Image.fromarray(small).resize((200, 150), Image.Resampling.BICUBIC).save(paths[row], quality=95)
    pixels.build(list(paths.values()), size, tmp_path / "p.npy", progress=False)
    ours = augment.Batches(pixels.load(tmp_path / "p.npy"), size, (0.5,) * 3, (0.25,) * 3, "cpu", 1)
    return ours, plain.Batches(paths, ours, config.load(env={}, image_size=size))


def test_both_ways_show_the_same_images(tmp_path):
    ways = both(tmp_path)
    jobs = [(np.array([3, 1]), None), (np.array([5, 0, 2]), None)]
    for one, other in zip(*(way.stream(jobs) for way in ways), strict=True):
        assert one.shape == other.shape == (len(other), 3, 64, 64)
        assert (one - other).abs().mean() < 0.08  # of a range of 4: with and without smoothing before a picture is made smaller
        assert (one - other.roll(1, 0)).abs().mean() > 0.2


def test_augmented_images_differ_from_one_time_to_the_next(tmp_path):
    way = both(tmp_path)[1]
    job = (np.array([0, 1]), (0, 0, 0))
    first, second = (torch.cat(list(way.stream([job]))) for _ in range(2))
    assert (first - second).abs().mean() > 0.1
