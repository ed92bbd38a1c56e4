import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dermai_utils import config, files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import split
from dermai_utils.report import gradcam, photographs
from dermai_utils.training import loop, model
from dermai_utils.training.inference import LoadedRun


@pytest.mark.parametrize(
    "name, size",
    [
        ("resnet18", 64),
        ("densenet121", 64),
        ("convnext_tiny", 64),
        ("swin_t", 64),
        ("squeezenet1_1", 64),
        ("timm:tf_efficientnet_lite0", 64),
    ],
)
def test_gradcam_finds_a_map_in_any_convolutional_backbone(name, size):
    net = model.build(name, "none", size).eval()
    maps = gradcam.gradcam(net, torch.randn(2, 3, size, size), [0, 1])
    assert maps.shape == (2, size, size) and maps.min() >= 0 and maps.max() <= 1


def test_a_vision_transformer_gets_a_plain_message():
    with pytest.raises(UserError, match="transformer"):
        gradcam.gradcam(model.build("vit_b_32", "none", 64).eval(), torch.randn(1, 3, 64, 64), [0])


def test_gradcam_is_its_own_formula():
    """Against a computation by hand: mean gradient a channel, weighted sum, ReLU (Selvaraju et al.,
    equations 1 and 2)."""
    net = model.build("resnet18", "none", 64).eval()
    images = torch.randn(2, 3, 64, 64)
    kept = {}
    hook = net.layer4.register_forward_hook(lambda m, i, o: kept.update(map=o))
    logits = net(images)
    gradient = torch.autograd.grad(logits[0, 1] + logits[1, 3], kept["map"])[0]
    hook.remove()
    by_hand = (gradient.mean((2, 3), keepdim=True) * kept["map"]).sum(1, keepdim=True).relu()
    by_hand = torch.nn.functional.interpolate(
        by_hand.detach(), (64, 64), mode="bilinear", align_corners=False
    )[:, 0]
    low, high = by_hand.amin((1, 2), keepdim=True), by_hand.amax((1, 2), keepdim=True)
    expected = ((by_hand - low) / (high - low).clamp_min(1e-12)).numpy()
    np.testing.assert_allclose(gradcam.gradcam(net, images, [1, 3]), expected, atol=1e-4)


def test_saliency_is_the_gradient_of_the_logit():
    net = model.build("resnet18", "none", 64).eval()
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    gradient = torch.autograd.grad(net(images)[0, 2], images)[0].abs().amax(1, keepdim=True)
    smooth = torch.nn.functional.avg_pool2d(gradient, 5, 1, 2)[0, 0]
    expected = ((smooth - smooth.min()) / (smooth.max() - smooth.min())).numpy()
    np.testing.assert_allclose(gradcam.saliency(net, images.detach(), [2])[0], expected, atol=1e-4)


def test_a_class_gets_its_surest_right_wrong_and_unsure_image():
    frame = pd.DataFrame(
        {
            "image": list("abcde"),
            "truth": ["NV"] * 5,
            "prediction": ["NV", "NV", "MEL", "MEL", "NV"],
            "confidence": [0.9, 0.8, 0.7, 0.95, 0.3],
        }
    )
    assert gradcam.choose(frame).set_index("kind")["image"].to_dict() == {
        "correct": "a",
        "wrong": "d",
        "uncertain": "e",
    }
    assert gradcam.choose(frame[:0]).empty


def test_what_is_shown_is_what_the_model_saw():
    net = model.build("resnet18", "none", 32)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    mean, std = torch.tensor(net.mean)[:, None, None], torch.tensor(net.std)[:, None, None]
    normalised = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    run = LoadedRun(config.load(env={}, device="cpu"), networks=[net])
    assert (run.squares(normalised) == pixels.numpy()).all()


def test_the_overlays_of_the_fixture_are_made(made):
    assert (made.report_dir / "gradcam.png").stat().st_size > 50_000
    assert len(CLASSES) == 7


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
    ours = gradcam.curves(Corner(), images, [1, 1, 1], right)
    noise = gradcam.curves(Corner(), images, [1, 1, 1], gradcam.random_maps(3, 32, 0))
    wrong = gradcam.curves(Corner(), images, [1, 1, 1], 1 - right)
    for other in (noise, wrong):
        assert (ours["deletion"].mean(1) < other["deletion"].mean(1)).all()
        assert (ours["insertion"].mean(1) > other["insertion"].mean(1)).all()
    whole, blurred = (Corner()(x).softmax(1)[:, 1].numpy() for x in (images, gradcam.blur(images)))
    for name, start, end in (("deletion", whole, blurred), ("insertion", blurred, whole)):
        assert ours[name].shape == (3, 11)
        np.testing.assert_allclose(ours[name][:, 0], start, rtol=1e-5)
        np.testing.assert_allclose(ours[name][:, -1], end, rtol=1e-5)


