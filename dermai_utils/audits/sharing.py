"""What the subsets of a split share, image by image, and what a score on it may be called."""

import itertools

import numpy as np
import pandas as pd

from dermai_utils import splits
from dermai_utils.audits.known import TEST, TRAINING
from dermai_utils.basics import ZERO_WEIGHT

KINDS = {kind: kind for kind in splits.KEYS}  # in words
KINDS |= {"copies": "equal pixels", "near_duplicates": "listed near-duplicates"}
OTHERS = "the other official training images"  # where no list of training images is given
FOLDS, ANOTHER = "out-of-fold", "another fold"  # all folds; each of them beside the others
COUNTED = 1_511  # images of the official test set that the official scorer counts


def members(subset, name) -> np.ndarray:
    """(N,) bool: the rows of a subset; of FOLDS and ANOTHER, those of all folds."""
    subset = np.asarray(subset, dtype=str)
    return np.char.isdigit(subset) if name in (FOLDS, ANOTHER) else subset == name


def sharing(table: pd.DataFrame, subset, pairs=()) -> pd.DataFrame:
    """What every two subsets share: a row for each pair of subsets (a, b) and each of KINDS.

    table (N rows): image, known_as and what is known of lesion_id, patient_id and pixel_hash; an
    image may have several rows. subset (N,): names; numbers are folds. pairs: listed
    near-duplicates. Columns: shared, how many ids or pairs a and b have in common, as
    `splits.audit` counts them; images, how many images of b that concerns; share, their share of
    b's `of` images; complete, whether it is known of every image of both. <NA> is not known.

    >>> table = pd.DataFrame({"image": ["a", "b", "c"], "lesion_id": ["L", "L", "M"]})
    >>> found = sharing(table.assign(known_as=""), ["train", "test", "test"])
    >>> found.set_index("kind").loc["lesions", ["shared", "images", "of"]].tolist()
    [1, 1, 2]
    """
    names = [FOLDS if name.isdigit() else name for name in map(str, subset)]
    present = ["train", OTHERS, FOLDS, "val", "test", "official", *names]
    names = [n for n in dict.fromkeys(present) if n in set(names) - {splits.LEFT_OUT}]
    each = [*itertools.combinations(names, 2), *[(ANOTHER, FOLDS)] * (FOLDS in names)]
    known = (splits.keys(table) != "").assign(near_duplicates=table["known_as"] == TRAINING)
    every, rows = links(table, pairs), []
    for a, b in each:
        inside, there = members(subset, b), members(subset, a)
        common = in_common(every, subset, a, b).groupby("kind")
        counts = common[["value", "row"]].nunique().reindex([*KINDS], fill_value=0)
        for kind, both in counts.iterrows():
            some = known.loc[inside, kind].any() and known.loc[there, kind].any() or both["row"]
            complete = known.loc[inside | there, kind].all()
            rows.append((a, b, kind, *(both if some else (pd.NA, pd.NA)), inside.sum(), complete))
    columns = ["a", "b", "kind", "shared", "images", "of", "complete"]
    found = pd.DataFrame(rows, columns=columns).astype({"shared": "Int64", "images": "Int64"})
    return found.assign(share=found["images"] / found["of"])


def links(table: pd.DataFrame, pairs=()) -> pd.DataFrame:
    """kind, value and row number: the ids of each row, and the numbers of the `pairs` it is in, of
    those with both images in the table. What is not known has no row."""
    keys = splits.keys(table).assign(row=np.arange(len(table)))
    found, here = keys.melt("row", var_name="kind"), set(keys["images"])
    near = [(k, image) for k, pair in enumerate(pairs) if here >= set(pair) for image in pair]
    near = pd.DataFrame(near, columns=["value", "images"]).assign(kind="near_duplicates")
    near = near.merge(keys[["images", "row"]], on="images").drop(columns="images")
    return pd.concat([found[found["value"] != ""], near])


def in_common(links: pd.DataFrame, subset, a: str, b: str) -> pd.DataFrame:
    """The `links` of subset b to what subset a has too."""
    subset = np.asarray(subset, dtype=str)
    ours = links[members(subset, b)[links["row"]]]
    if a == ANOTHER:
        folds = ours.assign(fold=subset[ours["row"]]).groupby(["kind", "value"])["fold"]
        return ours[folds.transform("nunique") > 1]
    theirs = links[members(subset, a)[links["row"]]].drop_duplicates(["kind", "value"])
    return ours.merge(theirs[["kind", "value"]], on=["kind", "value"])


def training_side(names) -> str:
    """The training images, among subset `names`: ANOTHER fold, train, OTHERS, or ""."""
    names = {ANOTHER if str(name).isdigit() else name for name in names}
    return next((name for name in (ANOTHER, "train", OTHERS) if name in names), "")


def of_pair(found: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """The rows of `sharing` about subsets a and b, by kind."""
    return found[(found["a"] == a) & (found["b"] == b)].set_index("kind")


def sentence(found: pd.DataFrame, a: str, b: str) -> str:
    """One sentence about the lesions that subset b shares with a; found: by `sharing`."""
    rows = of_pair(found, a, b)
    if rows.empty:
        return f"Not known what the {b} images share with the training images."
    n, of, complete = rows.loc["lesions", ["images", "of", "complete"]]
    what = f"{of:,} {b} images show a lesion that is also in {a}."
    if pd.isna(n):
        return f"Not known whether the {what}"
    return f"{'' if complete else 'At least '}{n:,} of {what}"


def verdict(table, subset, found: pd.DataFrame, a: str, b: str) -> tuple[str, str]:
    """(what a score on subset b may be called, why): "leaking", "official test set", "lesion-safe"
    or "unknown".

    table, subset: as in `sharing`, and found by it. a: what was trained on, see `training_side`.
    """
    rows = of_pair(found, a, b)
    given = len(rows) and a != OTHERS
    leaks = [f"{n:,} by {KINDS[k]}" for k, n in rows["images"].dropna().items() if n]
    if leaks and given:
        return "leaking", f"{b} images that are related to {a}: {', '.join(leaks)}"
    inside = table[members(subset, b)]
    counted = set(inside["image"]) - {ZERO_WEIGHT}
    if len(counted) == COUNTED and (inside["known_as"] == TEST).all():
        return "official test set", f"all {COUNTED:,} images that the official scorer counts"
    if not given:
        return "unknown", "the list of training images is not given"
    if not rows.loc["lesions", "complete"]:
        return "unknown", "no shared lesion was found, but not every image's lesion is known"
    return "lesion-safe", f"no {b} image is related to {a} by image, lesion or near-duplicate"
