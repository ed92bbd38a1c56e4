"""The charts of a run: each is a function of arrays or tables and returns a Figure.

`truth` (N,) int and `probabilities` (N, 7) float follow the order of CLASSES. `title` stands above
the chart.
"""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn import metrics

from dermai_utils.basics import CLASSES
from dermai_utils.reports.canvas import (
    BLUE,
    COLOURS,
    DASHES,
    GREEN,
    INK,
    ORANGE,
    PINK,
    RED,
    SKY,
    Figure,
    axes,
    described,
    ink_on,
    rows_from_top,
    whisker,
)
from dermai_utils.study import decisions
from dermai_utils.study.text import pretty_name, with_interval

# Training.


def learning_curves(history: pd.DataFrame, kept: int | None = None, title: str = "") -> Figure:
    """Loss, and balanced accuracy and macro F1 on validation, by epoch.

    `history`: a row an epoch, NaN where the epoch was not validated. `kept`: the epoch whose
    weights were kept, which is marked.
    """
    figure, grid = axes(9, 3.2, 1, 2)
    (left, right), epoch = grid[0], history["epoch"]
    dots, squares = dict(marker="o", ms=3), dict(marker="s", ms=3, ls="--")
    left.plot(epoch, history["loss"], **dots, color=BLUE, label="training (augmented images)")
    seen = history[history["balanced_accuracy"].notna()]
    left.plot(seen["epoch"], seen["val_loss"], **squares, color=ORANGE, label="validation")
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    score = seen["balanced_accuracy"]
    right.plot(seen["epoch"], score, **dots, color=GREEN, label="balanced accuracy")
    right.plot(seen["epoch"], seen["macro_f1"], **squares, color=PINK, label="macro F1")
    if kept in set(seen["epoch"]):
        best = (kept, score[seen["epoch"] == kept].iloc[0])
        right.axvline(kept, color=INK, lw=0.8, ls=":")
        right.annotate(f" kept {best[1]:.3f}", best, fontsize=9, color=INK)
    right.set(xlabel="epoch", ylabel="validation score", ylim=(0, 1))
    for ax in (left, right):
        ax.legend(frameon=False, fontsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title, fontsize=11)
    words = "Two charts by epoch: training and validation loss, and the validation scores."
    return described(figure, title, words)


# Scores.


def intervals(scores: dict, title: str = "") -> Figure:
    """A dot with whiskers for each of {metric: {"value", "low", "high"}}, 95 %."""
    rows = {name: row for name, row in scores.items() if row["value"] is not None}
    figure, grid = axes(8, 0.8 + 0.36 * len(rows))
    ax = grid[0, 0]
    for y, row in enumerate(rows.values()):
        value, low, high = row["value"], row["low"], row["high"]
        whisker(ax, y, value, low, high, BLUE)
        ax.text(1.03, y, with_interval(row), va="center", fontsize=9, color=INK)
    rows_from_top(ax, [pretty_name(name) for name in rows])
    ax.set(xlim=(0, 1.02), xlabel="score, 0 to 1 (95 % interval)")
    ax.set_title(title, fontsize=10)
    words = [f"{pretty_name(k)} {with_interval(row)}" for k, row in rows.items()]
    return described(figure, title, f"Scores with 95 % intervals: {', '.join(words)}.")


def confusion_matrix(truth, prediction, title: str = "") -> Figure:
    """Two heatmaps, rows the true class: images, and shares of the true class (recall on the
    diagonal). `truth` and `prediction` (N,): names of classes, or their numbers."""
    numbers = [
        [c if isinstance(c, int | np.integer) else CLASSES.index(c) for c in classes]
        for classes in (truth, prediction)
    ]
    counts = metrics.confusion_matrix(*numbers, labels=range(7))
    n = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, n, out=np.full(counts.shape, np.nan), where=n > 0)
    figure, grid = axes(10, 4.7, 1, 2)
    left, right = grid[0]
    _heatmap(left, share, [[str(n) for n in row] for row in counts])
    _heatmap(right, share, [["" if np.isnan(x) else f"{x:.2f}" for x in row] for row in share])
    rows = [f"{c} (n={k})" for c, k in zip(CLASSES, n[:, 0], strict=True)]
    left.set_yticks(range(7), rows)
    left.set(xlabel="predicted", ylabel="true", title="images")
    right.set(xlabel="predicted", title="share of the true class")
    figure.suptitle(title, fontsize=11)
    recalls = [f"{c} {s:.2f}" for c, s in zip(CLASSES, share.diagonal(), strict=True) if s == s]
    words = "Two heatmaps of true class against predicted class: images, and shares of the true"
    return described(figure, title, f"{words} class. Recalls: {', '.join(recalls)}.")


def _heatmap(ax, share, texts):
    """(7, 7) `share` in blue, with its `texts` in black or white."""
    blues = colormaps["Blues"]
    ax.imshow(share, cmap=blues, vmin=0, vmax=1)
    for y, x in np.ndindex(7, 7):
        colour = ink_on(blues(share[y, x]) if share[y, x] == share[y, x] else (1, 1, 1))
        ax.text(x, y, texts[y][x], ha="center", va="center", fontsize=9, color=colour)
    ax.set_xticks(range(7), CLASSES)
    ax.set_yticks(range(7), CLASSES)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def roc(truth, probabilities, title: str = "") -> Figure:
    """The ROC curve of each class against the rest, with its area, where the class has images
    and so has the rest."""
    figure, grid = axes(5.6, 5)
    ax = grid[0, 0]
    for label, positive, score in _one_against_the_rest(truth, probabilities):
        x, y, _ = metrics.roc_curve(positive, score)
        text = f"{label} {metrics.roc_auc_score(positive, score):.3f} (n={positive.sum()})"
        _curve(ax, x, y, label, text)
    ax.plot([0, 1], [0, 1], color=INK, lw=0.7)
    ax.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    ax.set_title(title, fontsize=10)
    _legend(ax, title="AUC", loc="lower right")
    return described(figure, title, f"ROC curves, each class against the rest. {_areas(ax)}")


