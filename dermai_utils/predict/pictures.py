"""A user's own pictures: files, folders, web addresses, uploads -> decoded as in training."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import requests

from dermai_utils import config, files
from dermai_utils.config import CLASS_NAMES, IMAGE_SUFFIXES, UserError
from dermai_utils.data import clean, pixels, split
from dermai_utils.data.fetch import is_address
from dermai_utils.metrics.predictions import scored_rows

LARGEST = 200 * 10**6  # bytes of an encoded picture; the largest of the data set has under 1 MB
TIMEOUT = (10, 30)  # seconds: to connect; without a byte
CHUNK = 2**16  # bytes


def pictures(source):
    """Yields (name, bytes or a UserError) for each picture that `source` stands for.

    source: a path, a folder (with its subfolders), an http(s) URL, bytes, {name: bytes} (what
    google.colab.files.upload gives), or a list of these. Of a folder, each file comes, whatever it
    is; only hidden ones do not.
    """
    if isinstance(source, dict):
        yield from source.items()
    elif isinstance(source, bytes):
        yield "picture", source
    elif isinstance(source, list | tuple):
        for item in source:
            yield from pictures(item)
    elif is_address(source):
        yield str(source), _or_error(fetched, str(source))
    else:
        path = Path(os.path.expanduser(source))  # Path's own refuses ~x where nobody is called x
        if os.path.isdir(path):
            yield from _in_folder(path)
        else:
            yield files.printable(path.name), _or_error(content, path)


def _in_folder(folder):
    paths = list(_visible_files(folder))
    for path in paths:
        yield _name_in(folder, path), _or_error(_content_in, folder, path)
    if not paths:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        reason = f"{folder}: no image in this folder; expected files ending in {suffixes}"
        yield str(folder), UserError(reason)


def _visible_files(folder):
    """Every file in a folder and its subfolders; the subfolders that aren't entered come as paths.

    Hidden ones, and a Mac's __MACOSX, are left out.
    """
    refused = []
    for top, folders, names in os.walk(folder, onerror=refused.append):
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
        links = [name for name in folders if os.path.islink(os.path.join(top, name))]
        names = sorted(name for name in names if name[0] != ".")
        yield from (Path(top, name) for name in names + links)
    yield from (Path(error.filename) for error in refused)


def _name_in(folder, path):
    return files.printable(path.relative_to(folder).as_posix())


def _content_in(folder, path):
    """The bytes of a file of a folder; UserError where its name is that of something else."""
    name = _name_in(folder, path)
    if path.is_dir():
        raise UserError(f"{name}: a folder that cannot be opened, or a link to one")
    # a file without a suffix is judged by its content; a camera's raw file would be its thumbnail
    if path.suffix and path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{name}: not an image by its suffix")
    return content(path)


def _or_error(read, *source):
    try:
        return read(*source)
    except UserError as reason:
        return reason


def content(path) -> bytes:
    """The bytes of a file; UserError where it is missing, unreadable or too large."""
    name = files.printable(path)
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise UserError(
                f"{name}: {size / 1e6:,.0f} MB; a picture has at most {LARGEST / 1e6:.0f}"
            )
        return path.read_bytes()
    except (FileNotFoundError, ValueError):  # the latter of a path with a NUL
        raise UserError(
            f"{name}: no such file; give an image file, a folder of them, or an http(s) address"
        ) from None
    except OSError as reason:
        raise UserError(f"{name}: cannot be read ({reason.strerror})") from None


def fetched(url: str) -> bytes:
    """The bytes at an http(s) address; UserError for a 404, a web page, too much."""
    options = dict(stream=True, timeout=TIMEOUT, headers={"User-Agent": "DermAI-ISIC2018"})
    try:
        with requests.get(url, **options) as answer:
            return _body(url, answer)
    except (requests.RequestException, ValueError) as reason:  # the latter of http://a..b
        raise UserError(
            f"{url}: cannot be fetched ({type(reason).__name__}); is the address right, and this "
            "machine online?"
        ) from None


def _body(url, answer):
    if not answer.ok:
        status = f"{answer.status_code} {answer.reason}"
        raise UserError(f"{url}: the server answers {status}; open it in a browser first")
    if answer.headers.get("Content-Type", "").startswith("text/"):
        raise UserError(f"{url}: a web page, not an image; give the address of the image itself")
    data = bytearray()
    for chunk in answer.iter_content(CHUNK):
        data += chunk
        if len(data) > LARGEST:
            raise UserError(f"{url}: more than {LARGEST / 1e6:.0f} MB, too large for a picture")
    return bytes(data)


def decoded(name: str, data: bytes, height: int, width: int) -> np.ndarray | UserError:
    """(height, width, 3) uint8 by the project's one decoder, or the UserError that says why not."""
    try:
        return pixels.decode(data, height, width)
    except pixels.UNREADABLE as reason:
        fault = pixels.plain(reason)
        if fault == "not an image":
            fault += "; expected a JPEG, PNG, WebP, TIFF, BMP or GIF picture"
        return UserError(f"{name}: {fault}")


def example(cfg) -> Path:
    """The file of an image that the model never saw: the first of the primary subset."""
    for image in _unseen(cfg)["image"].head(1):
        if path := clean.image_path(cfg, image):
            return path
    raise UserError(
        "no photo was given, and none of the data set is on this machine: "
        "give a file, a folder or a URL"
    )


def _unseen(cfg) -> pd.DataFrame:
    """The rows of the primary subset; none where the report or the data set isn't here."""
    metrics = files.read_json(cfg.report_dir / "metrics.json")
    if metrics is None or not all(
        p.exists() for p in (cfg.rows_file, cfg.table_file, cfg.split_file)
    ):
        return pd.DataFrame(columns=["image", "label"])
    return scored_rows(split.read(cfg), metrics["primary_subset"])


EXAMPLES = ("MEL", "NV", "BKL")  # what the page offers to try
MADE_UP = "ISIC2018_Task3_Test_Input.zip"  # in the package


def examples(cfg) -> dict[str, bytes]:
    """{what it shows: the picture}: one of each of EXAMPLES, of images that the model never saw.

    Of the primary subset where the data set is on this machine, else of the made-up sample.
    """
    rows, found = _unseen(cfg), {}
    for label in EXAMPLES:
        for image in rows.loc[rows["label"] == label, "image"].head(1):
            if path := clean.image_path(cfg, image):
                found[f"an unseen {CLASS_NAMES[label]}"] = path.read_bytes()
    return found or _made_up()


def _made_up():
    with zipfile.ZipFile(config.SAMPLE / MADE_UP) as archive:
        names = [n for n in archive.namelist() if Path(n).suffix.lower() in IMAGE_SUFFIXES]
        pictures = names[: len(EXAMPLES)]
        return {f"a made-up picture ({k})": archive.read(n) for k, n in enumerate(pictures, 1)}
