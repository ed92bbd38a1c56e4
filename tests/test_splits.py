import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermai_utils import files, split_files, splits
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.splits import LEFT_OUT

SOURCES = ("train", "train", "train", "extra", "official", "clinic")
KEYS = ("lesion_id", "patient_id", "pixel_hash")


@st.composite
def tables(draw, sources=SOURCES, most=14):
    """A table of images of any source, with lesions, patients and copies planted at will, and
    near-duplicate pairs."""
    n = draw(st.integers(2, most))
    pick = lambda values: draw(st.lists(st.sampled_from(values), min_size=n, max_size=n))  # noqa: E731
    images = [f"I{k}" for k in range(n)]
    table = pd.DataFrame({"image": images, "source": pick(sources), "label": pick(CLASSES[:3])})
    table["lesion_id"] = pick(["", "", "L1", "L2", "L3", "L4", "L5"])
    table["patient_id"] = pick(["", "", "", "P1", "P2"])
    table["pixel_hash"] = [draw(st.sampled_from([f"h{k}", "h1"])) for k in range(n)]
    pairs = draw(st.lists(st.tuples(st.sampled_from(images), st.sampled_from(images)), max_size=4))
    return table, pairs


def related(table, pairs):
    """{way: (N, N)} by hand: whether two images leak into each other in this way."""
    names = dict(zip(("lesions", "patients", "copies"), KEYS, strict=True))
    values = {way: table[key].to_numpy() for way, key in names.items()}
    ways = {way: (v[:, None] == v) & (v != "") for way, v in values.items()}
    near, images = np.zeros((len(table), len(table)), bool), table["image"].tolist()
    for a, b in pairs:
        near[images.index(a), images.index(b)] = near[images.index(b), images.index(a)] = True
    return ways | {"near duplicates": near}


def together(table, pairs):
    """(N, N) by hand: whether images are linked over any chain of images."""
    linked = sum(related(table, pairs).values(), np.eye(len(table), dtype=int)) > 0
    for _ in range(len(table)):
        linked = linked.astype(int) @ linked.astype(int) > 0
    return linked


def drawn(table, folds=0, **options):
    """A split, or folds."""
    return splits.folds(table, folds, **options) if folds else splits.split(table, **options)


# Groups and shares


@settings(deadline=None)
@given(tables())
def test_groups_are_what_brute_force_ties_together(data):
    table, pairs = data
    joined = splits.groups(table, pairs)
    assert ((joined[:, None] == joined) == together(table, pairs)).all()
    assert set(joined) == set(range(joined.max() + 1))


UUID = "a2b3c4d-0000-4000-8000-00000000000f"


@pytest.mark.parametrize(
    "images, n",
    [
        *[(["X", "X_aug0", f"X{end}"], 1) for end in ("_1", " (1)", "-flipped", "_copy2")],
        *[(["X", "X_aug0", name], 2) for name in ("X2", "Y_1", "ISIC_0024306")],
        ([f"NV_original_X.jpg_1{UUID}", "X"], 1),
        ([f"NV_original_X.jpg_{k}{UUID}" for k in range(2)], 1),
        (["X_jpg.rf.0a1b2c", "X_png.rf.77ffaa"], 1),
        (["X_aug0", "X_aug1"], 1),
        (["X_aug_0", "X_aug_1"], 1),
        (["X_rot90_flip", "X"], 1),  # X_rot90 is missing
        (["X_aug0 (1)", "X"], 1),
        (["my ISIC_0024306 crop", "ISIC_0024306"], 1),
        (["clinic:ISIC_0024306", "extra:ISIC_0024306_downsampled"], 1),
        (["1", "clinic:1"], 2),
        (["photo (1)", "photo (2)"], 2),
        (["img_1", "img_2"], 2),
        (["X", "Y_aug0"], 2),
        ([f"img_crop{k}" for k in range(30)], 30),  # a stem of very many images
    ],
)
def test_names_that_give_a_copy_away_are_one_group(images, n):
    assert len(set(splits.groups(pd.DataFrame({"image": [*images, "Z", "Z2"]})))) == n + 2


