"""Layouts and what lies in a folder. test_copies.py has every layout, by the command line."""

import os

import pytest
from copies import folder, photos
from mirror import refusal

from dermai_utils import copies
from dermai_utils.copies import layouts
from dermai_utils.copies.inventory import Inventory

IMAGES = photos("A1.jpg", "A2.jpg", "A3.jpg")
MINE = {"t.csv": "image,label\nA1,mel\nA2,nv\nA3,bcc\n", **IMAGES}
LABELS = {"A1": "MEL", "A2": "NV", "A3": "BCC"}


@pytest.fixture
def find(tmp_path):
    def found(contents):
        return copies.find(folder(tmp_path / "data", contents), tmp_path / "unpacked")

    return found


def column(copy, name="label"):
    """{image: value} of the usable rows."""
    return copy.usable.set_index("image")[name].to_dict()


def test_a_new_layout_is_a_row_of_the_table(find, monkeypatch):
    """With an id column, columns of words and a table name of its own, and lesions elsewhere."""
    classes = ("second opinion", "finding")
    row = layouts.Layout("My clinic", "findings", image=("picture",), classes=classes)
    contents = {
        "Findings.csv": "Picture,Finding,Second opinion\nA1.jpg,wart,mel\nA2,nv,\nA3,bcc,\n",
        "lesions.csv": "picture,lesion_id\nA1,L1\nA2,L2\nA3,L2\n",
        "photos.zip": IMAGES,
        "a.jpg": 20,
    }
    assert "a column of ids" in refusal(find, contents)
    monkeypatch.setattr(layouts, "LAYOUTS", (row, *layouts.LAYOUTS))
    copy = find(contents)
    assert copy.layout == "My clinic" and column(copy) == LABELS
    assert column(copy, "lesion_id") == {"A1": "L1", "A2": "L2", "A3": "L2"}


def test_names_that_are_not_in_utf8_are_counted(find):
    odd = [b"caf\xe8.jpg", b"caf\xe9.jpg", b"l\xe9sions/x.jpg", b"donn\xe9es.csv"]
    try:
        copy = find({**MINE, **{os.fsdecode(name): b"1" for name in odd}})
    except (OSError, UnicodeError):
        pytest.skip("this system has no such names")
    assert column(copy) == LABELS and len(copy.rows) == 3
    line = "4 names not in UTF-8 (caf\ufffd.jpg): not used; give other names"
    assert any(line in note for note in copy.notes)


# What lies in a folder


@pytest.fixture
def contents(tmp_path):
    """(images, tables) of an Inventory of these files."""

    def taken(files):
        inventory = Inventory(folder(tmp_path / "in", files), tmp_path / "unpacked")
        names = {name for names in inventory.folders.values() for name in names}
        return names, {path.name for path in inventory.tables}

    return taken


def test_the_table_may_be_in_a_zip_that_comes_later(contents):
    later = {"A.zip": {"a.jpg": "1"}, "z/T.zip": {"t.csv": "image\na\n"}}
    assert contents(later) == ({"a.jpg"}, {"t.csv"})


def test_a_zip_that_lies_there_unpacked_is_not_unpacked_again(contents, tmp_path):
    archive = {"X/a.jpg": "large" * 9, "X/b.jpg": "large" * 9}
    contents({"X/a.jpg": "1", "X/b.jpg": "2", "t.csv": "image\na\nb\n", "X.zip": archive})
    assert not (tmp_path / "unpacked").exists()


def test_zips_of_one_name_in_two_folders_do_not_meet(contents):
    two = {"1/X.zip": {"X/a.jpg": "1"}, "2/X.zip": {"X/b.jpg": "1"}}
    for _ in range(2):  # the second time all is there
        assert contents({"t.csv": "image\na\nb\n", **two})[0] == {"a.jpg", "b.jpg"}


def test_links_in_a_ring_and_hidden_files_are_no_obstacle(contents, tmp_path):
    (tmp_path / "in" / "d").mkdir(parents=True)
    (tmp_path / "in" / "d" / "up").symlink_to(tmp_path / "in")
    hidden = {"__MACOSX/a.jpg": "1", "._b.jpg": "1", ".c/c.jpg": "1", "d/d.jpg": "1"}
    assert contents(hidden)[0] == {"d.jpg"}
