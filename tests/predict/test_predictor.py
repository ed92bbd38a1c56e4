import dataclasses
import io
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
from pictures import encoded, picture
from PIL import Image

from dermai_utils import files
from dermai_utils.__main__ import main
from dermai_utils.config import CLASS_NAMES, CLASSES, DISCLAIMER, UserError
from dermai_utils.data import clean, pixels
from dermai_utils.metrics import calibration, conformal, predictions
from dermai_utils.predict import pictures, state
from dermai_utils.predict import predictor as photo
from dermai_utils.predict.answer import Answer
from dermai_utils.report import photographs


@pytest.fixture(scope="module")
def cfg(made, tmp_path_factory):
    """The run that every test shares, in a folder of its own."""
    shutil.copytree(made.work, tmp_path_factory.mktemp("own") / "work")
    return dataclasses.replace(made, work_dir=str(tmp_path_factory.getbasetemp() / "own0" / "work"))


@pytest.fixture(scope="module")
def predictor(cfg):
    return photo.Predictor(cfg)


def noise(kind="PNG", size=(160, 120), mode="RGB", **options):
    """The bytes of a picture of random blocks."""
    array = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    image = Image.fromarray(array).resize(size, Image.Resampling.NEAREST).convert(mode)
    return encoded(image, kind, **options)


def test_a_photo_gets_what_the_evaluation_gave_it(cfg, predictor):
    """The file of a test image, as a user would give it, against predictions.csv and the
    temperature of metrics.json."""
    found = predictor.answers(str(pictures.example(cfg)))[0]
    row = predictions.scored_rows(
        files.read_table(cfg.report_dir / "predictions.csv"), "official"
    ).iloc[0]
    assert found.name.startswith(row["image"])
    temperature = files.read_json(cfg.report_dir / "metrics.json")["calibration"]["temperature"]
    expected = calibration.apply_temperature(row[list(CLASSES)].to_numpy(float)[None], temperature)[
        0
    ]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-4)
    assert found.probabilities.sum() == pytest.approx(1)
    assert (
        found.square.shape == (cfg.image_size, cfg.image_size, 3)
        and found.gradcam.shape == found.square.shape[:2]
    )


def test_a_training_image_is_its_own_nearest_and_similar_ones_are_other_lesions(cfg, predictor):
    kept, images = predictor.state, pixels.load(cfg.pixels_file)
    row = clean.pixel_rows(cfg)[kept.image[5]]
    found = predictor(["a"], np.array(images[[row]]), maps=False)[0]
    assert found.similar[0]["image"] == kept.image[5] and found.similar[0][
        "similarity"
    ] == pytest.approx(1, abs=1e-3)
    lesions = [kept.lesion_id[list(kept.image).index(one["image"])] for one in found.similar]
    assert len(set(lesions)) == len(lesions) == photo.SIMILAR
    values = [one["similarity"] for one in found.similar]
    assert values == sorted(values, reverse=True)


def test_what_is_nearly_a_training_image_is_said_to_be_one(cfg, predictor):
    """The file itself, and saved again as JPEG; not another picture."""
    kept = predictor.state
    data = pictures.clean.image_path(cfg, kept.image[5]).read_bytes()
    again = io.BytesIO()
    Image.open(io.BytesIO(data)).save(again, "JPEG", quality=95)
    found = predictor.answers({"a": data, "b": again.getvalue(), "c": noise()}, maps=False)
    said = f"is (nearly) the training image {kept.image[5]}, labelled {CLASS_NAMES[kept.label[5]]}"
    assert [said in one.row["warnings"] for one in found] == [True, True, False]
    assert not any("training image ISIC" in one.row["warnings"] for one in found[2:])


def test_the_cosine_of_the_same_picture_lies_beyond_those_of_other_lesions(predictor):
    """Whatever the network: an image's own lesion does not count, another's does."""
    kept = predictor.state
    assert 0.9 < kept.same_threshold() <= 1
    alike = np.array([[1, 0], [1, 0], [0.6, 0.8]], np.float16)
    few = dataclasses.replace(kept, features=alike, lesion_id=np.array(["a", "a", "b"]))
    assert few.same_threshold() == pytest.approx(0.92, abs=1e-3)  # from 0.6, 4/5 of the way to 1
    assert dataclasses.replace(few, lesion_id=np.array(["a"] * 3)).same_threshold() == 1


