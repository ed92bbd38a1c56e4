"""Lesion masks of the user's, such as HAM10000's: a picture an image, <image>_segmentation.png, white where the lesion is."""

from pathlib import Path

import numpy as np
from PIL import Image

from dermai_utils import augment, clean, files, intervals, pixels
from dermai_utils.config import UserError
from dermai_utils.findings import plain
from dermai_utils.report import HELD_OUT, counting

ENDING = "_segmentation.png"
LIMIT = 200  # images: the interval is narrow enough, and a CPU takes seconds


def find(folder) -> dict:
    """{image id: path of its mask}. UserError where the folder isn't there or holds none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"masks={folder}: no such folder; give the one that holds the <image>{ENDING} files, or leave it empty")
    found = {path.name.removesuffix(ENDING): path for path in sorted(folder.rglob(f"*{ENDING}"))}
    if not found:
        raise UserError(f"masks={folder}: no file <image>{ENDING} in it, like ISIC_0024306{ENDING}; give another folder")
    return found


def read(cfg, images, known) -> tuple[list[str], np.ndarray, dict]:
    """The masks of `images` (ids) as the model's square: (the n ids of which it is usable, (n, S, S) bool, {id: reason}).

    `known`: what `find` returns, with all of these. A mask is scaled to its image, so it must have the same aspect ratio; one
    that hasn't, that can't be read, or that marks nothing in the square is left out, with the reason.
    """
    originals, usable, squares, reasons = _originals(cfg), [], [], {}
    for image in images:
        try:
            squares.append(_square(cfg, known[image], originals.get(image)))
            usable.append(image)
        except (OSError, ValueError) as reason:
            reasons[image] = str(reason)
    return usable, np.array(squares, bool).reshape(-1, cfg.image_size, cfg.image_size), reasons


def _originals(cfg):
    """{image id: path} of the pictures themselves, as far as they are still there."""
    sources = files.read_json(cfg.sources_file) or {}
    folders = [Path(sources[source]["images"]) for source in ("train", "test") if sources.get(source)]
    return {name: path for folder in folders if folder.is_dir() for name, path in clean.images_by_id(folder).items()}


def _square(cfg, path, original):
    """(S, S) bool. Half of the brightest value is the border: some masks are 0 and 255, some 0 and 1."""
    with Image.open(path) as mask:
        size = mask.size
    if original:
        with Image.open(original) as image:
            if abs(size[0] * image.size[1] / (size[1] * image.size[0]) - 1) > 0.02:
                raise ValueError(f"another shape than its image ({size[0]}×{size[1]} for {image.size[0]}×{image.size[1]} px)")
    whole = pixels.decode(path.read_bytes(), *pixels.shape(cfg.image_size))
    maps = augment.geometry(1, whole.shape[:2], cfg.image_size)
    square = augment.warp(whole[None], [0], maps, cfg.image_size)[0].max(axis=2)
    marked = square > whole.max() / 2
    if not marked.any():
        raise ValueError("it marks nothing in the square that the model sees")
    return marked


def share_inside(maps, lesions) -> tuple[np.ndarray, np.ndarray]:
    """(N,), (N,): the share of each map (N, S, S) inside its lesion (N, S, S) bool, and the lesion's share of the area.

    A map that knows nothing has both equal; NaN for a map of zeros.
    """
    lesions, total = np.asarray(lesions, bool), maps.sum((1, 2))
    inside = np.divide((maps * lesions).sum((1, 2)), total, out=np.full(len(maps), np.nan), where=total > 0)
    return inside, lesions.mean((1, 2))


def on_lesion(cfg, predictions, known, maps_of) -> dict:
    """What gradcam.json holds of the maps and the masks: their mean shares, and `share_inside` image by image.

    `known`: what `find` returns; `maps_of(cfg, rows)`: (N, S, S) maps for rows of `predictions`. Up to LIMIT images, drawn by
    the seed, of the part that may be quoted, or where that has no masks (the official test set has none) of the next best.
    low and high: the 95 % interval, by lesion, of inside minus area.
    """
    parts = [counting(predictions, part) for part in reversed(HELD_OUT)]
    rows = next((rows for rows in parts if rows["image"].isin(known).any()), parts[-1][:0])
    here = rows[rows["image"].isin(known)].sample(frac=1, random_state=cfg.seed).head(LIMIT)
    usable, lesions, reasons = read(cfg, here["image"], known)
    _announce(cfg, (~rows["image"].isin(known)).sum(), reasons, usable)
    here = here.set_index("image", drop=False).loc[usable]
    inside, area = share_inside(maps_of(cfg, here), lesions) if usable else (np.zeros(0), np.zeros(0))
    known = ~np.isnan(inside)  # a map of zeros lies nowhere
    if not known.all():
        print(f"gradcam: masks: {(~known).sum()} maps mark nothing at all, so they are left out")
    if not known.any():
        return {"n": 0}
    gain, lesion_ids = (inside - area)[known], here["lesion_id"].to_numpy()[known]
    low, high = intervals.by_lesion(lambda weights: weights @ gain / weights.sum(1), lesion_ids, vectorised=True)
    each = here[["image", "truth", "prediction"]].assign(inside=inside, area=area)
    return plain({
        "part": here["part"].iloc[0], "n": known.sum(), "inside": inside[known].mean(), "area": area[known].mean(),
        "difference": gain.mean(), "low": low, "high": high, "images": each.to_dict("records"),
    })  # fmt: skip


def _announce(cfg, without, reasons, usable):
    """A line for each kind of mask that is left out, with one image for an example."""
    if without:
        print(f"gradcam: masks: {without} images have none in {cfg.masks}")
    for reason in dict.fromkeys(reasons.values()):
        images = [image for image, why in reasons.items() if why == reason]
        print(f"gradcam: masks: {len(images)} left out: {images[0]}{' and others' if len(images) > 1 else ''}: {reason}")
    if not usable:
        print(f"gradcam: masks: none in {cfg.masks} is of use for an image that is predicted")
