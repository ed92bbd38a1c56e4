"""report.html in a browser, as a reader uses it: the threshold, the mistakes, print, narrow and
dark screens, and what axe says of it all."""

import json
import shutil
from pathlib import Path

import pytest

from dermai_utils import files
from dermai_utils.metrics import predictions

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: no browser tests")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def show(browser, corrected):
    """A function that opens the report; whatever it asks of the network, or complains of, is an
    error."""
    contexts, wrong = [], []

    def open_page(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
        page.goto((corrected.report_dir / "report.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture(scope="module")
def scored(corrected):
    return predictions.primary_rows(files.read_table(corrected.report_dir / "predictions.csv"))


@pytest.fixture(scope="module")
def metrics(corrected):
    return files.read_json(corrected.report_dir / "metrics.json")


def shown(page):
    names = ("threshold", "sensitivity", "specificity", "ppv", "missed", "alarms")
    return {name: page.inner_text(f"[data-shown={name}]") for name in names}


def test_the_thresholds_of_validation_give_the_table_s_rates(show, metrics):
    page = show()
    for target in ("malignant", "melanoma"):
        page.select_option("[name=target]", target)
        points = [point for point in metrics["operating_points"] if point["target"] == target]
        points = [point for point in points if point["threshold"] is not None]
        buttons = page.locator("#threshold button:visible")
        assert buttons.count() == len(points) > 0
        for k, point in enumerate(points):
            buttons.nth(k).click()
            for rate in ("sensitivity", "specificity", "ppv"):
                value = point["scored"][rate]
                text = "not defined" if value is None else f"{100 * value:.1f} %"
                assert shown(page)[rate] == text


def test_the_slider_moves_every_number(show, scored):
    """By arrow key, as from a keyboard; each number counted anew from predictions.csv."""
    page, positive = show(), (scored["truth"] == "MEL").to_numpy()
    slider = page.locator("#place")
    slider.focus()
    page.keyboard.press("Home")
    seen = []
    for threshold in sorted(set(scored["MEL"]))[:6]:
        called = (scored["MEL"] >= threshold).to_numpy()
        page.fill("[name=prevalence]", "2")
        caught = 0.02 * called[positive].mean()
        ppv = caught / (caught + 0.98 * called[~positive].mean())
        assert shown(page) == {
            "threshold": f"{threshold:.4f}",
            "sensitivity": f"{100 * called[positive].mean():.1f} %",
            "specificity": f"{100 * (~called)[~positive].mean():.1f} %",
            "ppv": f"{100 * ppv:.1f} %",
            "missed": f"{(~called & positive).sum()} of {positive.sum()}",
            "alarms": f"{(called & ~positive).sum()} of {(~positive).sum()}",
        }
        assert slider.get_attribute("aria-valuetext") == f"threshold {threshold:.4f}"
        seen.append(shown(page)["specificity"])
        slider.focus()
        page.keyboard.press("ArrowRight")
    assert len(set(seen)) == 6
    page.keyboard.press("End")
    assert shown(page)["missed"] == f"{positive.sum()} of {positive.sum()}"
    assert shown(page)["ppv"] == "not defined"
    page.fill("[name=prevalence]", "200")
    assert shown(page)["ppv"] == "give 0 to 100 %"


def test_every_mistake_can_be_looked_at_and_filtered(show, scored):
    page, wrong = show(), scored[scored["truth"] != scored["prediction"]]
    page.click("#browse summary")
    cards = page.locator(".cards li:visible")
    assert cards.count() == len(wrong) > 3
    first = wrong.sort_values("confidence", ascending=False).iloc[0]
    assert first["image"] in cards.first.inner_text()
    page.wait_for_function("document.querySelector('.cards img').naturalWidth == 200")
    truth, called = first["truth"], first["prediction"]
    page.select_option("#filter [name=truth]", truth)
    assert cards.count() == (wrong["truth"] == truth).sum()
    page.select_option("#filter [name=called]", called)
    both = (wrong["truth"] == truth) & (wrong["prediction"] == called)
    assert cards.count() == both.sum()
    assert page.inner_text("#filter output") == f"{both.sum()} of {len(wrong)} shown"


def test_without_a_script_nothing_is_missing_but_what_needs_one(show, scored):
    page = show(java_script_enabled=False)
    assert not page.locator("#threshold, #filter").filter(visible=True).count()
    assert page.locator(".contents li:visible").count() > 8
    page.click("#browse summary")
    assert (
        page.locator(".cards li:visible").count() == (scored["truth"] != scored["prediction"]).sum()
    )


@pytest.mark.parametrize("width, scheme", [(390, "light"), (1280, "dark")])
def test_no_text_scrolls_sideways_and_axe_finds_nothing_serious(show, width, scheme):
    axe = pytest.importorskip("axe_playwright_python", reason="no axe")
    page = show(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.locator("details:not([open]) > summary").evaluate_all("all => all.forEach(x => x.click())")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.add_script_tag(path=next(Path(axe.__file__).parent.rglob("axe.min.js")))
    found = page.evaluate("axe.run({ resultTypes: ['violations'], preload: false })")
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert len(found["passes"]) > 20
    assert not serious, json.dumps([(v["id"], v["nodes"][0]["html"][:300]) for v in serious])


def test_printed_all_that_was_folded_is_there(show):
    page = show()
    folded = page.locator("details:not([open]):not(.screen) table, details:not([open]) figure")
    assert folded.count() and not folded.filter(visible=True).count()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("main details:not([open]):not(.screen)").count() == 0
    assert not page.locator("#threshold, .contents, #browse").filter(visible=True).count()
    page.set_viewport_size({"width": 680, "height": 1000})  # A4 within its margins, in px
    too_wide = "all => all.filter(x => x.scrollWidth > x.clientWidth + 1).map(x => x.innerText)"
    wide = page.locator(".wide").evaluate_all(too_wide)
    assert not wide  # a column would be cut off
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("main details:not([open]):not(.screen)").count() > 0
