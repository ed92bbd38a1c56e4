"""What a FILE of the audit is, by what it holds; the files beside it that are needed."""

import contextlib
import importlib.metadata
import json
import re
from pathlib import Path

import pandas as pd

from dermai_utils.audits import auditing, known, reading
from dermai_utils.basics import ZERO_WEIGHT, UserError
from dermai_utils.copies import fetch
from dermai_utils.image_names import base_id
from dermai_utils.settings import ROOT
from dermai_utils.split_files import read_subsets
from dermai_utils.splits import LEFT_OUT

OURS = ROOT / "assets" / "predictions"  # out-of-fold predictions; a checkout has them
OURS_FILE = "out_of_fold.csv.gz"  # of that folder, where the package is installed without it


def audit_files(paths, data=None, *, against="", cache, address=known.DATAVERSE, **options) -> dict:
    """The audit of files: `auditing.audit` of what `read_files` reads, and files, classes and notes
    beside its keys."""
    tables, about = read_files(paths, data, against=against, cache=cache, address=address)
    return about | auditing.audit(**tables, **options)


def read_files(paths, data=None, *, against="", cache, address=known.DATAVERSE):
    """({facts, predicted, split, others} for `auditing.audit`, {files, classes, notes}).

    paths: tables or folders. The first table with probabilities is audited, further ones are
    compared with it; everything else is the split. data: a table of further images (image and some
    of `auditing.FACTS`), or None. against: a file of predictions, or "ours". cache: the folder for
    what is fetched. address: of the official test images' table. classes: {class number: class} of
    the first predictions; notes: lines. UserError names the file.
    """
    frames = tables_of([Path(path).expanduser() for path in paths])
    given = {path: f for path, f in frames.items() if f is not None and reading.is_predictions(f)}
    listed = [path for path in frames if path not in given]
    split = _split(listed) if listed else None
    if against and against != "ours":
        given |= tables_of([Path(against).expanduser()])
    home, data, notes = known.training(), [] if data is None else [data], []
    ids = pd.concat([home, *data])["image"]
    own = [reading.described(f, ids) for f in frames.values() if f is not None]
    own = [rows[(rows["label"] != "") | (rows["lesion_id"] != "")] for rows in own]
    columns = [(f, reading.id_column(f, ids)) for f in given.values()]
    images = [reading.photographs(f[column]) for f, column in columns if column]
    images = pd.concat([*images, pd.Series(dtype=str) if split is None else split["image"]])
    data = [_official_test(images, cache, address, notes), *data]
    facts, said = auditing.knowledge(
        home, *data, *(rows.assign(known_as=auditing.BY_FILE) for rows in own)
    )
    read, classes = _predictions(given, facts["label"], notes)
    predicted = read.pop(next(iter(read))) if given else None
    others = read | (ours(cache, notes) if against == "ours" else {})
    about = {"files": [path.name for path in frames], "classes": classes, "notes": notes + said}
    return dict(facts=facts, predicted=predicted, split=split, others=others), about


def tables_of(paths) -> dict:
    """{path: its table, None for a folder}. UserError for what is not there or cannot be read."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; expected predictions or a split")
    return {path: None if path.is_dir() else reading.read(path) for path in paths}


def _split(paths) -> pd.DataFrame:
    """(image, subset) of a split, by photograph; what has no subset is left out."""
    rows = read_subsets(paths)
    images = rows["image"].map(base_id)
    return rows.assign(image=images, subset=rows["subset"].replace("", LEFT_OUT))


def _official_test(images, cache, address, notes) -> pd.DataFrame:
    """What is known of the official test images, where one of `images` is one; notes what is not,
    then their numbers alone tell which they are."""
    numbered = images[images.map(known.is_test) & (images != ZERO_WEIGHT)]
    table, note = known.test(cache, address) if len(numbered) else (numbered, "")
    notes += [note] if note else []
    return table if len(table) else pd.DataFrame({"image": numbered, "known_as": known.TEST})


def _predictions(given, labels, notes):
    """({name: rows of predictions}, {class number: class} of the first) of tables by path."""
    read, classes = {}, []
    for path, frame in given.items():
        try:
            rows, numbers, said = reading.predictions(frame, labels)
        except UserError as reason:
            raise UserError(f"{path}: {reason}") from None
        read[path.stem if path.stem not in read else str(path)] = rows
        classes.append(numbers)
        notes += [f"{path.name}: {line}" for line in said]
    return read, classes[0] if classes else {}


def ours(cache, notes) -> dict:
    """{name: rows} of this project's own out-of-fold predictions; {} and a note where they are not
    to be had."""
    found, address = sorted(OURS.glob("*.csv.gz")), repository()
    if not found and address and fetch.fetch([address], Path(cache) / OURS_FILE):
        found = [Path(cache) / OURS_FILE]
    if not found:
        where = address or "the project's address is not known (not installed from a repository)"
        notes.append(f"not compared with ours: no predictions in {OURS}, nor there: {where}")
    empty = pd.Series(dtype=str)
    tables = {f"ours ({path.name})": pd.read_csv(path, dtype=str) for path in found}
    return {name: reading.predictions(frame, empty)[0] for name, frame in tables.items()}


def repository() -> str:
    """The address of assets/predictions in the GitHub repository that pip installed this package
    from; "" where it came from elsewhere, such as a checkout."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, KeyError):
        said = importlib.metadata.distribution("dermai-isic2018").read_text("direct_url.json")
        about = json.loads(said or "{}")
        commit = about["vcs_info"]["commit_id"]
        if name := re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(\.git)?/?", about["url"]):
            return f"https://raw.githubusercontent.com/{name[1]}/{commit}/assets/predictions"
    return ""
