"""Every user mistake, by the command: one plain line, exit status 2, and no file is changed."""

import builtins
import contextlib
import dataclasses
import errno
import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from pictures import bomb, encoded, heic, picture
from PIL import Image

from dermai_utils import config, files
from dermai_utils.__main__ import main
from dermai_utils.config import CLASSES, ROOT
from dermai_utils.data.layouts import match
from dermai_utils.training import model

TRAIN = "ISIC2018_Task3_Training"
LABELS, GROUPINGS, METADATA = (
    f"{TRAIN}_GroundTruth.csv",
    f"{TRAIN}_LesionGroupings.csv",
    "HAM10000_metadata.csv",
)
IDS = [f"ISIC_{k:07}" for k in range(28)]  # four of each class


def label_row(image, label):
    return ",".join([image, *("1.0" if name == label else "0.0" for name in CLASSES)])


SMALL = {
    "image_size": 32,
    "backbone": "timm:test_resnet",
    "weights": "none",
    "epochs": 1,
    "batch_size": 16,
    "device": "cpu",
}
CSVS = {
    LABELS: [
        ",".join(["image", *CLASSES]),
        *(label_row(image, CLASSES[k % 7]) for k, image in enumerate(IDS)),
    ],
    GROUPINGS: [
        "image,lesion_id,diagnosis_confirm_type",
        *(f"{image},HAM_{k // 2},histo" for k, image in enumerate(IDS)),
    ],
    METADATA: [
        "lesion_id,image_id,dx,dx_type,age,sex,localization",
        *(f"HAM_{k // 2},{image},nv,histo,{30 + k}.0,male,back" for k, image in enumerate(IDS)),
    ],
}


class User:
    """Somebody with a small folder of data, who has made a split of it once."""

    def __init__(self, home):
        self.home, self.data = home, home / "data"
        self.images = self.data / f"{TRAIN}_Input"
        self.images.mkdir(parents=True)
        for k, image in enumerate(IDS):
            (self.images / f"{image}.jpg").write_bytes(encoded(picture(seed=k), "JPEG"))
        for name, lines in CSVS.items():
            (self.data / name).write_text("\n".join(lines) + "\n")
        assert self.runs("split")[0] == 0

    def runs(self, stage="split", **given):
        """(exit status, standard output, standard error) of a command."""
        given = (
            SMALL
            | {"data": self.data, "cache_dir": self.home / "cache", "work_dir": self.home / "work"}
            | given
        )
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(
                [stage, *(f"--{key.replace('_', '-')}={value}" for key, value in given.items())]
            )
        return status, out.getvalue(), err.getvalue()

    def there(self):
        """All that the user owns: the data, and what was made in work_dir."""
        paths = [path for folder in ("data", "work") for path in (self.home / folder).rglob("*")]
        return {
            path: path.read_bytes() if path.is_file() else None
            for path in paths
            if path.name != ".lock"
        }

    def is_refused(self, message, stage="split", **given):
        before = self.there()
        status, _, stderr = self.runs(stage, **given)
        assert status == 2 and self.there() == before
        line = stderr.strip().splitlines()[-1]
        assert line.startswith("error: ") and message in line and "Traceback" not in stderr, stderr
        return line

    def table(self):
        return files.read_table(self.home / "work" / "table.csv")


@pytest.fixture
def user(tmp_path):
    return User(tmp_path)


@pytest.fixture(scope="module")
def one_user(tmp_path_factory):
    """The same one for many tests: a refusal changes nothing."""
    return User(tmp_path_factory.mktemp("user"))


# CSVs


def text(name, lines=None):
    return ("\n".join(lines or CSVS[name]) + "\n").encode()


