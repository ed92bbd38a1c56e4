"""The page in a browser, as a student or a clinician uses it."""

import csv
import dataclasses
import io

import numpy as np
import pytest
from browser import check_accessible, chromium
from pictures import encoded, picture

from dermai_utils.config import CLASSES, DISCLAIMER
from dermai_utils.predict import app, pictures
from dermai_utils.predict.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(made):
    """To the tiny network of the tests any picture may look foreign or be unsure; here each gets an
    answer."""
    predictor, sure = Predictor(made), dict(foreign_threshold=np.inf, thresholds=np.full(7, 2.0))
    predictor.state = dataclasses.replace(predictor.state, **sure)
    return predictor


@pytest.fixture(scope="module")
def served(predictor, tmp_path_factory):
    pytest.importorskip("gradio", reason="no gradio: the page is not tested")
    with pytest.MonkeyPatch.context() as patch, chromium() as browser:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        blocks = app.serve(predictor)
        yield browser, blocks.local_url
        blocks.close()


@pytest.fixture
def show(served):
    """A function that opens the page; whatever it asks of the network, or complains of, is an
    error."""
    browser, address = served
    contexts, wrong = [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        inside = (address, "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(inside) or wrong.append(r.url))
        page.goto(address)
        page.get_by_role("button", name="Try").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def answered(page, text):
    page.get_by_role("status").get_by_text(text).wait_for()


def test_an_example_by_keyboard_alone(show, predictor, made):
    page = show()
    words = page.locator("#intro").inner_text()
    assert DISCLAIMER in words and made.run_name in words and "Balanced accuracy 0." in words
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText").startswith("Try"):
            break
    page.keyboard.press("Enter")
    answered(page, "1 of 1 answered.")
    name, data = next(iter(pictures.examples(made).items()))
    expected = predictor.answers({name: data})[0]
    page.wait_for_function("document.activeElement.tagName == 'H2'")  # to read on from there
    heading = page.evaluate("document.activeElement.innerText")
    assert heading.lower() == expected.text.lower()
    for sentence in expected.error_rates:
        assert page.get_by_text(sentence).is_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").press("Enter")
    (row,) = csv.DictReader(io.StringIO(download.value.path().read_text()))
    assert row["picture"] == name and row["answer"] == expected.row["answer"]
    assert [float(row[c]) for c in CLASSES] == pytest.approx(expected.probabilities, abs=1e-4)


def test_several_photos_and_then_another_one(show):
    """Without taking the first ones away; a file that is no picture keeps none of them waiting."""
    page, upload = show(), "#photos input[type=file]"
    photos = {"a.png": picture(60, 80, 1), "b.png": picture(60, 80, 2).convert("L")}
    files = [
        {"name": name, "mimeType": "image/png", "buffer": encoded(image, "PNG")}
        for name, image in photos.items()
    ]
    notes = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}
    page.set_input_files(upload, [*files, notes])
    answered(page, "2 of 3 answered, 1 refused.")
    assert page.locator("#answers article").count() == 3
    assert page.get_by_text("notes.txt: not an image").is_visible()
    assert page.get_by_text("has no colour").is_visible()
    for image in page.locator("#answers img").all():
        assert image.get_attribute("alt") and image.evaluate("i => i.naturalWidth") > 0
    page.set_input_files(upload, [files[0]])
    answered(page, "1 of 1 answered.")
    assert page.locator("#answers article").count() == 1


@pytest.mark.parametrize("width, scheme", [(390, "light"), (390, "dark"), (1280, "light")])
def test_legible_and_accessible_before_and_after_an_answer(show, width, scheme):
    page = show(viewport={"width": width, "height": 800}, color_scheme=scheme)
    check_accessible(page)
    page.get_by_role("button", name="Try").first.click()
    answered(page, "1 of 1 answered.")
    check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    sizes = page.locator("#answers :is(p, th, td, figcaption)").evaluate_all(
        "all => all.map(x => parseFloat(getComputedStyle(x).fontSize))"
    )
    assert sizes and min(sizes) >= 14
