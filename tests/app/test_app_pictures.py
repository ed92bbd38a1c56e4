import os
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from mirror import answers, serving
from photos import encoded, picture

from dermai_utils.app import pictures
from dermai_utils.app.answers import Answer
from dermai_utils.app.predictor import Predictor
from dermai_utils.basics import CLASS_NAMES, ZERO_WEIGHT, UserError


class Reader(Predictor):
    """A predictor that reads its pictures, and gives every one of them the same answer."""

    def __init__(self):
        self.run = SimpleNamespace(size=64)

    def __call__(self, names, images, maps=True):
        assert images.shape == (len(names), 75, 100, 3)
        return [Answer(name, np.full(7, 1 / 7), (), 0.1, [], {}) for name in names]


def names(source):
    """The names of the pictures that get an answer."""
    return [answer.name for answer in Reader().answers(source, maps=False)]


def write(folder, contents):
    """{relative name: bytes} as files."""
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


BAD = {
    "notes.txt": (b"hello", "notes.txt: not an image; expected a JPEG"),
    "empty.jpg": (b"", "zero bytes"),
    # Pillow would hand it to Ghostscript
    "drawing.eps": (encoded(picture(), "EPS"), "not an image; expected a JPEG"),
    "half.jpg": (encoded(picture(450, 600), "JPEG")[:2000], "truncated or damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_one_line(name):
    with pytest.raises(UserError, match=BAD[name][1]) as caught:
        names({name: BAD[name][0]})
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_folder_is_read_with_its_subfolders_by_content_and_goes_on(tmp_path, capsys):
    jpeg, png = encoded(picture(), "JPEG"), encoded(picture())
    good = {"a.jpe": jpeg, "b.JFIF": jpeg, "c.webp": encoded(picture(), "WEBP")}
    good |= {"clinic/2024/d.jpg": jpeg, "clinic/no suffix": png}
    hidden = {".DS_Store": b"", "._a.jpe": b"", ".trash/e.png": png}
    hidden |= {"__MACOSX/clinic/._d.jpg": b"", "clinic/.thumbs/f.png": png}
    write(tmp_path, good | hidden)
    assert sorted(names(tmp_path)) == sorted(good) and capsys.readouterr().out == ""
    write(tmp_path, {"README": b"words", "clinic/raw.nef": encoded(picture(), "TIFF")})
    assert sorted(names(tmp_path)) == sorted(good)
    assert capsys.readouterr().out == (
        "predict: 5 of 7 files read; left out: 2 (README: not an image; "
        "clinic/raw.nef: not an image by its suffix)\n"
    )
    with pytest.raises(UserError, match="none of 2 pictures can be read: README: not an image"):
        names({"README": tmp_path / "README", "gone.png": tmp_path / "gone.png"})


def test_a_subfolder_that_is_not_entered_is_named(tmp_path, capsys):
    write(tmp_path, {"here/a.png": encoded(picture()), "there/b.png": encoded(picture())})
    (tmp_path / "here" / "loop").symlink_to(tmp_path / "here", target_is_directory=True)
    assert names(tmp_path / "here") == ["a.png"]
    assert "left out: 1 (loop: a folder" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none: a folder without an image.* ending in .bmp"):
        names(tmp_path / "none")
    if os.getuid():  # root, as on Colab, may list any folder
        (tmp_path / "there").chmod(0)
        names(tmp_path)
        assert "(there: a folder" in capsys.readouterr().out
        (tmp_path / "there").chmod(0o700)


@pytest.mark.parametrize(
    "source",
    ["gone.png", "~x.png", "http://[", "https://", "http://a..b/x.png", "a\0b.png", "x" * 300],
)
def test_a_source_that_is_none_is_one_line_and_the_rest_is_answered(tmp_path, source, capsys):
    write(tmp_path, {"good.png": encoded(picture())})
    assert names([source, tmp_path / "good.png"]) == ["good.png"]
    assert "predict: 1 of 2 files read; left out: 1 (" in capsys.readouterr().out
    with pytest.raises(UserError) as caught:
        names(source)
    assert "\n" not in str(caught.value) and source in str(caught.value)


def test_a_file_may_be_called_as_somebodys_home_or_in_another_encoding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = os.fsdecode(b"caf\xe9.png")
    try:
        write(tmp_path, {"~x.png": encoded(picture()), odd: encoded(picture())})
    except (OSError, UnicodeError):
        pytest.skip("this system has no such names")
    assert names("~x.png") == ["~x.png"] and names(odd) == ["caf\ufffd.png"]
    assert names(tmp_path) == ["caf\ufffd.png", "~x.png"]


def test_examples_are_of_images_that_the_run_never_saw_or_made_up(run, data):
    unseen = pictures.examples(run, data)
    assert list(unseen) == [f"an unseen {CLASS_NAMES[c]}" for c in pictures.EXAMPLES]
    official = set(run.table.loc[run.table["subset"] == "official", "image"])
    assert all(path.exists() and path.stem in official for path in unseen.values())
    alone = pictures.examples(run)
    assert len(alone) == 3 and all("made-up" in name for name in alone)
    with zipfile.ZipFile(pictures.MADE_UP) as archive:  # its picture of noise gets no answer
        noise = next(archive.read(name) for name in archive.namelist() if ZERO_WEIGHT in name)
    assert noise not in alone.values()
    assert len(names(alone)) == len(names(unseen)) == 3


# Addresses.


def test_an_address_is_its_picture_or_one_line():
    with serving({"good.png": encoded(picture()), "zeros.png": b"0" * 5000}) as server:
        good, bad, gone = (f"{server.url}{name}.png" for name in ("good", "zeros", "gone"))
        ((name, read),) = pictures.pictures(good)
        assert name == good and read() == encoded(picture())
        with pytest.raises(UserError, match="more than 0 MB"):  # not read to its end
            pictures.fetched(bad, largest=4000)
        nobody = "http://127.0.0.1:9/x.png"
        said = {gone: "answers 403", bad: "not an image", nobody: "cannot be fetched"}
        for address, message in said.items():
            with pytest.raises(UserError, match=message):
                names(address)
        server.plan = [answers(200, b"<html></html>", Content_Type="text/html; charset=utf-8")]
        with pytest.raises(UserError, match="a web page; give"):
            names(good)
