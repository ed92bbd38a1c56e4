"""The evaluation of a run: predictions of every held-out subset, metrics, figures, report."""

import numpy as np
import pandas as pd

from dermai_utils import files
from dermai_utils.config import CLASSES, DISCLAIMER
from dermai_utils.data import pixels, split
from dermai_utils.metrics import decisions, predictions, text
from dermai_utils.metrics.predictions import HELD_OUT
from dermai_utils.report import browse, figures, render, summary
from dermai_utils.training import checkpoint
from dermai_utils.training.inference import LoadedRun

OF_ONE_EVALUATION = ("gradcam.png", "gradcam_mistakes.png", "gradcam.json", "predictor.json")
OF_ONE_EVALUATION += ("submission.csv",)
EXPORTED = ("model.onnx", "model.pt2", "export.json")  # by predict.export, on the user's command


def predict(cfg) -> pd.DataFrame:
    """The table of predictions (see metrics.predictions) of every held-out image.

    With all folds as one run, a val image is predicted by the models that did not learn it, and
    any other image by all of them.
    """
    table = split.read(cfg)
    table = table[table["subset"].isin(HELD_OUT)].reset_index(drop=True)
    run, rows = LoadedRun(cfg, say=print), table["row"].to_numpy()
    names = ["subset", "lesion_id", "row"]
    if cfg.fold < 0:
        names.append("fold")
        fold, of_network = table["fold"].to_numpy(), checkpoint.held_out_folds(cfg)
        probabilities = np.empty((len(table), len(CLASSES)))
        for k in np.unique(fold):  # -1: no fold
            networks = [
                net for net, n in zip(run.networks, of_network, strict=True) if k in (n, -1)
            ]
            probabilities[fold == k] = run.probabilities(rows[fold == k], cfg.tta, networks)
    else:
        probabilities = run.probabilities(rows, cfg.tta)
    truth = table["label"].map(CLASSES.index).to_numpy()
    columns = {name: table[name] for name in names}
    return predictions.build(table["image"], truth, probabilities, **columns)


def run(cfg) -> None:
    """Predict, and write all that `write` does. What is of an earlier evaluation goes first: it
    would be shown as this one's."""
    table = predict(cfg)
    for name in OF_ONE_EVALUATION:
        (cfg.report_dir / name).unlink(missing_ok=True)
    _remove_old_export(cfg)
    write(cfg, table)
    render.index(cfg)


def _remove_old_export(cfg) -> None:
    """Remove the exported model, unless it is this network with this test-time augmentation."""
    about = files.read_json(cfg.report_dir / "export.json") or {}
    if about.get("checkpoints") == checkpoint.checksums(cfg) and about.get("tta") == cfg.tta:
        return
    old = [path for name in EXPORTED if (path := cfg.report_dir / name).exists()]
    for path in old:
        path.unlink()
    if old:
        names = ", ".join(path.name for path in old)
        how = f"python -m dermai_utils export --run-name {cfg.run_name}"
        print(f"evaluate: {names} of an earlier model removed; {how} makes them again")


def write(cfg, table) -> None:
    """To cfg.report_dir: predictions.csv, metrics.json, the official test set's submission.csv,
    figures, model card, report.html."""
    metrics = report_metrics(cfg, predictions.by_subset(table))
    table = decisions.called(table, metrics["decisions"])
    files.write_table(table, cfg.report_dir / "predictions.csv")
    files.write_json(cfg.report_dir / "metrics.json", metrics)
    if "official" in metrics["subsets"]:
        rows = table[table["subset"] == "official"]
        scores = decisions.by_chosen_rule(rows, metrics["decisions"])
        submission = predictions.submission(rows["image"], scores)
        files.write_table(submission, cfg.report_dir / "submission.csv")
    figures.save_all(cfg, metrics, table)
    browse.save_pictures(cfg, table, pixels.load(cfg.pixels_file))
    render.model_card(cfg, metrics)
    render.report(cfg, metrics)
    _print(metrics)


def _print(metrics):
    names = ("balanced_accuracy", "macro_f1", "macro_auc")
    rule = text.rule_name(metrics["decisions"])
    print(f"evaluate: decision rule, chosen on validation: {rule}")
    for subset, scores in metrics["subsets"].items():
        values = ", ".join(f"{text.pretty_name(n)} {text.format_number(scores[n])}" for n in names)
        argmax = text.format_number(metrics["argmax"]["subsets"][subset]["balanced_accuracy"])
        beside = "" if rule == "argmax" else f" (balanced accuracy by argmax {argmax})"
        name = text.subset_name(metrics, subset)
        print(f"evaluate: {name}, n={scores['n']:,}: {values}{beside}")


def report_metrics(cfg, subsets: dict) -> dict:
    """All that metrics.json holds, from {subset: scored rows of predictions}."""
    primary, table = predictions.primary_subset(subsets), split.read(cfg)
    return {
        "run": cfg.run_name,
        "data": cfg.source,
        "split": cfg.split,
        "primary_subset": primary,
        "note": DISCLAIMER,
        **summary.summarise(subsets, primary, table),
        "folds": cfg.folds if cfg.fold < 0 else 0,
        "near_duplicates": near_duplicates(cfg, table),
        "leakage_effect": files.read_json(cfg.leakage_effect_file),
    }


def near_duplicates(cfg, table) -> dict:
    """How many pairs of the list are in `table` (split.read's), and of these with an image that is
    left out, from which nothing is learned; of the others, with an official test image, and in two
    other subsets.

    With all folds as one run, where all are val, each fold counts as a subset.
    """
    subsets = table["subset"]
    if "fold" in table:
        subsets = subsets.where(subsets != "val", "fold " + table["fold"].astype(str))
    subset = dict(zip(table["image"], subsets, strict=True))
    pairs = [
        {subset[a], subset[b]} for a, b in split.near_duplicates(cfg) if a in subset and b in subset
    ]
    apart = [names for names in pairs if len(names) == 2 and "left out" not in names]
    official = sum("official" in names for names in apart)
    return {
        "pairs": len(pairs),
        "in_two_subsets": len(apart) - official,
        "with_official": official,
        "left_out": sum("left out" in names for names in pairs),
    }
