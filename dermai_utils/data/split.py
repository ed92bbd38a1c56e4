"""Lesion-safe, stratified splits: all images of a lesion are in one subset."""

import numpy as np
import pandas as pd

from dermai_utils import files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import clean, leakage

SUBSETS = ("train", "val", "test")


def connected_components(n: int, pairs) -> np.ndarray:
    """(n,) component numbers, from 0: rows linked by `pairs` (of rows), even indirectly, share one.

    Union-find. split.csv depends on the numbers, so they must stay as they are.
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
    """(N,) group numbers: images of one lesion, with the same pixels, or in `pairs` of ids."""
    links = [
        *_same_value(table["lesion_id"]),
        *_same_value(leakage.first_copies(table)),
        *leakage.pair_rows(table, pairs),
    ]
    return connected_components(len(table), links)


def _same_value(key):
    """(N, 2) pairs: each row, and the first row with its value of `key`."""
    _, first, codes = np.unique(np.asarray(key, dtype=str), return_index=True, return_inverse=True)
    return np.stack([np.arange(len(codes)), first[codes]], axis=1)


def near_duplicates(cfg) -> np.ndarray:
    """(P, 2) image ids that show one lesion under two lesion ids, as `cfg.near_duplicates` says."""
    path = cfg.near_duplicates_file
    if path is None:
        return np.empty((0, 2), dtype=object)
    if not path.is_file():
        raise UserError(
            f"near_duplicates={cfg.near_duplicates}: no such file; give listed, none, a CSV of "
            "image_a,image_b, or found (python -m dermai_utils near_duplicates makes it)"
        )
    return clean.read_csv(path, ["image_a", "image_b"]).to_numpy()


def grouped_stratified_split(groups, labels, shares, seed: int) -> np.ndarray:
    """(N,) subset numbers that keep groups together and give each subset its share of each class.

    groups, labels: (N,). shares: (P,) positive, any scale. A group's class is its commonest label.
    Class by class the groups are shuffled, and then, from the largest on, each goes to the subset
    that is relatively emptiest. So each subset is off by less than one group's size where that can
    be, and a class with at least P groups is in every subset.
    """
    groups, labels, shares = np.asarray(groups), np.asarray(labels), np.asarray(shares, float)
    random = np.random.default_rng(seed)
    names, codes = np.unique(labels, return_inverse=True)
    ids, member = np.unique(groups, return_inverse=True)
    table = np.zeros((len(ids), len(names)), int)
    np.add.at(table, (member, codes), 1)
    size, majority = table.sum(axis=1), table.argmax(axis=1)
    subset = np.zeros(len(ids), int)
    by_share = np.argsort(-shares, kind="stable")  # on a tie the largest subset goes first
    for name in range(len(names)):
        order = random.permutation(np.flatnonzero(majority == name))
        filled = np.zeros(len(shares))
        for group in order[np.argsort(-size[order], kind="stable")]:
            subset[group] = by_share[np.argmin(filled[by_share] / shares[by_share])]
            filled[subset[group]] += size[group]
    return subset[member]


def make(table: pd.DataFrame, cfg, strategy: str | None = None) -> np.ndarray:
    """(N,) subset names of the training images: train, val, test; with folds 0 .. and test.

    strategy: lesion or random; by default the config's.
    """
    lesion_safe = (strategy or cfg.split) == "lesion"
    together = groups(table, near_duplicates(cfg)) if lesion_safe else np.arange(len(table))
    train_fraction = 1 - cfg.val_fraction - cfg.test_fraction
    shares = dict(zip(SUBSETS, (train_fraction, cfg.val_fraction, cfg.test_fraction), strict=True))
    shares = {name: share for name, share in shares.items() if share}
    labels, seed = table["label"], cfg.split_seed
    numbers = grouped_stratified_split(together, labels, list(shares.values()), seed)
    subset = np.array(list(shares), object)[numbers]
    # the test images are the same with folds: what is chosen by folds was not chosen on them
    if cfg.folds:
        rest = subset != "test"
        equal = np.ones(cfg.folds)
        subset[rest] = grouped_stratified_split(together[rest], labels[rest], equal, seed)
    return subset.astype(str)


def run(cfg) -> None:
    """Write split.csv (image, subset) and leakage.json, the audits of both strategies.

    A lesion-safe split that leaks is refused: a UserError, and nothing is written.
    """
    table = files.read_table(cfg.table_file)
    training = table[table["source"] == "train"].reset_index(drop=True)
    subsets = {strategy: make(training, cfg, strategy) for strategy in ("lesion", "random")}
    pairs = near_duplicates(cfg)
    audits = {name: leakage.audit(training, subset, pairs) for name, subset in subsets.items()}
    if count := len(leakage.pair_rows(training, pairs)):
        what = f"{count} near-duplicate pairs across lesion ids are kept together"
        print(f"split: {what} ({cfg.near_duplicates})")
    if any(audits["lesion"].values()):
        advice = "nothing was written; please report this"
        raise UserError(f"the lesion-safe split leaks ({audits['lesion']}): {advice}")
    new = training[["image"]].assign(subset=subsets[cfg.split])
    official = table.loc[table["source"] == "test", ["image"]].assign(subset="official")
    new = pd.concat([new, official], ignore_index=True)
    _keep_previous(cfg, new)
    files.write_json(cfg.audit_file, {"strategy": cfg.split, **audits})
    files.write_table(new, cfg.split_file)
    _announce(training["label"], subsets[cfg.split])
    counts = audits[cfg.split]
    lesions = counts["lesions_in_several_subsets"]
    copies = counts["exact_duplicates_in_several_subsets"]
    print(
        f"split: {cfg.split}, {lesions:,} lesions and {copies:,} exact duplicates "
        "in several subsets"
    )


def _keep_previous(cfg, new) -> None:
    """Keep a split that differs beside the new one: a split never changes silently."""
    old = cfg.split_file.read_bytes() if cfg.split_file.exists() else None
    # compared as bytes: it may be no CSV any more
    if old not in (None, files.table_text(new).encode()):
        previous = cfg.split_file.with_name("split.previous.csv")
        with files.atomic(previous, "wb") as file:
            file.write(old)
        print(f"split: NOT the one made before, which is kept as {cfg.show(previous)}")


def _announce(labels, subset) -> None:
    for name in sorted(set(subset)):
        absent = ", ".join(c for c in CLASSES if c not in set(labels[subset == name]))
        if absent:
            consequence = "too few lesions; its numbers there are not defined"
            print(f"split: no {absent} in {name}: {consequence}")


def read(cfg) -> pd.DataFrame:
    """The table with each image's `subset`: train, val, test or official; `cfg.fold` is val.

    With `cfg.train_fraction` the other training lesions are in "left out", which nothing reads.
    """
    subsets = files.read_table(cfg.split_file)
    table = files.read_table(cfg.table_file).merge(subsets, on="image", validate="1:1")
    if cfg.folds:
        folds = {str(fold): "val" if fold == cfg.fold else "train" for fold in range(cfg.folds)}
        table["subset"] = table["subset"].replace(folds)
    if cfg.train_fraction < 1:
        train = table[table["subset"] == "train"]
        shares = [cfg.train_fraction, 1 - cfg.train_fraction]
        together = groups(train, near_duplicates(cfg))
        number = grouped_stratified_split(together, train["label"], shares, cfg.split_seed)
        table.loc[train.index[number == 1], "subset"] = "left out"
    return table


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Images of each class in each subset, in the official order of the classes."""
    order = [subset for subset in (*SUBSETS, "official") if subset in set(table["subset"])]
    counts = pd.crosstab(table["label"], table["subset"])
    return counts.reindex(index=CLASSES, columns=order, fill_value=0)
