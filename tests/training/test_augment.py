import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from scipy.spatial.transform import Rotation
from torchvision.transforms import InterpolationMode

from dermai_utils.training import augment, optim


def smooth(n=4, height=75, width=100, seed=0):
    """Random images without fine detail: interpolation rules then differ little."""
    coarse = torch.rand(n, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    images = (
        torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 255
    )
    return images.round().byte().permute(0, 2, 3, 1).contiguous()


def plain(images, size, key=None, on_device=False):
    """Batches with mean 0 and std 1: values in 0..1."""
    array = images if on_device else images.numpy()
    return augment.Batches(array, size, (0, 0, 0), (1, 1, 1), "cpu", 2)(np.arange(len(images)), key)


@pytest.mark.parametrize("on_device", [False, True])
def test_the_plain_view_is_the_central_square(on_device):
    images = smooth()
    expected = images[:, :, 12:87].permute(0, 3, 1, 2) / 255
    # 100 - 75 is odd: the centre lies between two pixels
    shifted = images[:, :, 13:88].permute(0, 3, 1, 2) / 255
    assert (plain(images, 75, on_device=on_device) - (expected + shifted) / 2).abs().max() < 0.01


@pytest.mark.parametrize("key", [None, (0, 0, 0), (1, 2, 3)])
def test_cpu_and_device_give_the_same_picture(key):
    images = smooth(16)
    difference = (plain(images, 64, key) - plain(images, 64, key, on_device=True)).abs()
    # OpenCV rounds to 8 bits and 1/32 px between
    assert difference.mean() < 0.004 and difference.max() < 0.06


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("degrees", [0, 30, 90, -135])
def test_rotation_is_torchvisions(on_device, degrees, monkeypatch):
    images = smooth(1, 75, 75)
    s = dict(augment.STRENGTH, rotation=degrees, scale=1.0, aspect=1.0, shift=0.0)
    monkeypatch.setattr(augment, "STRENGTH", s)

    class Fixed:  # every draw at its upper end, no flip
        def uniform(self, low, high, size):
            return np.broadcast_to(np.asarray(high, float), size)

        def choice(self, values, n):
            return np.ones(n)

    maps = augment.geometry(1, (75, 75), 75, Fixed())
    if on_device:
        got = augment.warp_on_device(images, torch.from_numpy(maps), 75)
    else:
        got = torch.from_numpy(augment.warp(images.numpy(), [0], maps, 75)).float()
    expected = TF.rotate(
        images.permute(0, 3, 1, 2).float(), degrees, InterpolationMode.BILINEAR
    ).permute(0, 2, 3, 1)
    y, x = np.mgrid[:75, :75] - 37
    # beyond it torchvision fills with black, and we mirror
    inside = torch.from_numpy(x**2 + y**2 < 35**2)
    assert (got - expected)[:, inside].abs().max() < 2.5


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    "what, apply",
    [
        ("brightness", TF.adjust_brightness),
        ("contrast", TF.adjust_contrast),
        ("colour", TF.adjust_saturation),
    ],
)
def test_colour_is_torchvisions(on_device, what, apply, monkeypatch):
    images = (
        smooth() // 2 + 60
    ).contiguous()  # the middle of the range, so that nothing is clipped

    class Fixed:
        def uniform(self, low, high, n):
            return np.full(n, high)

        def normal(self, mean, std, shape):
            return np.zeros(shape)

    names = ("brightness", "contrast", "colour", "gain", "hue")
    monkeypatch.setattr(augment, "STRENGTH", dict.fromkeys(names, 0.0) | {what: 0.2})
    colours, same = augment.colour(len(images), Fixed()), np.ones(len(images), np.float32)
    got = painted(images, same, colours, on_device)
    expected = apply(images.permute(0, 3, 1, 2) / 255, 1.2)
    assert (got - expected).abs().max() < 2e-3