NEEDED = {LABELS: b",VASC", GROUPINGS: b",lesion_id", METADATA: b",age"}
UNUSABLE = {
    "empty": lambda name: (b"", "cannot be read as a CSV"),
    "binary": lambda name: (bytes(range(256)), "not a text file"),
    "zeros": lambda name: (b"\0" * 300, "no column"),
    "another encoding": lambda name: (
        text(name).replace(b"\n", b" \x81\n"),  # Windows-1252 has no such letter
        "not a text file in UTF-8; expected a CSV",
    ),
    "sep=; of Excel": lambda name: (
        b"sep=;\r\n" + text(name).replace(b",", b";"),
        "cannot be read as a CSV (a row has",
    ),
    "utf-16": lambda name: (text(name).decode().encode("utf-16"), "not a text file"),
    "missing column": lambda name: (
        b"\n".join(line.rpartition(b",")[0] for line in text(name).splitlines()),
        "no column",
    ),
    "renamed column": lambda name: (text(name).replace(b"image", b"picture", 1), "no column"),
    "web page": lambda name: (b"<!DOCTYPE html>\n<html>404</html>\n", "no column"),
    "ragged": lambda name: (
        text(name).replace(b"\n", b"\nx,1,2,3,4,5,6,7,8,9,10,11\n", 2),
        "cannot be read as a CSV",
    ),
    "a column twice": lambda name: (
        b"\n".join(line + b"," + line for line in text(name).splitlines()),
        "stands there twice",
    ),
    "twice but for a blank": lambda name: (
        text(name).replace(b"\n", b",0\n").replace(b",0\n", NEEDED[name] + b" \n", 1),
        "stands there twice",
    ),
    "decimal commas": lambda name: (
        text(name).replace(b".0", b",0").replace(b"histo", b"1,0"),
        "cannot be read as a CSV",
    ),
}


@pytest.mark.parametrize("name", CSVS)
@pytest.mark.parametrize("fault", UNUSABLE)
def test_an_unusable_csv_is_named(user, name, fault):
    if (name, fault) == (GROUPINGS, "missing column"):
        content, message = b"image\nISIC_0000000\n", "no column lesion_id"
    elif (name, fault) == (METADATA, "missing column"):  # any other may be missing
        content, message = text(name).replace(b"image_id", b"picture", 1), "no column image_id"
    else:
        content, message = UNUSABLE[fault](name)
    (user.data / name).write_bytes(content)
    assert name in user.is_refused(message)


@pytest.mark.parametrize(
    "lines, message",
    [
        ([CSVS[LABELS][0]], "28 × image without a label row"),
        ([CSVS[LABELS][0], *(label_row(f"X{image}", "NV") for image in IDS)], "image file missing"),
        ([CSVS[LABELS][0], *(label_row(image, "SCC") for image in IDS)], "no label"),
        ([CSVS[LABELS][0], *(f"{image},1,1,0,0,0,0,0" for image in IDS)], "several labels"),
        ([CSVS[LABELS][0], *(f"{image},,,,,,," for image in IDS)], "neither 0 nor 1"),
        ([CSVS[LABELS][0], *(f"{image}{',nan' * 7}" for image in IDS)], "neither 0 nor 1"),
        (
            [CSVS[LABELS][0], *(label_row(image, "NV").replace("1.0", "WAHR") for image in IDS)],
            "neither 0 nor 1",
        ),
        (
            [CSVS[LABELS][0], *(f",{label_row(image, 'NV').partition(',')[2]}" for image in IDS)],
            "without an image id",
        ),
    ],
    ids=[
        "header alone",
        "other ids",
        "unknown class",
        "several ones",
        "blank",
        "NaN",
        "words",
        "no ids",
    ],
)
def test_labels_of_which_no_row_is_usable_say_why(user, lines, message):
    (user.data / LABELS).write_bytes(text(LABELS, lines))
    assert LABELS in user.is_refused(message)


def with_our_columns(data):
    """Columns that the table has too, and what an id column is renamed to."""
    header, *rows = data.splitlines()
    more = [
        b"label",
        b"source",
        b"path",
        b"confirmed_by",
        *([b"image"] if b"image_id" in header else []),
    ]
    return b"\n".join([b",".join([header, *more]), *(row + b",x" * len(more) for row in rows)])


