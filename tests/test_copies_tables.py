"""Tables that are no text, words for the classes, metadata. test_copies.py has all other tables."""

import sys

import pandas as pd
import pytest
from mirror import refusal

from dermai_utils.basics import CLASSES
from dermai_utils.copies import tables


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
    assert tables.header(path) == [] and package in tables.columns_or_fault(path)


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
    assert all(tables.class_of(word) == name for word, name in tables.CLASS_WORDS.items())
    assert all(tables.class_of(name) == name for name in CLASSES)


def test_metadata_is_what_the_table_has(tmp_path):
    path = tmp_path / "m.tab"
    path.write_text('"isic_id"\t"age_approx"\t"Patient_ID"\n"a"\t"50"\t"P1"\n"a"\t"51"\t"P2"\n')
    frame, note = tables.read_metadata(path)
    assert frame.to_dict("records") == [{"image": "a", "patient_id": "P1", "age": "50"}]
    assert note == ""
    assert tables.read_metadata(path, only=["lesion_id"])[0].empty