def painted(images, gammas, colours, on_device):
    """Through `paint`, or its twin on the device, without normalisation."""
    if not on_device:
        return augment.paint(images.numpy().copy(), gammas, colours, (0, 0, 0), (1, 1, 1))
    tensors = torch.from_numpy(gammas), torch.from_numpy(colours)
    return augment.paint_on_device(images, *tensors, (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("on_device", [False, True])
def test_gamma_is_torchvisions(on_device):
    images, gammas = smooth(), np.array([0.7, 1.0, 1.2, 1.35], np.float32)
    got = painted(images, gammas, augment.colour(4), on_device)
    pictures = images.permute(0, 3, 1, 2)
    expected = [TF.adjust_gamma(x, float(g)) for x, g in zip(pictures, gammas, strict=True)]
    # torchvision cuts off the decimals, and we round
    assert (got - torch.stack(expected) / 255).abs().max() < 1.01 / 255


def test_hue_turns_about_the_grey_axis(monkeypatch):
    class Fixed:
        def uniform(self, low, high, n):
            return np.full(n, high)

        def normal(self, mean, std, shape):
            return np.zeros(shape)

    names = ("brightness", "contrast", "colour", "gain")
    for degrees in (10.0, 120.0):
        monkeypatch.setattr(augment, "STRENGTH", dict.fromkeys(names, 0.0) | {"hue": degrees})
        turn = Rotation.from_rotvec(np.full(3, np.deg2rad(degrees) / np.sqrt(3))).as_matrix()
        np.testing.assert_allclose(augment.colour(2, Fixed())[1, :, :3], turn, atol=1e-6)


def test_normalisation_is_torchvisions():
    images, mean, std = smooth(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = TF.normalize(plain(images, 64), mean, std)
    for array in (images, images.numpy()):
        got = augment.Batches(array, 64, mean, std, "cpu", 1)(np.arange(4))
        assert (got - expected).abs().max() < 0.06
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_is_reproducible_and_each_image_has_its_own_draw():
    images = smooth(1).expand(6, -1, -1, -1).contiguous()
    first = plain(images, 48, (7, 1, 2))
    assert (first == plain(images, 48, (7, 1, 2))).all()
    assert (first != plain(images, 48, (7, 1, 3))).any()
    for k in range(1, 6):
        assert (first[0] - first[k]).abs().mean() > 0.01


def test_no_two_draws_of_a_run_are_of_one_stream(monkeypatch):
    """numpy takes (seed, epoch) and (seed, epoch, 0) for the same entropy."""
    streams, plain_rng = [], np.random.default_rng

    def recorded(key):
        streams.append(plain_rng(key).bit_generator.state["state"]["state"])
        return plain_rng(key)

    monkeypatch.setattr(np.random, "default_rng", recorded)
    batches = augment.Batches(smooth(2).numpy(), 32, (0, 0, 0), (1, 1, 1), "cpu", 1)
    for seed, epoch in itertools.product(range(2), range(2)):
        optim.order(np.zeros(2, int), seed, epoch)
        for step in range(2):
            batches.draw(np.arange(2), (seed, epoch, step))
    assert len(streams) == len(set(streams)) == 12


def test_draws_spread_over_the_whole_range():
    maps = augment.geometry(4000, (75, 75), 75, np.random.default_rng(0))
    linear = maps[:, :, :2].astype(float)
    area = np.abs(np.linalg.det(linear))
    assert 0.38 < area.min() < 0.42 and 2.4 < area.max() < 2.6  # scale 1/1.6 to 1.6, squared
    assert 0.45 < (np.linalg.det(linear) < 0).mean() < 0.55  # half are flipped
    angles = np.arctan2(linear[:, 1, 0], linear[:, 0, 0])
    assert np.histogram(angles, 8, (-np.pi, np.pi))[0].min() > 400


def test_streams_give_the_batches_in_order():
    batches = augment.Batches(smooth(8).numpy(), 32, (0, 0, 0), (1, 1, 1), "cpu", 2)
    jobs = [(np.array([k, k + 1]), (0, 0, k)) for k in range(0, 8, 2)]
    for job, got in zip(jobs, batches.stream(iter(jobs)), strict=True):
        assert (got == batches(*job)).all()
    batches.device = torch.device("meta")  # the look-ahead of any accelerator, without one
    batches.finish = lambda drawn: drawn[1]
    rows = [tuple(batch.flatten()[:3].tolist()) for batch in batches.stream(iter(jobs))]
    assert rows == [tuple(batches.draw(*job)[1].flatten()[:3].tolist()) for job in jobs]
