import io
import os
import struct
from importlib.util import find_spec

import numpy as np
import pytest
from copies import encoded, large_png
from PIL import Image, ImageOps

from dermai_utils import pixels
from dermai_utils.basics import UserError


def smooth(height=90, width=120, seed=0):
    """A smooth random image, so that resampling filters agree on it."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def decoded(image, kind="PNG", height=75, width=100, **options):
    return pixels.decode(encoded(image, kind, **options), height, width)


HEIC = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"mif1", 0, b"mif1", b"heic")  # its first box alone


@pytest.mark.parametrize(
    "size, expected", [(64, (75, 100)), (75, (75, 100)), (128, (150, 200)), (224, (225, 300))]
)
def test_stored_shape_is_4_to_3_and_a_little_over(size, expected):
    assert pixels.shape(size) == expected


def test_an_image_of_the_stored_size_is_kept_bit_for_bit():
    image = smooth(150, 200)
    assert (decoded(image, "PNG", 150, 200) == np.asarray(image)).all()


def test_jpeg_is_scaled_as_pillow_scales_it():
    data = encoded(smooth(450, 600), "JPEG", quality=95)
    plain = Image.open(io.BytesIO(data)).resize((300, 225), Image.Resampling.BOX)
    assert np.abs(pixels.decode(data, 225, 300).astype(int) - np.asarray(plain)).mean() < 1.5


def test_another_aspect_ratio_is_kept_whole_between_repeated_edges():
    square = Image.new("RGB", (90, 90), (200, 0, 0))
    square.paste((0, 0, 200), (0, 0, 90, 45))
    array = decoded(square)
    assert array.shape == (75, 100, 3)
    # the edge columns are repeated, not black
    assert (array[10, :, 2] > 150).all() and (array[-10, :, 0] > 150).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA", "1"])
def test_every_colour_mode_becomes_rgb(mode):
    image = smooth().convert(mode)
    expected = np.asarray(image.convert("RGB").resize((100, 75), Image.Resampling.BILINEAR), int)
    got = decoded(image, "TIFF" if mode == "CMYK" else "PNG").astype(int)
    assert np.abs(got - expected).mean() < 3


@pytest.mark.parametrize(
    "dtype, kind", [("<u2", "PNG"), ("<u2", "TIFF"), ("<i4", "TIFF"), ("<f4", "TIFF")]
)
def test_more_than_8_bits_have_no_clear_scale(dtype, kind):
    with pytest.raises(ValueError, match="more than 8 bits"):
        decoded(Image.fromarray(np.zeros((75, 100), dtype)), kind)
    with pytest.raises(ValueError, match="more than 8 bits"):  # Pillow drops the lower bytes
        pixels.decode(large_png(100, 75, 16, b"\x80\xff\x00\x00\x12\x34"), 75, 100)


def half_transparent(mode):
    """A red or grey image whose left half is see-through, with dark values under it."""
    image = Image.new("RGBA", (100, 75), (200, 0, 0, 255))
    image.paste((10, 20, 30, 0), (0, 0, 50, 75))
    if mode == "P":
        palette = Image.new("P", (100, 75), 0)
        palette.putpalette([200, 0, 0, 10, 20, 30])
        palette.paste(1, (0, 0, 50, 75))
        return palette
    return image.convert(mode)


@pytest.mark.parametrize(
    "mode, kind, options",
    [
        ("RGBA", "PNG", {}),
        ("RGBA", "WEBP", dict(lossless=True, exact=True)),
        ("LA", "PNG", {}),
        ("P", "PNG", dict(transparency=1)),
        ("P", "GIF", dict(transparency=1)),
        ("RGB", "PNG", dict(transparency=(10, 20, 30))),
    ],
)
def test_transparent_pixels_are_white(mode, kind, options):
    array = decoded(half_transparent(mode), kind, **options)
    assert (array[:, :50] == 255).all()
    opaque = np.asarray(half_transparent("LA" if mode == "LA" else "RGBA").convert("RGB"))
    np.testing.assert_array_equal(array[:, 50:], opaque[:, 50:])


@pytest.mark.parametrize("height, width", [(120, 90), (200, 150), (400, 123), (101, 100)])
def test_a_portrait_image_is_what_its_landscape_turn_is(height, width):
    portrait = smooth(height, width)
    landscape = portrait.transpose(Image.Transpose.ROTATE_90)  # counter-clockwise
    np.testing.assert_array_equal(decoded(portrait), decoded(landscape))
    unscaled = decoded(portrait, height=width, width=height)
    np.testing.assert_array_equal(unscaled, np.rot90(np.asarray(portrait)))


@pytest.mark.parametrize("orientation", [6, 8, 5, 7])
def test_a_portrait_by_exif_is_upright_first_and_then_turned(orientation):
    exif, lying = Image.Exif(), smooth(75, 100)
    exif[0x0112] = orientation
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(lying, "PNG", exif=exif))))
    array = decoded(lying, exif=exif)
    np.testing.assert_array_equal(array, np.rot90(np.asarray(upright)))
    if orientation == 6:  # as phones store an upright photo: nothing is left to turn
        np.testing.assert_array_equal(array, np.asarray(lying))


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (120, 90), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    assert decoded(frames[0], "GIF", save_all=True, append_images=frames[1:])[..., 0].mean() > 150


BROKEN = {
    "text": (b"<html>404</html>", "not an image"),
    "dicom": (bytes(128) + b"DICM", "DICOM"),
    "heic": (HEIC, "HEIC picture" if find_spec("pillow_heif") is None else "not an image"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_and_costs_no_other(tmp_path, kind):
    data, message = BROKEN[kind]
    (tmp_path / "a b é.png").write_bytes(encoded(smooth(), "PNG"))
    (tmp_path / "bad.jpg").write_bytes(data)
    paths = [tmp_path / "bad.jpg", tmp_path / "a b é.png", tmp_path / "gone.jpg"]
    found = pixels.build(paths, 75, tmp_path / "p.npy")
    assert message in found["error"][0] and "No such file" in found["error"][2]
    assert found["error"][1] == "" and found["pixel_hash"][[0, 2]].tolist() == ["", ""]
    array = np.load(tmp_path / "p.npy")
    assert array.shape == (3, 75, 100, 3) and array.dtype == np.uint8
    assert not array[[0, 2]].any() and (array[1] == decoded(smooth())).all()
    assert {path.name for path in tmp_path.iterdir()} == {"a b é.png", "bad.jpg", "p.npy"}


def test_equal_pixels_have_one_hash_and_other_pixels_another(tmp_path):
    images = {
        "a.png": encoded(smooth(), "PNG"),
        "b.png": encoded(smooth(), "PNG", compress_level=1),
        "c.png": encoded(smooth(seed=1), "PNG"),
    }
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    found = pixels.build([tmp_path / name for name in images], 75, tmp_path / "p.npy", workers=2)
    a, b, c = found["pixel_hash"]
    assert a == b != c and len(a) == 16


@pytest.mark.parametrize("kept", [[], [0, 1, 2, 3], [1, 2], [0, 3], [3]])
def test_compact_moves_the_rows_that_stay_to_the_front(tmp_path, kept):
    rows = np.arange(4 * 6, dtype=np.uint8).reshape(4, 1, 2, 3)
    np.save(tmp_path / "p.npy", rows)
    pixels.compact(tmp_path / "p.npy", np.array(kept, int))
    assert (np.load(tmp_path / "p.npy")[: len(kept)] == rows[kept]).all()


def test_a_full_disk_is_one_line_before_anything_is_written(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(pixels.files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="GB free"):
        pixels.build([tmp_path / "a.png"], 75, tmp_path / "p.npy")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_build_leaves_the_array_of_before(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(smooth(), "PNG"))
    pixels.build([tmp_path / "a.png"], 75, tmp_path / "p.npy")
    before = (tmp_path / "p.npy").read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pixels, "decode", stop)
    with pytest.raises(KeyboardInterrupt):
        pixels.build([tmp_path / "a.png"], 75, tmp_path / "p.npy")
    assert (tmp_path / "p.npy").read_bytes() == before and len(os.listdir(tmp_path)) == 2
