"""Curves, augmented images and the report's figures for TensorBoard, by accelerate's own tracker.

Off by default. The files lie in cache_dir: they show images of the data, and a Drive is no place
for a stream of small writes. history.csv has the same numbers in any case.
"""

import contextlib
import importlib.util

import numpy as np
from PIL import Image
from torchvision.utils import make_grid

from dermai_utils.config import UserError
from dermai_utils.training import inference, optim

SHOWN = 32  # images of the first batch
TAGS = {"loss": "train/loss", "images_per_second": "train/images_per_second"}
TAGS |= {k: f"val/{k.removeprefix('val_')}" for k in ("val_loss", "balanced_accuracy", "macro_f1")}
TAGS["macro_auc"] = "val/macro_auc"


def options(cfg) -> dict:
    """What `inference.start` is to be given for `cfg.tracker`; UserError where it is missing."""
    if cfg.tracker == "none":
        return {}
    if importlib.util.find_spec(cfg.tracker) is None:
        raise UserError(
            f"tracker={cfg.tracker} is not installed here: pip install {cfg.tracker}, or give "
            "tracker=none"
        )
    return {"log_with": cfg.tracker, "project_dir": str(cfg.tracker_dir.parent)}


@contextlib.contextmanager
def tracked(run):
    """Inside the block, what `run` (loop.Run) logs is kept; what a killed run had logged beyond its
    last checkpoint is hidden."""
    begun, accelerator = run.steps_done, run.accelerator
    first = {run.cfg.tracker: {"purge_step": begun + 1 if begun else 0}}
    accelerator.init_trackers(run.cfg.run_name, init_kwargs=first)
    try:
        if accelerator.trackers and not begun:
            accelerator.trackers[0].log_images({"first batch": first_batch(run)}, step=0)
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def first_batch(run) -> np.ndarray:
    """(1, 3, H, W) float32 in 0..1: images of the first batch as the network sees them, augmented,
    side by side."""
    rows = run.rows[run.positions()[0]]
    images = run.batches(rows, run.key(0), size=optim.size(run.cfg, 0))[:SHOWN]
    std, mean = (images.new_tensor(x)[:, None, None] for x in (run.batches.std, run.batches.mean))
    return make_grid((images * std + mean).clamp(0, 1)).cpu().numpy()[None]


def log_epoch(run, row) -> None:
    """Log a row of the history."""
    run.accelerator.log({TAGS[k]: row[k] for k in TAGS} | rates(run), step=run.steps_done)


def rates(run) -> dict:
    """The learning rates of now: the backbone's, where it learns, and the new head's."""
    names = ("train/learning_rate", "train/learning_rate_of_head")
    values = run.schedule.get_last_lr()
    return dict(zip(names[-len(values) :], values, strict=True))


def log_figures(cfg) -> None:
    """Log every figure in cfg.report_dir."""
    accelerator = inference.start(cfg, inference.quiet, **options(cfg))
    accelerator.init_trackers(cfg.run_name)
    for path in sorted(cfg.report_dir.glob("*.png")) if accelerator.trackers else ():
        image = np.asarray(Image.open(path).convert("RGB"))[None]
        accelerator.trackers[0].log_images({f"report/{path.stem}": image}, 0, dataformats="NHWC")
    for tracker in accelerator.trackers:
        tracker.finish()
