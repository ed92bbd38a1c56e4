"""Networks of every family: head, features, maps, early layers; weights files; what is refused."""

import dataclasses
import pickle
import shutil

import huggingface_hub
import numpy as np
import pytest
import requests
import safetensors.torch
import timm
import torch
import torchvision
from made_up import Evil, Small, same_weights
from torch import nn

from dermai_utils import files, inference, networks
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
@pytest.mark.parametrize("half", [False, True])
def test_a_weights_file_fills_all_but_the_head(tmp_path, suffix, half, capsys):
    state = timm.create_model("test_efficientnet", num_classes=1000).state_dict()
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
    path = tmp_path / f"weights.{suffix}"
    (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(state, path)
    net = network("timm:test_efficientnet", str(path), 64)
    got, fresh = net.backbone.state_dict(), network("timm:test_efficientnet", "none", 64)
    for key, value in state.items():
        if not key.startswith("classifier"):
            assert torch.equal(got[key], value.float() if half else value)
            assert got[key].dtype != torch.float16
    assert same_weights(
        fresh.backbone.classifier.state_dict(), net.backbone.classifier.state_dict()
    )
    assert (
        f"weights: {len(state)} tensors from weights.{suffix}; a new head"
        in capsys.readouterr().out
    )


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
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "other.pth")
    torch.save({"epoch": 3}, tmp_path / "whole.pth")
    torch.save({"model": Evil(evil)}, tmp_path / "zipped.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "more.pth").read_bytes()[:3000])
    (tmp_path / "text.safetensors").write_bytes(b"hello")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Evil(evil), protocol=2))
    cases = {
        "missing.pth": f"not for this backbone: missing {key}$",
        "more.pth": "not for this backbone: unexpected more$",
        "shape.pth": rf"not for this backbone: size mismatch for {key}: ",
        "other.pth": r"not for this backbone: .* and \d+ more",
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


@pytest.fixture
def hubs(tmp_path, monkeypatch):
    """A server that has torchvision's ResNet-18 until its file is gone; Hugging Face can't be
    reached. (the server's file, torch hub's cache, Hugging Face's cache)"""
    served, caches = tmp_path / "served", (tmp_path / "torch", tmp_path / "hf")
    torch.save(torchvision.models.resnet18().state_dict(), served)
    default = torchvision.models.ResNet18_Weights.DEFAULT
    url = f"https://server/resnet18-{files.checksum(served)[:8]}.pth"
    monkeypatch.setattr(default, "_value_", dataclasses.replace(default.value, url=url))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(caches[0]))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(caches[1]))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def fetch(url, target, *_, **__):
        shutil.copy(served, target)  # an OSError where there is no server

    def unreachable(*_, **__):
        raise requests.ConnectionError("no route to the host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    monkeypatch.setattr(requests, "head", unreachable)
    return served, *caches


def test_imagenets_weights_are_fetched_once_and_without_a_server_are_one_line(hubs):
    served, cache, _ = hubs
    state = torch.load(served)
    net = network("resnet18", "imagenet", 64)
    served.unlink()
    for again in (net, network("resnet18", "imagenet", 64)):
        got = again.backbone.state_dict()
        assert all(torch.equal(got[k], v) for k, v in state.items() if not k.startswith("fc."))
    (cached,) = (cache / "checkpoints").iterdir()
    cached.write_bytes(cached.read_bytes()[:1_000_000])
    with pytest.raises(UserError, match="resnet18: .* cannot be read .*: delete that file"):
        network("resnet18", "imagenet", 64)
    cached.unlink()
    with pytest.raises(UserError, match="resnet18: .* could not be had .*; go online, or give"):
        network("resnet18", "imagenet", 64)


def test_timms_weights_are_read_from_the_cache_without_asking_anybody(hubs, monkeypatch):
    with pytest.raises(UserError, match="could not be had .ConnectionError.; go online"):
        network("timm:test_resnet", "imagenet", 64)
    state = timm.create_model("test_resnet", num_classes=1000).state_dict()
    folder = hubs[2] / "models--timm--test_resnet.r160_in1k"
    for name in ("refs", "snapshots/1"):
        (folder / name).mkdir(parents=True)
    (folder / "refs" / "main").write_text("1")
    path = folder / "snapshots" / "1" / "model.safetensors"
    safetensors.torch.save_file(state, path)
    net = network("timm:test_resnet", "imagenet", 64)
    assert torch.equal(net.backbone.conv1[0].weight, state["conv1.0.weight"])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"{path} cannot be read .*: delete that file and try"):
        network("timm:test_resnet", "imagenet", 64)
    with pytest.raises(UserError, match="timm has no ImageNet weights of vit_base_patch16_xp_224"):
        network("timm:vit_base_patch16_xp_224", "imagenet", 224)


