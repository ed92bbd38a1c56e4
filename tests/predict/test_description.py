import dataclasses
import json
import os
import shutil

import pytest
from mirror import zipped
from test_pack import contents

from dermai_utils import files
from dermai_utils.predict import description, pack
from dermai_utils.predict.predictor import Predictor


@pytest.fixture(scope="module")
def cfg(made, tmp_path_factory):
    """A copy of the run, trained on another day than its files were written."""
    work = tmp_path_factory.mktemp("described") / "work"
    shutil.copytree(made.work, work)
    path = work / "runs" / "baseline" / "config.json"
    files.write_json(path, files.read_json(path) | {"date": "2021-03-04"})
    return dataclasses.replace(made, work_dir=str(work))


@pytest.fixture(scope="module")
def packed(cfg):
    return pack.command(Predictor(cfg))[0]


def changed(packed, folder, **about):
    """The text of the pack with another pack.json, some of whose values may be missing (None)."""
    members = contents(packed)
    listed = json.loads(members["pack.json"]) | about
    listed = {name: value for name, value in listed.items() if value is not None}
    members["pack.json"] = json.dumps(listed).encode()
    (folder / "changed.zip").write_bytes(zipped(members))
    return description.text(pack.load(folder / "changed.zip", work_dir=folder / "w").cfg)


def test_a_run_tells_the_date_of_its_settings_and_the_headline_of_its_metrics(cfg):
    os.utime(cfg.run_dir / "best.pt", (0, 0))  # as a zip or a copy gives it
    metrics = files.read_json(cfg.report_dir / "metrics.json")
    row = metrics["intervals"]["official"]["balanced_accuracy"]
    assert description.text(cfg) == (
        f"Run baseline, trained on 2021-03-04. Balanced accuracy {row['value']:.3f} "
        f"[{row['low']:.3f}, {row['high']:.3f}] on 27 images of the "
        "made-up pictures in place of the official test set."
    )


def test_a_pack_tells_the_same_with_no_report_there(cfg, packed, tmp_path):
    loaded = pack.load(packed, work_dir=tmp_path / "w").cfg
    assert not (loaded.report_dir / "metrics.json").exists()
    assert description.text(loaded) == description.text(cfg)
    assert json.loads(contents(packed)["pack.json"])["trained"] == "2021-03-04"


@pytest.mark.parametrize("score", [None, "good", {"value": 1}, {"n": [], "subset": "test"}])
def test_of_an_earlier_versions_pack_the_score_is_not_known(packed, tmp_path, score):
    said = changed(packed, tmp_path, score=score, trained=None)
    assert said == "Run baseline, trained on 2021-03-04. How good it is, is not known here."


@pytest.mark.parametrize("date", [None, "yesterday", 3])
def test_an_unknown_date_is_left_out(cfg, tmp_path, date):
    alone = dataclasses.replace(cfg, work_dir=str(tmp_path))
    files.write_json(alone.run_dir / "config.json", {"date": date})
    assert description.text(alone) == "Run baseline. How good it is, is not known here."
