import dataclasses
import hashlib
import pickle
import shutil

import huggingface_hub
import numpy as np
import pytest
import requests
import safetensors.torch
import torch
import torchvision

from dermai_utils import files
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


def test_weights_that_dataparallel_saved_are_taken(tmp_path):
    state = model.build("resnet18", seed=1).state_dict()
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "x.pth")
    got = model.build("resnet18", str(tmp_path / "x.pth")).state_dict()
    assert all(torch.equal(got[key], state[key]) for key in state)


# ImageNet weights that come from a hub, through its cache.


@pytest.fixture
def resnet18(tmp_path, monkeypatch):
    """(the file of ResNet18's weights in torch hub's cache, the one on the server, if it's on)."""
    served = tmp_path / "served"
    torch.save(torchvision.models.resnet18().state_dict(), served)
    name = f"resnet18-{files.checksum(served)[:8]}.pth"
    weights = dataclasses.replace(
        torchvision.models.ResNet18_Weights.DEFAULT.value, url=f"https://server/{name}"
    )
    monkeypatch.setattr(torchvision.models.ResNet18_Weights.DEFAULT, "_value_", weights)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def download(url, target, *_, **__):
        shutil.copy(served, target)  # an OSError where there is no server

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / name, served


def test_truncated_weights_in_torch_hubs_cache_are_fetched_again(resnet18, capsys):
    cached, served = resnet18
    cached.write_bytes(served.read_bytes()[:1_000_000])
    net = model.build("resnet18", "imagenet", 64)
    assert torch.equal(net.conv1.weight, torch.load(served)["conv1.weight"])
    assert cached.read_bytes() == served.read_bytes()
    out = capsys.readouterr().out
    assert f"{cached} is damaged" in out
    cached.write_bytes(served.read_bytes()[:1_000_000])
    served.unlink()
    with pytest.raises(UserError, match="could not be fetched .*; go online"):
        model.build("resnet18", "imagenet", 64)


def test_weights_that_are_whole_and_unreadable_are_named(resnet18, monkeypatch):
    cached, _ = resnet18
    cached.write_bytes(b"another version's")
    named = cached.with_name(f"resnet18-{files.checksum(cached)[:8]}.pth")
    cached.rename(named)
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    own = dataclasses.replace(weights.value, url=f"https://server/{named.name}")
    monkeypatch.setattr(weights, "_value_", own)
    with pytest.raises(UserError, match="cannot be read .*; delete that file") as caught:
        model.build("resnet18", "imagenet", 64)
    assert str(named) in str(caught.value) and named.exists()


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    """put(weights): a file in Hugging Face's cache, as its client leaves it, and its place there.
    Its server cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"

    def put(data, digest):
        for name in ("blobs", "refs", "snapshots/1"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text("1")
        blob = folder / "blobs" / digest
        blob.write_bytes(data)
        (folder / "snapshots" / "1" / "model.safetensors").symlink_to(blob)
        return blob

    def unreachable(*_, **__):
        raise requests.ConnectionError("no route to the host")

    monkeypatch.setattr(requests, "head", unreachable)
    return put


def test_timms_weights_are_read_from_the_cache_without_asking_anybody(hugging_face):
    import timm

    state = timm.create_model("test_resnet", num_classes=1000).state_dict()
    data = safetensors.torch.save(state)
    digest = hashlib.sha256(data).hexdigest()
    hugging_face(data, digest)
    net = model.build("timm:test_resnet", "imagenet", 64)
    assert torch.equal(net.conv1[0].weight, state["conv1.0.weight"])


def test_without_a_network_timms_weights_are_one_line_at_once(hugging_face, monkeypatch, capsys):
    import timm

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("asked for a minute"))
    said = "test_resnet: its ImageNet weights could not be fetched .ConnectionError.; go online"
    with pytest.raises(UserError, match=said):
        model.build("timm:test_resnet", "imagenet", 64)


def test_truncated_weights_in_hugging_faces_cache_are_removed_to_be_fetched_again(
    hugging_face, capsys
):
    blob = hugging_face(b"half", hashlib.sha256(b"whole").hexdigest())
    with pytest.raises(UserError, match="could not be fetched"):
        model.build("timm:test_resnet", "imagenet", 64)
    assert not blob.exists() and "is damaged" in capsys.readouterr().out


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


def test_a_small_network_computes_with_one_thread_a_large_one_with_all(monkeypatch):
    monkeypatch.setattr(model, "THREADS", 3)
    before = torch.get_num_threads()
    try:
        model.build("timm:test_efficientnet", image_size=64)
        assert torch.get_num_threads() == 1
        model.build("resnet18", image_size=64)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
