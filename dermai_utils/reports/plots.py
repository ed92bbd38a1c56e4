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
from dermai_utils.reports import canvas
from dermai_utils.reports.canvas import BLUE, GREEN, INK, ORANGE, PINK, RED, SKY, Figure
from dermai_utils.study import decisions, text

WHITE_ABOVE = 0.72  # of the colour map "Blues": there black and white differ from it by 4.5 to 1


def learning_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """Loss, and balanced accuracy and macro F1 on validation, by epoch.

    `history`: a row an epoch, NaN where the epoch was not validated.
    """
    figure, [[left, right]] = canvas.axes(9, 3.2, 1, 2)
    validated = history[history["balanced_accuracy"].notna()]
    for ax, rows, column, label, style, colour in (
        (left, history, "loss", "training (augmented images)", "o-", BLUE),
        (left, validated, "val_loss", "validation", "s--", ORANGE),
        (right, validated, "balanced_accuracy", "balanced accuracy", "o-", GREEN),
        (right, validated, "macro_f1", "macro F1", "s--", PINK),
    ):
        ax.plot(rows["epoch"], rows[column], style, color=colour, ms=3, label=label)
        ax.set_xlabel("epoch")
        ax.legend(frameon=False, fontsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("cross-entropy (nats)")
    right.set(ylabel="validation score", ylim=(0, 1))
    words = "Two charts by epoch: training and validation loss, and the validation scores."
    return canvas.finished(figure, title, words)


def confusion_matrix(truth, prediction, title: str = "") -> Figure:
    """Two heatmaps, rows the true class: images, and shares of the true class (recall on the
    diagonal; of a class with few images as a fraction). `truth` and `prediction` (N,): names of
    classes, or their numbers."""
    labels = CLASSES if isinstance(next(iter(truth)), str) else range(7)
    counts = metrics.confusion_matrix(truth, prediction, labels=labels)
    n = counts.sum(axis=1)
    share = np.divide(counts, n[:, None], out=np.full((7, 7), np.nan), where=n[:, None] > 0)
    figure, [[left, right]] = canvas.axes(10, 4.7, 1, 2)
    _heatmap(left, share, lambda y, x: f"{counts[y, x]}")
    _heatmap(right, share, lambda y, x: _cell(counts[y, x], n[y]))
    left.set_yticks(range(7), [f"{c} (n={k})" for c, k in zip(CLASSES, n, strict=True)])
    left.set_title("images", fontsize=10)
    left.set_ylabel("true class", labelpad=8)
    right.set_title("share of the true class", fontsize=10)
    recalls = [f"{c} {counts[k, k]} of {n[k]}" for k, c in enumerate(CLASSES) if n[k]]
    words = "Two heatmaps of true class against predicted class: images, and shares of the true"
    return canvas.finished(figure, title, f"{words} class. Recalls: {', '.join(recalls)}.")


def _cell(count, n):
    if n == 0:
        return ""
    if n >= text.FEW:
        return f"{count / n:.2f}"
    return f"{count}/{n}" if count else "0"


def _heatmap(ax, share, text_of):
    """(7, 7) `share` in blue, with the text of each cell in black or white."""
    ax.imshow(share, cmap=colormaps["Blues"], vmin=0, vmax=1)
    for y, x in np.ndindex(7, 7):
        colour = "white" if share[y, x] > WHITE_ABOVE else "black"
        ax.text(x, y, text_of(y, x), ha="center", va="center", fontsize=9, color=colour)
    ax.set_xticks(range(7), CLASSES)
    ax.set_yticks(range(7), CLASSES)
    ax.set_xlabel("predicted class")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def roc(truth, probabilities, title: str = "") -> Figure:
    """The ROC curve of each class against the rest, with its area, where the class has images
    and so has the rest."""
    figure, [[ax]] = canvas.axes(5.6, 5)
    ax.plot([0, 1], [0, 1], color=INK, lw=0.7)
    ax.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    for label, positive, score in _one_against_the_rest(truth, probabilities):
        x, y, _ = metrics.roc_curve(positive, score)
        area = metrics.roc_auc_score(positive, score)
        _curve(ax, label, x, y, f"{label} {area:.3f} (n={positive.sum()})")
    areas = _legend(ax, title="AUC", loc="lower right")
    return canvas.finished(figure, title, f"ROC curves, each class against the rest. {areas}")


def precision_recall(truth, probabilities, title: str = "") -> Figure:
    """Precision against recall of each class against the rest, with its average precision and
    what chance would give, the class's share."""
    figure, [[ax]] = canvas.axes(7.4, 5)
    ax.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)", aspect="equal")
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02))
    for label, positive, score in _one_against_the_rest(truth, probabilities):
        precision, recall, _ = metrics.precision_recall_curve(positive, score)
        area = metrics.average_precision_score(positive, score)
        named = f"{label} {area:.3f} (chance {positive.mean():.3f})"
        _curve(ax, label, recall, precision, named, drawstyle="steps-post")
    areas = _legend(ax, title="average precision", loc="upper left", bbox_to_anchor=(1, 1))
    words = f"Precision-recall curves, each class against the rest. {areas}"
    return canvas.finished(figure, title, words)


