"""The only JPEG decoder: every image once, by all cores, into one uint8 array on disk."""

import hashlib
import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from dermai_utils.config import UserError

MAX_PIXELS = 100_000_000  # a dermoscopic photograph has under 25 million; a bomb is refused before it is decoded
FLUSH_BYTES = 2**24  # of decoded pixels between two writes to the disk
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # and no other: for EPS, Pillow would start Ghostscript
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what `decode` may raise


def shape(image_size: int) -> tuple[int, int]:
    """(height, width) of the stored images: 4:3, the short side `image_size` rounded up to a multiple of 75 px.

    75 px steps keep 4:3 in whole pixels, and 225 (for 224) is exactly half of the official 450, which a JPEG decodes
    to directly, without a resize.
    """
    steps = -(-image_size // 75)
    return 75 * steps, 100 * steps


def decode(data: bytes, height: int, width: int) -> np.ndarray:
    """An encoded image as (height, width, 3) uint8, whole and with its aspect ratio kept; edges repeat where it isn't 4:3.

    Raises OSError, ValueError or DecompressionBombError where there is no such image.
    """
    if not data:
        raise ValueError("the file is empty (zero bytes)")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF: width and height change places
        image.draft("RGB", (height, width) if turned else (width, height))  # JPEG's own scaled decoding
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

    Returns a dict an image: `file_hash` (of the file's bytes), `pixel_hash` (of the decoded pixels), `error` (a reason,
    or ""; its row in the array is black then). The file appears only when it is whole. UserError where the disk is full.
    """
    height, width = shape(image_size)
    target, needed = Path(target), len(paths) * height * width * 3
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if needed * 1.02 > free:
        raise UserError(
            f"{target.parent}: the decoded images need {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; "
            "free some space, or give another cache_dir or a smaller image_size"
        )
    print(f"pixels: decoding {len(paths):,} images to {width}×{height} px, {needed / 1e9:.2f} GB on disk")
    temporary = target.with_suffix(".part.npy")
    start = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(paths), height, width, 3)).offset  # black throughout

    def one(item):
        row, path = item
        data, pixels, error = b"", b"", ""
        try:
            data = Path(path).read_bytes()
            pixels = decode(data, height, width)
        except UNREADABLE as reason:
            error = plain(reason)
        else:
            with open(temporary, "rb+") as file:  # written, not mapped: a quarter of the time, and a full disk is an OSError
                file.seek(start + row * pixels.nbytes)
                file.write(pixels)
        return {"file_hash": _hash(data), "pixel_hash": "" if error else _hash(pixels), "error": error}

    results, often = [], max(1, FLUSH_BYTES // (height * width * 3))
    try:
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool, open(temporary, "rb+") as file:
            items = pool.map(one, enumerate(paths))  # threads: PIL decodes outside Python's lock
            for result in tqdm(items, "decode", len(paths), unit="image", mininterval=0.5, disable=not progress):
                results.append(result)
                if len(results) % often == 0:  # the disk writes while the cores decode: all at the end takes 12 % longer
                    os.fsync(file.fileno())
            os.fsync(file.fileno())
    except OSError as reason:
        temporary.unlink()  # a full disk gets its room back
        raise OSError(reason.errno, os.strerror(reason.errno), str(temporary)) from None
    os.replace(temporary, target)
    return results


def load(path) -> np.ndarray:
    """The array file, (N, H, W, 3) uint8, mapped read-only: rows are read from disk when they are touched."""
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
    """16 hex digits. SHA-256, which processors of the last years have an instruction for: twice as fast as BLAKE2."""
    return hashlib.sha256(np.ascontiguousarray(data) if len(data) else b"").hexdigest()[:16]
