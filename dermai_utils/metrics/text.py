"""Numbers and their names as text, the same in what is printed, in figures and in the report."""

from dermai_utils.metrics.classification import UNDEFINED
from dermai_utils.metrics.predictions import SUBSET_NAMES

CONFIRMED_BY = {  # HAM10000's codes for how a diagnosis was confirmed
    "histo": "histopathology",
    "follow_up": "follow-up",
    "consensus": "expert consensus",
    "confocal": "confocal microscopy",
}


def format_number(number) -> str:
    """Three decimals, whole numbers with separators, UNDEFINED for None."""
    if number is None:
        return UNDEFINED
    if isinstance(number, float):
        return f"{number:.3f}"
    return f"{number:,}" if isinstance(number, int) else str(number)


def with_interval(row, name: str = "") -> str:
    """ "0.717 [0.659, 0.769]", of a dict with value, low, high, or with {name}, {name}_low and
    {name}_high."""
    value, low, high = (name, f"{name}_low", f"{name}_high") if name else ("value", "low", "high")
    if row[value] is None:
        return UNDEFINED
    return f"{format_number(row[value])} [{format_number(row[low])}, {format_number(row[high])}]"


def percent(share) -> str:
    """ "97.7 %" of 0.9768, wherever a probability or a share is written as a percentage."""
    if share is None:
        return UNDEFINED
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %"


def rule_name(decisions: dict) -> str:
    """The decision rule that metrics.json's `decisions` chose: "argmax", or the prior correction
    and its exponent."""
    if decisions["chosen"] == "argmax":
        return "argmax"
    return f"prior-corrected, tau = {decisions['tau']:g}"


def shown_subset(metrics: dict | None, subset: str) -> str:
    """The key under which names of subsets have `subset`: val of all folds as one run is
    "folds", the sample's official test set "made_up"."""
    if subset == "val" and (metrics or {}).get("folds"):
        return "folds"
    return "made_up" if subset == "official" and metrics["data"] == "sample" else subset


def subset_name(metrics: dict | None, subset: str) -> str:
    """What `subset` is called where a number of it is quoted."""
    return SUBSET_NAMES[shown_subset(metrics, subset)]


def headline(metrics: dict) -> str:
    """The number to quote, with its interval, the decision rule, and the number by argmax."""
    subset, decision = metrics["primary_subset"], metrics["decisions"]
    by_rule, by_argmax = (
        with_interval(source["intervals"][subset]["balanced_accuracy"])
        for source in (metrics, metrics["argmax"])
    )
    n, rule = metrics["subsets"][subset]["n"], rule_name(decision)
    lines = [f"{subset_name(metrics, subset)}, n={n:,}:", f"balanced accuracy {by_rule} ({rule})"]
    return "\n".join(lines + ([f"by argmax {by_argmax}"] if rule != "argmax" else []))


def pretty_name(name: str) -> str:
    """ "macro_f1" -> "macro F1", "histo" -> "histopathology"."""
    if name in CONFIRMED_BY:
        return CONFIRMED_BY[name]
    return name.replace("_", " ").replace("auc", "AUC").replace("f1", "F1")