SAVED = {
    "columns of our own": with_our_columns,
    "windows-1252": lambda data: data.replace(b"\n", b",\xe4\n"),
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "crlf": lambda data: data.replace(b"\n", b"\r\n"),
    "semicolons": lambda data: data.replace(b",", b";"),
    "tabs": lambda data: data.replace(b",", b"\t"),
    "semicolons, decimal comma": lambda data: data.replace(b",", b";").replace(b".0", b",0"),
    "integers": lambda data: data.replace(b".0", b""),
    "extra column": lambda data: data.replace(b"\n", b",note\n"),
    "trailing separators": lambda data: data.replace(b"\n", b",\n").replace(b",\n", b"\n", 1),
    "spaces": lambda data: data.replace(b",", b" , ").replace(b"\n", b" \n"),
    "quotes after blanks": lambda data: b"\n".join(
        b", ".join(b'"' + cell + b'"' for cell in line.split(b",")) for line in data.splitlines()
    ),
    "ids with .jpg": lambda data: b"\n".join(
        line.replace(i.encode(), i.encode() + b".jpg")
        for i, line in zip(["#", *IDS], data.splitlines(), strict=True)
    ),
    "every row twice": lambda data: data + data.partition(b"\n")[2],
}


@pytest.mark.parametrize("name", CSVS)
@pytest.mark.parametrize("how", SAVED)
def test_a_csv_that_a_spreadsheet_saved_gives_the_same_table(user, name, how):
    before = user.table()
    (user.data / name).write_bytes(SAVED[how](text(name)))
    status, _, stderr = user.runs("clean")
    assert status == 0, stderr
    assert user.table().equals(before)


@pytest.mark.parametrize(
    "column, value",
    [("age", ""), ("age", "NaN"), ("age", "about 50"), ("sex", ""), ("localization", "")],
)
def test_a_blank_cell_of_the_metadata_is_a_blank_and_no_more(user, column, value):
    header, *rows = CSVS[METADATA]
    cells = rows[3].split(",")
    cells[header.split(",").index(column)] = value
    (user.data / METADATA).write_bytes(
        text(METADATA, [header, *rows[:3], ",".join(cells), *rows[4:]])
    )
    before = user.table()
    assert user.runs("clean")[0] == 0
    after, others = user.table(), [name for name in before if name != column]
    assert after[others].equals(before[others])
    assert after[column].isna()[3] if column == "age" else after[column][3] == ""
    assert after[column].drop(3).equals(before[column].drop(3))


@pytest.mark.parametrize("column", ["dx", "dx_type", "age", "sex", "localization"])
def test_metadata_without_a_column_leaves_it_blank(user, column):
    rows = [line.split(",") for line in CSVS[METADATA]]
    at = rows[0].index(column)
    lines = [",".join(cells[:at] + cells[at + 1 :]) for cells in rows]
    (user.data / METADATA).write_bytes(text(METADATA, lines))
    before, name = user.table(), {"dx_type": "confirmed_by", "dx": ""}.get(column, column)
    status, _, stderr = user.runs("clean")
    assert status == 0, stderr
    after = user.table()
    assert after.drop(columns=name, errors="ignore").equals(
        before.drop(columns=name, errors="ignore")
    )
    assert not name or set(after[name].fillna("")) == {""}


def test_a_blank_lesion_is_announced_and_its_own(user):
    (user.data / METADATA).unlink()
    (user.data / GROUPINGS).write_bytes(
        text(GROUPINGS).replace(b"ISIC_0000003,HAM_1", b'ISIC_0000003," "')
    )
    assert "1 images have no lesion id" in user.runs("clean")[1]
    assert user.table()["lesion_id"][2:4].tolist() == ["HAM_1", "ISIC_0000003"]


