"""report.html in a browser, as a reader uses it: threshold, mistakes, keyboard, axe."""

import pytest
from browser import check_accessible, chromium

from dermai_utils import predictions


@pytest.fixture
def page(made):
    """The report on a telephone; whatever it asks of the network, or complains of, is an error."""
    wrong = []
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 390, "height": 900}).new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
        page.goto((made[0].folder / "report.html").as_uri())
        yield page
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
    page.focus("#browse summary")
    page.keyboard.press("Enter")
    wrong = rows[rows["truth"] != rows["prediction"]]
    first = wrong.sort_values("confidence", ascending=False).iloc[0]
    page.select_option("#filter [name=truth]", first["truth"])
    n = (wrong["truth"] == first["truth"]).sum()
    assert page.locator(".cards li:visible").count() == n
    assert page.inner_text("#filter output") == f"{n} of {len(wrong)} shown"
    page.locator("details:not([open]) > summary").evaluate_all("all => all.forEach(x => x.click())")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        check_accessible(page)
