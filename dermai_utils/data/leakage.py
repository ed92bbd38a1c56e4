"""The leakage audit: lesions and duplicates that have images in more than one subset."""

import numpy as np
import pandas as pd


def audit(table: pd.DataFrame, subset, pairs=()) -> dict[str, int]:
    """Count the lesions, exact duplicates and near-duplicates that are in several subsets.

    table: (N) rows with image, lesion_id and duplicate_of; subset: (N,) names; pairs: (P, 2) image
    ids of near-duplicates. For lesions and for sets of images with the same pixels: how many there
    are, and how many images are in them. For near-duplicates: the pairs that are apart.
    """
    subset, counts = np.asarray(subset), {}
    for name, key in (("lesions", table["lesion_id"]), ("exact_duplicates", first_copies(table))):
        key = key.to_numpy()
        leaks = pd.Series(subset).groupby(key).transform("nunique").to_numpy() > 1
        counts[f"{name}_in_several_subsets"] = len(np.unique(key[leaks]))
        counts[f"images_of_such_{name}"] = int(leaks.sum())
    a, b = pair_rows(table, pairs).T
    counts["near_duplicate_pairs_in_several_subsets"] = int((subset[a] != subset[b]).sum())
    return counts


def first_copies(table: pd.DataFrame) -> pd.Series:
    """(N,) ids: of each image, the first image with the same pixels, which may be itself."""
    return table["duplicate_of"].where(table["duplicate_of"] != "", table["image"])


def pair_rows(table: pd.DataFrame, pairs) -> np.ndarray:
    """(P', 2) row numbers of those `pairs` of image ids of which both are in the table."""
    row = {image: k for k, image in enumerate(table["image"])}
    rows = [(row[a], row[b]) for a, b in pairs if a in row and b in row]
    return np.array(rows, int).reshape(-1, 2)
