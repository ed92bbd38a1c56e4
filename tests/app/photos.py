"""Made-up photos, and a run of a tiny network that nobody trained."""

import io

import numpy as np
import pandas as pd
import torch
from PIL import Image

from dermai_utils import files, inference, networks, pixels, runs
from dermai_utils.basics import CLASSES
from dermai_utils.datasets import Dataset

SIZE = 32  # px; stored as 75 x 100
SUBSETS = ["train"] * 63 + ["val"] * 42 + ["official"] * 42


def picture(height=90, width=120, seed=0):
    """A smooth random image, so that resampling filters agree on it."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tinted(label, seed):
    """A picture at the stored size whose colour tells the class, most of the time."""
    tint = np.random.default_rng(CLASSES.index(label)).integers(0, 256, 3)
    array = 0.8 * np.asarray(picture(75, 100, seed), float) + 0.2 * tint
    return Image.fromarray(array.astype(np.uint8))


def dataset(folder):
    """A Dataset of n pictures, two a lesion, whose files lie in `folder`."""
    n = len(SUBSETS)
    labels = [CLASSES[k // 2 % 7] for k in range(n)]
    rows = pd.DataFrame({"image": [f"i{k}" for k in range(n)], "label": labels})
    rows["lesion_id"] = [f"L{k // 2}" for k in range(n)]
    rows["source"] = ["official" if s == "official" else "train" for s in SUBSETS]
    for name in ("origin", "patient_id", "sex", "localization", "confirmed_by"):
        rows[name] = ""
    rows["age"] = 50.0
    pictures = [tinted(label, seed) for seed, label in enumerate(labels)]
    rows["pixel_hash"] = [pixels.checksum(made) for made in pictures]
    for image, made in zip(rows["image"], pictures, strict=True):
        made.save(folder / f"{image}.png")
    rows["path"] = [str(folder / f"{image}.png") for image in rows["image"]]
    return Dataset("sample", rows, np.stack(pictures), rows[:0], [], "made up")


def run(folder, data, backbone="timm:test_resnet", folds=0, **settings):
    """A Run whose networks start at random."""
    subset = pd.Series(SUBSETS)
    table = data.table.drop(columns="path").assign(subset=subset)
    if folds:
        inner = subset != "official"
        table["subset"] = subset.mask(inner, "val")
        table["fold"] = np.where(inner, np.arange(len(table)) // 2 % folds, -1)
    about = {"data": "sample", "size": SIZE, "backbone": backbone, "seed": 0, "tta": 2}
    about |= {"date": "2021-03-04", "folds": folds, "average": 0.9} | settings
    files.write_table(table, folder / "table.csv")
    files.write_json(folder / "settings.json", about)
    for k in range(folds or 1):
        at = folder / str(k) if folds else folder
        net = networks.network(backbone, "none", SIZE, seed=k)
        _fit_head(net, data, table["subset"] != "official")
        runs.save_checkpoint(at / "best.pt", {"model": net.state_dict(), "about": {"epoch": 1}})
        files.write_json(at / "settings.json", about | {"folds": folds if at == folder else 0})
    made = runs.Run(folder, device="cpu")
    files.write_table(made.predict(data), folder / "predictions.csv")
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    metrics = {"primary_subset": "official", "subsets": {"official": {"n": 42}}}
    metrics["intervals"] = {"official": {"balanced_accuracy": interval}}
    files.write_json(folder / "metrics.json", metrics)
    (folder / "model_card.md").write_text("# A card\n")
    return made


def _fit_head(net, data, rows):
    """The last layer by least squares, so that some answers are sure and most are right."""
    pixels, head = data.pixels[rows.to_numpy()], networks.head(net)
    _, features = inference.predict(net, pixels, SIZE, with_features=True)
    inputs = np.c_[features, np.ones(len(features))]
    one_hot = np.eye(7)[[CLASSES.index(label) for label in data.table.loc[rows, "label"]]]
    weights = torch.from_numpy(8 * np.linalg.lstsq(inputs, one_hot, rcond=1e-3)[0].T).float()
    head.weight.data, head.bias.data = weights[:, :-1].contiguous(), weights[:, -1].clone()
