import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermai_utils import files
from dermai_utils.data import leakage, split


def test_the_audit_counts_what_a_brute_force_counts(made):
    table = files.read_table(made.table_file)
    table = table[table["source"] == "train"].reset_index(drop=True)
    subset = split.make(table, made, "random")
    lesions = {i for i in set(table["lesion_id"]) if len(set(subset[table["lesion_id"] == i])) > 1}
    counts = leakage.audit(table, subset)
    assert lesions and counts["lesions_in_several_subsets"] == len(lesions)
    assert counts["images_of_such_lesions"] == table["lesion_id"].isin(lesions).sum()
    assert not any(leakage.audit(table, split.make(table, made, "lesion")).values())


# Every pair of subsets.

SUBSETS = ("train", "val", "test", "official", "own", "extra")


@st.composite
def tables(draw):
    """A table of images in any subsets, with lesions, patients and copies planted at will."""
    n = draw(st.integers(2, 14))
    pick = lambda values: draw(st.lists(st.sampled_from(values), min_size=n, max_size=n))  # noqa: E731
    images = [f"I{k}" for k in range(n)]
    lesions = [x or images[k] for k, x in enumerate(pick(["", "L1", "L2", "L3"]))]
    copies = [images[c] if c < k else "" for k, c in enumerate(pick(list(range(n))))]
    copies = [c if c and not copies[images.index(c)] else "" for c in copies]  # of a first one
    table = pd.DataFrame({"image": images, "lesion_id": lesions, "duplicate_of": copies})
    table["patient_id"] = pick(["", "P1", "P2"])
    pairs = draw(st.lists(st.tuples(st.sampled_from(images), st.sampled_from(images)), max_size=4))
    return table, pick(list(SUBSETS)), pairs


def related(table, pairs, i, j):
    """By hand: the ways in which two images leak into each other."""
    a, b = table.iloc[i], table.iloc[j]
    first = [row["duplicate_of"] or row["image"] for row in (a, b)]
    return {
        "lesions": a["lesion_id"] == b["lesion_id"] and a["lesion_id"].startswith("L"),
        "patients": a["patient_id"] == b["patient_id"] != "",
        "exact_duplicates": first[0] == first[1],
        "near_duplicates": {a["image"], b["image"]} in [set(pair) for pair in pairs],
    }


def must_not_share(subset):
    """What a row of a subset must not leak into: the split itself keeps home's apart."""
    elsewhere = {"official", "own"} if subset in ("train", "val", "extra") else set()
    return elsewhere | ({"val", "test"} if subset == "extra" else set())


@settings(max_examples=200, deadline=None)
@given(tables())
def test_nothing_leaks_into_a_test_set_but_what_is_left_out(data):
    table, subset, pairs = data
    reasons = leakage.learnt_from_leaks(table, subset, pairs)
    for i, reason in enumerate(reasons):
        into = [
            (subset[j], how)
            for j in range(len(table))
            if subset[j] in must_not_share(subset[i])
            for how, leaks in related(table, pairs, i, j).items()
            if leaks and i != j
        ]
        assert bool(reason) == bool(into)
        if reason:
            how, *_, scored = reason.split(" ")
            assert (scored, how) in into
    clean = pd.Series(subset).mask(reasons != "", "left out")
    for names, counts in leakage.audit_pairs(table, clean, pairs).items():
        a, b = names.split("/")
        if b in must_not_share(a) or a in must_not_share(b):
            assert not any(counts.values()), (names, counts)


@settings(max_examples=200, deadline=None)
@given(tables())
def test_what_belongs_with_a_leak_is_left_out_too(data):
    """The other photograph of a lesion of which one image is in the test set under its own id."""
    table, subset, pairs = data
    n = len(table)
    linked = np.array(
        [[any(related(table, pairs, i, j).values()) for j in range(n)] for i in range(n)]
    )
    together = np.linalg.matrix_power(linked.astype(float), n) > 0  # over any chain of images
    reasons = leakage.learnt_from_leaks(table, subset, pairs, split.groups(table, pairs))
    for i, reason in enumerate(reasons):
        leaks = any(together[i, j] and subset[j] in must_not_share(subset[i]) for j in range(n))
        assert bool(reason) == leaks


@settings(max_examples=200, deadline=None)
@given(tables())
def test_what_two_subsets_share_is_counted_as_by_hand(data):
    table, subset, pairs = data
    subset = np.array(subset)
    for names, counts in leakage.audit_pairs(table, subset, pairs).items():
        a, b = (table[subset == name] for name in names.split("/"))
        lesions = [set(x["lesion_id"]) & {"L1", "L2", "L3"} for x in (a, b)]
        assert counts["lesions"] == (len(lesions[0] & lesions[1]) if all(lesions) else None)
        patients = [set(x["patient_id"]) - {""} for x in (a, b)]
        assert counts["patients"] == (len(patients[0] & patients[1]) if all(patients) else None)
        first = [set(x["duplicate_of"].where(x["duplicate_of"] != "", x["image"])) for x in (a, b)]
        assert counts["exact_duplicates"] == len(first[0] & first[1])


@pytest.mark.parametrize(
    "image, original",
    [
        ("X_aug0", "X"),
        ("X_1", "X"),
        ("X (1)", "X"),
        ("X-flipped", "X"),
        ("X_copy2", "X"),
        ("X_aug0 (1)", "X"),
        ("X2", "X2"),
        ("Y_1", "Y_1"),
        ("ISIC_0024306", "ISIC_0024306"),
    ],
)
def test_a_file_named_after_another_is_of_its_family(image, original):
    assert leakage.families(["X", "X_aug0", image])[2] == original


def test_without_any_lesion_id_the_answer_is_not_known_and_never_zero():
    table = pd.DataFrame({"image": list("abcd"), "lesion_id": list("abcd"), "duplicate_of": ""})
    counts = leakage.audit(table, ["train", "val", "train", "val"])
    assert counts["lesions_in_several_subsets"] is None
    assert counts["exact_duplicates_in_several_subsets"] == 0
    assert leakage.audit_pairs(table, list("tvtv"))["t/v"]["lesions"] is None
