import numpy as np
import pytest
import torch
from scipy.stats import chi2

from dermai_utils import config
from dermai_utils.predict import ood
from dermai_utils.training import augment, model
from dermai_utils.training.inference import LoadedRun

RANDOM = np.random.default_rng(0)


def run_of(network, images):
    """The network as if it were a run's, over an array of images, two at a time."""
    cfg = config.load(env={}, image_size=64, batch_size=2, device="cpu")
    return LoadedRun(cfg, images=images, networks=[network])


def test_the_distance_is_mahalanobis_and_its_threshold_is_that_of_chi_squared():
    """The oracle is the theory: of Gaussian textures, a share of 1 - chi2.cdf(d * d) is farther
    than d."""
    mix = RANDOM.normal(size=(6, 6))
    training, new = (
        RANDOM.normal(size=(20_000, 6)) @ mix + 5,
        RANDOM.normal(size=(50_000, 6)) @ mix + 5,
    )
    centre, precision = ood.fit(training)
    far = ood.distance(new, centre, precision)
    farthest = np.sqrt(chi2.ppf(0.99, 6))
    assert np.quantile(far, 0.99) == pytest.approx(farthest, rel=0.02)
    assert (far > farthest).mean() == pytest.approx(0.01, abs=0.002)
    away = new[:3] - training.mean(0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(np.cov(training.T)), away))
    np.testing.assert_allclose(far[:3], expected, rtol=0.02)


def test_texture_is_the_mean_and_spread_of_one_map_half_way_of_the_image_as_it_is():
    net = model.build("resnet18", "none", 64).eval()
    images = RANDOM.integers(0, 256, (5, 75, 100, 3), np.uint8)
    batches = augment.Batches(images, 64, net.mean, net.std, "cpu", 1)
    maps = []
    with torch.inference_mode():
        hook = net.layer3.register_forward_hook(lambda m, i, o: maps.append(o.clone()))
        net(batches(np.arange(5)))
        hook.remove()
    assert maps[0].shape[2] == 64 / 16
    for tta in (1, 2):
        probabilities, features, texture = ood.describe(run_of(net, images), np.arange(5), tta)
        assert (
            probabilities.shape == (5, 7)
            and features.shape == (5, 512)
            and texture.shape == (5, 512)
        )
        np.testing.assert_allclose(texture[:, :256], maps[0].mean((2, 3)), atol=1e-4)
        np.testing.assert_allclose(texture[:, 256:], maps[0].std((2, 3)), atol=1e-4)


def test_texture_of_a_map_whose_channels_come_last_is_by_channel_too():
    net = model.build("swin_t", "none", 64).eval()
    images = RANDOM.integers(0, 256, (2, 75, 100, 3), np.uint8)
    *_, texture = ood.describe(run_of(net, images), np.arange(2))
    batches = augment.Batches(images, 64, net.mean, net.std, "cpu", 1)
    with torch.inference_mode():
        maps = net.features[:6](batches(np.arange(2)))
    assert maps.shape == (2, 4, 4, 384)
    np.testing.assert_allclose(texture[:, :384], maps.mean((1, 2)), atol=1e-4)


def test_a_transformer_has_its_last_features_for_texture():
    net = model.build("vit_b_32", "none", 64).eval()
    images = RANDOM.integers(0, 256, (2, 75, 100, 3), np.uint8)
    _, features, texture = ood.describe(run_of(net, images), np.arange(2))
    np.testing.assert_array_equal(features, texture)


def test_a_picture_without_colour_or_light_is_noticed_and_a_dermoscopic_one_is_not():
    skin = np.full((60, 80, 3), (200, 150, 130), np.uint8)
    skin[20:40, 30:50] = (90, 50, 40)
    grey = np.repeat(skin.mean(2, keepdims=True), 3, 2).astype(np.uint8)
    vignette = skin.copy()
    vignette[:, :60] = 0  # a black frame around the field of view, as some dermatoscopes make
    assert ood.oddities(skin) == ood.oddities(vignette) == ()
    assert "no colour" in ood.oddities(grey)[0]
    for black in (skin // 10, 0 * skin):
        assert len(ood.oddities(black)) == 1 and "nearly black" in ood.oddities(black)[0]