def _one_against_the_rest(truth, probabilities):
    """(class, (N,) bool, (N,) score) of each class that has positives and negatives."""
    for k, label in enumerate(CLASSES):
        positive = np.asarray(truth) == k
        if positive.any() and not positive.all():
            yield label, positive, np.asarray(probabilities)[:, k]


def _curve(ax, label, x, y, named, **options):
    options |= dict(color=canvas.COLOURS[label], ls=canvas.DASHES[label], label=named)
    ax.plot(x, y, lw=1.6, **options)


def _legend(ax, **options) -> str:
    """A legend of the curves, or the reason why there are none; returns the areas in words."""
    areas = ax.get_legend_handles_labels()[1]
    if areas:
        ax.legend(frameon=False, fontsize=8, handlelength=4, **options)
    else:
        ax.text(0.98, 0.1, "images of one class alone: no curve", ha="right", fontsize=9)
    return f"Areas: {', '.join(areas) or 'none'}."


def calibration(panels: dict, title: str = "") -> Figure:
    """Accuracy against confidence, with Wilson's 95 % intervals: a panel for each of {name:
    study.calibration.reliability(truth, probabilities)}."""
    shape = dict(sharex=True, height_ratios=[3.2, 1])
    figure, grid = canvas.axes(4.3 * len(panels), 5, 2, len(panels), **shape)
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
    words = "Reliability diagrams, accuracy against confidence, with the images in each bin"
    return canvas.finished(figure, title, f"{words}: {', '.join(panels)}.")


