"""Make the README's picture anew: python tools/pictures.py writes assets/report.png and
assets/sample_metrics.json.

It trains the sample with its preset, and puts four tiles together: the top of the report, the
confusion matrix, Grad-CAM maps, and the top of the audit of these predictions. The number that the
report shows is stored in the picture, so that a test can hold it against the metrics. Needs
Chromium and Playwright (requirements-dev.txt).
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image, ImageOps  # noqa: E402
from PIL.PngImagePlugin import PngInfo  # noqa: E402

import dermai_utils as dermai  # noqa: E402
from dermai_utils import cli, commands, files, predictions, saliency, settings  # noqa: E402
from dermai_utils.basics import CLASSES  # noqa: E402
from dermai_utils.reports import maps, pictures  # noqa: E402

ASSETS = settings.ROOT / "assets"
SIZE = 890, 500  # px, of each tile
MAPS = 6
SHOWN = "balanced accuracy"  # the key of the number in the picture


def tops(pages) -> list[str]:
    """Save the top of each page beside it as .png; returns what each shows in large print."""
    from playwright.sync_api import sync_playwright

    browsers = filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome")))
    with sync_playwright() as started:
        options = dict(executable_path=next(browsers, None), args=["--no-sandbox"])
        browser = started.chromium.launch(**options)
        page = browser.new_page(viewport=dict(zip(("width", "height"), SIZE, strict=True)))
        large = []
        for path in pages:
            page.goto(path.as_uri())
            rest = page.locator(".contents, main > section ~ section, footer")
            rest.evaluate_all("parts => parts.forEach(part => part.remove())")
            large.append(page.inner_text(".hero b"))
            page.screenshot(path=path.with_suffix(".png"))
        browser.close()
    return large


def best_maps(run, dataset):
    """Grad-CAM of the surest right answer of each class, of the MAPS whose map gains most over a
    random one by gradcam.json's insertion."""
    rows = maps.choose(predictions.primary_rows(run.predictions))
    checked = files.read_json(run.folder / "gradcam.json")["images"]
    gain = {row["image"]: row["insertion"] - row["insertion_random"] for row in checked}
    rows = rows[rows["kind"] == "correct"].assign(gain=rows["image"].map(gain))
    rows = rows.nlargest(MAPS, "gain").sort_index()
    images = maps.squares(run, dataset, rows)
    found = saliency.gradcam(run.net, images, [CLASSES.index(c) for c in rows["prediction"]])
    titles = [text.partition("\n")[2] for text in pictures.verdicts(rows)]
    return pictures.gradcam(images, found, titles, columns=3)


def audited(table, folder):
    """The page of an audit of a random split of the run's `table`."""
    known, split = folder / "table.csv", folder / "random_split.csv"
    table.to_csv(known, index=False)
    subset = dermai.split(table, strategy="random")
    table[["image"]].assign(subset=subset)[subset.isin(("train", "val"))].to_csv(split, index=False)
    return commands.audit(settings.read({}, data=known, work_dir=folder), [split])


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        s = settings.read({}, cache_dir=folder / "cache", work_dir=folder / "work", device="cpu")
        report = commands.run(s)
        run, dataset = commands.finished(s)
        best_maps(run, dataset).save(folder / "maps.jpg")
        audit = audited(dataset.table.drop(columns="path"), folder)
        number, _ = tops([report, audit])
        top, verdict = report.with_suffix(".png"), audit.with_suffix(".png")
        tiles = top, report.with_name("confusion.png"), folder / "maps.jpg", verdict
        both = Image.new("RGB", (2 * SIZE[0], 2 * SIZE[1]), "white")
        for k, tile in enumerate(tiles):
            tile = ImageOps.pad(Image.open(tile).convert("RGB"), SIZE, Image.LANCZOS, color="white")
            both.paste(tile, (k % 2 * SIZE[0], k // 2 * SIZE[1]))
        shutil.copy(report.with_name("metrics.json"), ASSETS / "sample_metrics.json")
    note = PngInfo()
    note.add_text(SHOWN, number)
    # dithered: photographs get no bands; with this palette white stays white
    both = both.quantize(palette=both.quantize(256, Image.Quantize.MAXCOVERAGE))
    both.save(ASSETS / "report.png", pnginfo=note, optimize=True)
    print(ASSETS / "report.png", number)


if __name__ == "__main__":
    sys.exit(cli.exit_status(main))
