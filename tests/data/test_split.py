import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermai_utils import config, files
from dermai_utils.config import UserError
from dermai_utils.data import leakage, split


@st.composite
def datasets(draw):
    """Any grouping of up to 60 images with any labels, and two to five subsets of any share."""
    n = draw(st.integers(1, 60))
    groups = draw(st.lists(st.integers(0, 25), min_size=n, max_size=n))
    labels = draw(st.lists(st.sampled_from("ABC"), min_size=n, max_size=n))
    shares = draw(st.lists(st.floats(0.05, 1), min_size=2, max_size=5))
    return np.array(groups), np.array(labels), shares, draw(st.integers(0, 5))


@given(datasets())
def test_every_image_is_in_one_subset_and_so_is_every_group(dataset):
    groups, labels, shares, seed = dataset
    subset = split.grouped_stratified_split(groups, labels, shares, seed)
    assert subset.shape == groups.shape and ((subset >= 0) & (subset < len(shares))).all()
    for group in np.unique(groups):
        assert len(set(subset[groups == group])) == 1
    assert (subset == split.grouped_stratified_split(groups, labels, shares, seed)).all()


@given(datasets())
def test_each_subset_gets_its_share_of_each_class_to_within_a_group(dataset):
    groups, _, shares, seed = dataset
    labels = np.array(list("ABC"))[groups % 3]  # one class a group, as lesions have
    subset = split.grouped_stratified_split(groups, labels, shares, seed)
    for label in np.unique(labels):
        largest = np.bincount(groups[labels == label]).max()
        got = np.bincount(subset[labels == label], minlength=len(shares))
        due = np.array(shares) / sum(shares) * got.sum()
        # filling the relatively emptiest subset, none exceeds its share by more than one group
        assert (got <= due + largest + 1e-9).all()
        if len(np.unique(groups[labels == label])) >= len(shares):
            assert (got > 0).all()


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=20))
def test_groups_tie_what_a_lesion_or_the_same_pixels_tie(pairs):
    a, b = np.array(pairs).T
    table = pd.DataFrame(
        {
            "lesion_id": a.astype(str),
            "duplicate_of": b.astype(str),
            "image": [f"i{k}" for k in range(len(a))],
        }
    )
    joined = split.groups(table)
    reach = (a[:, None] == a) | (b[:, None] == b)
    for _ in range(len(a)):  # brute force: transitive closure
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    assert ((joined[:, None] == joined) == reach).all()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_pairs_of_images_join_their_lesions(data):
    n = data.draw(st.integers(1, 12))
    lesions = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=n, max_size=n))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=8))
    together = np.array([[a == b for b in lesions] for a in lesions])
    for i, j in pairs:
        together[i, j] = together[j, i] = True
    for _ in range(n):
        together = together | (together.astype(int) @ together.astype(int) > 0)
    table = pd.DataFrame(
        {"lesion_id": lesions, "duplicate_of": "", "image": [str(k) for k in range(n)]}
    )
    joined = split.groups(table, [(str(i), str(j)) for i, j in pairs])
    assert ((joined[:, None] == joined[None]) == together).all()


def table_of(made):
    table = files.read_table(made.table_file)
    return table[table["source"] == "train"].reset_index(drop=True)


def test_same_pixels_under_two_lesions_stay_together(made):
    table = table_of(made)
    subset = pd.Series(split.make(table, made), index=table["image"])
    for seed in range(8):
        cfg = config.load(env={}, split_seed=seed)
        subset = pd.Series(split.make(table, cfg), index=table["image"])
        # through 915's pixels
        assert subset[[f"ISIC_9000{k}" for k in (914, 915, 916, 917)]].nunique() == 1
        assert subset[["ISIC_9000912", "ISIC_9000913"]].nunique() == 1


def test_folds_are_subsets_of_equal_size_that_cover_everything_once(made):
    table = table_of(made)
    cfg = config.load(env={}, folds=4, test_fraction=0.0)
    subset = split.make(table, cfg)
    assert set(subset) == set("0123")
    assert not any(leakage.audit(table, subset).values())
    for label in set(table["label"]):
        sizes = [(subset[table["label"] == label] == fold).sum() for fold in "0123"]
        assert max(sizes) - min(sizes) <= 4


def test_a_fold_is_resolved_by_the_config(made, tmp_path):
    given = dict(env={}, cache_dir=made.cache, work_dir=tmp_path, folds=3, test_fraction=0.12)
    cfg = config.load(**given)
    (tmp_path / "table.csv").write_bytes(made.table_file.read_bytes())
    split.run(cfg)
    vals = [
        set(t.loc[t["subset"] == "val", "image"])
        for t in (split.read(config.load(**given, fold=f)) for f in range(3))
    ]
    assert all(vals) and sum(map(len, vals)) == len(set.union(*vals))
    assert set(split.read(config.load(**given, fold=0))["subset"]) == {
        *("train", "val", "test", "official")
    }
    whole = split.read(cfg)  # all folds as one run: each image is held out by one model
    assert set(whole["subset"]) == {"val", "test", "official"}
    for fold, val in enumerate(vals):
        assert set(whole.loc[whole["fold"] == fold, "image"]) == val


