"""Tables of labels and metadata, however their columns and classes are named: read as one form."""

import csv
import difflib
import functools
import io
import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from dermai_utils.basics import CLASSES, IMAGE_SUFFIXES, UserError, counted

METADATA = ("lesion_id", "patient_id", "age", "sex", "localization", "confirmed_by", "given")
SITES = ("anatom_site_general", "anatom_site_general_challenge", "location", "region", "site")
IMAGES = ("isic_id", "image_id", "image", "image_name", "image name", "file", "filename")
IMAGES += ("file_name", "image_path", "file_path", "filepath", "path")
IMAGES += ("img_id", "md5hash", "ddi_file")
COLUMN_NAMES = {  # what tables call each of our columns; the first name that is there counts
    "image": IMAGES,
    "lesion_id": ("lesion_id",),
    "patient_id": ("patient_id",),
    "age": ("age", "age_approx", "age_approximate"),
    "sex": ("sex", "gender"),
    "localization": ("localization", *SITES),
    "confirmed_by": ("dx_type", "diagnosis_confirm_type"),
    "given": ("subset", "split", "partition", "set", "fold"),
}
CLASS_COLUMNS = ("dx", "diagnosis", *(f"diagnosis_{k}" for k in (5, 4, 3, 2, 1)), "label", "class")
CLASS_COLUMNS += ("cell_type",)

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
LONGEST_TITLE, LONGEST_LEGEND = 9, 30  # lines above a header, rows above one in a sheet
PACKAGES = {".xlsx": "openpyxl", ".parquet": "pyarrow", ".jsonl": "pandas"}  # no text: read by
CONTRADICTS = "duplicate id with different labels"
TWICE = "duplicate id (the first row is kept)"


# Words: classes, subsets


def _plain(word) -> str:
    letters = unicodedata.normalize("NFKD", str(word).casefold())  # accents become signs
    return re.sub(r"[^\w]|_", "", letters)


with open(Path(__file__).with_name("class_words.csv"), encoding="utf-8") as _file:
    CLASS_WORDS = {row["word"]: row["class"] for row in csv.DictReader(_file)}
_CLASS_OF = {_plain(word): name for word, name in CLASS_WORDS.items()}
MORE_ONE_HOT = ("ak", "scc", "unk", "ben_oth", "inf", "mal_oth", "sccka")  # ISIC 2019, MILK10k
ONE_HOT = {name: _CLASS_OF.get(name) for name in (*map(str.lower, CLASSES), *MORE_ONE_HOT)}


@functools.cache
def class_of(word) -> str:
    """The class, of the seven, that a word stands for; "" for any other word.

    >>> class_of("Bowen's disease"), class_of("wart")
    ('AKIEC', '')
    """
    return _CLASS_OF.get(_plain(word), "")


@functools.cache
def unknown_class(word) -> str:
    """The reason for a label that is none of the seven classes, with the accepted words near it:
    more precise ones, else similar ones, one a class.

    >>> unknown_class("keratosis").partition("; ")[2]
    'accepted: actinic keratosis (AKIEC), seborrheic keratosis (BKL)'
    """
    text = f"{' '.join(str(word).split()):.60}"
    parts = {*re.findall(r"[^\W\d_]{3,}", text.casefold())} - {"benign", "malignant"}
    near = [accepted for accepted in CLASS_WORDS if parts and parts <= {*accepted.split()}]
    near = near or difflib.get_close_matches(text.casefold(), CLASS_WORDS, cutoff=0.85)
    one_each = {CLASS_WORDS[accepted]: accepted for accepted in near[::-1]}
    advice = ", ".join(sorted(f"{accepted} ({name})" for name, accepted in one_each.items()))
    return f"class {text}: none of the seven" + f"; accepted: {advice}" * bool(advice)


SUBSET_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def subset_of(word) -> str:
    """train, val or test, where a word stands for it; "" for any other.

    >>> subset_of("Validation"), subset_of("TestSet"), subset_of("fold 3")
    ('val', 'test', '')
    """
    word = word.casefold().strip()
    return SUBSET_WORDS.get(word) or SUBSET_WORDS.get(word.removesuffix("set").rstrip(" _-"), "")


