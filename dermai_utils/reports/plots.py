"""The charts of a run: each is a function of arrays or tables and returns a Figure.

`truth` (N,) int and `probabilities` (N, 7) float follow the order of CLASSES. `title` stands above
the chart.
"""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn import metrics

from dermai_utils.basics import CLASSES, counted
from dermai_utils.reports import canvas
from dermai_utils.reports.canvas import BLUE, GREEN, INK, ORANGE, PINK, RED, SKY, Figure
from dermai_utils.study import decisions, text

DARKEST = 1.6  # the share that would be the darkest blue: at 1.0 black digits can still be read
SMALL = dict(frameon=False, fontsize=8)


def learning_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """Loss, and balanced accuracy and macro F1 on validation, by epoch.

    `history`: a row an epoch, NaN where the epoch was not validated.
    """
    alt = "Two charts by epoch: training and validation loss, and the validation scores."
    figure, [[left, right]] = canvas.axes(9, 3.2, 1, 2, title, alt)
    validated = history[history["balanced_accuracy"].notna()]
    for ax, rows, column, label, style, colour in (
        (left, history, "loss", "training (augmented images)", "o-", BLUE),
        (left, validated, "val_loss", "validation", "s--", ORANGE),
        (right, validated, "balanced_accuracy", "balanced accuracy", "o-", GREEN),
        (right, validated, "macro_f1", "macro F1", "s--", PINK),
    ):
        ax.plot(rows["epoch"], rows[column], style, color=colour, ms=3, label=label)
        ax.set(xlabel="epoch", xlim=(0.5, history["epoch"].max() + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.legend(**SMALL)
    left.set_ylabel("loss")
    right.set(ylabel="validation score", ylim=(0, 1))
    return figure


def confusion_matrix(truth, prediction, title: str = "") -> Figure:
    """A heatmap, rows the true class: images, and below them their share of the true class (recall
    on the diagonal), but not of a class with few images. A class without images has no row.
    `truth` and `prediction` (N,): names of classes, or their numbers."""
    labels = CLASSES if isinstance(next(iter(truth)), str) else range(7)
    counts = metrics.confusion_matrix(truth, prediction, labels=labels)
    here = np.flatnonzero(counts.any(axis=1))
    counts, names = counts[here], [CLASSES[k] for k in here]
    n = counts.sum(axis=1)
    share = counts / n[:, None]
    recalls = [f"{names[y]} {counts[y, k]} of {n[y]}" for y, k in enumerate(here)]
    alt = f"Heatmap of true class against predicted class. Recalls: {', '.join(recalls)}."
    height = 1.2 + 0.6 * len(here)
    figure, [[ax]] = canvas.axes(6.4, height, title=title, alt=alt)
    ax.imshow(share, cmap=colormaps["Blues"], vmin=0, vmax=DARKEST)
    for y, x in np.ndindex(*share.shape):
        below = f"\n{share[y, x]:.2f}" if n[y] >= text.FEW and counts[y, x] else ""
        ax.text(x, y, f"{counts[y, x]}{below}", ha="center", va="center", fontsize=9)
    ax.set_xticks(range(7), CLASSES)
    ax.set_yticks(range(len(here)), [f"{c} (n={k})" for c, k in zip(names, n, strict=True)])
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return figure


def curves(truth, probabilities, title: str = "") -> Figure:
    """The ROC curve (left) and precision against recall (right) of each class against the rest,
    where the class has images and so has the rest; with AUC, average precision, and what chance
    would give, the class's share."""
    truth, p = np.asarray(truth), np.asarray(probabilities)
    each = [(c, truth == k, p[:, k]) for k, c in enumerate(CLASSES) if 0 < np.mean(truth == k) < 1]
    areas = [f"{c} {metrics.roc_auc_score(*curve):.3f} (n={curve[0].sum()})" for c, *curve in each]
    alt = "ROC and precision-recall curves, each class against the rest. Areas under the ROC curves"
    figure, [axes] = canvas.axes(10, 5.6, 1, 2, title, f"{alt}: {', '.join(areas) or 'none'}.")
    for (label, positive, score), area in zip(each, areas, strict=True):
        style = dict(color=canvas.COLOURS[label], ls=canvas.DASHES[label], lw=1.6)
        x, y, _ = metrics.roc_curve(positive, score)
        axes[0].plot(x, y, label=area, **style)
        precision, recall, _ = metrics.precision_recall_curve(positive, score)
        area = f"{metrics.average_precision_score(positive, score):.3f}"
        named = f"{label} {area} (chance {positive.mean():.3f})"
        axes[1].plot(recall, precision, drawstyle="steps-post", label=named, **style)
    axes[0].set(xlabel="1 - specificity", ylabel="sensitivity")
    axes[1].set(xlabel="recall (sensitivity)", ylabel="precision (PPV)")
    for ax, name in zip(axes, ("AUC", "average precision"), strict=True):
        ax.set(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        ax.plot([0, 1], [0, 1], color=INK, lw=0.7, visible=name == "AUC")
        place = dict(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, handlelength=4)
        if each:
            ax.legend(title=name, **place, **SMALL)
        else:
            ax.text(0.5, 0.5, "images of one class alone: no curve", ha="center", fontsize=9)
    return figure


def calibration(panels: dict, title: str = "") -> Figure:
    """Accuracy against confidence, with Wilson's 95 % intervals: a panel for each of {name:
    study.calibration.reliability(truth, probabilities)}."""
    alt = "Reliability diagrams, accuracy against confidence, with the images in each bin"
    shape = dict(
        sharex=True, height_ratios=[3.2, 1], title=title, alt=f"{alt}: {', '.join(panels)}."
    )
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
    return figure


def risk_coverage(truth, probabilities, points=(), title: str = "") -> Figure:
    """Share of wrong answers against share of images answered, the most confident first.

    `points`: dicts with the `coverage` and `risk` at thresholds chosen on validation, drawn as
    dots.
    """
    curve = decisions.risk_coverage(truth, probabilities)
    dots = [(point["coverage"], point["risk"]) for point in points if point["risk"] is not None]
    each = "; ".join(f"{risk:.3f} wrong of {coverage:.1%} answered" for coverage, risk in dots)
    alt = f"Share of wrong answers against share of images answered. {each}."
    figure, [[ax]] = canvas.axes(6.4, 3.8, title=title, alt=alt)
    everyone = curve["risk"].iloc[-1] if len(curve) else 0
    label = "the most confident answered first"
    ax.plot(curve["coverage"], curve["risk"], color=BLUE, lw=1.6, label=label)
    ax.axhline(everyone, color=INK, lw=0.8, ls=":", label="abstaining at random")
    if dots:
        label = "thresholds chosen on validation"
        ax.plot(*np.transpose(dots), "o", color=RED, ms=6, label=label)
    ax.set_xlabel(f"share of the images answered (n={len(curve):,})")
    ax.set_ylabel("share of the answers that is wrong")
    ax.set(xlim=(0, 1.02), ylim=(0, max(1.25 * everyone, 0.05)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    ax.legend(loc="upper left", **SMALL)
    return figure


def operating_points(points: list[dict], title: str = "") -> Figure:
    """Sensitivity and specificity at thresholds chosen on validation, a panel a target. The bar
    marks the rate that was asked for."""
    targets = list(dict.fromkeys(point["target"] for point in points))
    alt = "Sensitivity and specificity, with 95 % intervals, at thresholds for"
    shape = dict(sharey=True, title=title, alt=f"{alt} {' and '.join(targets)}.")
    figure, [axes] = canvas.axes(9, 3.6, 1, len(targets), **shape)
    rates = {"sensitivity": (RED, -0.13), "specificity": (BLUE, 0.13)}
    for ax, target in zip(axes, targets, strict=True):
        rows = [point for point in points if point["target"] == target]
        scored = pd.DataFrame([row["scored"] for row in rows]).astype(float)
        names = [f"asked for: {row['rate']} {100 * row['level']:.0f} %" for row in rows]
        canvas.rows_from_top(ax, names)
        for rate, (colour, shift) in rates.items():
            ends = scored[[f"{rate}_low", f"{rate}_high"]].sub(scored[rate], axis=0).abs().T
            style = dict(fmt="o", ms=6, color=colour, label=rate, zorder=3)
            ax.errorbar(scored[rate], scored.index + shift, xerr=ends, **style)
        places = [y + rates[row["rate"]][1] for y, row in enumerate(rows)]
        bar = dict(ms=14, mew=1.6, color=INK, label="asked for")
        ax.plot([row["level"] for row in rows], places, "|", **bar)
        n = rows[0]["scored"]["n"]
        ax.set(xlim=(-0.03, 1.03), xlabel=f"rate on {counted(n, 'image')} (95 % interval)")
        ax.set_title(target, fontsize=10)
    place = dict(loc="outside lower center", ncols=3, markerscale=0.7)
    figure.legend(*axes[0].get_legend_handles_labels(), **place, frameon=False, fontsize=9)
    figure.get_layout_engine().set(wspace=0.04)  # or one panel's 1.0 touches the next one's 0.0
    return figure
