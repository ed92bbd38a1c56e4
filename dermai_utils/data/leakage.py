"""The leakage audit: what the subsets share, pair by pair, and what is left out because of it.

Subsets: train, val, test (of one split), official, own (a test set of the user's) and extra
(further training data). Where nothing is known, the answer is None, "not known", never 0.
"""

import itertools
import re

import numpy as np
import pandas as pd

KEYS = ("image_ids", "lesions", "patients", "exact_duplicates")
NOT_KNOWN_WHERE_MISSING = ("lesions", "patients")
SCORED_ELSEWHERE = ("official", "own")  # test sets from outside of the split
ORDER = ("train", "val", "test", "extra", "official", "own")
NOT_SPLIT = (*SCORED_ELSEWHERE, "left out")
# What stands behind X in the name of a copy of it: _aug0, " (1)", _1, -flipped, _rotated90.
_ENDING = r"[ _-]?\(\d+\)|[ _-](?:aug|copy|rot|flip|crop)[a-z]*\d*|_\d{1,2}"
_COPY = re.compile(f"(.+?)(?:{_ENDING})", re.IGNORECASE)


def audit(table: pd.DataFrame, subset, pairs=()) -> dict[str, int]:
    """Count the lesions, exact duplicates and near-duplicates that are in several subsets.

    table: (N) rows with image, lesion_id and duplicate_of; subset: (N,) names; pairs: (P, 2) image
    ids of near-duplicates. For lesions and for sets of images with the same pixels: how many there
    are, and how many images are in them. For near-duplicates: the pairs that are apart. None for
    lesions where no image has a lesion id.
    """
    subset, counts = np.asarray(subset), {}
    for name, key in (("lesions", table["lesion_id"]), ("exact_duplicates", first_copies(table))):
        key = key.to_numpy()
        leaks = pd.Series(subset).groupby(key).transform("nunique").to_numpy() > 1
        known = name != "lesions" or lesion_known(table).any()
        counts[f"{name}_in_several_subsets"] = len(np.unique(key[leaks])) if known else None
        counts[f"images_of_such_{name}"] = int(leaks.sum()) if known else None
    a, b = pair_rows(table, pairs).T
    counts["near_duplicate_pairs_in_several_subsets"] = int((subset[a] != subset[b]).sum())
    return counts


def audit_pairs(table: pd.DataFrame, subset, pairs=()) -> dict:
    """{"train/official": {key: how many are in both}} for every two subsets that are there.

    Keys: KEYS and near_duplicates. None ("not known") where one of the two has no lesion or patient
    ids at all.
    """
    subset = np.asarray(subset)
    names = [n for n in dict.fromkeys((*ORDER, *subset)) if n in set(subset) - {"left out"}]
    keys = {name: key_values(table, name).to_numpy() for name in KEYS}
    ends = pair_rows(table, pairs)
    counts = {}
    for a, b in itertools.combinations(names, 2):
        counts[f"{a}/{b}"] = {
            name: _shared(values[subset == a], values[subset == b], name)
            for name, values in keys.items()
        }
        apart = sum({subset[i], subset[j]} == {a, b} for i, j in ends)
        counts[f"{a}/{b}"]["near_duplicates"] = int(apart)
    return counts


def _shared(a, b, name):
    a, b = set(a) - {""}, set(b) - {""}
    if name in NOT_KNOWN_WHERE_MISSING and not (a and b):
        return None
    return len(a & b)


def key_values(table: pd.DataFrame, name: str) -> pd.Series:
    """(N,) text: what two leaking images have in common; "" where it isn't known."""
    if name == "image_ids":
        return table["image"].map(base_id)
    if name == "lesions":
        return table["lesion_id"].where(lesion_known(table), "")
    if name == "patients":
        return table["patient_id"] if "patient_id" in table else pd.Series("", table.index)
    return first_copies(table)


def lesion_known(table: pd.DataFrame) -> pd.Series:
    """(N,) bool: whether a lesion id was given; without one, `clean` takes the image's own id."""
    return table["lesion_id"] != table["image"]


def base_id(image: str) -> str:
    """An image id without what tells copies apart: the prefix of another source, `_downsampled`."""
    return image.rpartition(":")[2].removesuffix("_downsampled")


def families(images) -> list[str]:
    """(N,) the image that each was made from, by its name: X for X_aug0, X_1 and X (1) beside X."""
    names = set(images)
    return [_original(image, names) for image in images]


def _original(image, names):
    while (match := _COPY.fullmatch(image)) and match[1] in names:
        image = match[1]
    return image


def learnt_from_leaks(table: pd.DataFrame, subset, pairs=(), group=None) -> pd.Series:
    """(N,) text: why a row that is learnt from leaks into a test set; "" where it doesn't.

    Scored are official and own, and for `extra` also val, test and the folds of `subset` (N,): all
    others are kept apart by the split itself. A reason is one of KEYS, names, near_duplicates or
    related_images, and the subset. group: (N,) numbers of what the split keeps together; of a group
    that is in a test set nothing is learnt.
    """
    subset = pd.Series(np.asarray(subset), table.index)
    values = {name: key_values(table, name) for name in KEYS}
    values["names"] = pd.Series(families(values["image_ids"]), table.index)
    values["related_images"] = pd.Series(range(len(table)) if group is None else group, table.index)
    ends, reasons = pair_rows(table, pairs), pd.Series("", table.index)
    for scored, there, learnt in _learnt_and_scored(subset):
        found = {name: key.isin(set(key[there]) - {""}) for name, key in values.items()}
        near = np.concatenate([ends, ends[:, ::-1]])
        found["near_duplicates"] = pd.Series(False, table.index)
        found["near_duplicates"].iloc[near[there.to_numpy()[near[:, 1]], 0]] = True
        for name in (*KEYS, "near_duplicates", "names", "related_images"):
            reasons[learnt & found[name] & (reasons == "")] = f"{name} shared with {scored}"
    return reasons


def _learnt_and_scored(subset):
    """(name, its rows, the rows from which is learnt what it must not share) of each test set."""
    extra, inner = subset == "extra", ~subset.isin(("train", "extra", *NOT_SPLIT))
    learnt = ~subset.isin(("test", *NOT_SPLIT))  # weights, thresholds: train, val, folds, extra
    for name in SCORED_ELSEWHERE:
        yield name, subset == name, learnt
    yield "test", subset == "test", extra
    yield "val", inner & (subset != "test"), extra


def first_copies(table: pd.DataFrame) -> pd.Series:
    """(N,) ids: of each image, the first image with the same pixels, which may be itself."""
    return table["duplicate_of"].where(table["duplicate_of"] != "", table["image"])


def pair_rows(table: pd.DataFrame, pairs) -> np.ndarray:
    """(P', 2) row numbers of those `pairs` of image ids of which both are in the table."""
    row = {image: k for k, image in enumerate(table["image"])}
    rows = [(row[a], row[b]) for a, b in pairs if a in row and b in row]
    return np.array(rows, int).reshape(-1, 2)
