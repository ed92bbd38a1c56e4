"""The figures: legible text, curves that colour alone doesn't tell apart, the epoch that was kept,
and what each shows in words."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermai_utils import files
from dermai_utils.config import CLASSES
from dermai_utils.report import figures, plots
from dermai_utils.training import checkpoint


def contrast(one, other):
    """WCAG 2.2: of two colours as red, green, blue in 0..1."""

    def luminance(colour):
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_every_number_of_a_confusion_matrix_can_be_read_on_its_cell():
    from matplotlib.colors import to_rgb

    counts = np.tile(np.arange(7) * 10, (7, 1)) + np.arange(7)[:, None]  # all shades
    seen = []
    for ax in plots.confusion(counts).axes:
        mesh = ax.collections[0]
        shades = (
            mesh.get_facecolors() if len(mesh.get_facecolors()) else mesh.to_rgba(mesh.get_array())
        )
        shades = np.reshape(shades, (7, 7, 4))
        for text in ax.texts:
            x, y = map(int, text.get_position())
            seen.append(contrast(to_rgb(text.get_color()), shades[y, x, :3]))
    assert len(seen) == 98 and min(seen) >= 4.5


@pytest.mark.parametrize("draw", [plots.roc, plots.precision_recall])
def test_two_curves_never_differ_by_colour_alone(draw):
    rng = np.random.default_rng(0)
    truth, probabilities = np.arange(70) % 7, rng.dirichlet(np.ones(7), 70)
    (ax,) = draw(truth, probabilities).axes
    lines = [line for line in ax.lines if line.get_label()[0] != "_"]
    assert len(lines) == 7
    dashes = [(line._dash_pattern, line.get_marker()) for line in lines]
    assert all(a != b for a, b in itertools.combinations(dashes, 2))


def test_precision_recall_and_its_areas_are_sklearn_s():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(1)
    truth, p = np.arange(140) % 6, rng.dirichlet(np.ones(7), 140)  # no VASC
    (ax,) = plots.precision_recall(truth, p).axes
    labels = [line.get_label() for line in ax.lines]
    expected = [
        f"{c} {average_precision_score(truth == k, p[:, k]):.3f} (chance {(truth == k).mean():.3f})"
        for k, c in enumerate(CLASSES[:6])
    ]
    assert labels == expected


def test_the_marked_epoch_is_the_one_that_was_kept(made, tmp_path, monkeypatch):
    """Of two epochs with the same score the last one is kept, and the highest isn't always."""
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "loss": [1.0, 0.9, 0.8],
            "val_loss": [1.0, 0.9, 0.8],
            "balanced_accuracy": [0.5, 0.5, 0.4],
            "macro_f1": [0.5, 0.5, 0.4],
        }
    )
    files.write_table(history, tmp_path / "history.csv")
    about = {"metrics": history.iloc[1].to_dict() | {"epoch": 2}}
    checkpoint.save(tmp_path / "best.pt", {"model": {}, "about": about})
    monkeypatch.setattr(type(made), "member_dirs", [tmp_path])
    *_, right = figures.draw(made, "learning_curve").axes
    (note,) = right.texts
    assert note.xy == (2, 0.5) and "0.500" in note.get_text()


@pytest.mark.parametrize("name", ["class_counts", "split_counts"])
def test_there_are_no_bars_on_a_log_axis(made, name):
    (ax,) = figures.draw(made, name).axes
    assert "log" in (ax.get_xscale(), ax.get_yscale()) and not ax.patches


def test_each_figure_says_by_which_rule_and_tells_in_words_what_it_shows(corrected):
    metrics, titles = files.read_json(corrected.report_dir / "metrics.json"), {}
    for name in ("confusion", "confusion_argmax", "metrics", "subgroups", "mistakes"):
        figure = figures.draw(corrected, name)
        title = figure.get_suptitle() or figure.axes[0].get_title()
        titles[name] = title.rpartition("decision rule: ")[2]
        assert len(figure.alt) > 40
    rule = f"prior-corrected, tau = {metrics['decisions']['tau']:g}"
    argmax = titles.pop("confusion_argmax")
    assert argmax == "argmax" and set(titles.values()) == {rule}
    row = metrics["intervals"]["official"]["balanced_accuracy"]
    text = f"balanced accuracy {row['value']:.3f}, {row['low']:.3f} to {row['high']:.3f}"
    assert text in figures.draw(corrected, "metrics").alt


def test_a_notebook_gets_the_report_s_figure_with_its_words(corrected):
    figure = figures.draw(corrected, "roc")
    png, about = figure._repr_png_()
    width = Image.open(io.BytesIO(png)).width
    assert width > 5 * 110 and about == {"alt": figure.alt}  # at least 110 dots an inch
    saved = Image.open(corrected.report_dir / "roc_official.png")
    assert saved.width == width
    page = (corrected.report_dir / "report.html").read_text(encoding="utf-8")
    assert f'alt="{figure.alt}"' in page


@pytest.mark.parametrize("draw", [plots.roc, plots.precision_recall])
def test_one_class_alone_has_no_curve_and_says_so(draw, recwarn):
    """A test set of one's own may be of one class; matplotlib warned of an empty legend."""
    figure = draw(np.ones(5, int), np.full((5, 7), 1 / 7))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "images of one class alone: no curve" in texts and not recwarn.list
