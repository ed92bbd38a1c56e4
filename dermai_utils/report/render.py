"""report.html, model_card.md and index.html, from metrics.json and the files beside it.

The words are in templates/. The page asks the network for nothing; the pictures of its mistakes lie
in files beside it. Every number of its tables stands beside the key that it was looked up by in
metrics.json (`data-key`), so the two can't differ, and a reader can find each number again. The
card follows Mitchell et al. 2019, arXiv 1810.03993.
"""

import base64
import functools
import io
import math
import re
import shlex
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from PIL import Image

from dermai_utils import config, files
from dermai_utils.config import CLASS_NAMES, CLASSES, DISCLAIMER
from dermai_utils.data import split
from dermai_utils.metrics.predictions import SUBSET_NAMES
from dermai_utils.metrics.text import (
    format_number,
    headline,
    percent,
    pretty_name,
    rule_name,
    shown_subset,
    with_interval,
)
from dermai_utils.report import browse
from dermai_utils.training import checkpoint

LARGE_PNG = 300_000  # bytes; a photograph is a tenth of that as JPEG


def look_up(metrics, key: str):
    """What a key like subsets/test/per_class/MEL/recall leads to in metrics.json."""
    for name in key.split("/"):
        metrics = metrics[int(name) if isinstance(metrics, list) else name]
    return metrics


def headings(body: str) -> list[tuple]:
    """(anchor, title) of each <h2 id=...> of a page's body."""
    return re.findall(r'<h2 id="([^"]+)"><a[^>]*>(.*?)</a></h2>', body)


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
    "headings": headings,
    "number": format_number,
    "percent": percent,
    "pretty": pretty_name,
    "subset_name": lambda name: SUBSET_NAMES[name].partition(" (")[0],
    "shown": lambda name, metrics: shown_subset(metrics, name),
    "with_interval": with_interval,
}


def fill(template: str, **values) -> str:
    """The text of a template of templates/. An unknown name in it is an error, never a blank."""
    return TEMPLATES.get_template(template).render(values)


def report(cfg, metrics: dict) -> None:
    """Write report.html in cfg.report_dir, from `metrics` (metrics.json), predictions.csv and the
    figures there."""
    folder = cfg.report_dir
    predicted = (folder / "predictions.csv").exists()
    table = files.read_table(folder / "predictions.csv") if predicted else None
    text = fill(
        "report.html.j2",
        **_common(metrics),
        given=cfg.data,
        first=cfg.run_name,
        chance=chance_level(metrics),
        picture=functools.cache(lambda name: embedded(folder / name)),
        alternative=functools.partial(alternative, metrics),
        gradcam=gradcam_checks(files.read_json(folder / "gradcam.json")),
        audit=audit_table(files.read_json(cfg.audit_file)),
        training=training(cfg),
        looks=(files.read_json(folder / "predictor.json") or {}).get("looks", {}),
        mistakes=browse.mistakes(cfg, table) if predicted else [],
        thresholds=browse.thresholds(table) if predicted else {},
        present={path.name for path in folder.glob("[!.]*")},
    )
    with files.atomic(folder / "report.html") as file:
        file.write(text)


def model_card(cfg, metrics: dict) -> None:
    """Write model_card.md in cfg.report_dir, from `metrics`, the split and the run's settings."""
    counts = split.counts(split.read(cfg))
    text = fill("model_card.md.j2", **_common(metrics), counts=counts, training=training(cfg))
    with files.atomic(cfg.report_dir / "model_card.md") as file:
        file.write(text)


def index(cfg) -> Path:
    """Write index.html in cfg.work, which links every report and notebook there; returns it."""
    reports = []
    for folder in sorted((cfg.work / "report").glob("[!.]*/")):
        if (folder / "report.html").exists():
            metrics = files.read_json(folder / "metrics.json") or {}
            line = headline(metrics) if "argmax" in metrics else ""  # an earlier version's has none
            names = sorted(path.name for path in folder.glob("[!.]*.*"))
            reports.append({"run": folder.name, "headline": line, "files": names})
    notebooks = sorted(path.stem for path in (cfg.work / "html").glob("[!.]*.html"))
    tables = sorted(path.name for path in cfg.work.glob("[!.]*.[cj]s[vo]*"))
    text = fill(
        "index.html.j2",
        data=cfg.source,
        given=cfg.data,
        first=cfg.run_name,
        reports=reports,
        notebooks=notebooks,
        tables=tables,
    )
    with files.atomic(cfg.work / "index.html") as file:
        file.write(text)
    return cfg.work / "index.html"


def _common(metrics) -> dict:
    """What the page and the card both ask for."""
    rule = rule_name(metrics["decisions"])
    subset, two_rules = metrics["primary_subset"], rule != "argmax"
    return {"metrics": metrics, "subset": subset, "rule": rule, "two_rules": two_rules}


def alternative(metrics: dict | None, kind: str, subset: str | None = None) -> str:
    """What the figure `kind` of figures.FIGURES shows, in words; `metrics` may be None for a figure
    of the data."""
    rule = rule_name(metrics["decisions"]) if metrics else ""
    subset = subset or (metrics["primary_subset"] if metrics else None)
    values = dict(kind=kind, subset=subset, metrics=metrics, rule=rule)
    return " ".join(fill("alternatives.txt.j2", **values).split())


def training(cfg) -> dict:
    """How the run was trained: its settings, the command that trains it again, and what is known of
    version, date, machine and time (None where it isn't, as in runs of earlier versions)."""
    about = files.read_json(cfg.run_dir / "config.json") or {}
    paths = [folder / "history.csv" for folder in cfg.member_dirs]
    histories = [files.read_table(path) for path in paths if path.exists()]
    seconds = [value for history in histories for value in history["seconds"]]
    kept = [checkpoint.kept_epoch(folder) for folder in cfg.member_dirs] if histories else []
    settings = {name: about.get(name, getattr(cfg, name)) for name in config.FIELDS}
    settings["tta"] = cfg.tta  # the evaluation's, which may be another one than at the training
    return {
        "settings": {
            name: Path(str(value)).name
            for name, value in settings.items()
            if name not in config.OF_THE_MACHINE and value != ""
        },
        "command": command_line(cfg),
        "last_epoch_kept": kept == [history["epoch"].max() for history in histories],
        "minutes": round(sum(seconds) / 60, 1) if seconds else None,
        **{name: about.get(name) for name in ("version", "date", "machine")},
    }


def command_line(cfg) -> str:
    """The command that makes the run again: what its settings change of those that come by
    themselves. Of a path only the name is known elsewhere."""
    usual, words = config.load(env={}, data=cfg.data), ["python -m dermai_utils gradcam"]
    for name in config.FIELDS:
        value = getattr(cfg, name)
        if name not in config.OF_THE_MACHINE and (name == "data" or value != getattr(usual, name)):
            path = Path(str(value))
            value = f"path/to/{path.name}" if path.is_absolute() else str(value)
            words.append(f"--{name.replace('_', '-')} {shlex.quote(value)}")
    return " ".join(words)


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
        image.convert("RGB").save(buffer, "JPEG", quality=80)
        data = buffer.getvalue()
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    shape = "broad" if image.width > 800 else "narrow"
    return {"source": source, "shape": shape, "width": image.width, "height": image.height}


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
