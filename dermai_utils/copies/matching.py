"""Labels and image files, joined: which file belongs to which row, and which files have none."""

import re

import numpy as np
import pandas as pd
from PIL import Image

from dermai_utils.copies import tables
from dermai_utils.copies.inventory import image_id, plain_name

_MASK = re.compile(r"_(segmentation|mask|superpixels)$")
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")


def rows_of_table(labels, candidates, own_names, notes) -> tuple[pd.DataFrame, list]:
    """The rows (image, label, reason, path) of a label table, and the folders of their images.

    labels: (image, label, reason), see `tables.read_labels`. candidates: {folder: names of its
    images}. own_names: plain names of folders in which every file should have a row. Lines for the
    user are appended to `notes`.
    """
    images = _files(labels["image"], candidates)
    chosen = _choose(images, notes)
    own = {p for p, names in candidates.items() if names and plain_name(p.name) in own_names}
    used = sorted({path.parent for path in chosen["path"]} | own)
    good = labels["reason"] == ""
    paths = dict(zip(chosen["image"], chosen["path"], strict=True))
    labelled = labels[good].assign(path=labels.loc[good, "image"].map(paths)).sort_values("image")
    missing = labelled["path"].isna()
    others = images[images["image"].isna() & images["folder"].isin(used)]
    others = _without_masks(others, {image.casefold() for image in labels["image"]}, notes)
    alone = sorted({image_id(name) for name in others["name"]} - {*labels["image"]})
    parts = [
        labelled[~missing],
        labels[~good],
        labelled[missing].assign(reason="image file missing", label=""),
        pd.DataFrame({"image": alone, "reason": "image without a label row"}),
    ]
    return pd.concat(parts, ignore_index=True), used


def rows_of_folders(folders, notes) -> pd.DataFrame:
    """(image, path, label, reason) of {folder: names of its images}, in folders named by class."""
    parts = []
    for folder, names in folders.items():
        label = tables.class_of(folder.name)
        if label and not names:
            notes.append(f"folder {folder} is empty: no {label} from there")
        ids = pd.Series([image_id(name) for name in names], dtype=object)
        images = _without_masks(_files(ids, {folder: names}), {*ids.str.casefold()}, notes)
        reason = "" if label else tables.unknown_class(folder.name)
        parts.append(_choose(images, notes).assign(label=label, reason=reason))
    rows = pd.concat(parts, ignore_index=True)
    rows["image"] = _unique_ids(rows, notes)
    return rows[["image", "path", "label", "reason"]].sort_values("image")


def _files(ids, candidates) -> pd.DataFrame:
    """Every image file of the folders: folder, name, path, and its id in the table or None."""
    exact, folded = set(ids), {image.casefold(): image for image in ids[::-1]}
    records = []
    for folder, names in candidates.items():
        for name in names:
            stem = image_id(name)
            image = stem if stem in exact else folded.get(stem.casefold())
            records.append((folder, name, folder / name, image))
    return pd.DataFrame(records, columns=["folder", "name", "path", "image"])


def _without_masks(images, ids, notes) -> pd.DataFrame:
    """The files without those named after one of the `ids` (lower case) with "_mask" or so."""
    stems = [image_id(name).casefold() for name in images["name"]]
    masks = np.array([bool(e := _MASK.search(s)) and s[: e.start()] in ids for s in stems], bool)
    if masks.any():
        notes.append(f"{masks.sum():,} masks ({images['name'][masks].iloc[0]}) are not used")
    return images[~masks]


def _choose(images, notes) -> pd.DataFrame:
    """One file for each id: JPEG before others, then the folder with most of the images."""
    images = images[images["image"].notna()]
    images = images.assign(
        other=~images["name"].str.lower().str.endswith(_JPEG),
        rank=-images.groupby("folder")["image"].transform("nunique"),
        exact=[image != image_id(name) for image, name in images[["image", "name"]].to_numpy()],
    )
    images = images.sort_values(["other", "rank", "exact", "path"], kind="stable")
    twice = images["image"].duplicated()
    chosen, left = images[~twice], images[twice]
    if len(left):
        notes.append(_two_files(chosen, left))
        suspects = set(left.loc[left["other"], "folder"])  # every file in there may be a mask
        rows = chosen[["other", "folder", "path"]].to_numpy()
        masks = np.array([other and where in suspects and _is_mask(p) for other, where, p in rows])
        if masks.any():
            notes.append(f"{masks.sum():,} images have a mask and no photograph: left out")
        chosen = chosen[~masks.astype(bool)]
    return chosen


def _two_files(chosen, left) -> str:
    """The line about ids with more than one file."""
    first = left.iloc[0]
    instead = chosen.loc[chosen["image"] == first["image"], "path"].iloc[0]
    beside = instead.parent == first["folder"]
    pair = (instead.name, first["name"]) if beside else (instead, first["path"])
    count = f"{left['image'].nunique():,} images have more than one file"
    return f"{count}: {pair[0]} is used and {pair[1]} is not, and so on"


def _is_mask(path) -> bool:
    """Whether a picture has no more than two grey levels."""
    try:
        with Image.open(path) as image:
            return image.convert("L").getcolors(2) is not None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _unique_ids(rows, notes) -> pd.Series:
    """The ids, with their folders' names in front where an id stands in several folders."""
    ids, good = rows["image"].copy(), rows["reason"] == ""
    repeated = ids[good].duplicated(keep=False).reindex(ids.index, fill_value=False)
    if repeated.any():
        what = "have the same name as a file in another folder: the folder's is put before it"
        notes.append(f"{repeated.sum():,} files ({ids[repeated].iloc[0]}, ...) {what}")
    for depth in (2, 3, 4):  # FOLDER_NAME, and so on
        paths = rows["path"][repeated]
        ids[repeated] = [image_id("_".join(path.parts[-depth:])) for path in paths]
        repeated &= ids.duplicated(keep=False)
    return ids