def test_no_inner_test_subset_beside_one_from_elsewhere(made, tmp_path, capsys):
    """made has the official test set; an own one alone must not change the split of a run."""
    table = files.read_table(made.table_file)
    for name, rows, own, test in [
        ("official", table, False, False),
        ("none", table[table["source"] == "train"], False, True),
        ("own", table[table["source"] == "train"], True, False),
    ]:
        cfg = config.load(env={}, cache_dir=made.cache, work_dir=tmp_path / name)
        files.write_table(rows, cfg.table_file)
        extra = table[table["source"] == "test"].assign(source="own") if own else table[:0]
        files.write_table(extra, cfg.own_file)
        split.run(cfg)
        subsets = set(files.read_table(cfg.split_file)["subset"])
        assert ("test" in subsets) is test, name
        said = "no training image is set aside" in capsys.readouterr().out
        assert said is not test
    cfg = config.load(env={}, cache_dir=made.cache, work_dir=tmp_path / "none")
    before = cfg.split_file.read_bytes()
    files.write_table(table[table["source"] == "test"].assign(source="own"), cfg.own_file)
    split.run(cfg)
    assert cfg.split_file.read_bytes() == before


def test_a_lesion_safe_split_that_leaks_is_refused(made, tmp_path, monkeypatch):
    cfg = config.load(env={}, cache_dir=made.cache, work_dir=tmp_path)
    (tmp_path / "table.csv").write_bytes(made.table_file.read_bytes())
    monkeypatch.setattr(split, "groups", lambda table, pairs=(): np.arange(len(table)))
    with pytest.raises(UserError, match="leaks"):
        split.run(cfg)
    assert not cfg.split_file.exists()


def test_a_split_is_never_reshuffled_silently(made, tmp_path, capsys):
    cfg = config.load(env={}, cache_dir=made.cache, work_dir=tmp_path)
    (tmp_path / "table.csv").write_bytes(made.table_file.read_bytes())
    split.run(cfg)
    first = cfg.split_file.read_bytes()
    split.run(cfg)
    assert cfg.split_file.read_bytes() == first and "NOT the one" not in capsys.readouterr().out
    split.run(config.load(env={}, cache_dir=made.cache, work_dir=tmp_path, split_seed=1))
    assert "NOT the one" in capsys.readouterr().out
    assert (tmp_path / "split.previous.csv").read_bytes() == first != cfg.split_file.read_bytes()


def test_a_class_too_rare_for_every_subset_is_announced(capsys):
    split._announce(np.array(["NV", "NV", "DF"]), np.array(["train", "val", "train"]))
    assert "no MEL, BCC, AKIEC, BKL, DF, VASC in val" in capsys.readouterr().out


def test_near_duplicates_across_lesions_stay_together(made, tmp_path):
    table = table_of(made)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "image_a,image_b,score\nISIC_9000001,ISIC_9000002,9\n"
        "ISIC_9000002,ISIC_9000030,8\nISIC_0,ISIC_9000003,7\n"
    )
    apart = 0
    for seed in range(6):
        cfg = config.load(env={}, split_seed=seed, near_duplicates=str(pairs))
        subset = pd.Series(split.make(table, cfg), index=table["image"])
        assert subset[["ISIC_9000001", "ISIC_9000002", "ISIC_9000030"]].nunique() == 1
        plain = split.make(table, config.load(env={}, split_seed=seed, near_duplicates="none"))
        counts = leakage.audit(table, plain, split.near_duplicates(cfg))
        apart += counts["near_duplicate_pairs_in_several_subsets"]
    assert apart > 0  # without the list they do come apart, and the audit sees it
    with pytest.raises(UserError, match="no such file"):
        split.make(table, config.load(env={}, near_duplicates="gone.csv"))


def test_the_list_in_the_repository_holds_pairs_of_ids():
    pairs = split.near_duplicates(config.load(env={}))
    assert len(pairs) > 40
    assert all(image.startswith("ISIC_00") and len(image) == 12 for image in pairs.flat)


@pytest.mark.parametrize("folds", [2, 3, 8])
def test_the_test_subset_is_the_same_with_folds(made, folds):
    table = files.read_table(made.table_file)
    table = table[table["source"] == "train"].reset_index(drop=True)
    plain, folded = (split.make(table, config.load(env={}, folds=n)) for n in (0, folds))
    assert ((plain == "test") == (folded == "test")).all() and (plain == "test").any()
    assert set(folded) == {"test", *map(str, range(folds))}


@pytest.mark.parametrize("folds", [0, 3])
def test_a_share_of_the_training_lesions_leaves_the_other_subsets_alone(made, tmp_path, folds):
    given = dict(env={}, cache_dir=made.cache, work_dir=tmp_path, folds=folds, fold=0)
    (tmp_path / "table.csv").write_bytes(made.table_file.read_bytes())
    split.run(config.load(**given))
    whole, subset = (split.read(config.load(**given, train_fraction=share)) for share in (1.0, 0.5))
    assert (whole["subset"] == subset["subset"].replace("left out", "train")).all()
    subsets = subset[whole["subset"] == "train"].groupby("lesion_id")["subset"].nunique()
    assert (subsets == 1).all()
    largest = subset["lesion_id"].value_counts().max()
    for _, rows in subset[whole["subset"] == "train"].groupby("label"):
        assert abs((rows["subset"] == "train").mean() - 0.5) * len(rows) <= largest
    again = split.read(config.load(**given, train_fraction=0.5))
    assert (again["subset"] == subset["subset"]).all()
