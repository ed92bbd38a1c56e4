"""Tables of predictions as people save them."""

import sys

import numpy as np
import pandas as pd
import pytest

from dermai_utils.audits import inputs, known, reading
from dermai_utils.basics import CLASSES, UserError

IMAGES = known.training()["image"].iloc[:40]
LABELS = known.training().set_index("image")["label"]
WORDS = ["melanoma", "nevus", "basal cell carcinoma", "ak", "benign keratosis", "df", "vascular"]


def made(n=40, names=CLASSES, ids="{}", seed=0, **columns):
    """A table as text, with random probabilities, and the (n, 7) float that it has."""
    p = np.random.default_rng(seed).dirichlet(np.ones(7), n)
    frame = pd.DataFrame(p, columns=list(names)).assign(**columns)
    frame.insert(0, "image", [ids.format(image) for image in IMAGES[:n]])
    return frame.astype(str), p


def test_columns_in_any_order_with_names_or_words_and_ids_of_any_kind():
    frame, p = made()
    plain, notes = reading.predictions(frame, LABELS)
    assert np.allclose(plain[list(CLASSES)], p) and not notes and list(plain["image"]) == [*IMAGES]
    for names in (WORDS, [f"prob_{c.lower()}" for c in CLASSES], [f"P({c})" for c in CLASSES]):
        for ids in ("/home/x/{}.jpg", "aug_{}_crop.png", "{}_downsampled"):
            other = made(names=names, ids=ids)[0].iloc[::-1, ::-1].reset_index(drop=True)
            other = other.rename(columns={"image": "which"}).assign(
                predicted_label="nv", split="dev"
            )
            found = reading.predictions(other, LABELS)[0].sort_values("image", ignore_index=True)
            assert set(found["subset"]) == {"val"}
            pd.testing.assert_frame_equal(found[plain.columns], plain)


def test_class_numbers_are_found_and_shown():
    order = [3, 2, 4, 5, 0, 1, 6]
    labels = LABELS.iloc[:3000]
    frame = pd.DataFrame({"filename": labels.index})
    sure = np.eye(7)[labels.map(CLASSES.index)] * 0.8 + 0.2 / 7
    frame[[f"probability_class_{k}" for k in range(7)]] = sure[:, order].astype(str)
    numbers = {CLASSES[c]: str(k) for k, c in enumerate(order)}
    for extra in ({}, {"true_label": labels.map(numbers).to_numpy()}):
        rows, notes = reading.predictions(frame.assign(**extra), LABELS)
        assert "0 AKIEC, 1 BCC, 2 BKL, 3 DF, 4 MEL, 5 NV, 6 VASC" in notes[0]
        assert np.allclose(rows[list(CLASSES)], sure)
        assert (rows["truth"] == (labels.to_numpy() if extra else "")).all()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda p: np.log(p), "logits"),
        (lambda p: 100 * p, None),
        (lambda p: 3 * p, "divided by its sum"),
        (lambda p: p * np.linspace(0.3, 0.5, len(p))[:, None], "divided by its sum"),
        (lambda p: p.round(2), None),
    ],
)
def test_what_does_not_sum_to_one_is_recognised_and_said(change, said):
    frame, p = made()
    frame[list(CLASSES)] = change(p).astype(str)
    rows, notes = reading.predictions(frame, LABELS)
    assert np.allclose(rows[list(CLASSES)], p, atol=0.02)
    assert (said is None and not notes) or said in notes[0]


def broken(**cells):
    frame = made()[0]
    for column, value in cells.items():
        frame.loc[3, column] = value
    return frame


@pytest.mark.parametrize(
    "frame, line",
    [
        (broken(NV="nan"), "column NV: not a number (1 such row)"),
        (broken(MEL="-0.2", NV="1.2", BCC="0", AKIEC="0", BKL="0", DF="0", VASC="0"), "negative"),
        (made(scc="0.1")[0].rename(columns={"scc": "SCC"}), "8 columns of probabilities"),
        (made()[0].drop(columns="DF"), "6 columns of probabilities"),
        (pd.concat([made()[0], made(1, seed=1)[0]]), "1 image with several rows"),
        (
            pd.concat([made(names="0123456")[0], made(1, names="0123456", seed=1)[0]]),
            "1 image with several rows",
        ),
        (made()[0].drop(columns="image"), "no column with image ids"),
        (made()[0].iloc[:0], "no row"),
        (broken(image=""), "1 row without an image id"),
    ],
)
def test_bad_predictions_are_one_line(frame, line):
    with pytest.raises(UserError) as caught:
        reading.predictions(frame, LABELS)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_equal_rows_of_one_image_count_once():
    rows, notes = reading.predictions(pd.concat([made()[0], made()[0].iloc[:3]]), LABELS)
    assert len(rows) == 40 and notes == ["3 rows given twice: each counts once"]


def test_labels_are_no_predictions():
    one_hot = made()[0]
    one_hot[list(CLASSES)] = np.eye(7, dtype=int)[np.arange(40) % 7].astype(str)
    assert not reading.is_predictions(one_hot) and reading.is_predictions(made()[0])
    assert list(reading.described(one_hot)["label"][:8]) == [*CLASSES, CLASSES[0]]


README = "Once, a text.\nIt is, I say, no table.\n"
NOTHING = {"gone.csv": None, "empty.csv": "", "head.csv": "image,MEL\n", "ab.csv": "a,b\n1,2\n"}
NOTHING |= {"table.xlsx": "no sheet", "README.md": README}


@pytest.mark.parametrize("name", NOTHING)
def test_files_that_are_nothing_are_one_line(name, tmp_path, monkeypatch):
    """It says what is expected, not the file's own words."""
    if NOTHING[name] is not None:
        (tmp_path / name).write_text(NOTHING[name])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError) as caught:
        inputs.audit_files([tmp_path / name], cache=tmp_path)
    said = str(caught.value)
    assert name in said and not any(word in said for word in ("\n", "Once", "once", "tokenizing"))
    assert said.endswith(f"expected {reading.TABLE}") or name != "README.md"
    assert ("pip install openpyxl" in said) == (name == "table.xlsx")
