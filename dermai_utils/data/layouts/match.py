"""Labels and image files, joined: which file is which row's, and what is left alone."""

import re

import numpy as np
import pandas as pd
from PIL import Image

from dermai_utils import files
from dermai_utils.data.layouts import labels
from dermai_utils.data.layouts.inventory import image_id, plain_name

NOT_UTF8 = "the name of the file is not in UTF-8; rename it"
_MASK = re.compile(r"_(segmentation|mask|superpixels)$")


def rows_of_table(table, candidates, own_names, notes) -> tuple[pd.DataFrame, list, set]:
    """The rows of a label table with their image files, the folders of these, and the folders with
    any file that a row names.

    candidates: {folder: entries of its image files}. own_names: plain names of folders of which
    every file should have a row. notes: lines for the user are added.
    """
    rows = labels.read_labels(table)
    images = _files(rows["image"], candidates)
    chosen = _choose(images, notes)
    own = {p for p, entries in candidates.items() if entries and plain_name(p.name) in own_names}
    used = sorted({path.parent for path in chosen["path"]} | own)
    good = rows["reason"] == ""
    paths = dict(zip(chosen["image"], chosen["path"], strict=True))
    labelled = rows[good].assign(path=rows.loc[good, "image"].map(paths)).sort_values("image")
    missing = labelled["path"].isna()
    others = images[images["image"].isna() & images["folder"].isin(used)]
    others = _without_masks(others, {image.casefold() for image in rows["image"]}, notes)
    odd = _not_utf8(others)
    alone = {image_id(name) for name in others["name"]} - {*rows["image"], *odd["image"]}
    parts = [
        labelled[~missing],
        rows[~good],
        labelled[missing].assign(reason="image file missing", label=""),
        pd.DataFrame({"image": sorted(alone), "reason": "image without a label row"}),
        odd,
    ]
    named = set(images.loc[images["image"].notna(), "folder"])
    return pd.concat(parts, ignore_index=True), used, named


def _files(ids, candidates) -> pd.DataFrame:
    """Every image file of the folders: folder, name, path, its table id as `image` or NaN."""
    exact, folded = set(ids), {image.casefold(): image for image in ids[::-1]}
    records = []
    for folder, entries in candidates.items():
        for entry in entries:
            stem = image_id(entry.name)
            image = stem if stem in exact else folded.get(stem.casefold())
            if files.printable(entry.name) != entry.name:  # it cannot be written down
                image = None
            records.append((folder, entry.name, folder / entry.name, image))
    return pd.DataFrame(records, columns=["folder", "name", "path", "image"])


def _not_utf8(images) -> pd.DataFrame:
    """(image, reason) of each of the files whose name cannot be written down."""
    odd = [image_id(name) for name in images["name"] if files.printable(name) != name]
    return pd.DataFrame({"image": odd, "reason": NOT_UTF8})


def _without_masks(images, ids, notes) -> pd.DataFrame:
    """The files without those called as one of the `ids` (lower case) with "_mask" or the like."""
    stems = [image_id(name).casefold() for name in images["name"]]
    masks = np.array([bool(e := _MASK.search(s)) and s[: e.start()] in ids for s in stems], bool)
    if masks.any():
        notes.append(f"{masks.sum():,} masks ({images['name'][masks].iloc[0]}) are not used")
    return images[~masks]


def _choose(images, notes) -> pd.DataFrame:
    """One file for each id: JPEG before others, then the folder with most of the images."""
    images = images[images["image"].notna()]
    jpeg = images["name"].str.lower().str.endswith((".jpg", ".jpeg", ".jpe", ".jfif"))
    images = images.assign(
        other=~jpeg,
        rank=-images.groupby("folder")["image"].transform("nunique"),
        exact=[image != image_id(name) for image, name in images[["image", "name"]].to_numpy()],
    )
    images = images.sort_values(["other", "rank", "exact", "path"], kind="stable")
    twice = images["image"].duplicated()
    chosen, left = images[~twice], images[twice]
    if len(left):
        notes.append(_two_files(chosen, left))
        suspects = set(left.loc[left["other"], "folder"])  # may be masks for all of its files
        masks = [
            row.other and row.folder in suspects and _is_mask(row.path)
            for row in chosen.itertuples()
        ]
        if any(masks):
            notes.append(f"{sum(masks):,} images have a mask and no photograph: left out")
        chosen = chosen[~np.array(masks)]
    return chosen


def _two_files(chosen, left) -> str:
    """The line about files that are not used because their id has another file."""
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


def rows_of_folders(folders, notes) -> pd.DataFrame:
    """(image, path, label, reason) of {folder: entries}, in folders called as the classes are."""
    parts = []
    for folder, entries in folders.items():
        label = labels.class_of(folder.name)
        if label and not entries:
            notes.append(f"folder {folder} is empty: no {label} from there")
        ids = pd.Series([image_id(entry.name) for entry in entries], dtype=object)
        images = _files(ids, {folder: entries})
        odd, images = _not_utf8(images), images[images["image"].notna()]
        images = _without_masks(images, {*ids.str.casefold()}, notes)
        reason = "" if label else labels.unknown_class(folder.name)
        parts += [_choose(images, notes).assign(label=label, reason=reason), odd]
    rows = pd.concat(parts, ignore_index=True)
    rows["image"] = _unique_ids(rows, notes)
    return rows[["image", "path", "label", "reason"]].sort_values("image")


def _unique_ids(rows, notes) -> pd.Series:
    """The ids, with the names of the folders before those that stand in several folders."""
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
