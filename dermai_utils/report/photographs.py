"""Every figure made of photographs: contact sheets, mistakes, Grad-CAM overlays, an answer."""

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.ticker import PercentFormatter
from PIL import Image

from dermai_utils.config import CLASS_NAMES, CLASSES
from dermai_utils.metrics.text import percent
from dermai_utils.report.plots import COLOURS, INK, RED, Figure, axes, message, plain

OVERLAY = dict(cmap="inferno", vmin=0, vmax=1)


def _grid(width, height, rows, columns):
    """(figure, axes without ticks) for photographs."""
    figure, grid = axes(width, height, rows, columns)
    figure.photographs = True
    _blank(grid)
    return figure, grid


def _blank(grid):
    for ax in np.ravel(grid):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)


def contact_sheet(table: pd.DataFrame, images, each: int = 8) -> Figure:
    """The first `each` images of every class, a row a class."""
    figure, grid = _grid(1.25 * each, 7.2, len(CLASSES), each)
    for row, label in zip(grid, CLASSES, strict=True):
        places = table.loc[table["label"] == label, "row"].head(each)
        for ax, place in zip(row, places, strict=False):
            ax.imshow(images[place])
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10, color=INK)
    return figure


def mistakes(rows: pd.DataFrame, images, title: str = "", columns: int = 4) -> Figure:
    """Wrong predictions with truth, prediction and confidence; `images[row]` for each `row`."""
    if rows.empty:
        return message("No such mistake here.")
    lines = -(-len(rows) // columns)
    figure, grid = _grid(2.6 * columns, 2.5 * lines, lines, columns)
    for ax, row in zip(grid.flat, rows.to_dict("records"), strict=False):
        ax.imshow(images[row["row"]])
        ax.set_title(f"{row['image']}\n{verdict(row)}", fontsize=10, color=INK)
    figure.suptitle(title, fontsize=11)
    return figure


def verdict(row) -> str:
    """What became of a row of predictions: "MEL predicted as NV (93.1 %)"."""
    return f"{row['truth']} predicted as {row['prediction']} ({percent(row['confidence'])})"


def explanations(items: list[dict], note: str = "", columns: int = 2) -> Figure:
    """Of each image, `columns` of them a row: the original, Grad-CAM and saliency over it, and
    above them what was predicted.

    items: dicts of image (S, S, 3) uint8, gradcam and saliency (S, S) in 0..1, and a title. `note`
    stands above the maps.
    """
    lines = max(1, -(-len(items) // columns))
    figure, grid = _grid(3 * 1.6 * columns, 2.1 * lines, lines, 3 * columns)
    for (original, gradcam, saliency), item in zip(grid.reshape(-1, 3), items, strict=False):
        for ax in (original, gradcam, saliency):
            ax.imshow(item["image"])
        gradcam.imshow(item["gradcam"], alpha=0.5, **OVERLAY)
        saliency.imshow(item["saliency"], alpha=0.6, **OVERLAY)
        original.set_title(item["title"].strip(), fontsize=8, color=INK, loc="left")
        gradcam.set_xlabel("Grad-CAM", fontsize=7, color=INK, labelpad=1)
        saliency.set_xlabel("saliency", fontsize=7, color=INK, labelpad=1)
    figure.get_layout_engine().set(h_pad=0.08)  # a title is nearer to its own row than to the last
    _explain(figure, grid, note)
    return figure


def overlay(image, gradcam) -> np.ndarray:
    """(S, S, 3) uint8: `image` (S, S, 3) uint8 under its map (S, S) in 0..1."""
    colours = colormaps[OVERLAY["cmap"]](gradcam)[..., :3]
    return (0.5 * image + 0.5 * 255 * colours).round().astype(np.uint8)


def overlay_colours(n: int = 7) -> list[str]:
    """The map's colours from the least to the most, for a colour bar in CSS."""
    return [to_hex(colormaps[OVERLAY["cmap"]](k / (n - 1))) for k in range(n)]


def _scale():
    return ScalarMappable(Normalize(0, 1), OVERLAY["cmap"])


def _explain(figure, grid, note):
    """A colour bar for the maps on `grid`, and `note` above all."""
    width, height = figure.get_size_inches()
    scale, shape = _scale(), dict(fraction=0.1 / height, shrink=0.5, aspect=0.5 * width / 0.1)
    bar = figure.colorbar(scale, ax=grid, location="top", pad=0.3 / height, **shape)
    bar.set_ticks([0, 1], labels=["least evidence in the image", "most"], color=INK, fontsize=8)
    bar.outline.set_visible(False)
    if note:
        figure.suptitle(note, fontsize=9, wrap=True, color=RED)


def pairs(items: list[dict], note: str = "", columns: int = 4) -> Figure:
    """Each image beside itself under its Grad-CAM, `columns` such pairs a row; items and note as in
    `explanations`."""
    lines = max(1, -(-len(items) // columns))
    figure, grid = _grid(2 * 1.4 * columns, 1.85 * lines, lines, 2 * columns)
    for (left, right), item in zip(grid.reshape(-1, 2), items, strict=False):
        left.imshow(item["image"])
        right.imshow(item["image"])
        right.imshow(item["gradcam"], alpha=0.5, **OVERLAY)
        left.set_title(item["title"].strip(), fontsize=9, color=INK, loc="left")
    _explain(figure, grid, note)
    return figure


def side_by_side(pairs, images, columns: int = 3) -> Figure:
    """Pairs of images beside each other, `columns` pairs a line; at least one.

    `pairs`: (row of `images`, row, title).
    """
    width, height, gap, title_height = 200, 150, 6, 32  # px; the title stands above the pair
    line, column = height + title_height, 2 * width + 4 * gap
    lines = -(-len(pairs) // columns)
    sheet = np.full((lines * line, columns * column, 3), 255, np.uint8)
    figure, grid = _grid(sheet.shape[1] / 100, sheet.shape[0] / 100, 1, 1)
    for k, (*rows, title) in enumerate(pairs):
        top, left = k // columns * line + title_height, k % columns * column
        for shift, row in zip((0, width + gap), rows, strict=True):
            small = Image.fromarray(images[row]).resize((width, height))
            sheet[top : top + height, left + shift : left + shift + width] = small
        grid[0, 0].text(left, top - 9, title, fontsize=10, color=INK)
    grid[0, 0].imshow(sheet)
    return figure


def answer(item, similar=()) -> Figure:
    """An answer.Answer: the square that the network saw, its Grad-CAM, the probabilities (pale:
    ruled out), and the most similar training images.

    similar: these, (H, W, 3) uint8 each, None for one that isn't here; no panel where all are.
    """
    similar = similar if any(image is not None for image in similar) else ()
    figure = Figure(figsize=(10, 5.6 if similar else 3), layout="constrained")
    figure.photographs = True
    shares = zip(CLASSES, item.probabilities, strict=True)
    figure.alt = f"{item.text}. Probabilities: {', '.join(f'{c} {percent(p)}' for c, p in shares)}."
    heights = (1.15, 1) if similar else (1.15,)
    upper, *lower = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    square, gradcam, bars = upper.subplots(1, 3, width_ratios=(1, 1, 1.35))
    _blank([square, gradcam])
    square.set_title("what the network saw", fontsize=9, color=INK)
    gradcam.set_title("no Grad-CAM" if item.gradcam is None else "Grad-CAM", fontsize=9, color=INK)
    for ax in (square, gradcam):
        ax.imshow(item.square)
    if item.gradcam is not None:
        gradcam.imshow(item.gradcam, alpha=0.5, **OVERLAY)
        gradcam.set_xlabel(fill(item.gradcam_note, 34), fontsize=7, color=RED)
        scale = upper.colorbar(_scale(), ax=gradcam, shrink=0.8)
        scale.set_ticks([0, 1], labels=["least", "most\nevidence"], color=INK, fontsize=7)
    _probabilities(bars, item)
    for panel in lower:
        _similar(panel, item.similar, similar)
    title = "\n".join([item.text, *(f"Warning: this picture {w}." for w in item.warnings)])
    figure.suptitle(title, fontsize=12, wrap=True, color=RED if item.foreign else INK)
    figure.supxlabel("\n".join(item.error_rates), fontsize=9, wrap=True, color=INK)
    figure.get_layout_engine().set(h_pad=0.09)  # else a heading touches what it is above
    return figure


def _similar(panel, similar, images):
    grid = panel.subplots(1, len(similar), squeeze=False)[0]
    _blank(grid)
    for ax, item, image in zip(grid, similar, images, strict=True):
        if image is None:
            ax.text(0.5, 0.5, "not in the data any more", ha="center", fontsize=8, color=INK)
        else:
            ax.imshow(image)
        title = f"{item['image']}, {item['similarity']:.2f}\n{CLASS_NAMES[item['label']]}"
        ax.set_title(title, fontsize=8, color=INK)
    title = "most similar in training, each of another lesion (cosine of the network's features)"
    panel.suptitle(title, fontsize=9, color=INK)


def _probabilities(ax, item):
    bars = ax.barh(CLASSES, item.probabilities, color=[COLOURS[c] for c in CLASSES])
    for bar, c in zip(bars, CLASSES, strict=True):
        bar.set_alpha(1 if not item.foreign and c in item.possible else 0.25)
    ax.bar_label(bars, map(percent, item.probabilities), padding=4, fontsize=9, color=INK)
    ax.set_yticks(range(len(CLASSES)), [f"{CLASS_NAMES[c]} ({c})" for c in CLASSES])
    ax.invert_yaxis()
    plain(ax)
    ax.set(xlim=(0, 1.12), xlabel="calibrated probability (solid: can't be ruled out)")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
