import pytest

from dermai_utils.study import text

ENDS = {"x_low": 0.5, "x_high": None}
FEW = {"lesions": 9, "n": 12, "x": 0.75, "x_low": 0.5, "x_high": 0.9}


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"x": 1.0} | ENDS, "1.000 [0.500, not defined]"),
        ({"x": None}, "not defined"),
        ({"x": 0.0, "x_low": None}, "0.000 [not known]"),  # two runs that never differ
        (FEW | {"x_k": 9}, "9 of 12"),
        (FEW, "too few"),  # a mean of rates
        (FEW | {"x_k": 9, "lesions": 10}, "0.750 [0.500, 0.900]"),
        ({"x": 1.0, "x_k": 3, "x_n": 3, "x_lesions": 3} | ENDS, "3 of 3"),
    ],
)
def test_a_value_stands_before_its_interval_and_few_lesions_are_counted(row, expected):
    assert text.with_interval(row, "x") == expected
    plain = {name.removeprefix("x_"): value for name, value in row.items()}
    assert text.with_interval(plain | {"value": row["x"]}) == expected


def test_the_headline_names_the_subset_and_both_rules():
    found = {"balanced_accuracy": {"value": 0.7, "low": 0.6, "high": 0.8}}
    metrics = {
        "data": "sample",
        "primary_subset": "official",
        "folds": 0,
        "subsets": {"official": {"n": 1511}},
        "recalls": {"official": {"MEL": {"n": 9, "lesions": 9}, "NV": {"n": 10, "lesions": 10}}},
        "intervals": {"official": found},
        "argmax": {"intervals": {"official": found}},
        "decisions": {"chosen": "prior_corrected", "tau": 0.5},
    }
    named, score = "made-up pictures in place of the official test set, n=1,511:", "0.700 [0.600"
    first, by_rule, by_argmax = text.headline(metrics).splitlines()
    assert first == named and by_argmax == f"by argmax {score}, 0.800]"
    rule = "(prior-corrected, tau = 0.5, training shares)"
    assert by_rule == f"balanced accuracy {score}, 0.800] {rule}"
    metrics["decisions"] = {"chosen": "argmax", "tau": 0.0}
    assert text.headline(metrics) == f"{named}\nbalanced accuracy {score}, 0.800] (argmax)"
    metrics["recalls"]["official"]["NV"]["lesions"] = 9
    assert text.headline(metrics) == f"{named} no score, every class has under 10 lesions"
