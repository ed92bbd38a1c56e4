"""Make the README's picture anew: python tools/pictures.py writes assets/report.png and
assets/sample_metrics.json.

It trains the sample with its preset, takes a picture of the top of the report beside its Grad-CAM
maps, and keeps the run's metrics. The number that the page shows is stored in the picture, so that
a test can hold it against the metrics. Needs Chromium and Playwright (requirements-dev.txt).
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image  # noqa: E402
from PIL.PngImagePlugin import PngInfo  # noqa: E402

from dermai_utils import cli, commands, settings  # noqa: E402

ASSETS = settings.ROOT / "assets"
SIZE = 890, 470  # px, of each half
SHOWN = "balanced accuracy"  # the key of the number in the picture


def top_of(report, picture) -> str:
    """Save the top of the page as `picture`; returns the number in large print."""
    from playwright.sync_api import sync_playwright

    browsers = filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome")))
    with sync_playwright() as started:
        options = dict(executable_path=next(browsers, None), args=["--no-sandbox"])
        browser = started.chromium.launch(**options)
        page = browser.new_page(viewport=dict(zip(("width", "height"), SIZE, strict=True)))
        page.goto(report.as_uri())
        page.screenshot(path=picture)
        number = page.inner_text(".hero b")
        browser.close()
    return number


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = commands.run(
            settings.read({}, cache_dir=folder / "cache", work_dir=folder / "work", device="cpu")
        )
        number = top_of(report, folder / "top.png")
        both = Image.new("RGB", (2 * SIZE[0], SIZE[1]), "white")
        both.paste(Image.open(folder / "top.png"), (0, 0))
        maps = Image.open(report.with_name("gradcam.jpg")).convert("RGB")
        maps = maps.resize((SIZE[0], maps.height * SIZE[0] // maps.width), Image.LANCZOS)
        both.paste(maps, (SIZE[0], 0))
        shutil.copy(report.with_name("metrics.json"), ASSETS / "sample_metrics.json")
    note = PngInfo()
    note.add_text(SHOWN, number)
    both.save(ASSETS / "report.png", pnginfo=note, optimize=True)
    print(ASSETS / "report.png", number)


if __name__ == "__main__":
    sys.exit(cli.exit_status(main))
