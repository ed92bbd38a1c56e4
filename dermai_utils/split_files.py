"""read_subsets, read_split: a split that you edited or somebody else made, as tables or folders."""

import os
from pathlib import Path

import pandas as pd

from dermai_utils import splits
from dermai_utils.basics import IMAGE_SUFFIXES, UserError, did_you_mean
from dermai_utils.copies import tables
from dermai_utils.image_names import base_id, is_archive_id
from dermai_utils.splits import INNER, LEFT_OUT

GIVEN = "given"  # the column with the split that came with the data
SUBSET_COLUMNS = tables.COLUMN_NAMES["given"]
IDS = (*tables.COLUMN_NAMES["image"], "derm", "id", "name", "img")
SUFFIXES = (".csv", ".tsv", ".tab", ".txt", *tables.PACKAGES)
EXPECTED = (
    "expected a table with columns image and subset, a table for each subset (train.csv, "
    "test.csv), or folders train and test with images"
)


def read_subsets(paths) -> pd.DataFrame:
    """(image, subset) of each row of a split that somebody made, in the files' order.

    paths: a path or a list of them. Each is a table with a column of image ids and one of subsets
    (SUBSET_COLUMNS); a table or a plain list of ids that has its subset in its file's or folder's
    name (train.csv, test/metadata.csv); or a folder, which holds such tables, or images in folders
    named by subset. image: the file's name without folder and suffix. subset: train, val, test,
    any other word as it stands in the file, or "" where there is none.

    An image that is twice in one subset has one row; one that is in two subsets has two. UserError
    where a file is not there, cannot be read, or names no subset.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    parts = [_of_folder(path) if path.is_dir() else _of_table(path) for path in map(Path, paths)]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if rows.empty:
        raise UserError(f"{', '.join(map(str, paths)) or 'no file'}: no image; {EXPECTED}")
    rows = rows.assign(image=tables.image_ids(rows["image"]).str.strip())
    return rows[rows["image"] != ""].drop_duplicates(ignore_index=True)


def _of_folder(folder) -> pd.DataFrame:
    """The rows of the tables in a folder that tell subsets, else its images by folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = [path for path in files if path.suffix.lower() in SUFFIXES and _tells(path, folder)]
    if found:
        return pd.concat([_of_table(path, folder) for path in found])
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    rows = [(path.name, tables.subset_in(path.parent.relative_to(folder))) for path in images]
    rows = pd.DataFrame(rows, columns=["image", "subset"])
    return rows[rows["subset"] != ""]


def _tells(path, folder) -> bool:
    """Whether a table in `folder` names images, and a column or its name tells their subset."""
    names = tables.header(path)
    subset = tables.column_of(names, "", SUBSET_COLUMNS) or _named(path, folder)
    return bool(subset and (tables.column_of(names, "", IDS) or len(names) == 1))


def _named(path, folder) -> str:
    """The subset in the name of a table, or of a folder that it lies in."""
    if folder:
        return tables.subset_in(path.relative_to(folder).with_suffix(""))
    return tables.subset_in(path.stem) or tables.subset_of(path.absolute().parent.name)


def _of_table(path, folder=None) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such file; {EXPECTED}")
    names = tables.header(path)
    image, subset = (tables.column_of(names, "", known) for known in (IDS, SUBSET_COLUMNS))
    if not image and len(names) == 1:  # a plain list of ids, one a line
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = pd.DataFrame({"image": lines})
    else:
        rows = tables.read_csv(path, [image or "image", *[subset] * bool(subset)])
    named = _named(path, folder)
    if not subset and not named:
        has = ", ".join(names)[:200]
        raise UserError(f"{path}: no column of subsets beside {has}; {EXPECTED}")
    words = rows[subset].fillna("") if subset else pd.Series(named, rows.index)
    image = rows[image or rows.columns[0]].fillna("")
    return pd.DataFrame({"image": image, "subset": [tables.subset_of(w) or w for w in words]})


def near_subset(word, *also) -> str:
    """A question that names the subset nearest to `word`; "" where none is near."""
    return did_you_mean(word, [*also, LEFT_OUT, *tables.SUBSET_WORDS])


# Onto a table of images


