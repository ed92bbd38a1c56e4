"""report.html in a browser, as a reader uses it: threshold, mistakes, axe. One smoke test."""

import json
import shutil
from pathlib import Path

import pytest

from dermai_utils import predictions

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: no browser tests")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")


@pytest.fixture
def page(made):
    """The report; whatever it asks of the network, or complains of, is an error."""
    wrong = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 390, "height": 900}).new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
        page.goto((made[0].folder / "report.html").as_uri())
        yield page
        browser.close()
    assert not wrong


def test_the_page_works_on_a_telephone(page, made):
    found, rows = made[0].metrics, predictions.primary_rows(made[0].predictions)
    points = [point for point in found["operating_points"] if point["target"] == "melanoma"]
    buttons = page.locator("#threshold button:visible")
    for k, point in enumerate(p for p in points if p["threshold"] is not None):
        buttons.nth(k).click()
        for rate in ("sensitivity", "specificity", "ppv"):
            value = point["scored"][rate]
            text = "not defined" if value is None else f"{100 * value:.1f} %"
            assert page.inner_text(f"[data-shown={rate}]") == text
    page.focus("#place")
    page.keyboard.press("End")
    melanomas = (rows["truth"] == "MEL").sum()
    assert page.inner_text("[data-shown=missed]") == f"{melanomas} of {melanomas}"
    page.click("#browse summary")
    wrong = rows[rows["truth"] != rows["prediction"]]
    first = wrong.sort_values("confidence", ascending=False).iloc[0]
    page.select_option("#filter [name=truth]", first["truth"])
    n = (wrong["truth"] == first["truth"]).sum()
    assert page.locator(".cards li:visible").count() == n
    assert page.inner_text("#filter output") == f"{n} of {len(wrong)} shown"
    page.locator("details:not([open]) > summary").evaluate_all("all => all.forEach(x => x.click())")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    axe = pytest.importorskip("axe_playwright_python", reason="no axe")
    page.add_script_tag(path=next(Path(axe.__file__).parent.rglob("axe.min.js")))
    found = page.evaluate("axe.run({ resultTypes: ['violations'], preload: false })")
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, json.dumps([(v["id"], v["nodes"][0]["html"][:300]) for v in serious])
