"""Which layer Grad-CAM and the out-of-distribution check look at, family by family: small networks,
against their own forward pass cut in two by hand."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torchvision import models

from dermai_utils.config import UserError
from dermai_utils.predict import ood
from dermai_utils.report import gradcam
from dermai_utils.training import model
from dermai_utils.training.feature_maps import feature_maps

SIZE = 64


def timm_network(name, size=SIZE, **options):
    net = timm.create_model(name, num_classes=7, **options)
    head = net.get_classifier()
    net.head_names = [n for n, m in net.named_modules() if m is head]
    return net, size, net.forward_features, net.forward_head


def torchvision_network(net, head, before, after, size=SIZE):
    net.head_names = [head]
    return net, size, before, after


def resnet():
    net = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=7)
    before = torch.nn.Sequential(*list(net.children())[:-2])
    return torchvision_network(net, "fc", before, lambda x: net.fc(x.mean((2, 3))))


def densenet():
    net = models.DenseNet(8, (1, 1, 1, 1), 16, num_classes=7)
    after = lambda x: net.classifier(x.relu().mean((2, 3)))  # noqa: E731
    return torchvision_network(net, "classifier", net.features, after)


def convnext():
    blocks = [models.convnext.CNBlockConfig(8, 16, 2), models.convnext.CNBlockConfig(16, None, 1)]
    net = models.ConvNeXt(blocks, num_classes=7)
    after = lambda x: net.classifier(net.avgpool(x))  # noqa: E731
    return torchvision_network(net, "classifier.2", net.features, after)


def swin():
    net = models.SwinTransformer([4, 4], 8, [1, 2], [1, 2], [4, 4], num_classes=7)
    before = lambda x: net.norm(net.features(x)).permute(0, 3, 1, 2)  # noqa: E731
    return torchvision_network(net, "head", before, lambda x: net.head(x.mean((2, 3))))


def maxvit():
    options = dict(partition_size=2, block_channels=[8, 8], block_layers=[1, 1], head_dim=8)
    net = models.MaxVit((SIZE, SIZE), 8, stochastic_depth_prob=0, num_classes=7, **options)
    before = torch.nn.Sequential(net.stem, *net.blocks)
    return torchvision_network(net, "classifier.5", before, net.classifier)


def features_then(net, head):
    """As MobileNet: features, a pool, a classifier."""

    def after(x):
        return net.classifier(net.avgpool(x).flatten(1))

    return torchvision_network(net, head, net.features, after)


def squeezenet():
    net = models.squeezenet1_1(num_classes=7)
    after = lambda x: net.classifier(x).flatten(1)  # noqa: E731
    return torchvision_network(net, "classifier.1", net.features, after)


NETWORKS = {
    "resnet": resnet,
    "densenet": densenet,
    "convnext": convnext,
    "swin": swin,
    "maxvit": maxvit,
    "squeezenet": squeezenet,
    "mobilenet_v3": lambda: features_then(models.mobilenet_v3_small(num_classes=7), "classifier.3"),
    "timm lite": lambda: timm_network("test_efficientnet"),
    "timm resnet": lambda: timm_network("test_resnet"),
    "timm convnext": lambda: timm_network("test_convnext"),
    "timm maxvit": lambda: timm_network("test_maxvit", 160),
    "timm swin": lambda: timm_network(
        "swin_tiny_patch4_window7_224",
        img_size=SIZE,
        window_size=4,
        embed_dim=8,
        depths=(1, 1, 1),
        num_heads=(1, 2, 4),
    ),
    "timm poolformer": lambda: timm_network("poolformer_s12"),
    "timm pvt_v2": lambda: timm_network(
        "pvt_v2_b0", depths=(1, 1, 1, 1), embed_dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2)
    ),
    "timm regnet": lambda: timm_network("regnetx_002"),
}


def channels_first(x):
    return x.permute(0, 3, 1, 2) if x.shape[1] == x.shape[2] != x.shape[3] else x


@pytest.mark.parametrize("name", NETWORKS)
def test_gradcam_is_that_of_the_last_blocks_output(name):
    """Its formula by hand (Selvaraju et al., equations 1 and 2), on the map that the network's own
    halves pass on."""
    torch.manual_seed(1)
    net, size, before, after = NETWORKS[name]()
    net.eval()
    with torch.no_grad():  # ConvNeXt's and the transformers' branches begin at almost nothing
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    images, targets = torch.randn(7, 3, size, size), range(7)
    place = before(images).detach().requires_grad_()
    logits = after(place.clone())
    np.testing.assert_allclose(logits.detach(), net(images).detach(), rtol=1e-4, atol=1e-5)
    gradient = torch.autograd.grad(logits.diagonal().sum(), place)[0]
    place, gradient = (channels_first(x.detach()) for x in (place, gradient))
    assert place.shape[2] == place.shape[3] > 1
    by_hand = torch.einsum("nc,nchw->nhw", gradient.mean((2, 3)), place).clamp_min(0)
    by_hand = F.interpolate(by_hand[:, None], (size, size), mode="bilinear")[:, 0].numpy()
    low, high = by_hand.min((1, 2), keepdims=True), by_hand.max((1, 2), keepdims=True)
    expected = (by_hand - low) / np.maximum(high - low, 1e-12)
    np.testing.assert_allclose(gradcam.gradcam(net, images, targets), expected, atol=2e-3)
    assert expected.max() == 1  # some map is not empty


@pytest.mark.parametrize(
    "name",
    ["timm:levit_128s", "timm:vit_tiny_patch16_224", "vit_b_32", "timm:xcit_nano_12_p16_224"],
)
def test_a_transformer_on_tokens_has_no_map(name):
    """LeViT's stem is one, but what its attention makes of it are tokens."""
    with pytest.raises(UserError, match="transformer"):
        feature_maps(model.build(name, "none", 224).eval(), 224)


@pytest.mark.parametrize(
    "name, stage",
    {
        "timm swin": "norm",
        "timm pvt_v2": "stages.2",
        "timm poolformer": "stages.2",
        "convnext": "features",
        "resnet": "layer3",
        "timm lite": "blocks.3",
    }.items(),
)
def test_the_ood_check_looks_at_the_last_stage_with_a_sixteenth_of_the_side(name, stage):
    net, size, *_ = NETWORKS[name]()
    place = ood.half_way(net.eval(), size)
    assert place.module is net.get_submodule(stage) and place.side >= size / 16
    assert place.channels_last == (name == "timm swin")


def test_a_block_whose_output_is_one_place_is_no_map_and_neither_is_what_is_inside_it():
    net = model.build("inception_v3", "none", 96).eval()
    assert feature_maps(net, 96)[-1].module is net.Mixed_6e
