"""A run: one folder with everything about one training, or with folds a folder of runs.

settings.json, table.csv (with each image's subset), history.csv, last.pt (to go on from), best.pt
(the averaged weights), predictions.csv of every held-out subset; the report adds its own files.
The folder can be moved or copied: nothing in it names a place.
"""

import copy
import io
import pickle
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dermai_utils import files, inference, networks, predictions
from dermai_utils.basics import CLASSES, UserError, data_flag, did_you_mean

NOT_STORED = ("path",)  # columns of a dataset's table that are true on one machine only
HOME = ("train", "extra", "official")  # sources; test sets of one's own may come and go
SAME = ("label", "lesion_id", "pixel_hash")  # columns whose change is worth a line


class Run:
    """A trained run, as `open_run` returns it.

    folder; name; settings (dict); table (one row an image, with `subset`; with folds also `fold`,
    and each image of a fold is `val`); history; networks (one, or one a fold; `net` is the first);
    predictions (of every held-out image); metrics (after `report`, else None).
    """

    def __init__(self, folder, net=None, device="auto", precision="auto"):
        self.folder, self.name, self._given = Path(folder), Path(folder).name, net
        self.device = inference.device(device)
        self.precision = inference.precision(self.device, precision)

    @cached_property
    def settings(self) -> dict:
        return files.read_json(self.folder / "settings.json") or {}

    @cached_property
    def members(self) -> list:
        """The run of each fold."""
        folders = [self.folder / str(k) for k in range(self.folds)]
        return [type(self)(f, self._given, self.device.type, self.precision) for f in folders]

    @property
    def flags(self) -> str:
        """What names this run on the command line."""
        return f"{data_flag(self.settings.get('data', 'sample'))} --run-name {self.name}"

    folds = property(lambda self: self.settings.get("folds", 0))  # 0: a single training
    size = property(lambda self: self.settings["size"])
    tta = property(lambda self: self.settings.get("tta", 1))
    net = property(lambda self: self.networks[0])

    @cached_property
    def table(self) -> pd.DataFrame:
        return files.read_table(self.folder / "table.csv")

    @property
    def history(self):
        path = self.folder / "history.csv"
        return files.read_table(path) if path.exists() else None

    @property
    def metrics(self) -> dict | None:
        return files.read_json(self.folder / "metrics.json")

    @property
    def predictions(self) -> pd.DataFrame:
        return files.read_table(self.folder / "predictions.csv")

    @cached_property
    def networks(self) -> list:
        """The trained networks on `device`, in evaluation mode."""
        if self.folds:
            return [member.net for member in self.members]
        net = copy.deepcopy(self._given) or self._built()
        try:
            net.load_state_dict(self._weights())
        except RuntimeError as reason:
            why = str(reason).splitlines()[1].strip()
            raise UserError(
                f"{self.folder}: its weights do not fit {type(net).__name__} ({why:.200}); "
                "give the network it was trained with"
            ) from None
        return [net.to(self.device, memory_format=torch.channels_last).eval()]

    def _weights(self) -> dict:
        return load_checkpoint(self.folder / "best.pt")["model"]

    def _built(self):
        backbone = self.settings.get("backbone")
        if not backbone:
            name = self.settings.get("network") or "a network of your own"
            raise UserError(
                f"{self.folder} was trained with {name}: give it as "
                f"open_run({str(self.folder)!r}, net=...)"
            )
        return networks.network(backbone, "none", self.size)

    def probabilities(self, pixels, *, rows=None, tta=None, nets=None) -> np.ndarray:
        """(N, 7) float64 for pictures (N, H, W, 3) uint8: the mean over the run's networks."""
        options = dict(rows=rows, tta=tta or self.tta, precision=self.precision)
        logits = [inference.predict(n, pixels, self.size, **options) for n in nets or self.networks]
        return np.mean([inference.softmax(each) for each in logits], axis=0)

    def predict(self, dataset, tta=None) -> pd.DataFrame:
        """The table of predictions (see predictions.py) of every held-out image in `dataset`.

        Subsets are those of the run's own table; test sets that it lacks come with the dataset.
        With folds, an image of a fold is predicted by the one network that did not learn it.
        """
        rows = self._held_out(dataset)
        probabilities = np.empty((len(rows), len(CLASSES)))
        for fold, part in rows.groupby("fold"):  # -1: in no fold, so that all networks may judge it
            nets = self.networks if fold < 0 else [self.networks[fold]]
            options = dict(rows=part["row"], tta=tta, nets=nets)
            probabilities[part.index] = self.probabilities(dataset.pixels, **options)
        names = ["subset", "lesion_id", "origin", *(["fold"] if self.folds else [])]
        columns, truth = rows[names].to_dict("series"), rows["label"].map(CLASSES.index)
        return predictions.table(rows["image"], truth, probabilities, **columns)

    def _held_out(self, dataset):
        """The held-out images: `row` is their place in the dataset, `fold` -1 where in no fold."""
        old, new = self.table, dataset.table
        # a test set that is not given now is not missing
        given = {"train", "official", *new["source"]}
        held_out = predictions.held_out(old["subset"])
        known = old[old["subset"].isin(held_out) & old["source"].isin(given)]
        known = known.assign(fold=known.get("fold", -1))
        new = new[~new["source"].isin({*HOME, *old["subset"]})]
        rows = pd.concat([known, new.assign(subset=new["source"], fold=-1)])
        found = rows.merge(dataset.table[["image"]].reset_index(names="row"), on="image")
        if missing := len(rows) - len(found):
            print(f"evaluate: held-out images of run {self.name} that the data lacks: {missing:,}")
        return found

    def changes(self, dataset) -> str:
        """What differs between the run's table and the data of now, in one line; "" for nothing.

        A test set that only one of them has is no change: it is judged where it is given."""
        old, new = self.table, dataset.table
        return table_changes(old, new, {*HOME, *(set(old["source"]) & set(new["source"]))})


