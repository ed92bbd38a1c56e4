"""The pixel array: every image decoded once, by all cores, into one uint8 array on disk."""

import functools
import hashlib
import io
import itertools
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dermai_utils.config import UserError
from dermai_utils.progress import bar as progress_bar

MAX_PIXELS = 100_000_000  # a dermoscopic photograph has under 25 million
FLUSH_BYTES = 2**24  # of decoded pixels between two writes to the disk
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # for EPS, Pillow would start Ghostscript
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # from `decode`
UNREADABLE += (EOFError, RuntimeError)  # from pillow-heif


def shape(image_size: int) -> tuple[int, int]:
    """(height, width) of the stored images, 4:3: `image_size` rounded up to a multiple of 75 px.

    Steps of 75 px keep 4:3 in whole pixels, and 225 (for 224) is exactly half of the official 450,
    which a JPEG decodes to directly, without a resize.
    """
    steps = -(-image_size // 75)
    return 75 * steps, 100 * steps


def decode(data: bytes, height: int, width: int) -> np.ndarray:
    """An encoded image as (height, width, 3) uint8 RGB, its aspect ratio kept, its edges repeated.

    EXIF's orientation is applied. Then a portrait image is turned a quarter counter-clockwise, for
    all training images are landscape: it fills the frame as they do. (Phones store an upright
    photo lying, to be turned clockwise: so it is as the sensor had it.) Transparency becomes white.

    Raises one of UNREADABLE where `data` is no image, too large, or has values of an unclear scale.
    """
    with _open(data) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        # JPEG's own scaling; however it is turned below, its long side ends along `width`
        image.draft("RGB", (width, height) if image.width >= image.height else (height, width))
        stored = "8 bits" if image.format == "JPEG" else str(image.tile)  # gone after the next line
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
    if not _is_heic(data):
        return Image.open(io.BytesIO(data), formats=FORMATS)
    try:
        import pillow_heif
    except ImportError:
        raise ValueError("a HEIC picture needs pip install pillow-heif") from None
    pillow_heif.register_heif_opener()
    return Image.open(io.BytesIO(data), formats=["HEIF"])


def _is_heic(data) -> bool:
    """By the brands in its first box (ISO 14496-12, "ftyp"): a phone's name for it may be .jpg."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), 256)
    return any(data[k : k + 3] in (b"hei", b"hev") for k in range(8, end, 4))


def _rgb(image, stored):
    """The image as RGB, 8 bits a channel, on white where it is transparent.

    stored: Pillow's description of the file's values, such as "RGB;16B".
    """
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif re.search(";16[BLN]", stored) and np.asarray(image.convert("RGB")).max() < 16:
        # for a colour image, Pillow has dropped the lower byte of each value
        raise ValueError("16 bit colours with values of 12 bits or less; save it with 8 bits")
    if image.mode[-1] in "Aa" or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    # a conversion to the mode it has is a copy
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values):
    """Grey values of any scale as uint8: white is the top of the smallest range that holds them.

    The ranges are those of 8, 12 and 16 bits, and 0..1 for floats. ValueError for other values.
    """
    if not np.isfinite(values).all():
        raise ValueError("values that are no numbers (NaN or infinite)")
    lowest, highest = float(values.min()), float(values.max())
    if lowest < 0:
        raise ValueError(f"negative values, down to {lowest:g}")
    real = values.dtype.kind == "f"
    white = next((top for top in (1, 255, 4095, 65535)[not real :] if highest <= top), None)
    if white is None or real and 1 < highest < 16:  # 0..255 would show it as black
        ranges = f"{'0..1, ' * real}0..255, 0..4095 or 0..65535"
        raise ValueError(f"values up to {highest:g}; expected {ranges}")
    if real:
        return np.rint(values * (255 / white)).astype(np.uint8)
    return (values.astype(np.uint32) >> (white.bit_length() - 8)).astype(np.uint8)


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
            for result in progress_bar(rows, "decode", len(paths), **bar):
                results.append(result)
                # the disk writes while the cores decode: all at the end takes 12 % longer
                if len(results) % interval == 0:
                    os.fsync(file.fileno())
            file.seek(0, os.SEEK_END)
            file.write(_digest(results))
            os.fsync(file.fileno())
    except OSError as reason:
        temporary.unlink()  # a full disk gets its room back
        raise OSError(reason.errno, os.strerror(reason.errno), str(temporary)) from None
    os.replace(temporary, target)
    return results


def _digest(results):
    """32 bytes for the end of the array file, which readers of the array do not see: files that
    differ in any pixel end differently, so a marker need not read them whole."""
    return hashlib.sha256("".join(result["pixel_hash"] for result in results).encode()).digest()


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
    if any(words in text for words in ("truncated", "broken data", "end of file")):
        return "truncated or damaged image"
    return " ".join(text.split())


def _hash(data) -> str:
    """16 hex digits of SHA-256: processors have an instruction for it, twice as fast as BLAKE2."""
    return hashlib.sha256(np.ascontiguousarray(data) if len(data) else b"").hexdigest()[:16]
