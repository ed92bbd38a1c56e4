"""How much a random split flatters: the same classifier, scored under a random and under a lesion-safe split.

Every image is predicted once by a model that never saw it (k-fold), under both ways of dealing images to folds. Images
whose lesion has other images are prone to leak: there the two predictions of one image are compared, pair by pair.
"""

from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from dermai_utils import clean, features, files, intervals, split
from dermai_utils.config import CLASSES, UserError
from dermai_utils.findings import plain

CLASSIFIERS = {
    "logistic regression": lambda: make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=300, tol=1e-3)
    ),  # C: 512 to 1,280 features and some DF images: less would be learnt by heart
    "nearest neighbour": lambda: make_pipeline(StandardScaler(), KNeighborsClassifier(1)),
}


def leakage_inflation(features, table, pairs=(), *, seeds=range(3), folds=4, n_resamples=2000) -> dict:
    """{"classifiers": {name: {"random", "lesion", "difference", "low", "high", "by_seed", "all_images"}}, "images", ...}.

    `features` (N, D) float, of a backbone that never saw these labels; `table` (N rows): image, label, lesion_id,
    duplicate_of; `pairs`: split.near_duplicates(cfg). The numbers are balanced accuracy on the images prone to leak,
    averaged over `seeds`; low and high are the 95 % interval of the difference (random minus lesion-safe), drawn by
    lesion; `by_seed` its values. NaN where no lesion has two images. 10,015 images of 1,280 features take 24 s a seed
    on one core.
    """
    truth, groups = table["label"].map(CLASSES.index).to_numpy(), split.groups(table, pairs)
    if len(features) != len(table):
        raise UserError(f"{len(features)} rows of features for {len(table)} images: give one row an image")
    prone = np.bincount(groups)[groups] > 1
    deals = {"random": np.arange(len(table)), "lesion": groups}
    jobs = [(name, strategy, seed) for name in CLASSIFIERS for strategy in deals for seed in seeds]
    called = {(name, strategy, seed): out_of_fold(CLASSIFIERS[name], features, truth, deals[strategy], folds, seed)
              for name, strategy, seed in tqdm(jobs, "inflation", unit="split")}  # fmt: skip
    found = {}
    for name in CLASSIFIERS:
        mine = {strategy: np.stack([called[name, strategy, seed] for seed in seeds]) for strategy in deals}
        found[name] = _compared(truth, mine, groups, prone, n_resamples)
    about = {"images": len(table), "prone_images": int(prone.sum()), "folds": folds, "seeds": list(map(int, seeds))}
    return about | {"classifiers": found}


def run(cfg) -> None:
    """Write inflation.json: `leakage_inflation` on the frozen features of the training images, and what they are of."""
    table = clean.read_table(cfg.table_file)
    training = (table["source"] == "train").to_numpy()
    found = leakage_inflation(features.features(cfg)[training], table[training].reset_index(drop=True),
                              split.near_duplicates(cfg))  # fmt: skip
    about = {"backbone": cfg.backbone, "weights": Path(cfg.weights).name, "image_size": cfg.image_size}
    files.write_json(cfg.inflation_file, plain(found | about))
    if not found["prone_images"]:
        print("inflation: no lesion has two images, so a random split leaks nothing")
    for name, row in found["classifiers"].items() if found["prone_images"] else ():
        print(f"inflation: {name}: {row['random']:.3f} under the random split, {row['lesion']:.3f} under the lesion-safe one, "
              f"on the {found['prone_images']:,} images of which another view exists")  # fmt: skip


def out_of_fold(make, features, truth, groups, folds: int, seed: int) -> np.ndarray:
    """(N,) int: each image's class as a classifier says that was fitted on the other folds. `groups` stay together.

    UserError where some fold leaves nothing to tell apart.
    """
    fold = split.deal(groups, truth, np.ones(folds), seed)
    called = np.empty(len(truth), int)
    for k in np.unique(fold):
        if len(np.unique(truth[fold != k])) < 2:
            raise UserError(f"{len(truth):,} images of {len(np.unique(groups)):,} lesions are too few for {folds} folds: "
                            "without one of them, fewer than two classes are left to learn. Add images")  # fmt: skip
        called[fold == k] = make().fit(features[fold != k], truth[fold != k]).predict(features[fold == k])
    return called


def _compared(truth, called, groups, prone, n_resamples):
    """`called`: {strategy: (seeds, N)}."""

    def scores(strategy, weights, which):  # (R, seeds)
        return np.stack([_balanced(truth[which], one[which], weights) for one in called[strategy]], axis=1)

    def difference(weights):
        return (scores("random", weights, prone) - scores("lesion", weights, prone)).mean(1)

    ones, everything = np.ones((1, prone.sum())), np.ones(len(truth), bool)
    by_strategy = {strategy: scores(strategy, ones, prone)[0] for strategy in called}
    low, high = intervals.by_lesion(difference, groups[prone], strata=truth[prone], n_resamples=n_resamples, vectorised=True)
    return {strategy: float(values.mean()) for strategy, values in by_strategy.items()} | {
        "difference": float(difference(ones)[0]),
        "low": float(low),
        "high": float(high),
        "by_seed": (by_strategy["random"] - by_strategy["lesion"]).tolist(),
        "all_images": {s: float(scores(s, np.ones((1, len(truth))), everything).mean()) for s in called},
    }


def _balanced(truth, called, weights):
    return intervals.confusion_numbers(truth, called, weights)[:, 0]
