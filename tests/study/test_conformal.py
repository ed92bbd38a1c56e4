import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermai_utils.basics import CLASSES
from dermai_utils.intervals import rate
from dermai_utils.study import conformal

# as unequal as the real classes
SHARES = np.array([0.11, 0.60, 0.05, 0.04, 0.11, 0.05, 0.04])
MALIGNANT = [0, 2, 3]


def images(n, rng):
    """Truth and calibrated probabilities of a classifier that knows rare classes less well, and
    lesion ids, an image each."""
    truth = rng.choice(7, n, p=SHARES)
    gain = np.array([1.5, 2.5, 2.5, 2.5, 2, 2.5, 2.5])
    logits = rng.normal(0, 1, (n, 7)) + gain * np.eye(7)[truth] + np.log(SHARES)
    p = np.exp(logits)
    return truth, p / p.sum(1, keepdims=True), np.arange(n)


# The quantile, by lesion


def lesions(k, rng):
    """Scores and ids of k lesions with 1 to 12 images, alike within a lesion; those of many images
    are the easy ones."""
    n = rng.integers(1, 13, k)
    middle = rng.normal(size=k) - 0.3 * n
    ids = np.repeat(np.arange(k), n)
    return middle[ids] + 0.3 * rng.normal(size=len(ids)), ids


def test_the_quantile_holds_an_image_of_a_new_lesion_as_often_as_promised():
    """The oracle is the theory: coverage is at least the level on average over draws, by lesion;
    and counting images would not give it."""
    held, by_image, rng = [], [], np.random.default_rng(0)
    for _ in range(300):
        scores, ids = lesions(50, rng)
        new, new_ids = lesions(200, rng)
        limit = conformal.quantile(scores, ids, 0.9)
        alone = conformal.quantile(scores, np.arange(len(scores)), 0.9)
        weights = 1 / np.bincount(new_ids)[new_ids] / 200
        held.append(weights[new <= limit].sum())
        by_image.append(weights[new <= alone].sum())
    assert 0.9 <= np.mean(held) + 0.005 and np.mean(held) < 0.94
    assert np.mean(by_image) < 0.86


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=0, max_size=60), st.sampled_from([0.5, 0.8, 0.9, 0.97]))
def test_with_one_image_a_lesion_it_is_the_usual_one(scores, level):
    """The ceil((n + 1) level)-th smallest; inf where there are not so many."""
    limit = conformal.quantile(scores, np.arange(len(scores)), level)
    rank = int(np.ceil(round((len(scores) + 1) * level, 6)))
    assert limit == (sorted(scores)[rank - 1] if rank <= len(scores) else np.inf)


# The sets


def test_sets_hold_each_class_as_often_as_promised_and_malignant_ones_in_answers_too():
    """On average over draws; and a level for the class alone would not do the latter."""
    held, missed, answered, missed_alone, answered_alone = ([] for _ in range(5))
    rng = np.random.default_rng(0)
    for _ in range(150):
        truth, p, ids = images(1500, rng)
        new_truth, new, _ = images(4000, rng)
        thresholds = conformal.class_thresholds(truth, p, ids)
        sets = conformal.prediction_sets(new, thresholds)
        right = sets[np.arange(4000), new_truth]
        held.append([right[new_truth == k].mean() for k in range(7)])
        malignant = (new_truth == 0) & conformal.is_answer(sets)
        missed.append((malignant & ~right).sum())
        answered.append(malignant.sum())
        own = 1 - p[truth == 0, 0]
        thresholds[0] = 1 - conformal.quantile(own, np.arange(len(own)), 0.97)
        sets = conformal.prediction_sets(new, thresholds)
        malignant = (new_truth == 0) & conformal.is_answer(sets)
        missed_alone.append((malignant & ~sets[:, 0]).sum())
        answered_alone.append(malignant.sum())
    levels = np.where(np.isin(range(7), MALIGNANT), 0.97, 0.9)
    assert (np.mean(held, 0) >= levels - 0.005).all()
    assert np.sum(missed) <= 0.03 * np.sum(answered)
    assert np.sum(missed_alone) > 0.04 * np.sum(answered_alone)


