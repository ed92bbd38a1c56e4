"""The baseline to beat before any training: logistic regression on the frozen ImageNet features, fitted in seconds."""

import time

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from dermai_utils import clean, evaluate, features, files, intervals, markup, split
from dermai_utils.config import CLASSES, UserError

SHOWN = ("balanced_accuracy", "macro_f1", "macro_auc")


def classifier():
    """Square roots tame the features' long tails. Both, and C, were chosen by 4-fold cross-validation in the training part."""
    return make_pipeline(
        FunctionTransformer(_signed_root), StandardScaler(), LogisticRegression(C=0.003, class_weight="balanced", max_iter=200)
    )


def _signed_root(x):
    return np.sign(x) * np.sqrt(np.abs(x))


def run(cfg) -> None:
    """Fit on the training part; write cfg.instant_file: the numbers of every held-out part, with 95 % intervals by lesion."""
    started = time.monotonic()
    table = split.read(cfg)
    found = pd.Series(range(len(table)), index=clean.read_table(cfg.table_file)["image"])
    given = features.features(cfg)[found.loc[table["image"]]]
    train = (table["part"] == "train").to_numpy()
    if table.loc[train, "label"].nunique() < len(CLASSES):
        missing = ", ".join(c for c in CLASSES if c not in set(table.loc[train, "label"]))
        raise UserError(f"{cfg.split_file}: no image of {missing} in the training part; add some, or lower test_fraction")
    featured = time.monotonic()
    model = classifier().fit(given[train], table.loc[train, "label"].map(CLASSES.index))
    scores = {part: _scores(model, given, table, part) for part in ("val", "test", "official") if (table["part"] == part).any()}
    seconds = {"features": featured - started, "fit": time.monotonic() - featured}
    files.write_json(cfg.instant_file, {"backbone": cfg.backbone, "image_size": cfg.image_size, "parts": scores} | seconds)
    for part, numbers in scores.items():
        text = ", ".join(f"{name.replace('_', ' ')} {markup.with_interval(numbers[name])}" for name in SHOWN)
        print(f"instant: {part}, n={numbers['n']:,}: {text}")


def _scores(model, given, table, part):
    here = (table["part"] == part).to_numpy() & (evaluate.weights(table["image"]) > 0)
    truth = table.loc[here, "label"].map(CLASSES.index).to_numpy()
    probabilities = model.predict_proba(given[here])
    return {"n": int(here.sum())} | intervals.headline(truth, probabilities, table.loc[here, "lesion_id"])
