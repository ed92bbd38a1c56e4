"""Lesion-safe, stratified splits, the leaks between subsets, and their audit.

A table has a row for each image (datasets.COLUMNS); only `image` and `label` must be there, and
each other column counts as not known where it is missing. A split is a Series of subset names on
the table's index: train, val, test (or a fold's number), official, the name of each test set, and
"left out". Images of the source `extra` are in train. Nothing here reads or writes a file, except
that `near_duplicates` reads a CSV. A split that others made: see split_files.
"""

import itertools
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from dermai_utils import copies
from dermai_utils.basics import CLASSES, UserError, counted
from dermai_utils.copies import tables
from dermai_utils.image_names import base_id, families, is_official_test

INNER = ("train", "val", "test")  # the subsets of the training data
LEFT_OUT = "left out"
KEYS = ("images", "lesions", "patients", "copies")


# Groups: what must stay together


def connected_components(n: int, pairs) -> np.ndarray:
    """(n,) component numbers, from 0: rows linked by `pairs` (of rows), even indirectly, share one.

    Union-find. The splits of all published runs depend on the numbers: they must stay as they are.
    """
    parent = list(range(n))

    def root(row):
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for i, j in pairs:
        parent[root(i)] = root(j)
    return np.unique([root(row) for row in range(n)], return_inverse=True)[1]


def groups(table: pd.DataFrame, pairs=()) -> np.ndarray:
    """(N,) group numbers: images that one subset must hold together share one.

    They show one lesion or patient, have equal pixels or one archive id, are a pair of ids in
    `pairs`, or their names say that they were made from one (X_aug0 and X_downsampled from X).

    >>> table = pd.DataFrame({"image": ["a", "b", "c"], "lesion_id": ["L1", "", "L1"]})
    >>> groups(table).tolist()
    [0, 1, 0]
    """
    keys = [column(table, name) for name in ("lesion_id", "pixel_hash", "patient_id")]
    keys = [key.where(key != "", table["image"]) for key in keys]
    keys += [families(table["image"]), table["image"].map(base_id)]
    links = [link for key in keys for link in _same_value(key)]
    links += [*pair_rows(table, pairs), *_over_missing(table, pairs)]
    return connected_components(len(table), links)


def training_groups(table: pd.DataFrame, pairs=()) -> np.ndarray:
    """(T,) group numbers of the T training images, also linked over `extra` images: what a split
    keeps together.

    Test sets link none here, so that a split is the same without them; `leaks` links over all.
    """
    elsewhere = subsets_elsewhere(table)
    home, learnt = elsewhere == "", elsewhere.isin(("", "train"))
    alone = groups(table[home], pairs)
    whole = groups(table[learnt], pairs)[home[learnt]]
    first = pd.Series(alone).groupby(whole).transform("first")
    return connected_components(alone.max() + 1, zip(alone, first, strict=True))[alone]


def _same_value(key):
    """(N, 2) pairs: each row, and the first row with its value of `key`."""
    _, first, codes = np.unique(np.asarray(key, dtype=str), return_index=True, return_inverse=True)
    return np.stack([np.arange(len(codes)), first[codes]], axis=1)


def lesions(table: pd.DataFrame) -> pd.Series:
    """(N,) lesion ids; an image whose lesion is not known counts as a lesion of its own."""
    ids = column(table, "lesion_id")
    return ids.where(ids != "", table["image"])


def column(table, name):
    """A column as text; "" is not known, as a column that is not there and as pandas' NaN."""
    column = table[name] if name in table else pd.Series("", table.index)
    return column.astype(object).fillna("").astype(str)


def pair_rows(table: pd.DataFrame, pairs) -> np.ndarray:
    """(P', 2) row numbers of those `pairs` of image ids that have both images in the table, under
    the id that is listed or another name of the photograph."""
    rows = [(a, b) for a, b in _ends(table, pairs) if a is not None and b is not None]
    return np.array(rows, int).reshape(-1, 2)


def _ends(table, pairs):
    """The two row numbers of each pair, None for an image that is not in the table."""
    images = list(table["image"])
    row = {base_id(image): k for k, image in reversed(list(enumerate(images)))}
    row |= {image: k for k, image in enumerate(images)}
    return [[row.get(x, row.get(base_id(x))) for x in pair] for pair in pairs]


def _over_missing(table, pairs):
    """Pairs of rows that `pairs` link over an image that is not in the table, such as a rejected
    one. Not over one of the official test set: the shipped list has such a pair, and the published
    splits do not know it."""
    first, links = {}, []
    for pair, ends in zip(pairs, _ends(table, pairs), strict=True):
        for missing, end, row in zip(pair, ends, ends[::-1], strict=True):
            if end is None and row is not None and not is_official_test(missing):
                links.append((row, first.setdefault(base_id(missing), row)))
    return links


