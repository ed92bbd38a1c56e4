"""What a reader of report.html can try out: every mistake with its picture, and any threshold.

The pictures lie in files beside the page, which loads each when it comes into view.
"""

import shutil

import numpy as np
import pandas as pd
from PIL import Image

from dermai_utils import files
from dermai_utils.config import CLASSES
from dermai_utils.data import clean
from dermai_utils.metrics import decisions, predictions
from dermai_utils.metrics.predictions import primary_rows

FOLDER, SIMILAR_FILE = "mistakes", "similar.json"  # in the folder of the report
WIDTH = 200  # px of a picture
SIMILAR = 3  # training images shown beside a mistake
WITH_PICTURE = 500  # the most confident mistakes: two small files each, which Drive writes slowly


def save_pictures(cfg, table: pd.DataFrame, images) -> None:
    """FOLDER/<row>.jpg for the WITH_PICTURE most confident mistakes of the primary subset;
    `images[row]` for each row.

    What there is of an earlier model goes first.
    """
    folder = cfg.report_dir / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    (cfg.report_dir / SIMILAR_FILE).unlink(missing_ok=True)
    for row in predictions.mistakes(primary_rows(table))["row"].head(WITH_PICTURE):
        _save(folder / f"{row}.jpg", [images[row]])


def save_similar(cfg, rows: pd.DataFrame, similarity, training: pd.DataFrame, images) -> None:
    """SIMILAR_FILE and FOLDER/<row>_similar.jpg: the training images most like each mistake.

    `rows` (N) of predictions, `similarity` (N, M) to the M rows of `training` (image, label,
    lesion_id, row); none of the mistake's own lesion.
    """
    lesions, found = training["lesion_id"].to_numpy(), {}
    shown = set(predictions.mistakes(rows)["row"].head(WITH_PICTURE))
    wrong = rows["row"].isin(shown).to_numpy()
    for row, nearness in zip(rows[wrong].to_dict("records"), similarity[wrong], strict=True):
        nearness = np.where(lesions == row["lesion_id"], -np.inf, nearness)
        best = np.argsort(-nearness, kind="stable")[:SIMILAR]
        names = training.iloc[best][["image", "label"]].assign(similarity=nearness[best])
        found[row["image"]] = names.to_dict("records")
        strip = [images[place] for place in training["row"].iloc[best]]
        _save(cfg.report_dir / FOLDER / f"{row['row']}_similar.jpg", strip)
    files.write_json(cfg.report_dir / SIMILAR_FILE, found)


def _save(path, pictures):
    """One JPEG of pictures side by side, each WIDTH px wide."""
    height = round(WIDTH * pictures[0].shape[0] / pictures[0].shape[1])
    small = [np.asarray(Image.fromarray(picture).resize((WIDTH, height))) for picture in pictures]
    with files.atomic(path, "wb") as file:
        Image.fromarray(np.concatenate(small, axis=1)).save(file, "JPEG", quality=80)


def mistakes(cfg, table: pd.DataFrame) -> list[dict]:
    """Every mistake of the primary subset, the most confident first, for the page; those without a
    picture beside it too."""
    rows = predictions.mistakes(primary_rows(table))
    confirmed = clean.read(cfg).set_index("image")["confirmed_by"]
    similar = files.read_json(cfg.report_dir / SIMILAR_FILE) or {}
    columns = ["image", "truth", "prediction", "row", *CLASSES]
    return [
        {name: row[name] for name in columns[:4]}
        | {
            "probabilities": sorted(((row[c], c) for c in CLASSES), reverse=True),
            "confirmed_by": confirmed.get(row["image"], ""),
            "picture": (cfg.report_dir / FOLDER / f"{row['row']}.jpg").exists(),
            "similar": similar.get(row["image"], []),
        }
        for row in rows[columns].to_dict("records")
    ]


def thresholds(table: pd.DataFrame) -> dict:
    """{target: {"score": the primary subset's, lowest first; "positive": 0 or 1 of each}}."""
    rows, scores = primary_rows(table), {}
    for target, classes in decisions.TARGETS.items():
        positive, score = decisions.binary(rows, classes)
        order = np.argsort(score, kind="stable")
        scores[target] = {
            "score": score[order].tolist(),
            "positive": positive[order].astype(int).tolist(),
        }
    return scores
