"""The evaluation of a run: predictions of its best checkpoint on every held-out part, the numbers, the figures."""

import numpy as np

from dermai_utils import clean, evaluate, files, model, pixels, plots, split, train
from dermai_utils.config import CLASSES, DISCLAIMER, UserError

HELD_OUT = ("val", "test", "official")
PART_NAMES = {
    "val": "validation part (the checkpoint was chosen on it)",
    "test": "held-out test part (nothing was chosen on it)",
    "official": "official ISIC 2018 test set",
}


def predict(cfg):
    """One row for each held-out image: image, part, lesion_id, truth, prediction, seven probabilities, confidence, row."""
    table = split.read(cfg)
    table = table[table["part"].isin(HELD_OUT)].reset_index(drop=True)
    accelerator = train.start(cfg)
    net, about = train.load_best(cfg, accelerator.device)
    if about["image_size"] != cfg.image_size:
        raise UserError(f"{cfg.show(cfg.run_dir)} was trained at {about['image_size']} px, not {cfg.image_size}")
    with accelerator.autocast():
        logits = model.predict(
            net, train.batches_for(cfg, net, accelerator.device), table["row"].to_numpy(), 4 * cfg.batch_size
        )
    truth = table["label"].map(CLASSES.index).to_numpy()
    return evaluate.predictions_frame(
        table["image"], truth, model.softmax(logits), part=table["part"], lesion_id=table["lesion_id"], row=table["row"]
    )


def arrays(predictions, part: str):
    """(truth (N,) int, probabilities (N, 7), official weights (N,)) of one part."""
    rows = predictions[predictions["part"] == part]
    truth = rows["truth"].map(CLASSES.index).to_numpy()
    return truth, rows[list(CLASSES)].to_numpy(), evaluate.weights(rows["image"])


def headline_part(found: dict) -> str:
    """The part whose numbers may be quoted: the official test set, else the untouched test part, else validation."""
    return [part for part in HELD_OUT if part in found][-1]


def run(cfg) -> None:
    """Write predictions.csv, metrics.json, the submission for an official test set, and the figures, to cfg.report_dir."""
    predictions = predict(cfg)
    found = {}
    for part in HELD_OUT:
        if (predictions["part"] == part).any():
            found[part] = evaluate.metrics(*arrays(predictions, part))
    clean.write_csv(predictions, cfg.report_dir / "predictions.csv")
    summary = {
        "run": cfg.run_name,
        "data": cfg.source,
        "split": cfg.split,
        "headline": headline_part(found),
        "note": DISCLAIMER,
    }
    files.write_json(cfg.report_dir / "metrics.json", summary | {"parts": found})
    if "official" in found:
        rows = predictions[predictions["part"] == "official"]
        evaluate.submission(rows["image"], rows[list(CLASSES)].to_numpy(), cfg.report_dir / "submission.csv")
    figures(cfg, predictions, found)
    for part, numbers in found.items():
        text = ", ".join(
            f"{name.replace('_', ' ')} {_shown(numbers[name])}" for name in ("balanced_accuracy", "macro_f1", "macro_auc")
        )
        print(f"evaluate: {PART_NAMES[part]}, n={numbers['n']:,}: {text}")


def figures(cfg, predictions, found) -> None:
    """Confusion matrix, ROC curves and the gallery of mistakes for each part, as PNG."""
    images = pixels.load(cfg.pixels_file)
    for part, numbers in found.items():
        truth, probabilities, _ = arrays(predictions, part)
        rows = predictions[predictions["part"] == part]
        drawn = {
            "confusion": plots.confusion(np.array(numbers["confusion"]), title=PART_NAMES[part]),
            "roc": plots.roc(truth, probabilities, title=PART_NAMES[part]),
            "mistakes": plots.mistakes(evaluate.mistakes(rows, 12), images),
        }
        for name, figure in drawn.items():
            save_figure(figure, cfg.report_dir / f"{name}_{part}.png")


def save_figure(figure, path) -> None:
    """A figure as PNG, atomically."""
    with files.atomic(path, "wb") as file:
        file.write(figure.encoded("png"))


def _shown(value):
    return evaluate.UNDEFINED if value is None else f"{value:.3f}"
