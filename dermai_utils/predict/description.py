"""What stands above a run's answers: which run it is, when it was trained, and how good it is.

A run of this machine has its score in metrics.json; a pack has none of the report, and keeps the
score in pack.json.
"""

import re

from dermai_utils import files
from dermai_utils.metrics.predictions import SUBSET_NAMES
from dermai_utils.metrics.text import shown_subset, with_interval

PACK_LIST = "pack.json"  # at the top of an unpacked pack


def is_pack(cfg) -> bool:
    """Whether the run came as a pack, not from a work folder."""
    return (cfg.work / PACK_LIST).exists()


def text(cfg) -> str:
    """One or two sentences; what is not known is left out, but for the score."""
    date = trained(cfg)
    run = f"Run {cfg.run_name}{date and f', trained on {date}'}. "
    found = (files.read_json(cfg.work / PACK_LIST) or {}).get("score") or score(cfg)
    try:
        where = f"{found['n']:,} images of the {SUBSET_NAMES[found['subset']]}"
        return f"{run}Balanced accuracy {with_interval(found)} on {where}."
    except (TypeError, KeyError, ValueError):  # None, or a pack of another version
        return f"{run}How good it is, is not known here."


def trained(cfg) -> str:
    """The date in config.json, such as 2018-03-01: a file's own time is lost in a zip. Else ""."""
    date = (files.read_json(cfg.run_dir / "config.json") or {}).get("date")
    return date if re.fullmatch(r"\d{4}-\d\d-\d\d", str(date)) else ""


def score(cfg) -> dict | None:
    """The headline of metrics.json: value, low, high, n and the key of the subset's name."""
    metrics = files.read_json(cfg.report_dir / "metrics.json")
    if metrics is None:
        return None
    subset = metrics["primary_subset"]
    interval = metrics["intervals"][subset]["balanced_accuracy"]
    counted = {name: interval[name] for name in ("value", "low", "high")}
    n = metrics["subsets"][subset]["n"]
    return counted | {"n": n, "subset": shown_subset(metrics, subset)}
