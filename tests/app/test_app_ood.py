from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from dermai_utils import augmentation, networks
from dermai_utils.app import ood

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (3, 75, 100, 3), np.uint8)


def describe(net, tta=1):
    run = SimpleNamespace(net=net, size=64, precision="fp32")
    return ood.describe(run, IMAGES, tta=tta)


def squares():
    return augmentation.squares(torch.from_numpy(IMAGES).permute(0, 3, 1, 2), 64)


def test_the_distance_is_mahalanobis_and_its_threshold_is_that_of_chi_squared():
    """The oracle is the theory: of Gaussian textures, a share of 1 - chi2.cdf(d * d) is farther
    than d."""
    mix = RANDOM.normal(size=(6, 6))
    training = RANDOM.normal(size=(20_000, 6)) @ mix + 5
    new = RANDOM.normal(size=(50_000, 6)) @ mix + 5
    centre, precision = ood.fit(training)
    far = ood.distance(new, centre, precision)
    farthest = np.sqrt(chi2.ppf(0.99, 6))
    assert np.quantile(far, 0.99) == pytest.approx(farthest, rel=0.02)
    assert (far > farthest).mean() == pytest.approx(0.01, abs=0.002)
    away = new[:3] - training.mean(0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(np.cov(training.T)), away))
    np.testing.assert_allclose(far[:3], expected, rtol=0.02)


@pytest.mark.parametrize("tta", [1, 2])
def test_texture_is_the_mean_and_spread_of_one_map_half_way_of_the_image_as_it_is(tta):
    net, maps = networks.network("resnet18", "none", 64).eval(), []
    with (
        torch.inference_mode(),
        networks.hooked([net.backbone.layer3], lambda m, i, o: maps.append(o.clone())),
    ):
        net(squares())
    assert maps[0].shape[2] == 64 / 16
    logits, features, texture = describe(net, tta)
    assert logits.shape == (3, 7) and features.shape == (3, 512) and texture.shape == (3, 512)
    np.testing.assert_allclose(texture[:, :256], maps[0].mean((2, 3)), atol=1e-4)
    np.testing.assert_allclose(texture[:, 256:], maps[0].std((2, 3)), atol=1e-4)


def test_texture_of_a_map_whose_channels_come_last_is_by_channel_too():
    net = networks.network("swin_t", "none", 64).eval()
    *_, texture = describe(net)
    with torch.inference_mode():
        maps = net.backbone.features[:6](net.normalise(squares()))
    assert maps.shape == (3, 4, 4, 384)
    np.testing.assert_allclose(texture[:, :384], maps.mean((1, 2)), atol=1e-4)


def test_a_transformer_has_its_last_features_for_texture():
    _, features, texture = describe(networks.network("timm:test_vit", "none", 64).eval())
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
