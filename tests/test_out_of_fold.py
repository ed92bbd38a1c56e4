"""assets/predictions and tools/out_of_fold.py: what pages quote is what the file gives."""

import out_of_fold
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from dermai_utils import files
from dermai_utils.audits import known
from dermai_utils.basics import CLASSES, UserError


@pytest.fixture(scope="module")
def rows():
    return out_of_fold.read()


def test_each_image_is_predicted_once_and_each_lesion_is_in_one_fold(rows):
    assert sorted(rows["image"]) == sorted(known.training()["image"])
    assert (rows.groupby("lesion_id")["fold"].nunique() == 1).all()
    assert rows["fold"].value_counts().between(1995, 2011).all()
    assert rows[list(CLASSES)].sum(axis=1).between(0.999, 1.001).all()


def test_the_pages_quote_what_the_file_gives(rows):
    found = out_of_fold.figures(rows)
    for path in out_of_fold.PAGES:
        assert out_of_fold.tables(found)[path.name] in path.read_text("utf-8")
    truth, named = rows["truth"], rows["prediction"]
    expected = {
        "balanced_accuracy": balanced_accuracy_score(truth, named),
        "macro_f1": f1_score(truth, named, average="macro"),
        "weighted_f1": f1_score(truth, named, average="weighted"),
        "macro_auc": sum(roc_auc_score(truth == c, rows[c]) for c in CLASSES) / len(CLASSES),
    }
    assert {k: found["argmax"][k]["value"] for k in expected} == pytest.approx(expected)


def test_the_file_holds_each_fold_and_no_other_subset(tmp_path):
    names = ["b", "c", "a", "e", "d"]
    for fold, image in enumerate(names):
        of = pd.DataFrame({"image": [image, "t"], "subset": ["val", "test"]})
        of = of.assign(**dict.fromkeys(CLASSES, 1 / 7))
        files.write_table(of, tmp_path / "run" / str(fold) / "predictions.csv")
    made = out_of_fold.write(tmp_path / "run", tmp_path / "out" / "made.csv.gz")
    found = pd.read_csv(made)
    assert found[["image", "fold"]].to_numpy().tolist() == [[c, names.index(c)] for c in "abcde"]
    assert set(found["NV"]) == {0.1429}
    content = made.read_bytes()
    assert out_of_fold.write(tmp_path / "run", made).read_bytes() == content
    (tmp_path / "run" / "3" / "predictions.csv").unlink()
    with pytest.raises(UserError, match="expected a run with 5 trained folds"):
        out_of_fold.write(tmp_path / "run", made)
