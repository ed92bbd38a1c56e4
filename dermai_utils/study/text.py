"""Numbers and their names as text, the same in messages, figures and the report."""

from dermai_utils.basics import UNDEFINED
from dermai_utils.predictions import subset_name

FEW = 10  # lesions: of fewer, the counts are shown
CONFIRMED_BY = {  # HAM10000's codes for how a diagnosis was confirmed
    "histo": "histopathology",
    "follow_up": "follow-up",
    "consensus": "expert consensus",
    "confocal": "confocal microscopy",
}


def format_number(number) -> str:
    """Three decimals, whole numbers with separators, UNDEFINED for None.

    >>> format_number(0.7171), format_number(0.9998), format_number(10015), format_number(None)
    ('0.717', '>0.999', '10,015', 'not defined')
    """
    if number is None:
        return UNDEFINED
    if isinstance(number, float):
        return ">0.999" if 0.9995 <= number < 1 - 1e-9 else f"{number:.3f}"
    return f"{number:,}" if isinstance(number, int) else str(number)


def with_interval(row, name: str = "") -> str:
    """A value and its interval, of a dict with value, low and high, or with `name`, `name`_low and
    `name`_high; "k of n" where the dict knows that FEW lesions were counted.

    >>> with_interval({"value": 0.7171, "low": 0.659, "high": 0.769})
    '0.717 [0.659, 0.769]'
    """
    value, low, high = (name, f"{name}_low", f"{name}_high") if name else ("value", "low", "high")
    if row is None or row[value] is None:
        return UNDEFINED
    if few := counts(row, name):
        return few
    if row[low] is None:
        return f"{format_number(row[value])} [not known]"
    return f"{format_number(row[value])} [{format_number(row[low])}, {format_number(row[high])}]"


def counts(row, name: str = "") -> str:
    """The counts "k of n" in place of a rate of under FEW lesions; "too few" in place of a mean of
    rates; "" for more lesions, or where nobody counted.

    `row`: a dict with (`name`_)lesions, k and n.

    >>> counts({"k": 3, "n": 4, "lesions": 4}), counts({"k": 30, "n": 40, "lesions": 40})
    ('3 of 4', '')
    """
    key = f"{name}_" if name else ""
    if row.get(f"{key}lesions", row.get("lesions", FEW)) >= FEW:
        return ""
    n = row.get(f"{key}n", row.get("n"))
    return f"{row[key + 'k']} of {n}" if f"{key}k" in row else "too few"


def percent(share) -> str:
    """A probability or a share as a percentage.

    >>> percent(0.9768), percent(0.0004), percent(0.9999)
    ('97.7 %', '<0.1 %', '>99.9 %')
    """
    if share is None:
        return UNDEFINED
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %"


def rule_name(decisions: dict) -> str:
    """The rule that metrics.json's `decisions` chose: "argmax", or the prior correction with its
    exponent and whose class shares it divides by."""
    if decisions["chosen"] == "argmax":
        return "argmax"
    return f"prior-corrected, tau = {decisions['tau']:g}, training shares"


def few(metrics: dict, subset) -> bool:
    """Whether every class of a subset, in metrics.json, has under FEW lesions: no score then."""
    return all(row["lesions"] < FEW for row in metrics["recalls"][subset].values() if row["n"])


def headline(metrics: dict) -> str:
    """Of metrics.json: the number to quote, its interval, the rule, and the number by argmax."""
    subset, rule = metrics["primary_subset"], rule_name(metrics["decisions"])
    by_rule, by_argmax = (
        with_interval(source["intervals"][subset]["balanced_accuracy"])
        for source in (metrics, metrics["argmax"])
    )
    name = subset_name(subset, metrics.get("data", ""), metrics["folds"])
    about = f"{name}, n={metrics['subsets'][subset]['n']:,}:"
    if few(metrics, subset):
        return f"{about} no score, every class has under {FEW} lesions"
    found = f"{about}\nbalanced accuracy {by_rule} ({rule})"
    return found if rule == "argmax" else f"{found}\nby argmax {by_argmax}"


def pretty_name(name: str) -> str:
    """A key of metrics.json, or a code of how a diagnosis was confirmed, in words.

    >>> pretty_name("macro_f1"), pretty_name("histo")
    ('macro F1', 'histopathology')
    """
    if name in CONFIRMED_BY:
        return CONFIRMED_BY[name]
    return name.replace("_", " ").replace("auc", "AUC").replace("f1", "F1")
