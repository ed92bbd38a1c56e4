"""A user's own pictures: files, folders, web addresses, uploads -> decoded as in training."""

import os
import zipfile
from functools import partial
from itertools import chain, count
from pathlib import Path

import requests

from dermai_utils import pixels, predictions
from dermai_utils.basics import CLASS_NAMES, IMAGE_SUFFIXES, UserError
from dermai_utils.files import printable

LARGEST = 200 * 10**6  # bytes of an encoded picture; the largest of the data set has under 1 MB
TIMEOUT = (10, 30)  # seconds: to connect; without a byte
CHUNK = 2**16  # bytes
EXAMPLES = ("MEL", "NV", "BKL")  # classes that the page offers to try
MADE_UP = Path(__file__).parents[1] / "sample" / "ISIC2018_Task3_Test_Input.zip"


def pictures(source):
    """Yield (name, function that returns the bytes or raises a UserError) for each picture.

    source: a path, a folder (with its subfolders), an http(s) URL, bytes, {name: path or bytes}
    (google.colab.files.upload returns such a dict), or a list of these. Every file of a folder is
    yielded, except hidden ones.
    """
    if isinstance(source, dict):
        for name, one in source.items():
            yield name, partial(bytes, one) if isinstance(one, bytes) else partial(content, one, name)
    elif isinstance(source, bytes):
        yield "picture", partial(bytes, source)
    elif isinstance(source, list | tuple):
        yield from chain.from_iterable(map(pictures, source))
    elif is_address(source):
        yield str(source), partial(fetched, str(source))
    else:
        path = Path(os.path.expanduser(source))  # Path's own refuses ~x where x has no account
        if os.path.isdir(path):
            yield from _in_folder(path)
        else:
            yield printable(path.name), partial(content, path)


def is_address(source) -> bool:
    """Whether `source` is an http(s) address."""
    return str(source).lower().startswith(("http://", "https://"))


def numbered(paths) -> dict:
    """{name: path}, a second photo.jpg as "photo (2).jpg": some phones give all the same name."""
    names = {}
    for path in map(Path, paths):
        others = (f"{path.stem} ({k}){path.suffix}" for k in count(2))
        names[next(name for name in chain([path.name], others) if name not in names)] = path
    return names


def _in_folder(folder):
    paths = list(_visible_files(folder))
    for path in paths:
        name = printable(path.relative_to(folder).as_posix())
        yield name, partial(_content_in_folder, path, name)
    if not paths:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        reason = f"{folder}: no image in this folder; expected files ending in {suffixes}"
        yield str(folder), partial(_refuse, reason)


def _refuse(reason):
    raise UserError(reason)


def _visible_files(folder):
    """Every file in a folder and its subfolders; also a subfolder that cannot be entered.

    Without hidden ones and a Mac's __MACOSX.
    """
    refused = []
    for top, folders, names in os.walk(folder, onerror=refused.append):
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
        links = [name for name in folders if os.path.islink(os.path.join(top, name))]
        names = sorted(name for name in names if name[0] != ".")
        yield from (Path(top, name) for name in names + links)
    yield from (Path(error.filename) for error in refused)


def _content_in_folder(path, name) -> bytes:
    if path.is_dir():
        raise UserError(f"{name}: a folder that cannot be opened, or a link to one")
    # a file without a suffix is judged by its content; a camera's raw file would be its thumbnail
    if path.suffix and path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{name}: not an image by its suffix")
    return content(path, name)


def content(path, name: str = "") -> bytes:
    """The bytes of a file; UserError where it is missing, unreadable or too large."""
    path = Path(path)
    name = name or printable(path)
    try:
        if (size := path.stat().st_size) > LARGEST:
            most = f"a picture has at most {LARGEST / 1e6:.0f}"
            raise UserError(f"{name}: {size / 1e6:,.0f} MB; {most}")
        return path.read_bytes()
    except (FileNotFoundError, ValueError):  # the latter for a path with a NUL
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
    except (requests.RequestException, ValueError) as reason:  # the latter for http://a..b
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


def decoded(name: str, read, height: int, width: int):
    """(height, width, 3) uint8 by the decoder of training, or the UserError that says why not.

    read: a function that returns the bytes, see `pictures`.
    """
    try:
        return pixels.decode(read(), height, width)
    except UserError as reason:
        return reason
    except pixels.UNREADABLE as reason:
        fault = pixels.plain(reason)
        if fault == "not an image":
            fault += "; expected a JPEG, PNG, WebP, TIFF, BMP or GIF picture"
        return UserError(f"{name}: {fault}")


def examples(run, dataset=None) -> dict:
    """{title: path or bytes} of a few pictures that the run never saw.

    One image of each of EXAMPLES from the subset to quote where `dataset` and its files are here,
    else made-up pictures.
    """
    found = {}
    if dataset is not None:
        subset = predictions.primary_subset(set(run.table["subset"]))
        unseen = run.table.loc[run.table["subset"] == subset, ["image"]]
        rows = dataset.table.merge(unseen, on="image").drop_duplicates("label")
        paths = dict(zip(rows["label"], rows["path"], strict=True))
        titles = {f"an unseen {CLASS_NAMES[c]}": Path(paths[c]) for c in EXAMPLES if c in paths}
        found = {title: path for title, path in titles.items() if path.exists()}
    return found or _made_up()


def _made_up():
    with zipfile.ZipFile(MADE_UP) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(IMAGE_SUFFIXES)]
        names = names[: len(EXAMPLES)]
        return {f"a made-up picture ({k})": archive.read(n) for k, n in enumerate(names, 1)}
