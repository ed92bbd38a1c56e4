"""Networks of every family: head, features, maps, early layers; weights files; what is refused."""

import pickle

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from made_up import Evil, Small, same_weights
from torch import nn

from dermai_utils import inference, networks
from dermai_utils.basics import UserError
from dermai_utils.networks import feature_maps, network

# one of each way in which torchvision and timm name and build their last layer
BACKBONES = "small resnet18 squeezenet1_1 mobilenet_v3_small googlenet inception_v3 convnext_tiny "
BACKBONES += "densenet121 vit_b_32 swin_t timm:tf_efficientnet_lite0 timm:vit_tiny_patch16_224 "
BACKBONES += "timm:convnext_atto timm:levit_128s timm:deit_tiny_distilled_patch16_224"


@pytest.mark.parametrize("name", BACKBONES.split())
def test_every_kind_of_backbone_gives_seven_logits_that_learn(name):
    size = {"inception_v3": 96, "timm:levit_128s": 224}.get(name, 64)
    net = network(name, "none", size).train()
    logits = net(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 7)
    assert logits.abs().max() < 2  # a new head begins undecided
    logits.sum().backward()
    heads = networks.heads(net)
    assert len(heads) == (2 if "distilled" in name or "levit" in name else 1)
    assert all(p.grad is not None for head in heads for p in head.parameters())
    pixels = np.zeros((2, size, size, 3), np.uint8)
    logits, features = inference.predict(net, pixels, with_features=True)
    assert logits.shape == (2, 7) and features.ndim == 2 and len(features) == 2


def test_the_seed_decides_the_weights_and_nothing_outside_changes():
    torch.manual_seed(5)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(5)
    states = [network("timm:test_resnet", "none", 32, seed).state_dict() for seed in (1, 1, 2)]
    assert same_weights(states[0], states[1]) and not same_weights(states[0], states[2])
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


def test_normalisation_is_the_pretrainings_and_the_rest_is_the_librarys():
    net, images = network("resnet18", "none", 64, seed=3).eval(), torch.rand(2, 3, 64, 64)
    model = torchvision.models.resnet18(num_classes=7).eval()
    model.load_state_dict(net.backbone.state_dict())
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    seen = torchvision.transforms.functional.normalize(images, mean, std)
    assert torch.allclose(net(images), model(seen), atol=1e-5)
    half = network("timm:vit_tiny_patch16_224", "none", 64).normalise  # -1..1, as its pretraining
    assert torch.equal(half(torch.ones(1, 3, 2, 2)), torch.ones(1, 3, 2, 2))


# Weights from a file.


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_weights_file_fills_all_but_the_head(tmp_path, suffix, capsys):
    state = timm.create_model("test_efficientnet", num_classes=1000).half().state_dict()
    path = tmp_path / f"weights.{suffix}"
    (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(state, path)
    got, fresh = (
        network("timm:test_efficientnet", weights, 64).backbone.state_dict()
        for weights in (str(path), "none")
    )
    for key, value in got.items():
        expected = fresh[key] if key.startswith("classifier") else state[key].to(value.dtype)
        assert value.dtype != torch.float16 and torch.equal(value, expected)
    said = f"weights: {len(state)} tensors from weights.{suffix}; a new head"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("wrapped", ["plain", "DataParallel", "model", "state_dict", "Sequential"])
def test_weights_of_the_same_network_bring_their_head(tmp_path, wrapped, capsys):
    trained = network("timm:test_resnet", "none", 32, seed=1)
    state = trained.backbone.state_dict()
    forms = {"DataParallel": {f"module.{key}": value for key, value in state.items()}}
    forms |= {"plain": state, "Sequential": trained.state_dict()}
    forms |= {name: {name: state, "epoch": 3} for name in ("model", "state_dict")}
    torch.save(forms[wrapped], tmp_path / "x.pth")
    got = network("timm:test_resnet", str(tmp_path / "x.pth"), 32)
    assert same_weights(got.state_dict(), trained.state_dict())
    assert "its head too" in capsys.readouterr().out


def test_weights_that_do_not_fit_are_one_line_and_pickles_are_never_executed(tmp_path):
    good = network("timm:test_resnet", "none", 32).backbone.state_dict()
    key = "conv1.0.weight"
    rest = {name: value for name, value in good.items() if name != key}
    evil = tmp_path / "executed"

    torch.save(rest, tmp_path / "missing.pth")
    torch.save(good | {"more": torch.zeros(1)}, tmp_path / "more.pth")
    torch.save(good | {key: torch.zeros(1)}, tmp_path / "shape.pth")
    torch.save({"epoch": 3}, tmp_path / "whole.pth")
    torch.save({"model": Evil(evil)}, tmp_path / "zipped.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "more.pth").read_bytes()[:3000])
    (tmp_path / "text.safetensors").write_bytes(b"hello")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Evil(evil), protocol=2))
    cases = {
        "missing.pth": f'not for this backbone: Missing key.*: "{key}"',
        "more.pth": 'not for this backbone: Unexpected key.*: "more"',
        "shape.pth": f"not for this backbone: size mismatch for {key}: ",
        "whole.pth": "no state_dict",
        "gone.pth": "No such file",
    }
    unreadable = ("text.safetensors", "half.pth", "pickle.pth", "zipped.pth")
    cases |= dict.fromkeys(unreadable, "cannot be read as tensors")
    for name, said in cases.items():
        with pytest.raises(UserError, match=said) as caught:
            network("timm:test_resnet", str(tmp_path / name), 32)
        assert "\n" not in str(caught.value) and name in str(caught.value)
    assert not evil.exists()


