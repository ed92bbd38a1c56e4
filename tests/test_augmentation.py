"""Geometry and colour against torchvision and by hand; OpenCV's path against torch's."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from scipy.spatial.transform import Rotation
from torchvision.transforms import InterpolationMode

from dermai_utils import augmentation

COLOURS = ("brightness", "contrast", "colour", "gain", "hue")


def smooth(n=4, height=75, width=100):
    """(n, 3, height, width) uint8 without fine detail: interpolation rules then differ little."""
    coarse = torch.rand(n, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (images.clamp(0, 1) * 255).round().byte()


class Fixed:
    """A generator whose every draw lies at its upper end or in the middle, and without a flip."""

    def uniform(self, low, high, size):
        return np.broadcast_to(np.asarray(high, float), size)

    def normal(self, mean, std, size):
        return np.full(size, mean)

    def choice(self, values, n):
        return np.ones(n)


def warped(images, maps, size):
    """(B, 3, size, size), 0..255."""
    return augmentation._warped(images, maps, size).permute(0, 3, 1, 2).float()


def painted(images, gammas, colours):
    return augmentation.paint(images.permute(0, 2, 3, 1).numpy().copy(), gammas, colours)


def test_what_evaluation_sees_is_the_central_square():
    images = smooth()
    # 100 - 75 is odd: the centre lies between two pixels
    expected = (images[..., 12:87] / 255 + images[..., 13:88] / 255) / 2
    got = augmentation.squares(images, 75)
    assert (got - expected).abs().max() < 0.01
    assert got.is_contiguous(memory_format=torch.channels_last)
    tall = augmentation.squares(images.mT, 75)
    assert (tall.mT - got).abs().max() < 0.01
    whole = augmentation.squares(images[..., :75], 75)
    assert torch.equal(whole, images[..., :75] / 255)


def test_a_smaller_square_shows_the_same_part():
    """Half the side: each pixel is the mean of four."""
    images = smooth(height=80)
    expected = torch.nn.functional.avg_pool2d(images[..., 10:90].float(), 2) / 255
    assert (augmentation.squares(images, 40) - expected).abs().max() < 0.01


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_opencv_and_torch_give_the_same_picture(seed):
    images, size = smooth(16), 64
    random = None if seed is None else np.random.default_rng(seed)
    maps = augmentation.geometry(16, (75, 100), size, random)
    cpu = warped(images, maps, size)
    device = augmentation.warp_on_device(images, torch.from_numpy(maps), size)
    assert torch.equal(device, device.round())
    # OpenCV places pixels to 1/32 of one
    difference = (cpu - device.permute(0, 3, 1, 2)).abs()
    assert difference.mean() < 1 and difference.max() < 16
    random = np.random.default_rng(seed)
    drawn = augmentation.gamma(16, random), augmentation.colour(16, random)
    device = augmentation.paint_on_device(cpu.permute(0, 2, 3, 1), *map(torch.from_numpy, drawn))
    assert (painted(cpu.byte(), *drawn) - device).abs().max() < 1e-5


@pytest.mark.parametrize("degrees", [0, 30, 90, -135])
def test_a_rotation_is_torchvisions(degrees, monkeypatch):
    images = smooth(1, 75, 75)
    own = dict(rotation=degrees, scale=1.0, aspect=1.0, shift=0.0)
    monkeypatch.setattr(augmentation, "STRENGTH", own)
    got = warped(images, augmentation.geometry(1, (75, 75), 75, Fixed()), 75)
    expected = TF.rotate(images.float(), degrees, InterpolationMode.BILINEAR)
    y, x = np.mgrid[:75, :75] - 37
    # beyond it torchvision fills with black, and we mirror
    inside = torch.from_numpy(x**2 + y**2 < 35**2)
    assert (got - expected)[..., inside].abs().max() < 2.5


@pytest.mark.parametrize(
    "what, apply",
    [
        ("brightness", TF.adjust_brightness),
        ("contrast", TF.adjust_contrast),
        ("colour", TF.adjust_saturation),
    ],
)
def test_a_colour_change_is_torchvisions(what, apply, monkeypatch):
    images = smooth() // 2 + 60  # the middle of the range: torchvision clips, and we do not
    monkeypatch.setattr(augmentation, "STRENGTH", dict.fromkeys(COLOURS, 0.0) | {what: 0.2})
    got = painted(images, np.ones(4, np.float32), augmentation.colour(4, Fixed()))
    assert (got - apply(images / 255, 1.2)).abs().max() < 2e-3


def test_gamma_is_torchvisions(monkeypatch):
    images, gammas = smooth(), np.array([0.7, 1.0, 1.2, 1.35], np.float32)
    monkeypatch.setattr(augmentation, "STRENGTH", dict.fromkeys(COLOURS, 0.0))
    got = painted(images, gammas, augmentation.colour(4, Fixed()))
    expected = [TF.adjust_gamma(x, float(g)) for x, g in zip(images, gammas, strict=True)]
    # torchvision cuts off the decimals, and we round
    assert (got - torch.stack(expected) / 255).abs().max() < 1.01 / 255


@pytest.mark.parametrize("degrees", [10.0, 120.0])
def test_hue_turns_about_the_grey_axis(degrees, monkeypatch):
    strength = dict.fromkeys(COLOURS, 0.0) | {"hue": degrees}
    monkeypatch.setattr(augmentation, "STRENGTH", strength)
    turn = Rotation.from_rotvec(np.full(3, np.deg2rad(degrees) / np.sqrt(3))).as_matrix()
    np.testing.assert_allclose(augmentation.colour(2, Fixed())[1, :, :3], turn, atol=1e-6)


def test_a_batch_repeats_and_each_image_has_its_own_draw():
    images = smooth(1).expand(6, -1, -1, -1)

    def drawn(seed):
        torch.manual_seed(seed)
        return augmentation.augment(images, 48)

    first, before = drawn(7), images.clone()
    assert first.shape == (6, 3, 48, 48) and first.dtype == torch.float32
    assert torch.equal(first, drawn(7)) and not torch.equal(first, drawn(8))
    assert all((first[0] - first[k]).abs().mean() > 0.01 for k in range(1, 6))
    assert torch.equal(images, before)


def test_draws_spread_over_the_whole_range():
    random = np.random.default_rng(0)
    maps = augmentation.geometry(4000, (75, 100), 50, random).astype(float)
    linear = maps[:, :, :2] / 1.5  # 75 px of the picture become 50
    area = np.abs(np.linalg.det(linear))
    assert 0.38 < area.min() < 0.42 and 2.4 < area.max() < 2.6  # scale 1/1.6 to 1.6, squared
    assert 0.45 < (np.linalg.det(linear) < 0).mean() < 0.55  # half are flipped
    angles = np.arctan2(linear[:, 1, 0], linear[:, 0, 0])
    assert np.histogram(angles, 8, (-np.pi, np.pi))[0].min() > 400
    middle = maps @ [24.5, 24.5, 1] - [49.5, 37]  # where the middle of the output comes from
    assert np.abs(middle).max() == pytest.approx(0.08 * 75, rel=0.01)
    gammas = np.log(augmentation.gamma(4000, random))
    assert [gammas.min(), gammas.max()] == pytest.approx([-0.3, 0.3], abs=0.01)
    grey = augmentation.colour(4000, random) @ [1, 1, 1, 1]  # what becomes of white, by channel
    assert 0.75 < grey.mean(1).min() < 0.85 and 1.15 < grey.mean(1).max() < 1.3
    gains = np.log(grey[:, 0] / grey[:, 1])  # the difference of two draws
    assert gains.std() == pytest.approx(0.05 * np.sqrt(2), rel=0.05)
