"""The pixel array: every image decoded once, by all cores, into one uint8 array on disk."""

import functools
import hashlib
import io
import itertools
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from dermai_utils.config import UserError

MAX_PIXELS = 100_000_000  # a dermoscopic photograph has under 25 million
FLUSH_BYTES = 2**24  # of decoded pixels between two writes to the disk
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # for EPS, Pillow would start Ghostscript
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # from `decode`


def shape(image_size: int) -> tuple[int, int]:
    """(height, width) of the stored images, 4:3: `image_size` rounded up to a multiple of 75 px.

    Steps of 75 px keep 4:3 in whole pixels, and 225 (for 224) is exactly half of the official 450,
    which a JPEG decodes to directly, without a resize.
    """
    steps = -(-image_size // 75)
    return 75 * steps, 100 * steps


def decode(data: bytes, height: int, width: int) -> np.ndarray:
    """An encoded image as (height, width, 3) uint8 RGB, its aspect ratio kept, its edges repeated.

    Raises one of UNREADABLE where `data` is no image, or too large a one.
    """
    if not data:
        raise ValueError("the file is empty (zero bytes)")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF: width and height change places
        image.draft("RGB", (height, width) if turned else (width, height))  # JPEG's own scaling
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # 16 bit: PIL clips these to 255 instead of scaling them
            image = Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
        if image.mode != "RGB":  # a conversion to the mode it has is a copy
            image = image.convert("RGB")
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


def build(paths, image_size: int, target, workers: int = 0, progress: bool = True) -> list[dict]:
    """Decode `paths` into the array file `target`, (N, H, W, 3) uint8, and say what became of each.

    Returns a dict an image: `file_hash` (of the file's bytes), `pixel_hash` (of the decoded
    pixels), `error` (a reason, or ""; its row in the array is black then). The file appears only
    when it is whole. UserError where the disk has no room, OSError where it fills up meanwhile.
    """
    height, width = shape(image_size)
    target, needed = Path(target), len(paths) * height * width * 3
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_room(target.parent, needed)
    size = f"{width}×{height} px, {needed / 1e9:.2f} GB on disk"
    print(f"pixels: decoding {len(paths):,} images to {size}")
    temporary = target.with_suffix(".part.npy")
    array_shape = (len(paths), height, width, 3)
    offset = np.lib.format.open_memmap(temporary, "w+", np.uint8, array_shape).offset  # all black
    store = functools.partial(_store, temporary, offset, height, width)
    results, interval = [], max(1, FLUSH_BYTES // (height * width * 3))
    bar = dict(unit="image", mininterval=0.5, disable=not progress)
    try:
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool, open(temporary, "rb+") as file:
            rows = pool.map(store, itertools.count(), paths)  # threads: Pillow frees Python's lock
            for result in tqdm(rows, "decode", len(paths), **bar):
                results.append(result)
                # the disk writes while the cores decode: all at the end takes 12 % longer
                if len(results) % interval == 0:
                    os.fsync(file.fileno())
            os.fsync(file.fileno())
    except OSError as reason:
        temporary.unlink()  # a full disk gets its room back
        raise OSError(reason.errno, os.strerror(reason.errno), str(temporary)) from None
    os.replace(temporary, target)
    return results


def _check_room(folder, needed):
    free = shutil.disk_usage(folder).free
    if needed * 1.02 > free:
        room = f"need {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free"
        advice = "free some space, or give another cache_dir or a smaller image_size"
        raise UserError(f"{folder}: the decoded images {room}; {advice}")


def _store(array_file, offset, height, width, row, path) -> dict:
    """Decode one image into its row of the array file, and say what became of it."""
    data, pixels, error = b"", b"", ""
    try:
        data = Path(path).read_bytes()
        pixels = decode(data, height, width)
    except UNREADABLE as reason:
        error = plain(reason)
    else:
        # written, not mapped: a quarter of the time, and a full disk is an OSError
        with open(array_file, "rb+") as file:
            file.seek(offset + row * pixels.nbytes)
            file.write(pixels)
    pixel_hash = "" if error else _hash(pixels)
    return {"file_hash": _hash(data), "pixel_hash": pixel_hash, "error": error}


def load(path) -> np.ndarray:
    """The pixel array, (N, H, W, 3) uint8, mapped read-only: a row is read when it is used."""
    return np.load(path, mmap_mode="r")


def plain(reason) -> str:
    """Why `decode` gave no image, in words."""
    if isinstance(reason, Image.DecompressionBombError):
        return f"larger than {MAX_PIXELS // 10**6} million pixels"
    text = str(reason)
    if "cannot identify" in text:
        return "not an image"
    if "truncated" in text or "broken data" in text:
        return "truncated or damaged image"
    return text


def _hash(data) -> str:
    """16 hex digits of SHA-256: processors have an instruction for it, twice as fast as BLAKE2."""
    return hashlib.sha256(np.ascontiguousarray(data) if len(data) else b"").hexdigest()[:16]
