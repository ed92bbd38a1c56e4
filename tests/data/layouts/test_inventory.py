import os

import pytest
from mirror import refusal, write, zipped

from dermai_utils.data.layouts.inventory import Inventory, image_id, plain_name

NAMES = {
    "X.zip": "x",
    "X (1).zip": "x",
    "X(2).csv": "x",
    "X-20250131T120000Z-001.zip": "x",
    "X-20250131T120000Z-1-002.zip": "x",
    "X-20250131T120000Z": "x",
    "X-002.zip": "x",
    "HAM10000_images_part_1.zip": "ham10000_images_part_1",
    "HAM10000_metadata.tab": "ham10000_metadata",
    "ISIC_2019_Training_Input": "isic_2019_training_input",
}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_browser_and_drive_add_to_a_name(name):
    assert plain_name(name) == NAMES[name]


def test_ids_are_the_same_on_every_system():
    assert image_id("fe\u0301.b.jpg") == "f\u00e9.b"
    assert image_id(os.fsdecode(b"\xff.jpg")) == "\ufffd"


def contents(folder, tmp_path):
    inventory = Inventory(folder, tmp_path / "unpacked")
    images = {entry.name for entries in inventory.folders.values() for entry in entries}
    return images, {path.name for path in inventory.tables}, inventory.notes


def test_only_zips_with_an_image_that_a_table_names_are_unpacked(tmp_path):
    ids, others = b"image\na\n", zipped({"b.jpg": b"1"})
    folder = write(
        tmp_path / "in", {"t.csv": ids, "A.zip": zipped({"a.jpg": b"1"}), "B.zip": others}
    )
    images, tables, notes = contents(folder, tmp_path)
    assert (images, tables) == ({"a.jpg"}, {"t.csv"})
    assert notes == ["B.zip holds no image that a table names: not unpacked"]


def test_the_table_may_be_in_a_zip_that_comes_later(tmp_path):
    later = {"A.zip": zipped({"a.jpg": b"1"}), "z/T.zip": zipped({"t.csv": b"image\na\n"})}
    images, tables, _ = contents(write(tmp_path / "in", later), tmp_path)
    assert (images, tables) == ({"a.jpg"}, {"t.csv"})


def test_a_resized_copy_is_not_unpacked_over(tmp_path):
    archive = zipped({"X/a.jpg": b"large" * 9, "X/b.jpg": b"large" * 9})
    small = {"X/a.jpg": b"1", "X/b.jpg": b"2", "t.csv": b"image\na\nb\n", "X.zip": archive}
    contents(write(tmp_path / "in", small), tmp_path)
    assert not (tmp_path / "unpacked").exists()


def test_zips_of_one_name_in_two_folders_do_not_meet(tmp_path):
    two = {"1/X.zip": zipped({"X/a.jpg": b"1"}), "2/X.zip": zipped({"X/b.jpg": b"1"})}
    folder = write(tmp_path / "in", {"t.csv": b"image\na\nb\n", **two})
    for _ in range(2):  # the second time all is there
        assert contents(folder, tmp_path)[0] == {"a.jpg", "b.jpg"}


def test_links_in_a_ring_and_hidden_files_are_no_obstacle(tmp_path):
    hidden = {"__MACOSX/a.jpg": b"1", "._b.jpg": b"1", ".c/c.jpg": b"1", "d/d.jpg": b"1"}
    folder = write(tmp_path / "in", hidden)
    (folder / "d" / "up").symlink_to(folder)
    assert contents(folder, tmp_path)[0] == {"d.jpg"}


@pytest.mark.parametrize(
    "data",
    [b"PK no", zipped({"é.jpg": b"1"}).replace("é".encode(), b"\xff\xff")],
    ids=["no zip", "a name that is no UTF-8"],
)
def test_a_damaged_zip_is_one_line(tmp_path, data):
    folder = write(tmp_path / "in", {"X.zip": data})
    assert "X.zip is damaged" in refusal(Inventory, folder, tmp_path / "unpacked")
