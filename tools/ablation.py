"""What each choice in training is worth: python tools/ablation.py [--rows a,b] [--thirds 3]
[--setting value ...]

A row is a training with the given settings and one change; its scores are compared with those of
the training without a change, with paired 95 % intervals by lesion. The images to train on are
split into three folds, lesions kept whole, and each of `thirds` folds is scored by a network that
was trained on the other two. The official test set and other test sets are left out: nobody looks
at them here. With one third the decision rule is tuned on the images that it is scored on; with
several, on the other thirds. What is trained already is not trained again.

The runs and ablation.csv lie in work/DATA/ablation-SEED: give --seed for another one.
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd  # noqa: E402
import torch  # noqa: E402

import dermai_utils as dermai  # noqa: E402
from dermai_utils import cli, commands, files, reports, settings, training  # noqa: E402
from dermai_utils.augmentation import squares  # noqa: E402
from dermai_utils.basics import UserError  # noqa: E402

ROWS = {  # options of dermai.train
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
    "20-epochs": dict(epochs=20),
    "tta": dict(tta=8),
}


def trained(s, name, thirds, folder):
    """The evaluated Run of a row: `thirds` networks."""
    dataset = commands.load(s)
    folds = dermai.folds(dataset.table, 3, s.test_share, seed=s.split_seed)
    numbered = folds.str.isdecimal()
    folds = folds.where(numbered | (folds == "train"), "left out")
    folds = folds.mask(numbered & ~folds.isin(list("012"[:thirds])), "train")
    options = settings.training_options(s) | ROWS[name]
    if thirds == 1:
        net, subset = commands.new_network(s), folds.replace("0", "val")
        run = dermai.train(dataset, subset, net, folder / name, **options)
    else:
        make = functools.partial(commands.new_network, s)
        run = training.train_folds(dataset, folds, make, folder / name, **options)
    dermai.report(run)  # the metrics alone: without the data there are no pictures
    return run


def main(words):
    parser = cli.Parser(prog="ablation.py", description=__doc__.partition(":")[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--thirds", type=int, default=3, choices=(1, 2, 3))
    for field in settings.FIELDS.values():
        cli.add_setting(parser, field)
    given, own = cli.split_words(parser, words)
    names = [name for name in own["rows"].split(",") if name != "unchanged"]
    if unknown := sorted(set(names) - set(ROWS)):
        raise UserError(f"--rows {','.join(unknown)}: the rows are {', '.join(ROWS)}")
    s, found = settings.read(**given), {}
    folder = s.work / f"ablation-{s.seed}"
    unchanged = trained(s, "unchanged", own["thirds"], folder)
    for name in names:
        found[name] = reports.comparison(trained(s, name, own["thirds"], folder), unchanged)
        rows = pd.concat(found, names=["row", "metric"])
        files.write_table(rows.reset_index(), folder / "ablation.csv")
        print(found[name].astype(float).round(3).to_string(), flush=True)
    print(folder / "ablation.csv")


if __name__ == "__main__":
    sys.exit(cli.exit_status(main, sys.argv[1:]))
