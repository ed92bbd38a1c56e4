"""Layouts and what lies in a folder. test_copies.py has every layout, by the command line."""

import os

import pytest
from copies import folder, photo, zipped
from mirror import refusal

from dermai_utils import copies
from dermai_utils.basics import CLASSES
from dermai_utils.copies import layouts
from dermai_utils.copies.inventory import Inventory, image_id, plain_name

IDS = [f"ISIC_{k:07}" for k in range(14)]  # two of each class, one lesion
LABEL = {image: CLASSES[k // 2] for k, image in enumerate(IDS)}
LESION = {image: f"HAM_{k // 2}" for k, image in enumerate(IDS)}


JPEG = {image: photo(k) for k, image in enumerate(IDS)}


def table(header, row):
    """The bytes of a CSV; row: image -> its cells."""
    return "".join(",".join(cells) + "\n" for cells in [header, *map(row, IDS)]).encode()


GROUPINGS = table(["image", "lesion_id"], lambda image: [image, LESION[image]])
MINE = {"t.csv": table(["image", "label"], lambda image: [image, LABEL[image]])}
IMAGES = {f"{image}.jpg": JPEG[image] for image in IDS}


@pytest.fixture
def find(tmp_path):
    def found(contents):
        return copies.find(folder(tmp_path / "data", contents), tmp_path / "unpacked")

    return found


def column(copy, name="label"):
    """{image: value} of the usable rows."""
    rows = copy.rows[copy.rows["reason"] == ""]
    return rows.set_index("image")[name].to_dict()


def notes_of(copy, word):
    return [note for note in copy.notes if word in note]


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
        "photos.zip": zipped(IMAGES),
        "a.jpg": photo(20),
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
        copy = find({**MINE, **IMAGES, **{os.fsdecode(name): JPEG[IDS[0]] for name in odd}})
    except (OSError, UnicodeError):
        pytest.skip("this system has no such names")
    assert column(copy) == LABEL and len(copy.rows) == len(IDS)
    assert notes_of(copy, "4 names are not in UTF-8 (caf\ufffd.jpg): not used; rename them")


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
        inventory = Inventory(folder(tmp_path / "in", files), tmp_path / "unpacked")
        names = {name for names in inventory.folders.values() for name in names}
        return names, {path.name for path in inventory.tables}, inventory.notes

    return taken


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
