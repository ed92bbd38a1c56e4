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

from dermai_utils.config import CLASSES, IMAGE_SUFFIXES, UserError

METADATA = ["lesion_id", "patient_id", "age", "sex", "localization", "confirmed_by"]
ID_WORDS = ("file", "filename", "file_name", "datei", "dateiname", "archivo")
COLUMN_NAMES = {  # of each of our columns, what tables call it; the first that is there counts
    "image": ("isic_id", "image_id", "image", "image_name", *ID_WORDS),
    "lesion_id": ("lesion_id",),
    "patient_id": ("patient_id",),
    "age": ("age", "age_approx"),
    "sex": ("sex",),
    "localization": ("localization", "anatom_site_general", "anatom_site_general_challenge"),
    "confirmed_by": ("dx_type", "diagnosis_confirm_type"),
}
CLASS_COLUMNS = ("dx", "diagnosis", *(f"diagnosis_{k}" for k in (5, 4, 3, 2, 1)), "label", "class")
CLASS_COLUMNS += ("diagnose", "diagnostico", "diagnóstico", "klasse", "clase")
CLASS_WORDS = {  # case, spaces and signs don't count
    "MEL": "mel, melanoma, melanomas, malignant melanoma, melanoma NOS, melanoma in situ, "
    "melanoma invasive, melanoma metastasis, nodular melanoma, superficial spreading melanoma, "
    "lentigo maligna, lentigo maligna melanoma, acral lentiginous melanoma",
    "NV": "nv, nevus, naevus, nevi, naevi, melanocytic nevus, melanocytic naevus, "
    "melanocytic nevi, melanocytic naevi, dysplastic nevus, atypical nevus, blue nevus, "
    "spitz nevus, congenital nevus, nevus NOS",
    "BCC": "bcc, basal cell carcinoma, basal cell carcinomas, basal cell carcinoma NOS",
    "AKIEC": "akiec, ak, scc, bowen, bowens, bowen disease, bowens disease, actinic keratosis, "
    "actinic keratoses, solar keratosis, solar or actinic keratosis, intraepithelial carcinoma, "
    "actinic keratosis / Bowen's disease, actinic keratoses and intraepithelial carcinoma, "
    "actinic keratoses and intraepithelial carcinoma / Bowen's disease, "
    "actinic keratoses and intraepithelial carcinomas, squamous cell carcinoma, "
    "squamous cell carcinoma NOS, squamous cell carcinoma in situ, "
    "squamous cell carcinoma invasive",
    "BKL": "bkl, sk, seborrheic keratosis, seborrhoeic keratosis, seborrheic keratoses, lplk, "
    "benign keratosis, benign keratoses, benign keratosis-like lesion, "
    "benign keratosis-like lesions, pigmented benign keratosis, lichenoid keratosis, "
    "lichen planus-like keratosis, benign lichenoid keratosis, solar lentigo, lentigo solaris",
    "DF": "df, dermatofibroma, dermatofibromas, fibrous papule or dermatofibroma",
    "VASC": "vasc, vascular, vascular lesion, vascular lesions, angioma, angiomas, "
    "cherry angioma, hemangioma, haemangioma, angiokeratoma, pyogenic granuloma, "
    "hemorrhage, haemorrhage, subcorneal hemorrhage",
}
FOREIGN_WORDS = {  # German, Spanish, French, Portuguese, Italian; accents don't count either
    "MEL": "Melanom, malignes Melanom, Melanome, melanoma maligno, mélanome, "
    "mélanome malin, Lentigo-maligna-Melanom, schwarzer Hautkrebs",
    "NV": "Nävus, Naevi, Nävi, Nävuszellnävus, Naevuszellnaevus, melanozytärer Nävus, "
    "melanozytaerer Naevus, Muttermal, nevo, nevos, nevo melanocítico, "
    "nevus melanocítico, lunar, lunares, naevus mélanocytaire, grain de beauté, neo melanocitico",
    "BCC": "Basaliom, Basalzellkarzinom, Basalzellcarcinom, basozelluläres Karzinom, BZK, "
    "carcinoma basocelular, carcinoma de células basales, basalioma, carcinome basocellulaire, "
    "carcinoma basocellulare",
    "AKIEC": "aktinische Keratose, aktinische Keratosen, solare Keratose, Morbus Bowen, "
    "Plattenepithelkarzinom, Spinaliom, queratosis actínica, queratosis actínicas, "
    "queratosis solar, enfermedad de Bowen, carcinoma espinocelular, carcinoma epidermoide, "
    "carcinoma escamoso, kératose actinique, kératoses actiniques, maladie de Bowen, "
    "carcinome épidermoïde, queratose actínica, ceratose actínica, doença de Bowen, "
    "cheratosi attinica, malattia di Bowen, carcinoma spinocellulare",
    "BKL": "seborrhoische Keratose, seborrhoische Keratosen, seborrhoeische Keratose, "
    "Alterswarze, benigne Keratose, gutartige Keratose, queratosis seborreica, "
    "queratosis seborreicas, queratosis benigna, lentigo solar, kératose séborrhéique, "
    "kératose bénigne, lentigo solaire, queratose seborreica, queratose benigna, "
    "ceratose seborreica, cheratosi seborroica, cheratosi benigna, lentigo solare",
    "DF": "Dermatofibrom, Dermatofibrome, dermatofibrome, histiocitofibroma",
    "VASC": "Gefäßläsion, Gefäßläsionen, Gefaesslaesion, vaskuläre Läsion, vaskulaere Laesion, "
    "Angiom, Angiome, Hämangiom, Haemangiom, Angiokeratom, lesión vascular, lesiones vasculares, "
    "angioqueratoma, lésion vasculaire, angiome, hémangiome, lesão vascular, "
    "lesões vasculares, lesione vascolare, lesioni vascolari, emangioma",
}


