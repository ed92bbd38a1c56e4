"""What the subsets of a split share, image by image, and what a score on it may be called."""

import itertools

import numpy as np
import pandas as pd

from dermai_utils import splits
from dermai_utils.audits.known import TEST, TRAINING
from dermai_utils.basics import ZERO_WEIGHT
from dermai_utils.image_names import OFFICIAL_IDS

KINDS = (*splits.KEYS, "near_duplicates")
OUTSIDE = "the official training images outside the file"  # where no training list is given
PREDICTED = "predicted"
COUNTED = 1_511  # images of the official test set that the official scorer counts


def sharing(table: pd.DataFrame, subset, pairs=()) -> pd.DataFrame:
    """What every two subsets share: a row for each pair of subsets (a, b) and each of KINDS.

    table (N rows): image, known_as and what is known of lesion_id, patient_id and pixel_hash; an
    image may have several rows. subset (N,): names; numbers are folds. pairs: listed
    near-duplicates. Columns: shared, how many ids or pairs a and b have in common, as
    `splits.audit` counts them; images, how many images of b that concerns; share, their share of
    b's `of` images; complete, whether it is known of every image of both. <NA> is not known. For
    two folds, a is "fold" and b "folds".

    >>> table = pd.DataFrame({"image": ["a", "b", "c"], "lesion_id": ["L", "L", "M"]})
    >>> found = sharing(table.assign(known_as=""), ["train", "test", "test"])
    >>> found.set_index("kind").loc["lesions", ["shared", "images", "of"]].tolist()
    [1, 1, 2]
    """
    subset = pd.Series(np.asarray(subset, dtype=str), table.index)
    counts = splits.audit(table, subset, pairs)
    known = (splits.keys(table) != "").assign(near_duplicates=table["known_as"] == TRAINING)
    rows = []
    for names, row in counts.iterrows():
        a, b = names.replace("fold/fold", "fold/folds").split("/")
        concerned, of = affected(table, subset, a, b, pairs), _members(subset, b)
        row["near_duplicates"] = _pairs_between(table, subset, a, b, pairs)
        for kind in KINDS:
            n = pd.NA if pd.isna(row[kind]) else int(concerned[kind].sum())
            complete = bool(known.loc[of | _members(subset, a), kind].all())
            rows.append((a, b, kind, row[kind], n, int(of.sum()), complete))
    columns = ["a", "b", "kind", "shared", "images", "of", "complete"]
    found = pd.DataFrame(rows, columns=columns)
    found = found.astype({"shared": "Int64", "images": "Int64"})
    return found.assign(share=found["images"] / found["of"])


def _members(subset, name):
    return subset.str.isdigit() if name in ("fold", "folds") else subset == name


def affected(table, subset, a, b, pairs=()) -> pd.DataFrame:
    """(N, 5) bool, columns KINDS: the rows of subset b that share that with a; for a = "fold" those
    of a fold that share it with another fold."""
    subset, values = pd.Series(np.asarray(subset, dtype=str), table.index), splits.keys(table)
    found = pd.DataFrame(False, table.index, list(KINDS))
    inside = _members(subset, b)
    for kind, column in values.items():
        if a == "fold":
            several = subset[inside].groupby(column).nunique() > 1
            others = several.index[several]
        else:
            others = set(column[_members(subset, a)])
        found[kind] = inside & (column != "") & column.isin(others)
    partners = _partners(pairs)
    if a == "fold":
        home = subset[inside].groupby(values["images"]).agg(set)
        near = [
            any(home.get(other, set()) - {fold} for other in partners.get(image, ()))
            for image, fold in zip(values["images"], subset, strict=True)
        ]
    else:
        there = set(values["images"][_members(subset, a)])
        near = [not there.isdisjoint(partners.get(image, ())) for image in values["images"]]
    return found.assign(near_duplicates=inside & np.array(near, bool))


def _partners(pairs):
    """{image: its near-duplicates}."""
    found = {}
    for one, other in pairs:
        found.setdefault(one, []).append(other)
        found.setdefault(other, []).append(one)
    return found


def _pairs_between(table, subset, a, b, pairs):
    """How many near-duplicates have an image in each; <NA> where the list does not cover them: it
    was searched for among the official training images alone."""
    one, other = _members(subset, a), _members(subset, b)
    covered = table["known_as"] == TRAINING
    if not (covered & one).any() or not (covered & other).any():
        return pd.NA
    if a == "fold":
        home = subset[one].groupby(splits.keys(table)["images"]).agg(set)
        has = [(home.get(x, set()), home.get(y, set())) for x, y in pairs]
        return sum(bool(x and y) and len(x | y) > 1 for x, y in has)
    images = splits.keys(table)["images"]
    one, other = set(images[one]), set(images[other])
    return sum((x in one and y in other) or (y in one and x in other) for x, y in pairs)


def training_side(names) -> str:
    """The subset that a network learns from, among subset `names`: train, a fold, or what is left
    of the official training images; "" if there is none."""
    if any(str(name).isdigit() for name in names):
        return "fold"
    return next((name for name in ("train", OUTSIDE) if name in set(names)), "")


def words(name: str) -> str:
    """A subset's name in a sentence."""
    return {"fold": "another fold", "folds": "out-of-fold"}.get(name, name)


def sentence(found: pd.DataFrame, a: str, b: str) -> str:
    """One sentence about the lesions that subset b shares with a."""
    rows = found[(found["a"] == a) & (found["b"] == b)].set_index("kind")
    if not len(rows):
        return f"Not known what the {words(b)} images share with those that were trained on."
    n, of, complete = rows.loc["lesions", ["images", "of", "complete"]]
    what = f"{of:,} {words(b)} images show a lesion that is also in {words(a)}."
    if pd.isna(n):
        return f"Not known whether the {what}"
    return f"{'' if complete else 'At least '}{n:,} of {what}"


def verdict(table, subset, found: pd.DataFrame, a: str, b: str) -> tuple[str, str]:
    """(what a score on subset b may be called, why): "leaking", "official test set", "lesion-safe"
    or "unknown".

    table, subset: as in `sharing`, and found by it. a: what was learnt from, see `training_side`.
    """
    rows = found[(found["a"] == a) & (found["b"] == b)].set_index("kind")
    leaks = [
        f"{n:,} by {kind.replace('near_', 'near-')}"
        for kind, n in rows.get("images", pd.Series(dtype="Int64")).items()
        if pd.notna(n) and n
    ]
    inside = _members(subset, b)
    if leaks and a != OUTSIDE:
        shown = ", ".join(leaks)
        return "leaking", f"{words(b)} images that share something with {words(a)}: {shown}"
    counted = set(table.loc[inside, "image"]) - {ZERO_WEIGHT}
    official = (table.loc[inside, "known_as"] == TEST).all()
    if official and len(counted) == COUNTED:
        return "official test set", f"all {COUNTED:,} images that the official scorer counts"
    if a in ("", OUTSIDE) or not len(rows):
        note = "" if not len(rows) else f"; {sentence(found, a, b).removesuffix('.')}"
        return "unknown", f"the list of images that were trained on is not given{note}"
    learnt = inside if a == "fold" else _members(subset, a)
    missing = (splits.keys(table)["lesions"][inside | learnt] == "").sum()
    if missing:
        return "unknown", f"no shared lesion was found, but {missing:,} images have no known lesion"
    safe = f"no image, lesion or listed near-duplicate of the {words(b)} images is in {words(a)}"
    return "lesion-safe", safe
