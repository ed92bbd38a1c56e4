import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from dermai_utils import augment, clean, files, model, reference, report, train
from dermai_utils.config import CLASSES

RANDOM = np.random.default_rng(0)
SHARES = np.array([0.11, 0.60, 0.05, 0.04, 0.11, 0.05, 0.04])  # as unequal as the real classes, with 40 images in the smallest


def images(n):
    """Truth and probabilities of a classifier that is bad at rare classes, so that one threshold for all can't suit them."""
    truth = RANDOM.choice(7, n, p=SHARES)
    logits = RANDOM.normal(0, 1, (n, 7)) + 3 * np.sqrt(SHARES) * np.eye(7)[truth] + 2 * np.log(SHARES)
    return truth, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_sets_hold_each_class_as_often_as_promised():
    """The oracle is the theory: of images of one kind, coverage is ceil((n + 1) 0.9) / (n + 1) on average over draws."""
    held, expected = [], []
    for _ in range(60):
        truth, probabilities = images(1000)
        thresholds = reference.class_thresholds(truth, probabilities)
        n = np.bincount(truth, minlength=7)
        new_truth, new = images(2000)
        sets = reference.possible(new, thresholds)
        right = sets[np.arange(2000), new_truth]
        held.append([right[new_truth == k].mean() for k in range(7)])
        expected.append(np.ceil((n + 1) * 0.9) / (n + 1))
    np.testing.assert_allclose(np.mean(held, 0), np.mean(expected, 0), atol=0.02)
    assert np.mean(held, 0).min() >= 0.89


def test_one_threshold_for_all_would_not_do_that():
    """The simulation is one where it matters, so the test above can fail."""
    truth, probabilities = images(50_000)
    own = probabilities[np.arange(len(truth)), truth]
    right = own >= 1 - reference.conformal_quantile(1 - own, 0.9)
    assert right.mean() == pytest.approx(0.9, abs=0.005)
    assert min(right[truth == k].mean() for k in range(7)) < 0.8


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=0, max_size=60), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_quantile_leaves_enough_scores_under_it(scores, level):
    limit = reference.conformal_quantile(scores, level)
    under = sum(score <= limit for score in scores)
    assert under >= (len(scores) + 1) * level - 1e-6 or np.isinf(limit)
    assert np.isinf(limit) == ((len(scores) + 1) * level > len(scores) + 1e-6)


def test_a_class_with_too_few_images_shares_the_threshold_of_all():
    truth = np.array([0] * 20 + [1] * 8)  # nine would be enough
    probabilities = np.full((28, 7), 0.01)
    probabilities[np.arange(28), truth] = [0.5 + 0.02 * k for k in range(20)] + [0.2] * 8
    thresholds = reference.class_thresholds(truth, probabilities)
    assert thresholds[0] == pytest.approx(0.5 + 0.02)  # the 19th of 20 scores, ceil(21 * 0.9)
    everyone = reference.conformal_quantile(1 - probabilities[np.arange(28), truth], 0.9)
    assert thresholds[1:] == pytest.approx(1 - everyone)
    assert reference.class_thresholds(truth[:5], probabilities[:5]) == pytest.approx(0)  # nothing is known: nothing ruled out


def test_an_answer_has_one_or_two_classes():
    sets = np.array([[k < n for k in range(7)] for n in range(8)])
    assert reference.answers(sets).tolist() == [False, True, True] + [False] * 5


def test_the_distance_is_mahalanobis_and_its_threshold_is_that_of_chi_squared():
    """The oracle is the theory: of Gaussian textures, a share of 1 - chi2.cdf(d * d) is farther than d."""
    mix = RANDOM.normal(size=(6, 6))
    training, new = RANDOM.normal(size=(20_000, 6)) @ mix + 5, RANDOM.normal(size=(50_000, 6)) @ mix + 5
    centre, precision = reference.fitted(training)
    far = reference.distance(new, centre, precision)
    farthest = np.sqrt(chi2.ppf(0.99, 6))
    assert np.quantile(far, 0.99) == pytest.approx(farthest, rel=0.02)
    assert (far > farthest).mean() == pytest.approx(0.01, abs=0.002)
    away = new[:3] - training.mean(0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(np.cov(training.T)), away))
    np.testing.assert_allclose(far[:3], expected, rtol=0.02)


