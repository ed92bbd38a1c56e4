"""report.html, model_card.md and index.html: templates filled with metrics.json and the run.

A page asks the network for nothing. Every number of the report's tables carries the key under which
metrics.json has it (`data-key`), so the two cannot differ. The card follows Mitchell et al. 2019,
arXiv 1810.03993. Pages of other rooms extend base.html.j2 and are written by `save`.
"""

import base64
import functools
import io
import os
import re
import shlex
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from PIL import Image

from dermai_utils import files, settings, splits
from dermai_utils.basics import CLASS_NAMES, CLASSES, DISCLAIMER, PARTS, counted, data_flag
from dermai_utils.predictions import own_test_sets, subset_name
from dermai_utils.study import text

GIVEN = ("sample_elsewhere", "given test")  # test sets that come with the data
NOT_SHOWN = ("run_name", "version", "date", "machine", "sources")  # elsewhere on the page


def look_up(metrics, key: str):
    """What a key like subsets/test/per_class/MEL/recall leads to in metrics.json; None below a
    None."""
    for name in key.split("/"):
        if metrics is not None:
            metrics = metrics[int(name) if isinstance(metrics, list) else name]
    return metrics


def full_name(subset: str, metrics: dict) -> str:
    """What people read in place of a subset of metrics.json."""
    return subset_name(subset, metrics["data"], metrics["folds"])


def short_name(subset: str, metrics: dict) -> str:
    """As `full_name`, without what is in brackets."""
    return full_name(subset, metrics).partition(" (")[0]


def headings(body: str) -> list[tuple]:
    """(anchor, title) of each <h2 id=...> of a page's body."""
    return re.findall(r'<h2 id="([^"]+)"><a[^>]*>(.*?)</a></h2>', body)


def rate(share, n: int) -> str:
    """A share of `n` images: counts where they are few.

    >>> rate(0.75, 4), rate(0.75, 40)
    ('3 of 4', '0.750')
    """
    if share is None or n >= text.FEW:
        return text.format_number(share)
    return f"{round(share * n)} of {n}"


