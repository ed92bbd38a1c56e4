"""Tables of labels and metadata, however their columns and classes are named: read as one form."""

import csv
import functools
import io
import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from dermai_utils.basics import CLASSES, IMAGE_SUFFIXES, UserError

METADATA = ("lesion_id", "patient_id", "age", "sex", "localization", "confirmed_by", "given")
SITES = ("anatom_site_general", "anatom_site_general_challenge", "location", "region", "site")
IMAGES = ("isic_id", "image_id", "image", "image_name", "image name", "file", "filename")
IMAGES += (
    "file_name",
    "image_path",
    "file_path",
    "filepath",
    "path",
    "img_id",
    "md5hash",
    "ddi_file",
)
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
CLASS_WORDS = {  # English, and the archives' own codes; case, blanks, signs and accents don't count
    "MEL": "mel, melanoma, melanomas, malignant melanoma, melanoma NOS, melanoma in situ, "
    "melanoma invasive, melanoma metastasis, nodular melanoma, superficial spreading melanoma, "
    "lentigo maligna, lentigo maligna melanoma, acral lentiginous melanoma, "
    "melanoma acral lentiginous, nodular melanoma (nm), superficial spreading melanoma ssm, "
    "melanoma (in situ), melanoma (less than 0.76 mm), melanoma (0.76 to 1.5 mm), "
    "melanoma (more than 1.5 mm)",
    "NV": "nv, nevus, naevus, nevi, common nevus, naevi, melanocytic nevus, melanocytic naevus, "
    "melanocytic nevi, melanocytic naevi, dysplastic nevus, atypical nevus, blue nevus, "
    "spitz nevus, congenital nevus, nevus NOS, nev, clark nevus, combined nevus, dermal nevus, "
    "recurrent nevus, reed or spitz nevus, nevocytic nevus, halo nevus, "
    "atypical spindle cell nevus of reed, pigmented spindle cell nevus of reed",
    "BCC": "bcc, basal cell carcinoma, basal cell carcinomas, basal cell carcinoma NOS, "
    "basal cell carcinoma nodular, basal cell carcinoma superficial, "
    "basal cell carcinoma morpheiform, solid cystic basal cell carcinoma",
    "AKIEC": "akiec, ak, scc, bowen, bowens, bowen disease, bowens disease, actinic keratosis, "
    "actinic keratoses, solar keratosis, solar or actinic keratosis, intraepithelial carcinoma, "
    "actinic keratosis / Bowen's disease, actinic keratoses and intraepithelial carcinoma, "
    "actinic keratoses and intraepithelial carcinoma / Bowen's disease, "
    "actinic keratoses and intraepithelial carcinomas, squamous cell carcinoma, "
    "squamous cell carcinoma NOS, squamous cell carcinoma in situ, "
    "squamous cell carcinoma invasive, squamous cell carcinoma keratoacanthoma, ack, bod, sccka",
    "BKL": "bkl, sk, sek, seborrheic keratosis irritated, seborrheic keratosis, "
    "seborrhoeic keratosis, seborrheic keratoses, lplk, "
    "benign keratosis, benign keratoses, benign keratosis-like lesion, "
    "benign keratosis-like lesions, pigmented benign keratosis, lichenoid keratosis, "
    "lichen planus-like keratosis, benign lichenoid keratosis, solar lentigo, lentigo solaris",
    "DF": "df, dermatofibroma, dermatofibromas, fibrous papule or dermatofibroma",
    "VASC": "vasc, vascular, vascular lesion, vascular lesions, angioma, angiomas, "
    "cherry angioma, hemangioma, haemangioma, angiokeratoma, pyogenic granuloma, "
    "hemorrhage, haemorrhage, subcorneal hemorrhage",
}

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
LONGEST_TITLE, LONGEST_LEGEND = 9, 30  # lines above a header, rows above one in a sheet
PACKAGES = {".xlsx": "openpyxl", ".parquet": "pyarrow", ".jsonl": "pandas"}  # no text: read by
CONTRADICTS = "duplicate id with different labels"
TWICE = "duplicate id (the first row is kept)"


