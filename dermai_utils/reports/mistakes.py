"""What a reader of report.html can browse: every mistake, with its picture and its neighbours.

The pictures lie in files beside the page, which loads each when it comes into view.
"""

import numpy as np
import pandas as pd
from PIL import Image

from dermai_utils import files, predictions
from dermai_utils.basics import CLASSES
from dermai_utils.study import decisions

FOLDER = "mistakes"
WIDTH = 200  # px of a picture
WITH_PICTURE = 500  # the most confident mistakes: two small files each, which Drive writes slowly


def cards(rows: pd.DataFrame, table: pd.DataFrame, similar: dict) -> list[dict]:
    """One dict for each mistake among `rows` of predictions, the most confident first.

    `table`: a run's; `similar`: {image: [{"image", "label", "similarity"}]}, the training images
    most like it. Keys: image, truth, prediction, probabilities (pairs, the largest first),
    confirmed_by, similar, picture and strip (files, "" without).
    """
    confirmed = table.set_index("image")["confirmed_by"]
    return [
        {name: row[name] for name in ("image", "truth", "prediction")}
        | {
            "probabilities": sorted(((row[c], c) for c in CLASSES), reverse=True),
            "confirmed_by": confirmed.get(row["image"], ""),
            "similar": similar.get(row["image"], []),
            "picture": "",
            "strip": "",
        }
        for row in predictions.mistakes(rows).to_dict("records")
    ]


def save_pictures(folder, cards: list[dict], dataset) -> None:
    """Write FOLDER/K.jpg and FOLDER/K_similar.jpg of the WITH_PICTURE first cards whose images
    `dataset` has, and note the names in the cards."""
    place = dict(zip(dataset.table["image"], dataset.table.index, strict=True))
    for k, card in enumerate(cards[:WITH_PICTURE]):
        for name, images, file in (
            ("picture", [card["image"]], f"{FOLDER}/{k}.jpg"),
            ("strip", [near["image"] for near in card["similar"]], f"{FOLDER}/{k}_similar.jpg"),
        ):
            if images and all(image in place for image in images):
                card[name] = file
                _save(folder / file, [dataset.pixels[place[image]] for image in images])


def _save(path, pictures):
    """One JPEG of pictures side by side, each WIDTH px wide."""
    height = round(WIDTH * pictures[0].shape[0] / pictures[0].shape[1])
    small = [np.asarray(Image.fromarray(picture).resize((WIDTH, height))) for picture in pictures]
    with files.atomic(path, "wb") as file:
        Image.fromarray(np.concatenate(small, axis=1)).save(file, "JPEG", quality=80)


def thresholds(rows: pd.DataFrame) -> dict:
    """{target: {"score": of each row, lowest first; "positive": 0 or 1}}, for the slider."""
    scores = {}
    for target, classes in decisions.TARGETS.items():
        positive, score = decisions.binary(rows, classes)
        order = np.argsort(score, kind="stable")
        scores[target] = {"score": score[order].tolist()}
        scores[target]["positive"] = positive[order].astype(int).tolist()
    return scores
