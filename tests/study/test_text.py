from dermai_utils.study import text


def test_a_value_stands_before_its_interval():
    rates = {"ppv": 1.0, "ppv_low": 0.5, "ppv_high": None}
    assert text.with_interval(rates, "ppv") == "1.000 [0.500, not defined]"
    assert text.with_interval({"value": None}) == "not defined"
    assert text.with_interval({"npv": None}, "npv") == text.percent(None) == "not defined"
    same = {"value": 0.0, "low": None, "high": None}  # two runs that never differ
    assert text.with_interval(same) == "0.000 [not known]"


def test_of_few_lesions_the_counts_are_shown():
    few = {"lesions": 9, "n": 12, "accuracy": 0.75, "accuracy_k": 9, "balanced_accuracy": 0.8}
    ends = {
        f"{name}_{end}": 0.5
        for name in ("accuracy", "balanced_accuracy")
        for end in ("low", "high")
    }
    assert text.with_interval(few | ends, "accuracy") == "9 of 12"
    assert text.with_interval(few | ends, "balanced_accuracy") == "too few"
    assert text.with_interval(few | ends | {"lesions": 10}, "accuracy") == "0.750 [0.500, 0.500]"
    rate = {"sensitivity": 1.0, "sensitivity_k": 3, "sensitivity_n": 3, "sensitivity_lesions": 3}
    assert text.with_interval(rate, "sensitivity") == "3 of 3"


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
    assert text.headline(metrics).splitlines() == [
        "made-up pictures in place of the official test set, n=1,511:",
        "balanced accuracy 0.700 [0.600, 0.800] (prior-corrected, tau = 0.5, training shares)",
        "by argmax 0.700 [0.600, 0.800]",
    ]
    metrics["decisions"] = {"chosen": "argmax", "tau": 0.0}
    assert text.headline(metrics).splitlines()[1:] == [
        "balanced accuracy 0.700 [0.600, 0.800] (argmax)"
    ]
    metrics["recalls"]["official"]["NV"]["lesions"] = 9
    assert text.headline(metrics).splitlines() == [
        "made-up pictures in place of the official test set, n=1,511: no score, every class has "
        "under 10 lesions"
    ]
