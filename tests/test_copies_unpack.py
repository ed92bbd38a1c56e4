"""Zips: whole or absent, inside their folder, unpacked once."""

import os
import zipfile
from collections import namedtuple
from pathlib import Path

import pandas as pd
import pytest
from copies import photo
from hypothesis import given
from hypothesis import strategies as st
from mirror import ARCHIVE, NAME, TOP, content_of, directory_entry, refusal, zipped

from dermai_utils import copies, files
from dermai_utils.copies import unpack as unpacking
from dermai_utils.copies.unpack import unpack


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "in" / NAME
    path.parent.mkdir()
    path.write_bytes(ARCHIVE)
    return path


def tree(folder):
    """{name: content} of the files below a folder."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def assert_refused(archive, tmp_path, says):
    before = tree(tmp_path)
    line = refusal(unpack, archive, tmp_path / "out")
    assert says in line and str(archive) in line
    assert tree(tmp_path) == before


def test_an_archive_is_unpacked_once(archive, tmp_path):
    folder = unpack(archive, tmp_path / "out")
    assert tree(folder) == content_of(ARCHIVE) and folder.name == archive.stem
    next(folder.rglob("*.jpg")).write_bytes(b"mine")
    assert unpack(archive, tmp_path / "out") == folder
    assert b"mine" in tree(folder).values()


def test_another_archive_of_the_same_name_has_another_folder(archive, tmp_path):
    first = unpack(archive, tmp_path / "out")
    newer = zipped({f"{TOP}/ISIC_0.jpg": b"N" * 3000, f"{TOP}/new.jpg": b"1"})
    archive.write_bytes(newer)
    second = unpack(archive, tmp_path / "out")
    assert tree(second) == content_of(newer) and tree(first) == content_of(ARCHIVE)


OUTSIDE = ["../evil.jpg", "a/../../evil.jpg", "/evil.jpg", "C:/evil.jpg", "C:evil.jpg"]
OUTSIDE += ["a\\..\\..\\evil.jpg", "\\evil.jpg", "a//b.jpg", "../"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_leave_the_folder_are_refused(archive, tmp_path, name):
    archive.write_bytes(zipped({"a/fine.jpg": b"1", name: b"" if name.endswith("/") else b"evil"}))
    assert_refused(archive, tmp_path, "a name that leaves the folder")


@given(st.text(alphabet="ab./\\:\0C", min_size=1, max_size=12))
def test_any_name_is_refused_or_inside(name):
    if unpacking._refusal(zipfile.ZipInfo("x"), name) is None:
        assert os.path.normpath(f"/top/folder/{name}").startswith("/top/folder/")


REFUSED = {
    "a name given twice": zipped({"a/ISIC_1.jpg": b"1", "a/isic_1.JPG": b"2"}),
    "would unpack to 3,000,000": zipped({"a/0.jpg": bytes(3_000_000)}, zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_no_official_archive_holds_is_refused(archive, tmp_path, says):
    archive.write_bytes(REFUSED[says])
    assert_refused(archive, tmp_path, says)


PACKED = zipped(
    {"a/ISIC_1.jpg": bytes(range(256)) * 20, "a/ISIC_2.jpg": b"2" * 500}, zipfile.ZIP_DEFLATED
)
STORED = zipped({"a/ISIC_1.jpg": b"1" * 500})
DAMAGED = {
    "more bytes than declared": directory_entry(PACKED, 24, "<I", 5000),
    "a member longer than the file": directory_entry(
        directory_entry(STORED, 20, "<I", 5000), 24, "<I", 5000
    ),
    "broken stream": PACKED[:60] + b"\xff" * 40 + PACKED[100:],
    "unknown compression": directory_entry(PACKED, 10, "<H", 77),
    "a name that is no UTF-8": zipped({"a/é.jpg": b"1"}).replace("é".encode(), b"\xff\xff"),
    "cut off": ARCHIVE[:6000],
    "empty": b"",
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_archive_is_one_line_and_leaves_no_folder(archive, tmp_path, fault):
    archive.write_bytes(DAMAGED[fault])
    line = refusal(unpack, archive, tmp_path / "out")
    assert "is damaged" in line and str(archive) in line and "delete it" in line
    assert not list((tmp_path / "out").glob("*/[!.]*"))
    archive.write_bytes(ARCHIVE)
    assert tree(unpack(archive, tmp_path / "out")) == content_of(ARCHIVE)


def test_an_interrupted_unpacking_leaves_no_folder_and_starts_again(archive, tmp_path, monkeypatch):
    def interrupted(source, file):
        file.write(source.read(100))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unpacking.zipfile.shutil, "copyfileobj", interrupted)
        unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*/[!.]*"))
    folder = unpack(archive, tmp_path / "out")
    assert tree(folder.parent) == {f"{folder.name}/{n}": d for n, d in content_of(ARCHIVE).items()}


def test_unpacking_needs_room(archive, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")(files.SPARE + 1_199_999)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)
    assert "not enough room" in refusal(unpack, archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize("named", [True, False])
def test_pictures_in_a_parquet_file_are_a_copy(tmp_path, named):
    """As marmal88/skin_cancer; and as a set without a column of ids, whose paths are None."""
    pytest.importorskip("pyarrow")
    images = [{"bytes": photo(k), "path": None} for k in (1, 2, 3)]
    table = pd.DataFrame({"image": images, "dx": ["melanoma", "melanocytic_Nevi", "df"]})
    if named:
        table = table.assign(image_id=["A1", "A2", "A3"], lesion_id=["L1", "L2", "L3"])
    (tmp_path / "data").mkdir()
    table.to_parquet(tmp_path / "data" / "train-00000.parquet")
    for _ in range(2):  # the second time the pictures lie there
        rows = copies.find(tmp_path / "data", tmp_path / "unpacked").rows
        ids = ["A1", "A2", "A3"] if named else [f"train-00000_{k}" for k in range(3)]
        assert rows["image"].tolist() == ids and rows["label"].tolist() == ["MEL", "NV", "DF"]
        assert rows["lesion_id"].tolist() == (["L1", "L2", "L3"] if named else [""] * 3)
        assert [Path(path).read_bytes() for path in rows["path"]] == [photo(k) for k in (1, 2, 3)]
