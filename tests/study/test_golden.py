"""The run that comes with the package: its metrics stay those of a stored file.

Every value (not the intervals) is that of the old code (report/summary.summarise of version 0.2),
with today's names of subsets and rules, and "" in place of an image's own id as its lesion.
"""

import json
from pathlib import Path

import pytest
from test_evaluation import differences

import dermai_utils as dermai
from dermai_utils import files, predictions, settings

FOLDER = settings.PACKAGE / "sample_run"
GOLDEN = Path(__file__).with_name("golden") / "sample_run.json"


@pytest.fixture(scope="module")
def run():
    return dermai.open_run(FOLDER, device="cpu")


def test_every_number_is_that_of_the_old_code(run):
    found = dermai.evaluate(run.predictions, run.table, dermai.near_duplicates(), n_resamples=200)
    assert list(differences(json.loads(GOLDEN.read_text()), found)) == []
    assert list(found["subsets"]) == ["val", "official", "sample_elsewhere"]
    assert found["decisions"]["chosen"] == "prior_corrected"  # so that both rules are compared


def test_the_table_of_predictions_belongs_to_the_table_and_comes_from_argmax(run):
    rows, table = run.predictions, run.table.set_index("image")
    assert set(rows["image"]) == set(table.index[table["subset"] != "train"])
    for column in ("subset", "lesion_id", "origin"):
        assert (rows[column] == table.loc[rows["image"], column].to_numpy()).all(), column
    truth, probabilities = predictions.arrays(rows)
    columns = {name: rows[name] for name in ("subset", "lesion_id", "origin")}
    made = predictions.table(rows["image"], truth, probabilities, **columns)
    assert files.table_text(made) == (FOLDER / "predictions.csv").read_text()
