"""Made-up pictures, good and broken, as the bytes of image files."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def picture(height=90, width=120, seed=0):
    """A smooth random image, so that resampling filters agree on it."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb():
    """A small PNG that would decode to 144 million pixels, of which Pillow only warns."""
    return _png(12_000, 12_000, 8, b"\0" * 1000)


def sixteen_bit_colours(values):
    """(H, W, 3) uint16 as a PNG with 16 bits a channel, which Pillow reads but can't write."""
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return _png(values.shape[1], values.shape[0], 16, lines)


def heic():
    """The first box of a HEIC file, and nothing more."""
    return struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"mif1", 0, b"mif1", b"heic")


def _png(width, height, bits, lines):
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind, body):
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum
