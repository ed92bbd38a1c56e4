"""tools/out_of_fold.py: the file of out-of-fold predictions."""

import importlib.util
import sys

import pandas as pd
import pytest

from dermai_utils.basics import CLASSES, UserError
from dermai_utils.settings import ROOT

SPEC = importlib.util.spec_from_file_location("out_of_fold", ROOT / "tools" / "out_of_fold.py")
out_of_fold = importlib.util.module_from_spec(SPEC)
sys.modules["out_of_fold"] = out_of_fold
SPEC.loader.exec_module(out_of_fold)


def test_the_file_holds_the_finished_folds_and_no_other_subset(tmp_path):
    for fold, images in enumerate((["b", "c"], ["a"])):
        (tmp_path / "run" / str(fold)).mkdir(parents=True)
        of = pd.DataFrame({"image": [*images, "t"], "subset": ["val"] * len(images) + ["test"]})
        of.assign(**dict.fromkeys(CLASSES, 1 / 7)).to_csv(
            tmp_path / "run" / str(fold) / "predictions.csv", index=False
        )
    (tmp_path / "run" / "2").mkdir()  # not trained yet
    made = out_of_fold.write(tmp_path / "run", tmp_path / "out" / "made.csv.gz")
    found = pd.read_csv(made)
    assert found[["image", "fold"]].to_numpy().tolist() == [["a", 1], ["b", 0], ["c", 0]]
    assert set(found["NV"]) == {0.1429}
    content = made.read_bytes()
    assert out_of_fold.write(tmp_path / "run", made).read_bytes() == content
    with pytest.raises(UserError, match="no fold there is trained"):
        out_of_fold.write(tmp_path, made)