@pytest.mark.parametrize("name", [GROUPINGS, METADATA])
def test_an_image_with_two_lesions_is_announced(user, name):
    row = next(line for line in CSVS[name] if IDS[5] in line)
    (user.data / name).write_bytes(text(name) + row.replace("HAM_2", "HAM_9").encode() + b"\n")
    assert f"{name} gives 1 images several lesions (ISIC_0000005)" in user.runs("clean")[1]
    assert user.table()["lesion_id"][5] == "HAM_2"


# Images


def test_odd_images_are_taken_and_broken_ones_named(user, monkeypatch):
    exif, transparent = Image.Exif(), picture(seed=58).convert("RGBA")
    exif[0x0112] = 6
    transparent.putalpha(90)
    grey = np.linspace(0, 4000, 90 * 120).reshape(90, 120)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    taken = {
        "grey.png": encoded(picture().convert("L")),
        "cmyk.tif": encoded(picture().convert("CMYK"), "TIFF"),
        "palette.png": encoded(picture(seed=50).convert("P")),
        "rgba.png": encoded(picture(seed=51).convert("RGBA")),
        "sixteen.png": encoded(Image.new("I;16", (120, 90), 30_000)),
        "turned.jpg": encoded(picture(seed=52), "JPEG", exif=exif),
        "moving.gif": encoded(
            picture(seed=53), "GIF", save_all=True, append_images=[picture(seed=54)]
        ),
        "un été à deux.jpg": encoded(picture(seed=55), "JPEG"),
        "twelve bits.png": encoded(Image.fromarray(grey.astype(np.uint16))),
        "float.tif": encoded(Image.fromarray(grey / np.float32(5000)), "TIFF"),
        "portrait.jfif": encoded(picture(120, 90, seed=56), "JPEG"),
        "transparent.webp": encoded(transparent, "WEBP"),
        "short.JPE": encoded(picture(seed=57), "JPEG"),
    }
    broken = {
        "empty.jpg": (b"", "zero bytes"),
        "page.jpg": (b"<html>404</html>", "not an image"),
        "half.jpg": (encoded(picture(450, 600), "JPEG")[:3000], "truncated or damaged"),
        "bomb.png": (bomb(), "larger than 100 million pixels"),
        "no number.tif": (encoded(Image.new("F", (120, 90), np.nan), "TIFF"), "NaN"),
        "phone.heic": (heic(), "a HEIC picture needs pip install pillow-heif"),
    }
    for name, data in (taken | {name: data for name, (data, _) in broken.items()}).items():
        (user.images / name).write_bytes(data)
        with open(user.data / LABELS, "a", encoding="utf-8") as file:
            file.write(label_row(name.rpartition(".")[0], "NV") + "\n")
    (user.images / "folder.jpg").mkdir()
    (user.data / LABELS).write_text(
        (user.data / LABELS).read_text() + label_row("folder", "NV") + "\n"
    )
    before = {
        path: content for path, content in user.there().items() if path.is_relative_to(user.data)
    }
    status, _, stderr = user.runs("clean")
    assert status == 0 and "Traceback" not in stderr
    assert {name.rpartition(".")[0] for name in taken} <= set(user.table()["image"])
    rejected = files.read_table(user.home / "work" / "rejected.csv").set_index("image")["reason"]
    assert set(rejected.index) == {name.rpartition(".")[0] for name in broken} | {"folder"}
    for name, (_, message) in broken.items():
        assert message in rejected[name.rpartition(".")[0]]
    for path, content in before.items():
        assert content is None or path.read_bytes() == content


def test_a_folder_where_no_image_can_be_read_is_one_line(user):
    for path in user.images.iterdir():
        path.write_bytes(b"")
    assert "28 × the file is empty (zero bytes)" in user.is_refused("no image can be read")


