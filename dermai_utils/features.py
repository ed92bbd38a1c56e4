"""Frozen features: what the ImageNet backbone says of every image before it is trained on one of them."""

import json
import os
import zipfile

import numpy as np
import torch

from dermai_utils import clean, files, model, train


def features(cfg) -> np.ndarray:
    """(N, D) float32: the head's input for the central square of each image, a row for each row of table.csv, in its order.

    `cfg.backbone` with `cfg.weights`, never a trained run. Kept in the cache with what it was made from, and read from there
    when nothing of that changed. EfficientNet-Lite0 at 128 px: D = 1,280, and 145 images a second on one core.
    UserError where the weights can't be had.
    """
    table = clean.read_table(cfg.table_file)
    made_from = files.fingerprint(_made_from(cfg, table))
    kept = _kept(file(cfg), made_from)
    if kept is not None:
        print(f"features: up to date, {cfg.show(file(cfg))}")
        return kept
    found = _computed(cfg, table["row"].to_numpy())
    with files.atomic(file(cfg), "wb") as target:
        np.savez(target, features=found, made_from=made_from)
    print(f"features: {len(found):,} images, {found.shape[1]:,} numbers each, {cfg.show(file(cfg))}")
    return found


def file(cfg):
    """Where they are kept: cache/<data>/features_<backbone>_<image_size>.npz."""
    return cfg.cache / f"features_{cfg.backbone.replace(':', '_').replace('/', '_')}_{cfg.image_size}.npz"


def _made_from(cfg, table):
    """The images by the hashes of their files: hashing the decoded array, a gigabyte, would take seconds."""
    weights = files.checksum(cfg.weights) if os.path.isfile(cfg.weights) else cfg.weights
    images = json.dumps([table["file_hash"].tolist(), table["row"].tolist()])
    return [cfg.backbone, weights, cfg.image_size, files.fingerprint(images)]


def _kept(path, made_from):
    """What the file holds, or None where it is missing, broken or made from something else."""
    try:
        with np.load(path) as archive:
            return archive["features"] if str(archive["made_from"]) == made_from else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _computed(cfg, rows):
    accelerator = train.start(cfg)
    net = model.build(cfg.backbone, cfg.weights, cfg.image_size)
    net = net.to(accelerator.device, memory_format=torch.channels_last)
    batches = train.batches_for(cfg, net, accelerator.device)
    at_once = train.evaluation_batch(cfg.batch_size, accelerator.device)
    with accelerator.autocast():
        return model.predict(net, batches, rows, at_once, with_features=True)[1]
