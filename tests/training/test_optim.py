import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from dermai_utils import config
from dermai_utils.training import optim

LABELS = np.repeat([0, 1, 2, 3, 4, 5, 6], [60, 400, 30, 20, 60, 7, 9])


def loss_of(**given):
    return optim.Loss(config.load(env={}, **given), LABELS, "cpu")


def batch(seed=0, n=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 7, generator=generator) * 2, torch.randint(
        0, 7, (n,), generator=generator
    )


def test_class_weights_are_scikit_learns():
    labels = np.array([0] * 5 + [1] * 50 + [3] * 2)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    got = optim.class_weights(labels)
    np.testing.assert_allclose(got[[0, 1, 3]], expected, rtol=1e-6)
    assert not got[[2, 4, 5, 6]].any()


def test_weights_are_one_on_average_and_favour_the_rare():
    weights = optim.class_weights(LABELS)
    assert weights[LABELS].mean() == pytest.approx(1, abs=1e-5)
    assert weights.argmax() == 5 and weights.argmin() == 1
    assert weights[5] / weights[1] == pytest.approx(400 / 7, rel=1e-5)


def test_an_epoch_sees_every_image_once_and_the_sampler_evens_the_classes():
    labels = np.repeat([0, 1, 2], [1000, 90, 10])
    assert sorted(optim.order(labels, 0, 0)) == list(range(1100))
    assert (optim.order(labels, 0, 0) != optim.order(labels, 0, 1)).any()
    even, half = (
        np.bincount(labels[optim.order(labels, 0, 0, balance)]) / 1100 for balance in (1.0, 0.5)
    )
    assert np.abs(even - 1 / 3).max() < 0.06
    expected = np.sqrt([1000, 90, 10]) / np.sqrt([1000, 90, 10]).sum()
    assert np.abs(half - expected).max() < 0.06


def test_plain_and_weighted_losses_are_torchs():
    logits, targets = batch()
    plain, weighted = (
        loss_of(imbalance="none", label_smoothing=0.05),
        loss_of(imbalance="class_weights"),
    )
    torch.testing.assert_close(
        plain(logits, targets, 1.0).mean(), F.cross_entropy(logits, targets, label_smoothing=0.05)
    )
    weight = weighted.weight(targets, 1.0)
    ours = (weighted(logits, targets, 1.0) * weight).sum() / weight.sum()
    torch.testing.assert_close(ours, F.cross_entropy(logits, targets, weighted.weights))


def test_logit_adjustment_learns_the_balanced_posterior():
    """With one input for all, the best plain classifier answers the prior, and the adjusted one an
    even 1/7."""
    adjusted = loss_of(imbalance="logit_adjustment", label_smoothing=0)
    logits = nn.Parameter(torch.zeros(7))
    optimizer, targets = torch.optim.Adam([logits], 0.1), torch.from_numpy(LABELS)
    for _ in range(200):
        loss = adjusted(logits.expand(len(LABELS), 7), targets, 1.0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(logits.softmax(0), torch.full((7,), 1 / 7), atol=0.01, rtol=0)


@pytest.mark.parametrize("imbalance", ["class_weights", "logit_adjustment"])
def test_deferred_reweighting_starts_as_the_plain_loss_and_ends_as_the_balanced_one(imbalance):
    cfg = config.load(env={}, imbalance=imbalance, drw=True)
    shares = [optim.drw_share(cfg, progress) for progress in (0, 0.35, 0.5, 0.65, 1)]
    assert shares == pytest.approx([0, 0, 0.5, 1, 1])
    assert optim.drw_share(config.load(env={}, drw=False), 0) == 1
    logits, targets = batch()
    balanced, plain = loss_of(imbalance=imbalance), loss_of(imbalance="none")
    for share, same in ((0.0, True), (1.0, False)):
        ours = balanced(logits, targets, share) * balanced.weight(targets, share)
        assert torch.allclose(ours, plain(logits, targets, share)) == same


class Net(nn.Sequential):
    head_names = ["1"]


def test_the_head_learns_faster_and_a_frozen_backbone_not_at_all():
    for freeze in ("none", "backbone"):
        torch.manual_seed(0)
        net = Net(nn.Linear(4, 5), nn.Linear(5, 7))
        cfg = config.load(env={}, learning_rate=1e-3, head_rate=3, freeze=freeze)
        optim.frozen(net, cfg)
        groups = optim.parameter_groups(net, cfg)
        before = [p.detach().clone() for p in net.parameters()]
        optimizer = torch.optim.Adam(groups)
        net(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        moved = [(p - b).abs().max().item() for p, b in zip(net.parameters(), before, strict=True)]
        # Adam's first step is its learning rate
        assert moved[2:] == pytest.approx([3e-3, 3e-3], rel=1e-3)
        assert moved[:2] == (pytest.approx([1e-3, 1e-3], rel=1e-3) if freeze == "none" else [0, 0])


@pytest.mark.parametrize("steps", range(1, 12))
@pytest.mark.parametrize("kind", ["one_cycle", "constant"])
def test_a_run_of_a_few_steps_has_a_schedule_too(kind, steps):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    plan, rates = optim.schedule(optimizer, kind, steps), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    assert all(0 < rate <= 0.1 for rate in rates) and (len(rates) == 1 or max(rates) > 0.05)


@pytest.mark.parametrize("kind", ["one_cycle", "constant"])
def test_schedules_keep_the_groups_proportion_and_end_where_they_should(kind):
    net = Net(nn.Linear(4, 5), nn.Linear(5, 7))
    optimizer = torch.optim.AdamW(
        optim.parameter_groups(net, config.load(env={}, learning_rate=1e-3, head_rate=3))
    )
    plan, rates = optim.schedule(optimizer, kind, 40), []
    for _ in range(40):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        plan.step()
    rates = np.array(rates)
    np.testing.assert_allclose(rates[:, 1], 3 * rates[:, 0])
    assert rates[:, 0].max() == pytest.approx(1e-3, rel=0.01)
    assert (rates[-1, 0] == 1e-3) if kind == "constant" else rates[-1, 0] < 2e-5


def test_sizes_rise_to_the_full_one_and_stay():
    cfg = config.load(env={}, image_size=128, first_size=96, epochs=10)
    sizes = [optim.size(cfg, epoch) for epoch in range(10)]
    assert sizes[0] == 96 and sizes[6:] == [128] * 4 and sizes == sorted(sizes)
    assert {optim.size(config.load(env={}, image_size=100), epoch) for epoch in range(10)} == {100}


def test_the_average_is_the_recursion_written_out():
    net = Net(nn.Linear(2, 2), nn.BatchNorm1d(2))
    averaged = optim.averaged(net, 0.9)
    expected = net[0].weight[0, 0].item()
    for step in range(200):
        with torch.no_grad():
            net[0].weight.fill_(step)
            net[1].running_mean.fill_(2.0 * step)
            net[1].num_batches_tracked.fill_(step)
        optim.average(averaged, net, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert averaged[0].weight[0, 0].item() == pytest.approx(expected, rel=1e-4)
    assert averaged[1].running_mean[0].item() == pytest.approx(2 * expected, rel=1e-4)
    assert averaged[1].num_batches_tracked == 199
    assert optim.averaged(net, 0.0) is None
