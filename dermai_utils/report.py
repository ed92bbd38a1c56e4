"""The evaluation of a run: predictions of its best checkpoint on every held-out part, the numbers, the figures."""

import numpy as np
import pandas as pd

from dermai_utils import (
    calibration,
    card,
    clean,
    evaluate,
    files,
    find_duplicates,
    findings,
    intervals,
    markup,
    model,
    page,
    pixels,
    plots,
    split,
    train,
)
from dermai_utils.config import CLASSES, DISCLAIMER, UserError
from dermai_utils.findings import arrays

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
    at_once, probabilities = train.evaluation_batch(cfg.batch_size, accelerator.device), []
    for folder in cfg.member_dirs:
        net, _ = train.load_best(cfg, accelerator.device, folder)
        batches = train.batches_for(cfg, net, accelerator.device)
        with accelerator.autocast():
            logits = model.predict(net, batches, table["row"].to_numpy(), at_once, views=cfg.views)
        probabilities.append(model.softmax(logits))
    truth = table["label"].map(CLASSES.index).to_numpy()
    return evaluate.predictions_frame(
        table["image"],
        truth,
        np.mean(probabilities, axis=0),
        part=table["part"],
        lesion_id=table["lesion_id"],
        row=table["row"],
    )


def counting(predictions, part: str):
    """The rows of one part that count: in the official test set ISIC_0035068 has zero weight, so it is in no number."""
    rows = predictions[predictions["part"] == part]
    return rows[evaluate.weights(rows["image"]) > 0]


def headline_part(found) -> str:
    """The part whose numbers may be quoted: the official test set, else the untouched test part, else validation."""
    return [part for part in HELD_OUT if part in found][-1]


def run(cfg) -> None:
    """Predict, and write all that `write` does. Maps of an earlier model go first: they would be shown as this one's."""
    predictions = predict(cfg)
    for name in ("gradcam.png", "gradcam_mistakes.png", "gradcam.json"):
        (cfg.report_dir / name).unlink(missing_ok=True)
    write(cfg, predictions)


def write(cfg, predictions) -> None:
    """To cfg.report_dir: predictions.csv, metrics.json, the official test set's submission, figures, card, report.html."""
    parts = {part: counting(predictions, part) for part in HELD_OUT if (predictions["part"] == part).any()}
    found = numbers(cfg, parts)
    clean.write_csv(predictions, cfg.report_dir / "predictions.csv")
    files.write_json(cfg.report_dir / "metrics.json", found)
    if "official" in parts:
        rows = predictions[predictions["part"] == "official"]
        called = findings.by_rule(rows[list(CLASSES)].to_numpy(), found["decisions"])
        evaluate.submission(rows["image"], called, cfg.report_dir / "submission.csv")
    figures(cfg, parts, found)
    card.write(cfg, found)
    page.write(cfg, found)
    for part, scores in found["parts"].items():
        text = ", ".join(
            f"{name.replace('_', ' ')} {markup.shown(scores[name])}" for name in ("balanced_accuracy", "macro_f1", "macro_auc")
        )
        print(f"evaluate: {PART_NAMES[part]}, n={scores['n']:,}: {text}")
    decided = found["decisions"]
    text = ", ".join(f"{name.replace('_', ' ')} {markup.with_interval(decided['rules'][decided['chosen']]['scored'][name])}"
                     for name in ("balanced_accuracy", "macro_f1"))  # fmt: skip
    print(f"evaluate: the same part by the rule chosen on validation, {decided['chosen']}: {text}")


def numbers(cfg, parts: dict) -> dict:
    """All that metrics.json holds, from {part: counting rows}."""
    headline = headline_part(parts)
    about = {"run": cfg.run_name, "data": cfg.source, "split": cfg.split, "headline": headline, "note": DISCLAIMER}
    found, table = {part: evaluate.metrics(*arrays(rows)) for part, rows in parts.items()}, split.read(cfg)
    leaks = {"near_duplicates": near_duplicates(cfg, table), "inflation": files.read_json(cfg.inflation_file)}
    return about | {"parts": found} | findings.collect(parts, headline, table) | leaks


