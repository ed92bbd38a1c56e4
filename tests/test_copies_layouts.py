"""Layouts and what lies in a folder. test_copies.py has every layout, by the command line."""

import io
import os

import numpy as np
import pytest
from mirror import official, refusal, write, zipped
from PIL import Image

from dermai_utils import copies
from dermai_utils.basics import CLASSES
from dermai_utils.copies import layouts
from dermai_utils.copies.inventory import Inventory, image_id, plain_name

TRAIN = "ISIC2018_Task3_Training"
IDS = [f"ISIC_{k:07}" for k in range(14)]  # two of each class, one lesion
LABEL = {image: CLASSES[k // 2] for k, image in enumerate(IDS)}
LESION = {image: f"HAM_{k // 2}" for k, image in enumerate(IDS)}


def encoded(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


random = np.random.default_rng(0)
JPEG = {i: encoded(random.integers(0, 256, (8, 8, 3), np.uint8), "JPEG") for i in IDS}
MASK = encoded(np.eye(8) > 0, "PNG")


def table(header, row):
    """The bytes of a CSV; row: image -> its cells."""
    return "".join(",".join(cells) + "\n" for cells in [header, *map(row, IDS)]).encode()


def images(folder="", ids=IDS):
    return {f"{folder}{image}.jpg": JPEG[image] for image in ids}


TRUTH = table(["image", *CLASSES], lambda i: [i, *("1" if c == LABEL[i] else "0" for c in CLASSES)])
GROUPINGS = table(["image", "lesion_id"], lambda image: [image, LESION[image]])
HAM = table(["lesion_id", "image_id", "dx"], lambda i: [LESION[i], i, LABEL[i].lower()])
OFFICIAL = {f"{TRAIN}_GroundTruth.csv": TRUTH, f"{TRAIN}_LesionGroupings.csv": GROUPINGS}
MINE = {"t.csv": table(["image", "label"], lambda image: [image, LABEL[image]])}
ZIP = {f"{TRAIN}_Input.zip": zipped(images(f"{TRAIN}_Input/"))}


@pytest.fixture
def find(tmp_path):
    def found(contents):
        folder = write(tmp_path / "data", contents)
        return copies.find(folder, tmp_path / "unpacked")

    return found


def column(copy, name="label"):
    """{image: value} of the usable rows."""
    rows = copy.rows[copy.rows["reason"] == ""]
    return rows.set_index("image")[name].to_dict()


def notes_of(copy, word):
    return [note for note in copy.notes if word in note]


def test_the_rows_of_a_copy(find):
    copy = find({**OFFICIAL, **ZIP})
    assert copy.layout == layouts.OFFICIAL and list(copy.rows) == copies.COLUMNS
    assert (column(copy), column(copy, "lesion_id")) == (LABEL, LESION)
    assert copy.counts() == dict.fromkeys(CLASSES, 2) and copy.images == {"train": 14}
    for image, path in column(copy, "path").items():
        with open(path, "rb") as file:
            assert file.read() == JPEG[image]
    assert copy.rows["age"].isna().all() and set(copy.rows["sex"]) == {""}
    assert len(notes_of(copy, "no ")) == 2  # metadata and test set


def test_the_official_files_have_a_test_set(find):
    copy = find(official())
    assert copy.images == {"train": 3, "test": 2} and copy.notes == []
    good = copy.rows[copy.rows["reason"] == ""]
    assert good[["image", "source"]].to_numpy().tolist() == [
        ["ISIC_1", "train"],
        ["ISIC_1", "test"],
    ]


def test_a_new_layout_is_a_row_of_the_table(find, monkeypatch):
    """With an id column, columns of words and a table name of its own, and lesions elsewhere."""
    row = layouts.Layout(
        "My clinic",
        "findings",
        needs=("picture",),
        image=("picture",),
        classes=("second opinion", "finding"),
        metadata=("lesions",),
    )
    contents = {
        "Findings.csv": table(
            ["Picture", "Finding", "Second opinion"],
            lambda i: [f"{i}.jpg", "wart", LABEL[i]] if i == IDS[0] else [i, LABEL[i], ""],
        ),
        "lesions.csv": GROUPINGS.replace(b"image", b"picture"),
        "photos.zip": zipped(images()),
        "a.jpg": MASK,
    }
    assert "expected a column of ids" in refusal(find, contents)
    monkeypatch.setattr(layouts, "LAYOUTS", (row, *layouts.LAYOUTS))
    copy = find(contents)
    assert copy.layout == "My clinic"
    assert (column(copy), column(copy, "lesion_id")) == (LABEL, LESION)


def test_every_layout_of_the_table_has_another_name():
    names = [layout.name for layout in layouts.LAYOUTS]
    assert len(names) == len(set(names))


# Files and rows


def test_names_that_are_not_in_utf8_are_counted(find):
    odd = [b"caf\xe8.jpg", b"caf\xe9.jpg", b"l\xe9sions/x.jpg", b"donn\xe9es.csv"]
    try:
        copy = find({**MINE, **images(), **{os.fsdecode(name): JPEG[IDS[0]] for name in odd}})
    except (OSError, UnicodeError):
        pytest.skip("this system has no such names")
    assert column(copy) == LABEL and len(copy.rows) == len(IDS)
    assert notes_of(copy, "4 names are not in UTF-8 (caf\ufffd.jpg): not used; rename them")


NOTHING = {
    "no table": ({"holiday/beach.jpg": MASK}, "no table of labels for its 1 images in holiday"),
    "a table of other images": (
        {"HAM10000_metadata.csv": HAM, "pictures/x.jpg": MASK},
        "holds no training image that a row of HAM10000_metadata.csv names",
    ),
    "a table of other columns": (
        {"own/t.csv": b"picture,finding\nx,nv\n", "own/x.jpg": MASK},
        "no training labels: found t.csv (picture, finding), beside 1 images in own; expected",
    ),
    "nothing": ({"notes.txt": b""}, "holds no training images: expected ISIC2018_Task3_Training"),
    "too deep": ({"a/b/c/t.csv": b"", "a/b/c/d/e/x.jpg": b""}, "at most 3 levels deep"),
}


@pytest.mark.parametrize("contents, says", NOTHING.values(), ids=NOTHING)
def test_no_layout_says_what_was_found_and_where_to_read(find, contents, says):
    line = refusal(find, contents)
    assert says in line and "docs/data.md" in line


UNUSABLE = {
    b"": "14 × image without a label row",
    table(["x"], lambda i: [f"X{i},1,0,0,0,0,0,0"])[2:]: "image file missing",
    table(["x"], lambda i: [f"{i},0,0,0,0,0,0,0"])[2:]: "14 × no label",
    table(["x"], lambda i: [f"{i},1,1,0,0,0,0,0"])[2:]: "several labels",
    table(["x"], lambda i: [",1,0,0,0,0,0,0"])[2:]: "without an image id",
}


@pytest.mark.parametrize("rows", UNUSABLE, ids=UNUSABLE.values())
def test_labels_without_a_usable_row_say_why(find, rows):
    header = TRUTH.splitlines()[0] + b"\n"
    contents = {f"{TRAIN}_GroundTruth.csv": header + rows, **images(f"{TRAIN}_Input/")}
    line = refusal(find, contents)
    assert UNUSABLE[rows] in line and f"{TRAIN}_GroundTruth.csv: no row is the usable" in line


# What lies in a folder


NAMES = {
    "X.zip": "x",
    "X (1).zip": "x",
    "X(2).csv": "x",
    "X-20250131T120000Z-001.zip": "x",
    "X-20250131T120000Z-1-002.zip": "x",
    "X-20250131T120000Z": "x",
    "HAM10000_images_part_1.zip": "ham10000_images_part_1",
    "ISIC_2019_Training_Input": "isic_2019_training_input",
}


def test_what_a_browser_and_drive_add_to_a_name():
    assert {name: plain_name(name) for name in NAMES} == NAMES
    assert image_id("fe\u0301.b.jpg") == "f\u00e9.b"


@pytest.fixture
def contents(tmp_path):
    """(images, tables, notes) of an Inventory of these files."""

    def taken(files):
        inventory = Inventory(write(tmp_path / "in", files), tmp_path / "unpacked")
        names = {name for names in inventory.folders.values() for name in names}
        return names, {path.name for path in inventory.tables}, inventory.notes

    return taken


def test_only_zips_with_an_image_that_a_table_names_are_unpacked(contents):
    files = {"t.csv": b"image\na\n", "A.zip": zipped({"a.jpg": b"1"})}
    names, tables, notes = contents({**files, "B.zip": zipped({"b.jpg": b"1"})})
    assert (names, tables) == ({"a.jpg"}, {"t.csv"})
    assert notes == ["B.zip holds no image that a table names: not unpacked"]


def test_the_table_may_be_in_a_zip_that_comes_later(contents):
    later = {"A.zip": zipped({"a.jpg": b"1"}), "z/T.zip": zipped({"t.csv": b"image\na\n"})}
    assert contents(later)[:2] == ({"a.jpg"}, {"t.csv"})


def test_a_zip_that_lies_there_unpacked_is_not_unpacked_again(contents, tmp_path):
    archive = zipped({"X/a.jpg": b"large" * 9, "X/b.jpg": b"large" * 9})
    contents({"X/a.jpg": b"1", "X/b.jpg": b"2", "t.csv": b"image\na\nb\n", "X.zip": archive})
    assert not (tmp_path / "unpacked").exists()


def test_zips_of_one_name_in_two_folders_do_not_meet(contents):
    two = {"1/X.zip": zipped({"X/a.jpg": b"1"}), "2/X.zip": zipped({"X/b.jpg": b"1"})}
    for _ in range(2):  # the second time all is there
        assert contents({"t.csv": b"image\na\nb\n", **two})[0] == {"a.jpg", "b.jpg"}


def test_links_in_a_ring_and_hidden_files_are_no_obstacle(contents, tmp_path):
    (tmp_path / "in" / "d").mkdir(parents=True)
    (tmp_path / "in" / "d" / "up").symlink_to(tmp_path / "in")
    hidden = {"__MACOSX/a.jpg": b"1", "._b.jpg": b"1", ".c/c.jpg": b"1", "d/d.jpg": b"1"}
    assert contents(hidden)[0] == {"d.jpg"}


def test_folders_to_leave_out_are_not_looked_into(tmp_path):
    folder = write(tmp_path / "in", {"a.jpg": b"1", "cache/b.jpg": b"1"})
    inventory = Inventory(folder, folder / "cache", [folder / "cache"])
    assert list(inventory.folders) == [folder]


def test_a_damaged_zip_is_one_line(contents):
    assert "X.zip is damaged" in refusal(contents, {"X.zip": b"PK no"})
