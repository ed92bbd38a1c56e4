import errno
import io
import os
import sys
import types
from importlib.util import find_spec

import numpy as np
import pytest
from pictures import bomb, encoded, heic, picture, sixteen_bit_colours
from PIL import Image, ImageFile, ImageOps

from dermai_utils.config import UserError
from dermai_utils.data import pixels


@pytest.mark.parametrize(
    "size, expected", [(64, (75, 100)), (75, (75, 100)), (128, (150, 200)), (224, (225, 300))]
)
def test_stored_shape_is_4_to_3_and_a_little_over(size, expected):
    assert pixels.shape(size) == expected


def test_an_image_of_the_stored_size_is_kept_bit_for_bit():
    image = picture(150, 200)
    assert (pixels.decode(encoded(image), 150, 200) == np.asarray(image)).all()


def test_jpeg_is_scaled_as_pillow_scales_it():
    image = picture(450, 600)
    plain = Image.open(io.BytesIO(encoded(image, "JPEG", quality=95))).resize(
        (300, 225), Image.Resampling.BOX
    )
    ours = pixels.decode(encoded(image, "JPEG", quality=95), 225, 300)
    assert np.abs(ours.astype(int) - np.asarray(plain)).mean() < 1.5


def test_another_aspect_ratio_is_kept_whole_between_repeated_edges():
    square = Image.new("RGB", (90, 90), (200, 0, 0))
    square.paste((0, 0, 200), (0, 0, 90, 45))
    array = pixels.decode(encoded(square), 75, 100)
    assert array.shape == (75, 100, 3)
    # the edge columns are repeated, not black
    assert (array[10, :, 2] > 150).all() and (array[-10, :, 0] > 150).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA", "1"])
def test_every_colour_mode_becomes_rgb(mode):
    image = picture().convert(mode)
    expected = np.asarray(image.convert("RGB").resize((100, 75), Image.Resampling.BILINEAR), int)
    got = pixels.decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG"), 75, 100).astype(int)
    assert np.abs(got - expected).mean() < 3


def test_sixteen_bits_are_scaled_not_clipped():
    grey = np.linspace(0, 65535, 90 * 120).reshape(90, 120).astype(np.uint16)
    array = pixels.decode(encoded(Image.fromarray(grey)), 75, 100)
    assert array[0].mean() < 10 and array[-1].mean() > 245 and 115 < array.mean() < 140


def test_exif_rotation_is_applied():
    image = picture(90, 120)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    data = encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    plain = pixels.decode(encoded(image, "JPEG", quality=95), 75, 100).astype(int)
    assert np.abs(pixels.decode(data, 75, 100).astype(int) - plain).mean() < 3


def grey_levels(top, dtype):
    """(75, 100) values from 0 to `top`: at 75 px, the decoder does not resize them."""
    return np.linspace(0, top, 7500).reshape(75, 100).astype(dtype)


def decoded(values, kind="TIFF"):
    """The decoder's result for an array that is written as an image file."""
    return pixels.decode(encoded(Image.fromarray(values), kind), 75, 100)


@pytest.mark.parametrize("top, shift", [(255, 0), (300, 4), (4095, 4), (4096, 8), (65535, 8)])
@pytest.mark.parametrize("dtype, kind", [("<u2", "PNG"), ("<u2", "TIFF"), ("<i4", "TIFF")])
def test_grey_integers_are_scaled_by_the_range_that_holds_them(top, shift, dtype, kind):
    values = grey_levels(top, dtype)
    expected = np.repeat((values >> shift)[..., None], 3, axis=2)
    np.testing.assert_array_equal(decoded(values, kind), expected)


@pytest.mark.parametrize("top, white", [(1, 1), (0.9, 1), (200, 255), (4095, 4095), (5000, 65535)])
def test_grey_floats_are_scaled_by_the_range_that_holds_them(top, white):
    values = grey_levels(top, np.float32)
    expected = np.repeat((values.astype(float) / white * 255)[..., None], 3, axis=2)
    np.testing.assert_allclose(decoded(values), expected, atol=0.51)


@pytest.mark.parametrize(
    "value, dtype, expected",
    [(100, "<u2", 100), (2000, "<u2", 125), (30_000, "<u2", 117), (0.5, "<f4", 128), (0, "<f4", 0)],
)
def test_a_constant_grey_image_stays_constant(value, dtype, expected):
    assert (decoded(np.full((75, 100), value, dtype)) == expected).all()