def answer(possible, sure=True, distance=0.1, **other):
    p = np.full(7, 1 / 7)
    similar = [dict(image="i", label="NV", similarity=0.5)]
    return Answer("x.jpg", p, possible, sure, distance, 0.2, 0.3, similar, **other)


def test_the_answer_in_words():
    assert answer(("MEL", "NV")).text == "melanoma or melanocytic nevus"
    unsure = answer(("MEL", "NV", "BKL"), sure=False)
    assert unsure.text == "unsure: 3 diagnoses cannot be ruled out"
    assert unsure.row["answer"] == "unsure"


def test_two_levels_of_being_out_of_distribution():
    """Another source still gets an answer, with a warning; what is no dermoscopic image gets
    none."""
    plain, other, foreign = (answer(("MEL",), distance=d) for d in (0.2, 0.3, 0.31))
    assert plain.warnings == [] and plain.text == other.text == "melanoma"
    assert "expect more mistakes" in other.warnings[0] and not other.foreign
    assert "does not look like" in foreign.text and "melanoma" not in foreign.text
    assert "does not look like" in foreign.row["warnings"]
    assert foreign.row["answer"] == "no dermoscopic image" and foreign.error_rates == []
    assert other.row["answer"] == "MEL" and "expect more" in other.row["warnings"]


def test_made_up_pictures_are_no_measure_of_a_dermoscopic_image(cfg):
    """A real photo is told that it differs from the made-up ones, not that it is no dermoscopic
    image."""
    for distance in (0.3, 0.31):
        found = answer(("MEL",), distance=distance, made_up=True)
        said = f"{found.text} {found.row['answer']} {found.row['warnings']}"
        assert "unlike the made-up pictures that this model learned from" in said
        assert "dermoscopic" not in said and "clinic" not in said
    assert photo.Predictor(cfg).answers(noise(), maps=False)[0].made_up
    assert not answer(("MEL",)).made_up


def test_without_a_diagnosis_there_is_no_number_in_any_output(cfg, monkeypatch, capsys, tmp_path):
    now = state.load(cfg)
    far = dataclasses.replace(now, ood_threshold=-1.0, foreign_threshold=-1.0)
    monkeypatch.setattr(state, "load", lambda cfg: far)
    model = photo.Predictor(cfg)
    (path,) = photo.command(model, {"a.png": noise()})
    table, said = pd.read_csv(path), capsys.readouterr().out
    assert table[[*CLASSES, "possible", "similar"]].isna().all(axis=None)
    assert "unlike the made-up pictures" in table["warnings"][0]
    assert not any(f"0.{k}" in said for k in range(10))
    (found,) = model.answers(noise())
    figure = model.figure(found)
    assert "%" not in figure.alt and not figure.axes[2].get_visible()


def test_the_printed_table_names_the_classes_behind_unsure(cfg, monkeypatch, capsys):
    now = state.load(cfg)
    limits = dict(foreign_threshold=np.inf, thresholds=np.zeros(7))
    monkeypatch.setattr(state, "load", lambda cfg: dataclasses.replace(now, **limits))
    (path,) = photo.command(photo.Predictor(cfg), {"a.png": noise()})
    possible = pd.read_csv(path)["possible"][0]
    row = next(line for line in capsys.readouterr().out.splitlines() if "a.png" in line)
    assert "unsure" in row and len(possible.split()) > 2 and possible in row


SCORES = {
    "subset": "test",
    "n": 1203,
    "answers": {kind: {"n": 10 * k, "held": 9 * k} for k, kind in enumerate(conformal.KINDS)},
    "melanomas": {"n": 134, "answered": 59, "without": 2},
}


def test_beside_an_answer_stands_how_often_such_ones_are_wrong():
    kind, melanomas = answer(("MEL", "NV"), scores=SCORES).error_rates
    counted = "Counted on 1,203 images of the held-out test subset (nothing was chosen on it): "
    assert kind.startswith(counted) and melanomas.startswith(counted)
    assert "for 27 of 30 (90.0 %)" in kind
    assert "at least one malignant" in kind
    assert "of 134 melanomas" in melanomas and "59 got an answer" in melanomas
    assert "2 of these (3.4 %) one without melanoma" in melanomas
    # nothing is promised where nothing is answered
    assert answer(("MEL", "NV", "BKL"), sure=False, scores=SCORES).error_rates == [melanomas]


