"""The figures and tables of a run by name: the report saves them, the notebooks show them."""

from functools import cached_property

import numpy as np
import pandas as pd

from dermai_utils import files
from dermai_utils.config import CLASS_NAMES, CLASSES, UserError, check_run_names
from dermai_utils.data import clean, pixels, split
from dermai_utils.metrics import bootstrap, classification, decisions, predictions
from dermai_utils.metrics.predictions import HELD_OUT, SUBSET_NAMES, arrays  # noqa: F401
from dermai_utils.metrics.text import (  # the notebooks use these too
    headline,  # noqa: F401
    rule_name,
    subset_name,
)
from dermai_utils.report import (
    data_plots,
    gradcam,
    near_duplicate_pairs,
    photographs,
    plots,
    render,
    summary,
)
from dermai_utils.training import checkpoint
from dermai_utils.training.inference import LoadedRun

MISTAKES = {"mistakes": "most_confident"}  # of metrics.json; the other kinds have their own name
PRIMARY = (
    "metrics calibration operating_points risk_coverage subgroups leakage_effect".split()
)  # figures of the primary subset alone


class Source:
    """What figures are drawn from: the files of a run, each read when it is first needed."""

    def __init__(self, cfg, metrics: dict | None = None, table: pd.DataFrame | None = None):
        self.cfg = cfg
        if metrics is not None:
            self.metrics, self.predictions = metrics, table

    @cached_property
    def metrics(self):
        return files.read_json(self.cfg.report_dir / "metrics.json")

    @cached_property
    def predictions(self):
        return files.read_table(self.cfg.report_dir / "predictions.csv")

    @cached_property
    def images(self):
        return pixels.load(self.cfg.pixels_file)

    @cached_property
    def table(self):
        return files.read_table(self.cfg.table_file)

    @property
    def primary(self):
        return self.metrics["primary_subset"]

    @property
    def two_rules(self) -> bool:
        """Whether the chosen decision rule is another one than argmax."""
        return self.metrics["decisions"]["chosen"] != "argmax"

    def name(self, subset=None) -> str:
        """The title of a figure of `subset`, by default the primary one."""
        return subset_name(self.metrics, subset or self.primary)

    def by_rule(self, subset) -> str:
        """The title of a figure of `subset` whose predictions follow the chosen rule."""
        return f"{self.name(subset)}\ndecision rule: {rule_name(self.metrics['decisions'])}"

    def rows(self, subset=None):
        return predictions.scored_rows(self.predictions, subset or self.primary)


def draw(cfg, name: str, source: Source | None = None) -> plots.Figure:
    """The figure `name` of FIGURES, of the primary subset; NAME_val, NAME_test and NAME_official of
    another one. UserError for an unknown name."""
    kind, _, subset = name.rpartition("_")
    if subset not in HELD_OUT:
        kind, subset = name, None
    if kind not in FIGURES:
        raise UserError(f"no figure {name!r}: the figures are {', '.join(FIGURES)}")
    source = source or Source(cfg)
    figure = FIGURES[kind](source, subset)
    figure.alt = render.alternative(source.metrics, kind, subset)
    return figure


def save_all(cfg, metrics, table) -> None:
    """Every figure of the report to cfg.report_dir, as PNG, near-duplicates as JPEG."""
    source = Source(cfg, metrics, table)
    kinds = ["roc", "precision_recall", "mistakes", "costly", "likely_mislabelled"]
    kinds += ["confusion_argmax"] * source.two_rules
    names = [f"confusion_{subset}" for subset in metrics["subsets"]]
    names += [f"{kind}_{source.primary}" for kind in kinds]
    has = {"subgroups": metrics["subgroups"]["subset"], "leakage_effect": metrics["leakage_effect"]}
    names += [name for name in PRIMARY if has.get(name, True)] + ["learning_curve"]
    for path in cfg.report_dir.glob("*.png"):  # of an earlier decision rule or subset
        if not path.name.startswith("gradcam"):
            path.unlink()
    for name in names:
        draw(cfg, name, source).save(cfg.report_dir / f"{name}.png")
    save_near_duplicates(cfg, source.images)


