"""Every chart: each function returns a Figure, which notebooks show and the report saves."""

import io

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import figure as mpl
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from dermai_utils import files
from dermai_utils.config import CLASSES
from dermai_utils.metrics.text import pretty_name

# Okabe and Ito's palette, told apart with any kind of colour vision (jfly.uni-koeln.de/color).
BLACK, ORANGE, SKY, GREEN, PINK, BLUE, RED = (
    "#000000 #E69F00 #56B4E9 #009E73 #CC79A7 #0072B2 #D55E00".split()
)
COLOURS = dict(zip(CLASSES, (BLACK, ORANGE, SKY, GREEN, PINK, BLUE, RED), strict=True))
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 3)), (0, (2, 1)))
DASHES = dict(zip(CLASSES, LINES, strict=True))  # colour alone doesn't tell seven curves apart
SUBSET_COLOURS = {"train": SKY, "val": ORANGE, "test": GREEN, "official": PINK, "own": BLUE}
INK = "#333333"
DPI = 120
DOTS = dict(marker="o", ms=3)


class Figure(mpl.Figure):
    """A figure without pyplot: nothing to close, no window, shown as a PNG by every notebook."""

    photographs = False  # then a notebook gets it as JPEG, a tenth of the size
    alt = ""  # what it shows, in words

    def encoded(self, kind: str = "png") -> bytes:
        """The figure as the bytes of a PNG or JPEG; 120 dots an inch, so that small print is
        legible."""
        buffer = io.BytesIO()
        self.savefig(buffer, format=kind, dpi=DPI, bbox_inches="tight")
        if self.photographs or kind == "jpeg":
            return buffer.getvalue()
        chart = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE)
        small = io.BytesIO()
        chart.save(small, "PNG", optimize=True)  # a third of the bytes
        return small.getvalue()

    def save(self, path) -> None:
        """Write it as PNG or JPEG, atomically."""
        with files.atomic(path, "wb") as file:
            file.write(self.encoded("jpeg" if path.suffix == ".jpg" else "png"))

    def _repr_png_(self):
        return None if self.photographs else (self.encoded("png"), {"alt": self.alt})

    def _repr_jpeg_(self):
        return (self.encoded("jpeg"), {"alt": self.alt}) if self.photographs else None


def axes(width, height, rows=1, columns=1, **options):
    """(Figure of `width` x `height` inches, (rows, columns) axes without a frame)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in grid.flat:
        plain(ax)
    return figure, grid


def plain(ax) -> None:
    """Neither an upper nor a right edge, and small ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(colors=INK, labelsize=9)


def message(text: str) -> Figure:
    """A figure that says why there is no figure."""
    figure, grid = axes(8, 1)
    grid[0, 0].axis("off")
    grid[0, 0].text(0, 0.5, text, fontsize=10, color=INK)
    return figure


# Training.


