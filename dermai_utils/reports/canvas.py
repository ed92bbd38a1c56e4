"""The paper on which every figure is drawn: its colours, its axes, and how it becomes a file."""

import io

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
    alt = ""  # what the figure shows, in words, for a reader who does not see it

    def encoded(self) -> bytes:
        """The figure as the bytes of a PNG, or of a JPEG where it shows photographs."""
        buffer, options = io.BytesIO(), dict(dpi=DPI, bbox_inches="tight")
        if self.photographs:
            self.savefig(buffer, format="jpeg", **options, pil_kwargs={"quality": 70})
            return buffer.getvalue()
        self.savefig(buffer, format="png", **options)
        chart, small = Image.open(buffer).convert("RGB"), io.BytesIO()
        # 256 colours are a third of the bytes; with this method white stays white
        chart = chart.quantize(256, Image.Quantize.MAXCOVERAGE)
        chart.save(small, "PNG", optimize=True)
        return small.getvalue()

    def save(self, path) -> None:
        """Write the figure to `path`, whole or not at all: .jpg for photographs, else .png."""
        with files.atomic(path, "wb") as file:
            file.write(self.encoded())

    def _repr_png_(self):
        return None if self.photographs else (self.encoded(), {"alt": self.alt})

    def _repr_jpeg_(self):
        return (self.encoded(), {"alt": self.alt}) if self.photographs else None


def axes(width, height, rows=1, columns=1, title="", alt="", **options):
    """(Figure of `width` x `height` inches, (rows, columns) array of axes without a frame). The
    title stands above the figure and before its alternative text."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.alt = " ".join((f"{title}: {alt}" if title else alt).split())
    if title:
        figure.suptitle(title, fontsize=10.5)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in grid.flat:
        plain(ax)
    return figure, grid


def plain(ax) -> None:
    """Remove the upper and the right edge, and make the ticks small."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(colors=INK, labelsize=9)


def message(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure, [[ax]] = axes(8, 1, alt=text)
    ax.axis("off")
    ax.text(0, 0.5, text, fontsize=10, color=INK)
    return figure


def rows_from_top(ax, names) -> None:
    """Name the rows of a horizontal chart, the first one at the top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="x", color="#E5E5E5", lw=0.8)
    ax.set_axisbelow(True)
