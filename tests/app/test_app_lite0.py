"""Our Lite0 is timm's: an independent implementation is the oracle."""

import numpy as np
import pytest
import torch

from dermai_utils import networks
from dermai_utils.app import lite0, ood


@pytest.fixture(scope="module")
def both():
    """timm's network and ours, with the same random weights and statistics."""
    theirs, ours = networks.network(lite0.NAME, "none", 64).eval(), lite0.network(64).eval()
    torch.manual_seed(0)
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("size", [64, 75, 224])
def test_the_logits_are_timms(both, size):
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(size))
    with torch.inference_mode():
        theirs, ours = (net(images) for net in both)
    assert theirs.std() > 0
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_texture_and_gradcam_come_from_the_same_layers(both):
    names = []
    for net in both:
        called = {module: name for name, module in net.named_modules()}
        maps = networks.feature_maps(net, 64)
        names.append((called[ood.half_way(net, 64).module], called[maps[-1].module]))
    assert names[0] == names[1]