def read_split(path, table, *, leave_out=False, val=0.12, seed=0, pairs=None) -> pd.Series:
    """(N,) subset names as `split` gives them, from a split that you edited or somebody else made.

    path: a table with columns of images and subsets, a table for each subset, or a folder (see
    `read_subsets`); a list of these; or `given`, for the split that came with the data
    (the column `given`). leave_out: `left out` is what leaks (see `leaks`); else it stays, and
    `audit` counts it. val, seed, pairs: where the file has no val, that share of its training
    images, by lesion, is val.

    Training images are in train, val, test, a fold's number or `left out`, which also are those
    that no row names; `extra` ones in train or `left out`; all others in their test set, which
    `test` stands for too, or `left out`. Prints what it does not find. UserError where the file
    says something else, or does not fit the table.

    >>> import tempfile
    >>> table, path = pd.DataFrame({"image": ["a", "b"], "label": "NV"}), tempfile.mktemp()
    >>> table.assign(subset=["train", "val"]).to_csv(path, index=False)
    >>> read_split(path, table).tolist()
    ['train', 'val']
    """
    pairs = splits.near_duplicates() if pairs is None else pairs
    subset, elsewhere = _subsets_named(path, table), splits.subsets_elsewhere(table)
    apart = ~elsewhere.isin(("", "train"))
    subset = subset.mask(apart & subset.isin(("", "test")), elsewhere)
    subset = subset.mask((elsewhere == "train") & (subset == ""), "train")
    unnamed = subset == ""
    if unnamed.any():
        first = table["image"][unnamed].iloc[0]
        count = f"{unnamed.sum():,} ({first}, ...)"
        print(f"split: {path}: images without a subset are {LEFT_OUT}: {count}")
    subset = subset.mask(unnamed, LEFT_OUT)
    fits = (subset == LEFT_OUT) | (subset == elsewhere)
    fits |= (elsewhere == "") & (subset.isin(INNER) | subset.str.fullmatch(r"\d{1,2}"))
    if not fits.all():
        first = fits.idxmin()
        expected = elsewhere[first] or "train, val, test, a fold's number"
        hint = near_subset(subset[first], elsewhere[first])
        why = f"is in {subset[first]}: expected {expected} or {LEFT_OUT}{hint and '; ' + hint}"
        _refuse(path, table[~fits], why)
    subset = _with_val(path, table, subset, val, seed, pairs)
    inner = sorted(set(subset[elsewhere == ""]) - {LEFT_OUT, "test"})
    if set(inner) not in ({"train", "val"}, {str(k) for k in range(max(2, len(inner)))}):
        expected = "expected train and val, or folds 0, 1 and so on"
        raise UserError(f"{path}: training images are in {', '.join(inner) or 'test'}; {expected}")
    clean = splits.without_leaks(table, subset, pairs)
    if leave_out:
        splits.check_filled(clean, inner)
        return clean
    if leaking := (clean != subset).sum():
        advice = "--leaks leave_out leaves such images out"
        print(f"split: {path}: images that leak and stay: {leaking:,}; {advice}")
    return subset


def _subsets_named(path, table):
    """(N,) the subset that a split file names for each image, "" for none."""
    if str(path) == GIVEN:
        given = splits.column(table, GIVEN)
        if not (given != "").any():
            expected = "expected tables or folders train, val and test"
            raise UserError(f"split={GIVEN}: the data came with no split; {expected}")
        return given.rename("subset")
    rows = read_subsets(path)
    twice = rows[rows["image"].duplicated()]
    _refuse(path, twice, "is in two subsets; give each image one")
    named = dict(zip(rows["image"], rows["subset"], strict=True))
    archive = rows[rows["image"].map(is_archive_id)].groupby(rows["image"].map(base_id))["subset"]
    archive = archive.first()[archive.nunique() == 1].to_dict()
    home = splits.subsets_elsewhere(table) == ""
    subset = [
        named.get(image, archive.get(base_id(image), "") if own else "")
        for image, own in zip(table["image"], home, strict=True)
    ]
    known = {*table["image"], *table["image"].map(base_id)}
    missing = rows[[not {image, base_id(image)} & known for image in rows["image"]]]
    if len(missing) == len(rows):
        _refuse(path, rows, "is not in the data; expected ids or file names of its images")
    if len(missing):
        count = f"{len(missing):,} of {len(rows):,} ({missing['image'].iloc[0]}, ...)"
        print(f"split: {path}: images that are not in the data: {count}")
    return pd.Series(subset, table.index, name="subset")


def _with_val(path, table, subset, val, seed, pairs):
    """The subsets with some of the training images as val, where a file has no val and no folds."""
    train = (splits.subsets_elsewhere(table) == "") & (subset == "train")
    if not train.any() or (subset == "val").any() or subset.str.isdecimal().any():
        return subset
    print(f"split: {path}: no val: it is {val:.0%} of the training images, by lesion")
    rows = table[train]
    together = splits.training_groups(rows, pairs)
    drawn = splits.drawn_subsets(rows["label"], together, val, 0, seed)
    return subset.mask(train, pd.Series(drawn, rows.index))


def _refuse(path, rows, why):
    """UserError that names the first of `rows`, and how many there are."""
    if len(rows):
        more = f" (and {len(rows) - 1:,} more)" if len(rows) > 1 else ""
        raise UserError(f"{path}: image {rows['image'].iloc[0]}{more} {why}")
