"""Lesion-safe, stratified splits: all images of a lesion are in one subset."""

import contextlib
import dataclasses

import numpy as np
import pandas as pd

from dermai_utils import files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import clean, leakage
from dermai_utils.data.layouts import labels

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
    """(N,) group numbers: images of one lesion or patient, with the same pixels, in `pairs` of ids,
    or with a name that says that one was made from the other (X_aug0 or X_downsampled from X)."""
    patients = leakage.key_values(table, "patients")
    links = [
        *_same_value(table["lesion_id"]),
        *_same_value(leakage.first_copies(table)),
        *_same_value(patients.where(patients != "", table["image"])),
        *_same_value(leakage.families(table["image"])),
        *_same_value(leakage.key_values(table, "image_ids")),
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
    return labels.read_csv(path, ["image_a", "image_b"]).to_numpy()


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


def make(
    table: pd.DataFrame, cfg, strategy: str | None = None, elsewhere: bool = False
) -> np.ndarray:
    """(N,) subset names of the training images: train, val, test; with folds 0 .. and test.

    strategy: lesion or random; by default the config's. elsewhere: whether there is an official or
    own test set, which needs no inner test subset beside it (test_fraction=auto).
    """
    test_share = cfg.test_share(elsewhere)
    lesion_safe = (strategy or cfg.split) == "lesion"
    together = groups(table, near_duplicates(cfg)) if lesion_safe else np.arange(len(table))
    train_fraction = 1 - cfg.val_fraction - test_share
    shares = dict(zip(SUBSETS, (train_fraction, cfg.val_fraction, test_share), strict=True))
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
    table = clean.read(cfg)
    training = table[table["source"] == "train"].reset_index(drop=True)
    elsewhere = _tested_elsewhere(cfg, set(table["source"]))
    subsets = {
        strategy: make(training, cfg, strategy, elsewhere) for strategy in ("lesion", "random")
    }
    pairs = near_duplicates(cfg)
    audits = {name: leakage.audit(training, subset, pairs) for name, subset in subsets.items()}
    if count := len(leakage.pair_rows(training, pairs)):
        what = f"{count} near-duplicate pairs across lesion ids are kept together"
        print(f"split: {what} ({cfg.near_duplicates})")
    if any(filter(None, audits["lesion"].values())):
        advice = "nothing was written; please report this"
        raise UserError(f"the lesion-safe split leaks ({audits['lesion']}): {advice}")
    others = table[table["source"] != "train"].assign(
        subset=lambda rows: rows["source"].replace({"test": "official"})
    )
    whole = pd.concat([training.assign(subset=subsets[cfg.split]), others], ignore_index=True)
    whole, left_out = _without_leaks(cfg, whole, pairs)
    new = whole.loc[whole["source"] != "own", ["image", "subset"]]
    _keep_previous(cfg, new)
    audits |= {
        "left_out": left_out,
        "pairs": leakage.audit_pairs(whole, _merged_folds(cfg, whole["subset"]), pairs),
    }
    settings = {"strategy": cfg.split, "test_fraction": cfg.test_fraction}
    files.write_json(cfg.audit_file, settings | audits)
    files.write_table(new, cfg.split_file)
    _announce(training["label"], subsets[cfg.split])
    _print_audit(cfg, audits[cfg.split])
    further = sorted(set(table["source"]) & {"extra", "own"})
    if further and cfg.near_duplicates == "listed":  # the list is of the official images alone
        print(
            f"split: whether {' and '.join(further)} images show a training lesion again under "
            "another id is not known: python -m dermai_utils near_duplicates looks, and with "
            "near_duplicates=found what it finds is left out"
        )


def _tested_elsewhere(cfg, sources) -> bool:
    """Whether test_fraction=auto sets no training image aside: with an official test set, else as
    in the split that is there, since a run may rest on it, else with a test set of one's own."""
    before = _subsets_before(cfg)
    if "test" in sources:
        elsewhere, why = True, "the official test set is there"
    elif before:
        elsewhere, why = "test" not in before, "the split made before has no inner test subset"
    else:
        elsewhere, why = "own" in sources, "your own test set is there"
    if elsewhere and cfg.test_fraction == "auto":
        print(
            f"split: {why}, so no training image is set aside for an inner one (test_fraction=auto)"
        )
    return elsewhere


def _subsets_before(cfg) -> set:
    """The subsets of the split that is there; none where nobody chose it by test_fraction=auto
    alone, or it was broken."""
    share = (files.read_json(cfg.audit_file) or {}).get("test_fraction", "auto")
    with contextlib.suppress(OSError, ValueError, KeyError):
        subsets = set(files.read_table(cfg.split_file)["subset"])
        return subsets if share == "auto" and "official" not in subsets else set()
    return set()


def _merged_folds(cfg, subset):
    """The subsets for the audit: with folds train and val are one, as each fold is both."""
    return subset.replace({str(fold): "train" for fold in range(cfg.folds)})


def _without_leaks(cfg, whole, pairs):
    """(the table, {reason: images}): what would leak into a test set, and what belongs with it, is
    in "left out"."""
    reasons = leakage.learnt_from_leaks(whole, whole["subset"], pairs, groups(whole, pairs))
    left_out = {name: int(n) for name, n in reasons[reasons != ""].value_counts().items()}
    for reason, n in left_out.items():
        print(f"split: {n:,} images to learn from are left out: {reason.replace('_', ' ')}")
    if left_out and cfg.leaks == "refuse":
        raise UserError(
            f"leaks=refuse: {sum(left_out.values()):,} images to learn from leak into a test set "
            f"({', '.join(left_out)}): remove them, or give leaks=leave_out"
        )
    return whole.assign(subset=whole["subset"].mask(reasons != "", "left out")), left_out


def _print_audit(cfg, counts) -> None:
    lesions = counts["lesions_in_several_subsets"]
    copies = counts["exact_duplicates_in_several_subsets"]
    if lesions is None:
        print(
            f"split: {cfg.split}, {copies:,} exact duplicates in several subsets; lesions: not "
            "known, no image has a lesion id (near_duplicates=found makes groups from geometry, "
            "after python -m dermai_utils near_duplicates)"
        )
        return
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
    """The table with each image's `subset`: train, val, test, official or own.

    With folds, fold `cfg.fold` is val; with all folds as one run (-1) each of them is, since each
    image is held out by one of the models, and column `fold` says by which.
    With `cfg.train_fraction` the other training lesions are in "left out", which nothing reads.
    """
    subsets = files.read_table(cfg.split_file)
    table = clean.read(cfg).merge(subsets, on="image", how="left", validate="1:1")
    table["subset"] = table["subset"].mask(table["source"] == "own", "own")
    if cfg.folds:
        table["fold"] = pd.to_numeric(table["subset"], errors="coerce").fillna(-1).astype(int)
        held_out = (table["fold"] == cfg.fold) | (cfg.fold < 0)
        in_fold = table["fold"] >= 0
        table["subset"] = table["subset"].mask(in_fold & held_out, "val")
        table["subset"] = table["subset"].mask(in_fold & ~held_out, "train")
    table["subset"] = table["subset"].replace("extra", "train")  # `source` still says extra
    train = table[table["subset"] == "train"]
    if cfg.train_fraction < 1 and len(train):  # with all folds as one run, each model has its own
        shares = [cfg.train_fraction, 1 - cfg.train_fraction]
        together = groups(train, near_duplicates(cfg))
        number = grouped_stratified_split(together, train["label"], shares, cfg.split_seed)
        table.loc[train.index[number == 1], "subset"] = "left out"
    return table


def origin(lesion_ids: pd.Series) -> list[str]:
    """(N,) the source that a lesion id begins with (BCN, MSK ... as in ISIC 2019), or ""."""
    prefix = lesion_ids.astype(str).str.extract(r"^([A-Za-z]{3,})\d*_", expand=False)
    return prefix.where(prefix != "ISIC").fillna("").tolist()


def origins(table: pd.DataFrame) -> list[str]:
    """(N,) the source of each `extra` image, "extra" where its lesion id names none; "" for all
    others."""
    named = pd.Series(origin(table["lesion_id"]), table.index).replace("", "extra")
    return named.where(table["source"] == "extra", "").tolist()


def of_first_model(cfg):
    """`cfg`, or with all folds as one run the settings of its first model: what needs one training
    and one val subset takes those."""
    return dataclasses.replace(cfg, fold=0) if cfg.fold < 0 else cfg


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Images of each class in each subset, in the official order of the classes."""
    order = [name for name in (*SUBSETS, "official", "own") if name in set(table["subset"])]
    counts = pd.crosstab(table["label"], table["subset"])
    return counts.reindex(index=CLASSES, columns=order, fill_value=0)
