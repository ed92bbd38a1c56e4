"""Small made-up data sets and networks, so that a training takes a second."""

import types

import numpy as np
import pandas as pd
import torch
from torch import nn

from dermai_utils.basics import CLASSES


def data(n=70, seed=0, extra=0):
    """A dataset of n noisy pictures whose colour tells the class, and their subsets."""
    random, classes = np.random.default_rng(seed), np.arange(n) % 7
    pixels = random.normal(20 + 30 * classes[:, None, None, None], 25, (n, 24, 32, 3))
    table = pd.DataFrame({"image": [f"I{k:03}" for k in range(n)], "source": "train"})
    table = table.assign(origin="", label=np.array(CLASSES)[classes], patient_id="", sex="")
    table = table.assign(lesion_id=[f"L{k // 2}" for k in range(n)], localization="", path="")
    table = table.assign(age=50.0, confirmed_by="", pixel_hash=[f"{k:016x}" for k in range(n)])
    subset = pd.Series(
        np.select([np.arange(n) % 5 == 0, np.arange(n) % 5 == 1], ["val", "test"], "train")
    )
    if extra:
        table.loc[n - extra :, ["source", "origin"]] = ["extra", "BCN"]
        subset[n - extra :] = "train"
    pixels = pixels.clip(0, 255).astype(np.uint8)
    return types.SimpleNamespace(name="made up", table=table, pixels=pixels), subset


class Small(nn.Module):
    """Seven logits of 16 px squares, by batch norm and dropout too."""

    about = {"size": 16}

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.norm, self.drop = nn.BatchNorm2d(8), nn.Dropout(0.2)
            self.head = nn.Linear(8, 7)

    def forward(self, images):
        maps = torch.relu(self.norm(self.first(images)))
        return self.head(self.drop(maps.mean((2, 3))))


class Evil:
    """What a pickle of it does when it is loaded: it makes the file `path`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def same_weights(a, b) -> bool:
    """Whether two state dicts are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k].cpu(), b[k].cpu()) for k in a)
