import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermai_utils import clean, config, split
from dermai_utils.config import UserError


@st.composite
def datasets(draw):
    """Any grouping of up to 60 images with any labels, and two to five parts of any share."""
    n = draw(st.integers(1, 60))
    groups = draw(st.lists(st.integers(0, 25), min_size=n, max_size=n))
    labels = draw(st.lists(st.sampled_from("ABC"), min_size=n, max_size=n))
    shares = draw(st.lists(st.floats(0.05, 1), min_size=2, max_size=5))
    return np.array(groups), np.array(labels), shares, draw(st.integers(0, 5))


@given(datasets())
def test_every_image_is_dealt_once_and_no_group_is_on_two_sides(dataset):
    groups, labels, shares, seed = dataset
    part = split.deal(groups, labels, shares, seed)
    assert part.shape == groups.shape and ((part >= 0) & (part < len(shares))).all()
    for group in np.unique(groups):
        assert len(set(part[groups == group])) == 1
    assert (part == split.deal(groups, labels, shares, seed)).all()


@given(datasets())
def test_each_part_gets_its_share_of_each_class_to_within_a_group(dataset):
    groups, _, shares, seed = dataset
    labels = np.array(list("ABC"))[groups % 3]  # one class a group, as lesions have
    part = split.deal(groups, labels, shares, seed)
    for label in np.unique(labels):
        largest = np.bincount(groups[labels == label]).max()
        got = np.bincount(part[labels == label], minlength=len(shares))
        due = np.array(shares) / sum(shares) * got.sum()
        # Dealing to the relatively emptiest part, none exceeds its share by more than one group.
        assert (got <= due + largest + 1e-9).all()
        if len(np.unique(groups[labels == label])) >= len(shares):
            assert (got > 0).all()


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=20))
def test_join_ties_what_any_key_ties(pairs):
    a, b = np.array(pairs).T
    joined = split.join(a, b)
    reach = (a[:, None] == a) | (b[:, None] == b)
    for _ in range(len(a)):  # brute force: transitive closure
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    assert ((joined[:, None] == joined) == reach).all()


def table_of(made):
    table = clean.read_table(made.table_file)
    return table[table["source"] == "train"].reset_index(drop=True)


def test_same_pixels_under_two_lesions_stay_together(made):
    table = table_of(made)
    part = pd.Series(split.make(table, made), index=table["image"])
    for seed in range(8):
        cfg = config.load(env={}, split_seed=seed)
        part = pd.Series(split.make(table, cfg), index=table["image"])
        assert part[[f"ISIC_9000{k}" for k in (914, 915, 916, 917)]].nunique() == 1  # through 915's pixels
        assert part[["ISIC_9000912", "ISIC_9000913"]].nunique() == 1


def test_the_audit_counts_what_a_brute_force_counts(made):
    table = table_of(made)
    part = split.make(table, made, "random")
    lesions = {i for i in set(table["lesion_id"]) if len(set(part[table["lesion_id"] == i])) > 1}
    counts = split.audit(table, part)
    assert lesions and counts["lesions_on_both_sides"] == len(lesions)
    assert counts["images_of_such_lesions"] == table["lesion_id"].isin(lesions).sum()
    assert not any(split.audit(table, split.make(table, made, "lesion")).values())


def test_folds_are_parts_of_equal_size_that_cover_everything_once(made):
    table = table_of(made)
    cfg = config.load(env={}, folds=4, test_fraction=0.0)
    part = split.make(table, cfg)
    assert set(part) == set("0123")
    assert not any(split.audit(table, part).values())
    for label in set(table["label"]):
        sizes = [(part[table["label"] == label] == fold).sum() for fold in "0123"]
        assert max(sizes) - min(sizes) <= 4


def test_a_fold_is_resolved_by_the_config(made, tmp_path):
    given = dict(env={}, cache_dir=made.cache, work_dir=tmp_path, folds=3)
    cfg = config.load(**given)
    (tmp_path / "table.csv").write_bytes(made.table_file.read_bytes())
    split.run(cfg)
    vals = [set(t.loc[t["part"] == "val", "image"]) for t in (split.read(config.load(**given, fold=f)) for f in range(3))]
    assert all(vals) and sum(map(len, vals)) == len(set.union(*vals))
    assert set(split.read(cfg)["part"]) == {"train", "val", "test", "official"}


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


def test_a_class_too_rare_for_every_part_is_announced(capsys):
    split._announce(np.array(["NV", "NV", "DF"]), np.array(["train", "val", "train"]))
    assert "no MEL, BCC, AKIEC, BKL, DF, VASC in val" in capsys.readouterr().out


def test_near_duplicates_across_lesions_stay_together(made, tmp_path):
    table = table_of(made)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("image_a,image_b,score\nISIC_9000001,ISIC_9000002,9\nISIC_9000002,ISIC_9000030,8\nISIC_0,ISIC_9000003,7\n")
    apart = 0
    for seed in range(6):
        cfg = config.load(env={}, split_seed=seed, near_duplicates=str(pairs))
        part = pd.Series(split.make(table, cfg), index=table["image"])
        assert part[["ISIC_9000001", "ISIC_9000002", "ISIC_9000030"]].nunique() == 1
        plain = split.make(table, config.load(env={}, split_seed=seed, near_duplicates="none"))
        apart += split.audit(table, plain, split.near_duplicates(cfg))["near_duplicate_pairs_on_both_sides"]
    assert apart > 0  # without the list they do come apart, and the audit sees it
    with pytest.raises(UserError, match="no such file"):
        split.make(table, config.load(env={}, near_duplicates="gone.csv"))


def test_the_list_in_the_repository_holds_pairs_of_ids():
    pairs = split.near_duplicates(config.load(env={}))
    assert len(pairs) > 40 and all(image.startswith("ISIC_00") and len(image) == 12 for pair in pairs for image in pair)


@pytest.mark.parametrize("folds", [2, 3, 8])
def test_the_test_part_is_the_same_with_folds(made, folds):
    table = clean.read_table(made.table_file)
    table = table[table["source"] == "train"].reset_index(drop=True)
    plain, folded = (split.make(table, config.load(env={}, folds=n)) for n in (0, folds))
    assert ((plain == "test") == (folded == "test")).all() and (plain == "test").any()
    assert set(folded) == {"test", *map(str, range(folds))}


@pytest.mark.parametrize("folds", [0, 3])
def test_a_share_of_the_training_lesions_leaves_the_other_parts_alone(made, tmp_path, folds):
    given = dict(env={}, cache_dir=made.cache, work_dir=tmp_path, folds=folds)
    (tmp_path / "table.csv").write_bytes(made.table_file.read_bytes())
    split.run(config.load(**given))
    whole, part = (split.read(config.load(**given, train_fraction=share)) for share in (1.0, 0.5))
    assert (whole["part"] == part["part"].replace("left out", "train")).all()
    sides = part[whole["part"] == "train"].groupby("lesion_id")["part"].nunique()
    assert (sides == 1).all()
    largest = part["lesion_id"].value_counts().max()
    for _, rows in part[whole["part"] == "train"].groupby("label"):
        assert abs((rows["part"] == "train").mean() - 0.5) * len(rows) <= largest
    again = split.read(config.load(**given, train_fraction=0.5))
    assert (again["part"] == part["part"]).all()
