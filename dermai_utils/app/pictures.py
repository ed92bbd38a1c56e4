"""A user's own pictures: files, folders, web addresses, uploads -> decoded as in training."""

import os
import zipfile
from functools import partial
from itertools import chain, count
from pathlib import Path

from dermai_utils import pixels, predictions
from dermai_utils.basics import CLASS_NAMES, IMAGE_SUFFIXES, ZERO_WEIGHT, UserError
from dermai_utils.files import printable

LARGEST = 200 * 10**6  # bytes of an encoded picture; the largest of the data set has under 1 MB
TIMEOUT = (10, 30)  # seconds: to connect; without a byte
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
            yield name, partial(*((bytes, one) if isinstance(one, bytes) else (content, one, name)))
    elif isinstance(source, bytes):
        yield "picture", partial(bytes, source)
    elif isinstance(source, list | tuple):
        yield from chain.from_iterable(map(pictures, source))
    elif is_address(source):
        yield str(source), partial(fetched, str(source))
    else:
        path = Path(os.path.expanduser(source))  # Path's own refuses ~x where x has no account
        if not os.path.isdir(path):
            yield printable(path.name), partial(content, path)
            return
        for file in _in_folder(path):
            name = printable(path if file == path else file.relative_to(path).as_posix())
            yield name, partial(content, file, name)


def is_address(source) -> bool:
    """Whether `source` is an http(s) address."""
    return str(source).lower().startswith(("http://", "https://"))


def _in_folder(folder) -> list[Path]:
    """Every file in a folder and its subfolders, and each subfolder that cannot be entered.

    Without hidden ones and a Mac's __MACOSX; the folder itself where there is no file.
    """

    def wanted(path):
        hidden = any(p.startswith((".", "__MACOSX")) for p in path.relative_to(folder).parts)
        entered = path.is_dir() and not path.is_symlink() and os.access(path, os.R_OK | os.X_OK)
        return not hidden and not entered

    return sorted(filter(wanted, folder.rglob("*"))) or [folder]


def content(path, name: str = "") -> bytes:
    """The bytes of a file; UserError where it is missing, no image by its name, or too large."""
    path = Path(path)
    name = name or printable(path)
    expected = f"expected files ending in {' '.join(sorted(IMAGE_SUFFIXES))}"
    try:
        size = path.stat().st_size
        if path.is_dir():
            why = f"a folder without an image, or one that cannot be opened; {expected}"
        # a file without a suffix is judged by its content; a camera's raw file holds a thumbnail
        elif path.suffix and path.suffix.lower() not in IMAGE_SUFFIXES:
            why = f"not an image by its suffix; {expected}"
        elif size > LARGEST:
            why = f"{size / 1e6:,.0f} MB; a picture has at most {LARGEST / 1e6:.0f}"
        else:
            return path.read_bytes()
    except (FileNotFoundError, ValueError):  # the latter for a path with a NUL
        why = "no such file; give an image file, a folder of them, or an http(s) address"
    except OSError as reason:
        why = f"cannot be read ({reason.strerror})"
    raise UserError(f"{name}: {why}")


def fetched(url: str, largest: int = LARGEST) -> bytes:
    """The bytes at an http(s) address; UserError for a 404, a web page, more than `largest`."""
    import requests
    from urllib3.exceptions import HTTPError

    options = dict(stream=True, timeout=TIMEOUT, headers={"User-Agent": "DermAI-ISIC2018"})
    try:
        with requests.get(url, **options) as reply:
            data = reply.raw.read(largest + 1, decode_content=True)
    except (requests.RequestException, HTTPError, ValueError) as reason:  # the last: http://a..b
        why = f"cannot be fetched ({type(reason).__name__})"
        check = "is the address right, and this machine online?"
        raise UserError(f"{url}: {why}; {check}") from None
    if not reply.ok:
        status = f"{reply.status_code} {reply.reason}"
        raise UserError(f"{url}: the server answers {status}; open it in a browser first")
    if reply.headers.get("Content-Type", "").startswith("text/"):
        raise UserError(f"{url}: a web page; give the address of the file itself")
    if len(data) > largest:
        raise UserError(f"{url}: more than {largest / 1e6:.0f} MB; is it the right file?")
    return data


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


def numbered(paths) -> dict:
    """{name: path}, a second photo.jpg as "photo (2).jpg": some phones give all the same name."""
    names = {}
    for path in map(Path, paths):
        others = (f"{path.stem} ({k}){path.suffix}" for k in count(2))
        names[next(name for name in chain([path.name], others) if name not in names)] = path
    return names


def examples(run, dataset=None) -> dict:
    """{title: path or bytes} of a few pictures that the run never saw.

    One image of each of EXAMPLES from the subset to quote where `dataset` and its files are here,
    else made-up pictures.
    """
    found = {}
    if dataset is not None:
        subset = predictions.primary_subset(run.table["subset"])
        unseen = run.table.loc[run.table["subset"] == subset, "image"]
        rows = dataset.table[dataset.table["image"].isin(unseen)].drop_duplicates("label")
        paths = rows.set_index("label")["path"].map(Path)
        here = [c for c in EXAMPLES if c in paths and paths[c].exists()]
        found = {f"an unseen {CLASS_NAMES[c]}": paths[c] for c in here}
    if found:
        return found
    with zipfile.ZipFile(MADE_UP) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(IMAGE_SUFFIXES)]
        names = [name for name in names if ZERO_WEIGHT not in name]  # noise, which gets no answer
        names = enumerate(names[: len(EXAMPLES)], 1)
        return {f"a made-up picture ({k})": archive.read(name) for k, name in names}
