"""Every figure of photographs. Images are (H, W, 3) uint8, or tensors (3, H, W) in 0 to 1; a map
is (H, W) float in 0 to 1."""

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.ticker import PercentFormatter
from PIL import Image

from dermai_utils.basics import CLASS_NAMES, CLASSES, counted
from dermai_utils.reports import canvas
from dermai_utils.reports.canvas import COLOURS, INK, RED, Figure
from dermai_utils.study.text import percent

OVERLAY = dict(cmap="inferno", vmin=0, vmax=1)


def _grid(width, height, rows, columns, alt):
    """(figure, (rows, columns) axes) for photographs."""
    figure, grid = canvas.axes(width, height, rows, columns, alt=f"Photographs: {alt}.")
    figure.photographs = True
    _blank(grid)
    return figure, grid


def _blank(axes):
    for ax in np.ravel(axes):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)


def shown(image) -> np.ndarray:
    """(H, W, 3) uint8 of an image in either form."""
    if hasattr(image, "permute"):
        image = (255 * image.detach().permute(1, 2, 0)).round().clamp(0, 255).byte().cpu().numpy()
    return np.asarray(image)


def sheet(images, titles, columns: int = 4) -> Figure:
    """Images side by side, `columns` of them a row, each under its title: mistakes, an augmented
    batch, anything."""
    if not len(images):
        return canvas.message("No such image here.")
    columns = min(columns, len(images))
    lines = -(-len(images) // columns)
    figure, grid = _grid(2.6 * columns, 2.5 * lines, lines, columns, "; ".join(titles))
    for ax, (image, title) in zip(grid.flat, zip(images, titles, strict=True), strict=False):
        ax.imshow(shown(image))
        ax.set_title(title, fontsize=10, color=INK)
    return figure


def by_class(labels, images, each: int = 8) -> Figure:
    """The first `each` images of every class, a row a class. `labels` (N,): the class of each of
    N images, by name."""
    alt = f"the first {each} images of each class, a row a class"
    figure, grid = _grid(1.25 * each, 7.2, len(CLASSES), each, alt)
    for row, label in zip(grid, CLASSES, strict=True):
        places = np.flatnonzero(np.asarray(labels) == label)[:each]
        for ax, place in zip(row, places, strict=False):
            ax.imshow(shown(images[place]))
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10, color=INK)
    return figure


def verdicts(rows: pd.DataFrame) -> list[str]:
    """What became of each row of predictions: "ISIC_1", "MEL predicted as NV (93.1 %)", on two
    lines."""
    return [
        f"{row['image']}\n{row['truth']} predicted as {row['prediction']} "
        f"({percent(row['confidence'])})"
        for row in rows.to_dict("records")
    ]