def test_a_class_that_is_none_and_an_empty_folder_are_on_the_screen(user):
    for k, path in enumerate(sorted(user.images.iterdir())):
        folder = user.home / "folders" / (*CLASSES[:5], "wart", "wart")[k % 7]
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"{path.stem}.jfif")
    (user.home / "folders" / "vascular lesions").mkdir()
    status, stdout, _ = user.runs("split", data=user.home / "folders")
    assert status == 0 and "layout one folder a class: MEL 4 · NV 4" in stdout
    assert "vascular lesions is empty: no VASC from there" in stdout
    assert "clean: 8 × class wart: none of the seven" in stdout
    share = "clean: WARNING: 28.6% of the training images are left out"
    assert f"{share} (8 × class wart: none of the seven); is this" in stdout
    data = json.loads((user.home / "work" / "data.json").read_text())
    assert data["dropped"] == {"class wart: none of the seven": 8}


def test_a_mask_beside_each_photograph_changes_nothing(user):
    before = user.table()
    for path in sorted(user.images.iterdir()):
        mask = picture().convert("1")
        path.with_suffix(".png").write_bytes(encoded(mask))
        path.with_name(f"{path.stem}_segmentation.png").write_bytes(encoded(mask))
    status, stdout, _ = user.runs("clean")
    assert status == 0 and user.table().equals(before)
    assert "28 images have more than one file: ISIC_0000000.jpg is used" in stdout
    assert "28 masks (ISIC_0000000_segmentation.png) are not used" in stdout


def test_images_without_labels_and_labels_without_images_are_one_line(user):
    for path in user.images.iterdir():
        path.rename(path.with_name(f"other_{path.name}"))
    user.is_refused("image file missing); expected the files' names as ids")


def test_accents_of_another_system_are_the_same_name_and_odd_bytes_are_no_obstacle(user):
    composed, decomposed = "f\u00e9", "fe\u0301"  # a Mac writes the second into a zip
    (user.images / f"{decomposed}.jpg").write_bytes(encoded(picture(seed=60), "JPEG"))
    with contextlib.suppress(OSError, UnicodeError):  # a Mac and Windows refuse it
        (user.images / os.fsdecode(b"\xff.jpg")).write_bytes(b"")
    (user.data / LABELS).write_text(
        "\n".join([*CSVS[LABELS], label_row(composed, "NV")]), encoding="utf-8"
    )
    status, _, stderr = user.runs("clean")
    assert status == 0, stderr
    assert composed in set(user.table()["image"])
    rejected = files.read_table(user.home / "work" / "rejected.csv")
    assert set(rejected["image"]) <= {"\ufffd"} and set(rejected["reason"]) <= {match.NOT_UTF8}


# Settings


@pytest.mark.parametrize("field", dataclasses.fields(config.Config), ids=lambda field: field.name)
def test_each_setting_refuses_what_it_is_not(one_user, field):
    if field.name in ("cache_dir", "work_dir"):
        (one_user.home / "a file").write_text("in the way")
        one_user.is_refused("cannot write there", **{field.name: one_user.home / "a file"})
    elif field.name == "base_url":
        one_user.is_refused("base_url='no://such'", data="isic2018", base_url="no://such")
    else:
        stage = "train" if field.name in ("backbone", "weights") else "split"
        assert field.name in one_user.is_refused(
            "no/such thing", stage, **{field.name: "no/such thing"}
        )


NUMBERS = [
    f.name for f in dataclasses.fields(config.Config) if isinstance(f.metadata["allowed"], list)
]


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("end", [0, 1], ids=["under", "over"])
def test_each_number_refuses_what_is_out_of_range(one_user, field, end):
    limits = config.FIELDS[field].metadata["allowed"]
    limit = limits[end]
    value = limit + (1 if end else -1) * (1 if isinstance(limit, int) else max(1e-7, abs(limit)))
    one_user.is_refused(f"{field}={value}: expected {limits[0]} to {limits[1]}", **{field: value})


@pytest.mark.parametrize("field", dataclasses.fields(config.Config), ids=lambda field: field.name)
def test_each_setting_is_the_nearest_to_its_misspelt_name(one_user, field):
    wrong = field.name + field.name[-1]
    one_user.is_refused(f"unknown setting {wrong}: did you mean {field.name}?", **{wrong: 3})


