"""The stage that looks for the same lesion under two ids in all images, and shows what it found side by side."""

import numpy as np
import pandas as pd

from dermai_utils import clean, duplicates, features, files, pixels, plots, split


def run(cfg) -> None:
    """Write near_duplicates.csv (image_a, image_b, score; best first) and near_duplicates.jpg, the pairs side by side.

    Pairs of training images of different lesions, and of a training and an official test image. Where the pixels are the
    same, `clean` knows already. EfficientNet-Lite0 features at 128 px found 16 of 18 known pairs.
    """
    table = clean.read_table(cfg.table_file)
    array = pixels.load(cfg.pixels_file)
    images = [array[row] for row in table["row"]]  # views: an image is read from disk when it is its turn
    found = duplicates.find(images, features.features(cfg), sides(table), 2 * len(table), workers=cfg.workers)
    ids = table["image"].to_numpy()
    listed = pd.DataFrame({"image_a": ids[found[:, 0]], "image_b": ids[found[:, 1]], "score": found[:, 2]})
    sheet = cfg.found_duplicates_file.with_suffix(".jpg")
    with files.atomic(sheet, "wb") as file:
        figure = plots.side_by_side(titled(listed.to_numpy(), table), array) if len(listed) else plots.message("No pairs.")
        file.write(figure.encoded("jpeg"))
    clean.write_csv(listed, cfg.found_duplicates_file)
    _announce(cfg, (table["source"].to_numpy() == "test")[found[:, :2]].any(axis=1), sheet)


def titled(pairs, table) -> list[tuple]:
    """(row of one image, row of the other, title) for each of `pairs` (image_a, image_b, perhaps a score) in `table`."""
    row, label = (dict(zip(table["image"], table[column], strict=True)) for column in ("row", "label"))
    known = [pair for pair in pairs if pair[0] in row and pair[1] in row]
    return [(row[a], row[b], " ".join([a, label[a], "·", b, label[b], *map(str, score)])) for a, b, *score in known]


def sides(table) -> np.ndarray:
    """(N,) numbers: two images can be a pair where these differ. Lesions, but all official test images share one number
    (their lesions aren't known, and a pair of two of them leaks nothing)."""
    official = table["source"].to_numpy() == "test"
    groups = split.groups(table)
    return np.where(official, groups.max() + 1, groups)


def _announce(cfg, with_official, sheet):
    print(f"duplicates: {(~with_official).sum()} pairs of training images under two lesion ids, {with_official.sum()} of a "
          f"training and an official test image: {cfg.show(cfg.found_duplicates_file)}")  # fmt: skip
    print(f"duplicates: look at each in {cfg.show(sheet)}; the split keeps them on one side with near_duplicates=found")