# What is refused.


@pytest.mark.parametrize("name, size", [("vit_b_16", 60), ("alexnet", 32), ("timm:levit_128", 60)])
def test_a_size_that_a_backbone_cannot_take_is_one_line(name, size):
    said = f"backbone={name}: it takes no images of {size} px"
    with pytest.raises(UserError, match=said) as caught:
        network(name, "none", size)
    assert "\n" not in str(caught.value)


def test_an_unknown_backbone_is_answered_with_names():
    with pytest.raises(UserError, match="torchvision has no such classifier; near: .*resnet18"):
        network("resnet19")
    with pytest.raises(UserError, match="tf_efficientnet_lite0"):
        network("timm:tf_efficientnet_light0")
    with pytest.raises(UserError, match="backbone='hub:resnet18': hub has no such classifier"):
        network("hub:resnet18")


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


def densenet():
    net = network("densenet121", "none", 64).backbone
    return net, lambda x: net.features(x).relu(), lambda x: net.classifier(x.mean((2, 3)))


def swin():
    net = torchvision.models.SwinTransformer([4, 4], 8, [1, 2], [1, 2], [4, 4], num_classes=7)
    return net, lambda x: net.norm(net.features(x)), lambda x: net.head(x.mean((1, 2)))


def squeezenet():
    net = torchvision.models.squeezenet1_1(num_classes=7)
    return net, net.features, lambda x: net.classifier(x).flatten(1)


def of_timm(name, **options):
    def build():
        net = timm.create_model(name, num_classes=7, **options)
        return net, net.forward_features, net.forward_head

    return build


TINY = dict(embed_dim=8, depths=(1, 1, 1), num_heads=(1, 2, 4), img_size=64, window_size=4)
PVT = dict(depths=[1] * 4, embed_dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2))
FAMILIES = {"densenet": densenet, "swin": swin, "squeezenet": squeezenet} | {
    "timm lite": of_timm("test_efficientnet"),
    "timm resnet": of_timm("test_resnet"),
    "timm convnext": of_timm("test_convnext"),
    "timm maxvit": of_timm("test_maxvit"),
    "timm swin": of_timm("swin_tiny_patch4_window7_224", **TINY),
    "timm poolformer": of_timm("poolformer_s12"),
    "timm pvt_v2": of_timm("pvt_v2_b0", **PVT),
    "timm regnet": of_timm("regnetx_002"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_map_is_what_the_networks_own_second_half_goes_on_with(family):
    """The network is cut in two by hand, or by timm's own forward_features and forward_head."""
    torch.manual_seed(1)
    (net, before, after), size = FAMILIES[family](), 160 if family == "timm maxvit" else 64
    net.eval()
    images, kept = torch.rand(2, 3, size, size), []
    with torch.no_grad():
        for parameter in net.parameters():  # some branches begin at almost nothing
            parameter.add_(0.05 * torch.randn_like(parameter))
        last = feature_maps(net, size)[-1]
        with networks.hooked([last.module], lambda *args: kept.append(args[2].clone())):
            logits = net(images)
        expected = before(images)
        assert torch.allclose(after(expected), logits, rtol=1e-4, atol=1e-5)
    turned = expected.shape[1] == expected.shape[2] != expected.shape[3]
    expected = expected.permute(0, 3, 1, 2) if turned else expected
    assert torch.allclose(last.first(kept[0]), expected, atol=1e-5)
    assert expected.shape[2:] == (last.side, last.side) and last.side > 1


STAGES = {"timm swin": "norm", "timm pvt_v2": "stages.2", "timm poolformer": "stages.2"}
STAGES |= {"timm resnet": "layer3", "timm lite": "blocks.3"}


@pytest.mark.parametrize("family, stage", STAGES.items())
def test_each_stage_is_listed_as_a_whole_and_in_order(family, stage):
    net = FAMILIES[family]()[0]
    maps = feature_maps(net.eval(), 64)
    *_, place = (place for place in maps if place.side >= 4)
    assert place.module is net.get_submodule(stage)
    assert place.channels_last == (family == "timm swin")
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