def subset_in(path) -> str:
    """The subset that a path names, its last parts first; "" for none, or two in one part.

    >>> subset_in("ISIC-2017_Training_Data/X"), subset_in("train/metadata"), subset_in("train_test")
    ('train', 'train', '')
    """
    for part in reversed(Path(path).parts):
        found = {subset_of(word) for word in re.findall("[a-z]+", part.casefold())} - {""}
        if found:
            return found.pop() if len(found) == 1 else ""
    return ""


# Any table as CSV


def header(path) -> list[str]:
    """The column names of a user's table in lower case; [] if it cannot be read."""
    try:
        line = _text(path, 2**20)[0].split("\n", 1)[0]
    except UserError:
        return []
    cells = next(csv.reader([line], delimiter=_separator(line), skipinitialspace=True), [])
    return [cell.strip().casefold() for cell in cells]


def encoding_note(path) -> str:
    """A line about a table in Windows-1252; "" for others."""
    note = f"{Path(path).name} is not in UTF-8: read as Windows-1252, as Excel saves a CSV"
    return note if _text(path)[1] == "cp1252" else ""


def why_unreadable(path) -> str:
    """Why no column of a table is known: in words, for a message."""
    try:
        _text(path, 2**20)
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    return ", ".join(header(path))


def _text(path, size=-1, expected="expected a CSV") -> tuple[str, str]:
    """A table as CSV, and its encoding: UTF-8, UTF-16 (Excel's "Unicode text"), or Windows-1252.

    size: bytes at its beginning, for a file of text. UserError if it is none, or if a package is
    missing that reads it.
    """
    path = Path(path)
    if path.suffix.lower() in PACKAGES:
        return _converted(path, path.stat().st_mtime_ns), ""
    with open(path, "rb") as file:
        data = file.read(size)
    encodings = ("utf-16",) if data.startswith(UTF_16) else ("utf-8", "cp1252")
    if len(data) == size and encodings[0] == "utf-8":  # no half letters at the end
        data = data[: 1 + data.rfind(b"\n")] or data
    for encoding in encodings:
        try:
            return _as_csv(data.decode(encoding).removeprefix("\ufeff")), encoding
        except UnicodeDecodeError:
            if b"\0" in data:  # no text at all
                break
    advice = "in a spreadsheet, save it as CSV UTF-8"
    raise UserError(f"{path}: not a text file in UTF-8; {expected}; {advice}")


@functools.lru_cache(16)
def _converted(path, changed) -> str:
    """A table that is no text, as CSV. changed: when it was last written."""
    suffix, package = path.suffix.lower(), PACKAGES[path.suffix.lower()]
    try:
        frame = _read(path, suffix)
    except ImportError:
        advice = f"expected a CSV, or: pip install {package}"
        raise UserError(f"{path}: {package} reads such a table and is not here; {advice}") from None
    except Exception as error:  # whatever these packages raise for a damaged file
        why = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({why:.200}); expected a table") from None
    return _as_csv(frame.to_csv(index=False, header=suffix != ".xlsx"))


def _read(path, suffix) -> pd.DataFrame:
    """The cells of a table that is no text; of a sheet with its header as a row."""
    if suffix == ".xlsx":
        options = dict(header=None, dtype=str, keep_default_na=False, engine="openpyxl")
        frame = pd.read_excel(path, **options)
        plain = frame[:LONGEST_LEGEND].apply(lambda cells: cells.str.strip().str.casefold())
        headers = plain.isin(IMAGES).any(axis=1)
        return frame[headers.idxmax() :] if headers.any() else frame  # PH2's legend stands above
    if suffix == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False)
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    inside = pictures_in(file)
    wanted = [f"{name}.path" if name in inside else name for name in file.schema_arrow.names]
    frame = file.read(columns=wanted).to_pandas()
    for name in inside:  # {"path": ...}, often None
        names = [cell and cell["path"] for cell in frame[name]]
        frame[name] = [given or f"{path.stem}_{k}" for k, given in enumerate(names)]
    return frame


def pictures_in(file) -> list[str]:
    """The columns of a ParquetFile that hold pictures, as Hugging Face stores them."""
    fields = {field.name: str(field.type) for field in file.schema_arrow}
    return [name for name, kind in fields.items() if "bytes: binary" in kind and "path:" in kind]