def near_duplicates(cfg, table) -> dict:
    """How many pairs of the list there are in `table` (split.read's), in different parts, and with an official test image."""
    part = dict(zip(table["image"], table["part"], strict=True))
    pairs = [{part[a], part[b]} for a, b in split.near_duplicates(cfg) if a in part and b in part]
    apart = [sides for sides in pairs if len(sides) > 1]
    official = sum("official" in sides for sides in apart)
    return {"pairs": len(pairs), "in_two_parts": len(apart) - official, "with_official": official}


def compare(cfg, other: str) -> dict:
    """This run minus run `other` on the images of the headline part, with paired intervals by lesion (intervals.difference).

    UserError where the two were not evaluated on the same images.
    """
    folders = cfg.report_dir, cfg.report_dir.with_name(other)
    for folder in folders:
        if not (folder / "predictions.csv").exists():
            raise UserError(f"{cfg.show(folder)}: no predictions.csv there; evaluate that run first")
    one, two = (clean.read_table(folder / "predictions.csv") for folder in folders)
    part = headline_part(set(one["part"]))
    one, two = counting(one, part).set_index("image"), counting(two, part).set_index("image")
    if set(one.index) != set(two.index):
        raise UserError(f"runs {cfg.run_name} and {other} have no {part} part in common: evaluate both on one split")
    two = two.loc[one.index]
    return intervals.difference(*arrays(one), arrays(two)[1], one["lesion_id"], n_resamples=findings.RESAMPLES)


def figures(cfg, parts, found) -> None:
    """As PNG: confusion matrix and ROC curves of every part, and all else for the part of the headline."""
    images, headline = pixels.load(cfg.pixels_file), found["headline"]
    drawn = {}
    for part, rows in parts.items():
        drawn[f"confusion_{part}"] = plots.confusion(np.array(found["parts"][part]["confusion"]), title=PART_NAMES[part])
        drawn[f"roc_{part}"] = plots.roc(*arrays(rows), title=PART_NAMES[part])
        if part != headline:
            drawn[f"mistakes_{part}"] = plots.mistakes(evaluate.mistakes(rows, 12), images)
    rows, title = parts[headline], PART_NAMES[headline]
    before, after = (pd.DataFrame(found["calibration"][when]["reliability"]) for when in ("before", "after"))
    drawn |= {
        "headline": plots.headline(found["intervals"][headline], title),
        "calibration": plots.reliability(before, after, title),
        "operating_points": plots.operating_points(found["operating_points"], title),
        "risk_coverage": plots.risk_coverage(calibration.risk_coverage(*arrays(rows)), found["risk_coverage"]["points"], title),
    }
    if found["subgroups"]["part"]:
        drawn["subgroups"] = plots.subgroups(found["subgroups"]["groups"], PART_NAMES[found["subgroups"]["part"]])
    pictures = {"most_confident": "mistakes", "costly": "costly", "likely_mislabelled": "likely_mislabelled"}
    for kind, name in pictures.items():
        drawn[f"{name}_{headline}"] = plots.mistakes(mistaken(found, rows, kind), images)
    if found["inflation"]:
        drawn["inflation"] = plots.inflation(found["inflation"])
    for name, figure in drawn.items():
        save_figure(figure, cfg.report_dir / f"{name}.png")
    side_by_side(cfg, images)


def side_by_side(cfg, images) -> None:
    """near_duplicates.jpg, all pairs of the list, and some_near_duplicates.jpg, six of them from the first to the last."""
    pairs = find_duplicates.titled(split.near_duplicates(cfg), clean.read_table(cfg.table_file))
    some = [pairs[k] for k in np.unique(np.linspace(0, len(pairs) - 1, 6).round().astype(int))] if pairs else []
    for name, shown in (("near_duplicates", pairs), ("some_near_duplicates", some)):
        (cfg.report_dir / f"{name}.jpg").unlink(missing_ok=True)
        if shown:
            save_figure(plots.side_by_side(shown, images), cfg.report_dir / f"{name}.jpg")


def mistaken(found, rows, kind: str):
    """The rows of predictions that metrics.json lists as `kind` of mistake, in its order."""
    return rows.set_index("image", drop=False).loc[[row["image"] for row in found["mistakes"][kind]]]


def save_figure(figure, path) -> None:
    """A figure as PNG or JPEG, atomically; 120 dots an inch, so that small print is legible on a fine screen."""
    with files.atomic(path, "wb") as file:
        file.write(figure.encoded({".jpg": "jpeg"}.get(path.suffix, "png"), 120))