def test_a_randomised_network_is_another_one_and_leaves_the_first_alone():
    net = model.build("resnet18", "none", 64, seed=1).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    other = gradcam.randomised(net, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    weights = [name for name, value in before.items() if value.ndim > 1]
    assert weights and not any(
        torch.equal(before[name], other.state_dict()[name]) for name in weights
    )


def test_rank_correlation_is_one_with_itself_and_nan_for_a_constant_map():
    maps = np.random.default_rng(0).random((3, 9, 9))
    np.testing.assert_allclose(gradcam.rank_correlation(maps, np.exp(maps)), 1)
    np.testing.assert_allclose(gradcam.rank_correlation(maps, -maps), -1)
    expected = np.corrcoef(
        maps[0].ravel().argsort().argsort(), maps[1].ravel().argsort().argsort()
    )[0, 1]
    assert gradcam.rank_correlation(maps[:1], maps[1:2])[0] == pytest.approx(expected)
    assert np.isnan(gradcam.rank_correlation(maps[:1], np.ones((1, 9, 9)))).all()


def test_the_checks_of_the_fixture_are_kept(made):
    found = files.read_json(made.report_dir / "gradcam.json")
    names = {
        "deletion",
        "insertion",
        "deletion_random",
        "insertion_random",
        "randomised_correlation",
    }
    assert found["images"] and set(found["mean"]) == names
    mean = np.mean([row["deletion"] for row in found["images"]])
    assert found["mean"]["deletion"] == pytest.approx(mean)
    assert (made.report_dir / "gradcam_mistakes.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "gain, said", [({}, ""), ({"insertion": -1}, "not clearly better"), (None, "was not checked")]
)
def test_the_runs_verdict_stands_beside_each_map(tmp_path, gain, said, made):
    """Better by both checks: nothing to say; in the figures and in what the predictor shows."""
    cfg = dataclasses.replace(made, work_dir=str(tmp_path))
    if gain is not None:
        sign = {"deletion": -1, "insertion": 1} | gain
        row = {k: 0.5 + 0.1 * v for k, v in sign.items()}
        row |= {f"{k}_random": 0.5 for k in sign} | {"randomised_correlation": 0.1}
        files.write_json(cfg.report_dir / "gradcam.json", {"images": [row] * 9, "mean": row})
    note = gradcam.note(cfg)
    assert said in note and bool(said) == bool(note)
    square = np.zeros((8, 8, 3), np.uint8)
    item = {"image": square, "gradcam": square[..., 0], "saliency": square[..., 0], "title": "t"}
    for layout in (photographs.pairs, photographs.explanations):
        figure = layout([item], note)
        assert (figure.get_suptitle() or "") == note
        assert "most" in [t.get_text() for t in figure.axes[-1].get_xticklabels()]


# An Apple GPU has no float64, and pools adaptively only where the sizes divide.


@pytest.mark.parametrize("size", [4, 30, 64, 225])
def test_the_blurs_means_are_those_of_adaptive_pooling(monkeypatch, size):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(gradcam, "_resized", lambda means, shape: means)
    expected = torch.nn.functional.adaptive_avg_pool2d(images, 4)
    torch.testing.assert_close(gradcam.blur(images), expected)


class NoFloat64(TorchDispatchMode):
    """Fails at the first operation that takes or gives float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves([args, kwargs, result]):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                pytest.fail(f"float64 in {function}")
        return result


def test_nothing_on_the_device_has_float64(made, tmp_path):
    for name in ("table.csv", "split.csv"):
        (tmp_path / name).write_bytes((made.work / name).read_bytes())
    cfg = dataclasses.replace(made, work_dir=str(tmp_path), imbalance="logit_adjustment")
    loaded = LoadedRun(made)
    with NoFloat64():
        run = loop.Run(cfg, split.read(cfg), loaded.accelerator)
        batch = torch.from_numpy(run.labels[:4])
        run.batches.device = torch.device("mps")  # draws on the CPU, finishes on the device
        run.batches._move = lambda tensor: tensor
        images = run.batches(run.rows[:4], (0, 0, 0))
        run.train_step(images, batch, drw_share=0.5)
        loaded.logits(run.rows[:4], with_features=True, tta=8)
        gradcam.check(loaded.networks[0], loaded.inputs(run.rows[:4]), [0, 1, 2, 3])
