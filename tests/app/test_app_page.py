import base64
import dataclasses
import io
import re
import sys

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from photos import encoded, picture

from dermai_utils.app import answers, page, predictor
from dermai_utils.app.predictor import Predictor
from dermai_utils.basics import CLASS_NAMES, CLASSES, DISCLAIMER, UserError


def pages(model, sources):
    """What the page shows, one after another: (status, parsed HTML)."""
    return [(s, BeautifulSoup(h, "html.parser")) for s, h in page.replies(model, sources)]


def changed(model, thresholds=None, **about):
    """The predictor with other thresholds, as if its run had them."""
    other = Predictor(model.run, model.dataset)
    now = other.state.about
    if thresholds is not None:
        about["thresholds"] = dict(zip(CLASSES, thresholds, strict=True))
    other.state = dataclasses.replace(other.state, about=now | about)
    return other


@pytest.fixture(scope="module")
def path(data):
    return data.table["path"][120]  # an official image


def test_answers_come_one_after_another_then_the_csv(model, path):
    shown = pages(model, {"a.png": path, "b.png": open(path, "rb").read()})
    statuses = [status for status, _ in shown]
    assert statuses[:2] == ["Looking at 2 pictures …", "1 of 2 pictures done …"]
    assert [len(html.select("article")) for _, html in shown] == [0, 1, 2]
    assert [len(html.select("a[download]")) for _, html in shown] == [0, 0, 1]
    link = shown[-1][1].select_one("a[download]")["href"]
    rows = pd.read_csv(io.BytesIO(base64.b64decode(link.partition(",")[2])))
    assert rows["picture"].tolist() == ["a.png", "b.png"]


def test_bars_numbers_and_marks_are_those_of_the_answer(model, path):
    result = model.answers(path, maps=False)[0]
    html = pages(model, {"a.png": path})[-1][1]
    rows = html.select(".bars tbody tr")
    order = np.argsort(-result.probabilities)
    names = [row.select_one("th").text.split("(")[-1][:-1] for row in rows]
    assert names == [CLASSES[k] for k in order]
    for share, row in zip(100 * result.probabilities[order], rows, strict=True):
        text = row.select_one(".number").text
        assert text == "<0.1 %" if share < 0.1 else float(text.strip(" %>")) == round(share, 1)
        width = float(re.search(r"width: ([\d.]+)%", row.select_one(".bar")["style"])[1])
        assert width == pytest.approx(share, abs=0.051)
    marked = [row.select_one("th").text.startswith("✓") for row in rows]
    assert marked == [CLASSES[k] in result.possible for k in order]
    captions = [caption.text for caption in html.select("figcaption")]
    assert any("Nobody checked whether the maps" in caption for caption in captions)
    assert len(html.select("img")) == 2 + predictor.SIMILAR  # the photo, its map, similar images


def test_where_the_picture_is_foreign_no_diagnosis_is_named(model, path):
    html = pages(changed(model, foreign_threshold=-1.0), {"a.png": path})[-1][1]
    assert "unlike the made-up pictures that this model learned from" in html.text
    assert "dermatoscope" not in html.text  # that would not help: only real data would
    assert "%" not in html.text and not any(CLASS_NAMES[c] in html.text for c in CLASSES)


@pytest.mark.parametrize(
    "about, said",
    [
        (dict(thresholds=[0] + [2.0] * 6), "2 of 3 answered, 1 refused."),
        (dict(thresholds=[0] * 7, temperature=20.0), "0 of 3 answered, 2 unsure, 1 refused."),
        (dict(foreign_threshold=-1.0), "0 of 3 answered, 3 refused."),
    ],
    ids=["answered", "unsure", "foreign"],
)
def test_the_last_line_counts_what_is_no_answer(model, path, about, said):
    other = changed(model, **dict(foreign_threshold=np.inf) | about)
    sources = {"a.png": path, "b.png": path, "c.txt": b"hello"}
    assert pages(other, sources)[-1][0] == said


