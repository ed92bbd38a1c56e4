"""The pixel array: each image decoded once, by all cores, into one uint8 array on disk."""

import functools
import hashlib
import io
import itertools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from dermai_utils import files
from dermai_utils.basics import counted
from dermai_utils.progress import bar

MAX_PIXELS = 100_000_000  # a dermoscopic photograph has under 25 million
FLUSH_BYTES = 2**24  # of decoded pixels between two writes to the disk
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # for EPS, Pillow would start Ghostscript
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # from `decode`
UNREADABLE += (EOFError, RuntimeError)  # from pillow-heif


def shape(size: int) -> tuple[int, int]:
    """(height, width) of the stored images, 4:3: `size` px, rounded up to a multiple of 75 px.

    Steps of 75 px keep 4:3 in whole pixels, and 225 (for 224) is exactly half of the official 450,
    which a JPEG decodes to directly, without a resize.

    >>> shape(224)
    (225, 300)
    """
    steps = -(-size // 75)
    return 75 * steps, 100 * steps


def decode(data: bytes, height: int, width: int) -> np.ndarray:
    """An encoded image as (height, width, 3) uint8 RGB, its aspect ratio kept, its edges repeated.

    EXIF's orientation is applied. Then a portrait image is turned a quarter counter-clockwise, for
    all training images are landscape: it fills the frame as they do. (Phones store an upright photo
    lying, to be turned clockwise: so we get it as the sensor had it.) Transparency becomes white.

    Raises one of UNREADABLE for data that is no image or too large, or has values of unclear scale.
    """
    with _open(data) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        # JPEG's own scaling; however it is turned below, its long side ends along `width`
        image.draft("RGB", (width, height) if image.width >= image.height else (height, width))
        # gone after the next line
        stored = "8 bits" if image.format == "JPEG" else str(getattr(image, "tile", ""))
        ImageOps.exif_transpose(image, in_place=True)
        image = _rgb(image, stored)
        if image.height > image.width:  # before the resize, which is not symmetric to the last bit
            image = image.transpose(Image.Transpose.ROTATE_90)
        scale = min(width / image.width, height / image.height)
        fitted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        if fitted != image.size:
            image = image.resize(fitted, Image.Resampling.BILINEAR, reducing_gap=2.0)
        array = np.asarray(image)
    top, left = (height - array.shape[0]) // 2, (width - array.shape[1]) // 2
    if (top, left) == (0, 0) and array.shape[:2] == (height, width):
        return array
    rest = ((top, height - array.shape[0] - top), (left, width - array.shape[1] - left), (0, 0))
    return np.pad(array, rest, mode="edge")


def _open(data):
    if not data:
        raise ValueError("the file is empty (zero bytes)")
    if data[128:132] == b"DICM":
        return _dicom(data)
    # a phone may call it .jpg; by the brands in its first box (ISO 14496-12, "ftyp")
    if data[4:8] != b"ftyp" or not re.search(b"hei|hev", data[8:64]):
        return Image.open(io.BytesIO(data), formats=FORMATS)
    try:
        import pillow_heif  # an extra package, which few need
    except ImportError:
        raise ValueError("a HEIC picture needs pip install pillow-heif") from None
    pillow_heif.register_heif_opener()
    return Image.open(io.BytesIO(data), formats=["HEIF"])


def _dicom(data):
    """The picture in a DICOM file, such as those of ISIC 2020: 8 bits, in colour."""
    try:
        import pydicom  # an extra package, which few need
        from pydicom.pixels import pixel_array  # as RGB
    except ImportError:
        raise ValueError("a DICOM picture needs pip install pydicom>=3") from None
    try:
        scan = pydicom.dcmread(io.BytesIO(data))
        array, colours = pixel_array(scan), str(scan.PhotometricInterpretation)
    except Exception as error:  # whatever it raises for a damaged or rare file
        raise ValueError(f"damaged DICOM file ({' '.join(str(error).split()):.100})") from None
    if array.dtype != np.uint8 or array.ndim != 3 or colours not in ("RGB", "YBR_FULL_422"):
        raise ValueError(f"a DICOM file of {array.dtype} {colours}; save it as JPEG")
    return Image.fromarray(array)


def _rgb(image, stored):
    """The image as RGB, 8 bits a channel, on white where it is transparent.

    stored: Pillow's description of the file's values, such as "RGB;16B".
    """
    if image.mode[0] in "IF" or re.search(";16[BLN]", stored):
        raise ValueError("more than 8 bits a colour, of unclear scale; save it with 8 bits")
    if image.mode[-1] in "Aa" or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    # a conversion to the mode it has is a copy
    return image if image.mode == "RGB" else image.convert("RGB")


def build(paths, size: int, target, workers: int = 0) -> pd.DataFrame:
    """Decode `paths` into the array file `target`, (N, H, W, 3) uint8 with the shape of `size`.

    Returns a row for each path: `pixel_hash`, 16 hex digits of SHA-256 of the decoded pixels, and
    `error`, the reason for an image that cannot be read, or "" (its pixels are black then). The
    file appears when it is whole. workers: threads, 0 for one a core. UserError where the disk has
    no room, OSError where it fills up meanwhile.
    """
    height, width = shape(size)
    target, needed = Path(target), len(paths) * height * width * 3
    files.check_room(target.parent, needed)
    disk = f"{width}×{height} px, {needed / 1e9:.2f} GB on disk"
    print(f"data: decoding {counted(len(paths), 'image')} to {disk}")
    results, interval = [], max(1, FLUSH_BYTES // (height * width * 3))
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), height, width, 3)}
    with files.atomic(target, "wb") as file, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        np.lib.format.write_array_header_1_0(file, header)
        store = functools.partial(_store, file.name, file.tell(), height, width)
        file.truncate(file.tell() + needed)  # all black: a hole until it is written
        rows = pool.map(store, itertools.count(), paths)  # threads: Pillow frees Python's lock
        for result in bar(rows, "decode", len(paths), unit="image", mininterval=0.5):
            results.append(result)
            # the disk writes while the cores decode: all at the end takes 12 % longer
            if len(results) % interval == 0:
                os.fsync(file.fileno())
    return pd.DataFrame(results, columns=["pixel_hash", "error"])


