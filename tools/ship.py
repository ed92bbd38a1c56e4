"""The model that comes with the package: what it must not learn, and how it is made from a run.

    python tools/ship.py split --preset quick_cpu --data HAM10000
        the split to train it on, WORK/ship.csv: the official one, without what the official test
        set shows. Then: python -m dermai_utils train --data HAM10000 --split WORK/ship.csv ...
    python tools/ship.py model --data HAM10000 --run-name NAME --test MSK BCN20000
        rounds the run to half precision, calibrates, evaluates and packs it:
        dermai_utils/weights/, assets/shipped.json
    python tools/ship.py table
        fills the rows of README.md and docs/results.md from assets/shipped.json

A row of a test set that nobody here has (the official one) may be added to assets/shipped.json by
hand, from the report of `evaluate --pretrained --test FOLDER`; `table` shows it.
"""

# ruff: noqa: E402
import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pages
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dermai_utils as dermai
from dermai_utils import cli, commands, files, image_names, predictions, settings, splits
from dermai_utils.app import clinic, pack, predictor, state
from dermai_utils.basics import UserError
from dermai_utils.copies.unpack import unpack
from dermai_utils.runs import Run, load_checkpoint, save_checkpoint
from dermai_utils.study import evaluation, text

FIGURES = settings.ROOT / "assets" / "shipped.json"
PAGES = [settings.ROOT / "README.md", settings.ROOT / "docs" / "results.md"]
MARKS = "<!-- shipped model: python tools/ship.py table -->", "<!-- end of shipped model -->"
LARGEST = 10_000_000  # bytes of the folder
CHECKED = 200  # images on which pack and run are compared
AGREE = 1e-6  # of a probability
SCORES = ("balanced_accuracy", "macro_f1", "weighted_f1", "accuracy", "macro_auc", "malignant_auc")


# The split


def without_official(table: pd.DataFrame, **options) -> pd.Series:
    """(N,) train, val and left out: the split that `splits.split` draws beside the official test
    set, though its images are not here. Of those it needs only the ids that `pairs` name.

    options: seed, val and pairs of `splits.split`.
    """
    pairs = options["pairs"]
    ids = set(filter(image_names.is_official_test, pairs.ravel())) - set(table["image"])
    test = pd.DataFrame({"image": sorted(ids), "label": "NV", "source": "official"})
    whole = pd.concat([table, test], ignore_index=True)
    return splits.split(whole, test=0, **options).iloc[: len(table)].set_axis(table.index)


def split(s) -> Path:
    """Write the split of these Settings as a CSV, for `--split`."""
    table, pairs = commands.load(s).table, splits.near_duplicates(s.near_duplicates)
    subset = without_official(table, val=s.val_fraction, seed=s.split_seed, pairs=pairs)
    print(subset.value_counts().to_string())
    print("left out:", *table.loc[subset == splits.LEFT_OUT, "image"])
    path = s.work / "ship.csv"
    files.write_table(table[["image"]].assign(subset=subset), path)
    return path


# The model


def model(s) -> Path:
    """Make dermai_utils/weights/ and assets/shipped.json from the run of these Settings."""
    run = dermai.open_run(s.run_folder, device=s.device)
    dataset = commands.load(dataclasses.replace(s, test=()), run.size)
    made = rounded(run, s.work / "shipped" / pack.SHIPPED.name)
    files.write_table(made.predict(dataset), made.folder / "predictions.csv")
    fixed = state.prepare(made, dataset)
    dermai.report(made, dataset, answers=state.save(made, fixed))
    rows, tests = made.predictions, None
    if s.test:
        tests = clinic.load(s.test, run.size, s.cache.parent / "shipped_tests")
        tests, _ = clinic.without_leaks(made.table, fixed, tests)
        rows = pd.concat([rows, clinic.predicted(made, tests)], ignore_index=True)
    found = figures(made, fixed, rows, tests)
    card = made.folder / "model_card.md"
    card.write_text(card.read_text("utf-8") + away(found), "utf-8")
    archive = pack.pack(made)
    shutil.rmtree(pack.SHIPPED, ignore_errors=True)
    shutil.copytree(unpack(archive, s.work / "shipped" / "unpacked"), pack.SHIPPED)
    found["sha256"] = {pack.WEIGHTS: files.checksum(pack.SHIPPED / pack.WEIGHTS)}
    found["bytes"] = compared(made, dataset)
    files.write_json(FIGURES, found)
    return pack.SHIPPED