def near_duplicates(which="listed") -> np.ndarray:
    """(P, 2) image ids: pairs that show one lesion under two lesion ids.

    which: `listed` (the pairs of the official training data that people confirmed, which come with
    the package), `none`, or a CSV with columns image_a and image_b. UserError where there is no
    such file, or one of its columns is missing.

    >>> near_duplicates().shape[1], len(near_duplicates("none"))
    (2, 0)
    """
    if str(which) == "none":
        return np.empty((0, 2), dtype=object)
    path = copies.NEAR_DUPLICATES if str(which) == "listed" else Path(which)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a CSV of image_a,image_b")
    return tables.read_csv(path, ["image_a", "image_b"]).to_numpy()


# Splits


def stratified(groups, labels, shares, seed: int) -> np.ndarray:
    """(N,) subset numbers that keep groups together and give each subset its share of each class.

    groups, labels: (N,). shares: (P,) positive, any scale. A group's class is its commonest label.
    Class by class the groups are shuffled, and then, from the largest on, each goes to the subset
    that is relatively emptiest. So each subset is off by less than one group's size where that can
    be, and a class with at least P groups is in every subset.
    """
    groups, labels, shares = np.asarray(groups), np.asarray(labels), np.asarray(shares, float)
    random = np.random.default_rng(seed)
    images = pd.crosstab(groups, labels).to_numpy()  # a row a group, a column a class
    size, majority = images.sum(axis=1), images.argmax(axis=1)
    subset = np.zeros(len(images), int)
    by_share = np.argsort(-shares, kind="stable")  # on a tie the largest subset goes first
    for label in range(images.shape[1]):
        order = random.permutation(np.flatnonzero(majority == label))
        filled = np.zeros(len(shares))
        for group in order[np.argsort(-size[order], kind="stable")]:
            subset[group] = by_share[np.argmin(filled[by_share] / shares[by_share])]
            filled[subset[group]] += size[group]
    return subset[np.unique(groups, return_inverse=True)[1]]


def split(
    table, val=0.12, test=None, *, seed=0, strategy="lesion", pairs=None, train_fraction=1.0
) -> pd.Series:
    """(N,) subset names: train, val and test for the training data, and each test set's own name.

    val, test: shares of the training data. test=None: 0.12, or 0 with an official test set or one
    of your own. strategy: `lesion` keeps each group in one subset; `random` splits image by image,
    which leaks. pairs: near-duplicates, None for the shipped list. train_fraction: share of the
    training lesions to train on. What would leak into a test set is `left out` (see `leaks`).
    UserError where this cannot be done.

    >>> table = pd.DataFrame({"image": list("abcdefgh"), "label": "NV"})
    >>> split(table, val=0.25, test=0.25).value_counts().to_dict()
    {'train': 4, 'val': 2, 'test': 2}
    """
    if strategy not in ("lesion", "random"):
        raise UserError(f"split={strategy}: expected lesion or random")
    return _divided(table, val, test, seed, pairs, train_fraction, strategy=strategy)


def folds(
    table, n: int, test=None, *, seed=0, pairs=None, train_fraction=1.0, val=0.12
) -> pd.Series:
    """(N,) subset names as in `split`, with the folds "0" to "n-1" in place of train and val.

    The test subset is the one that `split` draws (with the same `val`): what is chosen by folds was
    not chosen on it. train_fraction: share of the lesions that are in a fold; the others are
    `left out`. UserError where this cannot be done.

    >>> table = pd.DataFrame({"image": list("abcdef"), "label": "NV"})
    >>> folds(table, 3, test=0).value_counts().sort_index().to_dict()
    {'0': 2, '1': 2, '2': 2}
    """
    if not 2 <= n <= 20:
        raise UserError(f"folds={n}: expected 2 to 20, or 0 for one val subset")
    return _divided(table, val, test, seed, pairs, train_fraction, n)


def _divided(table, val, test, seed, pairs, train_fraction, folds=0, strategy="lesion"):
    """What `split` and `folds` have in common."""
    pairs = near_duplicates() if pairs is None else pairs
    subset, home, test = _start(table, val, test)
    labels, names = table.loc[home, "label"].to_numpy(), ["train", "val"]
    together = training_groups(table, pairs) if strategy == "lesion" else np.arange(len(labels))
    drawn = drawn_subsets(labels, together, val, test, seed)
    if folds:
        rest, names = drawn != "test", [str(k) for k in range(folds)]
        drawn[rest] = stratified(together[rest], labels[rest], np.ones(folds), seed).astype(str)
    subset[home] = drawn
    subset = without_leaks(table, subset, pairs, inner=strategy == "lesion")
    check_filled(subset, names + ["test"] * bool(test))
    return _shortened(table, subset, train_fraction, pairs, seed)