def precision_recall(truth, probabilities, title: str = "") -> Figure:
    """Precision against recall of each class against the rest, with its average precision and
    what chance would give, the class's share."""
    figure, grid = axes(7.4, 5)
    ax = grid[0, 0]
    for label, positive, score in _one_against_the_rest(truth, probabilities):
        precision, recall, _ = metrics.precision_recall_curve(positive, score)
        area = metrics.average_precision_score(positive, score)
        _curve(ax, recall, precision, label, f"{label} {area:.3f} (chance {positive.mean():.3f})")
    ax.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)", aspect="equal")
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02))
    ax.set_title(title, fontsize=10)
    _legend(ax, title="average precision", loc="upper left", bbox_to_anchor=(1, 1))
    words = f"Precision-recall curves, each class against the rest. {_areas(ax)}"
    return described(figure, title, words)


def _areas(ax):
    labels = ax.get_legend_handles_labels()[1]
    return f"Areas: {', '.join(labels) or 'none'}."


def _one_against_the_rest(truth, probabilities):
    """(class, (N,) bool, (N,) score) of each class that has positives and negatives."""
    for k, label in enumerate(CLASSES):
        positive = np.asarray(truth) == k
        if positive.any() and not positive.all():
            yield label, positive, np.asarray(probabilities)[:, k]


def _curve(ax, x, y, label, text):
    ax.plot(x, y, color=COLOURS[label], ls=DASHES[label], lw=1.6, label=text)


def _legend(ax, **options):
    """A legend of the curves, or the reason why there are none."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8, handlelength=4, **options)
    else:
        ax.text(0.98, 0.1, "images of one class alone: no curve", ha="right", fontsize=9)


def calibration(panels: dict, title: str = "") -> Figure:
    """Accuracy against confidence, with Wilson's 95 % intervals: a panel for each of {name:
    study.calibration.reliability(truth, probabilities)}."""
    figure, grid = axes(4.3 * len(panels), 5, 2, len(panels), sharex=True, height_ratios=[3.2, 1])
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
    words = "Reliability diagrams, accuracy against confidence, with the images in each bin"
    return described(figure, title, f"{words}: {', '.join(panels)}.")


def risk_coverage(truth, probabilities, points=(), title: str = "") -> Figure:
    """Share of wrong answers against share of images answered, the most confident first.

    `points`: dicts with the `coverage` and `risk` at thresholds chosen on validation, drawn as
    dots.
    """
    curve = decisions.risk_coverage(truth, probabilities)
    figure, grid = axes(6.4, 3.8)
    ax, n = grid[0, 0], len(curve)
    everyone = curve["risk"].iloc[-1] if n else 0
    label = "the most confident answered first"
    ax.plot(curve["coverage"], curve["risk"], color=BLUE, lw=1.6, label=label)
    ax.axhline(everyone, color=INK, lw=0.8, ls=":", label="abstaining at random")
    dots = [(point["coverage"], point["risk"]) for point in points if point["risk"] is not None]
    if dots:
        label = "thresholds chosen on validation"
        ax.plot(*np.transpose(dots), "o", color=RED, ms=6, label=label)
    ax.set(xlabel=f"share of the images answered (n={n:,})")
    ax.set(ylabel="share of the answers that is wrong")
    ax.set(xlim=(0, 1.02), ylim=(0, max(1.25 * everyone, 0.05)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    ax.set_title(title, fontsize=10)
    words = [f"{risk:.3f} wrong of {coverage:.1%} answered" for coverage, risk in dots]
    words = f"Share of wrong answers against share of images answered. {'; '.join(words)}."
    return described(figure, title, words)


def subgroups(groups: dict, title: str = "") -> Figure:
    """Forest plot of balanced accuracy and accuracy, a row a subgroup with its n; hollow where
    there are few images.

    `groups`: {column: rows of intervals.subgroups as dicts, with `group`}.
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
                whisker(ax, y, row[score], *ends, colour, row["small"])
            if row and score == "balanced_accuracy":
                ax.text(1.04, y, f"{row['classes']} of 7", fontsize=8, color=INK, va="center")
        rows_from_top(ax, [name for name, _ in lines])
        ax.set(xlim=(0, 1.03), xlabel=f"{pretty_name(score)} (95 % interval)")
    for label, (_, row) in zip(grid[0, 0].get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if row is None else "normal")
    grid[0, 0].text(1.04, -1.1, "classes", fontsize=8, color=INK)
    figure.suptitle(title, fontsize=11)
    words = "Forest plot of balanced accuracy and accuracy, with 95 % intervals, by"
    return described(figure, title, f"{words} {', '.join(pretty_name(c) for c in groups)}.")


def operating_points(points: list[dict], title: str = "") -> Figure:
    """Sensitivity and specificity at thresholds chosen on validation, a panel a target. The bar
    marks the rate that was asked for."""
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
    figure.get_layout_engine().set(wspace=0.04)  # or one panel's 1.0 touches the next one's 0.0
    words = "Sensitivity and specificity, with 95 % intervals, at thresholds for"
    return described(figure, title, f"{words} {' and '.join(targets)}.")


def _rate(ax, y, point, rate, colour):
    scored = point["scored"]
    if scored[rate] is not None:
        whisker(ax, y, scored[rate], scored[f"{rate}_low"], scored[f"{rate}_high"], colour)
    if rate == point["rate"]:
        ax.plot([point["level"]] * 2, [y - 0.14, y + 0.14], color=INK, lw=1.6)