def rounded(run, folder) -> Run:
    """A copy of a run whose weights are rounded to half precision, without what was counted."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("table.csv", "history.csv"):
        shutil.copy(run.folder / name, folder)
    made_up = run.settings["data"] == "sample"
    about = run.settings | {"data": "sample" if made_up else "isic2018"}  # whatever its folder
    about |= {"weights_stored": "half precision"}
    if n := int((run.table["subset"] == splits.LEFT_OUT).sum()):
        about["split_about"] = f"the official training images, without {n} that show what official "
        about["split_about"] += "test images show"
    files.write_json(folder / "settings.json", about)
    checkpoint = load_checkpoint(run.folder / "best.pt")
    weights = checkpoint["model"]
    checkpoint["model"] = {
        name: t.half().float() if t.is_floating_point() else t for name, t in weights.items()
    }
    if not all(bool(t.isfinite().all()) for t in checkpoint["model"].values()):
        raise UserError(f"{run.folder}: a weight is too large for half precision")
    save_checkpoint(folder / "best.pt", checkpoint)
    return Run(folder, device=run.device.type)


def compared(made, dataset) -> int:
    """The bytes of the shipped folder. UserError where it is too large, or answers otherwise than
    the rounded run."""
    size = sum(path.stat().st_size for path in pack.SHIPPED.rglob("*"))
    if size > LARGEST:
        raise UserError(f"{pack.SHIPPED}: {size:,} bytes, {LARGEST:,} at most")
    val = made.table.loc[made.table["subset"] == "val", "image"].head(CHECKED)
    images = np.stack([dataset.pixels[k] for k in dataset.rows(val)])
    ours, theirs = (
        np.stack([one.probabilities for one in predictor.Predictor(run)(val, images, maps=False)])
        for run in (pack.pretrained(made.device.type), made)
    )
    apart = float(np.abs(ours - theirs).max())
    print(f"ship: {size:,} bytes; pack and run differ by {apart:.1e} on {len(images)} images")
    if apart > AGREE:
        raise UserError(f"the pack's probabilities differ from the run's by {apart:.1e}")
    return size


# Its figures


def figures(run, fixed, rows, tests) -> dict:
    """What assets/shipped.json holds: of validation and of each test set, one dict of figures."""
    val = rows[rows["subset"] == "val"]
    found = {"val": (evaluation.evaluate(val, run.table), fixed.about)}
    for name in predictions.own_test_sets(rows["subset"]):
        both = rows[rows["subset"].isin(("val", name))]
        of = tests.table[tests.table["source"] == name].assign(subset=name)
        table = pd.concat([run.table, of[of.columns.intersection(run.table.columns)]])
        about = state.counted(run, fixed, both, tests)
        found[name] = evaluation.evaluate(both, table), about
    return {
        "name": run.name,
        "left_out": run.table.loc[run.table["subset"] == splits.LEFT_OUT, "image"].tolist(),
        "rule": text.rule_name(found["val"][0]["decisions"]),
        "subsets": {name: _row(name, *of) for name, of in found.items()},
    }


def _row(name, found, about):
    """The figures of one subset."""
    melanoma = found["subsets"][name]["per_class"]["MEL"]
    point = next(p for p in found["operating_points"] if p["rate"] == "sensitivity")
    return {
        "n": found["subsets"][name]["n"],
        "classes": sum(row["n"] > 0 for row in found["subsets"][name]["per_class"].values()),
        "by_rule": {score: found["intervals"][name][score] for score in SCORES},
        "argmax": {score: found["argmax"]["intervals"][name][score] for score in SCORES[:4]},
        "melanoma_auc": melanoma["auc"],
        "melanoma_at_90_sensitivity": point["scored"],
        "ece": {when: found["calibration"][when]["ece"] for when in ("before", "after")},
        "answers": {
            key: about[key] for key in ("n", "answered", "answered_held", "melanomas", "size")
        },
        "unlike": about["unlike"].get(name),
    }


SCORED = ["images", "n", "balanced accuracy", "by argmax", "macro F1", "weighted F1"]
SCORED += ["macro AUC", "melanoma AUC"]
ANSWERED = ["images", "get an answer", "answers that hold the truth"]
ANSWERED += ["melanomas answered without melanoma", "calibration error", "look like another source"]
NAMES = {"val": "validation (rule and temperature were chosen on it)"}


def tables(found) -> dict:
    """{"scores", "answers"}: the tables of the figures, in Markdown."""
    scored, answered = [SCORED], [ANSWERED]
    for name, row in found["subsets"].items():
        classes = f", {row['classes']} classes" if row["classes"] < 7 else ""
        title, by_rule, answers = NAMES.get(name, name), row["by_rule"], row["answers"]
        of = [by_rule["balanced_accuracy"], row["argmax"]["balanced_accuracy"]]
        of += [by_rule[score] for score in ("macro_f1", "weighted_f1", "macro_auc")]
        cells = [*map(text.with_interval, of), text.format_number(row["melanoma_auc"])]
        scored.append([title + classes, f"{row['n']:,}", *cells])
        melanomas, unlike = answers["melanomas"], row["unlike"]
        cells = [text.percent(answers[key]) for key in ("answered", "answered_held")]
        cells += [f"{melanomas['without']} of {melanomas['answered']}"]
        cells += [text.format_number(row["ece"]["after"])]
        cells += [text.percent(unlike["out_of_distribution"]) if unlike else ""]
        answered.append([title, *cells])
    if "official" not in found["subsets"]:
        scored.append(["official test set", "1,511", "not measured yet", *[""] * (len(SCORED) - 3)])
    return {"scores": _markdown(scored), "answers": _markdown(answered)}


def _markdown(rows):
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def away(found) -> str:
    """The section of the model card about what was measured on the shipped weights."""
    say = (
        "Measured on these very weights, in half precision; scores by the decision rule. Nothing "
        "was learned from the images of other clinics, and nothing from the images whose group the "
        f"list of near-duplicates ties to the official test set: {' '.join(found['left_out'])}. "
        "Answers about validation images are judged by thresholds of the other lesions."
    )
    return "\n\n".join(["\n## The shipped weights", say, *tables(found).values(), ""])


def table(s) -> Path:
    """Fill the tables between the two marks of each page."""
    found = files.read_json(FIGURES)
    if found is None:
        raise UserError(f"{FIGURES} is missing: first python tools/ship.py model")
    made = tables(found)
    for path in PAGES:
        shown = [made["scores"]] if path.name == "README.md" else made.values()
        pages.fill(path, MARKS, "\n" + "\n\n".join(shown) + "\n")
    return FIGURES


COMMANDS = {"split": ("split", split), "model": ("report", model), "table": ("report", table)}


def main(words) -> int:
    """Exit status, as of `cli.main`."""
    if not words or words[0] not in COMMANDS:
        print(__doc__)
        return 2
    like, function = COMMANDS[words[0]]
    given, _ = cli.split_words(cli.parser(like), words[1:])
    print(function(settings.read(**given)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.exit_status(main, sys.argv[1:]))
