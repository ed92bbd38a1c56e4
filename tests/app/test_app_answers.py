import numpy as np
import pytest

from dermai_utils.app import answers
from dermai_utils.app.answers import Answer
from dermai_utils.basics import CLASSES, DISCLAIMER
from dermai_utils.study import conformal

ENDS = {"low": 0.004, "high": 0.117}
ABOUT = {
    "ood_threshold": 0.2,
    "foreign_threshold": 0.3,
    "made_up": False,
    "subset_name": "held-out test subset",
    "n": 1203,
    "answers": {k: {"n": 10 * i, "held": 9 * i} | ENDS for i, k in enumerate(conformal.KINDS)},
    "melanomas": {"n": 134, "answered": 59, "without": 2} | ENDS,
}
NOTHING = {"answers": dict.fromkeys(conformal.KINDS, {"n": 0, "held": 0, "low": None})}
NOTHING |= {"n": 0, "melanomas": {"n": 0, "answered": 0, "without": 0}}


def answer(possible, distance=0.1, **about):
    similar = [dict(image="i", label="NV", similarity=0.5)]
    p = np.array([0.4, 0.2, 0.1, 0.1, 0.1, 0.06, 0.04])
    return Answer("x.jpg", p, possible, distance, similar, ABOUT | about)


def test_the_answer_in_words():
    sure, unsure = answer(("MEL", "NV")), answer(("MEL", "NV", "BKL"), distance=0.25)
    assert sure.text == "melanoma or melanocytic nevus" and sure.row["answer"] == "MEL or NV"
    assert unsure.text == "unsure: 3 diagnoses cannot be ruled out"
    assert unsure.row["answer"] == unsure.outcome == "unsure"
    assert list(unsure.diagnoses)[:2] == ["MEL", "NV"] and unsure.diagnoses["MEL"] == 0.4
    said = answers.printed([unsure])
    assert "unsure MEL NV BKL" in said and "warning: x.jpg looks unlike the training" in said


def test_two_levels_of_being_out_of_distribution():
    """Another source gets an answer with a warning; a picture that is no dermoscopic image gets
    none. A real photo is said to differ from made-up ones, not to be no dermoscopic image."""
    plain, other, foreign = (answer(("MEL",), distance=d) for d in (0.2, 0.3, 0.31))
    assert plain.warnings == [] and plain.text == other.text == "melanoma"
    assert other.row["answer"] == "MEL" and "expect more mistakes" in other.row["warnings"]
    assert "does not look like" in foreign.text and "melanoma" not in foreign.text
    assert foreign.row["answer"] == "no dermoscopic image" and foreign.outcome == "refused"
    assert "does not look like" in foreign.row["warnings"] and foreign.error_rates == []
    for distance in (0.3, 0.31):
        found = answer(("MEL",), distance=distance, made_up=True)
        said = f"{found.text} {found.row['answer']} {found.row['warnings']}"
        assert "unlike the made-up pictures" in said and "dermoscopic" not in said


def test_a_refused_picture_has_no_number_in_the_csv_and_on_the_terminal():
    refused = [answer(("MEL",), distance=1, made_up=made_up) for made_up in (True, False)]
    rows, said = answers.table(refused), answers.printed(refused)
    assert rows[list(CLASSES)].isna().all(axis=None)
    assert (rows[["possible", "similar"]] == "").all(axis=None)
    assert not any(f"0.{k}" in said for k in range(10))
    assert said.count("predict: warning: x.jpg") == 2 and said.endswith(DISCLAIMER)
    assert answers.SAMPLE_WARNING in said
    assert answers.SAMPLE_WARNING not in answers.printed(refused[1:])


def test_under_the_table_stands_how_often_the_kinds_of_its_answers_are_right():
    said = answers.printed([answer(("MEL", "NV")), answer(("MEL", "NV")), answer(CLASSES)])
    counted = "such answers held the truth, on 1,203 images of the held-out test subset: "
    kind = "two diagnoses, at least one malignant 27 of 30 (90.0 %)"
    assert (
        f"\n{counted}{kind}; on photos from elsewhere fewer do\n" in said
        and "\npossible: every class that" in said
    )
    assert "held the truth" not in answers.printed([answer(CLASSES)])
    assert "one benign diagnosis not known" in answers.printed([answer(("NV",), **NOTHING)])


def test_beside_an_answer_stands_how_often_such_ones_are_wrong():
    kind, melanomas = answer(("MEL", "NV")).error_rates
    counted = "Counted on 1,203 images of the held-out test subset: "
    assert kind.startswith(counted) and melanomas.startswith(counted)
    assert "for 27 of 30 (90.0 %, 95 %" in kind and "at least one malignant" in kind
    assert "of 134 melanomas, 59 got an answer" in melanomas
    said = "2 of these (3.4 %, 95 % interval 0.4 % to 11.7 %) one without melanoma"
    assert said in melanomas
    # nothing is promised where nothing is answered
    assert answer(("MEL", "NV", "BKL")).error_rates == [melanomas]


@pytest.mark.parametrize("possible, n", [(("NV",), 2), (("MEL", "NV", "BKL"), 1)])
def test_what_was_not_counted_is_not_known(possible, n):
    """Every image chose a threshold; and a kind of answer that nobody got."""
    said = answer(possible, **NOTHING).error_rates
    assert ["not known" in line for line in said] == [True] * n
    assert "is not known" in answer(("NV",)).error_rates[0]