@pytest.mark.parametrize(
    "value, dtype, reason",
    [
        (np.nan, "<f4", "NaN"),
        (np.inf, "<f4", "infinite"),
        (-1, "<i4", "negative values, down to -1"),
        (-0.25, "<f4", "negative values, down to -0.25"),
        (1.5, "<f4", "values up to 1.5; expected 0..1, 0..255"),
        (70_000, "<i4", "values up to 70000; expected 0..255"),
    ],
)
def test_grey_values_without_a_clear_scale_are_refused_with_the_reason(value, dtype, reason):
    values = np.ones((75, 100), dtype)
    values[3, 4] = value
    with pytest.raises(ValueError, match=reason):
        decoded(values)


@pytest.mark.parametrize("top, refused", [(255, True), (4095, True), (65535, False)])
def test_sixteen_bit_colours_that_pillow_would_show_as_black_are_refused(top, refused):
    values = np.repeat(grey_levels(top, np.uint16)[..., None], 3, axis=2)
    if refused:
        with pytest.raises(ValueError, match="12 bits or less"):
            pixels.decode(sixteen_bit_colours(values), 75, 100)
    else:
        expected = values >> 8
        np.testing.assert_array_equal(pixels.decode(sixteen_bit_colours(values), 75, 100), expected)


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
        ("RGBA", "TIFF", {}),
        ("RGBA", "WEBP", dict(lossless=True, exact=True)),
        ("LA", "PNG", {}),
        ("P", "PNG", dict(transparency=1)),
        ("P", "PNG", dict(transparency=b"\xff\x00")),
        ("P", "GIF", dict(transparency=1)),
        ("RGB", "PNG", dict(transparency=(10, 20, 30))),
    ],
)
def test_transparent_pixels_are_white(mode, kind, options):
    image = half_transparent(mode)
    array = pixels.decode(encoded(image, kind, **options), 75, 100)
    assert (array[:, :50] == 255).all()
    opaque = np.asarray(half_transparent("LA" if mode == "LA" else "RGBA").convert("RGB"))
    np.testing.assert_array_equal(array[:, 50:], opaque[:, 50:])


def test_a_half_transparent_pixel_is_mixed_with_white():
    image = Image.new("RGBA", (100, 75), (100, 0, 200, 51))  # a fifth
    assert (pixels.decode(encoded(image), 75, 100) == (224, 204, 244)).all()


@pytest.mark.parametrize("height, width", [(120, 90), (200, 150), (400, 123), (101, 100)])
def test_a_portrait_image_is_what_its_landscape_turn_is(height, width):
    portrait = picture(height, width)
    landscape = portrait.transpose(Image.Transpose.ROTATE_90)  # counter-clockwise
    expected = pixels.decode(encoded(landscape), 75, 100)
    np.testing.assert_array_equal(pixels.decode(encoded(portrait), 75, 100), expected)
    unscaled = pixels.decode(encoded(portrait), width, height)
    np.testing.assert_array_equal(unscaled, np.rot90(np.asarray(portrait)))


@pytest.mark.parametrize("orientation", [6, 8, 5, 7])
def test_a_portrait_by_exif_is_upright_first_and_then_turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = picture(75, 100)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(lying, exif=exif))))
    array = pixels.decode(encoded(lying, exif=exif), 75, 100)
    np.testing.assert_array_equal(array, np.rot90(np.asarray(upright)))
    if orientation == 6:  # as phones store an upright photo: nothing is left to turn
        np.testing.assert_array_equal(array, np.asarray(lying))


def test_a_portrait_jpeg_is_scaled_as_its_landscape_turn_is():
    portrait = picture(1280, 960)  # eighths of it are whole pixels
    landscape = portrait.transpose(Image.Transpose.ROTATE_90)
    a, b = (
        pixels.decode(encoded(image, "JPEG", quality=95), 75, 100).astype(int)
        for image in (portrait, landscape)
    )
    assert np.abs(a - b).max() < 4


def test_a_square_image_is_not_turned():
    image = picture(75, 75)
    array = pixels.decode(encoded(image), 75, 100)
    np.testing.assert_array_equal(array[:, 12:87], np.asarray(image))


def test_heic_needs_a_package_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    with pytest.raises(ValueError, match="a HEIC picture needs pip install pillow-heif"):
        pixels.decode(heic(), 75, 100)


