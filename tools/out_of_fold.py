"""The out-of-fold predictions in assets/predictions, and the figures that pages quote from them.

python tools/out_of_fold.py file WORK/runs/NAME
    writes them from a run with five folds
python tools/out_of_fold.py table
    fills README.md and docs/results.md from the file alone
"""

import gzip
import sys
from pathlib import Path

import pages
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dermai_utils import cli, files, predictions, settings  # noqa: E402
from dermai_utils.audits import inputs, known  # noqa: E402
from dermai_utils.basics import CLASSES, UserError  # noqa: E402
from dermai_utils.reports import plots  # noqa: E402
from dermai_utils.study import decisions, evaluation, text  # noqa: E402

FILE = inputs.OURS / inputs.OURS_FILE
PAGES = [settings.ROOT / "README.md", settings.ROOT / "docs" / "results.md"]
FIGURE = settings.ROOT / "assets" / "confusion_oof.png"
MARKS = "<!-- out_of_fold.py -->", "<!-- end of out_of_fold.py -->"
FOLDS = 5
SCORES = ("balanced_accuracy", "macro_f1", "weighted_f1", "accuracy")


def write(run: Path, path: Path = FILE) -> Path:
    """Image, fold and seven probabilities with four digits, of the folds of `run`.

    An image is of the fold whose network did not learn it. The same predictions give the same
    bytes.
    """
    paths = [run / str(fold) / "predictions.csv" for fold in range(FOLDS)]
    if missing := [path for path in paths if not path.exists()]:
        raise UserError(f"no {missing[0]}: expected a run with {FOLDS} trained folds")
    rows = [files.read_table(path).assign(fold=fold) for fold, path in enumerate(paths)]
    rows = pd.concat([of[of["subset"] == "val"] for of in rows]).sort_values("image")
    content = rows[["image", "fold", *CLASSES]].to_csv(index=False, float_format="%.4g")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content.encode(), mtime=0))
    return path


def read(path: Path = FILE) -> pd.DataFrame:
    """The predictions as rows (see dermai_utils/predictions.py), with the official labels."""
    of = pd.read_csv(path).merge(known.training(), on="image", validate="1:1")
    truth, probabilities = of["label"].map(CLASSES.index), of[list(CLASSES)]
    columns = {"subset": "val", "fold": of["fold"], "lesion_id": of["lesion_id"], "origin": ""}
    return predictions.table(of["image"], truth, probabilities, **columns)


def figures(rows, n_resamples=evaluation.intervals.RESAMPLES) -> dict:
    """{"rule", "argmax": {score: value and interval}, "called": rows with the rule's classes,
    "folds": balanced accuracy of each by the rule, "ece": before and after temperature scaling}.

    Rule and temperature that score a fold were fitted on the other folds.
    """
    table = known.training().assign(source="train", subset="val")
    rules = decisions.compare_rules(rows, decisions.training_prior(table))
    named = decisions.called(rows, rules)
    found = {"called": named, "ece": evaluation.calibrated({"val": rows}, "val")}
    for name, rule in (("rule", rules), ("argmax", None)):
        found[name] = evaluation.by_rule({"val": rows}, rule, n_resamples)["intervals"]["val"]
    recall = (named["truth"] == named["prediction"]).groupby([named["fold"], named["truth"]])
    found["folds"] = recall.mean().groupby("fold").mean().tolist()
    found["ece"] = {k: found["ece"][k]["ece"] for k in ("before", "after")}
    return found


def tables(found) -> dict:
    """{page's name: its lines about the figures}, in Markdown."""
    rule, argmax = found["rule"], found["argmax"]
    images = f"{len(found['called']):,}"
    lines = [f"On {images} images:\n", "score | by the rule | by argmax", "---|---|---"]
    for score in SCORES:
        cells = [text.with_interval(by[score]) for by in (rule, argmax)]
        lines.append(" | ".join([text.pretty_name(score), *cells]))
    auc = text.with_interval(argmax["macro_auc"])
    folds = ", ".join(text.format_number(value) for value in found["folds"])
    others = text.format_number(sum(found["folds"][1:]) / (FOLDS - 1))
    before, after = (text.format_number(found["ece"][k]) for k in ("before", "after"))
    lines += [
        f"\nMacro AUC {auc}. By the rule the folds have {folds}. Settings were chosen on the "
        f"first; the mean of the others is {others}. Expected calibration error {before}, after "
        f"temperature scaling {after}."
    ]
    short = [
        f"**Out of fold**, {images} images ([how](assets/predictions/README.md)):",
        f"- balanced accuracy by the rule **{text.with_interval(rule['balanced_accuracy'])}**, by "
        f"argmax {text.with_interval(argmax['balanced_accuracy'])}",
        f"- by argmax macro F1 {text.format_number(argmax['macro_f1']['value'])}, weighted F1 "
        f"{text.format_number(argmax['weighted_f1']['value'])}; macro AUC {auc}",
    ]
    return {"README.md": "\n".join(short), "results.md": "\n".join(lines)}


def fill() -> Path:
    """Put the lines between the two marks of each page, and draw the confusion matrix anew."""
    found = figures(read())
    truth, named = found["called"]["truth"], found["called"]["prediction"]
    plots.confusion_matrix(truth, named, "out of fold, by the rule").savefig(FIGURE, dpi=115)
    for path in PAGES:
        pages.fill(path, MARKS, tables(found)[path.name])
    return FILE


def main(words) -> int:
    """Exit status, as of `cli.main`."""
    if words[:1] == ["file"] and len(words) == 2:
        print(write(Path(words[1])))
    elif words == ["table"]:
        print(fill())
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(cli.exit_status(main, sys.argv[1:]))
