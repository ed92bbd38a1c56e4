import dataclasses

import numpy as np
import pandas as pd

from dermai_utils import files
from dermai_utils.config import CLASSES
from dermai_utils.data import clean, pixels


def test_the_fixture_loses_exactly_what_it_should(made):
    rejected = files.read_table(made.rejected_file)
    reasons = {(image[-3:], reason) for image, reason in rejected[["image", "reason"]].to_numpy()}
    assert reasons == {
        ("901", "image file missing"),
        ("902", "image without a label row"),
        ("903", "truncated or damaged image"),
        ("904", "not an image"),
        ("905", "the file is empty (zero bytes)"),
        ("906", "no label"),
        ("907", "several labels"),
        ("908", "duplicate id (the first row is kept)"),
        ("909", "duplicate id with different labels"),
    }


def test_the_table_holds_every_image_once_with_its_own_pixels(made):
    table = files.read_table(made.table_file)
    assert table["image"].is_unique and table["row"].is_unique
    assert set(table["label"]) == set(CLASSES)
    array = pixels.load(made.pixels_file)
    folder = {"train": "ISIC2018_Task3_Training_Input", "test": "ISIC2018_Task3_Test_Input"}
    for _, row in table.iloc[::7].iterrows():
        data = (made.cache / "images" / folder[row["source"]] / f"{row['image']}.jpg").read_bytes()
        assert (array[row["row"]] == pixels.decode(data, *array.shape[1:3])).all()


def test_same_pixels_are_found_and_contradictions_flagged(made):
    table = files.read_table(made.table_file).set_index("image")
    twice = table[table["duplicate_of"] != ""]["duplicate_of"].to_dict()
    assert twice == {f"ISIC_9000{k + 1}": f"ISIC_9000{k}" for k in (910, 912, 914)}
    assert table.index[table["conflict"]].str[-3:].tolist() == ["912", "913"]


def test_a_lesion_missing_from_the_groupings_comes_from_the_metadata(made):
    lesion = files.read_table(made.table_file).set_index("image")["lesion_id"]
    assert lesion["ISIC_9000919"] == lesion["ISIC_9000920"] == "HAM_9000919"


def test_without_any_grouping_each_image_is_a_lesion_and_that_is_said(capsys):
    table = pd.DataFrame({"image": ["a", "b"], "source": "train", "lesion_id": ""})
    assert clean.fill_lesions(table)["lesion_id"].tolist() == ["a", "b"]
    assert "no lesion groupings" in capsys.readouterr().out


def test_what_is_left_out_is_on_the_screen_and_in_a_file(made, tmp_path, capsys):
    cfg = dataclasses.replace(made, work_dir=str(tmp_path))
    clean.run(cfg)
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("clean: 134 usable images, 10 rejected (see work/sample/rejected.csv)")
    assert lines[at + 1] == "clean: 2 × duplicate id with different labels"  # the commonest first
    warning = "clean: WARNING: 7.0% of the training images are left out (2 × duplicate id"
    assert lines[at + 10].startswith(warning)
    data, table = files.read_json(cfg.data_file), files.read_table(cfg.table_file)
    training = table[table["source"] == "train"]
    assert data["counts"] == {c: int((training["label"] == c).sum()) for c in CLASSES}
    assert sum(data["dropped"].values()) == 10 and data["dropped_share"] == round(8 / 142, 4)
    assert data["layout"] == "official ISIC 2018"


def test_patients_are_a_column_only_where_there_are_any(made, tmp_path):
    cfg = dataclasses.replace(made, work_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    rows = files.read_table(made.rows_file)
    files.write_table(rows.assign(patient_id="IP_1"), cfg.rows_file)
    clean.run(cfg)
    assert files.read_table(cfg.table_file).columns[-1] == "patient_id"
    assert "patient_id" not in files.read_table(made.table_file)


def test_an_image_file_is_known_by_its_id(made):
    path = clean.image_path(made, "ISIC_9000001")
    assert path.name == "ISIC_9000001.jpg" and path.is_file()


def test_class_counts_agree_with_pandas(made):
    table = files.read_table(made.table_file)
    counts = clean.class_counts(table)
    assert counts["images"].to_dict() == {c: int((table["label"] == c).sum()) for c in CLASSES}
    assert counts["lesions"].sum() == table.groupby(["label", "lesion_id"]).ngroups


def test_the_table_survives_a_round_trip(made, tmp_path):
    table = files.read_table(made.table_file)
    files.write_table(table, tmp_path / "t.csv")
    pd.testing.assert_frame_equal(files.read_table(tmp_path / "t.csv"), table)
    assert np.isnan(table["age"]).any()