def test_an_unknown_setting_in_the_environment_is_answered_with_the_nearest(one_user, monkeypatch):
    monkeypatch.setenv("DERMAI_BATCHSIZE", "8")
    one_user.is_refused("unknown setting batchsize: did you mean batch_size?")


@pytest.mark.parametrize(
    "words", [["split", "--epochs"], ["splitt"]], ids=["no value", "no such stage"]
)
def test_a_command_that_is_not_whole_is_one_line(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("content", ["{", "[1, 2]", "\0\0", "null", ""])
def test_settings_of_a_run_that_were_edited_are_one_line(user, content):
    settings = user.home / "work" / "runs" / "baseline" / "config.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(content)
    user.is_refused("cannot be read as a run's settings", "evaluate")


@pytest.mark.parametrize(
    "content",
    [b"", bytes(range(256)), b"image;part\nISIC_0000000;train\n"],
    ids=["empty", "binary", "another CSV"],
)
def test_a_split_that_was_edited_is_kept_and_made_again(user, content):
    made = user.home / "work" / "split.csv"
    before = made.read_bytes()
    made.write_bytes(content)
    status, stdout, _ = user.runs("split")
    assert status == 0 and "split.csv was changed since" in stdout
    assert "NOT the one made before" in stdout and made.read_bytes() == before
    assert made.with_name("split.previous.csv").read_bytes() == content


# Files and folders


def test_a_missing_folder_is_one_line(user):
    assert "does not exist" in user.is_refused(str(user.home / "gone"), data=user.home / "gone")
    user.is_refused("holds no training images", data=user.home / "work")


def test_a_file_in_place_of_a_folder_is_one_line(user):
    user.is_refused("is a file", data=user.data / LABELS)
    (user.home / "work" / "runs").write_text("in the way")
    user.is_refused("takes no files", "train")


@pytest.mark.parametrize(
    "name",
    [
        "table.csv",
        "rejected.csv",
        "split.csv",
        "leakage.json",
        ".clean.json",
        ".lock",
        "../cache/pixels_32.npy",
        "data.json",
        "../cache/sources.json",
        "../cache/rows.csv",
    ],
)
def test_a_folder_in_place_of_a_file_is_one_line(user, name):
    path = user.home / "work" / name
    path.unlink()
    path.mkdir()
    (path / "mine").write_text("kept")
    status, _, stderr = user.runs("split", split_seed=1)
    line = stderr.splitlines()[-1]
    assert status == 2 and line.startswith("error: ") and path.name in line
    assert "Traceback" not in stderr
    assert (path / "mine").read_text() == "kept"


def forbid(monkeypatch, folder, code):
    """Make writing anywhere in `folder` fail with `code`; by its mode it wouldn't, as root."""
    plain = builtins.open

    def guarded(path, mode="r", *rest, **options):
        if set(mode) & set("wax+") and str(path).startswith(str(folder)):
            raise OSError(code, os.strerror(code), str(path))
        return plain(path, mode, *rest, **options)

    monkeypatch.setattr(builtins, "open", guarded)


@pytest.mark.parametrize(
    "code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO], ids=errno.errorcode.get
)
@pytest.mark.parametrize("folder", ["work", "cache"])
def test_a_folder_that_cannot_be_written_is_one_line(user, monkeypatch, folder, code):
    forbid(monkeypatch, user.home / folder, code)
    assert os.strerror(code) in user.is_refused(
        f"{user.home / folder}: cannot write there", split_seed=1
    )


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", [".table.csv", ".split.csv"])
def test_a_disk_that_fails_inside_a_stage_is_one_line(user, monkeypatch, name, code):
    (user.data / LABELS).write_bytes(text(LABELS)[: -len(label_row(IDS[0], "NV")) - 1])
    assert user.runs("split")[0] == 0  # another table than the first
    (user.data / LABELS).write_bytes(text(LABELS))
    forbid(monkeypatch, user.home / "work" / name, code)
    status, _, stderr = user.runs("split")
    line = stderr.splitlines()[-1]
    assert status == 2 and line.startswith("error: ") and os.strerror(code) in line and name in line
    assert len(user.table()) == (27 if name == ".table.csv" else 28) and not list(
        (user.home / "work").glob(".*.tmp")
    )


def test_a_file_that_cannot_be_read_is_one_line(user, monkeypatch):
    plain = io.open

    def refuse(path, *rest, **options):
        if str(path).endswith(LABELS):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path, *rest, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    assert LABELS in user.is_refused("Permission denied")


def test_a_folder_that_another_process_uses_is_one_line(user, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    work = user.home / "work"
    code = f"import time; from dermai_utils import files\nwith files.locked({str(work)!r}):"
    code += " print(); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        line = user.is_refused(f"{work}: process", split_seed=1)
        assert f"process {other.pid} on " in line
        other.kill()
    assert user.runs("split", split_seed=1)[0] == 0


@pytest.mark.parametrize("rank, status", [("0", 2), ("1", 0)])
def test_of_several_ranks_the_main_one_locks(user, monkeypatch, rank, status):
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(files, "_try_lock", lambda file: False)
    assert user.runs("split")[0] == status


# Weights


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


WEIGHTS = {
    "gone.pth": (lambda path: None, "no such file"),
    "folder.pth": (lambda path: path.mkdir(), "Is a directory"),
    "folder.safetensors": (lambda path: path.mkdir(), "cannot be read as tensors"),
    "empty.pth": (lambda path: path.write_bytes(b""), "cannot be read as tensors"),
    "empty.safetensors": (lambda path: path.write_bytes(b""), "cannot be read as tensors"),
    "text.pth": (lambda path: path.write_text("hello"), "cannot be read as tensors"),
    "pickle.pth": (
        lambda path: path.write_bytes(pickle.dumps(Evil())),
        "cannot be read as tensors",
    ),
    "code.pth": (lambda path: torch.save({"model": Evil()}, path), "cannot be read as tensors"),
    "half.pth": (
        lambda path: (torch.save(tiny(), path), os.truncate(path, 5000)),
        "cannot be read as tensors",
    ),
    "list.pth": (lambda path: torch.save([1, 2], path), "no state_dict"),
    "other.pth": (
        lambda path: torch.save({"stem.weight": torch.zeros(3)}, path),
        "not for this backbone: missing",
    ),
    "shape.pth": (
        lambda path: torch.save(tiny() | {next(iter(tiny())): torch.zeros(1)}, path),
        "is (1,), not",
    ),
}


def tiny():
    return model.build("timm:test_resnet").state_dict()


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_do_not_fit_are_one_line_and_no_code_runs(one_user, monkeypatch, name):
    user = one_user
    make, message = WEIGHTS[name]
    monkeypatch.setenv("EVIL", str(user.home / "evil"))
    make(user.home / name)
    assert name in user.is_refused(message, "train", weights=user.home / name)
    assert not (user.home / "evil").exists()


def test_the_evil_pickle_would_have_been_evil(tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    pickle.loads(pickle.dumps(Evil()))
    assert (tmp_path / "evil").is_dir()


def test_a_run_of_which_the_checkpoint_is_broken_is_one_line(user):
    assert user.runs("train")[0] == 0
    best, marker = (
        user.home / "work" / "runs" / "baseline" / name for name in ("best.pt", ".train.json")
    )
    best.write_bytes(best.read_bytes()[:-1])
    record = json.loads(marker.read_text())
    # as if the disk had lost it before the marker was written
    record["outputs"][best.name] = files.checksum(best)
    marker.write_text(json.dumps(record))
    user.is_refused("delete it and train again", "evaluate")


def test_the_docs_count_these_cases(request):
    if request.config.option.keyword or any("::" in argument for argument in request.config.args):
        pytest.skip("not all of this file was asked for")
    # but for this one
    here = sum(item.path.name == "test_bad_input.py" for item in request.session.items) - 1
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert f"**{here} cases of bad input**" in page
