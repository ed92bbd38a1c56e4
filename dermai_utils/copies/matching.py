"""Labels and image files, joined: which file belongs to which row, and which files have none."""

import pandas as pd
from PIL import Image

from dermai_utils.basics import counted
from dermai_utils.copies import tables
from dermai_utils.copies.inventory import image_id

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")


def rows_of_table(labels, folders, notes) -> pd.DataFrame:
    """The rows (image, label, reason, path) of a label table.

    labels: (image, label, reason), see `tables.read_labels`. folders: {folder: names of its
    images}. Lines for the user are appended to `notes`.
    """
    ids, files = {image.casefold(): image for image in labels["image"][::-1]}, _files(folders)
    files["image"] = files["id"].str.casefold().map(ids)
    chosen = _choose(files[files["image"].notna()], notes)
    rows = labels.merge(chosen[["image", "path"]], on="image", how="left")
    missing = (rows["reason"] == "") & rows["path"].isna()
    rows.loc[missing, ["label", "reason"]] = "", "image file missing"
    others = files[files["image"].isna() & files["folder"].isin(chosen["folder"])]
    alone = pd.DataFrame({"image": sorted({*others["id"]}), "reason": "image without a label row"})
    rows = rows.sort_values("image", kind="stable")
    return pd.concat([rows[rows["reason"] == ""], rows[rows["reason"] != ""], alone])


def rows_of_folders(folders, notes) -> pd.DataFrame:
    """(image, path, label, reason) of {folder: names of its images}, in folders named by class."""
    parts = []
    for folder, names in folders.items():
        label = tables.class_of(folder.name)
        if label and not names:
            notes.append(f"folder {folder} is empty: no {label} from there")
        rows = _choose(_files({folder: names}).assign(image=lambda files: files["id"]), notes)
        reason = "" if label else tables.unknown_class(folder.name)
        parts.append(rows.assign(label=label, reason=reason))
    rows = pd.concat(parts, ignore_index=True)
    rows["image"] = _unique_ids(rows, notes)
    return rows[["image", "path", "label", "reason"]].sort_values("image")


def _files(folders) -> pd.DataFrame:
    """Every image file of the folders: folder, name, path, and id (its name without suffix)."""
    files = [(path, n, path / n, image_id(n)) for path, names in folders.items() for n in names]
    return pd.DataFrame(files, columns=["folder", "name", "path", "id"])


def _choose(files, notes) -> pd.DataFrame:
    """One file for each `image`: JPEG before others, then the folder with most of the images."""
    files = files.assign(
        other=~files["name"].str.lower().str.endswith(_JPEG),
        rank=-files.groupby("folder")["image"].transform("nunique"),
    )
    files = files.sort_values(["other", "rank", "path"], kind="stable")
    twice = files["image"].duplicated()
    chosen, left = files[~twice], files[twice]
    if len(left):
        notes.append(_two_files(chosen, left))
        suspects = set(left.loc[left["other"], "folder"])  # every file in there may be a mask
        suspects = chosen[chosen["other"] & chosen["folder"].isin(suspects)]
        masks = suspects.index[[_is_mask(path) for path in suspects["path"]]]
        if len(masks):
            notes.append(f"{counted(len(masks), 'image')} with a mask and no photograph: left out")
        chosen = chosen.drop(masks)
    return chosen


def _two_files(chosen, left) -> str:
    """The line about ids with more than one file."""
    first = left.iloc[0]
    instead = chosen.loc[chosen["image"] == first["image"], "path"].iloc[0]
    beside = instead.parent == first["folder"]
    pair = (instead.name, first["name"]) if beside else (instead, first["path"])
    count = f"{counted(left['image'].nunique(), 'image')} with more than one file"
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