def _as_csv(text) -> str:
    """The text with plain ends of lines, from the header on: without Excel's `sep=;` and a title.

    PH2's table, `|| a || b ||`, becomes a CSV without its legend.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.startswith("||"):
        rows = [line.strip().strip("|") for line in text.split("\n") if line.startswith("||")]
        return "\n".join("\t".join(map(str.strip, row.split("||"))) for row in rows)
    text = re.sub(r"^sep=.\n", "", text)
    title = rf"(?:[ ,;\t]*[^,;\t\n]*[ ,;\t]*\n){{1,{LONGEST_TITLE}}}"
    above = re.match(title + r"(?=[^\n]*\w[^\n]*[,;\t] *[\w\"])", text)
    return text[above.end() :] if above else text


def _separator(line) -> str:
    return max(",;\t", key=line.count)


def read_csv(path, columns) -> pd.DataFrame:
    """These columns of a user's CSV as text, however a spreadsheet saved it; blanks are NaN.

    A BOM, CRLF, semicolons or tabs between the cells, and a header in another case are understood.
    UserError if the file is no CSV in UTF-8 or Windows-1252, or a column is missing or there twice.
    """
    frame = _parse(path, f"expected a CSV with the columns {', '.join(columns)}")
    present = list(frame.columns.str.strip().str.casefold())
    wanted = {name: name.casefold() for name in columns}
    if missing := [name for name, plain in wanted.items() if plain not in present]:
        has = " ".join(", ".join(frame).split())[:200]
        raise UserError(f"{path}: no column {', '.join(missing)}; expected it beside {has}")
    # pandas calls a second `age` age.1
    twice = [n for n, p in wanted.items() if present.count(p) > 1 or f"{p}.1" in present]
    if twice:
        advice = "expected it once: remove the wrong one"
        raise UserError(f"{path}: column {', '.join(twice)} stands there twice; {advice}")
    frame = frame.iloc[:, [present.index(plain) for plain in wanted.values()]]
    frame = frame.set_axis(columns, axis=1).apply(lambda column: column.str.strip())
    return frame.where(frame != "")  # "HAM_1 " is HAM_1


def _parse(path, expected) -> pd.DataFrame:
    text = _text(path, expected=expected)[0]
    separator = _separator(text.split("\n", 1)[0])
    options = dict(sep=separator, dtype=str, skipinitialspace=True, index_col=False)
    try:
        with warnings.catch_warnings():
            # pandas cuts a row that is longer than the header: its label would be another
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(io.StringIO(text), **options)
    except pd.errors.ParserWarning:
        why = "a row has more cells than the header"
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as reason:
        why = " ".join(str(reason).split())
    raise UserError(f"{path}: cannot be read as a CSV ({why}); {expected}")


def numbers(column) -> pd.Series:
    """A text column as numbers, NaN for what is none; a decimal comma is a decimal point."""
    text = column.astype(str).str.replace(",", ".")
    return pd.to_numeric(text, errors="coerce").astype(float)


# Which column is which


def column_of(names, ours: str, known=()) -> str | None:
    """Which of a table's column `names` (lower case) is our column `ours`; None if none is.

    known: what the table calls it, if not by one of COLUMN_NAMES.
    """
    return next((name for name in known or COLUMN_NAMES[ours] if name in names), None)


def class_columns(names, known=CLASS_COLUMNS) -> list[str]:
    """The columns (lower case) that give an image's class: one-hot over all seven, or words."""
    one_hot = list(dict.fromkeys(name for name in names if name in ONE_HOT))
    if set(CLASSES) <= {ONE_HOT[name] for name in one_hot}:
        return one_hot
    return [name for name in known if name in names]


def image_ids(column) -> pd.Series:
    """Image ids as the files' names have them: without folder and suffix, accents composed."""
    suffixes = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
    ids = column.fillna("").str.replace(rf"^.*[/\\]|(?:{suffixes})$", "", case=False, regex=True)
    return ids.str.normalize("NFC")


# Labels and metadata


