"""A model that somebody gave away, evaluated on the test sets of a clinic, without any training."""

import contextlib
import dataclasses
import io
from pathlib import Path

import numpy as np
import pandas as pd

from dermai_utils import datasets, files, image_names, predictions, splits
from dermai_utils.app import pack, state, thumbnails
from dermai_utils.basics import CLASSES, UserError, counted
from dermai_utils.study.text import FEW, percent

EDGES = {"images": "image ids", "lesions": "lesions", "patients": "patients", "copies": "pixels"}
COPY = "the same picture, resized, saved again or turned"
TESTS = "tests.json"  # which test sets the report in a folder is about


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

    Images that the model learned from, or of the same lesion or patient, and copies of them are
    left out, counted and named in leaks.csv. UserError where none is left.
    """
    from dermai_utils import reports

    made = pack.copied(run, folder)
    fixed = state.load(made)
    dataset, leaks = without_leaks(made.table, fixed, dataset)
    files.write_table(leaks, made.folder / "leaks.csv")
    if dataset.table.empty:
        raise UserError(f"every image leaks: see {made.folder / 'leaks.csv'}; give other --test")
    val = made.predictions.query("subset == 'val'")  # chooses the rule; its own test sets go
    rows = pd.concat([val, predicted(made, dataset)], ignore_index=True)
    files.write_table(rows, made.folder / "predictions.csv")
    about = fixed.about | state.counted(made, fixed, rows, dataset)
    files.write_json(made.folder / "answers.json", about)
    for name in about["unlike"]:
        print(f"evaluate: {name}: {answered(about, name)}")
    print("evaluate: now intervals, figures and Grad-CAM, which take some minutes")
    return reports.report(made, dataset, answers=about)


def free_folder(folder, paths) -> Path:
    """`folder`; or, where a report about other test sets than `paths` lies there, a folder beside
    it whose name ends with digits of these paths. The same test sets always get the same one."""
    digits = files.fingerprint([str(Path(path).resolve()) for path in paths])
    other = folder.with_name(f"{folder.name}-{digits[:6]}")
    known = files.read_json(folder / TESTS)
    if folder.exists() and known != {"paths": digits}:
        print(f"evaluate: {folder} is about another test set; this report goes to {other.name}")
        folder = other
    files.write_json(folder / TESTS, {"paths": digits})
    return folder


def answered(about, name) -> str:
    """How often answers about the images of a test set were right, in one line."""
    sets, melanomas = about["sets"][name], about["sets"][name]["melanomas"]
    if sets["n"] < FEW:
        right = sum(kind["held"] for kind in sets["answers"].values())
        given = sum(kind["n"] for kind in sets["answers"].values())
        said = f"{given} of {counted(sets['n'], 'image')} got an answer, {right} with the truth"
        return f"{said}: too few images for a rate"
    said = [f"{percent(sets['answered'])} of the images get an answer"]
    if sets["answered"]:
        said.append(f"{percent(sets['answered_held'])} of the answers hold the truth")
        missed = f"{melanomas['without']:,} of {counted(melanomas['answered'], 'answer')}"
        said.append(f"{missed} about melanomas without melanoma")
    far = percent(about["unlike"][name]["out_of_distribution"])
    return "; ".join([*said, f"{far} of the images look like another source's"])


def without_leaks(learned, fixed, tests) -> tuple:
    """(the Dataset `tests` without what leaks, what `leaking` found); prints counts and reasons.

    learned: a run's table; fixed: its State.
    """
    rows = tests.table.index.to_numpy()
    copies = thumbnails.copied(tests.pixels, fixed.thumbnails, rows) >= 0
    leaks = leaking(learned, tests.table, copies)
    print(*(f"evaluate: {line}" for line in said(leaks, tests.table)), sep="\n")
    left = tests.table[~tests.table["image"].isin(leaks["image"])]
    return dataclasses.replace(tests, table=left), leaks


def leaking(learned, tests, copies=False) -> pd.DataFrame:
    """image, source and reason of each image of `tests` that shares something with the images that
    a run learned from or was tuned on (`learned`: the run's table with `subset`).

    copies: (N,) bool: whether an image of `tests` is a copy of one of them by its thumbnail.
    """
    learned = learned[learned["subset"].isin(thumbnails.LEARNED)].assign(test=False)
    archive = tests["image"].map(image_names.is_archive_id)  # another folder's 1 is another image
    names = tests["image"].where(archive, tests["source"] + ":" + tests["image"])
    whole = pd.concat([learned, tests.assign(image=names, test=True)], ignore_index=True)
    rows, keys = whole["test"], splits.keys(whole)
    shared = {EDGES[name]: column.isin(set(column[~rows]) - {""}) for name, column in keys.items()}
    reasons = pd.Series("", whole.index)
    for name, found in shared.items():
        reasons[rows & found & (reasons == "")] = f"the same {name}"
    group = pd.Series(splits.groups(whole, splits.near_duplicates()))
    related = group.isin(set(group[~rows]))
    reasons[rows & related & (reasons == "")] = "near-duplicates or related images"
    found = tests[["image", "source"]].assign(reason=reasons[rows].to_numpy())
    found.loc[(found["reason"] == "") & copies, "reason"] = COPY
    return found[found["reason"] != ""].reset_index(drop=True)


def said(leaks, tests) -> list[str]:
    """One line for each test set: how many of its images leak and why, and what is left."""
    lines = []
    for source, rows in tests.groupby("source", sort=False):
        gone = leaks[leaks["source"] == source]
        counts = [f"{count:,} × {why}" for why, count in gone["reason"].value_counts().items()]
        images = counted(len(rows), "image")
        line = f"{source}: none of {images} leaks, as far as ids, pixels and looks tell"
        if counts:
            line = f"{source}: {len(gone):,} of {images} left out, the model learned "
            names = ", ".join(gone["image"].head(3)) + " ..." * (len(gone) > 3)
            left = len(rows) - len(gone)
            line += f"from them ({', '.join(counts)}: {names}; leaks.csv); {left:,} left"
        lines.append(line + few(rows[~rows["image"].isin(gone["image"])]))
    return lines


def few(rows) -> str:
    """A caution where a class of the images `rows` has under FEW lesions; "" where none has."""
    lesions = splits.lesions(rows).groupby(rows["label"]).nunique()
    small = [f"{c} {lesions[c]}" for c in CLASSES if 0 < lesions.get(c, 0) < FEW]
    if not small:
        return ""
    return f". Caution: under {FEW} lesions say little about a class ({', '.join(small)})"


def predicted(run, dataset) -> pd.DataFrame:
    """The table of predictions of all images of `dataset` by the mean of the run's networks."""
    table = dataset.table
    probabilities = run.probabilities(dataset.pixels, rows=table.index.to_numpy())
    columns = {name: table[name].to_numpy() for name in ("lesion_id", "origin")}
    columns |= {"subset": table["source"].to_numpy()} | ({"fold": -1} if run.folds else {})
    truth = np.array([CLASSES.index(label) for label in table["label"]], int)
    return predictions.table(table["image"].to_numpy(), truth, probabilities, **columns)