def save_near_duplicates(cfg, images) -> None:
    """near_duplicates.jpg, all pairs of the list, and some_near_duplicates.jpg, six of them."""
    pairs = near_duplicate_pairs.titled(split.near_duplicates(cfg), clean.read(cfg))
    six = np.unique(np.linspace(0, len(pairs) - 1, 6).round().astype(int)) if pairs else []
    sheets = {"near_duplicates": pairs, "some_near_duplicates": [pairs[k] for k in six]}
    for name, shown in sheets.items():
        path = cfg.report_dir / f"{name}.jpg"
        path.unlink(missing_ok=True)
        if shown:
            photographs.side_by_side(shown, images).save(path)


# The figures.


def _class_counts(source, _):
    return data_plots.class_counts(class_counts(source.cfg))


def _contact_sheet(source, _):
    return photographs.contact_sheet(source.table, source.images)


def _split_counts(source, _):
    return data_plots.split_counts(split.counts(split.read(source.cfg)))


def _leakage(source, _):
    return data_plots.leakage(files.read_json(source.cfg.audit_file))


def _leakage_effect(source, _):
    effect = files.read_json(source.cfg.leakage_effect_file)
    if effect is None:
        return plots.message("Not measured yet: python -m dermai_utils leakage_effect")
    return data_plots.leakage_effect(effect)


def _learning_curve(source, _):
    return plots.learning_curve(history(source.cfg), kept_epoch(source.cfg))


def _metrics(source, subset):
    subset = subset or source.primary
    intervals = source.metrics["intervals"][subset]
    return plots.metrics_with_intervals(intervals, source.by_rule(subset))


def _confusion(source, subset):
    subset = subset or source.primary
    counts = np.array(source.metrics["subsets"][subset]["confusion"])
    return plots.confusion(counts, source.by_rule(subset))


def _confusion_argmax(source, subset):
    subset = subset or source.primary
    counts = np.array(source.metrics["argmax"]["subsets"][subset]["confusion"])
    return plots.confusion(counts, f"{source.name(subset)}\ndecision rule: argmax")


def _roc(source, subset):
    return plots.roc(*arrays(source.rows(subset)), source.name(subset))


def _precision_recall(source, subset):
    title = source.name(subset)
    return plots.precision_recall(*arrays(source.rows(subset)), title)


def _calibration(source, _):
    results = [source.metrics["calibration"][when] for when in ("before", "after")]
    bins = [pd.DataFrame(result["reliability"]) for result in results]
    title = f"{source.name()}: the most probable class (argmax)"
    return plots.reliability(*bins, title)


def _operating_points(source, _):
    points = source.metrics["operating_points"]
    return plots.operating_points(points, source.name())


def _risk_coverage(source, _):
    curve = decisions.risk_coverage(*arrays(source.rows()))
    points = source.metrics["risk_coverage"]["points"]
    title = f"{source.name()}: the most probable class (argmax)"
    return plots.risk_coverage(curve, points, title)


def _subgroups(source, _):
    groups = source.metrics["subgroups"]
    if groups["subset"] is None:
        return plots.message("No age, sex, localization or way of confirmation is given here.")
    return plots.subgroups(groups["groups"], source.by_rule(groups["subset"]))


def _mistakes(kind):
    def draw(source, subset):
        rows = source.rows(subset)
        if subset in (None, source.primary):
            rows = summary.listed_mistakes(source.metrics, rows, MISTAKES.get(kind, kind))
        else:
            rows = predictions.mistakes(rows).head(summary.MISTAKES_LISTED)
        return photographs.mistakes(rows, source.images, source.by_rule(subset or source.primary))

    return draw


def _gradcam(layout):
    def draw(source, _):
        run = LoadedRun(source.cfg)
        maps = gradcam.maps_for(run, gradcam.choose(source.rows()))
        return layout(maps, gradcam.note(source.cfg))

    return draw


FIGURES = {
    "class_counts": _class_counts,
    "contact_sheet": _contact_sheet,
    "split_counts": _split_counts,
    "leakage": _leakage,
    "leakage_effect": _leakage_effect,
    "learning_curve": _learning_curve,
    "metrics": _metrics,
    "confusion": _confusion,
    "confusion_argmax": _confusion_argmax,
    "roc": _roc,
    "precision_recall": _precision_recall,
    "calibration": _calibration,
    "operating_points": _operating_points,
    "risk_coverage": _risk_coverage,
    "subgroups": _subgroups,
    **{kind: _mistakes(kind) for kind in ("mistakes", "costly", "likely_mislabelled")},
    "gradcam": _gradcam(photographs.pairs),
    "explanations": _gradcam(photographs.explanations),
}


