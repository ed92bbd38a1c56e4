"""Logits and features against the network's own forward, one picture at a time."""

import numpy as np
import pytest
import timm
import torch
from made_up import Small
from scipy.special import softmax
from torch import nn

from dermai_utils import inference
from dermai_utils.augmentation import squares
from dermai_utils.basics import UserError
from dermai_utils.networks import network


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (7, 75, 100, 3), np.uint8)


def tensor(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("tta", [1, 2, 4, 8])
def test_logits_are_those_of_a_loop_over_pictures_and_turns(pixels, tta):
    net = network("resnet18", "none", 32, seed=3).eval()
    rows = np.array([5, 0, 6, 2, 5])
    with torch.no_grad():
        expected = [
            torch.stack([net(inference.dihedral(x[None], k))[0] for k in range(tta)]).mean(0)
            for x in squares(tensor(pixels), 32)[rows]
        ]
    found = inference.predict(net, pixels, rows=rows, tta=tta, batch=2)
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), atol=1e-4)
    assert inference.predict(net, pixels, rows=rows[:0]).shape == (0, 7)
    assert len(inference.predict(net, pixels)) == len(pixels)


def test_turns_are_the_eight_of_the_square_each_once():
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    seen = [inference.dihedral(square, k)[0, 0].numpy() for k in range(8)]
    plain = square[0, 0].numpy()
    known = [np.rot90(m, k) for m in (plain, plain.T) for k in range(4)]
    assert {x.tobytes() for x in seen} == {np.ascontiguousarray(x).tobytes() for x in known}
    assert (seen[0] == plain).all() and (seen[1] == np.rot90(seen[0], 2)).all()
    half = {np.rot90(seen[0], k).tobytes() for k in (0, 2)}
    half |= {np.rot90(np.fliplr(seen[0]), k).tobytes() for k in (0, 2)}
    assert {np.ascontiguousarray(x).tobytes() for x in seen[:4]} == half  # mirrored ones too


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("tta", [1, 2])
def test_features_are_the_heads_input_of_the_picture_as_it_is(pixels, name, tta):
    """As timm's own forward_head gives it; test-time augmentation changes the logits alone."""
    net = network(f"timm:{name}", "none", 64).eval()
    model = net.backbone
    with torch.no_grad():
        images = net.normalise(squares(tensor(pixels), 64))
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
    options = dict(tta=tta, batch=3, with_features=True)
    logits, features = inference.predict(net, pixels, **options)
    assert logits.shape == (7, 7) and features.std(0).max() > 0
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_features_of_a_head_that_is_a_convolution_are_pooled(pixels):
    net = network("squeezenet1_1", "none", 64).eval()
    features = inference.predict(net, pixels[:2], with_features=True)[1]
    with torch.no_grad():
        maps = net.backbone.features(net.normalise(squares(tensor(pixels[:2]), 64)))
    np.testing.assert_allclose(features, maps.mean((2, 3)).numpy(), rtol=1e-4, atol=1e-5)


def test_a_network_in_training_is_judged_in_evaluation_and_left_as_it_was(pixels):
    net = Small().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = inference.predict(net, pixels, tta=2, with_features=True)
    again = inference.predict(net.eval(), pixels, tta=2, with_features=True)
    assert all(map(np.array_equal, first, again))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.head._forward_pre_hooks
    net.train().forward = None
    with pytest.raises(TypeError):
        inference.predict(net, pixels)
    assert net.training and not net.head._forward_pre_hooks


def test_a_network_without_a_size_needs_one(pixels):
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 7))
    with pytest.raises(UserError, match="give size"):
        inference.predict(net, pixels)
    assert inference.predict(net, pixels, 4).shape == (7, 7)


def test_lower_precision_gives_nearly_the_same_logits(pixels):
    net = timm.create_model("test_resnet", num_classes=7)
    full, half = (inference.predict(net, pixels, 64, precision=p) for p in ("fp32", "bf16"))
    assert half.dtype == np.float32 and 0 < np.abs(full - half).max() < 0.05


def test_softmax_is_scipys():
    logits = np.random.default_rng(0).normal(0, 30, (20, 7)).astype(np.float32)
    found = inference.softmax(logits)
    np.testing.assert_allclose(found, softmax(logits.astype(float), axis=1), rtol=1e-12)
    assert found.dtype == np.float64 and np.abs(found.sum(1) - 1).max() < 1e-12


# The device.


@pytest.mark.parametrize(
    "capability, expected", [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), "fp32")]
)
def test_precision_goes_by_what_a_gpu_is_fast_at(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert inference.precision("cuda") == expected


def test_a_cpu_has_no_fp16_and_takes_bf16_where_it_is_fast(monkeypatch):
    for amx, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx, raising=False)
        assert inference.precision("cpu") == expected
    assert inference.precision("cpu", "fp16") == "fp32"
    assert inference.precision("cpu", "bf16") == "bf16"


@pytest.mark.parametrize("name, there", [("cuda", torch.cuda), ("mps", torch.backends.mps)])
def test_a_device_that_is_not_there_is_one_line(monkeypatch, name, there):
    monkeypatch.setattr(there, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"^device={name}: no .* GPU is visible"):
        inference.device(name)
    monkeypatch.setattr(there, "is_available", lambda: True)
    assert inference.device(name).type == name


def test_pictures_come_in_order_the_next_one_while_the_device_works(pixels):
    for device in ("cpu", "meta"):  # the look-ahead of any accelerator, without one
        assert list(inference.ahead(lambda k: k * k, range(5), device)) == [0, 1, 4, 9, 16]
        assert list(inference.ahead(abs, [], device)) == []
    rows = np.array([3, 1, 3])
    for array in (pixels, torch.from_numpy(pixels)):
        got = inference.gather(array, rows, "cpu")
        assert torch.equal(got, tensor(pixels)[rows])


def test_pictures_stay_on_disk_where_the_gpu_is_too_small(monkeypatch, pixels, capsys):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (pixels.nbytes, pixels.nbytes))
    assert inference.place(pixels, "cuda") is pixels
    assert "images stay on disk" in capsys.readouterr().out
    assert inference.place(pixels, "cpu") is pixels
