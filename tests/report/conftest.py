import dataclasses
import shutil

import numpy as np
import pytest

from dermai_utils import files
from dermai_utils.config import CLASSES
from dermai_utils.data import pixels, split
from dermai_utils.metrics import decisions, predictions
from dermai_utils.report import browse, evaluate, render, summary


@pytest.fixture(scope="session")
def corrected(made, tmp_path_factory):
    """The fixture's run with other predictions: they know something, but the classes' shares of the
    training images weigh on them, so that the chosen decision rule is not argmax."""
    folder = tmp_path_factory.mktemp("corrected") / "work"
    shutil.copytree(made.work, folder)
    cfg = dataclasses.replace(made, work_dir=str(folder))
    table = files.read_table(cfg.report_dir / "predictions.csv")
    truth, _ = predictions.arrays(table)
    logits = np.random.default_rng(0).normal(size=(len(table), 7)) + 2.5 * np.eye(7)[truth]
    shares = decisions.training_prior(split.read(cfg))[list(CLASSES)].to_numpy()
    p = np.exp(logits) * shares**2
    columns = {name: table[name] for name in ("subset", "lesion_id", "row")}
    p /= p.sum(1, keepdims=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "RESAMPLES", 100)
        evaluate.write(cfg, predictions.build(table["image"], truth, p, **columns))
    table, training = files.read_table(cfg.report_dir / "predictions.csv"), split.read(cfg)
    rows, training = predictions.primary_rows(table), training[training["subset"] == "train"]
    similarity = np.random.default_rng(1).random((len(rows), len(training)))
    browse.save_similar(cfg, rows, similarity, training, pixels.load(cfg.pixels_file))
    render.report(cfg, files.read_json(cfg.report_dir / "metrics.json"))
    return cfg
