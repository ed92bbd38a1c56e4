"""The charts of the data and its split: each is a function of a table and returns a Figure."""

import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from dermai_utils.basics import CLASSES
from dermai_utils.reports import canvas
from dermai_utils.reports.canvas import BLUE, GREEN, INK, ORANGE, PINK, RED, SKY, Figure
from dermai_utils.study.text import with_interval

ABOVE = dict(frameon=False, fontsize=9, ncols=5, loc="outside upper left")  # where a legend stands


def class_counts(counts: pd.DataFrame, title: str = "") -> Figure:
    """Images and lesions of each class (datasets.class_counts).

    Dots on a log scale, because the classes differ sixtyfold: a bar has no length there.
    """
    each = [f"{c} {row['images']:,} and {row['lesions']:,}" for c, row in counts.iterrows()]
    alt = f"Images and lesions of each class: {', '.join(each)}."
    figure, [[ax]] = canvas.axes(8, 3.8, title=title, alt=alt)
    for name, marker, colour, side in (("images", "o", BLUE, 8), ("lesions", "D", ORANGE, -14)):
        ax.plot(counts[name], range(len(counts)), marker, ms=7, color=colour, label=name)
        for y, n in enumerate(counts[name]):
            options = dict(textcoords="offset points", ha="center", fontsize=8, color=INK)
            ax.annotate(f"{n:,}", (n, y), (0, side), **options)
    canvas.rows_from_top(ax, counts.index)
    ax.set_ylim(len(counts) - 0.2, -0.8)  # room for the numbers above and below the dots
    ax.margins(x=0.06)
    _log_scale(ax, "count", "{x:,.0f}")
    figure.legend(**ABOVE)
    return figure


def ages(table: pd.DataFrame, title: str = "") -> Figure:
    """Ages in each class: the middle half as a bar, the median as a dot, the range as a line."""
    found = table.groupby("label")["age"].describe().reindex(CLASSES)
    if not found["count"].sum():
        return canvas.message("Not known: no image of this data has an age.")
    each = ", ".join(f"{c} {age:.0f}" for c, age in found["50%"].dropna().items())
    alt = f"Ages in each class; the medians: {each}."
    figure, [[ax]] = canvas.axes(8, 3.2, title=title, alt=alt)
    ax.hlines(range(len(found)), found["min"], found["max"], color=BLUE, lw=1)
    ax.hlines(range(len(found)), found["25%"], found["75%"], color=SKY, lw=9)
    ax.plot(found["50%"], range(len(found)), "o", ms=7, color=BLUE)
    canvas.rows_from_top(ax, found.index)
    ax.set_xlabel("age (years)")
    return figure


def split_counts(counts: pd.DataFrame, title: str = "") -> Figure:
    """Share of each class in each subset (splits.counts: a row a class, a column a subset).

    The dots of a class lie upon each other where the split is stratified. On a log scale.
    """
    alt = "Dots on a log scale: the share of each class in each subset of the split."
    figure, [[ax]] = canvas.axes(8, 3.2, title=title, alt=alt)
    colours = (SKY, ORANGE, GREEN, PINK, BLUE, RED)
    for k, (subset, images) in enumerate(counts.items()):
        shares = (images / images.sum()).where(images > 0)
        options = dict(ms=7, color=colours[k % 6], label=f"{subset} (n={images.sum():,})")
        ax.plot(shares, range(len(shares)), "oDsv^P"[k % 6], **options)
    canvas.rows_from_top(ax, counts.index)
    _log_scale(ax, "share of the subset", PercentFormatter(1, symbol=" %"))
    figure.legend(**ABOVE)
    return figure


def _log_scale(ax, label, formatter):
    """Ticks at 1, 2, 5, 10 ...: small counts may lie within one power of ten."""
    ax.set(xscale="log", xlabel=f"{label} (log scale)")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(formatter)
    ax.xaxis.set_minor_formatter(NullFormatter())


def leakage(counts: dict) -> Figure:
    """A bar for each split: how many images have their lesion in several of its subsets.

    `counts`: {name of a split: number of images}; None where lesions are not known.
    """
    if None in counts.values():
        return canvas.message("Not known: no image of this data has a lesion id.")
    each = ", ".join(f"{name} {n:,}" for name, n in counts.items())
    alt = f"Images whose lesion is in several subsets: {each}."
    figure, [[ax]] = canvas.axes(8, 1 + 0.4 * len(counts), alt=alt)
    colours = [RED, GREEN, SKY, ORANGE][: len(counts)]
    bars = ax.barh(list(counts), list(counts.values()), color=colours)
    ax.bar_label(bars, fmt="{:,.0f}", padding=4, color=INK)
    ax.set_xlabel("images whose lesion is in more than one subset")
    return figure


def leakage_effect(effect: dict) -> Figure:
    """Balanced accuracy of each classifier under a random and a lesion-safe split, and the
    difference (`effect`: study.probe.leakage_effect)."""
    if not (rows := effect["classifiers"]):
        return canvas.message("No lesion has two images here, so a random split leaks nothing.")
    each = "; ".join(f"{k} {v['random']:.3f} and {v['lesion']:.3f}" for k, v in rows.items())
    alt = f"Balanced accuracy under a random and a lesion-safe split: {each}."
    figure, [[ax]] = canvas.axes(8, 1.3 + 0.55 * len(rows), alt=alt)
    for y, row in enumerate(rows.values()):
        ends = sorted((row["lesion"], row["random"]))
        ax.plot(ends, [y, y], color="#BBBBBB", lw=3, zorder=1, solid_capstyle="butt")
        beside = dict(va="center", fontsize=9, color=INK)
        ax.text(ends[0] - 0.02, y, f"{ends[0]:.3f}", ha="right", **beside)
        ax.text(ends[1] + 0.02, y, f"{ends[1]:.3f}", **beside)
        ax.text(1.02, y, with_interval({"value": row["difference"]} | row), **beside)
    for name, style, label in (
        ("random", dict(marker="o", color=RED), "random split"),
        ("lesion", dict(marker="s", color=GREEN), "lesion-safe split"),
    ):
        values = [row[name] for row in rows.values()]
        ax.plot(values, range(len(rows)), ls="", ms=9, label=label, **style)
    canvas.rows_from_top(ax, list(rows))
    ax.text(1.02, -0.62, "random minus lesion-safe", va="center", fontsize=9, color=INK)
    ax.set(ylim=(len(rows) - 0.5, -0.75), xlim=(0, 1))
    n = effect["prone_images"]
    ax.set_xlabel(f"balanced accuracy on the {n:,} images of lesions with several images")
    figure.legend(**ABOVE)
    return figure
