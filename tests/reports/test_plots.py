"""The figures: legible text, curves that colour alone does not tell apart, numbers that are right,
and what each shows in words."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn import metrics as sk

from dermai_utils.basics import CLASSES
from dermai_utils.reports import data_plots, pictures, plots
from dermai_utils.reports.canvas import Figure
from dermai_utils.study.calibration import reliability

RNG = np.random.default_rng(0)
TRUTH, P = np.arange(140) % 7, RNG.dirichlet(np.ones(7), 140)
IMAGES = RNG.integers(0, 256, (9, 24, 32, 3), dtype=np.uint8)
RATE = {"sensitivity": 0.8, "sensitivity_low": 0.7, "sensitivity_high": 0.9}
RATE |= {"specificity": None, "specificity_low": None, "specificity_high": None, "n": 140}
NO_ENDS = {"low": None, "high": None}


@pytest.fixture(scope="module")
def figures():
    """Every figure of arrays and tables, by name."""
    counts = pd.DataFrame({"images": range(1, 8), "lesions": range(1, 8)}, CLASSES)
    subsets = pd.DataFrame({name: range(1, 8) for name in ("train", "val", "Basel")}, CLASSES)
    history = pd.DataFrame({"epoch": [1], "loss": [1.0], "val_loss": [1.0]})
    history = history.assign(balanced_accuracy=0.5, macro_f1=0.5)
    row = {"random": 0.62, "lesion": 0.51, "difference": 0.11}
    effect = {"nearest": row | {"low": 0.04, "high": 0.18}, "second": row | NO_ENDS}
    points = [
        {"target": t, "rate": "sensitivity", "level": 0.9, "scored": RATE} for t in ("a", "b")
    ]
    bins = reliability(TRUTH, P)
    titles, maps = [f"image {k}" for k in range(9)], RNG.random((9, 24, 32))
    return {
        "class_counts": data_plots.class_counts(counts),
        "split_counts": data_plots.split_counts(subsets),
        "leakage": data_plots.leakage({"random": 12, "lesion-safe": 0}),
        "leakage_effect": data_plots.leakage_effect({"classifiers": effect, "prone_images": 3}),
        "learning_curves": plots.learning_curves(history),
        "confusion_matrix": plots.confusion_matrix(TRUTH, P.argmax(1)),
        "curves": plots.curves(TRUTH, P, "a title"),
        "calibration": plots.calibration({"one": bins, "two": bins, "three": bins}),
        "risk_coverage": plots.risk_coverage(TRUTH, P, [{"coverage": 0.5, "risk": 0.2}]),
        "operating_points": plots.operating_points(points),
        "sheet": pictures.sheet(IMAGES, titles),
        "by_class": pictures.by_class(np.array(CLASSES)[np.arange(9) % 7], IMAGES, each=2),
        "pairs": pictures.pairs([(IMAGES[0], IMAGES[1], "a pair")]),
        "gradcam": pictures.gradcam(IMAGES, maps, titles, "a caution"),
        "explanations": pictures.gradcam(IMAGES, maps, titles, columns=2, saliency=maps),
    }


def test_every_figure_says_in_words_what_it_shows_and_a_notebook_gets_it(figures, tmp_path):
    for name, figure in figures.items():
        assert isinstance(figure, Figure) and len(figure.alt) > 25, name
        assert not re.search(r"\n|  |nan", figure.alt), name
    for name, kind in {"curves": "PNG", "explanations": "JPEG"}.items():
        png, jpeg = figures[name]._repr_png_(), figures[name]._repr_jpeg_()
        assert (png is None) == (kind == "JPEG") != (jpeg is None)
        data, about = png or jpeg
        picture = Image.open(io.BytesIO(data))
        assert about == {"alt": figures[name].alt} and picture.format == kind
        assert picture.width > 300
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # as the page is
    figures["curves"].save(tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").format == "PNG"


def test_the_words_hold_the_numbers(figures):
    area = sk.roc_auc_score(TRUTH == 1, P[:, 1])
    precision = sk.average_precision_score(TRUTH == 1, P[:, 1])
    alt, axes = figures["curves"].alt, figures["curves"].axes
    labels = {text.get_text() for ax in axes for text in ax.get_legend().get_texts()}
    assert alt.startswith("a title: ") and f"NV {area:.3f} (n=20)" in alt
    assert {f"NV {area:.3f} (n=20)", f"NV {precision:.3f} (chance 0.143)"} <= labels
    assert "random 12, lesion-safe 0" in figures["leakage"].alt
    assert "nearest 0.620 and 0.510" in figures["leakage_effect"].alt
    assert "image 8" in figures["gradcam"].alt and "a caution" in figures["gradcam"].alt
    texts = {text.get_text() for text in figures["leakage_effect"].axes[0].texts}
    assert {"0.110 [0.040, 0.180]", "0.110 [not known]"} <= texts
    assert figures["operating_points"].axes[0].lines[0].get_xdata().tolist() == [0.8]


def test_the_axis_of_one_epoch_has_one_tick(figures):
    ax = figures["learning_curves"].axes[0]
    low, high = ax.get_xlim()
    ticks = ax.xaxis.get_major_locator().tick_values(low, high)
    assert [tick for tick in ticks if low <= tick <= high] == [1]


def contrast(*colours):
    """WCAG 2.2: of two colours as red, green, blue in 0..1."""
    linear = np.array(colours)
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(linear @ (0.2126, 0.7152, 0.0722))
    return (light + 0.05) / (dark + 0.05)


def test_every_number_of_a_confusion_matrix_is_right_and_can_be_read_on_its_cell():
    """Of a class with fewer than ten images there are only counts: 3 of 4 says less than 0.75."""
    truth = np.repeat(np.arange(6), range(5, 65, 10))  # no VASC, five MEL
    called = np.where(RNG.random(len(truth)) < 0.6, truth, RNG.integers(0, 7, len(truth)))
    (ax,) = plots.confusion_matrix(*np.array(CLASSES)[[truth, called]]).axes
    counts = sk.confusion_matrix(truth, called, labels=range(7))[:6]
    expected = [
        f"{k}\n{k / row.sum():.2f}" if k and row.sum() >= 10 else f"{k}"
        for row in counts
        for k in row
    ]
    assert [text.get_text() for text in ax.texts] == expected
    assert [label.get_text() for label in ax.get_yticklabels()][0] == "MEL (n=5)"
    right = plots.confusion_matrix(np.repeat(range(7), 100), np.repeat(range(7), 100)).axes
    for heatmap in (ax, *right):
        (image,) = heatmap.images
        shades = image.to_rgba(image.get_array())[..., :3]
        seen = [
            contrast(to_rgb(text.get_color()), shades[text.get_position()[::-1]])
            for text in heatmap.texts
        ]
        assert len(seen) >= 42 and min(seen) >= 5.5


def test_two_curves_never_differ_by_colour_alone(figures, recwarn):
    for ax in figures["curves"].axes:
        dashes = [line._dash_pattern for line in ax.lines if line.get_label()[0] != "_"]
        assert len(dashes) == len(set(map(str, dashes))) == 7
    alone = plots.curves(np.ones(5, int), np.full((5, 7), 1 / 7))  # a test set may be of one class
    for ax in alone.axes:
        assert "images of one class alone: no curve" in [text.get_text() for text in ax.texts]
    assert "curves: none" in alone.alt and not recwarn.list


def test_what_is_not_known_is_said_and_not_drawn_as_zero():
    for figure, words in (
        (data_plots.leakage({"random": None}), "Not known"),
        (data_plots.leakage_effect({"classifiers": {}}), "leaks nothing"),
        (pictures.sheet([], []), "No such image"),
        (pictures.pairs([]), "No pairs"),
    ):
        assert words in figure.axes[0].texts[0].get_text() and not figure.axes[0].patches


def test_photographs_are_shown_as_they_are():
    """Also an augmented batch, tensors in 0 to 1, channels first; under a map, each half."""
    batch = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    for ax, image in zip(pictures.sheet(batch[:2], "ab").axes, IMAGES, strict=False):
        assert all(np.array_equal(shown.get_array(), image) for shown in ax.images)
    seen = pictures.overlay(IMAGES[0], np.ones((24, 32)))
    colour = np.array(to_rgb(pictures.overlay_colours()[-1]))
    np.testing.assert_allclose(seen, 0.5 * IMAGES[0] + 127.5 * colour, atol=1.01)
    assert seen.dtype == np.uint8 and len(pictures.overlay_colours()) == 7


@pytest.mark.parametrize("foreign", [True, False])
def test_an_answer_is_drawn_with_its_warnings(foreign):
    near = {"image": "ISIC_1", "label": "NV", "similarity": 0.9}
    about = dict(text="melanoma", probabilities=P[0], possible=("MEL",), foreign=foreign)
    about |= dict(warnings=["is dark"], error_rates=["Wrong for 1 of 9."], gradcam_note="no")
    about |= dict(square=IMAGES[0], similar=[near, near])
    item = SimpleNamespace(**about, gradcam=None if foreign else np.zeros((24, 32)))
    figure = pictures.answer(item, [IMAGES[1], None])
    assert "Warning: this picture is dark." in figure.get_suptitle()
    assert figure.alt.startswith("melanoma. Probabilities: MEL ") and figure._repr_jpeg_()
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "not in the data any more" in texts
    assert len(pictures.answer(item, [None, None]).axes) < len(figure.axes)
