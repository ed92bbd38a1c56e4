"""The leakage effect: the same classifier scored under a random and under a lesion-safe split.

Every image is predicted once by a model that never saw it (k-fold), under both splits. Images whose
lesion has other images are prone to leak: there the two predictions of an image are compared.
"""

from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dermai_utils import files, progress
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import clean, split
from dermai_utils.metrics import bootstrap
from dermai_utils.metrics.classification import confusion, from_confusion, jsonable
from dermai_utils.training import features


def _logistic_regression():
    # C: with 512 to 1,280 features and few DF images, a larger one learns them by heart.
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=300, tol=1e-3)
    return make_pipeline(StandardScaler(), model)


def _nearest_neighbour():
    return make_pipeline(StandardScaler(), KNeighborsClassifier(1))


CLASSIFIERS = {"logistic regression": _logistic_regression, "nearest neighbour": _nearest_neighbour}


def leakage_effect(features, table, pairs=(), *, seeds=range(3), folds=4, n_resamples=2000) -> dict:
    """{"images", "prone_images", "folds", "seeds", "classifiers": {name: see `_compared`}}.

    `features` (N, D) float, of a backbone that never saw these labels; `table` (N rows): image,
    label, lesion_id, duplicate_of; `pairs`: split.near_duplicates(cfg). The scores are balanced
    accuracy on the images prone to leak, the mean over `seeds`; NaN where no lesion has two images.
    10,015 images of 1,280 features take 24 s a seed on one core.
    """
    truth, groups = table["label"].map(CLASSES.index).to_numpy(), split.groups(table, pairs)
    if len(features) != len(table):
        n = len(features)
        raise UserError(f"{n} rows of features for {len(table)} images: give one row an image")
    prone = np.bincount(groups)[groups] > 1
    strategies = {"random": np.arange(len(table)), "lesion": groups}
    predicted = {name: {strategy: [] for strategy in strategies} for name in CLASSIFIERS}
    jobs = [(n, s, seed) for n in CLASSIFIERS for s in strategies for seed in seeds]
    for name, strategy, seed in progress.bar(jobs, "leakage effect", unit="split"):
        make, together = CLASSIFIERS[name], strategies[strategy]
        classes = out_of_fold(make, features, truth, together, folds, seed)
        predicted[name][strategy].append(classes)
    return {
        "images": len(table),
        "prone_images": int(prone.sum()),
        "folds": folds,
        "seeds": list(map(int, seeds)),
        "classifiers": {
            name: _compared(truth, classes, groups, prone, n_resamples)
            for name, classes in predicted.items()
        },
    }


def run(cfg) -> None:
    """Write cfg.leakage_effect_file: `leakage_effect` on the training images' frozen features."""
    table = clean.read(cfg)
    training = (table["source"] == "train").to_numpy()
    rows, pairs = table[training].reset_index(drop=True), split.near_duplicates(cfg)
    effect = leakage_effect(features.features(cfg)[training], rows, pairs)
    effect |= {"backbone": cfg.backbone, "weights": Path(cfg.weights).name}
    effect |= {"image_size": cfg.image_size}
    files.write_json(cfg.leakage_effect_file, jsonable(effect))
    if not effect["prone_images"]:
        print("leakage_effect: no lesion has two images, so a random split leaks nothing")
        return
    for name, row in effect["classifiers"].items():
        print(
            f"leakage_effect: {name}: {row['random']:.3f} under the random split, "
            f"{row['lesion']:.3f} under the lesion-safe one, on the {effect['prone_images']:,} "
            "images of lesions with several images"
        )


def out_of_fold(make, features, truth, groups, folds: int, seed: int) -> np.ndarray:
    """(N,) int: each image's class by a classifier that was fitted on the other folds.

    `groups` stay together. UserError where without some fold fewer than two classes are left.
    """
    fold = split.grouped_stratified_split(groups, truth, np.ones(folds), seed)
    predicted = np.empty(len(truth), int)
    for k in np.unique(fold):
        train = fold != k
        if len(np.unique(truth[train])) < 2:
            raise UserError(
                f"{len(truth):,} images of {len(np.unique(groups)):,} lesions are too few for "
                f"{folds} folds: without one of them, fewer than two classes are left to learn. "
                "Add images"
            )
        model = make().fit(features[train], truth[train])
        predicted[~train] = model.predict(features[~train])
    return predicted


def _compared(truth, predicted, groups, prone, n_resamples):
    """`predicted`: {strategy: (seeds, N)} -> scores of both, their difference (random minus
    lesion-safe), its 95 % interval by lesion (low, high) and values by seed, and all images'
    scores."""

    def scores(strategy, weights, which):  # (R, seeds)
        each = (confusion(truth[which], seed[which], weights) for seed in predicted[strategy])
        return np.stack([from_confusion(counts)[:, 0] for counts in each], axis=1)

    def difference(weights):
        return (scores("random", weights, prone) - scores("lesion", weights, prone)).mean(1)

    predicted = {strategy: np.stack(seeds) for strategy, seeds in predicted.items()}
    ones, everything = np.ones((1, prone.sum())), np.ones(len(truth), bool)
    by_strategy = {strategy: scores(strategy, ones, prone)[0] for strategy in predicted}
    options = dict(strata=truth[prone], n_resamples=n_resamples, vectorised=True)
    low, high = bootstrap.by_lesion(difference, groups[prone], **options)
    all_ones = np.ones((1, len(truth)))
    return {strategy: float(values.mean()) for strategy, values in by_strategy.items()} | {
        "difference": float(difference(ones)[0]),
        "low": float(low),
        "high": float(high),
        "by_seed": (by_strategy["random"] - by_strategy["lesion"]).tolist(),
        "all_images": {s: float(scores(s, all_ones, everything).mean()) for s in predicted},
    }
