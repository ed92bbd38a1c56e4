import pytest

from dermai_utils.config import CLASSES, UserError
from dermai_utils.data.layouts import labels

HEADER = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"
ROW = "{},1.0,0.0,0.0,0.0,0.0,0.0,0.0"


def rows(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    frame = labels.read_labels(path)
    good = frame["reason"] == ""
    return frame[good], frame[~good]


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
        (f"{HEADER}\n{ROW.format('a')}\n".replace("1.0", "True").replace("0.0", "False"), "utf-8"),
        (f"{HEADER.lower()}\n{ROW.format('a')}\n", "utf-8"),
        (f"{HEADER}\n{ROW.format('a.png')}\n", "utf-8"),
        (f"{HEADER}\n{ROW.format('images/a.JPEG')}\n", "utf-8"),
        ("image_id,dx\na,mel\n", "utf-8"),
        ("Datei;Diagnose;Größe\na.jpg;Melanom;groß\n", "cp1252"),
        ("archivo,diagnóstico\na.jpg,melanoma\n", "cp1252"),
        ("filename,class\na.jpg,mel\n", "utf-8"),
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
        "words",
        "lower case",
        "with .png",
        "with a folder",
        "dx",
        "German, by Excel",
        "Spanish, by Excel",
        "filename",
        "with .jpg",
        "spaces",
        "extra",
        "reordered",
    ],
)
def test_a_label_file_is_read_however_a_spreadsheet_saved_it(tmp_path, text, encoding):
    good, bad = rows(tmp_path, text, encoding)
    assert good.to_numpy().tolist() == [["a", "MEL", ""]] and bad.empty


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
    good, bad = rows(tmp_path, f"{HEADER}\n{row}\n{ROW.format('b')}\n")
    assert good["image"].tolist() == ["b"] and reason in bad["reason"].iloc[0]


def test_duplicate_ids_keep_the_first_unless_they_contradict(tmp_path):
    lines = [ROW.format("a"), ROW.format("a"), ROW.format("b"), "b,0,1,0,0,0,0,0"]
    good, bad = rows(tmp_path, "\n".join([HEADER, *lines]))
    assert good["image"].tolist() == ["a"]
    assert bad["image"].tolist() == ["a", "b", "b"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "cannot be read as a CSV"),
        (b"image,MEL,NV\na,1,0\n", "no column BCC, AKIEC, BKL, DF, VASC"),
        (HEADER.replace("image", "picture").encode() + b"\n", "no column image"),
        (bytes(range(256)), "not a text file"),
    ],
    ids=["empty", "missing columns", "renamed", "binary"],
)
def test_an_unusable_file_is_one_line_that_names_it(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        labels.read_labels(path)
    assert (
        message in str(caught.value)
        and str(path) in str(caught.value)
        and "\n" not in str(caught.value)
    )
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "words, name",
    [
        ("akiec AK SCC bowen Bowen's_disease", "AKIEC"),
        ("mel MELANOMA", "MEL"),
        ("nv nevus Naevus", "NV"),
        ("bkl lichenoid_keratosis", "BKL"),
        ("bcc Basal-cell-carcinoma", "BCC"),
        ("df dermatofibroma", "DF"),
        ("vasc hemangioma", "VASC"),
        ("Melanom Mélanome melanoma_maligno", "MEL"),
        ("Naevus Nävus NA\u0308VUS nevo lunar Muttermal", "NV"),
        ("Basaliom Basalzellkarzinom carcinoma_basocelular carcinome-basocellulaire", "BCC"),
        ("aktinische_Keratose queratosis_actínica QUERATOSIS-ACTINICA Morbus_Bowen", "AKIEC"),
        ("seborrhoische_Keratose queratosis_benigna ceratose_seborreica", "BKL"),
        ("Dermatofibrom dermatofibrome", "DF"),
        ("Gefäßläsion GEFÄSSLÄSION lesión_vascular lésion_vasculaire angioma Angiom", "VASC"),
        ("unk scar nan image images Keratose Karzinom", ""),
    ],
)
def test_words_for_the_seven_classes(words, name):
    assert [labels.class_of(word) for word in words.split()] == [name] * len(words.split())


def test_each_class_is_called_by_its_name_and_no_word_stands_for_two():
    words = [word for words in labels.CLASS_WORDS.values() for word in words.split(", ")]
    assert all(labels.class_of(name) == name for name in CLASSES)
    assert len(words) == len(set(words))
    for table in (labels.CLASS_WORDS, labels.FOREIGN_WORDS):
        for name, words in table.items():
            assert {labels.class_of(word) for word in words.split(", ")} == {name}
    assert labels.class_of(" Solar  or\tactinic keratosis ") == "AKIEC"


def test_isic2019_has_two_of_our_classes_in_one_and_rejects_the_unknown(tmp_path):
    header = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    hot = ["0"] * 9
    lines = [
        ",".join([name, *hot[:at], "1", *hot[at + 1 :]])
        for name, at in (("a_downsampled", 3), ("b", 7), ("c", 8), ("d", 0))
    ]
    good, bad = rows(tmp_path, "\n".join([header, *lines]))
    assert good["image"].tolist() == ["a_downsampled", "b", "d"]
    assert good["label"].tolist() == ["AKIEC", "AKIEC", "MEL"]
    assert bad["reason"].tolist() == ["class UNK: none of the seven"]


def test_the_most_precise_diagnosis_that_is_one_of_the_seven_counts(tmp_path):
    text = (
        "isic_id,diagnosis_1,diagnosis_2,diagnosis_3,diagnosis_4\n"
        'a,Benign,x,Nevus,"Nevus, Combined"\n'
        "b,Malignant,x,Melanoma Invasive,\n"
        "c,Benign,x,Scar,\nd,,,,\n"
    )
    good, bad = rows(tmp_path, text)
    assert good[["image", "label"]].to_numpy().tolist() == [["a", "NV"], ["b", "MEL"]]
    assert bad["reason"].tolist() == ["class Scar: none of the seven", "no label"]


def test_metadata_is_what_the_table_has(tmp_path):
    path = tmp_path / "m.tab"
    path.write_text('"isic_id"\t"age_approx"\t"Patient_ID"\n"a"\t"50"\t"P1"\n"a"\t"51"\t"P2"\n')
    frame, notice = labels.read_metadata(path)
    assert frame.to_dict("records") == [{"image": "a", "patient_id": "P1", "age": "50"}]
    assert notice == ""
    with pytest.raises(UserError, match="no column lesion_id"):
        labels.read_metadata(path, required=["lesion_id"])
