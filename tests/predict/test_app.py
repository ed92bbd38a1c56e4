import dataclasses
import sys

import pytest

from dermai_utils.config import CLASS_NAMES, CLASSES, DISCLAIMER, UserError
from dermai_utils.predict import answer, app, pictures
from dermai_utils.predict import predictor as photo


@pytest.fixture(scope="module")
def predictor(made):
    return photo.Predictor(made)


def test_an_upload_gets_words_and_a_figure(made, predictor):
    text, figure = app.answer(predictor, pictures.example(made))
    assert DISCLAIMER in text and all(CLASS_NAMES[c] in text for c in CLASSES)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "%" in line]
    shares = [float(row.split("|")[2].strip(" *%")) for row in rows]
    assert len(shares) == 7 and sum(shares) == pytest.approx(100, abs=0.5)
    assert shares == sorted(shares, reverse=True)
    assert figure.width > 600


def test_where_the_picture_is_foreign_no_diagnosis_is_named(made, predictor):
    result = predictor.answers(pictures.example(made), maps=False)[0]
    text = app.as_markdown(dataclasses.replace(result, distance=2 * result.foreign_threshold))
    assert answer.FOREIGN in text and DISCLAIMER in text
    assert "%" not in text and not any(CLASS_NAMES[c] in text for c in CLASSES)


def test_a_text_file_is_one_line_without_the_folder_of_the_upload(predictor, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="^notes.txt: not an image"):
        app.answer(predictor, tmp_path / "notes.txt")


def test_without_gradio_it_says_what_to_install(predictor, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="requirements-app.txt"):
        app.page(predictor)


def test_the_page_sends_nothing_home_and_stores_nothing(made, predictor):
    pytest.importorskip("gradio")
    page = app.page(predictor)
    assert page.analytics_enabled is False and page.delete_cache == (app.FORGET, app.FORGET)
    texts = [str(block.value) for block in page.blocks.values() if hasattr(block, "value")]
    assert any(DISCLAIMER in text and photo.sample_warning(made) in text for text in texts)