def _plain(word) -> str:
    letters = unicodedata.normalize("NFKD", str(word).casefold())  # accents become signs
    return re.sub(r"[^\w]|_", "", letters)


_CLASS_OF = {_plain(w): name for name, words in CLASS_WORDS.items() for w in words.split(", ")}
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
    """The reason for a label that is none of the seven classes."""
    return f"class {' '.join(str(word).split()):.60}: none of the seven"


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


# Any CSV


def header(path) -> list[str]:
    """The column names of a user's table in lower case; [] if it cannot be read."""
    try:
        text = _text(path, 2**20)[0]
    except (UnicodeDecodeError, UserError):
        return []
    line = text.split("\n", 1)[0]
    cells = next(csv.reader([line], delimiter=_separator(line), skipinitialspace=True), [])
    return [cell.strip().casefold() for cell in cells]


def encoding_note(path) -> str:
    """A line about a table in Windows-1252; "" for others."""
    if _text(path)[1] != "cp1252":
        return ""
    return f"{Path(path).name} is not in UTF-8: read as Windows-1252, as Excel saves a CSV"


def _text(path, size=-1) -> tuple[str, str]:
    """A table as CSV, and its encoding. size: bytes at its beginning, for a file of text.

    UnicodeDecodeError if it is none; UserError if a package is missing that reads it.
    """
    path = Path(path)
    if path.suffix.lower() in PACKAGES:
        return _converted(path, path.stat().st_mtime_ns), ""
    with open(path, "rb") as file:
        data = file.read(size)
    if len(data) == size and not data.startswith(UTF_16):  # no half letters at the end
        data = data[: 1 + data.rfind(b"\n")] or data
    text, encoding = _decoded(data)
    return _as_csv(text.removeprefix("\ufeff")), encoding


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
        headers = plain.isin(COLUMN_NAMES["image"]).any(axis=1)
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


def why_unreadable(path) -> str:
    """Why no column of a table is known: in words, for a message."""
    try:
        _text(path, 2**20)
    except UnicodeDecodeError:
        return "not a text file"
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    return ", ".join(header(path))


def _decoded(data: bytes) -> tuple[str, str]:
    """A table's text and its encoding: UTF-8, UTF-16 as Excel's "Unicode text", or Windows-1252;
    UnicodeDecodeError for another."""
    if data.startswith(UTF_16):
        return data.decode("utf-16"), "utf-16"
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        if b"\0" in data:  # no text at all
            raise
        return data.decode("cp1252"), "cp1252"


