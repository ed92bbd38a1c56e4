"""Frozen features: what the ImageNet backbone says of every image before it is trained on one."""

import json
import os
import zipfile

import numpy as np

from dermai_utils import files
from dermai_utils.data import clean
from dermai_utils.training.inference import LoadedRun


def features(cfg) -> np.ndarray:
    """(N, D) float32: the head's input for the central square of each image, by row of clean.read.

    `cfg.backbone` with `cfg.weights`, never a trained run. Cached with what it was made from, and
    read from there when nothing of that changed. EfficientNet-Lite0 at 128 px: D = 1,280, and 145
    images a second on one core. UserError where the weights can't be had.
    """
    table, path = clean.read(cfg), file(cfg)
    made_from = files.fingerprint(_made_from(cfg, table))
    cached = _cached(path, made_from)
    if cached is not None:
        print(f"features: up to date, {cfg.show(path)}")
        return cached
    run = LoadedRun.of_backbone(cfg)
    values = run.logits(table["row"].to_numpy(), with_features=True)[1]
    with files.atomic(path, "wb") as target:
        np.savez(target, features=values, made_from=made_from)
    n, dimensions = values.shape
    print(f"features: {n:,} images, {dimensions:,} numbers each, {cfg.show(path)}")
    return values


def file(cfg):
    """Where they are cached: cache/<data>/features_<backbone>_<image_size>.npz."""
    backbone = cfg.backbone.replace(":", "_").replace("/", "_")
    return cfg.cache / f"features_{backbone}_{cfg.image_size}.npz"


def _made_from(cfg, table):
    """The images by the hashes of their files: hashing the array would take seconds."""
    weights = files.checksum(cfg.weights) if os.path.isfile(cfg.weights) else cfg.weights
    images = json.dumps([table["file_hash"].tolist(), table["row"].tolist()])
    return [cfg.backbone, weights, cfg.image_size, files.fingerprint(images)]


def _cached(path, made_from):
    """What the file holds, or None where it is missing, broken or made from something else."""
    try:
        with np.load(path) as archive:
            return archive["features"] if str(archive["made_from"]) == made_from else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
