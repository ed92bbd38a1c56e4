"""A browser for tests that use a page as a reader does; they are skipped where there is none."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


@contextlib.contextmanager
def chromium():
    """Playwright's browser; skips where Playwright, axe or Chromium is not installed."""
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright: no browser tests")
    pytest.importorskip("axe_playwright_python", reason="no axe: no browser tests")
    if EXECUTABLE is None:
        pytest.skip("no chromium on this machine: no browser tests")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=EXECUTABLE, args=["--no-sandbox"])
        yield browser
        browser.close()


def check_accessible(page):
    """Fails where axe finds something serious or critical on the page."""
    import axe_playwright_python

    page.add_script_tag(path=next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js")))
    found = page.evaluate("axe.run({ resultTypes: ['violations'], preload: false })")
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert len(found["passes"]) > 10
    assert not serious, json.dumps([(v["id"], v["nodes"][0]["html"][:300]) for v in serious])
