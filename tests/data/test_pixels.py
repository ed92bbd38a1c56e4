import errno
import io
import os

import numpy as np
import pytest
from pictures import bomb, encoded, picture
from PIL import Image

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


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (120, 90), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels.decode(data, 75, 100)[..., 0].mean() > 150


BROKEN = {
    "empty": (b"", "zero bytes"),
    "text": (b"<html>404</html>", "not an image"),
    "truncated": (encoded(picture(450, 600), "JPEG")[:3000], "truncated"),
    "bomb": (bomb(), "million pixels"),
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
