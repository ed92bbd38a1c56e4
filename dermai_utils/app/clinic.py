"""A model that somebody gave away, evaluated on the test sets of a clinic, without any training."""

import contextlib
import dataclasses
import io
from pathlib import Path

import numpy as np
import pandas as pd

from dermai_utils import datasets, files, image_names, predictions, splits
from dermai_utils.app import pack, state
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.study.text import percent

EDGES = {"images": "image ids", "lesions": "lesions", "patients": "patients", "copies": "pixels"}


def load(paths, size: int, cache) -> datasets.Dataset:
    """The Dataset of these test sets alone; see `datasets.load`. They are read beside the sample,
    and what is said about its made-up pictures is not shown."""
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = datasets.load("sample", size, test=paths, cache=cache)
    table = dataset.table[~dataset.table["source"].isin(("train", "official"))]
    names = list(table["source"].unique())
    own = ("test set ", *(f"{name}: " for name in names))
    notes = [note for note in dataset.notes if note.startswith(own)]
    rejected = dataset.rejected[dataset.rejected["source"].isin(names)]
    for (name, reason), n in rejected.groupby(["source", "reason"]).size().items():
        notes.append(f"{name}: {n:,} left out: {reason}")
    print(*(f"data: {note}" for note in notes), sep="\n")
    # ISIC_0035068, which the official score leaves out, is in the sample too: its id comes back
    ids = [i.removeprefix(f"{s}:") for i, s in zip(table["image"], table["source"], strict=True)]
    ids = pd.Series(ids, table.index)
    table = table.assign(image=ids.mask(ids.duplicated(keep=False), table["image"]))
    return dataclasses.replace(dataset, name="test sets", table=table)


def evaluate(run, dataset, folder) -> Path:
    """Write the report of a pack's run about the test sets in `dataset` into `folder`.

    Images that the model learned from, or of the same lesion or patient, are left out, counted and
    named in leaks.csv. UserError where none is left.
    """
    from dermai_utils import reports

    made = pack.copied(run, folder)
    leaks = leaking(run.table, dataset.table)
    files.write_table(leaks, made.folder / "leaks.csv")
    for line in said(leaks, dataset.table):
        print(f"evaluate: {line}")
    table = dataset.table[~dataset.table["image"].isin(leaks["image"])]
    if table.empty:
        raise UserError(f"every image leaks: see {made.folder / 'leaks.csv'}; give other --test")
    dataset = dataclasses.replace(dataset, table=table)
    val = made.predictions.query("subset == 'val'")  # chooses the rule; its own test sets go
    rows = pd.concat([val, predicted(made, dataset)], ignore_index=True)
    files.write_table(rows, made.folder / "predictions.csv")
    fixed = state.load(made)
    about = fixed.about | state.counted(made, fixed, rows, dataset)
    files.write_json(made.folder / "answers.json", about)
    for name in about["unlike"]:
        print(f"evaluate: {name}: {answered(about, name)}")
    print("evaluate: now intervals, figures and Grad-CAM, which take some minutes")
    return reports.report(made, dataset, answers=about)


def answered(about, name) -> str:
    """How often answers about the images of a test set were right, in one line."""
    sets, melanomas = about["sets"][name], about["sets"][name]["melanomas"]
    said = [f"{percent(sets['answered'])} of the images get an answer"]
    if sets["answered"]:
        said.append(f"{percent(sets['answered_held'])} of the answers hold the truth")
        missed = f"{melanomas['without']:,} of {melanomas['answered']:,} answers about melanomas"
        said.append(f"{missed} are without melanoma")
    far = percent(about["unlike"][name]["out_of_distribution"])
    return "; ".join([*said, f"{far} of the images look like another source's"])


def leaking(learned, tests) -> pd.DataFrame:
    """image, source and reason of each image of `tests` that shares something with the images that
    a run learned from or was tuned on (`learned`: the run's table with `subset`)."""
    learned = learned[learned["subset"].isin(("train", "val"))].assign(test=False)
    archive = tests["image"].map(image_names.is_archive_id)  # another folder's 1 is another image
    names = tests["image"].where(archive, tests["source"] + ":" + tests["image"])
    whole = pd.concat([learned, tests.assign(image=names, test=True)], ignore_index=True)
    rows, keys = whole["test"], splits.keys(whole)
    reasons = pd.Series("", whole.index)
    for name, column in keys.items():
        shared = column.isin(set(column[~rows]) - {""})
        reasons[rows & shared & (reasons == "")] = f"the same {EDGES[name]}"
    group = pd.Series(splits.groups(whole, splits.near_duplicates()))
    related = group.isin(set(group[~rows]))
    reasons[rows & related & (reasons == "")] = "near-duplicates or related images"
    found = tests[["image", "source"]].assign(reason=reasons[rows].to_numpy())
    return found[found["reason"] != ""].reset_index(drop=True)


def said(leaks, tests) -> list[str]:
    """One line for each test set: how many of its images leak, and why."""
    lines = []
    for source, n in tests["source"].value_counts(sort=False).items():
        reasons = leaks.loc[leaks["source"] == source, "reason"].value_counts()
        counts = ", ".join(f"{count:,} × {reason}" for reason, count in reasons.items())
        first = ", ".join(leaks.loc[leaks["source"] == source, "image"].head(3))
        named = f"left out, the model learned from them ({counts}: {first} ...; leaks.csv)"
        lines.append(f"{source}: {reasons.sum():,} of {n:,} images are {named}" if counts else "")
        lines[-1] = (
            lines[-1] or f"{source}: none of {n:,} images leaks, as far as ids and pixels tell"
        )
    return lines


def predicted(run, dataset) -> pd.DataFrame:
    """The table of predictions of all images of `dataset` by the mean of the run's networks."""
    table = dataset.table
    probabilities = run.probabilities(dataset.pixels, rows=table.index.to_numpy())
    columns = {name: table[name].to_numpy() for name in ("lesion_id", "origin")}
    columns |= {"subset": table["source"].to_numpy()} | ({"fold": -1} if run.folds else {})
    truth = np.array([CLASSES.index(label) for label in table["label"]], int)
    return predictions.table(table["image"].to_numpy(), truth, probabilities, **columns)