def read_labels(path, image=(), classes=CLASS_COLUMNS, words=(), rest="", mark="") -> pd.DataFrame:
    """(image, label, reason) of each row of a label table, one-hot or with columns of words.

    image, classes, words, rest, mark: as in `layouts.Layout`.
    label: one of the seven, or "" with the reason. UserError if the file is no such table.
    """
    names = header(path)
    ids, columns = column_of(names, "image", image) or "image", class_columns(names, classes)
    frame = read_csv(path, [ids, *(columns or CLASSES)]).rename(columns={ids: "image"})
    frame["image"] = image_ids(frame["image"])
    cells = frame[columns]
    if mark:
        cells = cells.eq(mark).astype(int).astype(str)
    one_hot = rest or mark or columns[0] in ONE_HOT
    frame["label"], faults = _of_one_hot(cells, rest) if one_hot else _of_words(cells, dict(words))
    tests, texts = zip(
        (frame["image"] == "", "label row without an image id"), *faults, strict=True
    )
    frame["reason"] = np.select(tests, texts, _repeats(frame))
    frame["label"] = frame["label"].where(frame["reason"] == "", "")
    return frame[["image", "label", "reason"]]


def joined(parts) -> pd.DataFrame:
    """The rows of several label tables as one; an id that two of them label is there once."""
    frame = pd.concat(parts, ignore_index=True)
    good = frame["reason"] == ""
    frame.loc[good, "reason"] = _repeats(frame[good])
    return frame.assign(label=frame["label"].where(frame["reason"] == "", ""))


def _repeats(rows) -> np.ndarray:
    """The reason for each row with an id that an earlier row, or one with another label, has."""
    labels = rows.groupby("image")["label"].transform("nunique")
    return np.select([labels > 1, rows["image"].duplicated()], [CONTRADICTS, TWICE], "")


def _of_one_hot(frame, rest):
    """The label of each row of one-hot columns, and [(rows, reason)] of the rows without one."""
    switches = {"true": "1", "false": "0"}
    values = frame.apply(lambda column: numbers(column.str.casefold().replace(switches)))
    hot = (values == 1).to_numpy()
    names = np.array([class_of(name) for name in frame])
    label = np.where(hot.any(axis=1), names[hot.argmax(axis=1)], rest)
    others = np.array([unknown_class(name.upper()) for name in frame], dtype=object)
    faults = [
        (~values.isin([0, 1]).all(axis=1), "a label that is neither 0 nor 1"),
        ((hot.sum(axis=1) == 0) & (not rest), "no label"),
        (hot.sum(axis=1) > 1, "several labels"),
        (label == "", others[hot.argmax(axis=1)]),
    ]
    return label, faults


def _of_words(frame, known):
    """The same for columns of words; the first one that names one of the seven counts."""
    label, word = pd.Series("", frame.index), pd.Series("", frame.index)
    for column in frame:
        words = frame[column].fillna("")
        word = word.where(word != "", words)
        label = label.where(label != "", words.map(lambda word: known.get(word) or class_of(word)))
    unknown = word.where(label == "", "").map(unknown_class)
    return label, [(word == "", "no label"), (label == "", unknown)]


def read_metadata(path, required=(), image=()) -> tuple[pd.DataFrame, str]:
    """(image, and those of METADATA that the table has), one row an image, and a note or "".

    required: the only ones to take; UserError where one is missing, or the image id.
    """
    names = header(path)
    columns = {name: column_of(names, name) or name for name in required}
    columns = columns or {name: column_of(names, name) for name in METADATA}
    columns = {"image": column_of(names, "image", image) or "image_id"} | columns
    columns = {name: column for name, column in columns.items() if column}
    frame = read_csv(path, list(columns.values())).set_axis(list(columns), axis=1)
    frame = frame.assign(image=image_ids(frame["image"]))
    frame = frame[frame["image"] != ""]
    note = ""
    if "lesion_id" in frame:
        lesions = frame.groupby("image")["lesion_id"].nunique()
        if count := (lesions > 1).sum():
            what = f"gives {counted(count, 'image')} several lesions ({lesions.idxmax()})"
            note = f"{path} {what}; the first row counts"
    return frame.drop_duplicates("image"), note
