import dataclasses
import sys

import pytest

from dermai_utils import app, config, predict
from dermai_utils.config import CLASS_NAMES, CLASSES, DISCLAIMER, UserError


@pytest.fixture(scope="module")
def predictor(made):
    return predict.Predictor(made)


def test_an_upload_gets_words_and_a_figure(made, predictor):
    words, figure = app.told(predictor, predict.example(made))
    assert DISCLAIMER in words and all(CLASS_NAMES[c] in words for c in CLASSES)
    shares = [float(line.split("|")[2].strip(" *%")) for line in words.splitlines() if line.startswith("| ") and "%" in line]
    assert len(shares) == 7 and sum(shares) == pytest.approx(100, abs=0.5) and shares == sorted(shares, reverse=True)
    assert figure.width > 600


def test_where_the_picture_is_foreign_no_diagnosis_is_named(made, predictor):
    found = predictor.answers(predict.example(made), maps=False)[0]
    words = app.words(dataclasses.replace(found, distance=2 * found.farthest))
    assert predict.UNFAMILIAR in words and DISCLAIMER in words
    assert "%" not in words and not any(CLASS_NAMES[c] in words for c in CLASSES)


def test_a_text_file_is_one_line_without_the_folder_of_the_upload(predictor, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="^notes.txt: not an image"):
        app.told(predictor, tmp_path / "notes.txt")


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="requirements-app.txt"):
        app.page(config.Config())


def test_the_page_tells_nobody_and_keeps_nothing(made):
    pytest.importorskip("gradio")
    page = app.page(made)
    assert page.analytics_enabled is False and page.delete_cache == (app.FORGET, app.FORGET)
    said = [str(block.value) for block in page.blocks.values() if hasattr(block, "value")]
    assert any(DISCLAIMER in text and predict.toy(made) in text for text in said)
