import dataclasses
import shutil

from dermai_utils import files
from dermai_utils.report import evaluate, summary


def test_a_submission_goes_where_there_is_no_official_test_set_any_more(
    made, tmp_path, monkeypatch
):
    monkeypatch.setattr(summary, "RESAMPLES", 100)
    shutil.copytree(made.work, tmp_path / "work")
    cfg = dataclasses.replace(made, work_dir=str(tmp_path / "work"))
    assert (cfg.report_dir / "submission.csv").exists()
    official = files.read_table(made.table_file).query("source == 'test'")["image"]
    for path in (cfg.table_file, cfg.split_file):
        table = files.read_table(path)
        files.write_table(table[~table["image"].isin(official)], path)
    evaluate.run(cfg)
    assert not (cfg.report_dir / "submission.csv").exists()
    assert "submission.csv" not in (cfg.work / "index.html").read_text(encoding="utf-8")
