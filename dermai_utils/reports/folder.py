"""A trained run -> its report: metrics, figures, Grad-CAM, report.html and model card."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from dermai_utils import files, intervals, predictions, splits
from dermai_utils.basics import UserError
from dermai_utils.metrics import CONFUSION_METRICS
from dermai_utils.predictions import arrays, primary_subset, scored_rows
from dermai_utils.reports import data_plots, page, pictures, plots
from dermai_utils.reports import mistakes as browse
from dermai_utils.study import decisions, evaluation, text

MADE = ("*.png", "*.jpg", "metrics.json", "submission.csv", "report.html", "model_card.md")
KINDS = ("most_confident", "costly", "likely_mislabelled")  # of mistakes
SCORES = ("balanced_accuracy", "macro_f1", "macro_auc")  # that are printed
PAIRS_SHOWN = 12


def report(run, dataset=None, *, answers=None) -> Path:
    """Evaluate a trained run, and write everything about it into its folder; returns report.html.

    Also predictions.csv (with the chosen rule's class), metrics.json, submission.csv (official test
    set), figures and model_card.md. Files of an earlier report go first.
    `dataset`: the run's Dataset, for the pictures of mistakes, Grad-CAM and near-duplicates;
    without one, the report has no photographs. Its test sets that are new to the run are predicted
    and added. Linear probe and leakage effect are those of studies.json, which `run` writes.
    With it, what photos, page and pack need is computed too. `answers`: what answers.json holds,
    where that was computed before. UserError where the predictions hold no validation images.

    >>> report(open_run("work/sample/runs/first"), load("sample", 64))  # doctest: +SKIP
    PosixPath('work/sample/runs/first/report.html')
    """
    (table, rows), pairs = known(run, dataset), near_duplicates(run)
    if dataset is not None and answers is None:
        answers = _answers(run, dataset, rows)
    found = {"run": run.name, "data": run.settings.get("data", ""), "split": _split(run)}
    studies = files.read_json(run.folder / "studies.json") or {}
    found |= {name: studies.get(name) for name in ("leakage_effect", "probe")}
    found |= evaluation.evaluate(rows, table, pairs)
    rows = decisions.called(rows, found["decisions"])
    scored = predictions.primary_rows(rows)
    answers = answers or files.read_json(run.folder / "answers.json") or {}
    found["answers"] = {name: answers.get(name, {}) for name in ("sets", "unlike")}
    audit = audited(run, pairs, table, found["elsewhere"])
    found["leaks"] = leaks(audit, found["subsets"])
    _delete(run.folder)
    files.write_table(rows, run.folder / "predictions.csv")
    _submission(run, rows, found)
    cards = browse.cards(scored, table, answers.get("similar", {}))
    drawn = figures(run, found, rows)
    if dataset is not None:
        browse.save_pictures(run.folder, cards, dataset)
        drawn |= photographs(run, dataset, found, scored, pairs)
    for name, figure in drawn.items():
        figure.save(run.folder / name)
    files.write_json(run.folder / "metrics.json", found)
    for leak in sum(found["leaks"].values(), []):
        print(f"report: WARNING: {leak}: the score is too good")
    _print(found, dataset)
    return page.report(
        run,
        found,
        {name: figure.alt for name, figure in drawn.items()},
        mistakes=cards,
        thresholds=browse.thresholds(scored),
        gradcam=files.read_json(run.folder / "gradcam.json"),
        audit=audit,
    )


def _answers(run, dataset, rows):
    """What answers.json then holds; {} where this network cannot answer."""
    from dermai_utils.app import state  # this room is imported there

    files.write_table(rows, run.folder / "predictions.csv")  # answers count on new test sets too
    try:
        return state.save(run, state.prepare(run, dataset))
    except UserError as reason:
        print(f"report: no answers about photos: {reason}")
        return {}


def known(run, dataset) -> tuple:
    """(table, predictions) of a run; with test sets of `dataset` that are new to it."""
    table, rows = run.table, run.predictions
    if dataset is None:
        return table, rows
    reserved = {"train", "extra", "official", *table["subset"], *table["source"]}
    more = dataset.table[~dataset.table["source"].isin(reserved)]
    if missing := set(more["source"]) - set(rows["subset"]):
        predicted = run.predict(dataset)
        rows = pd.concat([rows, predicted[predicted["subset"].isin(missing)]], ignore_index=True)
    more = more.drop(columns="path", errors="ignore").assign(subset=more["source"], fold=-1)
    return pd.concat([table, more[[*table.columns]]], ignore_index=True), rows


def near_duplicates(run) -> np.ndarray:
    """(P, 2) image ids: the pairs that the run was split with; the shipped list where that file is
    not on this machine."""
    which = run.settings.get("near_duplicates", "listed")
    try:
        return splits.near_duplicates(which)
    except UserError:
        print(f"report: {which} is not here, so it shows the near-duplicates of the shipped list")
        return splits.near_duplicates()


def _split(run):
    kind = {"lesion": "by lesion", "random": "image by image, which leaks"}
    kind |= {"not recorded": "not recorded"}
    split = run.settings.get("split", "not recorded")
    about = run.settings.get("split_about") or Path(str(split)).name
    split = kind.get(split, f"given as a file ({about})")
    return f"{run.folds} folds, {split}" if run.folds else split


def _delete(folder):
    """Delete the files of earlier reports, or this one would show them as new. gradcam.json stays:
    the network is the same."""
    shutil.rmtree(folder / browse.FOLDER, ignore_errors=True)
    for pattern in MADE:
        for path in folder.glob(pattern):
            path.unlink()


def _submission(run, rows, found):
    """submission.csv of an official test set, by the chosen rule, also with the image that does not
    count."""
    if "official" in found["subsets"]:
        rows = rows[rows["subset"] == "official"]
        scores = decisions.by_chosen_rule(rows, found["decisions"])
        submission = predictions.submission(rows["image"], scores)
        files.write_table(submission, run.folder / "submission.csv")


def audited(run, pairs, table, tests) -> dict:
    """{"a/b": {column: count, None where not known}} of splits.audit, of the run's `table` with
    test sets that are newer than it. Those `tests` whose images are not here now have what
    audit.json kept of an earlier report."""
    subset, path = table["subset"], run.folder / "audit.json"
    if run.folds:
        subset = subset.mask(table["fold"] >= 0, table["fold"].astype(str))
    audit = splits.audit(table, subset, pairs).astype(object)
    rows = audit.where(audit.notna(), None).to_dict("index")
    earlier = files.read_json(path) or {}
    rows |= {k: v for k, v in earlier.items() if k not in rows and k.partition("/")[2] in tests}
    files.write_json(path, rows)
    return rows


def leaks(audit: dict, tests) -> dict:
    """{held-out subset: what it shares with images that the run learned from or chose by, in
    words}, of `audited` and the names `tests`."""
    found = {name: [] for name in tests}
    for pair, counts in audit.items():
        side, _, name = pair.partition("/")
        shared = ", ".join(f"{n:,} × {key.replace('_', '-')}" for key, n in counts.items() if n)
        if name in found and side in ("train", "folds", "val") and side != name and shared:
            found[name].append(f"{side} and {name} share {shared}")
    return found


def figures(run, found, rows) -> dict:
    """{file: Figure} of everything that needs no photographs."""
    subset, rule = found["primary_subset"], text.rule_name(found["decisions"])
    name = functools.partial(page.full_name, metrics=found)
    (truth, p), here = arrays(scored_rows(rows, subset)), name(subset)
    argmax = f"{here}: the most probable class (argmax)"
    bins = {
        title: pd.DataFrame(found["calibration"][when]["reliability"])
        for title, when in (("as predicted", "before"), ("after temperature scaling", "after"))
    }
    drawn = {
        "curves": plots.curves(truth, p, here),
        "calibration": plots.calibration(bins, argmax),
        "operating_points": plots.operating_points(found["operating_points"], here),
        "risk_coverage": plots.risk_coverage(truth, p, found["risk_coverage"]["points"], argmax),
    }
    if rule != "argmax":
        title = f"{here}\nthe most probable class (argmax)"  # in two lines, as the others
        drawn["confusion_argmax"] = plots.confusion_matrix(truth, p.argmax(1), title)
    for other in found["subsets"]:
        of, title = scored_rows(rows, other), f"{name(other)}\ndecision rule: {rule}"
        file = "confusion" if other == subset else f"confusion_{other}"
        drawn[file] = plots.confusion_matrix(of["truth"], of["prediction"], title)
    if found["leakage_effect"]:
        drawn["leakage_effect"] = data_plots.leakage_effect(found["leakage_effect"])
    history = run.members[0].history if run.folds else run.history
    if history is not None and len(history):
        title = "the first fold" if run.folds else ""
        drawn["learning_curves"] = plots.learning_curves(history, title)
    return {f"{name}.png": figure for name, figure in drawn.items()}


def photographs(run, dataset, found, scored, pairs) -> dict:
    """{file: Figure} of the mistakes, Grad-CAM and near-duplicates; also writes gradcam.json."""
    from dermai_utils.reports import maps  # torch, which the rest of a report does not need

    drawn, listed = {}, []
    place = dict(zip(dataset.table["image"], dataset.table.index, strict=True))
    scored = scored[scored["image"].isin(place)].set_index("image", drop=False)
    for kind in KINDS:
        names = [row["image"] for row in found["mistakes"][kind] if row["image"] in place]
        listed += names
        if names:
            images = [dataset.pixels[place[image]] for image in names]
            titles = pictures.verdicts(scored.loc[names])
            drawn[f"{kind}.jpg"] = pictures.sheet(images, titles)
    wrong = scored.loc[[*dict.fromkeys(listed)]]
    shown, checks = maps.explain(run, dataset, scored, wrong)
    files.write_json(run.folder / "gradcam.json", checks)
    return drawn | _near_duplicates(dataset, pairs, place) | shown


def _near_duplicates(dataset, pairs, place) -> dict:
    """{file: Figure} of some of the pairs of which the data has both images."""
    labels = dict(zip(dataset.table["image"], dataset.table["label"], strict=True))
    items = [
        (*(dataset.pixels[place[image]] for image in (a, b)), f"{a} {labels[a]} · {b} {labels[b]}")
        for a, b in pairs
        if a in place and b in place
    ]
    if not items:
        return {}
    some = np.unique(np.linspace(0, len(items) - 1, PAIRS_SHOWN).round().astype(int))
    return {"near_duplicates.jpg": pictures.pairs([items[k] for k in some])}


def _print(found, dataset):
    rule, argmax = text.rule_name(found["decisions"]), found["argmax"]["subsets"]
    for subset, scores in found["subsets"].items():
        values = ", ".join(f"{text.pretty_name(n)} {text.format_number(scores[n])}" for n in SCORES)
        by_argmax = text.format_number(argmax[subset]["balanced_accuracy"])
        said = f"{rule}: {values}; by argmax {by_argmax}"
        if rule == "argmax":
            said = f"by argmax: {values}"
        if text.few(found, subset):  # a score would say nothing
            present = [row for row in found["recalls"][subset].items() if row[1]["n"]]
            said = f"right are {', '.join(f'{c} {text.counts(row)}' for c, row in present)}"
            said += f"; no score of under {text.FEW} lesions a class"
        print(f"report: {page.full_name(subset, found)}, n={scores['n']:,}, {said}")
    if dataset is None:
        print("report: without photographs, which need the data: the command report adds them")


def comparison(run, other) -> pd.DataFrame:
    """`run` minus run `other` on the primary subset: value, low and high of each metric. Over 0
    `run` is better.

    Each by its own chosen decision rule, and by argmax: rows metric, "metric (argmax)". Paired
    intervals by lesion (intervals.compare). UserError where one has no report yet, or the two were
    evaluated on other images.
    """
    for each in (run, other):
        if each.metrics is None:
            first = f"python -m dermai_utils report {each.flags}"
            raise UserError(f"{each.folder}: no metrics.json; first {first}")
    subset = primary_subset(run.predictions["subset"])
    a, b = (scored_rows(each.predictions, subset).set_index("image") for each in (run, other))
    if set(a.index) != set(b.index):
        raise UserError(
            f"runs {run.name} and {other.name} share no {subset} subset: train both on one split"
        )
    b = b.loc[a.index]
    (truth, p), (_, q) = arrays(a), arrays(b)
    rules = run.metrics["decisions"], other.metrics["decisions"]
    scores = [decisions.by_chosen_rule(x, rule) for x, rule in zip((a, b), rules, strict=True)]
    lesions, found = predictions.lesions(a.reset_index()), {}
    for pair, note in ((scores, ""), (None, " (argmax)")):
        difference = intervals.compare(truth, p, q, lesions, scores=pair)
        names = CONFUSION_METRICS if note else difference
        found |= {f"{name}{note}": difference[name] for name in names}
    return pd.DataFrame(found).T.rename_axis(f"{run.name} minus {other.name}")