def test_a_name_is_text_and_never_markup_and_no_folder_is_shown(model, path, tmp_path):
    (tmp_path / "notes.jpg").write_text("hello")
    html = pages(model, {"notes.jpg": tmp_path / "notes.jpg"})[-1][1]
    assert html.select_one(".note").text.startswith("notes.jpg: not an image")
    assert str(tmp_path) not in html.text
    html = pages(model, {"<img src=x onerror=alert(1)>.jpg": path})[-1][1]
    assert not html.select("img[onerror]") and "<img src=x" in html.select_one(".name").text


def test_without_gradio_it_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="requirements-app.txt"):
        page.page(model)


@pytest.fixture(scope="module")
def blocks(model):
    pytest.importorskip("gradio")
    return page.page(model)


def test_the_page_sends_nothing_home_and_says_for_which_use_it_is(blocks, model):
    assert blocks.analytics_enabled is False
    assert blocks.delete_cache == (page.FORGET, page.FORGET)
    parts = (getattr(block, "value", None) for block in blocks.blocks.values())
    text = " ".join(BeautifulSoup(p, "html.parser").text for p in parts if isinstance(p, str))
    assert DISCLAIMER in text and answers.SAMPLE_WARNING in text
    assert predictor.description(model.run) in text


def test_the_page_answers_each_of_two_uploads_of_one_name(blocks, path, tmp_path):
    """Some phones give all photos the same name."""
    paths = [tmp_path / folder / "image.png" for folder in "ab"]
    for copy in paths:
        copy.parent.mkdir()
        copy.write_bytes(open(path, "rb").read())
    upload = next(f for f in blocks.fns.values() if f.targets[0][1] == "upload")
    *_, (status, html, _) = upload.fn([*map(str, paths)])
    names = [name.text for name in BeautifulSoup(html, "html.parser").select(".name")]
    assert " of 2 " in status and names == ["image.png", "image (2).png"]


# In a browser.


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """A browser, and the address of the page; each picture gets an answer there."""
    pytest.importorskip("gradio", reason="no gradio: the page is not tested")
    from browser import chromium

    sure = changed(model, thresholds=[2.0] * 7, foreign_threshold=np.inf)
    with pytest.MonkeyPatch.context() as patch, chromium() as browser:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        running = page.launched(sure)
        yield browser, running.local_url
        running.close()


@pytest.mark.parametrize("width, scheme", [(390, "dark"), (1280, "light")])
def test_in_a_browser_an_example_by_keyboard_then_photos(served, width, scheme):
    """Legible and accessible; whatever asks the network for anything is an error."""
    from browser import check_accessible

    (browser, address), wrong = served, []
    view = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab = view.new_page()
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    inside = (address, "data:", "blob:")
    tab.on("request", lambda r: r.url.startswith(inside) or wrong.append(r.url))
    tab.goto(address)
    tab.get_by_role("button", name="Try").first.wait_for()
    check_accessible(tab)
    for _ in range(12):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.innerText").startswith("Try"):
            break
    tab.keyboard.press("Enter")
    tab.get_by_role("status").get_by_text("1 of 1 answered.").wait_for()
    tab.wait_for_function("document.activeElement.tagName == 'H2'")  # to read on from there
    check_accessible(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    files = [{"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}]
    grey = encoded(picture(60, 80, 2).convert("L"))
    files += [{"name": "b.png", "mimeType": "image/png", "buffer": grey}]
    tab.set_input_files("#photos input[type=file]", files)
    tab.get_by_role("status").get_by_text("1 of 2 answered, 1 refused.").wait_for()
    assert tab.get_by_text("notes.txt: not an image").is_visible()
    assert tab.get_by_text("has no colour").is_visible()
    with tab.expect_download():
        tab.get_by_role("link", name="CSV").press("Enter")
    view.close()
    assert not wrong
