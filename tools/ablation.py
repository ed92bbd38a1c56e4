"""What each choice in training is worth: python tools/ablation.py [--rows a,b] [--thirds 3]
[--seeds 1] [--setting value ...]

Every row is the training of the given settings with one change: balanced accuracy, macro F1 and
AUC, and the paired difference to the training without it, with its 95 % interval by lesion.
Balanced accuracy is that of the prior-corrected decision rule, whose exponent tau is tuned on the
same images; macro F1 and AUC are those of the plain probabilities, without test-time augmentation.

All images but the test subset are split into three folds, lesions kept whole. Each of `thirds`
folds is scored by a model trained on the other two: a row rests on up to 8,800 images instead of
the 1,200 of the validation subset, and the test subset is never looked at. What is trained already
is not trained again. Everything goes to work/<data>/ablation: ablation.json, .md and .png.
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from dermai_utils import config, files, pipeline  # noqa: E402
from dermai_utils.__main__ import command, read_words  # noqa: E402
from dermai_utils.data import split  # noqa: E402
from dermai_utils.metrics import bootstrap, classification, decisions, predictions  # noqa: E402
from dermai_utils.report import evaluate, plots  # noqa: E402

ROWS = {
    "unchanged": {},
    "all-layers": dict(freeze="none"),
    "backbone-frozen": dict(freeze="backbone"),
    "smoothing": dict(label_smoothing=0.05),
    "logit-adjustment": dict(imbalance="logit_adjustment"),
    "no-drw": dict(imbalance="logit_adjustment", drw=False),
    "class-weights": dict(imbalance="class_weights"),
    "sampler": dict(imbalance="sampler"),
    "no-average": dict(ema=0.0),
    "even-rates": dict(head_rate=1.0),
    "half-rate": dict(learning_rate=3.5e-4),
    "constant": dict(schedule="constant"),
    "no-augmentation": dict(augment=False),
    "full-size": dict(first_size=0),
    "96px": dict(image_size=96, first_size=0),
    "128px": dict(image_size=128, first_size=96),
    "160px": dict(image_size=160, first_size=112),
    "half-the-lesions": dict(train_fraction=0.5),
    "quarter-of-the-lesions": dict(train_fraction=0.25),
    "20-epochs": dict(epochs=20),
    "half-for-20-epochs": dict(train_fraction=0.5, epochs=20),  # fewer images, as many steps
    "tta": dict(tta=8),  # an evaluation of the unchanged runs
}
SCORES = ("balanced_accuracy", "macro_f1", "macro_auc")


def validation(cfg):
    """(predictions on val, plain and prior-corrected probabilities, seconds of training)."""
    pipeline.ensure(cfg, "train")
    rows = evaluate.predict(cfg)
    rows = rows[rows["subset"] == "val"]
    prior, plain = decisions.training_prior(split.read(cfg)), predictions.arrays(rows)[1]
    corrected = decisions.prior_corrected(plain, prior, decisions.tuned_tau(rows, prior))
    seconds = files.read_table(cfg.member_dirs[0] / "history.csv")["seconds"].sum()
    return rows, plain, corrected, seconds


def variant(base, name, seed, fold=0):
    """The config of a row; a change of the evaluation alone takes the unchanged run."""
    own = dict(seed=seed, fold=fold, run_name=f"{name}-{fold}-{seed}")
    if set(ROWS[name]) == {"tta"}:
        own["ensemble"] = f"unchanged-{fold}-{seed}"
    return dataclasses.replace(base, **ROWS[name], **own)


def row_of(base, name, seeds, thirds):
    """(rows of predictions on val; (S, N, 7) plain probabilities of S seeds; prior-corrected ones;
    seconds per run)."""
    runs = [
        [validation(variant(base, name, seed, fold)) for fold in range(thirds)] for seed in seeds
    ]
    rows = pd.concat([fold[0] for fold in runs[0]], ignore_index=True)
    plain, corrected = (
        np.stack([np.concatenate([fold[k] for fold in folds]) for folds in runs]) for k in (1, 2)
    )
    return rows, plain, corrected, np.mean([fold[3] for folds in runs for fold in folds])


def measured(base, names, seeds, thirds):
    """One dict per row, ready for JSON; the first is unchanged, the others are compared with it."""
    rows, *unchanged, _ = row_of(base, "unchanged", seeds, thirds)
    truth, lesions = predictions.arrays(rows)[0], rows["lesion_id"]
    for name in dict.fromkeys(("unchanged", *names)):
        _, *changed, seconds = row_of(base, name, seeds, thirds)
        row = {"row": name, "change": ROWS[name], "seeds": list(seeds), "thirds": thirds}
        row |= {"n": len(truth), "minutes": seconds / 60, "difference": {}}
        for score in SCORES:
            kind = int(score == "balanced_accuracy")  # of the prior-corrected probabilities
            place = classification.SCALAR_METRICS.index(score)
            each = [
                float(classification.scalar_metrics(truth, probabilities)[0][place])
                for probabilities in changed[kind]
            ]
            row[score] = {"mean": float(np.mean(each)), "each": each}
            if name != "unchanged":
                pair = changed[kind], unchanged[kind]
                row["difference"][score] = bootstrap.difference(truth, *pair, lesions)[score]
        yield row


def table(rows) -> str:
    """The rows as Markdown: each score, then its difference with the 95 % interval."""
    lines = [
        "| change | minutes | balanced accuracy | macro F1 | macro AUC |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{row[s]['mean']:.3f}{_in_brackets(row['difference'].get(s))}" for s in SCORES]
        lines.append(f"| {change(row)} | {row['minutes']:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def change(row) -> str:
    """A row's change in words."""
    return ", ".join(f"{key} {value}" for key, value in row["change"].items()) or "none"


def _in_brackets(difference):
    if not difference:
        return ""
    value, low, high = (difference[key] for key in ("value", "low", "high"))
    return f"; {value:+.3f} [{low:+.3f}, {high:+.3f}]"


def write(folder, settings, rows):
    """ablation.json, .md and, with two rows or more, .png."""
    files.write_json(folder / "ablation.json", {"settings": settings, "rows": rows})
    with files.atomic(folder / "ablation.md") as file:
        file.write(table(rows))
    if rows[1:]:
        figure = plots.differences([row | {"change": change(row)} for row in rows[1:]])
        figure.save(folder / "ablation.png")


@command
def main(words):
    settings, own = read_words(words, rows=",".join(ROWS), seeds=1, thirds=1)
    names, seeds, thirds = own["rows"].split(","), range(own["seeds"]), min(3, own["thirds"])
    if unknown := set(names) - set(ROWS):
        text = ",".join(sorted(unknown))
        raise config.UserError(f"--rows {text}: the rows are {', '.join(ROWS)}")
    base, rows = config.load(**settings, folds=3), []
    # in a folder of its own: these folds must not replace your split
    base = dataclasses.replace(base, work_dir=str(base.work / "ablation"), tta=1)
    pipeline.ensure(base, "split")
    for row in measured(base, names, seeds, thirds):
        rows.append(row)
        write(base.work, settings, rows)
        print(table(rows), flush=True)
    print(base.work / "ablation.md")


if __name__ == "__main__":
    sys.exit(main())