def learning_curve(history: pd.DataFrame, kept: int) -> Figure:
    """Loss, and validation balanced accuracy and macro F1, by epoch; `kept` is the epoch whose
    weights are in best.pt."""
    figure, grid = axes(9, 3.2, 1, 2)
    (left, right), epoch = grid[0], history["epoch"]
    left.plot(epoch, history["loss"], **DOTS, color=BLUE, label="training (weighted, augmented)")
    options = dict(marker="s", ms=3, ls="--")
    left.plot(epoch, history["val_loss"], **options, color=ORANGE, label="validation (unweighted)")
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    score = history["balanced_accuracy"]
    right.plot(epoch, score, **DOTS, color=GREEN, label="balanced accuracy")
    right.plot(epoch, history["macro_f1"], **options, color=PINK, label="macro F1")
    best = (kept, score[epoch == kept].iloc[0])
    right.axvline(kept, color=INK, lw=0.8, ls=":")
    right.annotate(f" kept {best[1]:.3f}", best, fontsize=9, color=INK)
    right.set(xlabel="epoch", ylabel="validation score", ylim=(0, 1))
    for ax in (left, right):
        ax.legend(frameon=False, fontsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def differences(rows: list[dict]) -> Figure:
    """Forest plot: what each change adds to each score, hollow where that may be nothing.

    rows: of an ablation, `change` (a name) and `difference` {score: {"value", "low", "high"}}, 95 %
    by lesion.
    """
    scores = rows[0]["difference"]
    figure, grid = axes(11, 1.0 + 0.28 * len(rows), 1, len(scores), sharey=True)
    for ax, score in zip(grid[0], scores, strict=True):
        ax.axvline(0, color=INK, lw=0.8)
        for y, row in enumerate(rows):
            value, low, high = (row["difference"][score][key] for key in ("value", "low", "high"))
            _whisker(ax, y, value, low, high, BLUE, hollow=low <= 0 <= high)
        rows_from_top(ax, [row["change"] for row in rows])
        ax.set_xlabel(f"difference in {pretty_name(score)} (95 %)")
    return figure


# A run's metrics.


def metrics_with_intervals(metrics: dict, title: str = "") -> Figure:
    """A dot with whiskers for each of {metric: {"value", "low", "high"}}, 95 %."""
    rows = {name: row for name, row in metrics.items() if row["value"] is not None}
    figure, grid = axes(8, 0.8 + 0.36 * len(rows))
    ax = grid[0, 0]
    for y, row in enumerate(rows.values()):
        value, low, high = row["value"], row["low"], row["high"]
        _whisker(ax, y, value, low, high, BLUE)
        interval = f"{value:.3f}  [{low:.3f}, {high:.3f}]"
        ax.text(1.03, y, interval, va="center", fontsize=9, color=INK)
    rows_from_top(ax, [pretty_name(name) for name in rows])
    ax.set(xlim=(0, 1.02), xlabel="score, 0 to 1 (95 % interval)")
    ax.set_title(title, fontsize=10)
    return figure


def _whisker(ax, y, value, low, high, colour, hollow=False):
    """A dot at `value` with its interval; hollow where there is too little to read much into."""
    low, high = (value if v is None else v for v in (low, high))
    alpha, fill = (0.45, "white") if hollow else (1, colour)
    ax.plot([low, high], [y, y], color=colour, lw=1.6, alpha=alpha, solid_capstyle="butt")
    ax.plot(value, y, "o", ms=6, color=colour, mfc=fill, clip_on=False, zorder=3)


def rows_from_top(ax, names):
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="x", color="#E5E5E5", lw=0.8)
    ax.set_axisbelow(True)


def confusion(counts: np.ndarray, title: str = "") -> Figure:
    """Two heatmaps of a (7, 7) confusion matrix, rows the true class: counts, and row-normalised
    (recall on the diagonal)."""
    figure, grid = axes(10, 4.7, 1, 2)
    n = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, n, out=np.full(counts.shape, np.nan), where=n > 0)
    rows = [f"{c} (n={k})" for c, k in zip(CLASSES, n[:, 0], strict=True)]
    heat = dict(cmap="Blues", cbar=False, square=True, linewidths=0.5, vmin=0, vmax=1)
    heat |= dict(xticklabels=CLASSES, annot_kws={"size": 9})
    left, right = grid[0]
    sns.heatmap(share, ax=left, annot=counts, fmt="d", yticklabels=rows, **heat)
    sns.heatmap(share, ax=right, annot=True, fmt=".2f", yticklabels=CLASSES, **heat)
    for ax in grid[0]:
        for cell in ax.texts:
            x, y = (int(place) for place in cell.get_position())
            cell.set_color(ink_on(ax.collections[0].cmap(share[y, x])))
    left.set(xlabel="predicted", ylabel="true", title="images")
    right.set(xlabel="predicted", ylabel="", title="share of the true class")
    for ax in grid[0]:
        ax.tick_params(axis="y", rotation=0)
    figure.suptitle(title, fontsize=11)
    return figure