def test_heic_is_decoded_by_that_package_and_asked_for_it_alone(monkeypatch):
    picture_inside = picture(75, 100)

    class Opener(ImageFile.ImageFile):
        format, format_description = "HEIF", "stand-in"

        def _open(self):
            self._mode, self._size, self.tile = "RGB", picture_inside.size, []
            self.im = picture_inside.im

    def register():
        registered.append(1)
        Image.register_open("HEIF", Opener, lambda start: start[4:8] == b"ftyp")

    registered = []
    for name in ("OPEN", "ID"):
        monkeypatch.setattr(Image, name, getattr(Image, name).copy())
    module = types.SimpleNamespace(register_heif_opener=register)
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    pixels.decode(encoded(picture()), 75, 100)
    assert not registered
    np.testing.assert_array_equal(pixels.decode(heic(), 75, 100), np.asarray(picture_inside))


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (120, 90), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels.decode(data, 75, 100)[..., 0].mean() > 150


BROKEN = {
    "empty": (b"", "zero bytes"),
    "text": (b"<html>404</html>", "not an image"),
    "truncated": (encoded(picture(450, 600), "JPEG")[:3000], "truncated"),
    "bomb": (bomb(), "million pixels"),
    "scale": (encoded(Image.new("F", (120, 90), -1), "TIFF"), "negative values"),
    "heic": (heic(), "HEIC picture" if find_spec("pillow_heif") is None else "not an image"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_and_costs_no_other(tmp_path, kind):
    data, message = BROKEN[kind]
    good = picture()
    (tmp_path / "a b é.png").write_bytes(encoded(good))
    (tmp_path / "bad.jpg").write_bytes(data)
    results = pixels.build(
        [tmp_path / "bad.jpg", tmp_path / "a b é.png"], 75, tmp_path / "p.npy", progress=False
    )
    assert message in results[0]["error"] and results[1]["error"] == ""
    array = pixels.load(tmp_path / "p.npy")
    assert array.shape == (2, 75, 100, 3) and array.dtype == np.uint8
    assert not array[0].any() and (array[1] == pixels.decode(encoded(good), 75, 100)).all()
    assert [p.name for p in tmp_path.glob("*.npy")] == ["p.npy"]


def test_a_missing_file_is_named(tmp_path):
    results = pixels.build([tmp_path / "gone.jpg"], 75, tmp_path / "p.npy", progress=False)
    assert "No such file" in results[0]["error"]


def test_hashes_tell_files_and_pixels_apart(tmp_path):
    image = picture()
    for name, data in (
        ("a.png", encoded(image)),
        ("b.png", encoded(image, compress_level=1)),
        ("c.png", encoded(picture(seed=1))),
    ):
        (tmp_path / name).write_bytes(data)
    a, b, c = pixels.build(sorted(tmp_path.glob("*.png")), 75, tmp_path / "p.npy", progress=False)
    assert a["pixel_hash"] == b["pixel_hash"] != c["pixel_hash"]
    assert len({a["file_hash"], b["file_hash"], c["file_hash"]}) == 3


def test_the_end_of_the_file_tells_every_pixel_of_every_image(tmp_path):
    """A marker reads no more of it, see files._stamp."""
    images, ends = [picture(75, 100), picture(75, 100)], []
    for pixel in ((0, 0, 0), (0, 0, 0), (0, 0, 1)):
        images[1].putpixel((50, 30), pixel)
        for name, image in zip("ab", images, strict=True):
            (tmp_path / f"{name}.png").write_bytes(encoded(image))
        paths = sorted(tmp_path.glob("*.png"))
        pixels.build(paths, 75, tmp_path / "p.npy", progress=False)
        ends.append((tmp_path / "p.npy").read_bytes()[-32:])
        np.testing.assert_array_equal(pixels.load(tmp_path / "p.npy"), [*map(np.asarray, images)])
    assert ends[0] == ends[1] != ends[2]


def test_a_full_disk_is_one_line_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="GB are free"):
        pixels.build([tmp_path / "a.png"], 75, tmp_path / "p.npy", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_while_decoding_is_named_and_gets_its_room_back(tmp_path, monkeypatch):
    """A mapped file would end the process by SIGBUS, without a word."""
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    paths, target = [tmp_path / "a.png"] * 3, tmp_path / "p.npy"
    pixels.build(paths, 75, target, progress=False)

    class Full(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pixels, "open", lambda path, mode: Full(path, mode), raising=False)
    with pytest.raises(OSError, match="No space left.*p.part.npy"):
        pixels.build(paths, 75, target, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "p.npy"}


def test_an_interrupted_build_leaves_no_array(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(picture()))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pixels, "decode", stop)
    with pytest.raises(KeyboardInterrupt):
        pixels.build([tmp_path / "a.png"], 75, tmp_path / "p.npy", progress=False)
    assert not (tmp_path / "p.npy").exists()