def test_a_pair_links_images_over_one_that_was_rejected_and_under_a_prefix():
    table = pd.DataFrame({"image": ["A", "B", "clinic:ISIC_0024306"]})
    assert splits.groups(table, [("A", "gone"), ("gone", "B")]).tolist() == [0, 0, 1]
    assert splits.groups(table, [("A", "ISIC_0024306")])[[0, 2]].tolist() == [1, 1]
    table["source"], subset = ["train", "train", "clinic"], ["train", "val", "clinic"]
    for pair in (("A", "ISIC_0024306"), ("ISIC_0024306", "A")):
        reasons = splits.leaks(table, subset, [pair])
        assert reasons.tolist() == ["near duplicates shared with clinic", "", ""]
    over_official = pd.DataFrame({"image": ["ISIC_0024770", "ISIC_0026280"]})
    assert splits.groups(over_official, splits.near_duplicates()).tolist() == [0, 1]


@pytest.mark.parametrize("folds", [0, 3])
def test_training_images_that_only_an_extra_image_links_stay_together(folds):
    table, ids = official_like(200).assign(lesion_id=""), np.arange(60).astype(str)
    extra = table[:60].assign(source="extra", image=np.char.add("E", ids))
    table.loc[:59, "lesion_id"] = extra["lesion_id"] = np.char.add("L", ids)
    table.loc[100:159, "patient_id"] = extra["patient_id"] = np.char.add("P", ids)
    subset = drawn(pd.concat([table, extra], ignore_index=True), folds, test=0.1, pairs=())
    assert (subset[:60].to_numpy() == subset[100:160].to_numpy()).all()


@st.composite
def groupings(draw):
    """Any grouping of up to 60 images with any labels, and two to five subsets of any share."""
    n = draw(st.integers(1, 60))
    groups = draw(st.lists(st.integers(0, 25), min_size=n, max_size=n))
    labels = draw(st.lists(st.sampled_from("ABC"), min_size=n, max_size=n))
    shares = draw(st.lists(st.floats(0.05, 1), min_size=2, max_size=5))
    return np.array(groups), np.array(labels), shares, draw(st.integers(0, 5))


@settings(deadline=None)
@given(groupings(), st.booleans())
def test_a_group_is_in_one_subset_and_each_class_is_shared_out_to_within_a_group(data, pure):
    groups, labels, shares, seed = data
    if pure:  # one class a group, as lesions have
        labels = np.array(list("ABC"))[groups % 3]
    subset = splits.stratified(groups, labels, shares, seed)
    assert subset.shape == groups.shape and ((subset >= 0) & (subset < len(shares))).all()
    for group in np.unique(groups):
        assert len(set(subset[groups == group])) == 1
    assert (subset == splits.stratified(groups, labels, shares, seed)).all()
    for label in np.unique(labels) if pure else ():
        largest = np.bincount(groups[labels == label]).max()
        got = np.bincount(subset[labels == label], minlength=len(shares))
        due = np.array(shares) / sum(shares) * got.sum()
        # filling the relatively emptiest subset, none exceeds its share by more than one group
        assert (got <= due + largest + 1e-9).all()
        if len(np.unique(groups[labels == label])) >= len(shares):
            assert (got > 0).all()


# Splits: no group in two subsets, no leak that stays


@settings(deadline=None)
@given(tables(most=30), st.sampled_from([0, 3]), st.sampled_from([None, 0, 0.3]))
def test_a_split_keeps_groups_together_and_leaves_out_what_leaks(data, folds, test):
    table, pairs = data
    table.loc[0, "source"] = "train"
    try:
        subset = drawn(table, folds, test=test, pairs=pairs)
    except UserError as error:
        assert "too few lesions" in str(error) or "no image is left" in str(error)
        return
    linked, home = together(table, pairs), (table["source"] == "train").to_numpy()
    # the split keeps together what the training images alone say
    near = [p for p in pairs if set(p) <= set(table.loc[home, "image"])]
    linked[np.ix_(home, home)] = together(table[home], near)
    inner = set(map(str, range(folds))) if folds else {"train", "val"}
    elsewhere = bool(set(table["source"]) & {"official", "clinic"})
    has_test = test if test is not None else not elsewhere
    expected, extra = inner | ({"test"} if has_test else set()), table["source"] == "extra"
    assert set(subset[home | extra]) - {LEFT_OUT} - ({"train"} if folds else set()) == expected
    for i, source in enumerate(table["source"]):
        allowed = {"extra": {"train", LEFT_OUT}}.get(source, {source})
        assert source == "train" or subset[i] in allowed
        for j in np.flatnonzero(linked[i]):
            if LEFT_OUT not in (subset[i], subset[j]) and subset[i] != subset[j]:
                # what is linked and apart: test sets among themselves, which nobody learns from
                assert {subset[i], subset[j]} <= {"official", "clinic", "test"}
    for names, counts in splits.audit(table, subset, pairs).iterrows():
        if not set(names.split("/")) <= {"official", "clinic", "test"}:
            assert not counts.fillna(0).any(), names
    assert subset.equals(drawn(table, folds, test=test, pairs=pairs))