def _plain(word) -> str:
    letters = unicodedata.normalize("NFKD", str(word).casefold())  # accents become signs
    return re.sub(r"[^\w]|_", "", letters)


_CLASS_OF = {
    _plain(word): name
    for known in (CLASS_WORDS, FOREIGN_WORDS)
    for name, words in known.items()
    for word in words.split(", ")
}
ONE_HOT = {name: _CLASS_OF.get(name) for name in (*map(str.lower, CLASSES), "ak", "scc", "unk")}


@functools.cache
def class_of(word) -> str:
    """The class, of the seven, that a word stands for; "" for any other."""
    return _CLASS_OF.get(_plain(word), "")


@functools.cache
def unknown_class(word) -> str:
    """The reason for a label that is none of the seven classes."""
    return f"class {' '.join(str(word).split()):.60}: none of the seven"


# Tables


def header(path) -> list[str]:
    """The column names of a user's table in lower case; [] where it is no text."""
    with open(path, "rb") as file:
        line = re.split(rb"[\r\n]", file.read(2**20), maxsplit=1)[0]
    try:
        line = _decoded(line)[0].removeprefix("\ufeff")
    except UnicodeDecodeError:
        return []
    cells = next(csv.reader([line], delimiter=_separator(line), skipinitialspace=True), [])
    return [cell.strip().casefold() for cell in cells]


def encoding_note(path) -> str:
    """A line about a table that is no UTF-8; "" where it is."""
    if _decoded(Path(path).read_bytes())[1] == "utf-8":
        return ""
    return f"{Path(path).name} is not in UTF-8: read as Windows-1252, as Excel saves a CSV"


def _decoded(data: bytes) -> tuple[str, str]:
    """A table's text and its encoding, UTF-8 or Windows-1252; UnicodeDecodeError for another."""
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        if b"\0" in data:  # UTF-16, or no text at all
            raise
        return data.decode("cp1252"), "cp1252"


def _separator(line) -> str:
    return max(",;\t", key=line.count)


def read_csv(path, columns) -> pd.DataFrame:
    """These columns of a user's CSV as text, however a spreadsheet saved it; blanks are NaN.

    A BOM, CRLF, semicolons or tabs between the cells, and a header in another case are understood.
    UserError where the file is no CSV in UTF-8 or Windows-1252, or a column is missing or there
    twice.
    """
    frame = _parse(path, f"expected a CSV with the columns {', '.join(columns)}")
    frame.columns = frame.columns.str.strip()
    present = [name.casefold() for name in frame.columns]
    missing = [name for name in columns if name.casefold() not in present]
    if missing:
        has = " ".join(", ".join(frame.columns).split())[:200]
        advice = f"it has {has}. Restore the official header"
        raise UserError(f"{path}: no column {', '.join(missing)}; {advice}")
    # pandas calls a second `age` age.1
    twice = [
        n for n in columns if present.count(n.casefold()) > 1 or f"{n}.1".casefold() in present
    ]
    if twice:
        raise UserError(
            f"{path}: column {', '.join(twice)} stands there twice; remove the wrong one"
        )
    frame = frame.iloc[:, [present.index(name.casefold()) for name in columns]]
    frame = frame.set_axis(columns, axis=1).apply(lambda column: column.str.strip())
    return frame.where(frame != "")  # "HAM_1 " is HAM_1


