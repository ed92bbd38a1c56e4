import dataclasses
import io
from pathlib import Path

import numpy as np
import photos
import pytest
from PIL import Image

from dermai_utils import inference, predictions, runs, saliency
from dermai_utils.app import predictor, state
from dermai_utils.augmentation import squares
from dermai_utils.basics import CLASSES, UserError


def noise(kind="PNG", size=(160, 120), mode="RGB", **options):
    """The bytes of a picture of random blocks."""
    array = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    image = Image.fromarray(array).resize(size, Image.Resampling.NEAREST).convert(mode)
    return photos.encoded(image, kind, **options)


def test_a_photo_gets_what_the_evaluation_gave_it(run, data, model):
    """The file of a test image, as a user would give it, against predictions.csv."""
    row = predictions.primary_rows(run.predictions).iloc[0]
    (found,) = model.answers(data.table["path"][data.rows([row["image"]])[0]])
    assert found.name == f"{row['image']}.png"
    expected = model.state.calibrated(row[list(CLASSES)].to_numpy(float)[None])[0]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.square.shape == (32, 32, 3) and found.gradcam.shape == (32, 32)
    inputs = squares(inference.gather(data.pixels, data.rows([row["image"]]), "cpu"), 32)
    expected = saliency.gradcam(run.net, inputs, [found.probabilities.argmax()])[0]
    np.testing.assert_allclose(found.gradcam, expected, atol=1e-5)
    np.testing.assert_array_equal(found.square, (255 * inputs[0]).permute(1, 2, 0).round())


def test_six_lines_of_python_from_a_run_to_named_probabilities(run, data):
    opened = runs.open_run(run.folder, device="cpu")
    (found,) = predictor.answer(opened, data.table["path"][0], maps=False)
    assert sum(found.diagnoses.values()) == pytest.approx(1) and found.square is None
    assert list(found.diagnoses) == sorted(CLASSES, key=lambda c: -found.diagnoses[c])


def test_folds_answer_with_the_mean_of_their_networks(folds, data):
    (found,) = predictor.Predictor(folds).answers(data.table["path"][0], maps=False)
    each = [inference.predict(net, data.pixels[:1], 32, tta=2) for net in folds.networks]
    mean = np.mean([inference.softmax(logits) for logits in each], axis=0)
    assert len(each) == 3
    expected = state.load(folds).calibrated(mean)[0]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)


def test_a_training_image_is_its_own_nearest_and_similar_ones_are_other_lesions(model, data):
    kept = model.state
    (found,) = model(["a"], data.pixels[data.rows([kept.known["image"][5]])], maps=False)
    assert found.similar[0]["image"] == kept.known["image"][5]
    assert found.similar[0]["similarity"] == pytest.approx(1, abs=1e-3)
    lesion = kept.known.set_index("image")["lesion_id"]
    lesions = [lesion[one["image"]] for one in found.similar]
    assert len(set(lesions)) == len(lesions) == predictor.SIMILAR
    values = [one["similarity"] for one in found.similar]
    assert values == sorted(values, reverse=True)


def test_a_saved_again_training_image_is_said_to_be_one_and_another_picture_is_not(model, data):
    again = io.BytesIO()
    Image.open(data.table["path"][5]).save(again, "JPEG", quality=95)
    pictures = {"a": Path(data.table["path"][5]), "b": again.getvalue(), "c": noise()}
    found = model.answers(pictures, maps=False)
    first, second, third = (one.row["warnings"] for one in found)
    assert "pixel for pixel" in first and "the training image i5" not in first
    assert "is a copy of i5, which the model learned from" in second
    assert "copy" not in third and "training image" not in third


def test_many_pictures_come_in_their_order_in_batches_with_what_cannot_be_read(model, tmp_path):
    names = [f"{k}.png" for k in range(5)]
    for k, name in enumerate(names):
        (tmp_path / name).write_bytes(
            photos.encoded(photos.tinted(CLASSES[k], k)) if k != 2 else b"x"
        )
    results = list(model.each(tmp_path, maps=False, at_once=2))
    assert isinstance(results.pop(2), UserError)
    assert [one.name for one in results] == ["0.png", "1.png", "3.png", "4.png"]
    alone = [model.answers(tmp_path / one.name, maps=False)[0] for one in results]
    for one, same in zip(results, alone, strict=True):
        np.testing.assert_allclose(one.probabilities, same.probabilities, atol=1e-5)


def test_a_network_without_maps_still_answers(data, tmp_path, capsys):
    made = photos.run(tmp_path / "vit", data, backbone="timm:test_vit")
    state.save(made, state.prepare(made, data))
    (found,) = predictor.answer(made, data.table["path"][120])
    assert found.gradcam is None and found.square.shape == (32, 32, 3)
    assert "predict: no Grad-CAM" in capsys.readouterr().out


def test_similar_images_are_found_by_their_ids_in_data_that_changed(model, run, data):
    (found,) = model.answers(data.table["path"][120], maps=False)
    before = model.similar_images(found)
    gone = found.similar[1]["image"]
    keep = (data.table["image"] != gone).to_numpy()
    few = dataclasses.replace(
        data, table=data.table[keep].reset_index(drop=True), pixels=data.pixels[keep]
    )
    after = predictor.Predictor(run, few).similar_images(found)
    assert [image is None for image in after] == [False, True, False, False]
    assert all(b is None or (a == b).all() for a, b in zip(before, after, strict=True))
    assert predictor.Predictor(run).similar_images(found) == [None] * 4


def test_the_figure_shows_similar_images_where_they_are_and_no_number_of_a_refused_picture(
    model, run, data
):
    (found,) = model.answers(data.table["path"][120])
    figure, without = model.figure(found), predictor.Predictor(run).figure(found)
    assert len(figure.axes) == 4 + predictor.SIMILAR and len(without.axes) == 4
    assert "%" in figure.alt
    foreign = dataclasses.replace(found, about=found.about | {"foreign_threshold": -1.0})
    figure = model.figure(foreign)
    assert "%" not in figure.alt and not figure.axes[2].get_visible()


def test_the_description_has_date_and_score(run, tmp_path):
    assert predictor.description(run) == (
        "Run baseline was trained on 2021-03-04. Its balanced accuracy on 42 images of the made-up "
        "pictures in place of the official test set: 0.500 [0.400, 0.600]."
    )
    photos.files.write_json(tmp_path / "settings.json", {"data": "sample"})
    said = predictor.description(runs.Run(tmp_path, device="cpu"))
    unknown = "It was not evaluated: how good it is, is not known."
    assert said == f"This is run {tmp_path.name}. {unknown}"
