import errno
import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mirror import (
    ARCHIVE,
    HALF,
    NAME,
    PAGE,
    USAGE,
    content_of,
    directory_entry,
    press_ctrl_c,
    refusal,
    zipped,
)

from dermai_utils import files
from dermai_utils.data import unpack as unpacking
from dermai_utils.data.unpack import unpack


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "in" / NAME
    path.parent.mkdir()
    path.write_bytes(ARCHIVE)
    return path


def tree(folder):
    """{path: content} of the files below a folder, markers aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.parent != Path(folder)
    }


def assert_refused(archive, tmp_path, says):
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    line = refusal(unpack, archive, tmp_path / "out")
    assert says in line and str(archive) in line
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "a/../../evil.jpg",
        "/evil.jpg",
        "C:/evil.jpg",
        "C:evil.jpg",
        "a\\..\\..\\evil.jpg",
        "\\evil.jpg",
        "a//b.jpg",
        "../",
    ],
)
def test_names_that_leave_the_folder_are_refused(archive, tmp_path, name):
    archive.write_bytes(zipped({"a/fine.jpg": b"1", name: b"" if name.endswith("/") else b"evil"}))
    assert_refused(archive, tmp_path, "a name that leaves the folder")


@given(st.text(alphabet="ab./\\:\0C", min_size=1, max_size=12))
def test_any_name_is_refused_or_inside(name):
    if unpacking._refusal(zipfile.ZipInfo("x"), name) is None:
        assert os.path.normpath(f"/top/folder/{name}").startswith("/top/folder/")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(archive, tmp_path, kind):
    link = zipfile.ZipInfo("a/link.jpg")
    link.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr(link, "/etc/passwd")
    assert_refused(archive, tmp_path, "a link or device")


def test_link_that_is_already_in_the_folder_is_not_followed(archive, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ISIC2018_Task3_Training_Input").symlink_to(tmp_path / "outside")
    assert "leads out of" in refusal(unpack, archive, tmp_path / "out")
    assert list((tmp_path / "outside").iterdir()) == []


def test_name_given_twice_is_refused(archive, tmp_path):
    archive.write_bytes(zipped({"a/ISIC_1.jpg": b"1", "a/isic_1.JPG": b"2"}))
    assert_refused(archive, tmp_path, "a name given twice")


def test_the_same_file_under_a_name_in_another_case_is_one_file(archive, tmp_path):
    archive.write_bytes(zipped({"HAM/ISIC_1.jpg": b"1", "ham/ISIC_1.jpg": b"1"}))
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"HAM/ISIC_1.jpg": b"1"}


def test_encrypted_member_is_refused(archive, tmp_path):
    archive.write_bytes(directory_entry(ARCHIVE, 8, "<H", 1))
    assert_refused(archive, tmp_path, "an encrypted file")


def test_bomb_is_refused(archive, tmp_path):
    archive.write_bytes(zipped({"a/zeros.jpg": bytes(3_000_000)}, zipfile.ZIP_DEFLATED))
    assert_refused(archive, tmp_path, "would unpack to 3,000,000")


def damage(fault):
    data = zipped(
        {"a/ISIC_1.jpg": bytes(range(256)) * 20, "a/ISIC_2.jpg": b"2" * 500}, zipfile.ZIP_DEFLATED
    )
    stored = zipped({"a/ISIC_1.jpg": b"1" * 500})
    return {
        "more bytes than declared": directory_entry(data, 24, "<I", 5000),
        "fewer bytes than declared": directory_entry(data, 24, "<I", 5300),
        "a member longer than the file": directory_entry(
            directory_entry(stored, 20, "<I", 5000), 24, "<I", 5000
        ),
        "bad CRC": stored.replace(b"1" * 500, b"1" * 499 + b"2"),
        "broken stream": data[:60] + b"\xff" * 40 + data[100:],
        "unknown compression": directory_entry(data, 10, "<H", 77),
        "a name that is no UTF-8": zipped({"a/é.jpg": b"1"}).replace("é".encode(), b"\xff\xff"),
        "cut off": ARCHIVE[:HALF],
        "a web page": PAGE,
        "empty": b"",
    }[fault]


@pytest.mark.parametrize(
    "fault",
    [
        "more bytes than declared",
        "fewer bytes than declared",
        "bad CRC",
        "broken stream",
        "unknown compression",
        "a member longer than the file",
        "a name that is no UTF-8",
        "cut off",
        "a web page",
        "empty",
    ],
)
def test_damaged_archive_is_one_line_and_leaves_no_image(archive, tmp_path, fault):
    archive.write_bytes(damage(fault))
    line = refusal(unpack, archive, tmp_path / "out")
    assert "is damaged" in line and str(archive) in line and "delete it" in line
    assert not list((tmp_path / "out").rglob("ISIC_1.jpg"))
    archive.write_bytes(ARCHIVE)
    assert tree(unpack(archive, tmp_path / "out")).items() >= content_of(ARCHIVE).items()


def test_interrupted_unpacking_continues(archive, tmp_path, monkeypatch):
    out, extracted, extract = tmp_path / "out", [], unpacking._extract

    def interrupted(bundle, info, path):
        extracted.append(info.filename)
        return extract(bundle, info, path) if len(extracted) != 3 else press_ctrl_c()

    monkeypatch.setattr(unpacking, "_extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, out)
    assert len(tree(out)) == 2
    unpack(archive, out)
    assert tree(out) == content_of(ARCHIVE)
    assert extracted[2] == extracted[3] and len(extracted) == 5  # 2 done, 1 interrupted, 2 more


def test_member_gets_its_name_only_when_whole(archive, tmp_path, monkeypatch):
    def half(source, file):
        file.write(source.read(100))
        press_ctrl_c()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files.shutil, "copyfileobj", half)
        unpack(archive, tmp_path / "out")
    assert [Path(name).suffix for name in tree(tmp_path / "out")] == [".tmp"]
    assert tree(unpack(archive, tmp_path / "out")) == content_of(ARCHIVE)


def test_done_unpacking_does_not_open_the_archive(archive, tmp_path, monkeypatch):
    unpack(archive, tmp_path / "out")
    monkeypatch.setattr(unpacking.zipfile, "ZipFile", None)
    assert unpack(archive, tmp_path / "out") == tmp_path / "out"


def times(folder):
    return [path.stat().st_mtime_ns for path in sorted(folder.rglob("*.jpg"))]


def test_a_copy_without_times_gets_them_back(archive, tmp_path):
    """They stand for the content, see `_time`: the images would count as others."""
    out = unpack(archive, tmp_path / "out")
    shutil.copytree(out, tmp_path / "copy", copy_function=shutil.copyfile)
    assert times(unpack(archive, tmp_path / "copy")) == times(out)


def test_a_disk_that_takes_no_times_is_no_reason_to_unpack_again(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking.os, "utime", lambda *_, **__: None)
    unpack(archive, tmp_path / "out")
    monkeypatch.setattr(unpacking.zipfile, "ZipFile", None)
    unpack(archive, tmp_path / "out")


def test_deleted_image_comes_back(archive, tmp_path):
    out = unpack(archive, tmp_path / "out")
    next(out.rglob("*.jpg")).unlink()
    assert tree(unpack(archive, out)) == content_of(ARCHIVE)


def test_changed_archive_replaces_what_it_gave_and_nothing_else(archive, tmp_path):
    out = unpack(archive, tmp_path / "out")
    (out / "ISIC2018_Task3_Test_Input").mkdir()
    (out / "ISIC2018_Task3_Test_Input" / "other.jpg").write_bytes(b"of another archive")
    top = "ISIC2018_Task3_Training_Input"
    newer = zipped({f"{top}/ISIC_0.jpg": b"N" * 3000, f"{top}/new.jpg": b"1"})
    archive.write_bytes(newer)
    unpack(archive, out)
    assert tree(out) == content_of(newer) | {
        "ISIC2018_Task3_Test_Input/other.jpg": b"of another archive"
    }


def test_unpacking_needs_room(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: USAGE(files.SPARE + 11_999))
    assert "not enough room" in refusal(unpack, archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_disk_that_fills_up_while_unpacking_is_one_line(archive, tmp_path, monkeypatch):
    def full(source, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.shutil, "copyfileobj", full)
    assert "filled up" in refusal(unpack, archive, tmp_path / "out")
