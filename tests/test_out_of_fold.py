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
    assert rows["image"].is_unique and rows["image"].isin(known.training()["image"]).all()
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


def test_the_file_holds_the_finished_folds_and_no_other_subset(tmp_path):
    for fold, images in enumerate((["b", "c"], ["a"], [])):
        (folder := tmp_path / "run" / str(fold)).mkdir(parents=True)
        of = pd.DataFrame({"image": [*images, "t"], "subset": ["val"] * len(images) + ["test"]})
        if images:  # the others are not trained yet
            files.write_table(
                of.assign(**dict.fromkeys(CLASSES, 1 / 7)), folder / "predictions.csv"
            )
    made = out_of_fold.write(tmp_path / "run", tmp_path / "out" / "made.csv.gz")
    found = pd.read_csv(made)
    assert found[["image", "fold"]].to_numpy().tolist() == [["a", 1], ["b", 0], ["c", 0]]
    assert set(found["NV"]) == {0.1429}
    content = made.read_bytes()
    assert out_of_fold.write(tmp_path / "run", made).read_bytes() == content
    with pytest.raises(UserError, match="no fold there is trained"):
        out_of_fold.write(tmp_path, made)
