import dataclasses
import shutil
from pathlib import Path

import numpy as np
import photos
import pytest
from PIL import Image

from dermai_utils import files, inference, predictions, runs, saliency
from dermai_utils.app import predictor, state
from dermai_utils.augmentation import squares
from dermai_utils.basics import CLASSES, UserError


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


def test_folds_answer_with_the_mean_of_their_networks(folds, data):
    (found,) = predictor.Predictor(folds).answers(data.table["path"][0], maps=False)
    each = [inference.predict(net, data.pixels[:1], 32, tta=2) for net in folds.networks]
    mean = np.mean([inference.softmax(logits) for logits in each], axis=0)
    assert len(each) == 3
    expected = state.load(folds).calibrated(mean)[0]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)


def test_a_training_image_is_its_own_nearest_and_similar_ones_are_other_lesions(model, data):
    kept = model.state.known.set_index("image")["lesion_id"]
    (found,) = model(["a"], data.pixels[data.rows([kept.index[5]])], maps=False)
    assert found.similar[0]["image"] == kept.index[5]
    assert found.similar[0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert len({kept[one["image"]] for one in found.similar}) == predictor.SIMILAR


def test_a_picture_that_the_model_learned_from_or_was_tuned_on_is_said_to_be_one(
    run, data, tmp_path
):
    """By its pixels, its name in the ISIC archive, or its thumbnail; another folder's i3 is new."""
    there = Path(shutil.copytree(run.folder, tmp_path / "run"))
    table = files.read_table(there / "table.csv")
    table.loc[1, "image"] = "ISIC_0024306"
    files.write_table(table, there / "table.csv")
    train, val = table["subset"].tolist().index("train"), table["subset"].tolist().index("val")
    again = photos.encoded(Image.open(data.table["path"][5]), "JPEG", quality=95)
    new = photos.encoded(photos.tinted("MEL", 999))
    pictures = {"a": Path(data.table["path"][train]), "b": Path(data.table["path"][val])}
    pictures |= {"c": again, "aug_ISIC_0024306.png": new, "i3.png": new}
    found = predictor.answer(runs.Run(there, device="cpu"), pictures, maps=False)
    pixels = "is, pixel for pixel, an image that the model"
    assert [one.seen for one in found] == [
        f"{pixels} learned from",
        f"{pixels} was tuned on",
        "is a copy of i5, which the model learned from",
        "has the name of an image that the model learned from",
        "",
    ]
    assert "learned from: the answer does not test the model" in found[0].row["warnings"]


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
