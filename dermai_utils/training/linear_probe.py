"""The baseline to beat before any training: a linear probe on frozen ImageNet features."""

import time

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from dermai_utils import files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import clean, split
from dermai_utils.metrics import bootstrap, predictions, text
from dermai_utils.training import features

METRICS = ("balanced_accuracy", "macro_f1", "macro_auc")  # that are printed


def classifier():
    """Logistic regression on the features' square roots, which tame their long tails.

    Both, and C, were chosen by 4-fold cross-validation in the training subset.
    """
    logistic = LogisticRegression(C=0.003, class_weight="balanced", max_iter=200)
    return make_pipeline(FunctionTransformer(_signed_root), StandardScaler(), logistic)


def _signed_root(x):
    return np.sign(x) * np.sqrt(np.abs(x))


def run(cfg) -> None:
    """Fit on the training subset; write cfg.linear_probe_file: the metrics of every held-out
    subset, with 95 % intervals by lesion."""
    started = time.monotonic()
    table = split.read(split.of_first_model(cfg))
    places = pd.Series(range(len(table)), index=clean.read(cfg)["image"])
    inputs = features.features(cfg)[places.loc[table["image"]]]
    train = (table["subset"] == "train").to_numpy()
    labels = table.loc[train, "label"]
    if missing := [c for c in CLASSES if c not in set(labels)]:
        raise UserError(
            f"{cfg.split_file}: no image of {', '.join(missing)} in the training subset; "
            "add some, or lower test_fraction"
        )
    fitting = time.monotonic()
    model = classifier().fit(inputs[train], labels.map(CLASSES.index))
    subsets = [name for name in predictions.HELD_OUT if (table["subset"] == name).any()]
    scores = {name: _scores(model, inputs, table, name) for name in subsets}
    seconds = {"features": fitting - started, "fit": time.monotonic() - fitting}
    settings = {"backbone": cfg.backbone, "image_size": cfg.image_size}
    files.write_json(cfg.linear_probe_file, settings | {"subsets": scores} | seconds)
    for name, metrics in scores.items():
        values = ", ".join(
            f"{text.pretty_name(m)} {text.with_interval(metrics[m])}" for m in METRICS
        )
        print(f"linear_probe: {name}, n={metrics['n']:,}: {values}")


def _scores(model, inputs, table, subset):
    here = (table["subset"] == subset).to_numpy() & (predictions.weights(table["image"]) > 0)
    truth = table.loc[here, "label"].map(CLASSES.index).to_numpy()
    probabilities = model.predict_proba(inputs[here])
    metrics = bootstrap.intervals(truth, probabilities, table.loc[here, "lesion_id"])
    return {"n": int(here.sum())} | metrics
