"""Made-up copies of the data for test_copies.py, and the one place that knows what the commands and
their files are called."""

import contextlib
import dataclasses
import functools
import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pandas as pd
from PIL import Image

from dermai_utils import datasets, splits
from dermai_utils.basics import UserError

# Pictures and folders


def colours(number):
    """The colours, RGB, of the left and the right half of photograph `number`."""
    left = (40 + 50 * (number % 4), 60 + 40 * (number // 4 % 4), 50 + 30 * (number // 16 % 6))
    return left, (200 - number // 96 * 20, 120, 90)


def picture(number, width=16, height=12):
    """Photograph `number`: two halves of one colour each."""
    left, right = colours(number)
    image = Image.new("RGB", (width, height), right)
    image.paste(left, (0, 0, width // 2, height))
    return image


def encoded(image, kind="JPEG", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(number, kind="JPEG", **options):
    """The bytes of photograph `number`; each number has other pixels."""
    return encoded(picture(number), kind, **options)


KINDS = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF"}  # of a picture in a tree; else JPEG


def photos(*names):
    """{name: number of the photograph}, the one at the end of each stem."""
    return {name: int("".join(filter(str.isdigit, Path(name).stem[-3:]))) for name in names}


def flat(tree):
    """{name: bytes or text} of all files of a tree: X.zip and X/ may hold a tree, a number is that
    photograph, in the format that the name says."""
    made = {}
    for name, content in tree.items():
        if isinstance(content, dict) and name.endswith(".zip"):
            made[name] = zipped(content)
        elif isinstance(content, dict):
            made |= {name + inside: data for inside, data in flat(content).items()}
        elif isinstance(content, int):
            made[name] = photo(content, KINDS.get(Path(name).suffix, "JPEG"))
        else:
            made[name] = content
    return made


def large_png(width, height, bits=8, pixel=b"\0\0\0"):
    """The bytes of an RGB PNG of one colour, made without its pixels in memory."""
    lines = zlib.compressobj(1)
    body = b"".join(lines.compress(b"\0" + pixel * width) for _ in range(height)) + lines.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def zipped(members, packed=False, link=None, encrypted=False):
    """The bytes of a zip of a tree, see `flat`.

    packed: compressed. link: the member that is a link, to its content. encrypted: is said to be.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in flat(members).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK if name == link else stat.S_IFREG) << 16
            bundle.writestr(info, content, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    data = bytearray(buffer.getvalue())
    if encrypted:
        data[data.index(b"PK\1\2") + 8] |= 1  # in the first entry of the directory
    return bytes(data)


def folder(path, contents):
    """`path`, with a tree in it (see `flat`), X/ without content as an empty folder; or as a file,
    where `contents` are text."""
    if isinstance(contents, str):
        path.write_text(contents)
        return path
    path.mkdir(parents=True, exist_ok=True)
    for name, content in flat(contents).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (path / name).mkdir(exist_ok=True)
        else:
            content = content.encode() if isinstance(content, str) else content
            (path / name).write_bytes(content)
    return path


def contents(path):
    """{name: bytes} of all files below `path`."""
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def many():
    """144 made-up images as a table of words with PNGs, {file: content}, with all that a split
    keeps together: lesions of 1 to 4 images, of which some are not known, patients, copies by name,
    equal pixels; PAIRS are its near-duplicates."""
    rows, number = ["image,label,lesion_id,patient_id"], 0
    pictures, words = {}, "mel nv nv bkl nv bcc nv akiec nv df nv vasc bkl nv bcc".split()
    for lesion in range(76):
        for _ in range((1, 2, 1, 3, 1, 1, 4, 1, 2)[lesion % 9]):
            known = "" if lesion % 11 == 5 else f"L{lesion}"
            patient = f"P{lesion // 3}" if lesion < 24 else ""
            rows.append(f"a{number:03},{words[lesion % 15]},{known},{patient}")
            pictures[f"a{number:03}.png"] = number
            number += 1
    for image in ("a003_aug0", "a003_aug1", "a031 (1)", "a064_1", "a064_1_flip", "a099-copy"):
        rows.append(f"{image},nv,,")
    for image in ("a012_downsampled", "a111_downsampled", "a120_rot90"):
        rows.append(f"{image},mel,,")
    for row in rows[number + 1 :]:
        pictures[row.split(",")[0] + ".png"] = number
        number += 1
    pictures |= {"a040.png": 50, "a081.png": 80, "a129.png": 7}
    return {"labels.csv": "\n".join(rows) + "\n", **pictures}


def some(rows, first, **pictures):
    """Images as a table of words with PNGs, {file: content}.

    rows: {image: "label,lesion,patient"}; pictures: {image: number}, else from `first` on.
    """
    numbers = {image: first + k for k, image in enumerate(rows)} | pictures
    lines = ["image,label,lesion_id,patient_id", *(f"{i},{words}" for i, words in rows.items())]
    table = {"labels.csv": "\n".join(lines) + "\n"}
    return table | {f"{image}.png": numbers[image] for image in rows}


PAIRS = "image_a,image_b\na005,a070\na070,a090\na100,B9\na001,not there\n"

# The adapter


@dataclasses.dataclass
class Found:
    """What a command said and left.

    accepted: {image: "source label lesion"}, the lesion - where it is not known; source: train,
    official, extra, clinic (the folder given as --test), given test (one in the data whose ids are
    not official). rejected: {image: reason}, several reasons joined by " + ". table: by image, with
    age, sex and so on. pixels: {image: (H, W, 3)}. subset: {image: train, val, test, a fold's
    number, official, clinic, extra or left out}. audit: {"left out": {reason: images}, "a/b": {key:
    how many are in both}}.
    """

    printed: str
    error: str
    accepted: dict = dataclasses.field(default_factory=dict)
    rejected: dict = dataclasses.field(default_factory=dict)
    table: pd.DataFrame = None
    pixels: dict = dataclasses.field(default_factory=dict)
    subset: dict = dataclasses.field(default_factory=dict)
    audit: dict = dataclasses.field(default_factory=dict)


def look(home, command="data", **settings) -> Found:
    """`data` or `split` on home/data, and on home/clinic as --test and home/more as --extra where
    these are there; what is made lies in home/cache."""
    given = {"data": home / "data"} | settings
    for name, path in (("test", home / "clinic"), ("extra", home / "more")):
        given |= {name: path} if path.exists() else {}
    names = ("data", "test", "extra", "base_url")
    where = {name: given[name] for name in names if name in given}
    found, out = Found("", ""), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            dataset = datasets.load(size=32, cache=given.get("cache_dir", home / "cache"), **where)
            _read(found, dataset)
            if command == "split":
                _split(found, dataset.table, given)
    except UserError as error:
        found.error = f"error: {error}"
    found.printed = out.getvalue() + found.error
    return found


def _read(found, dataset):
    """Fill `found` from a Dataset."""
    table = dataset.table.assign(lesion_id=dataset.table["lesion_id"].replace("", "-"))
    found.pixels = dict(zip(table["image"], dataset.pixels, strict=True))
    found.table = table.set_index("image")
    words = found.table[["source", "label", "lesion_id"]].agg(" ".join, axis=1)
    found.accepted = words.to_dict()
    found.rejected = dataset.rejected.groupby("image")["reason"].agg(" + ".join).to_dict()


def _split(found, table, given):
    """Fill in subsets and audit, under the names of the cases."""
    pairs = splits.near_duplicates(given["near_duplicates"])
    common = dict(test=given.get("test_fraction"), seed=given.get("split_seed", 0), pairs=pairs)
    if folds := given.get("folds"):
        subset = splits.folds(table, folds, **common)
    else:
        strategy, val = given.get("split", "lesion"), given.get("val_fraction", 0.12)
        subset = splits.split(table, val, strategy=strategy, **common)
    for line in splits.notes(table, subset, pairs):
        print(f"split: {line}")
    # the cases tell extra images from the other training images
    apart = subset.mask((table["source"] == "extra") & (subset == "train"), "extra")
    found.subset = dict(zip(table["image"], apart, strict=True))
    reasons = splits.leaks(table, subset, pairs)[subset == splits.LEFT_OUT].value_counts()
    audit = splits.audit(table, apart, pairs).drop(index="fold/fold", errors="ignore")
    audit = audit.rename(index=lambda names: names.replace("folds", "train"))
    # a list without an image of a subset says nothing about it: it was 0, and is not known now
    audit["near_duplicates"] = audit["near_duplicates"].fillna(0)
    audit = audit.astype(object).where(audit.notna(), None)
    found.audit = {"left out": reasons.to_dict()} | audit.to_dict("index")


# Images of the official data with the pixels of another one, which show the same lesion.
SAME_PIXELS = {"ISIC_0029861": "ISIC_0024366", "ISIC_0029938": "ISIC_0024777"}


def official_split(seed, folds=0):
    """{image: subset} of the real official training images, from the tables alone; None where these
    are not at hand."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "isic2018"
    if not shared.is_dir():
        return None
    name = "ISIC2018_Task3_Training_GroundTruth"
    with (
        zipfile.ZipFile(shared / f"{name}.zip") as bundle,
        bundle.open(f"{name}/{name}.csv") as file,
    ):
        truth = pd.read_csv(file, index_col="image").sort_index()
    lesions = pd.read_csv(shared / "ISIC2018_Task3_Training_LesionGroupings.csv", index_col="image")
    table = pd.DataFrame({"image": truth.index, "label": truth.idxmax(axis=1).to_numpy()})
    table["lesion_id"] = lesions["lesion_id"].reindex(truth.index).to_numpy()
    table["pixel_hash"] = table["image"].replace(SAME_PIXELS)
    make = splits.split if not folds else functools.partial(splits.folds, n=folds)
    return dict(zip(table["image"], make(table, test=0.12, seed=seed), strict=True))
