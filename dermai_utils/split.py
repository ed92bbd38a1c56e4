"""Lesion-safe, stratified splits, and the audit that counts what leaks."""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dermai_utils import clean, duplicates, files
from dermai_utils.config import CLASSES, UserError

PARTS = ("train", "val", "test")


def join(*keys) -> np.ndarray:
    """(N,) group numbers: two images share one when any of the `keys`, each (N,), ties them, directly or through others."""
    n = len(keys[0])
    codes = [np.unique(np.asarray(key, dtype=str), return_inverse=True)[1] for key in keys]
    ends = np.concatenate([code + n + sum(c.max() + 1 for c in codes[:k]) for k, code in enumerate(codes)])
    size = int(ends.max()) + 1 if n else 0
    images = np.tile(np.arange(n), len(keys))
    graph = coo_array((np.ones(len(ends), bool), (images, ends)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:n]


def groups(table: pd.DataFrame, pairs=()) -> np.ndarray:
    """(N,) group numbers: images of one lesion, with the same pixels, or named as a pair of ids in `pairs`, are one group."""
    first = table["duplicate_of"].where(table["duplicate_of"] != "", table["image"])
    return duplicates.join(join(table["lesion_id"], first), _positions(table, pairs))


def near_duplicates(cfg) -> np.ndarray:
    """(P, 2) image ids that show one lesion under two lesion ids, as `cfg.near_duplicates` says."""
    if cfg.near_duplicates_file is None:
        return np.empty((0, 2), dtype=object)
    if not cfg.near_duplicates_file.is_file():
        raise UserError(f"near_duplicates={cfg.near_duplicates}: no such file; give listed, none, a CSV of image_a,image_b, or "
                        "found (python -m dermai_utils duplicates makes it)")  # fmt: skip
    return clean.read_csv(cfg.near_duplicates_file, ["image_a", "image_b"]).to_numpy()


def _positions(table, pairs):
    """(P', 2) row positions of the `pairs` of ids whose images are both in the table."""
    place = {image: k for k, image in enumerate(table["image"])}
    return np.array([(place[a], place[b]) for a, b in pairs if a in place and b in place], int).reshape(-1, 2)


def deal(groups, labels, shares, seed: int) -> np.ndarray:
    """Deal whole groups to parts so that each part gets its share of every class: (N,) part numbers.

    groups, labels: (N,). shares: (P,) positive, any scale. Class by class the groups are shuffled, then dealt from the
    largest to the one part that is relatively emptiest, so each part is off by less than one group's size where that can
    be, and a class with at least P groups is in every part. A group's class is its commonest label.
    """
    groups, labels, shares = np.asarray(groups), np.asarray(labels), np.asarray(shares, float)
    random = np.random.default_rng(seed)
    names, codes = np.unique(labels, return_inverse=True)
    ids, member = np.unique(groups, return_inverse=True)
    table = np.zeros((len(ids), len(names)), int)
    np.add.at(table, (member, codes), 1)
    size, majority = table.sum(axis=1), table.argmax(axis=1)
    part = np.zeros(len(ids), int)
    by_share = np.argsort(-shares, kind="stable")  # on a tie the largest part goes first
    for name in range(len(names)):
        mine = random.permutation(np.flatnonzero(majority == name))
        filled = np.zeros(len(shares))
        for group in mine[np.argsort(-size[mine], kind="stable")]:
            part[group] = by_share[np.argmin(filled[by_share] / shares[by_share])]
            filled[part[group]] += size[group]
    return part[member]


def make(table: pd.DataFrame, cfg, strategy: str | None = None) -> np.ndarray:
    """(N,) part names for the training images: train, val, test; with folds, 0 .. folds-1 and test.

    strategy: lesion or random; by default the config's.
    """
    together = groups(table, near_duplicates(cfg)) if (strategy or cfg.split) == "lesion" else np.arange(len(table))
    shares = {"train": 1 - cfg.val_fraction - cfg.test_fraction, "val": cfg.val_fraction, "test": cfg.test_fraction}
    names = [name for name, share in shares.items() if share]
    part = np.array(names, object)[deal(together, table["label"], [shares[name] for name in names], cfg.split_seed)]
    if cfg.folds:  # of all but the test part, which stays as it is: what is chosen by folds was not chosen on it
        rest = part != "test"
        part[rest] = deal(together[rest], table["label"][rest], np.ones(cfg.folds), cfg.split_seed).astype(str)
    return part.astype(str)


def audit(table: pd.DataFrame, part, pairs=()) -> dict:
    """What leaks: lesions and sets of same-pixel images with members in several parts, and the images in them.

    Then the near-duplicate `pairs` of image ids whose two images are in different parts.
    """
    first = table["duplicate_of"].where(table["duplicate_of"] != "", table["image"]).to_numpy()
    counts = {}
    for name, key in (("lesions", table["lesion_id"].to_numpy()), ("exact_duplicates", first)):
        sides = pd.Series(np.asarray(part)).groupby(key).transform("nunique").to_numpy()
        counts[f"{name}_on_both_sides"] = int(len(np.unique(key[sides > 1])))
        counts[f"images_of_such_{name}"] = int((sides > 1).sum())
    a, b = _positions(table, pairs).T
    counts["near_duplicate_pairs_on_both_sides"] = int((np.asarray(part)[a] != np.asarray(part)[b]).sum())
    return counts


def run(cfg) -> None:
    """Write split.csv (image, part) and leakage.json , the audit of both strategies side by side.

    A lesion-safe split that leaks is refused: a UserError, and nothing is written.
    """
    table = clean.read_table(cfg.table_file)
    training = table[table["source"] == "train"].reset_index(drop=True)
    made = {strategy: make(training, cfg, strategy) for strategy in ("lesion", "random")}
    pairs = near_duplicates(cfg)
    audits = {strategy: audit(training, part, pairs) for strategy, part in made.items()}
    if joined := len(_positions(training, pairs)):
        print(f"split: {joined} near-duplicate pairs across lesion ids are kept together ({cfg.near_duplicates})")
    if any(audits["lesion"].values()):
        raise UserError(f"the lesion-safe split leaks ({audits['lesion']}): nothing was written; please report this")
    official = table.loc[table["source"] == "test", ["image"]].assign(part="official")
    new = pd.concat([training[["image"]].assign(part=made[cfg.split]), official], ignore_index=True)
    _keep_previous(cfg, new)
    files.write_json(cfg.audit_file, {"strategy": cfg.split, **audits})
    clean.write_csv(new, cfg.split_file)
    _announce(training["label"], made[cfg.split])
    counts = audits[cfg.split]
    print(f"split: {cfg.split}, {counts['lesions_on_both_sides']:,} lesions and "
          f"{counts['exact_duplicates_on_both_sides']:,} exact duplicates on both sides")  # fmt: skip


def _keep_previous(cfg, new) -> None:
    """A split is never reshuffled silently: one that differs is kept beside the new one, and that is said."""
    old = cfg.split_file.read_bytes() if cfg.split_file.exists() else None  # as bytes: it may be no CSV any more
    if old not in (None, clean.as_csv(new).encode()):
        previous = cfg.split_file.with_name("split.previous.csv")
        with files.atomic(previous, "wb") as file:
            file.write(old)
        print(f"split: NOT the one made before, which is kept as {cfg.show(previous)}")


def _announce(labels, part) -> None:
    for name in sorted(set(part)):
        absent = [label for label in CLASSES if not ((labels == label) & (part == name)).any()]
        if absent:
            print(f"split: no {', '.join(absent)} in {name}: too few lesions; its numbers there are not defined")


def read(cfg) -> pd.DataFrame:
    """The table with its `part` for this config: train, val, test or official (folds resolved by `cfg.fold`).

    With `cfg.train_fraction` the rest of the training lesions is in a part that nothing reads, "left out".
    """
    table = clean.read_table(cfg.table_file).merge(clean.read_table(cfg.split_file), on="image", validate="1:1")
    if cfg.folds:
        folds = {str(fold): "val" if fold == cfg.fold else "train" for fold in range(cfg.folds)}
        table["part"] = table["part"].replace(folds)
    if cfg.train_fraction < 1:
        train = table[table["part"] == "train"]
        shares = [cfg.train_fraction, 1 - cfg.train_fraction]
        left = deal(groups(train, near_duplicates(cfg)), train["label"], shares, cfg.split_seed) == 1
        table.loc[train.index[left], "part"] = "left out"
    return table


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Images of each class in each part, in the official order of the classes."""
    order = [part for part in (*PARTS, "official") if part in set(table["part"])]
    return pd.crosstab(table["label"], table["part"]).reindex(index=CLASSES, columns=order, fill_value=0)
