"""Charts of the data and its split, before any training."""

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from dermai_utils.report.plots import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    RED,
    SUBSET_COLOURS,
    Figure,
    axes,
    message,
    rows_from_top,
)


def class_counts(counts: pd.DataFrame) -> Figure:
    """Dots: images and lesions a class (clean.class_counts), on a log scale, since the classes
    differ sixtyfold (a bar's length would mean nothing there)."""
    figure, grid = axes(8, 3.2)
    ax, place = grid[0, 0], np.arange(len(counts))
    for name, marker, colour, side in (("images", "o", BLUE, 8), ("lesions", "D", ORANGE, -14)):
        ax.plot(counts[name], place, marker, ms=7, color=colour, label=name)
        for y, n in zip(place, counts[name], strict=True):
            options = dict(textcoords="offset points", ha="center", fontsize=8, color=INK)
            ax.annotate(f"{n:,}", (n, y), (0, side), **options)
    rows_from_top(ax, counts.index)
    ax.set(xscale="log", xlabel="count (log scale)")
    ax.margins(x=0.06)
    _few_ticks(ax.xaxis, "{x:,.0f}")
    figure.legend(frameon=False, fontsize=9, ncols=2, loc="outside upper left")
    return figure


def split_counts(counts: pd.DataFrame) -> Figure:
    """Dots: share of each class in each subset (split.counts); those of a class should lie upon
    each other. On a log scale."""
    figure, grid = axes(8, 3.2)
    ax, shares = grid[0, 0], counts / counts.sum()
    for subset, marker in zip(counts, "oDsv^", strict=False):
        label = f"{subset} (n={counts[subset].sum():,})"
        options = dict(ms=7, color=SUBSET_COLOURS[subset], label=label)
        ax.plot(shares[subset].where(shares[subset] > 0), shares.index, marker, **options)
    rows_from_top(ax, shares.index)
    ax.set(xscale="log", xlabel="share of the subset (log scale)")
    _few_ticks(ax.xaxis, PercentFormatter(1, symbol=" %"))
    figure.legend(frameon=False, fontsize=9, ncols=len(shares.columns), loc="outside upper left")
    return figure


def _few_ticks(axis, formatter):
    """Of a log scale: 1, 2, 5, 10 ..., since small counts may lie within one power of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())


def leakage(audit: dict) -> Figure:
    """Images whose lesion is in several subsets, of the random and the lesion-safe split."""
    names = ("random", "lesion")
    counts = [audit[name]["images_of_such_lesions"] for name in names]
    if None in counts:
        return message("Not known: no image of this data has a lesion id.")
    figure, grid = axes(8, 1.8)
    ax = grid[0, 0]
    ax.bar_label(ax.barh(names, counts, color=[RED, GREEN]), fmt="{:,.0f}", padding=4, color=INK)
    ax.set(xlabel="images whose lesion is in more than one subset")
    return figure


def leakage_effect(effect: dict) -> Figure:
    """Balanced accuracy under a random and a lesion-safe split (leakage_effect.json), and the
    difference, for each classifier."""
    classifiers = effect["classifiers"].items()
    rows = [(name, row) for name, row in classifiers if row["difference"] is not None]
    if not rows:
        return message("No lesion has two images here, so a random split leaks nothing.")
    figure, grid = axes(8, 1.3 + 0.55 * len(rows))
    ax = grid[0, 0]
    beside = dict(va="center", color=INK, transform=ax.get_yaxis_transform())
    for y, (_, row) in enumerate(rows):
        ends = sorted((row["lesion"], row["random"]))
        ax.plot(ends, [y, y], color="#BBBBBB", lw=3, zorder=1, solid_capstyle="butt")
        for value, shift, side in zip(ends, (-9, 9), ("right", "left"), strict=True):
            options = dict(textcoords="offset points", ha=side, va="center", fontsize=9, color=INK)
            ax.annotate(f"{value:.3f}", (value, y), (shift, 0), **options)
        interval = f"{row['difference']:+.3f}  [{row['low']:+.3f}, {row['high']:+.3f}]"
        ax.text(1.02, y, interval, fontsize=9, **beside)
    for strategy, marker, colour in (("random", "o", RED), ("lesion", "s", GREEN)):
        label = {"random": "random split", "lesion": "lesion-safe split"}[strategy]
        values = [row[strategy] for _, row in rows]
        ax.plot(values, range(len(rows)), marker, ms=9, color=colour, label=label)
    rows_from_top(ax, [name for name, _ in rows])
    ax.text(1.02, -0.62, "random minus lesion-safe", fontsize=8, **beside)
    ax.set(ylim=(len(rows) - 0.5, -0.75), xlim=(0, 1))
    n = effect["prone_images"]
    ax.set_xlabel(f"balanced accuracy on the {n:,} images of lesions with several images")
    figure.legend(frameon=False, fontsize=9, ncols=2, loc="outside upper left")
    return figure
