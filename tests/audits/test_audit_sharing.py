"""What subsets share, held against a count by hand, and what a score may be called."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dermai_utils as dermai
from dermai_utils import splits
from dermai_utils.audits import auditing, inputs, known, sharing
from dermai_utils.basics import ZERO_WEIGHT
from dermai_utils.settings import PACKAGE

PAIRS = dermai.near_duplicates()
ORDER = ("train", "val", "test")


def by_hand(ids, subset, pairs=(), a="train", b="test"):
    """({lesion} in both, images of b that show one, listed pairs between them), by loops.

    ids: {image: lesion}; subset: {image: name}."""
    there = {ids[image] for image, name in subset.items() if name == a}
    here = {image for image, name in subset.items() if name == b}
    images = [image for image in here if ids[image] in there]
    near = [(x, y) for x, y in pairs if {subset.get(x), subset.get(y)} == {a, b}]
    return {ids[image] for image in images}, images, near


@pytest.mark.parametrize("seed", [0, 1])
def test_a_leak_of_the_official_tables_is_found_with_the_exact_count(seed, tmp_path):
    table = known.training()
    names = np.random.default_rng(seed).choice(ORDER, len(table), p=[0.7, 0.1, 0.2])
    split = pd.DataFrame({"image": "x/" + table["image"] + ".jpg", "subset": names})
    split.to_csv(tmp_path / "split.csv", index=False)
    found = inputs.audit_files([tmp_path / "split.csv"], cache=tmp_path)
    ids = dict(zip(table["image"], table["lesion_id"], strict=True))
    subset = dict(zip(table["image"], names, strict=True))
    rows = {(row["a"], row["b"], row["kind"]): row for row in found["sharing"]}
    for a, b in itertools.combinations(ORDER, 2):
        lesions, images, near = by_hand(ids, subset, PAIRS, a, b)
        row = rows[a, b, "lesions"]
        assert (row["shared"], row["images"]) == (len(lesions), len(images))
        assert rows[a, b, "near_duplicates"]["shared"] == len(near)
        assert rows[a, b, "images"]["shared"] == 0 and rows[a, b, "patients"]["shared"] is None
    n, of = rows["train", "test", "lesions"]["images"], (names == "test").sum()
    assert found["sentence"] == f"{n:,} of {of:,} test images show a lesion that is also in train."
    assert n > 0 and found["verdict"]["name"] == "leaking"


SUBSETS = st.lists(st.sampled_from(["train", "val", "test", "0", "1"]), min_size=12, max_size=12)
IDS = st.lists(st.sampled_from(["", "p", "q", "r", "s"]), min_size=12, max_size=12)


@settings(max_examples=100, deadline=None)
@given(
    subset=SUBSETS,
    lesions=IDS,
    patients=IDS,
    images=st.lists(st.sampled_from("abcdefgh"), min_size=12, max_size=12),
)
def test_counts_are_those_of_the_audit_of_our_own_splits(subset, lesions, patients, images):
    table = pd.DataFrame({"image": images, "lesion_id": lesions, "patient_id": patients})
    found = sharing.sharing(table.assign(known_as=known.TRAINING), subset)
    found = {(*sorted((row.a, row.b)), row.kind): row.shared for row in found.itertuples()}
    names = {"folds": sharing.FOLDS, "fold": sharing.ANOTHER}
    for pair, row in splits.audit(table, subset).iterrows():
        pair = pair.replace("fold/fold", "fold/folds").split("/")
        for kind in ("images", "lesions", "patients", "copies"):
            mine = found[(*sorted(names.get(name, name) for name in pair), kind)]
            assert mine is row[kind] is pd.NA or mine == row[kind]


def test_near_duplicates_between_folds():
    x, y = PAIRS[0]
    table = pd.DataFrame({"image": [x, y, "z"], "known_as": known.TRAINING})
    found = sharing.sharing(table, ["0", "1", "1"], PAIRS).set_index("kind")
    assert found.loc["near_duplicates", ["shared", "images", "of"]].tolist() == [1, 2, 3]


def judged(lesions, subset, images=None, known_as=known.TRAINING):
    images = images or [f"i{k}" for k in range(len(subset))]
    table = pd.DataFrame({"image": images, "lesion_id": lesions, "known_as": known_as})
    found, a = sharing.sharing(table, subset), sharing.training_side(subset)
    b = next(name for name in subset if name not in ("train", sharing.OTHERS))
    b = sharing.FOLDS if b.isdigit() else b
    return *sharing.verdict(table, subset, found, a, b), sharing.sentence(found, a, b)


OFFICIAL = [f"ISIC_{number:07d}" for number in range(34_524, 36_035)]


@pytest.mark.parametrize(
    "lesions, subset, name, sentence",
    [
        ("LLM", ["train", "test", "test"], "leaking", "1 of 2 test images show"),
        ("LMN", ["train", "test", "test"], "lesion-safe", "0 of 2 test images show"),
        (["L", "", "M"], ["train", "test", "test"], "unknown", "At least 0 of 2"),
        (["L", "", "L"], ["train", "test", "test"], "leaking", "At least 1 of 2"),
        (["L", "", ""], ["train", "test", "test"], "unknown", "Not known whether the 2"),
        ("LLM", [sharing.OTHERS, "predicted", "predicted"], "unknown", "1 of 2 predicted"),
        ("LLM", ["test", "test", "test"], "unknown", "Not known what the test images share"),
        ("LLM", ["0", "1", "1"], "leaking", "2 of 3 out-of-fold images"),
        ("LLM", ["0", "0", "1"], "lesion-safe", "0 of 3 out-of-fold images"),
    ],
)
def test_what_a_score_may_be_called(lesions, subset, name, sentence):
    found = judged(list(lesions), subset)
    assert found[0] == name and found[2].startswith(sentence)


def test_only_the_whole_official_test_set_is_called_so():
    images = [image for image in OFFICIAL if image != ZERO_WEIGHT]
    images += [image for image in ["ISIC_0036036"] if len(images) < sharing.COUNTED]
    for part, name in ((images, "official test set"), (images[1:], "unknown")):
        found = judged([""] * len(part), ["predicted"] * len(part), part, known.TEST)
        assert found[0] == name


def test_labels_that_differ_are_counted_and_the_first_table_counts():
    one = pd.DataFrame({"image": ["a", "b"], "label": ["MEL", "NV"], "lesion_id": ["", "L"]})
    two = pd.DataFrame({"image": ["a", "b"], "label": ["NV", "NV"], "lesion_id": ["M", "K"]})
    facts, notes = auditing.knowledge(one, two)
    assert facts.loc["a", ["label", "lesion_id"]].tolist() == ["MEL", "M"]
    assert facts.loc["b", "lesion_id"] == "L" and notes[0].startswith("1 image with another label")


def test_the_official_table_is_the_official_files(monkeypatch):
    table = known.training()
    assert list(table) == [*known.COLUMNS, "known_as"] and table["lesion_id"].nunique() == 7_470
    counts = dict(MEL=1113, NV=6705, BCC=514, AKIEC=327, BKL=1099, DF=115, VASC=142)
    assert table["label"].value_counts().to_dict() == counts and table["image"].is_unique
    shared = Path(__file__).resolve().parents[3] / "shared" / "isic2018"
    if not shared.is_dir():
        pytest.skip("the official files are not on this machine")
    monkeypatch.syspath_prepend(PACKAGE.parent / "tools")
    import official_table

    again = official_table.table(shared).astype(object).fillna("").astype(str)
    assert again.equals(table[known.COLUMNS])
    assert official_table.packed(again) == official_table.packed(again)