@pytest.mark.parametrize("scores", [None, {"subset": "test", "n": 15, "answered_held": 0.9}])
def test_what_was_not_counted_is_not_known(scores):
    """No predictor.json, or one of an earlier version; and a kind of answer that nobody got."""
    assert ["not known" in line for line in answer(("NV",), scores=scores).error_rates] == [
        True
    ] * 2
    assert "is not known" in answer(("NV",), scores=SCORES).error_rates[0]


def test_of_another_kind_of_picture_there_is_a_warning_in_each_output(cfg, capsys, monkeypatch):
    now, limits = state.load(cfg), dict(ood_threshold=-1.0, foreign_threshold=np.inf)
    monkeypatch.setattr(state, "load", lambda cfg: dataclasses.replace(now, **limits))
    photo.command(photo.Predictor(cfg), {"a.png": noise(mode="L")})
    said = capsys.readouterr().out
    assert "warning: a.png has no colour" in said and "warning: a.png looks unlike" in said
    row = pd.read_csv(cfg.report_dir / "own_predictions.csv").iloc[0]
    assert "no colour" in row["warnings"] and "looks unlike" in row["warnings"]
    limits["foreign_threshold"] = -1.0
    photo.command(photo.Predictor(cfg), {"a.png": noise()})
    assert "warning: a.png is unlike the made-up pictures" in capsys.readouterr().out
    row = pd.read_csv(cfg.report_dir / "own_predictions.csv").iloc[0]
    assert row["answer"] == "unlike the made-up pictures" and "is unlike" in row["warnings"]


@pytest.mark.parametrize(
    "options",
    [
        dict(kind="TIFF", mode="CMYK"),
        dict(kind="PNG", mode="RGBA"),
        dict(kind="GIF", mode="P"),
        dict(kind="PNG", mode="L"),
        dict(kind="WEBP"),
        dict(kind="JPEG", size=(8000, 6250)),
        dict(kind="PNG", size=(3, 1)),
    ],
    ids=lambda options: f"{options['kind']} {options.get('mode', options.get('size', ''))}",
)
def test_any_kind_of_picture_gets_an_answer(predictor, options):
    data, plain = noise(**options), io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(plain, "PNG")
    found, same = predictor.answers([data, plain.getvalue()], maps=False)
    assert np.isfinite(found.probabilities).all()
    if options["kind"] != "JPEG":  # which is decoded at a smaller scale
        np.testing.assert_allclose(found.probabilities, same.probabilities, atol=1e-5)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_portrait_photo_gets_the_answer_of_its_landscape_turn(predictor, kind):
    landscape = picture(160, 213, seed=3)
    portrait = landscape.transpose(Image.Transpose.ROTATE_270)
    files = {"portrait": encoded(portrait, kind), "landscape": encoded(landscape, kind)}
    upright, turned = predictor.answers(files, maps=False)
    np.testing.assert_array_equal(upright.probabilities, turned.probabilities)
    assert upright.row | {"picture": ""} == turned.row | {"picture": ""}


def test_a_folder_is_decoded_by_several_cores_while_the_network_works(
    cfg, predictor, tmp_path, monkeypatch
):
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes(noise(size=(40 + k, 30)))
    two, plain = threading.Barrier(2, timeout=60), photo.decoded
    second_batch, calls = threading.Event(), []

    def decoded(name, *rest):
        two.wait()  # for another thread, at work on another picture
        if name == "2.png":
            second_batch.set()
        return plain(name, *rest)

    def answers(names, images, maps):
        calls.append(names)
        assert second_batch.wait(60)  # which the first answers don't wait for
        return [photo.Answer(name, None, (), True, 0, 0, 0, []) for name in names]

    monkeypatch.setattr(photo, "AT_ONCE", 2)
    monkeypatch.setattr(photo, "decoded", decoded)
    monkeypatch.setattr(photo.Predictor, "__call__", lambda self, *given: answers(*given))
    found = predictor.answers(tmp_path)
    assert [answer.name for answer in found] == ["0.png", "1.png", "2.png", "3.png"]
    assert calls == [["0.png", "1.png"], ["2.png", "3.png"]]


