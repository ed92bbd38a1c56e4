"""Grad-CAM and saliency against their formulas by hand, and the checks of the maps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from dermai_utils import saliency
from dermai_utils.networks import network


@pytest.fixture(scope="module")
def net():
    return network("resnet18", "none", 64, seed=1).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(11, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def unit(maps):
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low).clamp_min(1e-12)).detach().numpy()


def resnet18(model, x):
    return nn.Sequential(*list(model.children())[:-2])(x), model.fc


def densenet121(model, x):
    return model.features(x).relu(), model.classifier


@pytest.mark.parametrize("halves", [resnet18, densenet121])
def test_gradcam_is_its_own_formula(halves, images):
    """torchvision's network by hand: up to the last map, then pool and head on a copy that takes
    gradients. Mean gradient a channel, weighted sum, ReLU (Selvaraju et al., equations 1 and 2).
    More images than are in memory at once."""
    targets, net = torch.arange(11) % 7, network(halves.__name__, "none", 64, seed=1).eval()
    model = torchvision.models.get_model(halves.__name__, num_classes=7).eval()
    model.load_state_dict(net.backbone.state_dict())
    with torch.no_grad():
        place, head = halves(model, net.normalise(images))
    logits = head(place.requires_grad_().mean((2, 3)))
    gradient = torch.autograd.grad(logits[torch.arange(11), targets].sum(), place)[0]
    by_hand = torch.einsum("nc,nchw->nhw", gradient.mean((2, 3)), place.detach()).clamp_min(0)
    by_hand = F.interpolate(by_hand[:, None], (64, 64), mode="bilinear")[:, 0]
    found = saliency.gradcam(net, images, targets)
    assert found.shape == (11, 64, 64) and found.dtype == np.float32
    np.testing.assert_allclose(found, unit(by_hand), atol=1e-4)


def test_saliency_is_the_gradient_of_the_logit(net, images):
    inputs = images.clone().requires_grad_()
    gradient = torch.autograd.grad(net(inputs)[:, 2].sum(), inputs)[0].abs().amax(1, keepdim=True)
    expected = unit(F.avg_pool2d(gradient, 5, 1, 2)[:, 0])
    np.testing.assert_allclose(saliency.saliency(net, images, [2] * 11), expected, atol=1e-4)
    assert saliency.gradcam(net, images[:0], []).shape == (0, 64, 64)


def test_a_network_that_trains_is_left_as_it_was(images):
    """Looking at a map must not teach the averages of batch norm anything."""
    net = network("resnet18", "none", 64).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    asked = images[:2].clone()
    maps = saliency.gradcam(net, asked, [0, 1]), saliency.saliency(net, asked, [0, 1])
    assert net.training and net.backbone.bn1.training
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert torch.equal(asked, images[:2]) and not asked.requires_grad
    net.eval()
    np.testing.assert_array_equal(maps[0], saliency.gradcam(net, asked, [0, 1]))


@pytest.mark.parametrize("name", ["swin_t", "squeezenet1_1", "inception_v3"])
def test_other_architectures_have_maps_too(name):
    net, side = network(name, "none", 96).eval(), 96
    maps = saliency.gradcam(net, torch.rand(2, 3, side, side), [0, 1])
    assert maps.shape == (2, side, side) and maps.min() >= 0 and maps.max() <= 1


# The checks.


class Corner(torch.nn.Module):
    """Answers class 1 as far as the upper left quarter is bright, and sees nothing else."""

    def forward(self, x):
        inside = x[:, :, :16, :16].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(inside), 10 * inside], 1)


def test_the_right_map_is_better_than_a_random_and_a_wrong_one():
    images = torch.full((3, 3, 32, 32), -1.0)
    images[:, :, :16, :16] = torch.tensor([1.0, -1.0]).repeat(8)  # detail that a blur takes away
    images[:, :, :16, :16] += 0.6
    right = np.zeros((3, 32, 32), np.float32)
    right[:, :16, :16] = 1
    ours = saliency.curves(Corner(), images, [1, 1, 1], right)
    noise = saliency.curves(Corner(), images, [1, 1, 1], saliency.random_maps(3, 32, 0))
    wrong = saliency.curves(Corner(), images, [1, 1, 1], 1 - right)
    for other in (noise, wrong):
        assert (ours["deletion"].mean(1) < other["deletion"].mean(1)).all()
        assert (ours["insertion"].mean(1) > other["insertion"].mean(1)).all()
    by_hand = F.interpolate(F.avg_pool2d(images, 8), (32, 32), mode="bilinear")  # 4 x 4 places
    whole, blurred = (Corner()(x).softmax(1)[:, 1] for x in (images, by_hand))
    for name, start, end in (("deletion", whole, blurred), ("insertion", blurred, whole)):
        assert ours[name].shape == (3, 11)
        np.testing.assert_allclose(ours[name][:, 0], start, rtol=1e-5)
        np.testing.assert_allclose(ours[name][:, -1], end, rtol=1e-5)


def test_a_randomised_network_is_another_one_and_leaves_the_first_alone(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    other = saliency.randomised(net, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    weights = [name for name, value in before.items() if value.ndim > 1 and "normalise" not in name]
    same = [name for name in weights if torch.equal(before[name], other.state_dict()[name])]
    assert len(weights) > 15 and not same
    assert torch.equal(other.normalise.mean, net.normalise.mean)


def test_rank_correlation_is_one_with_itself_and_nan_for_a_constant_map():
    maps = np.random.default_rng(0).random((3, 9, 9))
    np.testing.assert_allclose(saliency.rank_correlation(maps, np.exp(maps)), 1)
    np.testing.assert_allclose(saliency.rank_correlation(maps, -maps), -1)
    ranks = [each.ravel().argsort().argsort() for each in maps[:2]]
    found = saliency.rank_correlation(maps[:1], maps[1:2])[0]
    assert found == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert np.isnan(saliency.rank_correlation(maps[:1], np.ones((1, 9, 9)))).all()


def test_the_check_compares_each_map_with_noise_and_with_a_randomised_network(net, images):
    few, targets = images[:3], [0, 1, 2]
    found = saliency.check(net, few, targets, seed=5)
    maps = saliency.gradcam(net, few, targets)
    noise = saliency.random_maps(3, 64, 5)
    for which, end in ((maps, ""), (noise, "_random")):
        for name, curve in saliency.curves(net, few, targets, which).items():
            np.testing.assert_allclose(found[f"{name}{end}"], curve.mean(1))
    other = saliency.gradcam(saliency.randomised(net, 5), few, targets)
    expected = saliency.rank_correlation(maps, other)
    np.testing.assert_allclose(found["randomised_correlation"], expected)
