"""report.html and model_card.md, from metrics.json and the figures beside it.

The words are in templates/. The page is one file that asks the network for nothing. Every number on
it stands beside the key that it was looked up by in metrics.json (`data-key`), so the two can't
differ, and a reader can find each number again. The card follows Mitchell et al. 2019, arXiv
1810.03993.
"""

import base64
import functools
import io
import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from PIL import Image

from dermai_utils import files
from dermai_utils.config import CLASS_NAMES, CLASSES, DISCLAIMER
from dermai_utils.data import split
from dermai_utils.metrics.text import format_number, percent, pretty_name, rule_name, with_interval

SETTINGS = (  # of a run, on its card
    "backbone weights image_size split split_seed folds fold imbalance augment optimizer epochs "
    "batch_size learning_rate weight_decay precision seed"
).split()
LARGE_PNG = 300_000  # bytes; a photograph is a tenth of that as JPEG


def look_up(metrics, key: str):
    """What a key like subsets/test/per_class/MEL/recall leads to in metrics.json."""
    for name in key.split("/"):
        metrics = metrics[int(name) if isinstance(metrics, list) else name]
    return metrics


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=select_autoescape(["html.j2"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.globals |= {"CLASSES": CLASSES, "CLASS_NAMES": CLASS_NAMES, "DISCLAIMER": DISCLAIMER}
TEMPLATES.filters |= {
    "at": look_up,
    "number": format_number,
    "percent": percent,
    "pretty": pretty_name,
    "with_interval": with_interval,
}


def fill(template: str, **values) -> str:
    """The text of a template of templates/. An unknown name in it is an error, never a blank."""
    return TEMPLATES.get_template(template).render(values)


def report(cfg, metrics: dict) -> None:
    """Write report.html in cfg.report_dir, from `metrics` (metrics.json) and the figures there."""
    folder = cfg.report_dir
    text = fill(
        "report.html.j2",
        **_common(metrics),
        chance=chance_level(metrics),
        picture=functools.cache(lambda name: embedded(folder / name)),
        gradcam=gradcam_checks(files.read_json(folder / "gradcam.json")),
        audit=audit_table(files.read_json(cfg.audit_file)),
    )
    with files.atomic(folder / "report.html") as file:
        file.write(text)


def model_card(cfg, metrics: dict) -> None:
    """Write model_card.md in cfg.report_dir, from `metrics`, the split and the run's settings."""
    settings = files.read_json(cfg.run_dir / "config.json") or {}
    text = fill(
        "model_card.md.j2",
        **_common(metrics),
        counts=split.counts(split.read(cfg)),
        settings={name: Path(str(settings[name])).name for name in SETTINGS if name in settings},
    )
    with files.atomic(cfg.report_dir / "model_card.md") as file:
        file.write(text)


def _common(metrics) -> dict:
    """What the page and the card both ask for."""
    rule = rule_name(metrics["decisions"])
    subset, two_rules = metrics["primary_subset"], rule != "argmax"
    return {"metrics": metrics, "subset": subset, "rule": rule, "two_rules": two_rules}


def chance_level(metrics) -> float:
    """Balanced accuracy by chance: one over the number of classes that the subset has."""
    rows = metrics["subsets"][metrics["primary_subset"]]["per_class"].values()
    return 1 / sum(row["n"] > 0 for row in rows)


def embedded(path: Path) -> dict | None:
    """An image file as the source of an <img>, and its shape; None where there is no file."""
    if not path.exists():
        return None
    data, kind = path.read_bytes(), "jpeg" if path.suffix == ".jpg" else "png"
    image = Image.open(io.BytesIO(data))
    if len(data) > LARGE_PNG and kind == "png":
        buffer, kind = io.BytesIO(), "jpeg"
        image.convert("RGB").save(buffer, "JPEG", quality=85)
        data = buffer.getvalue()
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"source": source, "shape": "broad" if image.width > 800 else "narrow"}


def audit_table(audit: dict | None) -> dict | None:
    """leakage.json for the page: both kinds of split, and what every two subsets share."""
    if not audit:
        return None
    kinds = {name: audit[name] for name in ("lesion", "random") if name in audit}
    names = dict.fromkeys(name for counts in kinds.values() for name in counts)
    return {
        "strategy": audit.get("strategy"),
        "columns": [f"{kind} split" for kind in kinds],
        "rows": {name: [counts.get(name) for counts in kinds.values()] for name in names},
        "pairs": audit.get("pairs", {}),
        "left_out": audit.get("left_out", {}),
    }


def gradcam_checks(checks: dict | None) -> dict:
    """gradcam.json, and the verdicts on its maps against random ones."""
    checks = {"images": [], "mean": {}, "note": ""} | (checks or {})
    if not checks["mean"]:
        return checks
    return checks | {
        "deletion": _verdict(checks["images"], "deletion", -1),
        "insertion": _verdict(checks["images"], "insertion", 1),
    }


def _verdict(images, name, sign) -> str:
    """Better only by more than twice the standard error of the paired differences."""
    gains = [sign * (row[name] - row[f"{name}_random"]) for row in images]
    n, mean = len(gains), sum(gains) / len(gains)
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / max(n - 1, 1) / n)
    return "better" if mean > 2 * error and n > 2 else "not clearly better"
