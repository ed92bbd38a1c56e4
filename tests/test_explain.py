import numpy as np
import pandas as pd
import pytest
import torch

from dermai_utils import explain, model
from dermai_utils.config import CLASSES, UserError


@pytest.mark.parametrize("name, size", [("resnet18", 64), ("densenet121", 64), ("convnext_tiny", 64), ("swin_t", 64),
                                        ("squeezenet1_1", 64), ("timm:tf_efficientnet_lite0", 64)])  # fmt: skip
def test_gradcam_finds_a_map_in_any_convolutional_backbone(name, size):
    net = model.build(name, "none", size).eval()
    maps = explain.gradcam(net, torch.randn(2, 3, size, size), [0, 1])
    assert maps.shape == (2, size, size) and maps.min() >= 0 and maps.max() <= 1


def test_a_vision_transformer_gets_a_plain_message():
    with pytest.raises(UserError, match="transformer"):
        explain.gradcam(model.build("vit_b_32", "none", 64).eval(), torch.randn(1, 3, 64, 64), [0])


def test_gradcam_is_its_own_formula():
    """Against a computation by hand: mean gradient a channel, weighted sum, ReLU (Selvaraju et al., equations 1 and 2)."""
    net = model.build("resnet18", "none", 64).eval()
    images = torch.randn(2, 3, 64, 64)
    kept = {}
    hook = net.layer4.register_forward_hook(lambda m, i, o: kept.update(map=o))
    logits = net(images)
    gradient = torch.autograd.grad(logits[0, 1] + logits[1, 3], kept["map"])[0]
    hook.remove()
    by_hand = (gradient.mean((2, 3), keepdim=True) * kept["map"]).sum(1, keepdim=True).relu()
    by_hand = torch.nn.functional.interpolate(by_hand.detach(), (64, 64), mode="bilinear", align_corners=False)[:, 0]
    low, high = by_hand.amin((1, 2), keepdim=True), by_hand.amax((1, 2), keepdim=True)
    expected = ((by_hand - low) / (high - low).clamp_min(1e-12)).numpy()
    np.testing.assert_allclose(explain.gradcam(net, images, [1, 3]), expected, atol=1e-4)


def test_saliency_is_the_gradient_of_the_logit():
    net = model.build("resnet18", "none", 64).eval()
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    gradient = torch.autograd.grad(net(images)[0, 2], images)[0].abs().amax(1, keepdim=True)
    smooth = torch.nn.functional.avg_pool2d(gradient, 5, 1, 2)[0, 0]
    expected = ((smooth - smooth.min()) / (smooth.max() - smooth.min())).numpy()
    np.testing.assert_allclose(explain.saliency(net, images.detach(), [2])[0], expected, atol=1e-4)


def test_a_class_gets_its_surest_right_wrong_and_unsure_image():
    frame = pd.DataFrame({
        "image": list("abcde"), "truth": ["NV"] * 5, "prediction": ["NV", "NV", "MEL", "MEL", "NV"],
        "confidence": [0.9, 0.8, 0.7, 0.95, 0.3],
    })  # fmt: skip
    assert explain.choose(frame).set_index("kind")["image"].to_dict() == {"correct": "a", "wrong": "d", "uncertain": "e"}
    assert explain.choose(frame[:0]).empty


def test_what_is_shown_is_what_the_model_saw():
    net = model.build("resnet18", "none", 32)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    mean, std = torch.tensor(net.mean)[:, None, None], torch.tensor(net.std)[:, None, None]
    normalised = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    assert (explain.seen(normalised, net) == pixels.numpy()).all()


def test_the_overlays_of_the_fixture_are_made(made):
    assert (made.report_dir / "gradcam.png").stat().st_size > 50_000
    assert len(CLASSES) == 7