def open_run(folder, net=None, device: str = "auto", precision: str = "auto") -> Run:
    """The trained run in `folder`. net: the network it was trained with, where that is your own.

    UserError where there is no such run, or it is not trained to its end.

    >>> run = open_run("work/sample/runs/baseline")  # doctest: +SKIP
    >>> run.predictions.groupby("subset").size()  # doctest: +SKIP
    """
    folder = Path(folder)
    if not (folder / "settings.json").exists():
        there = sorted(path.parent.name for path in folder.parent.glob("*/settings.json"))
        hint = did_you_mean(folder.name, there) or f"runs there: {', '.join(there) or 'none'}"
        raise UserError(f"{folder}: there is no such run; {hint}")
    if not (folder / "predictions.csv").exists():
        raise UserError(f"{folder} is not trained to its end: run the same training again")
    return Run(folder, net, device, precision)


def join_folds(folder, dataset, subset: pd.Series, net=None, device: str = "auto") -> Run:
    """Make the run of all folds from the trained runs 0 to n-1 in `folder`, and return it.

    Its predictions are out of fold where the image is in a fold, else the mean of all networks'.
    """
    folder, in_fold = Path(folder), subset.str.isdecimal()
    settings = files.read_json(folder / "0" / "settings.json")
    n = subset[in_fold].nunique()
    table = stored_table(dataset, subset.mask(in_fold, "val"))
    table = table.assign(fold=subset.where(in_fold, "-1").astype(int))
    files.write_table(table, folder / "table.csv")
    files.write_json(folder / "settings.json", settings | {"folds": n, "run_name": folder.name})
    run = Run(folder, net, device)
    files.write_table(run.predict(dataset), folder / "predictions.csv")
    return run


def stored_table(dataset, subset) -> pd.DataFrame:
    """The dataset's table as a run keeps it: with each image's subset, without places."""
    return dataset.table.drop(columns=list(NOT_STORED), errors="ignore").assign(subset=subset)


def table_changes(old, new, sources=HOME, columns=SAME) -> str:
    """What differs between two tables in the images of `sources`, in one line; "" for nothing."""
    old, new = (t[t["source"].isin(sources)].set_index("image") for t in (old, new))
    both = old.index.intersection(new.index)
    found = {"images gone": len(old) - len(both), "new images": len(new) - len(both)}
    for name in columns:
        found[f"another {name}"] = int((old.loc[both, name] != new.loc[both, name]).sum())
    return ", ".join(f"{what}: {n:,}" for what, n in found.items() if n)


# Checkpoints: tensors and plain Python only, whole or refused.


def save_checkpoint(path, state: dict) -> None:
    """torch.save, atomically, with the SHA-256 of its bytes at the end."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with files.atomic(path, "wb") as file:
        file.write(buffer.getvalue() + files.digest(buffer.getvalue()))


def load_checkpoint(path) -> dict:
    """What `save_checkpoint` wrote; UserError where the file is missing or not whole.

    No code in it is executed.
    """
    try:
        content = Path(path).read_bytes()
        if files.digest(content[:-32]) != content[-32:]:
            raise ValueError("broken, its checksum differs from its content")
        return torch.load(io.BytesIO(content[:-32]), map_location="cpu", weights_only=True)
    except (OSError, ValueError, pickle.UnpicklingError, RuntimeError, EOFError) as reason:
        why = f"no checkpoint ({str(reason).splitlines()[0]:.100})"
        raise UserError(f"{path}: {why}; train again, or take it from a copy of the run") from None