def official_like(n=600):
    """A table like the official one: seven classes of its shares, lesions of one to four images."""
    random = np.random.default_rng(7)
    shares = [0.11, 0.67, 0.05, 0.03, 0.11, 0.01, 0.02]
    lesion = np.repeat(np.arange(n), random.choice([1, 1, 1, 2, 3, 4], n))[:n]
    labels = random.choice(CLASSES, n, p=shares)[lesion]
    lesions = np.where(lesion % 7, np.char.add("L", lesion.astype(str)), "")
    images = [f"ISIC_{24306 + k:07}" for k in range(n)]
    table = pd.DataFrame({"image": images, "label": labels, "lesion_id": lesions})
    return table.assign(source="train", patient_id="", pixel_hash=images)


@pytest.mark.parametrize("folds", [2, 3, 8])
def test_the_test_subset_is_the_same_with_folds(folds):
    table = official_like()
    plain, folded = splits.split(table), splits.folds(table, folds)
    assert ((plain == "test") == (folded == "test")).all() and (plain == "test").any()
    assert set(folded) == {"test", *map(str, range(folds))}


@pytest.mark.parametrize("folds", [0, 3])
def test_a_share_of_the_training_lesions_leaves_the_other_subsets_alone(folds):
    table = official_like()
    whole, part = drawn(table, folds), drawn(table, folds, train_fraction=0.5)
    assert (part.mask(part == LEFT_OUT, whole) == whole).all()
    train = (whole == "train") | whole.str.isdigit()
    assert (whole[part == LEFT_OUT].isin(set(whole[train]))).all()
    rows = table.assign(kept=part != LEFT_OUT)[train]
    assert (rows.groupby(splits.groups(table)[train])["kept"].nunique() == 1).all()
    largest = rows["lesion_id"][rows["lesion_id"] != ""].value_counts().max()
    for _, images in rows.groupby("label"):
        assert abs(images["kept"].mean() - 0.5) * len(images) <= largest


# Leaks and the audit


def scored(table, subset, i):
    """By hand: the subsets with which row i must share nothing."""
    if table["source"][i] not in ("train", "extra") or subset[i] == "test":
        return set()
    return {"official", "clinic", "test", *({"val"} if subset[i] != "val" else ())}


@settings(deadline=None)
@given(tables(), st.data())
def test_a_leak_and_its_reason_are_those_found_by_hand(data, draw):
    (table, pairs), n = data, len(data[0])
    inner = draw.draw(st.lists(st.sampled_from(["train", "val", "test"]), min_size=n, max_size=n))
    subset = table["source"].replace("extra", "train").mask(table["source"] == "train", inner)
    reasons, ways = splits.leaks(table, subset, pairs), related(table, pairs)
    ways["related images"] = together(table, pairs)
    for i, reason in enumerate(reasons):
        into = {
            (subset[j], way)
            for way, linked in ways.items()
            for j in np.flatnonzero(linked[i])
            if subset[j] in scored(table, subset, i) and i != j
        }
        assert bool(reason) == bool(into)
        if reason:
            how, name = reason.split(" shared with ")
            assert (name, how) in into
            if {pair for pair in into if pair[0] == name} - {(name, "related images")}:
                assert how != "related images"  # the direct reason comes first
    left = subset.mask(reasons != "", LEFT_OUT)
    assert (splits.leaks(table, left, pairs)[reasons != ""] != "").all()  # the reasons stay


