"""What the preset `sample` gives: python tools/sample_tables.py writes assets/sample.json.

    pictures         the SHA-256 of the sample's files, to which all numbers belong
    seeds            one training for each of the seeds 5 to 9; preset and pictures were tuned on
                     the seeds 0 to 4, so these say what another seed gives
    leakage_effect   balanced accuracy on the images of lesions with several images, under a random
                     split less that under a lesion-safe one: the mean over ten split seeds, its
                     95 % interval by lesion, and the ten values

Training gives other numbers on another processor. Its seconds are the processor's, of all threads
together: on a shared machine a clock on the wall says more about the others.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2  # noqa: E402
import make_sample  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

import dermai_utils as dermai  # noqa: E402
from dermai_utils import cli, commands, files, predictions, settings  # noqa: E402
from dermai_utils.basics import CLASSES  # noqa: E402
from dermai_utils.reports import maps  # noqa: E402
from dermai_utils.study import decisions  # noqa: E402

FILE = settings.ROOT / "assets" / "sample.json"


def row_of(s, dataset) -> dict:
    """One row of the table: trains with the settings `s`, and evaluates."""
    subset, started = commands.subsets(s, dataset), time.process_time()
    run = commands.trained(s, dataset, subset)
    seconds = time.process_time() - started
    found = dermai.evaluate(run.predictions, run.table)
    rows = predictions.primary_rows(decisions.called(run.predictions, found["decisions"]))
    wrong, right = predictions.mistakes(rows), rows[rows["truth"] == rows["prediction"]]
    places = found["operating_points"], found["elsewhere"]["sample_elsewhere"]["operating_points"]
    # the threshold that finds 90 % of the melanomas of validation
    home, away = (next(p for p in points if p["rate"] == "sensitivity") for points in places)
    return {
        "seed": s.seed,
        "balanced_accuracy": found["subsets"]["official"]["balanced_accuracy"],
        "by_argmax": found["argmax"]["subsets"]["official"]["balanced_accuracy"],
        "elsewhere": found["subsets"]["sample_elsewhere"]["balanced_accuracy"],
        "different_confusions": len(wrong[["truth", "prediction"]].drop_duplicates()),
        "melanoma_specificity": home["scored"]["specificity"],
        "melanoma_specificity_elsewhere": away["scored"]["specificity"],
        "gradcam_on_the_lesion": on_the_lesion(run, dataset, right),
        "processor_seconds": seconds,
    }


def on_the_lesion(run, dataset, rows) -> float:
    """The share of `rows` whose Grad-CAM is strongest on a pixel of the lesion."""
    targets = [CLASSES.index(label) for label in rows["prediction"]]
    marked = dermai.gradcam(run.net, maps.squares(run, dataset, rows), targets)
    painted = {p.image: make_sample.paint(p)[1] for p in make_sample.test_pictures()}
    hits = []
    for image, places in zip(rows["image"], marked, strict=True):
        mask = painted[image]
        border = (mask.shape[1] - mask.shape[0]) // 2  # the network sees the central square
        square = mask[:, border : border + mask.shape[0]].astype(np.float32)
        lesion = cv2.resize(square, places.shape, interpolation=cv2.INTER_AREA) > 0.5
        hits.append(lesion.flat[places.argmax()])
    return float(np.mean(hits))


def main():
    with tempfile.TemporaryDirectory() as folder:
        places = dict(cache_dir=f"{folder}/cache", work_dir=f"{folder}/work", device="cpu")
        every = [settings.read({}, run_name=f"{k}", seed=k, **places) for k in range(5, 10)]
        dataset = commands.load(every[0])
        seeds = pd.DataFrame([row_of(s, dataset) for s in every]).round(4)
        net = commands.new_network(settings.read({}, **places))
        features = dermai.predict(net, dataset.pixels, with_features=True)[1]
        pairs = dermai.near_duplicates("listed")
        effect = dermai.leakage_effect(features, dataset.table, pairs, seeds=range(10))
    names = ("random", "lesion", "difference", "low", "high", "by_seed")
    classifiers = effect["classifiers"].items()
    effect = {name: {k: np.round(row[k], 4).tolist() for k in names} for name, row in classifiers}
    pictures = make_sample.checksum(make_sample.PACKAGE)
    table = {"pictures": pictures, "seeds": seeds.to_dict("records"), "leakage_effect": effect}
    files.write_json(FILE, table)
    print(seeds.to_string(index=False), FILE, sep="\n")


if __name__ == "__main__":
    sys.exit(cli.exit_status(main))
