import base64
import dataclasses
import io
import re
import sys

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from dermai_utils import files
from dermai_utils.config import CLASS_NAMES, CLASSES, DISCLAIMER, UserError
from dermai_utils.predict import app, description, pictures
from dermai_utils.predict import predictor as photo
from dermai_utils.report import photographs


@pytest.fixture(scope="module")
def predictor(made):
    return photo.Predictor(made)


def pages(predictor, sources):
    """What the page shows, one after another: (status, parsed HTML)."""
    return [(s, BeautifulSoup(h, "html.parser")) for s, h in app.replies(predictor, sources)]


def test_previews_come_first_then_answers_then_the_csv(made, predictor):
    path = pictures.example(made)
    shown = pages(predictor, {"a.jpg": path, "b.jpg": path.read_bytes()})
    statuses = [status for status, _ in shown]
    assert statuses[:2] == ["Looking at picture 1 of 2 …", "Looking at picture 2 of 2 …"]
    waiting = [len(page.select("article[aria-busy]")) for _, page in shown]
    assert waiting == [2, 1, 0]
    assert all(len(page.select("article img")) >= 2 for _, page in shown)
    assert [len(page.select("a[download]")) for _, page in shown] == [0, 0, 1]
    link = shown[-1][1].select_one("a[download]")["href"]
    rows = pd.read_csv(io.BytesIO(base64.b64decode(link.partition(",")[2])))
    assert rows["picture"].tolist() == ["a.jpg", "b.jpg"]


def test_bars_numbers_and_marks_are_those_of_the_answer(made, predictor):
    path = pictures.example(made)
    result = predictor.answers(path, maps=False)[0]
    page = pages(predictor, {"a.jpg": path})[-1][1]
    rows = page.select(".bars tbody tr")
    shares = [row.select_one(".number").text for row in rows]
    order = np.argsort(-result.probabilities)
    assert [row.select_one("th").text.split("(")[-1][:-1] for row in rows] == [
        CLASSES[k] for k in order
    ]
    exact = 100 * result.probabilities[order]
    for text, share, row in zip(shares, exact, rows, strict=True):
        assert text == "<0.1 %" if share < 0.1 else float(text.strip(" %>")) == round(share, 1)
        width = float(re.search(r"width: ([\d.]+)%", row.select_one(".bar")["style"])[1])
        assert width == pytest.approx(share, abs=0.051)
    marked = [row.select_one("th").text.startswith("✓") for row in rows]
    assert marked == [CLASSES[k] in result.possible for k in order]
    captions = [caption.text for caption in page.select("figcaption")]
    assert any(predictor.gradcam_note in caption for caption in captions)


def test_where_the_picture_is_foreign_no_diagnosis_is_named(made, predictor, monkeypatch):
    state = dataclasses.replace(predictor.state, foreign_threshold=-1.0)
    monkeypatch.setattr(predictor, "state", state)
    page = pages(predictor, {"a.jpg": pictures.example(made)})[-1][1]
    assert "unlike the made-up pictures that this model learned from" in page.text
    assert "dermatoscope" not in page.text  # that would not help: only real data would
    assert "%" not in page.text and not any(CLASS_NAMES[c] in page.text for c in CLASSES)


@pytest.mark.parametrize(
    "limits, said",
    [
        (dict(thresholds=np.array([0] + [2.0] * 6)), "2 of 3 answered, 1 refused."),
        (dict(thresholds=np.zeros(7)), "0 of 3 answered, 2 unsure, 1 refused."),
        (dict(foreign_threshold=-1.0), "0 of 3 answered, 3 refused."),
    ],
    ids=["answered", "unsure", "foreign"],
)
def test_the_last_line_counts_what_is_no_answer(made, predictor, monkeypatch, limits, said):
    state = dataclasses.replace(predictor.state, **dict(foreign_threshold=np.inf) | limits)
    monkeypatch.setattr(predictor, "state", state)
    path = pictures.example(made)
    assert pages(predictor, {"a.jpg": path, "b.jpg": path, "c.txt": b"hello"})[-1][0] == said