# The command.


def run(cfg, *arguments):
    folders = ("--cache-dir", str(cfg.cache), "--work-dir", str(cfg.work))
    return main([*arguments, *folders])


def test_the_command_prints_a_table_and_ends_with_the_csv(cfg, tmp_path, capsys, monkeypatch):
    now = state.load(cfg)  # to the tiny network any picture may look foreign
    limits = dict(foreign_threshold=np.inf)
    monkeypatch.setattr(state, "load", lambda cfg: dataclasses.replace(now, **limits))
    (tmp_path / "mine.png").write_bytes(noise())
    assert run(cfg, "predict", "--image", str(tmp_path / "mine.png")) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(cfg.report_dir / "own_predictions.csv") and said[-2] == DISCLAIMER
    table = pd.read_csv(said[-1])
    assert table["picture"].tolist() == ["mine.png"] and table[list(CLASSES)].sum(
        axis=1
    ).tolist() == pytest.approx([1])
    assert any("picture" in line and "MEL" in line for line in said)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["predict"], "predict needs --image"),
        (["predict", "--image"], "expected at least one argument"),
        (["split", "--image", "x.jpg"], "nothing else takes it"),
        (["predict", "--image", "/no/such.jpg"], "/no/such.jpg: no such file"),
        (["predict", "--images", "x.jpg"], "unknown setting images"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(cfg, capsys, arguments, said):
    assert run(cfg, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_toy_is_called_one(cfg):
    assert (
        "means nothing" in photo.sample_warning(cfg)
        and photo.sample_warning(dataclasses.replace(cfg, data="isic2018")) == ""
    )


def test_a_run_without_images_and_archives_still_answers(cfg, tmp_path):
    """A fresh machine with the run's folder alone: nothing is downloaded, nothing is trained."""
    alone = dataclasses.replace(cfg, cache_dir=str(tmp_path / "empty"))
    assert len(photo.Predictor(alone).answers(noise())) == 1
    assert not (tmp_path / "empty").exists()
    with pytest.raises(UserError, match="no photo was given"):
        pictures.example(alone)


def test_the_figure_marks_what_is_possible_and_shows_similar_images_where_they_are(predictor):
    found = predictor.answers(noise())[0]
    with_images, without = (
        photographs.answer(found, images) for images in (predictor.similar_images(found), ())
    )
    assert len(with_images.axes) == 4 + photo.SIMILAR and len(without.axes) == 4
    alphas = [bar.get_alpha() for bar in without.axes[2].patches]
    assert alphas == [0.25 if found.foreign or c not in found.possible else 1 for c in CLASSES]
    assert np.isclose(
        [bar.get_width() for bar in without.axes[2].patches], found.probabilities
    ).all()


def test_similar_images_are_looked_up_by_their_ids_when_the_data_has_changed(
    cfg, predictor, tmp_path
):
    """One image less, so that those behind it have other rows; then an array of other images, as
    one of another size is."""
    found = dataclasses.replace(predictor.answers(noise())[0], foreign_threshold=np.inf)
    before, rows = predictor.similar_images(found), clean.pixel_rows(cfg)
    places = [rows[one["image"]] for one in found.similar]
    first, gone = np.argmin(places), found.similar[np.argmin(places)]["image"]
    now = dataclasses.replace(
        cfg, cache_dir=str(tmp_path / "cache"), work_dir=str(tmp_path / "work")
    )
    shutil.copytree(cfg.work, now.work)
    for name in ("rows_file", "table_file"):
        table = files.read_table(getattr(cfg, name)).query("image != @gone")
        if "row" in table:
            table["row"] -= table["row"] > rows[gone]
        files.write_table(table, getattr(now, name))
    images = pixels.load(cfg.pixels_file)
    np.save(now.pixels_file, np.delete(images, rows[gone], axis=0))
    changed = photo.Predictor(now)
    after = changed.similar_images(found)
    assert [image is None for image in after] == [k == first for k in range(photo.SIMILAR)]
    assert all(b is None or (a == b).all() for a, b in zip(before, after, strict=True))
    assert len(changed.figure(found).axes) == 4 + photo.SIMILAR
    np.save(now.pixels_file, images)
    assert changed.similar_images(found) == [None] * photo.SIMILAR
    assert len(changed.figure(found).axes) == 4