def _store(array_file, offset, height, width, row, path):
    """Decode one image into its row of the array file; (pixel_hash, error)."""
    try:
        pixels = decode(Path(path).read_bytes(), height, width)
    except UNREADABLE as reason:
        return "", plain(reason)
    pixels = np.ascontiguousarray(pixels)
    # written, not mapped: a quarter of the time, and a full disk is an OSError
    with open(array_file, "rb+") as file:
        file.seek(offset + row * pixels.nbytes)
        file.write(pixels)
    return checksum(pixels), ""


def checksum(image) -> str:
    """pixel_hash of a decoded image (H, W, 3) uint8."""
    # SHA-256: processors have an instruction for it, twice as fast as BLAKE2
    return hashlib.sha256(np.ascontiguousarray(image)).hexdigest()[:16]


def compact(target, kept):
    """Move the rows `kept` (increasing numbers) of the array file to its front, in place."""
    if len(kept) and kept[-1] != len(kept) - 1:
        array = np.load(target, mmap_mode="r+")
        for new, old in enumerate(kept):
            if new != old:
                array[new] = array[old]
        array.flush()


def plain(reason) -> str:
    """Why `decode` gave no image, in words."""
    if isinstance(reason, Image.DecompressionBombError):
        return f"larger than {MAX_PIXELS // 10**6} million pixels"
    text = str(reason)
    if "cannot identify" in text:
        return "not an image"
    if any(words in text for words in ("truncated", "broken data", "end of file")):
        return "truncated or damaged image"
    return " ".join(text.split())