def _as_csv(text) -> str:
    """The text with plain ends of lines, from the header on: without Excel's `sep=;` and a title.

    PH2's table, `|| a || b ||`, becomes a CSV without its legend.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.startswith("||"):
        rows = [line.strip().strip("|") for line in text.split("\n") if line.startswith("||")]
        return "\n".join("\t".join(map(str.strip, row.split("||"))) for row in rows)
    text = re.sub(r"^sep=.\n", "", text)
    above = re.match(
        rf"(?:[ ,;\t]*[^,;\t\n]*[ ,;\t]*\n){{1,{LONGEST_TITLE}}}(?=[^\n]*\w[^\n]*[,;\t] *[\w\"])",
        text,
    )
    return text[above.end() :] if above else text


def _separator(line) -> str:
    return max(",;\t", key=line.count)


def read_csv(path, columns) -> pd.DataFrame:
    """These columns of a user's CSV as text, however a spreadsheet saved it; blanks are NaN.

    A BOM, CRLF, semicolons or tabs between the cells, and a header in another case are understood.
    UserError if the file is no CSV in UTF-8 or Windows-1252, or a column is missing or there twice.
    """
    frame = _parse(path, f"expected a CSV with the columns {', '.join(columns)}")
    frame.columns = frame.columns.str.strip()
    present = [name.casefold() for name in frame.columns]
    if missing := [name for name in columns if name.casefold() not in present]:
        has = " ".join(", ".join(frame.columns).split())[:200]
        raise UserError(f"{path}: no column {', '.join(missing)}; expected it beside {has}")
    # pandas calls a second `age` age.1
    names = [(name, name.casefold()) for name in columns]
    twice = [n for n, plain in names if present.count(plain) > 1 or f"{plain}.1" in present]
    if twice:
        advice = "expected it once: remove the wrong one"
        raise UserError(f"{path}: column {', '.join(twice)} stands there twice; {advice}")
    frame = frame.iloc[:, [present.index(name.casefold()) for name in columns]]
    frame = frame.set_axis(columns, axis=1).apply(lambda column: column.str.strip())
    return frame.where(frame != "")  # "HAM_1 " is HAM_1


def _parse(path, expected) -> pd.DataFrame:
    try:
        text = _text(path)[0]
        separator = _separator(text.split("\n", 1)[0])
        options = dict(sep=separator, dtype=str, skipinitialspace=True, index_col=False)
        with warnings.catch_warnings():
            # pandas cuts a row that is longer than the header: its label would be another
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(io.StringIO(text), **options)
    except UnicodeDecodeError:
        advice = f"{expected}; in a spreadsheet, save it as CSV UTF-8"
        raise UserError(f"{path}: not a text file in UTF-8; {advice}") from None
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
    one_hot = bool(rest or mark) or columns[:1] and columns[0] in ONE_HOT
    frame = read_csv(path, [ids, *(columns or CLASSES)]).rename(columns={ids: "image"})
    frame["image"] = image_ids(frame["image"])
    cells = frame[columns]
    cells = cells.eq(mark).astype(int).astype(str) if mark else cells
    label, faults = _of_one_hot(cells, rest) if one_hot else _of_words(cells, dict(words))
    frame["label"] = label
    repeated = frame["image"].duplicated(keep=False)
    contradicts = repeated & (frame.groupby("image")["label"].transform("nunique") > 1)
    reasons = [
        (frame["image"] == "", "label row without an image id"),
        *faults,
        (contradicts, CONTRADICTS),
        (frame["image"].duplicated(), TWICE),
    ]
    tests, texts = zip(*reasons, strict=True)
    frame["reason"] = np.select(tests, texts, "")
    frame["label"] = frame["label"].where(frame["reason"] == "", "")
    return frame[["image", "label", "reason"]]


def joined(parts) -> pd.DataFrame:
    """The rows of several label tables as one; an id that two of them label is there once."""
    frame = pd.concat(parts, ignore_index=True)
    good = frame[frame["reason"] == ""]
    labels = good.groupby("image")["label"].transform("nunique")
    reasons = frame["reason"].copy()
    reasons[good.index[good["image"].duplicated()]] = TWICE
    reasons[good.index[labels > 1]] = CONTRADICTS
    return frame.assign(reason=reasons, label=frame["label"].where(reasons == "", ""))


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
    return label, [(word == "", "no label"), (label == "", word.map(unknown_class))]


def read_metadata(path, only=METADATA, required=(), image=()) -> tuple[pd.DataFrame, str]:
    """(image, and those of METADATA that the table has), one row an image, and a note or "".

    only: the columns to take. UserError without an image id, or without one of `required`.
    """
    names = header(path)
    columns = {name: column_of(names, name) for name in only}
    columns |= {name: columns[name] or name for name in required}
    columns = {"image": column_of(names, "image", image) or "image_id"} | columns
    columns = {name: column for name, column in columns.items() if column}
    frame = read_csv(path, list(columns.values())).set_axis(list(columns), axis=1)
    frame = frame.assign(image=image_ids(frame["image"]))
    frame = frame[frame["image"] != ""]
    note = ""
    if "lesion_id" in frame:
        lesions = frame.groupby("image")["lesion_id"].nunique()
        if count := (lesions > 1).sum():
            what = f"gives {count} images several lesions ({lesions.idxmax()})"
            note = f"{path} {what}; the first row counts"
    return frame.drop_duplicates("image"), note