def _parse(path, expected) -> pd.DataFrame:
    try:
        text = _decoded(Path(path).read_bytes())[0]  # pandas takes off a BOM
        text = text.replace("\r\n", "\n").replace("\r", "\n")
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


def column_of(names, ours: str) -> str | None:
    """Which of a table's column `names` (lower case) is our column `ours`; None where none is."""
    return next((name for name in COLUMN_NAMES[ours] if name in names), None)


def class_columns(names) -> list[str]:
    """The columns (lower case) that give an image's class: one-hot over all seven, or words."""
    one_hot = list(dict.fromkeys(name for name in names if name in ONE_HOT))
    if set(CLASSES) <= {ONE_HOT[name] for name in one_hot}:
        return one_hot
    return [name for name in CLASS_COLUMNS if name in names]


def image_ids(column) -> pd.Series:
    """Image ids as the files' names have them: without folder and suffix, accents composed."""
    suffixes = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
    ids = column.fillna("").str.replace(rf"^.*[/\\]|(?:{suffixes})$", "", case=False, regex=True)
    return ids.str.normalize("NFC")


def read_labels(path) -> pd.DataFrame:
    """(image, label, reason) of each row of a label table, one-hot or with a column of words.

    label: one of the seven, or "" with the reason. UserError where the file is no such table.
    """
    names = header(path)
    image, columns = column_of(names, "image") or "image", class_columns(names)
    words = not columns or columns[0] not in ONE_HOT
    frame = read_csv(path, [image, *(columns or CLASSES)]).rename(columns={image: "image"})
    frame["image"] = image_ids(frame["image"])
    label, faults = (_of_words if words else _of_one_hot)(frame[columns])
    frame["label"] = label
    repeated = frame["image"].duplicated(keep=False)
    contradicts = repeated & (frame.groupby("image")["label"].transform("nunique") > 1)
    reasons = [
        (frame["image"] == "", "label row without an image id"),
        *faults,
        (contradicts, "duplicate id with different labels"),
        (frame["image"].duplicated(), "duplicate id (the first row is kept)"),
    ]
    tests, texts = zip(*reasons, strict=True)
    frame["reason"] = np.select(tests, texts, "")
    frame["label"] = frame["label"].where(frame["reason"] == "", "")
    return frame[["image", "label", "reason"]]


def _of_one_hot(frame):
    """The label of each row of one-hot columns, and [(rows, reason)] of the rows without one."""
    switches = {"true": "1", "false": "0"}
    values = frame.apply(lambda column: numbers(column.str.casefold().replace(switches)))
    hot = (values == 1).to_numpy()
    names = np.array([ONE_HOT[name] or "" for name in frame])
    label = np.where(hot.any(axis=1), names[hot.argmax(axis=1)], "")
    faults = [
        (~values.isin([0, 1]).all(axis=1), "a label that is neither 0 nor 1"),
        (hot.sum(axis=1) == 0, "no label"),
        (hot.sum(axis=1) > 1, "several labels"),
        (label == "", unknown_class("UNK")),
    ]
    return label, faults


def _of_words(frame):
    """The same of columns of words, of which the first that is one of the seven counts."""
    label, word = pd.Series("", frame.index), pd.Series("", frame.index)
    for column in frame:
        words = frame[column].fillna("")
        word = word.where(word != "", words)
        label = label.where(label != "", words.map(class_of))
    return label, [(word == "", "no label"), (label == "", word.map(unknown_class))]


def read_metadata(path, only=tuple(METADATA), required=()) -> tuple[pd.DataFrame, str]:
    """(image, and those of METADATA that the table has), one row an image, and a notice or "".

    only: the columns to take. UserError without an image id, or without one of `required`.
    """
    names = header(path)
    columns = {name: column_of(names, name) for name in ("image", *only)}
    columns |= {name: columns[name] or COLUMN_NAMES[name][-1] for name in required}
    columns["image"] = columns["image"] or "image_id"
    columns = {name: column for name, column in columns.items() if column}
    frame = read_csv(path, list(columns.values())).set_axis(list(columns), axis=1)
    frame = frame.assign(image=image_ids(frame["image"]))
    frame = frame[frame["image"] != ""]
    notice = ""
    if "lesion_id" in frame:
        lesions = frame.groupby("image")["lesion_id"].nunique()
        if count := (lesions > 1).sum():
            what = f"gives {count} images several lesions ({lesions.idxmax()})"
            notice = f"{path} {what}; the first row counts"
    return frame.drop_duplicates("image"), notice


def numbers(column) -> pd.Series:
    """A text column as numbers, NaN where it is none; a decimal comma is a decimal point."""
    text = column.astype(str).str.replace(",", ".")
    return pd.to_numeric(text, errors="coerce").astype(float)