@settings(deadline=None)
@given(tables(), st.data())
def test_the_audit_counts_what_is_counted_by_hand(data, draw):
    (table, pairs), n = data, len(data[0])
    names = ["train", "val", "0", "1", "official", LEFT_OUT]
    subset = np.array(draw.draw(st.lists(st.sampled_from(names), min_size=n, max_size=n)))
    found = splits.audit(table, subset, pairs)
    side = np.where(np.isin(subset, ["0", "1"]), "folds", subset)
    sides = set(side) - {LEFT_OUT}
    assert len(found) == len(sides) * (len(sides) - 1) // 2 + ("folds" in sides)
    row = dict(zip(table["image"], range(n), strict=True))
    listed = set(table["source"][[row[image] for pair in pairs for image in pair]])
    for name, counts in found.iterrows():
        where = side if name != "fold/fold" else subset
        a, b = name.split("/") if name != "fold/fold" else ("0", "1")
        for key, column in zip(KEYS, ("lesions", "patients", "copies"), strict=True):
            values = [set(table[key][where == x]) - {""} for x in (a, b)]
            known = all(values) if name != "fold/fold" else any(values)
            assert_count(counts[column], len(values[0] & values[1]) if known else None)
        apart = sum({where[row[x]], where[row[y]]} == {a, b} for x, y in pairs)
        known = [bool(set(table["source"][where == x]) & listed) for x in (a, b)]
        known = all(known) if name != "fold/fold" else any(known)
        assert_count(counts["near_duplicates"], apart if known else None)


def assert_count(found, expected):
    assert found is pd.NA if expected is None else found == expected


def test_notes_say_what_the_split_file_left_out_and_what_is_not_known():
    table = official_like()
    table.loc[300, "source"] = "clinic"
    subset = splits.split(table, train_fraction=0.5)
    notes = splits.notes(table, subset, splits.near_duplicates())
    assert "near-duplicates of clinic: not known" in notes[-1]
    left = (subset == LEFT_OUT) & (splits.leaks(table, subset) == "")
    assert f"images left out: {left.sum()}, by train_fraction or the split file" in notes


def test_counts_are_those_of_a_crosstab_in_the_official_order():
    table = official_like()
    subset = splits.folds(table, 3)
    counts = splits.counts(table, subset)
    assert counts.index.tolist() == list(CLASSES)
    assert counts.columns.tolist() == ["test", "0", "1", "2"]
    assert counts.loc["NV", "1"] == ((table["label"] == "NV") & (subset == "1")).sum()


# What cannot be done is one line


@pytest.mark.parametrize(
    "change, options, message",
    [
        ({}, dict(val=0.5, test=0.4), "both at most 0.8 together"),
        ({}, dict(val=0.7), "expected val from 0.01 to 0.5"),
        ({}, dict(test=-0.1), "test from 0 to 0.5"),
        ({}, dict(strategy="lesions"), "split=lesions: expected lesion or random"),
        ({}, dict(train_fraction=0), "train_fraction=0: expected 0.01 to 1"),
        ({}, dict(folds=1), "expected 2 to 20"),
        (dict(label="melanoma"), {}, "label melanoma: expected one of MEL, NV"),
        (dict(image="A"), {}, "image A has two rows"),
        (dict(source="official"), {}, "no training image"),
        (dict(lesion_id="L1"), {}, "no image is left in val, test: too few lesions"),
        (lambda table: table[["image"]], {}, "no column label"),
        (lambda table: table[:7].assign(label="NV"), dict(folds=8), "in 5, 6, 7: too few lesions"),
    ],
)
def test_what_cannot_be_split_is_one_line(change, options, message):
    table = official_like()
    table = table.assign(**change) if isinstance(change, dict) else change(table)
    with pytest.raises(UserError, match=message):
        drawn(table, **options)


# Files


def mixed():
    """A table with each kind of source, its split, and the split as text."""
    table = official_like(60)
    table.loc[50:, "source"] = ["official"] * 3 + ["extra"] * 3 + ["clinic"] * 4
    subset = splits.split(table)
    return table, subset, files.table_text(table[["image"]].assign(subset=subset))


def test_a_split_in_a_file_comes_back_however_a_spreadsheet_saved_it(tmp_path):
    table, subset, text = mixed()
    for k, edited in enumerate((text, "\ufeff" + text.replace(",", ";").replace("\n", "\r\n"))):
        (tmp_path / f"{k}.csv").write_text(edited, encoding="utf-8", newline="")
        assert split_files.read_split(tmp_path / f"{k}.csv", table).equals(subset)
    shuffled = table.sample(frac=1, random_state=0)
    assert split_files.read_split(tmp_path / "0.csv", shuffled).equals(subset[shuffled.index])
    for number in (2, 3):
        folded = splits.folds(table, number, test=0.1)
        files.write_table(table[["image"]].assign(subset=folded), tmp_path / "folds.csv")
        assert split_files.read_split(tmp_path / "folds.csv", table).equals(folded)
    (tmp_path / "short.csv").write_text("".join(text.splitlines(True)[:-4]))  # no clinic
    assert split_files.read_split(tmp_path / "short.csv", table).equals(subset)