def test_a_training_image_is_not_shown_as_merely_similar(made, predictor):
    path = pictures.clean.image_path(made, predictor.state.image[0])
    page = pages(predictor, {"a.jpg": path})[-1][1]
    notes = [note.text for note in page.select(".note")]
    assert any(f"the training image {predictor.state.image[0]}" in note for note in notes)


def test_a_text_file_is_one_line_without_the_folder_of_the_upload(predictor, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    status, page = pages(predictor, {"notes.txt": tmp_path / "notes.txt"})[-1]
    assert page.select_one(".note").text.startswith("notes.txt: not an image")
    assert status == "0 of 1 answered, 1 refused." and str(tmp_path) not in page.text


def test_a_name_is_text_and_never_markup(made, predictor):
    page = pages(predictor, {"<img src=x onerror=alert(1)>.jpg": pictures.example(made)})[-1][1]
    assert not page.select("img[onerror]") and "<img src=x" in page.select_one(".name").text


def test_photos_of_one_name_from_several_folders_are_told_apart(made, predictor, tmp_path):
    paths = [tmp_path / f"{k}/image.jpg" for k in range(3)]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(pictures.example(made).read_bytes())
    named = app.named([*map(str, paths), str(tmp_path / "IMG_1")])
    assert named == {
        "image.jpg": paths[0],
        "image (2).jpg": paths[1],
        "image (3).jpg": paths[2],
        "IMG_1": tmp_path / "IMG_1",
    }
    status, page = pages(predictor, app.named(paths))[-1]
    assert " of 3 answered" in status and len(page.select("article")) == 3
    assert [name.text for name in page.select(".name")] == list(named)[:3]


def test_examples_are_of_the_test_images_or_made_up(made, tmp_path):
    unseen = pictures.examples(made)
    assert list(unseen) == [f"an unseen {CLASS_NAMES[c]}" for c in pictures.EXAMPLES]
    assert pictures.example(made).parent.is_dir()
    alone = pictures.examples(dataclasses.replace(made, cache_dir=str(tmp_path)))
    gone = dataclasses.replace(made, cache_dir=str(tmp_path / "moved"))
    rows = files.read_table(made.rows_file)
    files.write_table(rows.assign(path=str(tmp_path) + rows["path"]), gone.rows_file)
    assert pictures.examples(gone) == alone
    with pytest.raises(UserError, match="none of the data set is on this machine"):
        pictures.example(gone)
    assert len(alone) == 3 and all("made-up" in name for name in alone)
    for data in (*unseen.values(), *alone.values()):
        Image.open(io.BytesIO(data)).load()


def test_the_intro_says_for_which_use_and_which_run_answers(made):
    text = BeautifulSoup(app.intro(made), "html.parser").text
    assert DISCLAIMER in text and description.text(made) in text


def test_an_overlay_is_the_picture_under_the_maps_colour():
    image = np.full((2, 2, 3), 100, np.uint8)
    shown = photographs.overlay(image, np.array([[0.0, 1.0], [0.0, 1.0]]))
    # inferno begins near black and ends in a pale yellow
    assert shown[0, 0].max() <= 55 and shown[0, 1].min() > 120
    assert len(photographs.overlay_colours()) == 7


def test_without_gradio_it_says_what_to_install(predictor, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="requirements-app.txt"):
        app.page(predictor)


def test_the_page_sends_nothing_home_and_stores_nothing(made, predictor):
    pytest.importorskip("gradio")
    page = app.page(predictor)
    assert page.analytics_enabled is False and page.delete_cache == (app.FORGET, app.FORGET)
    parts = (getattr(block, "value", None) for block in page.blocks.values())
    texts = [BeautifulSoup(part, "html.parser").text for part in parts if isinstance(part, str)]
    assert any(DISCLAIMER in text and photo.sample_warning(made) in text for text in texts)


def test_the_page_answers_each_of_two_uploads_of_one_name(predictor, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    asked = []
    monkeypatch.setattr(app, "replies", lambda _, sources: asked.append(sources) or [("", "")])
    uploads = (f for f in app.page(predictor).fns.values() if f.targets[0][1] == "upload")
    paths = [str(tmp_path / folder / "image.jpg") for folder in "ab"]
    assert list(next(uploads).fn(paths)) and asked == [app.named(paths)] and len(asked[0]) == 2
