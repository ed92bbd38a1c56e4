"""The paper on which every figure is drawn: its colours, its axes, and how it becomes a file."""

import io

import numpy as np
from matplotlib import figure as mpl
from PIL import Image

from dermai_utils import files
from dermai_utils.basics import CLASSES

# The palette of Okabe and Ito, for every kind of colour vision (jfly.uni-koeln.de/color).
BLACK, ORANGE, SKY, GREEN, PINK, BLUE, RED = (
    "#000000 #E69F00 #56B4E9 #009E73 #CC79A7 #0072B2 #D55E00".split()
)
COLOURS = dict(zip(CLASSES, (BLACK, ORANGE, SKY, GREEN, PINK, BLUE, RED), strict=True))
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 3)), (0, (2, 1)))
DASHES = dict(zip(CLASSES, LINES, strict=True))  # colour alone does not tell seven curves apart
INK = "#333333"
DPI = 120  # small print must be legible


class Figure(mpl.Figure):
    """A matplotlib figure without pyplot: nothing to close, and every notebook shows it as a
    picture."""

    photographs = False  # a figure of photographs becomes a JPEG, a tenth of the size
    alt = ""  # what the figure shows, in words

    def encoded(self, kind: str = "png") -> bytes:
        """The figure as the bytes of a PNG or JPEG."""
        buffer = io.BytesIO()
        self.savefig(buffer, format=kind, dpi=DPI, bbox_inches="tight")
        if self.photographs or kind == "jpeg":
            return buffer.getvalue()
        chart = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE)
        small = io.BytesIO()
        chart.save(small, "PNG", optimize=True)  # a third of the bytes
        return small.getvalue()

    def save(self, path) -> None:
        """Write the figure to `path`, a PNG or (.jpg) a JPEG, whole or not at all."""
        with files.atomic(path, "wb") as file:
            file.write(self.encoded("jpeg" if path.suffix == ".jpg" else "png"))

    def _repr_png_(self):
        return None if self.photographs else (self.encoded("png"), {"alt": self.alt})

    def _repr_jpeg_(self):
        return (self.encoded("jpeg"), {"alt": self.alt}) if self.photographs else None


def axes(width, height, rows=1, columns=1, **options):
    """(Figure of `width` x `height` inches, (rows, columns) array of axes without a frame)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in grid.flat:
        plain(ax)
    return figure, grid


def plain(ax) -> None:
    """Remove the upper and the right edge, and make the ticks small."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(colors=INK, labelsize=9)


def blank(axes) -> None:
    """Remove ticks and edges: for photographs."""
    for ax in np.ravel(axes):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)


def message(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure, grid = axes(8, 1)
    grid[0, 0].axis("off")
    grid[0, 0].text(0, 0.5, text, fontsize=10, color=INK)
    return figure


def described(figure: Figure, title: str, words: str) -> Figure:
    """`figure`, with its alternative text: what a reader who does not see it has to know."""
    figure.alt = " ".join((f"{title}: {words}" if title else words).split())
    return figure


def rows_from_top(ax, names) -> None:
    """Name the rows of a horizontal chart, the first one at the top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="x", color="#E5E5E5", lw=0.8)
    ax.set_axisbelow(True)


def whisker(ax, y, value, low, high, colour, hollow=False) -> None:
    """Draw a dot at `value` with its interval; hollow where the images are too few to read much
    into it."""
    low, high = (value if end is None else end for end in (low, high))
    alpha, fill = (0.45, "white") if hollow else (1, colour)
    ax.plot([low, high], [y, y], color=colour, lw=1.6, alpha=alpha, solid_capstyle="butt")
    ax.plot(value, y, "o", ms=6, color=colour, mfc=fill, clip_on=False, zorder=3)


def ink_on(colour) -> str:
    """Black or white, whichever has the greater contrast with `colour` (red, green, blue, 0 to 1):
    at least 4.58 to 1 (WCAG 2.2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"