def test_a_split_of_others_may_name_files_leave_images_out_and_lack_val(tmp_path, capsys):
    table, _, _ = mixed()
    table.loc[59, "image"] = f"clinic:{table['image'][0]}"  # which the file names as train
    inner = ["train"] * 36 + ["test"] * 10 + [""] * 4
    lines = [f"/x/{i}.jpg,{s}" for i, s in zip(table["image"][:50], inner, strict=True)]
    lines[1] = f"my {table['image'][1]} crop.png,train"
    lines += [f"{image},test" for image in table["image"][50:52]] + ["ISIC_0034320,test"]
    (tmp_path / "s.csv").write_text("\n".join(["file,split", *lines]))
    subset = split_files.read_split(tmp_path / "s.csv", table, val=0.25)
    assert (subset[36:46] == "test").all() and (subset[46:50] == "left out").all()
    assert set(subset[:36]) == {"train", "val"} and 5 <= (subset == "val").sum() <= 13
    assert subset[50:].tolist() == ["official"] * 3 + ["train"] * 3 + ["clinic"] * 4
    assert splits.audit(table, subset).loc["train/val", "lesions"] == 0
    printed = capsys.readouterr().out
    assert "images that are not in the data: 1 of 53 (ISIC_0034320, ...)" in printed
    assert "images without a subset are left out: 4 (ISIC_0024352, ...)" in printed
    assert "no val: it is 25% of the training images, by lesion" in printed


def test_the_leaks_of_a_split_of_others_stay_or_are_left_out(tmp_path, capsys):
    table = official_like()
    subset = splits.split(table, strategy="random")
    files.write_table(table[["image"]].assign(subset=subset), tmp_path / "s.csv")
    assert split_files.read_split(tmp_path / "s.csv", table).equals(subset)
    count = (splits.leaks(table, subset, splits.near_duplicates()) != "").sum()
    kept = f"images that leak and stay: {count}; --leaks leave_out leaves such images out"
    assert count and kept in capsys.readouterr().out
    left = split_files.read_split(tmp_path / "s.csv", table, leave_out=True)
    shared, before = (splits.audit(table, names)["lesions"] for names in (left, subset))
    assert (shared == 0).all() and (before > 0).all()
    assert (left[subset == "test"] == "test").all()  # what is judged stays
    others = table[(table["lesion_id"] != "") & (subset != "test")]
    lesions = set(table["lesion_id"][subset == "test"])
    assert (left[others.index[others["lesion_id"].isin(lesions)]] == LEFT_OUT).all()
    text = "\n".join(splits.notes(table, left))
    assert ", lesions shared with test" in text and "WARNING" not in text


def test_a_split_of_which_all_leaks_leaves_nothing_to_train_on(tmp_path):
    table, path = official_like(60).assign(lesion_id=["A", "B", "C"] * 20), tmp_path / "s.csv"
    files.write_table(table[["image"]].assign(subset=["train", "val", "test"] * 20), path)
    assert len(split_files.read_split(path, table, leave_out=True)) == 60
    with pytest.raises(UserError, match="no image is left in train: 20 images would leak"):
        split_files.read_split(path, table.replace("B", "A"), leave_out=True)


def test_the_split_that_came_with_the_data_can_be_used():
    table = official_like(60)
    with pytest.raises(UserError, match="split=given: the data came with no split; expected"):
        split_files.read_split("given", table)
    table["given"] = ["train", "val", "test"] * 20
    subset = split_files.read_split("given", table)
    assert subset.tolist() == table["given"].tolist() and subset.name == splits.split(table).name