# ImageNet weights, through the caches of the two hubs.

CACHED = {
    "resnet18": "hub/checkpoints/resnet18-f37072fd.pth",
    "timm:test_resnet": "models--timm--test_resnet.r160_in1k/snapshots/1/model.safetensors",
}


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The folder of both caches, where no server can be reached."""
    hidden = {"TORCH_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    for name, value in hidden.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", CACHED)
def test_imagenets_weights_are_read_from_the_cache_and_without_a_server_are_one_line(offline, name):
    with pytest.raises(UserError, match="could not be had .*; go online, or give"):
        network(name, "imagenet", 64)
    path = offline / CACHED[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "resnet18":
        state = torchvision.models.resnet18().state_dict()
        torch.save(state, path)
    else:
        state = timm.create_model("test_resnet").state_dict()
        safetensors.torch.save_file(state, path)
        refs = path.parents[2] / "refs" / "main"
        refs.parent.mkdir()
        refs.write_text("1")
    got = network(name, "imagenet", 64).backbone.state_dict()
    assert all(torch.equal(got[k], v) for k, v in state.items() if not k.startswith("fc."))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"{offline}.* cannot be read .*: delete that file and try"):
        network(name, "imagenet", 64)


# What is refused.


@pytest.mark.parametrize(
    "name, weights, size, said",
    [
        ("vit_b_16", "none", 60, "backbone=vit_b_16: it takes no images of 60 px"),
        ("alexnet", "none", 32, "backbone=alexnet: it takes no images of 32 px"),
        ("timm:levit_128", "none", 60, "backbone=timm:levit_128: it takes no images of 60 px"),
        ("resnet19", "none", 64, "torchvision has no such classifier; near: .*resnet18"),
        ("timm:tf_efficientnet_light0", "none", 64, "tf_efficientnet_lite0"),
        ("hub:resnet18", "none", 64, "backbone='hub:resnet18': hub has no such classifier"),
        ("small", "imagenet", 64, "small has no ImageNet weights"),
        ("timm:vit_base_patch16_xp_224", "imagenet", 224, "timm has no ImageNet weights of vit_ba"),
    ],
)
def test_a_network_that_cannot_be_had_is_one_line(name, weights, size, said):
    with pytest.raises(UserError, match=said) as caught:
        network(name, weights, size)
    assert "\n" not in str(caught.value)


def test_a_network_of_ones_own_needs_seven_outputs():
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    with pytest.raises(UserError, match="no layer of 7 outputs"):
        networks.head(wrong)
    with pytest.raises(UserError, match=r"Sequential: expected 7 logits an image, got \(5,\)"):
        networks.check_size(wrong, 4)
    net = Small().train()
    assert [place.module for place in feature_maps(net, 16)] == [net.first, net.norm]
    assert net.training and net.norm.num_batches_tracked == 0  # looking teaches it nothing


# A network's layers.


def test_early_layers_are_those_at_a_quarter_of_the_side_or_more():
    net = network("resnet18", "none", 64)
    parts = (net.backbone.get_submodule(name) for name in ("conv1", "bn1", "layer1"))
    expected = [layer for part in parts for layer in networks.weighted_layers(part)]
    assert networks.early_layers(net, 64) == expected
    lite = network("timm:tf_efficientnet_lite0", "none", 128)
    early, block = networks.early_layers(lite, 128), lite.backbone.blocks[2][0]
    assert lite.backbone.conv_stem in early and block.bn1 in early and block.conv_dw not in early
    assert networks.early_layers(network("timm:test_vit", "none", 64), 64) == []
    vit = torchvision.models.VisionTransformer(64, 32, 1, 2, 8, 16, num_classes=7)
    assert networks.early_layers(vit, 64) == []
    assert networks.early_layers(net.to("meta"), 64) == expected  # wherever the network is


SWIN = dict(embed_dim=8, depths=(1, 1, 1), num_heads=(1, 2, 4), img_size=64, window_size=4)
PVT = dict(depths=[1] * 4, embed_dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2))
TINY = {"swin_tiny_patch4_window7_224": SWIN, "pvt_v2_b0": PVT}
STAGES = {"swin_tiny_patch4_window7_224": "norm", "pvt_v2_b0": "stages.2", "test_resnet": "layer3"}
STAGES |= {"poolformer_s12": "stages.2", "test_efficientnet": "blocks.3"}


@pytest.mark.parametrize("family", [*STAGES, "test_convnext", "test_maxvit", "regnetx_002"])
def test_the_last_map_is_what_the_networks_own_second_half_goes_on_with(family):
    """timm cuts its networks in two, by forward_features and forward_head."""
    torch.manual_seed(1)
    net = timm.create_model(family, num_classes=7, **TINY.get(family, {})).eval()
    size = 160 if family == "test_maxvit" else 64
    images, kept = torch.rand(2, 3, size, size), []
    with torch.no_grad():
        for parameter in net.parameters():  # some branches begin at almost nothing
            parameter.add_(0.05 * torch.randn_like(parameter))
        last = feature_maps(net, size)[-1]
        with networks.hooked([last.module], lambda *args: kept.append(args[2].clone())):
            logits = net(images)
        expected = net.forward_features(images)
        assert torch.allclose(net.forward_head(expected), logits, rtol=1e-4, atol=1e-5)
    expected = expected.permute(0, 3, 1, 2) if last.channels_last else expected
    assert torch.allclose(last.first(kept[0]), expected, atol=1e-5)
    assert expected.shape[2:] == (last.side, last.side) and last.side > 1


@pytest.mark.parametrize("family, stage", STAGES.items())
def test_each_stage_is_listed_as_a_whole_and_in_order(family, stage):
    net = timm.create_model(family, num_classes=7, **TINY.get(family, {})).eval()
    maps = feature_maps(net, 64)
    *_, place = (place for place in maps if place.side >= 4)
    assert place.module is net.get_submodule(stage)
    assert place.channels_last == (stage == "norm")
    sides = [place.side for place in maps]
    assert sides == sorted(sides, reverse=True)


@pytest.mark.parametrize("name", ["timm:levit_128s", "timm:test_vit", "timm:xcit_nano_12_p16_224"])
def test_a_transformer_on_tokens_has_no_map(name):
    """LeViT's stem makes one, but what its attention makes of it are tokens."""
    with pytest.raises(UserError, match="transformer"):
        feature_maps(network(name, "none", 224).eval(), 224)


def test_a_block_whose_output_is_one_place_is_no_map_and_neither_is_what_is_inside_it():
    net = network("inception_v3", "none", 96).eval()
    assert feature_maps(net, 96)[-1].module is net.backbone.Mixed_6e
