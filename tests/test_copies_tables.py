"""Tables of labels and metadata: however a spreadsheet saved them, and what is refused."""

import sys

import pandas as pd
import pytest
from mirror import refusal

from dermai_utils.basics import CLASSES
from dermai_utils.copies import tables

HEADER = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"
PLAIN = f"{HEADER}\na,1.0,0.0,0.0,0.0,0.0,0.0,0.0\n"
ROW = "{},1,0,0,0,0,0,0\n"


@pytest.fixture
def rows(tmp_path):
    """(usable, rejected) rows of a table with this content."""

    def read(content):
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / "t.csv").write_bytes(content)
        frame = tables.read_labels(tmp_path / "t.csv")
        good = frame["reason"] == ""
        return frame[good], frame[~good]

    return read


SAVED = {
    "plain": PLAIN,
    "BOM": "\ufeff" + PLAIN,
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "semicolons": PLAIN.replace(",", ";"),
    "decimal commas": PLAIN.replace(",", ";").replace(".", ","),
    "tabs": PLAIN.replace(",", "\t"),
    "integers": PLAIN.replace(".0", ""),
    "True and False": PLAIN.replace("1.0", "True").replace("0.0", "FALSE"),
    "lower case": PLAIN.lower(),
    "blanks": PLAIN.replace(",", " , ").replace("\na", "\n a"),
    "quotes": 'image, MEL,"NV",BCC,AKIEC,BKL,DF,VASC\n"a", "1",0,0,0,0,0,0\n',
    "another order": "NV,MEL,BCC,AKIEC,BKL,DF,image,VASC\n0,1,0,0,0,0,a,0\n",
    "a further column": PLAIN.replace("\n", ",note\n"),
    "trailing commas": PLAIN.replace("\n", ",\n"),
    "ids with .png": PLAIN.replace("\na", "\na.png"),
    "ids with a folder": PLAIN.replace("\na", "\nimages/a.JPEG"),
    "ids of Windows": PLAIN.replace("\na", "\nC:\\images\\a.jpg"),
    "dx": "image_id,dx\na,mel\n",
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16, tabs, big-endian": b"\xfe\xff" + PLAIN.replace(",", "\t").encode("utf-16-be"),
    "sep= of Excel": "sep=;\r\n" + PLAIN.replace(",", ";"),
    "a title above the header": "Clinic of 2024\n\n" + PLAIN,
    "a title with empty cells": "Clinic of 2024,,,,,,,\n,,,,,,,\n" + PLAIN,
    "Windows-1252": "filename;class;Größe\na.jpg;melanoma;groß\n".encode("cp1252"),
}


@pytest.mark.parametrize("content", SAVED.values(), ids=SAVED)
def test_a_table_is_read_however_a_spreadsheet_saved_it(rows, content):
    good, bad = rows(content)
    assert good.to_numpy().tolist() == [["a", "MEL", ""]] and bad.empty


def test_a_table_of_json_lines(tmp_path):
    rows = '{"file_name": "a.jpg", "label": "melanoma", "n": 1}\n{"file_name": "b.jpg"}\n'
    (tmp_path / "t.jsonl").write_text(rows)
    frame = tables.read_labels(tmp_path / "t.jsonl")
    assert frame.to_numpy().tolist() == [["a", "MEL", ""], ["b", "", "no label"]]


def test_an_excel_sheet(tmp_path):
    pytest.importorskip("openpyxl")
    legend = [["Legend", "0 - none"], [None, "1 - some"]] * 6  # as in PH2_dataset.xlsx
    sheet = pd.DataFrame(
        [["Clinic", None], *legend, ["Image", "Label"], ["a.jpg", "melanoma"], ["b", None]]
    )
    sheet.to_excel(tmp_path / "t.xlsx", index=False, header=False)
    frame = tables.read_labels(tmp_path / "t.xlsx")
    assert frame.to_numpy().tolist() == [["a", "MEL", ""], ["b", "", "no label"]]


@pytest.mark.parametrize("suffix, package", [(".xlsx", "openpyxl"), (".parquet", "pyarrow")])
def test_what_a_missing_package_would_read_is_named(tmp_path, monkeypatch, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"t{suffix}"
    path.write_bytes(b"PK\3\4")
    line = refusal(tables.read_labels, path)
    assert f"{path}: {package} reads such a table" in line and f"pip install {package}" in line
    assert tables.header(path) == [] and package in tables.why_unreadable(path)


UNUSABLE = {
    "empty": (b"", "cannot be read as a CSV"),
    "binary": (bytes(range(256)), "not a text file in UTF-8"),
    "zeros": (b"\0" * 300, "no column image, MEL"),
    "another encoding": (PLAIN.replace("\n", " \x81\n").encode("latin-1"), "not a text file"),
    "a column missing": (
        b"image,MEL,NV\na,1,0\n",
        "no column BCC, AKIEC, BKL, DF, VASC; expected it beside image",
    ),
    "a column renamed": (
        PLAIN.replace("image", "picture").encode(),
        "no column image; expected it beside picture, MEL",
    ),
    "a web page": (b"<!DOCTYPE html>\n<html>404</html>\n", "no column"),
    "ragged": ((PLAIN + "a,1,0,0,0,0,0,0,9,9\n").encode(), "cannot be read as a CSV"),
    "a column twice": (f"{HEADER},Image\n".encode(), "column image stands there twice"),
    "twice but for a blank": (f"{HEADER},VASC \n".encode(), "column vasc stands there twice"),
    "decimal commas between commas": (PLAIN.replace(".0", ",0").encode(), "cannot be read"),
}


@pytest.mark.parametrize("content, message", UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_table_is_one_line_that_names_it(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    line = refusal(tables.read_labels, tmp_path / "t.csv")
    assert message in line and str(tmp_path / "t.csv") in line
    assert (tmp_path / "t.csv").read_bytes() == content


WORDS = {
    "AKIEC": "akiec AK SCC bowen Bowen's_disease",
    "MEL": "mel MELANOMA",
    "NV": "nv nevus Naevus",
    "BKL": "bkl lichenoid_keratosis",
    "BCC": "bcc Basal-cell-carcinoma",
    "DF": "df dermatofibroma",
    "VASC": "vasc hemangioma",
    "": "unk scar nan image images Keratose",
}


@pytest.mark.parametrize("name", WORDS)
def test_words_for_the_seven_classes(name):
    assert {tables.class_of(word) for word in WORDS[name].split()} == {name}


def test_no_word_stands_for_two_classes():
    for name, words in tables.CLASS_WORDS.items():
        assert {tables.class_of(word) for word in words.split(", ")} == {name}
    assert all(tables.class_of(name) == name for name in CLASSES)


def test_metadata_is_what_the_table_has(tmp_path):
    path = tmp_path / "m.tab"
    path.write_text('"isic_id"\t"age_approx"\t"Patient_ID"\n"a"\t"50"\t"P1"\n"a"\t"51"\t"P2"\n')
    frame, note = tables.read_metadata(path)
    assert frame.to_dict("records") == [{"image": "a", "patient_id": "P1", "age": "50"}]
    assert note == ""
    assert "no column lesion_id" in refusal(tables.read_metadata, path, required=["lesion_id"])
    path.write_text("image,lesion_id\na,L1\na,L2\n")
    assert "gives 1 images several lesions (a)" in tables.read_metadata(path)[1]
