import numpy as np
import pandas as pd
import pytest
from made_up_predictions import arrays, rows

from dermai_utils import files, predictions
from dermai_utils.basics import CLASSES, ZERO_WEIGHT, UserError


def test_the_table_and_its_arrays():
    truth, probabilities, _ = arrays(50)
    table = predictions.table(range(50), truth, probabilities, age=range(50))
    assert list(table) == ["image", "truth", "prediction", *CLASSES, "confidence", "age"]
    assert list(table["prediction"]) == [CLASSES[k] for k in probabilities.argmax(1)]
    back = predictions.arrays(table)
    np.testing.assert_array_equal(back[0], truth)
    np.testing.assert_array_equal(back[1], probabilities)
    lesions = pd.DataFrame({"image": ["a", "b", "c", "d"], "lesion_id": ["L1", "", "L1", None]})
    assert predictions.lesions(lesions).tolist() == ["L1", "b", "L1", "d"]
    assert predictions.lesions(lesions[["image"]]).tolist() == ["a", "b", "c", "d"]


def test_mistakes_come_most_confident_first():
    truth, probabilities, _ = arrays(200, 7)
    table = predictions.table(range(200), truth, probabilities)
    wrong = sorted((-p.max(), i) for i, p in enumerate(probabilities) if p.argmax() != truth[i])
    assert predictions.mistakes(table)["image"].tolist() == [i for _, i in wrong]
    grave = {i for _, i in wrong if truth[i] in (0, 2, 3)}
    grave -= {i for _, i in wrong if probabilities[i].argmax() in (0, 2, 3)}
    costly = [i for _, i in wrong if i in grave]
    assert predictions.costly_mistakes(table)["image"].tolist() == costly and costly
    assert predictions.mistakes(table[table["truth"] == table["prediction"]]).empty


def test_subsets_in_the_order_to_show_and_to_quote():
    names = ["train", "Bern", "official", "left out", "val", "Basel", "test", "val"]
    assert predictions.held_out(names) == ["val", "test", "official", "Bern", "Basel"]
    assert predictions.own_test_sets(names) == ["Bern", "Basel"]
    for present, quoted in [
        (names, "official"),
        (["val", "Bern", "test"], "test"),
        (["val", "Bern", "Basel"], "Bern"),
        (["train", "val"], "val"),
    ]:
        assert predictions.primary_subset(present) == quoted
    with pytest.raises(UserError, match="no held-out subset"):
        predictions.primary_subset(["train", "left out"])


def test_the_zero_weight_image_is_in_no_scored_row():
    table = rows(40, subset=["val"] * 20 + ["official"] * 20)
    table.loc[25, "image"] = ZERO_WEIGHT
    found = predictions.by_subset(table)
    assert {name: len(part) for name, part in found.items()} == {"val": 20, "official": 19}
    assert len(predictions.primary_rows(table)) == 19


@pytest.mark.parametrize(
    "subset, folds, said",
    [
        ("sample_elsewhere", 0, "a second, made-up clinic"),
        ("val", 0, "the validation subset (decision rule and thresholds were chosen on it)"),
        ("val", 5, "all folds (each image judged by the model that was not trained on it)"),
        ("test", 5, "the held-out test subset (nothing was chosen on it)"),
        ("Basel", 0, "your test set “Basel” (nothing was chosen on it)"),
        ("3", 5, "fold 3"),
    ],
)
def test_the_name_of_a_subset_in_a_sentence(subset, folds, said):
    name = predictions.subset_name(subset, folds=folds)
    assert predictions.images_of(1, name) == f"1 image of {said}"


def test_each_fold_gets_what_the_other_folds_fitted():
    table = rows(40, fold=np.arange(40) % 4 - 1)
    fitted = predictions.cross_fit(table, lambda some: [some["MEL"].sum(), len(some)])
    assert sorted(fitted) == [-1, 0, 1, 2]
    values = predictions.fitted_for(fitted, table)
    for (_, row), value in zip(table.iterrows(), values, strict=True):
        others = table[table["fold"] != row["fold"]] if row["fold"] >= 0 else table
        assert value.tolist() == pytest.approx([others["MEL"].sum(), len(others)])
    plain = predictions.cross_fit(table.drop(columns="fold"), len)
    assert plain == {-1: 40} and (predictions.fitted_for(plain, table) == 40).all()
    assert set(predictions.unseen_by_first(table)["fold"]) == {-1, 0}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda images, p: (images, p[:, :6]), r"got 3 and \(3, 6\)"),
        (lambda images, p: (images[:2], p), r"got 2 and \(3, 7\)"),
        (lambda images, p: (images[:0], p[:0]), "at least one"),
        (lambda images, p: (images, np.where(np.eye(3, 7) > 0, np.nan, p)), "a: "),
        (lambda images, p: (images, p + 0.5 * np.eye(3, 7)[::-1]), "a: "),
        (lambda images, p: (images, p - 2 * np.eye(3, 7)), "a: "),
        (lambda images, p: (["a", "b", "a"], p), "a is twice"),
    ],
)
def test_a_bad_submission_is_refused(change, message):
    images, probabilities = change(["a", "b", "c"], np.full((3, 7), 0.6))
    with pytest.raises(UserError, match=message):
        predictions.submission(images, probabilities)


def test_a_submission_keeps_every_bit(tmp_path):
    _, probabilities, _ = arrays(20, 5)
    images = [f"ISIC_{k}" for k in range(20)]
    files.write_table(predictions.submission(images, probabilities), tmp_path / "s.csv")
    header, *lines = [line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines()]
    assert header == ["image", *CLASSES] and [line[0] for line in lines] == images
    assert [[float(v) for v in line[1:]] for line in lines] == probabilities.tolist()