# Tables for the notebooks.


def class_legend() -> pd.DataFrame:
    """The seven classes and what they stand for."""
    return pd.DataFrame({"class": CLASSES, "diagnosis": [CLASS_NAMES[c] for c in CLASSES]})


def class_counts(cfg) -> pd.DataFrame:
    """Images and lesions of each class among the training images."""
    table = files.read_table(cfg.table_file)
    return clean.class_counts(table[table["source"] == "train"])


def history(cfg) -> pd.DataFrame:
    """A row an epoch of the run, or of an ensemble's first member."""
    return files.read_table(cfg.member_dirs[0] / "history.csv")


def kept_epoch(cfg) -> int:
    """The epoch that best.pt of the run holds, or of an ensemble's first member."""
    return checkpoint.kept_epoch(cfg.member_dirs[0])


def gradcam_examples(cfg) -> pd.DataFrame:
    """The rows of predictions whose maps "gradcam" and "explanations" show, with their `kind`."""
    return gradcam.choose(Source(cfg).rows())


def class_table(metrics: dict) -> pd.DataFrame:
    """The classification report of the primary subset, as text."""
    subset = metrics["subsets"][metrics["primary_subset"]]
    return classification.readable(classification.class_table(subset))


def rule_table(metrics: dict) -> pd.DataFrame:
    """Balanced accuracy, macro F1 and accuracy of each decision rule on the primary subset."""
    rules = metrics["decisions"]["rules"].items()
    values = {r: {k: v["value"] for k, v in row["scored"].items()} for r, row in rules}
    return pd.DataFrame(values).T.round(3)


def rechosen(cfg, images: int = 50) -> pd.DataFrame | str:
    """decisions.rechosen of the user's own test set (`test=PATH`), or a sentence without one."""
    source = Source(cfg)
    if "own" not in source.metrics["subsets"]:
        return "No own test set: give test, a folder of labelled images (layouts: docs/data.md)."
    return decisions.rechosen(source.rows("val"), source.rows("own"), images).round(3)


def compare(cfg, other: str) -> pd.DataFrame:
    """This run minus run `other` on the primary subset: value, low and high of each metric; over 0
    this run is better.

    Each by its own chosen decision rule, and by argmax: rows metric, "metric (argmax)". Paired
    intervals by lesion (bootstrap.difference). UserError where the two were not evaluated on the
    same images.
    """
    check_run_names(f"other={other!r:.80}", [other])
    folders = cfg.report_dir, cfg.report_dir.with_name(other)
    for folder in folders:
        if not all((folder / name).exists() for name in ("predictions.csv", "metrics.json")):
            done = sorted(path.parent.name for path in folder.parent.glob("*/predictions.csv"))
            raise UserError(
                f"{cfg.show(folder)}: no predictions there; evaluate that run first "
                f"(runs with predictions: {', '.join(done) or 'none'})"
            )
    decided = [files.read_json(folder / "metrics.json")["decisions"] for folder in folders]
    tables = [files.read_table(folder / "predictions.csv") for folder in folders]
    subset = predictions.primary_subset(set(tables[0]["subset"]))
    a, b = (predictions.scored_rows(table, subset).set_index("image") for table in tables)
    if set(a.index) != set(b.index):
        raise UserError(
            f"runs {cfg.run_name} and {other} have no {subset} subset in common: "
            "evaluate both on one split"
        )
    b = b.loc[a.index]
    (truth, p), (_, q) = arrays(a), arrays(b)
    scores = [decisions.by_chosen_rule(x, rule) for x, rule in zip((a, b), decided, strict=True)]
    rows = {}
    for pair, note in ((scores, ""), (None, " (argmax)")):
        options = dict(scores=pair, n_resamples=summary.RESAMPLES)
        difference = bootstrap.difference(truth, p, q, a["lesion_id"], **options)
        names = classification.CONFUSION_METRICS if note else difference
        rows |= {f"{name}{note}": difference[name] for name in names}
    return pd.DataFrame(rows).T.rename_axis(f"{cfg.run_name} minus {other}")
