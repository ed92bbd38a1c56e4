"""Frozen features of a backbone that never saw these labels: a baseline, and what leakage is worth.

The linear probe is the baseline to beat before any training. The leakage effect is the same
classifier's score under a random and under a lesion-safe split: each image is predicted once by a
model that never saw it (k-fold), under both splits. Images whose lesion has other images are prone
to leak; the two predictions are compared on these.
"""

import itertools

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from dermai_utils import intervals, predictions, progress, splits
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.metrics import confusion, from_confusion, jsonable


def linear_probe(features, table, subset, n_resamples=intervals.RESAMPLES) -> dict:
    """{"subsets": {name: {"n", metric: {"value", "low", "high"}}}} of every held-out subset.

    `features` (N, D) float and `table` (N rows, see datasets.COLUMNS) in one order; `subset` (N,):
    a split. Fitted on train; with folds on all folds but the first, which is val. Intervals by
    lesion. UserError where a class is missing in training.

    >>> table = pd.DataFrame({"image": list("abcdefghijklmn"), "label": CLASSES * 2})
    >>> found = linear_probe(np.eye(7)[np.arange(14) % 7], table, ["train"] * 7 + ["val"] * 7)
    >>> found["subsets"]["val"]["balanced_accuracy"]["value"]
    1.0
    """
    features, subset = _checked(features, table), pd.Series(np.asarray(subset, str))
    if not (subset == "train").any():
        subset = subset.replace("0", "val").mask(subset.str.isdecimal() & (subset != "0"), "train")
    train, labels = (subset == "train").to_numpy(), table["label"].to_numpy()
    if missing := [c for c in CLASSES if c not in set(labels[train])]:
        raise UserError(
            f"linear probe: no image of {', '.join(missing)} in the training subset; add some, or "
            "make the test subset smaller"
        )
    truth = table["label"].map(CLASSES.index).to_numpy()
    model = _linear().fit(features[train], truth[train])
    lesions, scored = splits.lesions(table).to_numpy(), predictions.weights(table["image"]) > 0
    found = {}
    for name in predictions.held_out(subset):
        here = (subset == name).to_numpy() & scored
        arrays = truth[here], model.predict_proba(features[here]), lesions[here]
        each = intervals.intervals(*arrays, n_resamples=n_resamples)
        found[name] = {"n": int(here.sum())} | each
    return {"subsets": found}


def _linear():
    """Logistic regression on the features' square roots, which tame their long tails.

    Both, and C, were chosen by 4-fold cross-validation in the training subset.
    """
    logistic = LogisticRegression(C=0.003, class_weight="balanced", max_iter=200)
    return make_pipeline(FunctionTransformer(_signed_root), StandardScaler(), logistic)


def _signed_root(x):
    return np.sign(x) * np.sqrt(np.abs(x))


# C: with 512 to 1,280 features and few DF images, a larger one learns them by heart.
_LOGISTIC = LogisticRegression(C=0.01, class_weight="balanced", max_iter=300, tol=1e-3)
CLASSIFIERS = {"logistic regression": _LOGISTIC, "nearest neighbour": KNeighborsClassifier(1)}


def leakage_effect(
    features, table, pairs=(), *, seeds=range(3), folds=4, n_resamples=intervals.RESAMPLES
) -> dict:
    """{"images", "prone_images", "folds", "seeds", "classifiers": {name: see `_compared`}}, ready
    for JSON.

    `features` (N, D) float and `table` (N rows, see datasets.COLUMNS) in one order; only rows of
    the source train are used. `pairs` (P, 2): image ids of near-duplicates. The scores are balanced
    accuracy on the images prone to leak, the mean over `seeds`. UserError where no lesion has two
    images, or there are too few images. 10,015 images of 1,280 features take 24 s a seed on one
    core.

    >>> table = pd.DataFrame({"image": list("abcdefgh"), "label": ["MEL", "MEL", "NV", "NV"] * 2})
    >>> table["lesion_id"] = list("AABBCCDD")
    >>> found = leakage_effect(np.arange(8.0)[:, None], table, seeds=[0], n_resamples=20)
    >>> found["prone_images"], sorted(found["classifiers"])
    (8, ['logistic regression', 'nearest neighbour'])
    """
    features = _checked(features, table)
    if "source" in table:
        training = (table["source"] == "train").to_numpy()
        features, table = features[training], table[training].reset_index(drop=True)
    truth, groups = table["label"].map(CLASSES.index).to_numpy(), splits.groups(table, pairs)
    prone = np.bincount(groups)[groups] > 1
    if not prone.any():
        raise UserError("leakage effect: no lesion has two images, so a random split leaks nothing")
    keep = {"random": np.arange(len(table)), "lesion": groups}  # what a fold holds together
    predicted = {name: [[] for _ in keep] for name in CLASSIFIERS}
    jobs = list(itertools.product(CLASSIFIERS, enumerate(keep.values()), seeds))
    for name, (k, together), seed in progress.bar(jobs, "leakage effect", unit="split"):
        model = make_pipeline(StandardScaler(), CLASSIFIERS[name])
        predicted[name][k].append(out_of_fold(model, features, truth, together, folds, seed))
    found = {
        name: _compared(truth[prone], np.array(of)[..., prone], groups[prone], n_resamples)
        for name, of in predicted.items()
    }
    sizes = {"images": len(table), "prone_images": int(prone.sum()), "folds": folds}
    return jsonable(sizes | {"seeds": list(map(int, seeds)), "classifiers": found})


def _checked(features, table):
    if (n := len(features)) != len(table):
        raise UserError(f"rows of features: {n}, images: {len(table)}: give one row an image")
    return np.asarray(features)


def out_of_fold(model, features, truth, groups, folds: int, seed: int) -> np.ndarray:
    """(N,) int: each image's class by `model`, a classifier, fitted on the other folds.

    `groups` stay together. UserError where fewer than two classes are outside some fold.
    """
    fold = splits.stratified(groups, truth, np.ones(folds), seed)
    if any(len(np.unique(truth[fold != k])) < 2 for k in np.unique(fold)):
        raise UserError(
            f"images: {len(truth):,}, lesions: {len(np.unique(groups)):,}: too few for {folds} "
            "folds, as without one of them fewer than two classes are left to train on; add images"
        )
    return cross_val_predict(model, features, truth, cv=PredefinedSplit(fold))


def _compared(truth, predicted, lesions, n_resamples):
    """`predicted` (2, seeds, N): by a random and by a lesion-safe split -> scores of both, their
    difference (random minus lesion-safe), its 95 % interval by lesion and values by seed."""

    def scores(weights):  # (2, R, seeds)
        counts = [[confusion(truth, seed, weights) for seed in seeds] for seeds in predicted]
        return from_confusion(np.array(counts))[..., 0].swapaxes(1, 2)

    def difference(weights):
        random, by_lesion = scores(weights)
        return (random - by_lesion).mean(1)

    options = dict(strata=truth, n_resamples=n_resamples, vectorised=True)
    low, high = intervals.interval(difference, lesions, **options)
    random, by_lesion = scores(np.ones((1, len(truth))))[:, 0]
    by_seed = random - by_lesion
    found = {"random": random.mean(), "lesion": by_lesion.mean(), "difference": by_seed.mean()}
    return found | {"low": low, "high": high, "by_seed": by_seed.tolist()}