def ink_on(colour) -> str:
    """Black or white, whichever has the greater contrast with `colour` (red, green, blue, 0 to 1):
    at least 4.58 to 1 (WCAG 2.2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"


def roc(truth, probabilities, title: str = "") -> Figure:
    """One-vs-rest ROC curve of each class that has positives and negatives, with its area."""
    figure, grid = axes(5.6, 5)
    ax = grid[0, 0]
    for label, positive, score in _one_against_the_rest(truth, probabilities):
        x, y, _ = roc_curve(positive, score)
        text = f"{label} {roc_auc_score(positive, score):.3f} (n={positive.sum()})"
        _curve(ax, x, y, label, text)
    ax.plot([0, 1], [0, 1], color=INK, lw=0.7)
    ax.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    ax.set_title(title, fontsize=10)
    _legend(ax, title="AUC", loc="lower right")
    return figure


def _legend(ax, **options):
    """A legend of the curves, or in their place why there are none."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8, handlelength=4, **options)
    else:
        ax.text(0.98, 0.1, "images of one class alone: no curve", ha="right", fontsize=9)


def precision_recall(truth, probabilities, title: str = "") -> Figure:
    """One-vs-rest precision against recall of each class that has positives and negatives, with its
    average precision beside what chance gives, the class's share."""
    figure, grid = axes(7.4, 5)
    ax = grid[0, 0]
    for label, positive, score in _one_against_the_rest(truth, probabilities):
        precision, recall, _ = precision_recall_curve(positive, score)
        area = average_precision_score(positive, score)
        _curve(ax, recall, precision, label, f"{label} {area:.3f} (chance {positive.mean():.3f})")
    ax.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)", aspect="equal")
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02))
    ax.set_title(title, fontsize=10)
    _legend(ax, title="average precision", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _one_against_the_rest(truth, probabilities):
    """(class, (N,) bool, (N,) score) of each class that has positives and negatives."""
    for k, label in enumerate(CLASSES):
        positive = np.asarray(truth) == k
        if positive.any() and not positive.all():
            yield label, positive, probabilities[:, k]


def _curve(ax, x, y, label, text):
    ax.plot(x, y, color=COLOURS[label], ls=DASHES[label], lw=1.6, label=text)


def reliability(before: pd.DataFrame, after: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy against confidence (calibration.reliability), with Wilson's bars, before and after
    temperature scaling."""
    figure, grid = axes(8.6, 5, 2, 2, sharex=True, height_ratios=[3.2, 1])
    panels = {"as predicted": before, "after temperature scaling": after}
    for (top, below), (name, bins) in zip(grid.T, panels.items(), strict=True):
        full = bins[bins["n"] > 0].astype(float)
        accuracy, n = full["accuracy"], int(full["n"].sum())
        errors = np.clip([accuracy - full["low"], full["high"] - accuracy], 0, None)
        top.plot([0, 1], [0, 1], color=INK, lw=0.7, ls=":")
        options = dict(fmt="o", ms=5, color=BLUE, elinewidth=1.2)
        top.errorbar(full["confidence"], accuracy, errors, **options)
        top.set(xlim=(0, 1.02), ylim=(0, 1.02))
        top.set_title(f"{name} (n={n:,})", fontsize=10)
        below.bar(bins["bin"], bins["n"], 0.9 / max(len(bins), 1), color=SKY)
        below.set(xlabel="confidence (probability of the predicted class)")
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    grid[0, 0].set_ylabel("accuracy (95 % Wilson interval)")
    grid[1, 0].set_ylabel("images")
    figure.suptitle(title, fontsize=11)
    return figure


def risk_coverage(curve: pd.DataFrame, points=(), title: str = "") -> Figure:
    """Share of wrong answers against share answered (decisions.risk_coverage).

    `points`: dicts with the `coverage` and `risk` at confidence thresholds chosen on validation,
    drawn as dots.
    """
    figure, grid = axes(6.4, 3.8)
    ax, n = grid[0, 0], len(curve)
    x, y = curve["coverage"], curve["risk"]
    ax.plot(x, y, color=BLUE, lw=1.6, label="the most confident answered first")
    everyone = y.iloc[-1] if n else 0
    ax.axhline(everyone, color=INK, lw=0.8, ls=":", label="abstaining at random")
    dots = [(point["coverage"], point["risk"]) for point in points if point["risk"] is not None]
    label = "thresholds chosen on validation"
    ax.plot(*np.reshape(dots, (-1, 2)).T, "o", color=RED, ms=6, label=label)
    ax.set(xlabel=f"share of the images answered (n={n:,})")
    ax.set(ylabel="share of the answers that is wrong")
    ax.set(xlim=(0, 1.02), ylim=(0, max(1.25 * everyone, 0.05)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    ax.set_title(title, fontsize=10)
    return figure


def subgroups(groups: dict, title: str = "") -> Figure:
    """Forest plot of balanced accuracy and accuracy, a row a subgroup with its n; hollow where
    there are few images.

    groups: {column: rows of bootstrap.subgroups as dicts, with `group`}.
    """
    lines = []
    for column, rows in groups.items():
        lines.append((column.replace("_", " "), None))
        lines += [(f"{pretty_name(row['group'])} (n={row['n']:,})", row) for row in rows]
    figure, grid = axes(9, 0.9 + 0.25 * len(lines), 1, 2, sharey=True)
    scores = {"balanced_accuracy": BLUE, "accuracy": GREEN}
    for ax, (score, colour) in zip(grid[0], scores.items(), strict=True):
        for y, row in enumerate(row for _, row in lines):
            if row and row[score] is not None:
                ends = row[f"{score}_low"], row[f"{score}_high"]
                _whisker(ax, y, row[score], *ends, colour, row["small"])
            if row and score == "balanced_accuracy":
                ax.text(1.04, y, f"{row['classes']} of 7", fontsize=8, color=INK, va="center")
        rows_from_top(ax, [name for name, _ in lines])
        ax.set(xlim=(0, 1.03), xlabel=f"{pretty_name(score)} (95 % interval)")
    for label, (_, row) in zip(grid[0, 0].get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if row is None else "normal")
    grid[0, 0].text(1.04, -1.1, "classes", fontsize=8, color=INK)
    figure.suptitle(title, fontsize=11)
    return figure


def operating_points(points: list[dict], title: str = "") -> Figure:
    """Sensitivity and specificity at thresholds chosen on validation: a panel a target; the bar is
    what was asked for."""
    targets = list(dict.fromkeys(point["target"] for point in points))
    figure, grid = axes(9, 3.6, 1, len(targets), sharey=True)
    rates = {"sensitivity": (RED, -0.13), "specificity": (BLUE, 0.13)}
    for ax, target in zip(grid[0], targets, strict=True):
        rows = [point for point in points if point["target"] == target]
        for y, point in enumerate(rows):
            for rate, (colour, shift) in rates.items():
                _rate(ax, y + shift, point, rate, colour)
        labels = [f"asked for: {row['rate']} {100 * row['level']:.0f} %" for row in rows]
        rows_from_top(ax, labels)
        n = rows[0]["scored"]["n"]
        ax.set(xlim=(0, 1.03), xlabel=f"rate on n={n:,} images (95 % interval)")
        ax.set_title(target, fontsize=10)
    first = grid[0, 0]
    handles = [first.plot([], [], "o-", color=c, label=rate)[0] for rate, (c, _) in rates.items()]
    handles += first.plot([], [], "|", ms=10, mew=1.6, color=INK, label="asked for")
    figure.legend(handles=handles, frameon=False, fontsize=9, ncols=3, loc="outside lower center")
    figure.suptitle(title, fontsize=11)
    figure.get_layout_engine().set(wspace=0.04)  # else one panel's 1.0 touches the next one's 0.0
    return figure


def _rate(ax, y, point, rate, colour):
    scored = point["scored"]
    if scored[rate] is not None:
        _whisker(ax, y, scored[rate], scored[f"{rate}_low"], scored[f"{rate}_high"], colour)
    if rate == point["rate"]:
        ax.plot([point["level"]] * 2, [y - 0.14, y + 0.14], color=INK, lw=1.6)
