"""What each choice in training is worth: python tools/ablation.py [--rows a,b] [--thirds 3]
[--seeds 1] [--setting value ...]

Every row is the training of the given settings with one change: balanced accuracy, macro F1 and
AUC, and the paired difference to the training without it, with its 95 % interval by lesion.
Balanced accuracy is that of the prior-corrected decision rule, whose exponent tau is tuned on the
same images; macro F1 and AUC are those of the plain probabilities, without test-time augmentation.

All images but the test subset are split into three folds, lesions kept whole. Each of `thirds`
folds is scored by a network trained on the other two: a row rests on up to 8,800 images instead of
the 1,200 of the validation subset, and the test subset is never looked at. What is trained already
is not trained again. Everything goes to work/DATA/ablation: ablation.json and .md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

import dermai_utils as dermai  # noqa: E402
from dermai_utils import cli, commands, files, metrics, predictions, settings  # noqa: E402
from dermai_utils.augmentation import squares  # noqa: E402
from dermai_utils.basics import UserError  # noqa: E402
from dermai_utils.study import decisions  # noqa: E402

ROWS = {  # arguments of dermai.train; `tta` of the evaluation
    "unchanged": {},
    "all-layers": dict(freeze="none"),
    "backbone-frozen": dict(freeze="backbone"),
    "smoothing": dict(loss=torch.nn.CrossEntropyLoss(label_smoothing=0.05)),
    "logit-adjustment": dict(imbalance="logit_adjustment"),
    "class-weights": dict(imbalance="class_weights"),
    "sampler": dict(imbalance="sampler"),
    "no-average": dict(average=0.0),
    "even-rates": dict(head_rate=1.0),
    "half-rate": dict(learning_rate=3.5e-4),
    "no-augmentation": dict(augment=squares),
    "full-size": dict(first_size=0),
    "96px": dict(size=96, first_size=0),
    "128px": dict(size=128, first_size=96),
    "160px": dict(size=160, first_size=112),
    "20-epochs": dict(epochs=20),
    "tta": dict(tta=8),
}
SCORES = ("balanced_accuracy", "macro_f1", "macro_auc")


def validation(s, dataset, folds, name, seed, fold):
    """(predictions on val, plain and prior-corrected probabilities, seconds) of one training."""
    change = {k: v for k, v in ROWS[name].items() if k != "tta"}
    subset = folds.mask(folds.str.isdecimal(), "train").mask(folds == str(fold), "val")
    net = dermai.network(s.backbone, s.weights, change.get("size", s.size), seed)
    names = "epochs batch_size learning_rate imbalance freeze first_size device precision"
    options = {name: getattr(s, name) for name in names.split()} | {"seed": seed} | change
    own = "unchanged" if name == "tta" else name
    folder = s.work / "ablation" / "runs" / f"{own}-{fold}-{seed}"
    run = dermai.train(dataset, subset, net, folder, **options)
    rows = run.predict(dataset, tta=8) if name == "tta" else run.predictions
    rows, prior = rows[rows["subset"] == "val"], decisions.training_prior(run.table)
    plain = predictions.arrays(rows)[1]
    corrected = decisions.prior_corrected(plain, prior, decisions.tuned_tau(rows, prior))
    return rows, plain, corrected, run.history["seconds"].sum()


def row_of(s, name, seeds, thirds):
    """(rows of predictions on val; (S, N, 7) plain probabilities of S seeds; prior-corrected ones;
    seconds a run)."""
    dataset = commands.load(s, ROWS[name].get("size"))
    folds = dermai.folds(dataset.table, 3, s.test_share, seed=s.split_seed)
    each = [[validation(s, dataset, folds, name, seed, k) for k in range(thirds)] for seed in seeds]
    rows = pd.concat([fold[0] for fold in each[0]], ignore_index=True)
    plain, corrected = (
        np.stack([np.concatenate([fold[k] for fold in folds]) for folds in each]) for k in (1, 2)
    )
    return rows, plain, corrected, np.mean([fold[3] for folds in each for fold in folds])


def measured(s, names, seeds, thirds):
    """One dict a row, ready for JSON; the first is unchanged, the others are compared with it."""
    rows, *unchanged, _ = row_of(s, "unchanged", seeds, thirds)
    truth, lesions = predictions.arrays(rows)[0], predictions.lesions(rows)
    for name in dict.fromkeys(("unchanged", *names)):
        _, *changed, seconds = row_of(s, name, seeds, thirds)
        change = ", ".join(f"{k} {v}" for k, v in ROWS[name].items()) or "none"
        row = {"row": name, "change": change, "n": len(truth), "minutes": seconds / 60}
        for score in SCORES:
            kind = int(score == "balanced_accuracy")  # by the prior-corrected probabilities
            each = [metrics.metrics(truth, p)[score] for p in changed[kind]]
            row[score] = {"mean": float(np.mean(each)), "each": each}
            if name != "unchanged":
                pair = changed[kind], unchanged[kind]
                row[score]["difference"] = dermai.compare(truth, *pair, lesions)[score]
        yield row


def table(rows) -> str:
    """The rows as Markdown: each score, then its difference with the 95 % interval."""
    lines = ["| change | minutes | balanced accuracy | macro F1 | macro AUC |"]
    lines += ["|---|---|---|---|---|"]
    for row in rows:
        cells = [f"{row[s]['mean']:.3f}{brackets(row[s].get('difference'))}" for s in SCORES]
        lines.append(f"| {row['change']} | {row['minutes']:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def brackets(d):
    return f"; {d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]" if d else ""


def main(words):
    parser = cli.Parser(prog="ablation.py", description=__doc__.partition(":")[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--thirds", type=int, default=3, choices=(1, 2, 3))
    for field in settings.FIELDS.values():
        cli.add_setting(parser, field)
    given, own = cli.split_words(parser, words)
    names = own["rows"].split(",")
    if unknown := sorted(set(names) - set(ROWS)):
        raise UserError(f"--rows {','.join(unknown)}: the rows are {', '.join(ROWS)}")
    s, rows = settings.read(**given), []
    folder = s.work / "ablation"
    for row in measured(s, names, range(own["seeds"]), own["thirds"]):
        rows.append(row)
        files.write_json(folder / "ablation.json", {"settings": given, "rows": rows})
        with files.atomic(folder / "ablation.md") as file:
            file.write(table(rows))
        print(table(rows), flush=True)
    print(folder / "ablation.md")


if __name__ == "__main__":
    sys.exit(cli.exit_status(main, sys.argv[1:]))
