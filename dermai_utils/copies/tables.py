"""Tables of labels and metadata, however their columns and classes are named: read as one form."""

import csv
import difflib
import functools
import io
import re
import unicodedata
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
LONGEST_TITLE = 30  # lines above a header
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


def columns_or_fault(path) -> str:
    """The columns of a table, or why it cannot be read: for a message."""
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
        return pd.read_excel(path, **options)
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
    """The text with plain ends of lines, from the first line on that names a column of ids: without
    Excel's `sep=;`, a title, or the legend above PH2's sheet.

    PH2's table, `|| a || b ||`, becomes a CSV without its legend.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.startswith("||"):
        rows = [line.split("||") for line in text.split("\n") if line.startswith("||")]
        return "\n".join("\t".join(map(str.strip, cells)) for cells in rows)
    lines = text.split("\n", LONGEST_TITLE)
    rows = (re.split(r"[\s\"]*[,;\t][\s\"]*", line.casefold().strip(' "')) for line in lines[:-1])
    first = next((k for k, cells in enumerate(rows) if {*cells} & {*IMAGES}), 0)
    return "\n".join(lines[first:])


def _separator(line) -> str:
    return max(",;\t", key=line.count)


def read_csv(path, columns) -> pd.DataFrame:
    """These columns of a user's CSV as text, however a spreadsheet saved it; blanks are NaN.

    A BOM, CRLF, semicolons or tabs between the cells, and a header in another case are understood.
    UserError if the file is no CSV in UTF-8 or Windows-1252, or a column is missing or there twice.
    """
    expected = f"expected a CSV with the columns {', '.join(columns)}"
    text = _text(path, expected=expected)[0]
    options = dict(sep=_separator(text.split("\n", 1)[0]), dtype=str, skipinitialspace=True)
    try:  # no header: pandas would rename a second column of one name, and cut rows that are longer
        frame = pd.read_csv(io.StringIO(text), header=None, **options)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as reason:
        why = " ".join(str(reason).rpartition("C error: ")[2].split())
        raise UserError(f"{path}: cannot be read as a CSV ({why}); {expected}") from None
    frame = frame.apply(lambda column: column.str.strip())  # "HAM_1 " is HAM_1
    has = frame.iloc[0].fillna("")
    present, wanted = has.str.casefold().tolist(), {name: name.casefold() for name in columns}
    if missing := [name for name, plain in wanted.items() if plain not in present]:
        has = " ".join(", ".join(has).split())[:200]
        raise UserError(f"{path}: no column {', '.join(missing)}; expected it beside {has}")
    if twice := [name for name, plain in wanted.items() if present.count(plain) > 1]:
        advice = "expected it once: remove the wrong one"
        raise UserError(f"{path}: column {', '.join(twice)} stands there twice; {advice}")
    frame = frame.iloc[1:, [present.index(plain) for plain in wanted.values()]]
    return frame.where(frame != "").set_axis(columns, axis=1).reset_index(drop=True)


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
    frame = read_csv(path, [ids, *(columns or CLASSES)])
    images, cells = image_ids(frame[ids]), frame[columns]
    if mark:
        cells = cells.eq(mark).astype(int).astype(str)
    one_hot = rest or mark or columns[0] in ONE_HOT
    label, reason = _of_one_hot(cells, rest) if one_hot else _of_words(cells, dict(words))
    reason = np.where(images == "", "label row without an image id", reason)
    label = np.where(reason == "", label, "")
    return pd.DataFrame({"image": images, "label": label, "reason": reason})


def _of_one_hot(cells, rest):
    """(label, reason) of each row of one-hot columns."""
    switches = {"true": "1", "false": "0"}
    values = cells.apply(lambda column: numbers(column.str.casefold().replace(switches)))
    hot = (values == 1).to_numpy()
    names = np.array([class_of(name) for name in cells])
    others = np.array([unknown_class(name.upper()) for name in cells], dtype=object)
    first, count = hot.argmax(axis=1), hot.sum(axis=1)
    label = np.where(count > 0, names[first], rest)
    odd = ~values.isin([0, 1]).all(axis=1)
    faults = [odd, (count == 0) & (not rest), count > 1, label == ""]
    texts = ["a label that is neither 0 nor 1", "no label", "several labels", others[first]]
    return label, np.select(faults, texts, "")


def _of_words(cells, known):
    """The same for columns of words; the first one that names one of the seven counts."""
    label, word = pd.Series("", cells.index), pd.Series("", cells.index)
    for column in cells:
        words = cells[column].fillna("")
        word = word.where(word != "", words)
        label = label.where(label != "", words.map(lambda word: known.get(word) or class_of(word)))
    unknown = word.where(label == "", "").map(unknown_class)
    return label, np.select([word == "", label == ""], ["no label", unknown], "")


def joined(parts) -> pd.DataFrame:
    """The rows of label tables as one. An id that two good rows have is there once, or not at all
    where their labels differ."""
    frame = pd.concat(parts, ignore_index=True)
    good = frame[frame["reason"] == ""]
    labels = good.groupby("image")["label"].transform("nunique")
    faults = [labels > 1, good["image"].duplicated()]
    frame.loc[good.index, "reason"] = np.select(faults, [CONTRADICTS, TWICE], "")
    return frame.assign(label=frame["label"].where(frame["reason"] == "", ""))


def read_metadata(path, image=(), only=METADATA) -> tuple[pd.DataFrame, str]:
    """(image, and those columns of METADATA that the table has), one row an image, and a note or
    "". No rows where the table has no ids or none of these columns.

    image: as in `layouts.Layout`. only: of METADATA, the columns to look for.
    """
    names, note = header(path), ""
    columns = {"image": column_of(names, "image", image)}
    columns |= {name: found for name in only if (found := column_of(names, name))}
    if not columns["image"] or len(columns) == 1:
        return pd.DataFrame(columns=["image"]), note
    frame = read_csv(path, list(columns.values())).set_axis(list(columns), axis=1)
    frame["image"] = image_ids(frame["image"])
    frame = frame[frame["image"] != ""]
    if "lesion_id" in frame:
        lesions = frame.groupby("image")["lesion_id"].nunique()
        if count := (lesions > 1).sum():
            what = f"gives {counted(count, 'image')} several lesions ({lesions.idxmax()})"
            note = f"{path} {what}; the first row counts"
    return frame.drop_duplicates("image"), note