TEMPLATES = Environment(
    loader=FileSystemLoader(sorted(Path(__file__).parents[1].glob("*/templates"))),
    autoescape=select_autoescape(["html.j2"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.globals |= {"CLASSES": CLASSES, "CLASS_NAMES": CLASS_NAMES, "DISCLAIMER": DISCLAIMER}
TEMPLATES.globals |= {"rate": rate}
TEMPLATES.filters |= {
    "at": look_up,
    "counted": counted,
    "data_flag": data_flag,
    "headings": headings,
    "number": text.format_number,
    "percent": text.percent,
    "pretty": text.pretty_name,
    "short_name": short_name,
    "with_interval": text.with_interval,
}


def fill(template: str, **values) -> str:
    """The text of a room's template. An unknown name in it is an error, never a blank."""
    return TEMPLATES.get_template(template).render(values)


def save(path: Path, template: str, figures: dict | None = None, **values) -> Path:
    """Fill a template into a file. `figures`: {file: what it shows, in words} of pictures in the
    file's folder, which become a part of the page."""
    figures = figures or {}
    picture = functools.cache(lambda name: name in figures and embedded(path.with_name(name)))
    content = fill(template, figures=figures, picture=picture, **values)
    with files.atomic(path) as file:
        file.write(content)
    return path


def embedded(path: Path) -> dict:
    """An image file as the source of an <img>, and its shape."""
    data, kind = path.read_bytes(), "jpeg" if path.suffix == ".jpg" else "png"
    width, height = Image.open(io.BytesIO(data)).size
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    shape = "broad" if width > 800 else "narrow"
    return {"source": source, "shape": shape, "width": width, "height": height}


def report(run, metrics: dict, figures: dict, **values) -> Path:
    """Write model_card.md and report.html; returns the latter. `figures`: {file: what it shows, in
    words}; `values`: audit, gradcam, mistakes and thresholds."""
    rule, subset = text.rule_name(metrics["decisions"]), metrics["primary_subset"]
    rows = metrics["subsets"][subset]["per_class"].values()
    values |= {
        "metrics": metrics,
        "subset": subset,
        "rule": rule,
        "two_rules": rule != "argmax",
        "chance": 1 / sum(row["n"] > 0 for row in rows),
        "chosen_images": "out-of-fold predictions" if metrics["folds"] else "validation images",
        "name": functools.partial(full_name, metrics=metrics),
        "short": functools.partial(short_name, metrics=metrics),
        "training": training(run),
        "run": run.name,
        "data": metrics["data"],
        "counts": splits.counts(run.table, run.table["subset"]),
        "left_out": int((run.table["subset"] == "left out").sum()),
    }
    save(run.folder / "model_card.md", "model_card.md.j2", **values)
    present = {path.name for path in run.folder.glob("[!.]*")}
    return save(run.folder / "report.html", "report.html.j2", figures, present=present, **values)


def index(work) -> Path:
    """Write WORK/index.html, which links every report and notebook there, and return it."""
    work, reports, data = Path(work), [], ""
    for page in sorted((work / "runs").glob("[!.]*/report.html")):
        metrics = files.read_json(page.with_name("metrics.json"))
        reports.append({"run": page.parent.name, "headline": text.headline(metrics)})
        data = data or metrics["data"]
    return save(
        work / "index.html",
        "index.html.j2",
        data=data or work.name,
        reports=reports,
        notebooks=sorted(path.stem for path in (work / "html").glob("[!.]*.html")),
        tables=sorted(path.name for path in work.glob("[!.]*.[cj]s[vo]*")),
    )


def training(run) -> dict:
    """How the run was trained: its settings, the parts that a reader replaced, the command that
    trains it again, time, version, date and machine (None where not known)."""
    about, members = run.settings, run.members if run.folds else [run]
    histories = [member.history for member in members if member.history is not None]
    seconds = sum(history["seconds"].sum() for history in histories)
    replaced = {part: about[part] for part in PARTS if about.get(part)}
    hidden = {*NOT_SHOWN, *PARTS}
    return {
        "network": replaced.get("network") or about["backbone"],
        "replaced": replaced,
        "settings": {
            k: Path(v).name if os.path.isabs(str(v)) else v  # no folders of this machine
            for k, v in about.items()
            if k not in hidden and v not in ("", None)
        },
        "command": command(about, run.table),
        "time": duration(seconds) if seconds else None,
        **{name: about.get(name) for name in ("version", "date", "machine")},
    }


def duration(seconds: float) -> str:
    """How long something took, in words.

    >>> duration(0.3), duration(42.0), duration(180.0)
    ('1 second', '42 seconds', '3.0 minutes')
    """
    if seconds < 100:
        return counted(max(1, round(seconds)), "second")
    return f"{seconds / 60:.1f} minutes"


def command(about: dict, table) -> str:
    """The command that trains a run again, from its settings `about` and its `table`. Of a path
    only the name is known elsewhere."""
    name = "sample" if about.get("data") == "sample" else "quick_cpu"
    preset = settings.PRESETS[name]
    words = ["python -m dermai_utils run"] + ["--preset quick_cpu"] * (name != "sample")
    for name, field in settings.FIELDS.items():
        usual = preset.get(name, field.default)
        if name in about and (name == "data" or str(about[name]) != str(usual)):
            value = str(about[name])
            if "or a path" in field.metadata["allowed"] and value not in field.metadata["allowed"]:
                value = f"path/to/{Path(value).name}"
            words.append(f"--{name.replace('_', '-')} {shlex.quote(value)}")
    for name in own_test_sets(table["source"]):
        if name not in GIVEN:
            flag = "--extra" if name == "extra" else "--test"
            words.append(f"{flag} {shlex.quote(f'path/to/{name}')}")
    return " ".join(words)
