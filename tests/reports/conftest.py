"""A run without any training: made-up predictions, pictures of noise, and a small network."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dermai_utils import files, predictions
from dermai_utils.basics import CLASSES, ZERO_WEIGHT
from dermai_utils.metrics import jsonable
from dermai_utils.networks import network
from dermai_utils.reports import report
from dermai_utils.runs import Run
from dermai_utils.study import conformal

SIZES = {"train": 300, "val": 160, "official": 140, "left out": 3, "Basel": 60}
SHARES = (0.12, 0.5, 0.1, 0.07, 0.12, 0.04, 0.05)


@dataclass
class FakeDataset:
    table: pd.DataFrame
    pixels: np.ndarray
    name: str = "isic2018"


@dataclass
class FakeRun:
    """The attributes of runs.Run that a report needs."""

    folder: Path
    settings: dict
    table: pd.DataFrame
    first: pd.DataFrame  # what was predicted when training ended
    history: pd.DataFrame | None = None
    folds: int = 0
    members: list = field(default_factory=list)
    net: torch.nn.Module | None = None
    size: int = 32
    device: torch.device = torch.device("cpu")
    flags = Run.flags

    @property
    def name(self):
        return self.folder.name

    @property
    def predictions(self):
        path = self.folder / "predictions.csv"
        return files.read_table(path) if path.exists() else self.first

    @property
    def metrics(self):
        return files.read_json(self.folder / "metrics.json")

    def predict(self, dataset):
        """As the real one: a row for each held-out image of the data, new test sets too."""
        new = ~dataset.table["source"].isin(["train", "extra", "official"])
        return made_predictions(dataset.table[new].assign(subset=dataset.table["source"]))


def made_table(sizes=SIZES, seed=0):
    """A table of images, three in four lesions with one image, without metadata on official."""
    rng, rows = np.random.default_rng(seed), []
    for subset, n in sizes.items():
        source = "train" if subset in ("train", "val", "left out") else subset
        labels = rng.permutation(np.resize(rng.choice(7, n, p=SHARES), n))
        labels[: min(n, 7)] = np.arange(min(n, 7))  # every class is there
        for k, label in enumerate(labels):
            known = source != "official"
            rows.append(
                {
                    "image": f"{subset[:3].replace(' ', '')}_{k:04}",
                    "source": source,
                    "origin": ["BCN", "MSK"][k % 2] if subset == "Basel" else "",
                    "label": CLASSES[label],
                    "lesion_id": f"{subset}_{k - (k % 4 == 1)}",
                    "patient_id": "",
                    "age": float(rng.integers(20, 90)) if known and k % 9 else np.nan,
                    "sex": ["male", "female", ""][k % 3] if known else "",
                    "localization": ["back", "face"][k % 2] if known else "",
                    "confirmed_by": ["histo", "follow_up", ""][k % 3] if known else "",
                    "pixel_hash": f"{subset}{k:012}"[-16:],
                    "subset": subset,
                }
            )
    first = {"off_0000": ZERO_WEIGHT}  # the official test set's image that does not count
    return pd.DataFrame(rows).replace({"image": first})


def made_predictions(table, seed=1):
    """Predictions of the held-out rows that know something, but lean to the common classes."""
    rows = table[~table["subset"].isin(["train", "left out"])]
    truth = rows["label"].map(CLASSES.index).to_numpy()
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(rows), 7)) + 2.0 * np.eye(7)[truth] + 1.5 * np.log(SHARES)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    columns = {name: rows[name].to_numpy() for name in ("subset", "lesion_id", "origin")}
    return predictions.table(rows["image"].to_numpy(), truth, p, **columns)


def made_run(folder, **changes):
    """(run, dataset). Nothing is in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    table = made_table()
    history = pd.DataFrame({"epoch": [1, 2, 3], "seconds": [60.0, 59.0, 61.0], "loss": 1.2})
    history = history.assign(val_loss=1.3, balanced_accuracy=[0.3, 0.5, 0.45], macro_f1=0.4)
    settings = dict(data="isic2018", backbone="timm:test_resnet", weights="none", size=32, tta=1)
    settings |= dict(split="lesion", near_duplicates="listed", epochs=3, seed=0, average=0.99)
    settings |= dict(version="0.3.0", date="2026-01-02", machine="two cores", sources={"loss": "x"})
    pixels = np.random.default_rng(2).integers(0, 256, (len(table), 24, 32, 3), dtype=np.uint8)
    dataset = FakeDataset(table.drop(columns="subset").assign(path="x"), pixels)
    net = network("timm:test_resnet", "none", 32).eval()
    run = FakeRun(folder, settings, table, made_predictions(table), history, net=net)
    return replace(run, **changes), dataset


def made_extras(table):
    """(studies.json: a probe and a leakage effect; answers.json: what the app counted)."""
    interval = {"value": 0.41, "low": 0.35, "high": 0.47}
    probe = {"subsets": {"official": {"n": 140, "balanced_accuracy": interval}}}
    scores = {"random": 0.62, "lesion": 0.51, "difference": 0.11, "low": 0.04, "high": 0.18}
    scores |= {"by_seed": [0.1, 0.12]}
    effect = {"images": 463, "prone_images": 120, "folds": 4, "seeds": [0, 1]}
    effect |= {"classifiers": {"nearest neighbour": scores}}
    near = [{"image": f"tra_{k:04}", "label": "NV", "similarity": 0.9 - k / 10} for k in range(3)]
    similar = {image: near for image in table.loc[table["subset"] == "official", "image"]}
    unlike = {"Basel": {"n": 60, "out_of_distribution": 0.25, "foreign": 0.05}}
    answers = {"similar": similar, "unlike": unlike, "sets": made_sets(table)}
    return dict(probe=probe, leakage_effect=effect), answers


def made_sets(table):
    """What an answer about each held-out image would be, as answers.json counts it."""
    found = {}
    for name in ("val", "official", "Basel"):
        rows = made_predictions(table[table["subset"] == name])
        found[name] = conformal.scores(*predictions.arrays(rows), np.full(7, 0.3))
    return jsonable(found)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """(run, dataset) with its report. Tests only read its files."""
    run, dataset = made_run(tmp_path_factory.mktemp("work") / "runs" / "first")
    studies, answers = made_extras(run.table)
    files.write_json(run.folder / "studies.json", studies)
    report(run, dataset, answers=answers)
    return run, dataset