def pairs(items, columns: int = 3) -> Figure:
    """Pairs of images side by side, `columns` pairs a row: near-duplicates.

    `items`: (image, image, title) each. One sheet of pixels, because hundreds of axes take minutes.
    """
    if not len(items):
        return canvas.message("No pairs.")
    width, height, gap, title_height = 200, 150, 6, 32  # px; the title stands above the pair
    line, column = height + title_height, 2 * width + 4 * gap
    lines = -(-len(items) // columns)
    pixels = np.full((lines * line, columns * column, 3), 255, np.uint8)
    shape = pixels.shape[1] / 100, pixels.shape[0] / 100
    figure, [[ax]] = _grid(*shape, 1, 1, f"{counted(len(items), 'pair')} side by side")
    for k, (*both, title) in enumerate(items):
        top, left = k // columns * line + title_height, k % columns * column
        for shift, image in zip((0, width + gap), both, strict=True):
            small = Image.fromarray(shown(image)).resize((width, height))
            pixels[top : top + height, left + shift : left + shift + width] = small
        ax.text(left, top - 9, title, fontsize=10, color=INK)
    ax.imshow(pixels)
    return figure


# Maps over photographs.


def gradcam(images, maps, titles, note: str = "", columns: int = 4, saliency=None) -> Figure:
    """Each image beside itself under its Grad-CAM, and under its `saliency` where that is given;
    `columns` images a row. `note` stands above all."""
    kinds = {"Grad-CAM": maps} | ({} if saliency is None else {"saliency": saliency})
    each, lines = 1 + len(kinds), max(1, -(-len(images) // columns))
    alt = f"each beside itself under its {' and its '.join(kinds)}: {'; '.join(titles)}. {note}"
    figure, grid = _grid(each * 1.5 * columns, 2.1 * lines, lines, each * columns, alt)
    for k, (panels, image) in enumerate(zip(grid.reshape(-1, each), images, strict=False)):
        for ax in panels:
            ax.imshow(shown(image))
        for ax, (name, found) in zip(panels[1:], kinds.items(), strict=True):
            ax.imshow(found[k], alpha=0.5, **OVERLAY)
            ax.set_xlabel(name, fontsize=7, color=INK, labelpad=1)
        panels[0].set_title(titles[k], fontsize=8, color=INK, loc="left")
    figure.get_layout_engine().set(h_pad=0.08)  # a title is nearer to its own row than to the last
    width, height = figure.get_size_inches()
    shape = dict(fraction=0.1 / height, shrink=0.5, aspect=0.5 * width / 0.1)
    bar = figure.colorbar(_scale(), ax=grid, location="top", pad=0.3 / height, **shape)
    bar.set_ticks([0, 1], labels=["least evidence in the image", "most"], color=INK, fontsize=8)
    bar.outline.set_visible(False)
    if note:
        figure.suptitle(note, fontsize=9, wrap=True, color=RED)
    return figure


def overlay(image, gradcam) -> np.ndarray:
    """(S, S, 3) uint8: an image under its map."""
    colours = colormaps[OVERLAY["cmap"]](gradcam)[..., :3]
    return (0.5 * shown(image) + 0.5 * 255 * colours).round().astype(np.uint8)


def overlay_colours() -> list[str]:
    """Seven colours of a map from least to most, for a colour bar in CSS."""
    return [to_hex(colormaps[OVERLAY["cmap"]](k / 6)) for k in range(7)]


def _scale():
    return ScalarMappable(Normalize(0, 1), OVERLAY["cmap"])


# An answer about a new picture.


def answer(item, similar=()) -> Figure:
    """An Answer of the app: the square that the network saw, its Grad-CAM, the probabilities (pale
    where a class is ruled out), and the most similar training images.

    `similar`: images, None for one that is not here; without any there is no panel of them.
    """
    similar = similar if any(image is not None for image in similar) else ()
    figure = Figure(figsize=(10, 5.6 if similar else 3), layout="constrained")
    figure.photographs = True
    shares = zip(CLASSES, item.probabilities, strict=True)
    figure.alt = f"{item.text}. Probabilities: {', '.join(f'{c} {percent(p)}' for c, p in shares)}."
    heights = (1.15, 1) if similar else (1.15,)
    upper, *lower = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    square, gradcam, bars = upper.subplots(1, 3, width_ratios=(1, 1, 1.35))
    _explained(square, gradcam, item)
    _probabilities(bars, item)
    for panel in lower:
        _similar(panel, item.similar, similar)
    title = "\n".join([item.text, *(f"Warning: this picture {w}." for w in item.warnings)])
    figure.suptitle(title, fontsize=12, wrap=True, color=RED if item.foreign else INK)
    said = "\n".join(item.error_rates).replace(" %", "\u00a0%")  # or a line begins with "%"
    figure.supxlabel(said, fontsize=9, wrap=True, color=INK)
    figure.get_layout_engine().set(h_pad=0.09)  # or a heading touches what it is above
    return figure


def _explained(square, gradcam, item):
    """The square, and beside it its Grad-CAM."""
    _blank([square, gradcam])
    square.set_title("what the network saw", fontsize=9, color=INK)
    gradcam.set_title("no Grad-CAM" if item.gradcam is None else "Grad-CAM", fontsize=9, color=INK)
    for ax in (square, gradcam):
        ax.imshow(item.square)
    if item.gradcam is not None:
        gradcam.imshow(item.gradcam, alpha=0.5, **OVERLAY)
        gradcam.set_xlabel(fill(item.gradcam_note, 34), fontsize=7, color=RED)
        scale = gradcam.figure.colorbar(_scale(), ax=gradcam, shrink=0.8)
        scale.set_ticks([0, 1], labels=["least", "most\nevidence"], color=INK, fontsize=7)


def _similar(panel, similar, images):
    grid = panel.subplots(1, len(similar), squeeze=False)[0]
    _blank(grid)
    for ax, item, image in zip(grid, similar, images, strict=True):
        if image is None:
            ax.text(0.5, 0.5, "not in the data any more", ha="center", fontsize=8, color=INK)
        else:
            ax.imshow(shown(image))
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
    canvas.plain(ax)
    ax.set(xlim=(0, 1.12), xlabel="calibrated probability (solid: can't be ruled out)")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
