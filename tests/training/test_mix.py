"""How images of other sources share the batches with home's."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dermai_utils import config
from dermai_utils.training import optim


@st.composite
def images(draw):
    """Origins ("" for home) and classes of 4 to 60 images, at least 4 of them at home."""
    others = draw(st.lists(st.sampled_from(["BCN", "MSK"]), max_size=40))
    origins = [""] * draw(st.integers(4, 20)) + others
    targets = draw(st.lists(st.integers(0, 6), min_size=len(origins), max_size=len(origins)))
    order = np.random.default_rng(draw(st.integers(0, 9))).permutation(len(origins))
    return [origins[k] for k in order], np.array(targets)[order]


@given(images(), st.integers(4, 16), st.sampled_from([0.1, 0.33, 0.75]))
@settings(max_examples=60, deadline=None)
def test_each_home_image_comes_once_and_the_sources_equally_often(made, batch_size, share):
    origins, targets = made
    cfg = config.load(env={}, batch_size=batch_size, extra_share=share)
    mix = optim.Mix(origins, targets, cfg)
    origin, seen = np.array(origins), []
    for epoch in range(3):
        order = optim.order(targets[mix.home], 0, epoch)
        positions = mix.positions(order, 0, epoch)
        assert positions.shape == (mix.steps, mix.batch) and mix.batch <= batch_size
        home = positions[origin[positions] == ""]
        assert len(set(home)) == len(home) == mix.steps * mix.of_home
        assert len(mix.home) - len(home) < mix.of_home
        for name in set(origins) - {""}:
            assert ((origin[positions] == name).sum(axis=1) == mix.each).all()
        seen.append(positions)
    for name in set(origins) - {""}:  # over the epochs each image equally often, but for one round
        drawn = np.concatenate(seen).ravel()
        counts = np.bincount(drawn, minlength=len(origins))[origin == name]
        assert counts.max() - counts.min() <= 1


def test_the_loss_of_another_source_is_that_of_its_own_prior():
    """Bayes by hand: home's posterior times the source's prior over home's, renormalised."""
    home, msk = np.repeat(range(7), [5, 20, 3, 2, 4, 1, 1]), np.repeat([0, 1, 4], [9, 6, 3])
    targets, origins = np.concatenate([home, msk]), [""] * len(home) + ["MSK"] * len(msk)
    mix = optim.Mix(origins, targets, config.load(env={}))
    logits = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = [np.bincount(t, minlength=7) / len(t) for t in (home, msk)]
    expected = logits.softmax(0).numpy() * prior[1] / prior[0]
    got = (logits + torch.from_numpy(mix.log_odds)[1]).softmax(0).numpy()
    np.testing.assert_allclose(got, expected / expected.sum(), atol=1e-6)
    assert (mix.log_odds[0] == 0).all()
    mel = torch.from_numpy(mix.log_odds)[1].log_softmax(0)
    logits.requires_grad_()
    loss = -(logits + torch.from_numpy(mix.log_odds)[1]).log_softmax(0)[0]
    loss.backward()  # a class that MSK lacks is taught nothing by its images
    absent = [2, 3, 5, 6]
    assert logits.grad[absent].abs().max() < 1e-5 and mel.isfinite().all()


def test_smoothing_asks_no_class_of_a_source_that_lacks_it():
    """By hand: the truth by the source's prior, the smoothing by home's. With the odds of an absent
    class in it, smoothing pushed up its logit."""
    loss = optim.Loss(config.load(env={}, label_smoothing=0.1), np.arange(7), "cpu")
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets, odds = torch.tensor([0, 1, 4, 1]), torch.zeros(4, 7, dtype=torch.float64)
    odds[:, [2, 3, 5, 6]] = -18
    truth = -(logits + odds).log_softmax(1)[range(4), targets]
    uniform = -logits.log_softmax(1).mean(1)
    got = loss(logits, targets, 1.0, odds)
    torch.testing.assert_close(got, 0.9 * truth + 0.1 * uniform)
    torch.testing.assert_close(loss(logits, targets, 1.0), loss(logits, targets, 1.0, 0 * odds))


def test_without_other_sources_the_order_is_that_of_one_source():
    targets = np.arange(50) % 7
    mix = optim.Mix([""] * 50, targets, config.load(env={}, batch_size=8))
    order = optim.order(targets, 3, 1)
    assert (mix.positions(order, 3, 1).ravel() == order[:48]).all() and mix.words == ""