def _start(table, val, test):
    """(the subsets of all other sources, where the training data is, the share of test)."""
    if missing := {"image", "label"} - set(table):
        raise UserError(f"the table has no column {', '.join(sorted(missing))}: expected both")
    if twice := table["image"][table["image"].duplicated()].tolist():
        raise UserError(f"image {twice[0]} has two rows in the table: expected one row an image")
    if unknown := sorted(set(table["label"]) - set(CLASSES)):
        raise UserError(f"label {unknown[0]}: expected one of {', '.join(CLASSES)}")
    subset = subsets_elsewhere(table)
    home = subset == ""
    if not home.any():
        raise UserError("the table has no training image (source train): give data with some")
    if test is None:
        test = 0.0 if set(subset) - {"", "train"} else 0.12
    if not (0.01 <= val <= 0.5 and 0 <= test <= 0.5 and val + test <= 0.8):
        expected = "expected val from 0.01 to 0.5, test from 0 to 0.5, both at most 0.8 together"
        raise UserError(f"val={val}, test={test}: {expected}")
    return subset, home, test


def subsets_elsewhere(table):
    """(N,) the subset that a row's source gives it; "" for the training data."""
    return column(table, "source").replace({"train": "", "extra": "train"}).rename("subset")


def drawn_subsets(labels, together, val, test, seed):
    """(N,) train, val and test for the training data."""
    shares = zip(INNER, (1 - val - test, val, test), strict=True)
    shares = {name: share for name, share in shares if share}
    numbers = stratified(together, labels, list(shares.values()), seed)
    return np.array(list(shares), object)[numbers]


def check_filled(subset, names):
    """UserError where one of the subsets `names` is empty."""
    leaking = (subset == LEFT_OUT).sum()
    why = f"{counted(leaking, 'image')} would leak into a test set; remove such images from it"
    why = why if leaking else "too few lesions; give more images, or fewer or larger subsets"
    if empty := [name for name in names if not (subset == name).any()]:
        raise UserError(f"no image is left in {', '.join(empty)}: {why}")


def _shortened(table, subset, train_fraction, pairs, seed):
    """The subsets with that share of the training lesions; the others are left out."""
    if not 0.01 <= train_fraction <= 1:
        raise UserError(f"train_fraction={train_fraction}: expected 0.01 to 1")
    train = table[(subset == "train") | subset.str.isdigit()]
    if train_fraction < 1:
        shares = [train_fraction, 1 - train_fraction]
        number = stratified(groups(train, pairs), train["label"], shares, seed)
        subset = subset.mask(subset.index.isin(train.index[number == 1]), LEFT_OUT)
    return subset


# Leaks


def leaks(table: pd.DataFrame, subset: pd.Series, pairs=(), inner: bool = True) -> pd.Series:
    """(N,) text: why an image that a run learns from leaks into a test set, such as "lesions shared
    with official"; "" where it does not.

    Training images and val must share nothing with official, test and each other test set, `extra`
    images nor the folds, train and `extra` nothing with val. inner=False: training images may share
    with val and test, as in a random split. What is left out already keeps its reason. A whole
    group (see `groups`) leaks where one image of it is in a test set: "related images".
    """
    subset, values = pd.Series(np.asarray(subset), table.index), keys(table)
    values = values.rename(columns={"images": "image ids"})
    ends, reasons = pair_rows(table, pairs), pd.Series("", table.index)
    near = np.concatenate([ends, ends[:, ::-1]])
    values["near duplicates"] = ""
    values["names"] = families(values["image ids"])
    values["related images"] = groups(table, pairs)
    for name, there, learnt in _tests(table, subset, inner):
        found = {key: column.isin(set(column[there]) - {""}) for key, column in values.items()}
        found["near duplicates"].iloc[near[there.to_numpy()[near[:, 1]], 0]] = True
        for key, leak in found.items():
            reasons[learnt & leak & (reasons == "")] = f"{key} shared with {name}"
    return reasons


def _tests(table, subset, inner):
    """(name, its rows, the rows that must share nothing with it) of each subset that is scored."""
    elsewhere = subsets_elsewhere(table)
    home, extra = elsewhere == "", elsewhere == "train"
    learnt = (home | extra) & (subset != "test")  # weights and thresholds: train, val, folds, extra
    names = [name for name in dict.fromkeys(elsewhere) if name not in ("", "train", "official")]
    for name in ("official", *names):
        yield name, subset == name, learnt
    yield "test", subset == "test", learnt if inner else extra
    val = home & ~subset.isin(("train", "test", LEFT_OUT))
    yield "val", val, learnt & ~val if inner else extra


def without_leaks(table, subset, pairs, inner=True):
    return subset.mask(leaks(table, subset, pairs, inner) != "", LEFT_OUT)


