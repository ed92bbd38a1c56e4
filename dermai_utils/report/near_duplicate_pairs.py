"""The stage that looks for the same lesion under two ids, and shows the pairs side by side."""

import numpy as np
import pandas as pd

from dermai_utils import files
from dermai_utils.data import clean, near_duplicates, pixels, split
from dermai_utils.report import photographs, plots
from dermai_utils.training import features


def run(cfg) -> None:
    """Write near_duplicates.csv (image_a, image_b, score; best first) and near_duplicates.jpg.

    Pairs of training images of different lesions, and of a training and an official test image.
    Where the pixels are the same, `clean` has marked them already. EfficientNet-Lite0 features at
    128 px found 16 of 18 known pairs.
    """
    table, array = clean.read(cfg), pixels.load(cfg.pixels_file)
    images = [array[row] for row in table["row"]]  # mapped: read from disk one by one
    groups, looks = comparable_groups(table), features.features(cfg)
    rows = near_duplicates.find(images, looks, groups, 2 * len(table), workers=cfg.workers)
    ids = table["image"].to_numpy()
    columns = {"image_a": ids[rows[:, 0]], "image_b": ids[rows[:, 1]], "score": rows[:, 2]}
    pairs, sheet = pd.DataFrame(columns), cfg.found_duplicates_file.with_suffix(".jpg")
    if len(pairs):
        figure = photographs.side_by_side(titled(pairs.to_numpy(), table), array)
    else:
        figure = plots.message("No pairs.")
    figure.save(sheet)
    files.write_table(pairs, cfg.found_duplicates_file)
    official = table["source"].isin(["test", "own"]).to_numpy()[rows[:, :2]].any(axis=1)
    print(
        f"near_duplicates: {(~official).sum()} pairs of training images under two lesion ids, "
        f"{official.sum()} of a training and a test image of another set: "
        f"{cfg.show(cfg.found_duplicates_file)}"
    )
    print(
        f"near_duplicates: look at each in {cfg.show(sheet)}; "
        "the split keeps them in one subset with near_duplicates=found"
    )


def titled(pairs, table) -> list[tuple]:
    """(row of one image, row of the other, title) for each of `pairs` (image_a, image_b, perhaps a
    score) in `table`."""
    row = dict(zip(table["image"], table["row"], strict=True))
    label = dict(zip(table["image"], table["label"], strict=True))
    return [
        (row[a], row[b], " ".join([a, label[a], "·", b, label[b], *map(str, score)]))
        for a, b, *score in pairs
        if a in row and b in row
    ]


def comparable_groups(table) -> np.ndarray:
    """(N,) numbers: two images can be a pair where these differ.

    Lesions, but all images of one test set share one number: a pair of two of them leaks nothing.
    """
    groups, source = split.groups(table), table["source"].to_numpy()
    groups = np.where(source == "test", groups.max() + 1, groups)
    return np.where(source == "own", groups.max() + 1, groups)
