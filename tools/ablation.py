"""What each choice of the recipe is worth: python tools/ablation.py [--rows a,b] [--thirds 3] [--seeds 1] [--field value ...]

Every row is the recipe with one change: balanced accuracy, macro F1 and AUC, and the paired difference to the recipe as it is,
with its 95 % interval by lesion. Balanced accuracy is that of the rule which divides by a power of the training shares, tuned
on the same images; macro F1 and AUC are those of the plain probabilities of one view.

All but the test part is dealt to three folds, lesions kept whole; each of `thirds` folds is scored by a model that was trained
on the other two, so a row rests on up to 8,800 images instead of the 1,200 of the validation part. Test is never looked at. A
row that is trained already is not trained again. Everything goes to work/<data>/ablation, the table to ablation.json, .md
and .png.
"""

import dataclasses
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import flags  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from dermai_utils import clean, config, files, findings, intervals, pipeline, plots, report, split  # noqa: E402
from dermai_utils.instant import SHOWN  # noqa: E402

ROWS = {
    "recipe": {},
    "all-layers": dict(freeze="none"),
    "backbone-frozen": dict(freeze="backbone"),
    "smoothing": dict(label_smoothing=0.05),
    "logit-adjustment": dict(imbalance="logit_adjustment"),
    "not-deferred": dict(imbalance="logit_adjustment", deferred=False),
    "class-weights": dict(imbalance="class_weights"),
    "sqrt-weights": dict(imbalance="sqrt_weights"),
    "effective-number": dict(imbalance="effective_number"),
    "sampler": dict(imbalance="sampler"),
    "focal": dict(imbalance="focal"),
    "no-average": dict(ema=0.0),
    "even-rates": dict(head_rate=1.0),
    "half-rate": dict(learning_rate=3.5e-4),
    "cosine": dict(schedule="cosine"),
    "constant": dict(schedule="constant"),
    "no-augmentation": dict(augment=False),
    "full-size": dict(first_size=0),
    "96px": dict(image_size=96, first_size=0),  # what bounds it: pixels, images
    "128px": dict(image_size=128, first_size=96),
    "160px": dict(image_size=160, first_size=112),
    "half-the-lesions": dict(train_fraction=0.5),
    "quarter-of-the-lesions": dict(train_fraction=0.25),
    "20-epochs": dict(epochs=20),
    "half-for-20-epochs": dict(train_fraction=0.5, epochs=20),  # fewer images without fewer steps
    "8-views": dict(views=8),  # an evaluation of the recipe's own runs
}
NUMBERS = intervals.CONFUSION_NUMBERS + intervals.AUC_NUMBERS


def validation(cfg):
    """The rows of validation, their probabilities, those by the rule tuned on them, and the seconds that training took."""
    pipeline.ensure(cfg, "train")
    rows, table = report.predict(cfg), split.read(cfg)
    rows = rows[rows["part"] == "val"]
    prior, plain = findings.training_prior(table), findings.arrays(rows)[1]
    called = findings.divided(plain, prior, findings.tuned_strength(rows, prior))
    return rows, plain, called, clean.read_table(cfg.member_dirs[0] / "history.csv")["seconds"].sum()


def variant(base, name, seed, fold=0):
    """The config of a row; what changes the evaluation alone takes the recipe's own run."""
    changed = ROWS[name]
    own = dataclasses.replace(base, **changed, seed=seed, fold=fold, run_name=f"{name}-{fold}-{seed}")
    return dataclasses.replace(own, ensemble=f"recipe-{fold}-{seed}") if set(changed) == {"views"} else own


def row_of(base, name, seeds, thirds):
    """(rows of validation; (S, N, 7) probabilities of S seeds; the same by the tuned rule; seconds a run)."""
    found = [[validation(variant(base, name, seed, fold)) for fold in range(thirds)] for seed in seeds]
    rows = pd.concat([fold[0] for fold in found[0]], ignore_index=True)
    plain, called = (np.stack([np.concatenate([fold[k] for fold in folds]) for folds in found]) for k in (1, 2))
    return rows, plain, called, np.mean([fold[3] for folds in found for fold in folds])


def measured(base, names, seeds, thirds):
    """One dict a row, ready for JSON; the first is the recipe, which the others are compared with."""
    rows, *recipe, _ = row_of(base, "recipe", seeds, thirds)
    truth, lesions = findings.arrays(rows)[0], rows["lesion_id"]
    for name in ["recipe", *(name for name in names if name != "recipe")]:
        _, *found, seconds = row_of(base, name, seeds, thirds)
        row = {"row": name, "change": ROWS[name], "seeds": list(seeds), "thirds": thirds, "n": len(truth)}
        row |= {"minutes": seconds / 60, "difference": {}}
        for key in SHOWN:
            called = int(key == "balanced_accuracy")  # by the tuned rule; the others by the plain probabilities
            each = [
                intervals.headline_numbers(truth, p, np.ones((1, len(truth))))[0][NUMBERS.index(key)] for p in found[called]
            ]
            row[key] = {"mean": float(np.mean(each)), "each": [float(value) for value in each]}
            if name != "recipe":
                row["difference"][key] = intervals.difference(truth, found[called], recipe[called], lesions)[key]
        yield row


def table(rows) -> str:
    """The rows as Markdown: each score, then its difference to the recipe's with the 95 % interval."""
    lines = ["| change | minutes | balanced accuracy | macro F1 | macro AUC |", "|---|---|---|---|---|"]
    for row in rows:
        shown = [f"{row[key]['mean']:.3f}{_apart(row['difference'].get(key))}" for key in SHOWN]
        lines.append(f"| {told(row)} | {row['minutes']:.1f} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def told(row) -> str:
    """A row's change in words."""
    return ", ".join(f"{key} {value}" for key, value in row["change"].items()) or "none: the recipe"


def _apart(difference):
    return f"; {difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]" if difference else ""


@flags.command
def main(words):
    given, own = flags.read(words, rows=",".join(ROWS), seeds=1, thirds=1)
    names, seeds, thirds = own["rows"].split(","), range(own["seeds"]), min(3, own["thirds"])
    if unknown := set(names) - set(ROWS):
        raise config.UserError(f"--rows {','.join(sorted(unknown))}: the rows are {', '.join(ROWS)}")
    base, done = config.load(**given, folds=3), []
    base = dataclasses.replace(base, work_dir=str(base.work / "ablation"), views=1)  # its folds must not remake your split
    pipeline.ensure(base, "split")
    for row in measured(base, names, seeds, thirds):
        done.append(row)
        text = table(done)
        files.write_json(base.work / "ablation.json", {"settings": given, "rows": done})
        with files.atomic(base.work / "ablation.md") as file:
            file.write(text)
        if done[1:]:
            with files.atomic(base.work / "ablation.png", "wb") as file:
                file.write(plots.differences([{**one, "change": told(one)} for one in done[1:]]).encoded(dpi=100))
        print(text, flush=True)
    print(base.work / "ablation.md")


if __name__ == "__main__":
    sys.exit(main())