def keys(table: pd.DataFrame) -> pd.DataFrame:
    """(N, 4) text in columns KEYS: what two leaking images have in common; "" not known."""
    columns = (column(table, name) for name in ("lesion_id", "patient_id", "pixel_hash"))
    values = (table["image"].map(base_id), *columns)
    return pd.DataFrame(dict(zip(KEYS, values, strict=True)), index=table.index)


def audit(table: pd.DataFrame, subset: pd.Series, pairs=()) -> pd.DataFrame:
    """What every two subsets share: index "train/val" and so on, a column for each of KEYS, and
    near_duplicates, the `pairs` that have an image in each.

    Cells are counts; <NA> means not known: one of the two has no id of that kind (near-duplicates:
    no image of its source is in `pairs`). What is left out is in no subset. With folds, "folds" is
    all of them, and the row "fold/fold" counts what is in two or more of them.

    >>> table = pd.DataFrame({"image": ["a", "b"], "lesion_id": ["L1", "L1"]})
    >>> audit(table, ["train", "val"])[["images", "lesions", "patients"]].values.tolist()
    [[0, 1, <NA>]]
    """
    subset = np.asarray(subset, dtype=str)
    side = np.where(np.char.isdigit(subset), "folds", subset)
    names = [*("train", "folds", "val", "test", "official"), *column(table, "source"), *side]
    names = [name for name in dict.fromkeys(names) if name in set(side) - {LEFT_OUT}]
    found = {}
    for key, (rows, values, known) in _shareable(table, pairs).items():
        has = {name: set(values[side[rows] == name]) for name in names}
        sure = set(side[known])
        found[key] = {
            f"{a}/{b}": len(has[a] & has[b]) if {a, b} <= sure else pd.NA
            for a, b in itertools.combinations(names, 2)
        }
        if "folds" in names:
            within = side[rows] == "folds"
            several = pd.Series(subset[rows][within]).groupby(values[within]).nunique() > 1
            found[key]["fold/fold"] = several.sum() if "folds" in sure else pd.NA
    return pd.DataFrame(found, dtype="Int64")


def _shareable(table, pairs):
    """{column of the audit: (row numbers, what each of these rows has, (N,) whether we know)}."""
    found = {}
    for key, values in keys(table).items():
        known = (values != "").to_numpy()
        found[key] = np.flatnonzero(known), values[known].to_numpy(), known
    ends, source = pair_rows(table, pairs), column(table, "source")
    listed = source.isin(source.iloc[ends.ravel()]).to_numpy()
    found["near_duplicates"] = ends.ravel(), np.repeat(np.arange(len(ends)), 2), listed
    return found


def counts(table: pd.DataFrame, subset: pd.Series) -> pd.DataFrame:
    """Images of each class in each subset, in the official order of the classes."""
    order = [*INNER, *map(str, range(20)), "official", *column(table, "source"), LEFT_OUT]
    order = [name for name in dict.fromkeys(order) if name in set(subset)]
    images = pd.crosstab(table["label"], subset, colnames=["subset"])
    return images.reindex(index=CLASSES, columns=order, fill_value=0)


def notes(table: pd.DataFrame, subset: pd.Series, pairs=()) -> list[str]:
    """What a user must know about a split, one line each: what is left out and why, classes that a
    subset lacks, what two subsets share, and what is not known."""
    subset, near = pd.Series(np.asarray(subset), table.index), pair_rows(table, pairs)
    reasons, left = leaks(table, subset, pairs), subset == LEFT_OUT
    if (reasons[~left] != "").any():  # what train shares with val or test is not left out here
        reasons = leaks(table, subset, pairs, inner=False)
    reasons = reasons[left].replace("", "by train_fraction or the split file").value_counts()
    lines = [f"images left out: {n:,}, {why}" for why, n in reasons.items()]
    for name, images in counts(table, subset[subsets_elsewhere(table) == ""]).items():
        if absent := [label for label, count in images.items() if not count and name != LEFT_OUT]:
            lines.append(f"no {', '.join(absent)} in {name}: results there are not defined")
    shared = audit(table, subset, pairs).rename(columns={"near_duplicates": "near-duplicates"})
    leaky = []
    for names, row in shared.fillna(0).iterrows():
        if found := [f"{count:,} × {key}" for key, count in row.items() if count]:
            leaky.append(f"WARNING: {names} share {', '.join(found)}")
    lines += leaky or [f"no two subsets share {', '.join(shared.columns[shared.notna().any()])}"]
    if shared["lesions"].isna().all():
        lines.append("lesions: not known, no image has a lesion id; a lesion may be in two subsets")
    source = column(table, "source")
    further = set(source) - {"", "train", "official"} - set(source.iloc[near.ravel()])
    if further:
        lines.append(
            f"near-duplicates of {', '.join(map(shlex.quote, sorted(further)))}: not known; "
            "python -m dermai_utils near-duplicates finds them"
        )
    return lines
