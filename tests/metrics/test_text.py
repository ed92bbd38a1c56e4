import pytest

from dermai_utils.metrics.text import format_number, pretty_name, with_interval


@pytest.mark.parametrize(
    "number, text",
    [
        (0.12345, "0.123"),
        (-1.0, "-1.000"),
        (0, "0"),
        (10015, "10,015"),
        (None, "not defined"),
        ("lesion", "lesion"),
    ],
)
def test_a_number_as_text(number, text):
    assert format_number(number) == text


def test_a_value_stands_before_its_interval():
    assert with_interval({"value": 0.7171, "low": 0.6, "high": 0.8}) == "0.717 [0.600, 0.800]"
    rates = {"ppv": 1.0, "ppv_low": 0.5, "ppv_high": None}
    assert with_interval(rates, "ppv") == "1.000 [0.500, not defined]"
    assert with_interval({"value": None}) == with_interval({"npv": None}, "npv") == "not defined"


def test_names_in_words():
    assert pretty_name("macro_f1") == "macro F1"
    assert pretty_name("malignant_auc") == "malignant AUC"
