import numpy as np
import pandas as pd
import pytest

from dermai_utils import files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import clean, pixels

HEADER = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"
ROW = "{},1.0,0.0,0.0,0.0,0.0,0.0,0.0"


def labels(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return clean.read_labels(path)


@pytest.mark.parametrize(
    "text, encoding",
    [
        (f"{HEADER}\n{ROW.format('a')}\n", "utf-8"),
        (f"{HEADER}\n{ROW.format('a')}\n", "utf-8-sig"),
        (f"{HEADER}\r\n{ROW.format('a')}\r\n", "utf-8"),
        (f"{HEADER}\n{ROW.format('a')}\n".replace(",", ";"), "utf-8"),
        (f"{HEADER}\n{ROW.format('a')}\n".replace(",", ";").replace(".", ","), "utf-8"),
        (f"{HEADER}\n{ROW.format('a')}\n".replace(",", "\t"), "utf-8"),
        (f"{HEADER}\n{ROW.format('a')}\n".replace(".0", ""), "utf-8"),
        (f"{HEADER}\n{ROW.format('a.jpg')}\n", "utf-8"),
        (f"{HEADER}\n{ROW.format(' a ')}\n", "utf-8"),
        (f"{HEADER},note\n{ROW.format('a')},x\n", "utf-8"),
        ("image,NV,MEL,BCC,AKIEC,BKL,DF,VASC\na,0,1,0,0,0,0,0\n", "utf-8"),
    ],
    ids=[
        "plain",
        "bom",
        "crlf",
        "semicolons",
        "decimal comma",
        "tabs",
        "integers",
        "with .jpg",
        "spaces",
        "extra",
        "reordered",
    ],
)
def test_a_label_file_is_read_however_a_spreadsheet_saved_it(tmp_path, text, encoding):
    good, bad = labels(tmp_path, text, encoding)
    assert good.to_numpy().tolist() == [["a", "MEL"]] and bad.empty


@pytest.mark.parametrize(
    "row, reason",
    [
        ("a,0,0,0,0,0,0,0", "no label"),
        ("a,1,1,0,0,0,0,0", "several labels"),
        ("a,,0,0,0,0,0,0", "neither 0 nor 1"),
        ("a,0.5,0,0,0,0,0,0", "neither 0 nor 1"),
        ("a,melanoma,0,0,0,0,0,0", "neither 0 nor 1"),
        (",1,0,0,0,0,0,0", "without an image id"),
    ],
)
def test_a_bad_row_is_rejected_with_its_reason(tmp_path, row, reason):
    good, bad = labels(tmp_path, f"{HEADER}\n{row}\n{ROW.format('b')}\n")
    assert good["image"].tolist() == ["b"] and reason in bad["reason"].iloc[0]


def test_duplicate_ids_keep_the_first_unless_they_contradict(tmp_path):
    rows = [ROW.format("a"), ROW.format("a"), ROW.format("b"), "b,0,1,0,0,0,0,0"]
    good, bad = labels(tmp_path, "\n".join([HEADER, *rows]))
    assert good["image"].tolist() == ["a"]
    assert bad["image"].tolist() == ["a", "b", "b"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "cannot be read as a CSV"),
        (b"image,MEL,NV\na,1,0\n", "no column BCC, AKIEC, BKL, DF, VASC"),
        (HEADER.replace("image", "image_id").encode() + b"\n", "no column image"),
        (bytes(range(256)), "not a text file"),
    ],
    ids=["empty", "missing columns", "renamed", "binary"],
)
def test_an_unusable_file_is_one_line_that_names_it(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        clean.read_labels(path)
    assert (
        message in str(caught.value)
        and str(path) in str(caught.value)
        and "\n" not in str(caught.value)
    )
    assert path.read_bytes() == content


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
    table = pd.DataFrame({"image": ["a", "b"], "source": "train", "label": "NV"})
    described = clean.describe(table, {"groupings": None, "metadata": None})
    assert described["lesion_id"].tolist() == ["a", "b"] and described["age"].isna().all()
    assert "no lesion groupings" in capsys.readouterr().out


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