def risk_coverage(truth, probabilities, points=(), title: str = "") -> Figure:
    """Share of wrong answers against share of images answered, the most confident first.

    `points`: dicts with the `coverage` and `risk` at thresholds chosen on validation, drawn as
    dots.
    """
    curve = decisions.risk_coverage(truth, probabilities)
    figure, [[ax]] = canvas.axes(6.4, 3.8)
    everyone = curve["risk"].iloc[-1] if len(curve) else 0
    label = "the most confident answered first"
    ax.plot(curve["coverage"], curve["risk"], color=BLUE, lw=1.6, label=label)
    ax.axhline(everyone, color=INK, lw=0.8, ls=":", label="abstaining at random")
    dots = [(point["coverage"], point["risk"]) for point in points if point["risk"] is not None]
    if dots:
        label = "thresholds chosen on validation"
        ax.plot(*np.transpose(dots), "o", color=RED, ms=6, label=label)
    ax.set_xlabel(f"share of the images answered (n={len(curve):,})")
    ax.set_ylabel("share of the answers that is wrong")
    ax.set(xlim=(0, 1.02), ylim=(0, max(1.25 * everyone, 0.05)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    words = [f"{risk:.3f} wrong of {coverage:.1%} answered" for coverage, risk in dots]
    words = f"Share of wrong answers against share of images answered. {'; '.join(words)}."
    return canvas.finished(figure, title, words)


def subgroups(groups: dict, title: str = "") -> Figure:
    """Forest plot of balanced accuracy and accuracy, a row a subgroup with its n; hollow where
    there are few images. Of under text.FEW lesions there is a count in place of dots.

    `groups`: {column: rows of intervals.subgroups as dicts, with `group`}.
    """
    names, lines = [], []
    for column, rows in groups.items():
        names += [text.pretty_name(column)]
        names += [f"{text.pretty_name(row['group'])} (n={row['n']:,})" for row in rows]
        lines += [None, *rows]
    figure, [[left, right]] = canvas.axes(9, 0.9 + 0.25 * len(lines), 1, 2, sharey=True)
    for ax, score, colour in ((left, "balanced_accuracy", BLUE), (right, "accuracy", GREEN)):
        canvas.rows_from_top(ax, names)
        ax.set(xlim=(0, 1.03), xlabel=f"{text.pretty_name(score)} (95 % interval)")
        for y, row in enumerate(lines):
            if row and row["lesions"] >= text.FEW and row[score] is not None:
                ends = row[f"{score}_low"], row[f"{score}_high"]
                canvas.whisker(ax, y, row[score], *ends, colour, row["small"])
    beside = dict(fontsize=8, color=INK, va="center")
    left.text(1.04, -1.1, "classes", **beside)
    for y, row in enumerate(lines):
        if row is None:
            left.get_yticklabels()[y].set_fontweight("bold")
            continue
        left.text(1.04, y, f"{row['classes']} of 7", **beside)
        if row["lesions"] < text.FEW:
            right.text(0.02, y, f"{text.counts(row, 'accuracy')} right", **beside)
    words = "Forest plot of balanced accuracy and accuracy, with 95 % intervals, by"
    columns = ", ".join(text.pretty_name(column) for column in groups)
    return canvas.finished(figure, title, f"{words} {columns}.")


def operating_points(points: list[dict], title: str = "") -> Figure:
    """Sensitivity and specificity at thresholds chosen on validation, a panel a target. The bar
    marks the rate that was asked for."""
    targets = list(dict.fromkeys(point["target"] for point in points))
    figure, grid = canvas.axes(9, 3.6, 1, len(targets), sharey=True)
    rates = {"sensitivity": (RED, -0.13), "specificity": (BLUE, 0.13)}
    for ax, target in zip(grid[0], targets, strict=True):
        rows = [point for point in points if point["target"] == target]
        labels = [f"asked for: {row['rate']} {100 * row['level']:.0f} %" for row in rows]
        canvas.rows_from_top(ax, labels)
        for y, point in enumerate(rows):
            middle = y + rates[point["rate"]][1]
            ax.plot([point["level"]] * 2, [middle - 0.14, middle + 0.14], color=INK, lw=1.6)
            for rate, (colour, shift) in rates.items():
                value, *ends = (point["scored"][rate + end] for end in ("", "_low", "_high"))
                if value is not None:
                    canvas.whisker(ax, y + shift, value, *ends, colour)
        n = rows[0]["scored"]["n"]
        ax.set(xlim=(0, 1.03), xlabel=f"rate on n={n:,} images (95 % interval)")
        ax.set_title(target, fontsize=10)
    first = grid[0, 0]
    handles = [first.plot([], [], "o-", color=c, label=rate)[0] for rate, (c, _) in rates.items()]
    handles += first.plot([], [], "|", ms=10, mew=1.6, color=INK, label="asked for")
    figure.legend(handles=handles, frameon=False, fontsize=9, ncols=3, loc="outside lower center")
    figure.get_layout_engine().set(wspace=0.04)  # or one panel's 1.0 touches the next one's 0.0
    words = "Sensitivity and specificity, with 95 % intervals, at thresholds for"
    return canvas.finished(figure, title, f"{words} {' and '.join(targets)}.")