def test_a_threshold_is_no_lower_than_its_answers_need():
    """With the new lesion as one more miss, at most 3 % of the answers about a malignant class are
    wrong (unless its threshold is the lowest), and more are at the next higher threshold."""
    truth, p, ids = images(6000, np.random.default_rng(0))
    thresholds, lowered = conformal.class_thresholds(truth, p, ids), 0

    def share(threshold, k):
        sets = conformal.prediction_sets(p, np.where(np.arange(7) == k, threshold, thresholds))
        answers = (truth == k) & conformal.is_answer(sets)
        return ((answers & ~sets[:, k]).sum() + 1) / (answers.sum() + 1)

    for k in MALIGNANT:
        own = p[truth == k, k]
        assert share(thresholds[k], k) <= 0.03 + 1e-9 or thresholds[k] == conformal.FLOOR
        alone = 1 - conformal.quantile(1 - own, ids[truth == k], 0.97)
        if thresholds[k] < alone:
            lowered += 1
            assert share(own[own > thresholds[k]].min(), k) > 0.03
    assert lowered and (thresholds[MALIGNANT] > conformal.FLOOR).any()


def test_a_class_with_too_few_lesions_is_ruled_out_only_where_it_is_improbable():
    """40 melanomas and nevi; 5 lesions of DF, though of 20 images: 9 lesions would be enough."""
    truth = np.repeat([CLASSES.index(name) for name in ("MEL", "NV", "DF")], (40, 40, 20))
    own = np.repeat([0.5, 0.8, 0.2], (40, 40, 20)) + 0.1 * np.random.default_rng(0).random(100)
    p = np.repeat(((1 - own) / 6)[:, None], 7, 1)
    p[np.arange(100), truth] = own
    ids = np.r_[np.arange(80), 80 + np.arange(20) // 4]
    found = dict(zip(CLASSES, conformal.class_thresholds(truth, p, ids), strict=True))
    nevi = truth == CLASSES.index("NV")
    assert found["NV"] == pytest.approx(1 - conformal.quantile(1 - own[nevi], ids[nevi], 0.9))
    # those that were never seen, too
    assert [found[c] for c in ("DF", "BCC", "BKL", "VASC", "AKIEC")] == [conformal.FLOOR] * 5
    assert conformal.class_thresholds(truth, p, np.arange(100))[CLASSES.index("DF")] > 0.2


def test_the_most_probable_is_always_named_a_class_under_one_percent_never():
    p = np.array([[0.004, 0.5, 0.3, 0.19, 0.006, 0, 0]])
    for threshold, named in ((0.0, [1, 2, 3]), (0.9, [1])):
        sets = conformal.prediction_sets(p, np.full(7, threshold))
        assert np.flatnonzero(sets[0]).tolist() == named
    sets = np.array([[k < n for k in range(7)] for n in range(8)])
    assert conformal.is_answer(sets).tolist() == [False, True, True] + [False] * 5


def test_the_counts_beside_an_answer():
    """By hand: truth, probabilities, and what becomes of each under thresholds of 0.2."""
    cases = [
        ("NV", dict(NV=0.9, MEL=0.1)),  # one benign, right
        ("MEL", dict(NV=0.9, MEL=0.1)),  # one benign: a melanoma answered without melanoma
        ("MEL", dict(NV=0.6, MEL=0.4)),  # two, one malignant, right
        ("MEL", dict(NV=0.4, MEL=0.3, BKL=0.3)),  # no answer
        ("BKL", dict(MEL=0.6, BCC=0.4)),  # two, malignant, wrong
        ("NV", dict(NV=0.6, DF=0.4)),  # two benign, right
        ("BCC", dict(BCC=0.95, NV=0.05)),  # one malignant, right
    ]
    truth = np.array([CLASSES.index(c) for c, _ in cases])
    p = np.array([[row.get(c, 0) for c in CLASSES] for _, row in cases])
    scores = conformal.scores(truth, p, np.full(7, 0.2))
    answers = [scores["answers"][kind] for kind in conformal.KINDS]
    assert [(row["n"], row["held"]) for row in answers] == [(2, 1), (1, 1), (1, 1), (2, 1)]
    half = rate([True, False], [0, 1])
    assert (answers[0]["low"], answers[0]["high"]) == (half["low"], half["high"])
    expected = {"n": 3, "answered": 2, "without": 1, "low": half["low"], "high": half["high"]}
    assert scores["melanomas"] == expected
    twice = conformal.scores(truth, p, np.full(7, 0.2), np.zeros(7))  # one lesion
    assert twice["answers"][conformal.KINDS[0]]["low"] < half["low"]
    assert scores["n"] == 7 and scores["answered"] == 6 / 7 and scores["answered_held"] == 4 / 6
    nothing = conformal.scores(truth[:0], p[:0], np.full(7, 0.2))
    assert nothing["held"] is None and nothing["melanomas"]["n"] == 0
