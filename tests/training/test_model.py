import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from dermai_utils.config import CLASSES, UserError
from dermai_utils.training import augment, inference, model

# One of each way in which torchvision and timm name and build their last layer.
BACKBONES = {
    "resnet18": 64,
    "alexnet": 64,
    "squeezenet1_1": 64,
    "densenet121": 64,
    "mobilenet_v3_small": 64,
    "efficientnet_b0": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "convnext_tiny": 64,
    "vit_b_32": 64,
    "swin_t": 64,
    "maxvit_t": 224,
    "timm:tf_efficientnet_lite0": 64,
    "timm:vit_tiny_patch16_224": 64,
    "timm:convnext_atto": 64,
    "timm:levit_128s": 224,
}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_kind_of_backbone_gives_seven_logits_that_learn(name):
    size = BACKBONES[name]
    net = model.build(name, "none", size).train()
    logits = net(torch.randn(2, 3, size, size))
    assert logits.shape == (2, len(CLASSES))
    assert logits.abs().max() < 2  # a new head begins undecided
    logits.sum().backward()
    assert all(p.grad is not None for p in model.head(net).parameters())
    assert len(net.mean) == len(net.std) == 3
    batches = augment.Batches(
        np.zeros((3, size, size, 3), np.uint8), size, net.mean, net.std, "cpu", 1
    )
    logits, features = inference.predict(net, batches, np.arange(3), 2, with_features=True)
    assert logits.shape == (3, 7) and features.ndim == 2 and len(features) == 3


def test_predictions_keep_their_order_and_are_those_of_the_model():
    net = model.build("resnet18", "none", 32, seed=3).eval()
    images = np.random.default_rng(0).integers(0, 256, (7, 75, 100, 3), np.uint8)
    batches = augment.Batches(images, 32, net.mean, net.std, "cpu", 1)
    rows = np.array([5, 0, 6, 2])
    with torch.no_grad():
        expected = torch.cat([net(batches(rows[[k]])) for k in range(4)]).numpy()
    np.testing.assert_allclose(inference.predict(net, batches, rows, 3), expected, atol=1e-4)
    assert inference.predict(net, batches, rows[:0], 3).shape == (0, 7)
    probabilities = inference.softmax(expected)
    np.testing.assert_allclose(
        probabilities, np.exp(expected) / np.exp(expected).sum(1, keepdims=True), rtol=1e-5
    )


def test_the_same_seed_gives_the_same_head():
    weight = [model.head(model.build("resnet18", seed=seed)).weight for seed in (1, 1, 2)]
    assert torch.equal(weight[0], weight[1]) and not torch.equal(weight[0], weight[2])


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("half", [False, True])
def test_a_weights_file_fills_all_but_the_head(tmp_path, suffix, half):
    import timm

    source = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    state = {
        k: v.half() if half and v.is_floating_point() else v.clone()
        for k, v in source.state_dict().items()
    }
    path = tmp_path / f"weights.{suffix}"
    safetensors.torch.save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    net = model.build("timm:tf_efficientnet_lite0", str(path), 64)
    got = net.state_dict()
    assert all(
        torch.allclose(got[k].float(), state[k].float())
        for k in state
        if not k.startswith("classifier")
    )
    assert (
        got["classifier.weight"].shape == (7, 1280)
        and got["conv_stem.weight"].dtype == torch.float32
    )


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/dermai-evil", "w"))


def test_bad_weights_are_one_line(tmp_path):
    good = model.build("resnet18").state_dict()
    cases = {
        "other.pth": (
            lambda p: torch.save(model.build("alexnet").state_dict(), p),
            "not for this backbone: missing",
        ),
        "shape.pth": (
            lambda p: torch.save(good | {"conv1.weight": torch.zeros(1)}, p),
            r"conv1.weight is \(1,\), not",
        ),
        "text.safetensors": (lambda p: p.write_text("hello"), "cannot be read as tensors"),
        "pickle.pth": (lambda p: p.write_bytes(pickle.dumps(Evil())), "cannot be read as tensors"),
        "whole.pth": (lambda p: torch.save({"epoch": 3}, p), "no state_dict"),
    }
    for name, (write, said) in cases.items():
        write(tmp_path / name)
        with pytest.raises(UserError, match=said) as caught:
            model.build("resnet18", str(tmp_path / name))
        assert "\n" not in str(caught.value) and name in str(caught.value)
    import os

    assert not os.path.exists("/tmp/dermai-evil")  # the pickle was never executed
    with pytest.raises(UserError, match="no such file"):
        model.build("resnet18", str(tmp_path / "gone.pth"))


@pytest.mark.parametrize("name, size", [("vit_b_16", 60), ("alexnet", 32), ("timm:levit_128", 60)])
def test_a_size_that_a_backbone_cannot_take_is_one_line(name, size):
    with pytest.raises(
        UserError, match=f"backbone={name}: it takes no images of {size} px"
    ) as caught:
        model.build(name, "none", size)
    assert "\n" not in str(caught.value)


def test_an_unknown_backbone_is_answered_with_names():
    with pytest.raises(UserError, match="it has alexnet"):
        model.build("resnet19")
    with pytest.raises(UserError, match="tf_efficientnet_lite0"):
        model.build("timm:tf_efficientnet_light0")


@pytest.mark.parametrize("tta", [1, 2, 4, 8])
def test_views_are_different_turns_of_the_square_and_their_logits_are_averaged(tta):
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    seen = {tuple(inference.dihedral(square, view).flatten().tolist()) for view in range(tta)}
    assert len(seen) == tta and all(sorted(one) == list(range(9)) for one in seen)
    everything = {
        tuple(np.rot90(m, k).flatten())
        for m in (square[0, 0].numpy(), square[0, 0].numpy().T)
        for k in range(4)
    }
    assert seen <= everything

    class Batches:
        def stream(self, jobs):
            return (torch.tensor(images[rows]) for rows, _ in jobs)

    images = np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 7))
    net.head_names = ["1"]
    logits, features = inference.predict(
        net, Batches(), np.arange(5), 2, with_features=True, tta=tta
    )
    expected = np.mean(
        [
            net(inference.dihedral(torch.tensor(images), view)).detach().numpy()
            for view in range(tta)
        ],
        axis=0,
    )
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    np.testing.assert_array_equal(features, images.reshape(5, 48))


def test_early_layers_are_those_at_a_quarter_of_the_side_or_more():
    net = model.build("resnet18", "none", 64)
    expected = [
        layer
        for name in ("conv1", "bn1", "layer1")
        for layer in model.weighted_layers(net.get_submodule(name))
    ]
    assert model.early_layers(net, 64) == expected
    lite = model.build("timm:tf_efficientnet_lite0", "none", 128)
    frozen = model.early_layers(lite, 128)
    assert (
        lite.blocks[2][0].bn1 in frozen
        and lite.blocks[2][0].conv_dw not in frozen
        and lite.conv_stem in frozen
    )
    assert model.early_layers(model.build("timm:test_vit", "none", 64), 64) == []
    assert model.early_layers(net.to("meta"), 64) == expected  # on whatever device the network is
