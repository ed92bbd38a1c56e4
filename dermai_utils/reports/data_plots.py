"""The charts of the data and its split: each is a function of a table and returns a Figure."""

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from dermai_utils.basics import CLASSES
from dermai_utils.metrics import UNDEFINED
from dermai_utils.reports.canvas import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PINK,
    RED,
    SKY,
    Figure,
    axes,
    described,
    message,
    rows_from_top,
)


def class_counts(counts: pd.DataFrame, title: str = "") -> Figure:
    """Images and lesions of each class (datasets.class_counts).

    Dots on a log scale, because the classes differ sixtyfold: a bar has no length there.
    """
    figure, grid = axes(8, 3.8)
    ax, place = grid[0, 0], np.arange(len(counts))
    for name, marker, colour, side in (("images", "o", BLUE, 8), ("lesions", "D", ORANGE, -14)):
        ax.plot(counts[name], place, marker, ms=7, color=colour, label=name)
        for y, n in zip(place, counts[name], strict=True):
            options = dict(textcoords="offset points", ha="center", fontsize=8, color=INK)
            ax.annotate(f"{n:,}", (n, y), (0, side), **options)
    rows_from_top(ax, counts.index)
    ax.set_ylim(len(counts) - 0.2, -0.8)  # room for the numbers above and below the dots
    ax.set(xscale="log", xlabel="count (log scale)", title=title)
    ax.margins(x=0.06)
    _few_ticks(ax.xaxis, "{x:,.0f}")
    figure.legend(frameon=False, fontsize=9, ncols=2, loc="outside upper left")
    words = [f"{c} {row['images']:,} and {row['lesions']:,}" for c, row in counts.iterrows()]
    return described(figure, title, f"Images and lesions of each class: {', '.join(words)}.")


def ages(table: pd.DataFrame, title: str = "") -> Figure:
    """Ages in each class: the middle half as a bar, the median as a dot, the range as a line."""
    found = table.groupby("label")["age"].describe().reindex(CLASSES)
    if not found["count"].sum():
        return message("Not known: no image of this data has an age.")
    figure, grid = axes(8, 3.2)
    ax, place = grid[0, 0], range(len(found))
    ax.hlines(place, found["min"], found["max"], color=BLUE, lw=1)
    ax.hlines(place, found["25%"], found["75%"], color=SKY, lw=9)
    ax.plot(found["50%"], place, "o", ms=7, color=BLUE)
    rows_from_top(ax, found.index)
    ax.set(xlabel="age (years)", title=title)
    words = [f"{c} {age:.0f}" for c, age in found["50%"].dropna().items()]
    return described(figure, title, f"Ages in each class; the medians: {', '.join(words)}.")


def split_counts(counts: pd.DataFrame, title: str = "") -> Figure:
    """Share of each class in each subset (splits.counts: a row a class, a column a subset).

    The dots of a class lie upon each other where the split is stratified. On a log scale.
    """
    figure, grid = axes(8, 3.2)
    ax, shares = grid[0, 0], counts / counts.sum()
    colours = (SKY, ORANGE, GREEN, PINK, BLUE, RED)
    for k, subset in enumerate(counts):
        label = f"{subset} (n={counts[subset].sum():,})"
        options = dict(ms=7, color=colours[k % len(colours)], label=label)
        positive = shares[subset].where(shares[subset] > 0)
        ax.plot(positive, shares.index, "oDsv^P"[k % 6], **options)
    rows_from_top(ax, shares.index)
    ax.set(xscale="log", xlabel="share of the subset (log scale)", title=title)
    _few_ticks(ax.xaxis, PercentFormatter(1, symbol=" %"))
    figure.legend(
        frameon=False, fontsize=9, ncols=min(len(counts.columns), 5), loc="outside upper left"
    )
    words = "Dots on a log scale: the share of each class in each subset of the split."
    return described(figure, title, words)


def _few_ticks(axis, formatter):
    """Ticks at 1, 2, 5, 10 ...: small counts may lie within one power of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())


def leakage(counts: dict, title: str = "") -> Figure:
    """A bar for each split: how many images have their lesion in several of its subsets.

    `counts`: {name of a split: number of images}; None where lesions are not known.
    """
    if None in counts.values():
        return message("Not known: no image of this data has a lesion id.")
    figure, grid = axes(8, 1 + 0.4 * len(counts))
    ax, colours = grid[0, 0], [RED, GREEN, SKY, ORANGE]
    bars = ax.barh(list(counts), list(counts.values()), color=colours[: len(counts)])
    ax.bar_label(bars, fmt="{:,.0f}", padding=4, color=INK)
    ax.set(xlabel="images whose lesion is in more than one subset", title=title)
    words = ", ".join(f"{name} {n:,}" for name, n in counts.items())
    return described(figure, title, f"Images whose lesion is in several subsets: {words}.")


def leakage_effect(effect: dict, title: str = "") -> Figure:
    """Balanced accuracy of each classifier under a random and a lesion-safe split, and the
    difference (`effect`: study.probe.leakage_effect)."""
    classifiers = effect["classifiers"].items()
    rows = {name: row for name, row in classifiers if row["difference"] is not None}
    if not rows:
        return message("No lesion has two images here, so a random split leaks nothing.")
    figure, grid = axes(8, 1.3 + 0.55 * len(rows))
    ax = grid[0, 0]
    beside = dict(va="center", color=INK, transform=ax.get_yaxis_transform())
    for y, row in enumerate(rows.values()):
        ends = sorted((row["lesion"], row["random"]))
        ax.plot(ends, [y, y], color="#BBBBBB", lw=3, zorder=1, solid_capstyle="butt")
        for value, shift, side in zip(ends, (-9, 9), ("right", "left"), strict=True):
            options = dict(textcoords="offset points", ha=side, va="center", fontsize=9, color=INK)
            ax.annotate(f"{value:.3f}", (value, y), (shift, 0), **options)
        ends = (UNDEFINED if end is None else f"{end:+.3f}" for end in (row["low"], row["high"]))
        interval = f"{row['difference']:+.3f}  [{', '.join(ends)}]"
        ax.text(1.02, y, interval, fontsize=9, **beside)
    looks = {"random": ("o", RED, "random split"), "lesion": ("s", GREEN, "lesion-safe split")}
    for strategy, (marker, colour, label) in looks.items():
        values = [row[strategy] for row in rows.values()]
        ax.plot(values, range(len(rows)), marker, ms=9, color=colour, label=label)
    rows_from_top(ax, list(rows))
    ax.text(1.02, -0.62, "random minus lesion-safe", fontsize=8, **beside)
    ax.set(ylim=(len(rows) - 0.5, -0.75), xlim=(0, 1), title=title)
    n = effect["prone_images"]
    ax.set_xlabel(f"balanced accuracy on the {n:,} images of lesions with several images")
    figure.legend(frameon=False, fontsize=9, ncols=2, loc="outside upper left")
    words = [f"{k} {v['random']:.3f} and {v['lesion']:.3f}" for k, v in rows.items()]
    words = f"Balanced accuracy under a random and a lesion-safe split: {'; '.join(words)}."
    return described(figure, title, words)