def test_texture_is_the_mean_and_spread_of_one_map_half_way_of_the_plain_view():
    net = model.build("resnet18", "none", 64).eval()
    images = RANDOM.integers(0, 256, (5, 75, 100, 3), np.uint8)
    batches = augment.Batches(images, 64, net.mean, net.std, "cpu", 1)
    kept = []
    with torch.inference_mode():
        hook = net.layer3[1].bn2.register_forward_hook(lambda m, i, o: kept.append(o.clone()))
        net(batches(np.arange(5)))
        hook.remove()
    assert kept[0].shape[2] == 64 / 16
    for views in (1, 2):
        logits, features, texture = reference.described(net, batches, np.arange(5), 2, views)
        assert logits.shape == (5, 7) and features.shape == (5, 512) and texture.shape == (5, 512)
        np.testing.assert_allclose(texture[:, :256], kept[0].mean((2, 3)), atol=1e-4)
        np.testing.assert_allclose(texture[:, 256:], kept[0].std((2, 3)), atol=1e-4)


def test_a_transformer_has_its_last_features_for_texture():
    net = model.build("vit_b_32", "none", 64).eval()
    batches = augment.Batches(RANDOM.integers(0, 256, (2, 75, 100, 3), np.uint8), 64, net.mean, net.std, "cpu", 1)
    _, features, texture = reference.described(net, batches, np.arange(2), 2)
    np.testing.assert_array_equal(features, texture)


def test_the_warning_is_fixed_on_validation_and_passes_99_percent_of_it(made):
    """Anew from the checkpoint: the validation images' distances, and nothing of any test image."""
    kept = reference.load(made)
    predictions = clean.read_table(made.report_dir / "predictions.csv")
    rows = report.counting(predictions, "val")["row"].to_numpy()
    (net,), accelerator = reference.opened(made)
    *_, texture = reference.described(net, train.batches_for(made, net, accelerator.device), rows, 16)
    far = reference.distance(texture, kept.centre, kept.precision)
    assert kept.farthest == pytest.approx(np.quantile(far, 0.99), rel=1e-4)
    table = clean.read_table(made.split_file)
    assert set(kept.image) == set(table.loc[table["part"] == "train", "image"])


def test_what_is_told_about_the_sets_is_counted_on_the_quoted_part(made):
    found, kept = files.read_json(made.report_dir / "reference.json"), reference.load(made)
    rows = report.counting(clean.read_table(made.report_dir / "predictions.csv"), found["part"])
    raw = np.log(np.clip(rows[list(CLASSES)].to_numpy(), 2.3e-16, 1)) / kept.temperature
    probabilities = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    sets = [{c for c, p, t in zip(CLASSES, row, kept.thresholds, strict=True) if p >= t} for row in probabilities]
    assert found["n"] == len(rows) and found["size"] == pytest.approx(np.mean([len(s) for s in sets]))
    assert found["held"] == pytest.approx(np.mean([t in s for t, s in zip(rows["truth"], sets, strict=True)]))
    short = [1 <= len(s) <= 2 for s in sets]
    right = [t in s for t, s, is_answer in zip(rows["truth"], sets, short, strict=True) if is_answer]
    assert found["answered"] == pytest.approx(np.mean(short)) and found["answered_held"] == (
        pytest.approx(np.mean(right)) if right else None
    )
    assert sum(row["n"] for row in found["by_class"].values()) == found["n"]


def test_of_another_checkpoint_or_broken_it_does_not_count(made, tmp_path):
    import dataclasses
    import shutil

    shutil.copytree(made.work, tmp_path / "work")
    cfg = dataclasses.replace(made, work_dir=str(tmp_path / "work"))
    assert reference.load(cfg) is not None
    path, best = cfg.report_dir / "reference.npz", cfg.run_dir / "best.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert reference.load(cfg) is None
    path.write_bytes(whole)
    best.write_bytes(best.read_bytes() + b"x")
    assert reference.load(cfg) is None
