"""What a FILE of the audit is, by what it holds."""

from pathlib import Path

import pandas as pd

from dermai_utils.audits import auditing, known, reading
from dermai_utils.basics import CLASSES, UserError, counted
from dermai_utils.image_names import base_id
from dermai_utils.settings import ROOT
from dermai_utils.split_files import near_subset, read_subsets
from dermai_utils.splits import INNER, LEFT_OUT

OURS = ROOT / "assets" / "predictions"  # a checkout has it
OURS_FILE = "out_of_fold.csv.gz"  # this project's own predictions
KNOWN_SUBSETS = ["", "official", LEFT_OUT, *INNER]  # words of a split file that are no mistake


def audit_files(paths, data=None, *, against="", cache, address=known.DATAVERSE, **options) -> dict:
    """The audit of files: `auditing.audit` of what `read_files` reads, and files and notes beside
    its keys."""
    tables, about = read_files(paths, data, against=against, cache=cache, address=address)
    return about | auditing.audit(**tables, **options)


def read_files(paths, data=None, *, against="", cache, address=known.DATAVERSE):
    """({facts, predicted, split, others} for `auditing.audit`, {files, notes}).

    paths: tables or folders. The first table with probabilities is audited, further ones are
    compared with it; everything else is the split. data: a table of further images (image and some
    of `auditing.FACTS`), or None. against: a file of predictions, or "ours". cache: the folder for
    what is fetched. address: of the official test images' table. notes: lines. UserError names the
    file.
    """
    frames = tables_of(paths)
    given = {path: f for path, f in frames.items() if f is not None and reading.is_predictions(f)}
    listed = [path for path in frames if path not in given]
    notes = []
    split = _split(listed, notes) if listed else None
    if against:
        given |= ours(notes) if against == "ours" else tables_of([against])
    home, further = known.training(), [] if data is None else [data]
    ids = pd.concat([home, *further])["image"]
    own = [reading.described(frame, ids) for frame in frames.values() if frame is not None]
    images = pd.concat([rows["image"] for rows in (*own, split) if rows is not None])
    test, said = known.test(images, cache, address)
    own = [rows[(rows["label"] != "") | (rows["lesion_id"] != "")] for rows in own]
    own = [rows.assign(known_as=auditing.BY_FILE) for rows in own]
    facts, differ = auditing.knowledge(home, test, *further, *own)
    read = _predictions(given, facts["label"], notes)
    predicted = read.pop(next(iter(read))) if read else None
    about = {"files": [path.name for path in frames], "notes": [*said, *notes, *differ]}
    return dict(facts=facts, predicted=predicted, split=split, others=read), about


def tables_of(paths) -> dict:
    """{path: its table, None for a folder}. UserError for what is not there or cannot be read."""
    paths = [Path(path).expanduser() for path in paths]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; expected predictions or a split")
    return {path: None if path.is_dir() else reading.read(path) for path in paths}


def ours(notes) -> dict:
    """{path: table} of this project's own out-of-fold predictions; {} and a note without them."""
    if (OURS / OURS_FILE).exists():
        return tables_of([OURS / OURS_FILE])
    advice = "give this file of the project's repository as --against FILE"
    notes.append(f"not compared with ours: no {OURS / OURS_FILE} here; {advice}")
    return {}


def _split(paths, notes) -> pd.DataFrame:
    """(image, subset) of a split, by photograph; what has no subset is left out. A note for each
    word that may be misspelled: it is a subset of its own."""
    try:
        rows = read_subsets(paths)
    except UserError as reason:
        raise UserError(f"{reason}; predictions have {', '.join(CLASSES)}") from None
    for word, n in rows["subset"].value_counts().drop(KNOWN_SUBSETS, errors="ignore").items():
        if hint := near_subset(word):
            notes.append(f"{counted(n, 'image')} in {word}, taken as a subset of its own: {hint}")
    images = rows["image"].map(base_id)
    return rows.assign(image=images, subset=rows["subset"].replace("", LEFT_OUT))


def _predictions(given, labels, notes) -> dict:
    """{name: rows of predictions} of tables by path."""
    read = {}
    for path, frame in given.items():
        try:
            rows, said = reading.predictions(frame, labels)
        except UserError as reason:
            raise UserError(f"{path}: {reason}") from None
        name = f"ours ({path.name})" if path.parent == OURS else path.stem
        read[str(path) if name in read else name] = rows
        notes += [f"{path.name}: {line}" for line in said]
    return read
