"""Synthetic masks: which are taken, which are left out with a line, and what the shares say."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from dermai_utils import clean, explain, files, masks, page
from dermai_utils.config import UserError
from dermai_utils.report import counting


def save(folder, image, marked, bright=255):
    Image.fromarray((np.asarray(marked) * bright).astype(np.uint8)).save(folder / f"{image}{masks.ENDING}")


def left_half(height=90, width=120):
    return np.arange(width)[None].repeat(height, 0) < width / 2


@pytest.fixture
def images(made):
    predictions = clean.read_table(made.report_dir / "predictions.csv")
    return counting(predictions, "test")["image"].tolist()


def test_the_share_of_a_map_inside_a_mask():
    maps, lesions = np.zeros((3, 4, 4)), np.zeros((3, 4, 4), bool)
    lesions[:, :2, :2] = True
    maps[0, :2, :2], maps[1] = 1, 1
    inside, area = masks.share_inside(maps, lesions)
    np.testing.assert_allclose(inside, [1, 0.25, np.nan])
    np.testing.assert_allclose(area, 0.25)


@pytest.mark.parametrize("bright, scale", [(255, 1), (1, 1), (255, 3)])
def test_a_mask_is_brought_to_the_square_that_the_model_sees(made, images, tmp_path, bright, scale):
    save(tmp_path, images[0], left_half(90 * scale, 120 * scale), bright)
    usable, squares, reasons = masks.read(made, images[:1], masks.find(tmp_path))
    assert usable == images[:1] and not reasons and squares.shape == (1, made.image_size, made.image_size)
    half = made.image_size // 2
    assert squares[0, :, : half - 1].all() and not squares[0, :, half + 1 :].any()


def test_what_is_no_use_is_left_out_with_its_reason(made, images, tmp_path):
    good, square, empty, broken = images[:4]
    save(tmp_path, good, left_half())
    save(tmp_path, square, np.ones((90, 90)))
    save(tmp_path, empty, np.zeros((90, 120)))
    (tmp_path / f"{broken}{masks.ENDING}").write_bytes(b"not a picture")
    usable, squares, reasons = masks.read(made, images[:4], masks.find(tmp_path))
    assert usable == [good] and len(squares) == 1 and set(reasons) == {square, empty, broken}
    assert "another shape than its image (90×90 for 120×90 px)" in reasons[square]
    assert "marks nothing" in reasons[empty] and "cannot identify" in reasons[broken]


@pytest.mark.parametrize("folder, said", [("gone", "no such folder"), ("", "no file <image>_segmentation.png")])
def test_a_wrong_folder_is_one_line_before_any_work(made, tmp_path, folder, said, monkeypatch):
    monkeypatch.setattr(explain, "maps_for", lambda *_: pytest.fail("maps were made"))
    with pytest.raises(UserError, match=said):
        explain.run(dataclasses.replace(made, masks=str(tmp_path / folder)))


def test_the_shares_stand_in_gradcam_json_and_the_report(made, images, tmp_path, capsys):
    """By hand: maps that are all on the left, and masks of the left half, of the right half, or of everything."""
    predictions = clean.read_table(made.report_dir / "predictions.csv")
    for image, marked in zip(images, [left_half(), ~left_half(), np.ones((90, 120)), np.zeros((90, 120))], strict=False):
        save(tmp_path, image, marked)
    cfg = dataclasses.replace(made, masks=str(tmp_path))

    def left(_, rows):
        maps = np.zeros((len(rows), made.image_size, made.image_size))
        maps[:, :, : made.image_size // 2] = 0.7
        return maps

    found = masks.on_lesion(cfg, predictions, masks.find(tmp_path), left)
    assert found["part"] == "test" and found["n"] == 3  # the official part has no masks
    inside = {row["image"]: row["inside"] for row in found["images"]}
    assert [round(inside[image], 1) for image in images[:3]] == [1, 0, 1]
    assert found["inside"] == pytest.approx(2 / 3, abs=0.03) and found["area"] == pytest.approx(2 / 3, abs=0.03)
    assert found["low"] < 0 < found["high"] and found["difference"] == pytest.approx(found["inside"] - found["area"])
    said = capsys.readouterr().out
    assert f"{len(images) - 3 - 1} images have none" in said and f"1 left out: {images[3]}: it marks nothing" in said
    words = page._on_lesion({"lesion": found})
    assert "On 3 images of the test part" in words and "no more on the lesion than chance" in words
    assert "more on the lesion than beside it" in page._on_lesion({"lesion": found | {"low": 0.1}})
    assert page._on_lesion({"lesion": {"n": 0}}) == page._on_lesion(None) == ""


def test_the_stage_takes_the_folder(made, images, tmp_path, monkeypatch, capsys):
    """The whole stage on a copy of the run; of its maps every second is all on the left, the others mark nothing."""
    import shutil

    def left(net, images, targets):
        maps = np.zeros((len(images), made.image_size, made.image_size))
        maps[::2, :, : made.image_size // 2] = 1
        return maps

    monkeypatch.setattr(explain, "gradcam", left)
    (tmp_path / "masks").mkdir()
    for image in images[:5]:
        save(tmp_path / "masks", image, left_half())
    shutil.copytree(made.work, tmp_path / "work")
    cfg = dataclasses.replace(made, work_dir=str(tmp_path / "work"), masks=str(tmp_path / "masks"))
    explain.run(cfg)
    found = files.read_json(cfg.report_dir / "gradcam.json")["lesion"]
    assert found["n"] == 3 and found["inside"] == pytest.approx(1, abs=0.03) and found["area"] == pytest.approx(0.5, abs=0.02)
    assert "masks: 2 maps mark nothing" in capsys.readouterr().out
    assert "On the lesion or beside it?" in (cfg.report_dir / "report.html").read_text(encoding="utf-8")