FIRST, EXTRA, CLINIC = "ISIC_0024306", "ISIC_0024360", "ISIC_0024365"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("ISIC_00", "X_00", "image X_0024306 .and 59 more. is not in the data; expected ids or"),
        (f"{FIRST},train", f"{FIRST},val\n{FIRST},train", f"image {FIRST} is in two subsets"),
        (f"{FIRST},train", f"{FIRST},first", "is in first: expected train, val, test, a fold"),
        (f"{FIRST},train", f"{FIRST},Valdation", r"a fold's .* did you mean validation\?"),
        (f"{CLINIC},clinic", f"{CLINIC},clinik", r"or left out; did you mean clinic\?"),
        (f"{FIRST},train", f"{FIRST},official", "is in official: expected train, val"),
        (f"{CLINIC},clinic", f"{CLINIC},train", "is in train: expected clinic or left out"),
        (f"{EXTRA},train", f"{EXTRA},test", "is in test: expected train or left out"),
        (f"{FIRST},train", f"{FIRST},0", "images are in 0, train, val; expected train and val"),
        (",val", ",2", "images are in 2, train; expected train and val, or folds"),
    ],
)
def test_a_mistake_in_an_edited_split_is_one_line(tmp_path, old, new, message):
    table, _, text = mixed()
    assert all(row in text for row in (f"{FIRST},train", f"{EXTRA},train", f"{CLINIC},clinic"))
    (tmp_path / "split.csv").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        split_files.read_split(tmp_path / "split.csv", table)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "split.csv")) and "\n" not in text


def test_the_list_of_the_package_holds_pairs_of_official_ids():
    pairs = splits.near_duplicates()
    assert len(pairs) > 40
    assert all(image.startswith("ISIC_00") and len(image) == 12 for image in pairs.flat)


FROZEN = {  # SHA-256 of what version 0.2 gave for this table, 16 digits
    ("split", 0): "e96bcfa75dcf7cde",
    ("split", 1): "4b7d0dffc5756bc4",
    ("random", 0): "7be3086c3248143c",
    ("folds", 0): "ff382de9e3a6f9ba",
    ("fraction", 0): "a81f40c9a19fe7d6",
}


def frozen(kind, seed):
    table, pairs = official_like(), [["ISIC_0024306", "ISIC_0024500"]]
    options = {"random": {"strategy": "random"}, "fraction": {"train_fraction": 0.4}}
    return drawn(table, 5 * (kind == "folds"), seed=seed, pairs=pairs, **options.get(kind, {}))


@pytest.mark.parametrize("kind, seed", FROZEN)
def test_the_subsets_are_those_of_version_0_2(kind, seed):
    digest = hashlib.sha256(",".join(frozen(kind, seed)).encode()).hexdigest()
    assert digest[:16] == FROZEN[kind, seed]


def test_a_test_set_from_elsewhere_replaces_the_inner_one():
    table = official_like()
    assert "test" in set(splits.split(table))
    assert "test" in set(splits.split(table.assign(source=["train"] * 590 + ["extra"] * 10)))
    for source in ("official", "clinic"):
        table.loc[590:, "source"] = source
        subset = splits.split(table)
        assert "test" not in set(subset) and (subset[590:] == source).all()
        assert "test" in set(splits.split(table, test=0.1))


def test_without_any_lesion_id_the_answer_is_not_known_and_never_zero():
    table = pd.DataFrame({"image": list("abcd"), "label": "NV"})
    found = splits.audit(table, ["train", "val", "train", "val"]).loc["train/val"]
    assert found.isna().tolist() == [False, True, True, True, True] and found["images"] == 0
    assert any("lesions: not known" in line for line in splits.notes(table, ["train", "val"] * 2))


def test_a_random_split_is_audited_and_said_to_leak():
    table = official_like()
    subset = splits.split(table, strategy="random")
    lesions = table[table["lesion_id"] != ""].groupby("lesion_id")["image"]
    apart = sum({"train", "val"} <= set(subset[rows.index]) for _, rows in lesions)
    assert splits.audit(table, subset).loc["train/val", "lesions"] == apart > 0
    warnings = [line for line in splits.notes(table, subset) if line.startswith("WARNING")]
    assert len(warnings) == 3 and f"train/val share {apart} × lesions" in warnings[0]
    assert not any("WARNING" in line for line in splits.notes(table, splits.split(table)))


def test_near_duplicates_across_lesions_stay_together(tmp_path):
    table = official_like()
    (tmp_path / "pairs.csv").write_text("image_a,image_b,score\nISIC_0024306,ISIC_0024400,9\n")
    pairs = splits.near_duplicates(tmp_path / "pairs.csv")
    rows = splits.pair_rows(table, pairs)[0]
    apart = 0
    for seed in range(8):
        assert splits.split(table, seed=seed, pairs=pairs)[rows].nunique() == 1
        plain = splits.split(table, seed=seed, pairs=())
        apart += splits.audit(table, plain, pairs)["near_duplicates"].sum()
    assert apart > 0  # without the list they do come apart, and the audit sees it
