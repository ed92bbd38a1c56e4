"""Every mistake with its picture and its neighbours, and the numbers behind the threshold."""

import dataclasses

import numpy as np
from PIL import Image

from dermai_utils import files
from dermai_utils.config import CLASSES
from dermai_utils.data import pixels, split
from dermai_utils.metrics import predictions
from dermai_utils.report import browse, figures, render


def test_every_mistake_has_its_own_picture_and_probabilities(corrected):
    table = files.read_table(corrected.report_dir / "predictions.csv")
    rows, images = predictions.primary_rows(table), pixels.load(corrected.pixels_file)
    wrong = rows[rows["truth"] != rows["prediction"]].set_index("image")
    found = browse.mistakes(corrected, table)
    assert {row["image"] for row in found} == set(wrong.index) and len(found) == len(wrong)
    for row in found:
        expected = wrong.loc[row["image"]]
        shown = dict((c, p) for p, c in row["probabilities"])
        assert shown == expected[list(CLASSES)].to_dict()
        assert [p for p, _ in row["probabilities"]] == sorted(shown.values(), reverse=True)
        picture = Image.open(corrected.report_dir / "mistakes" / f"{expected['row']}.jpg")
        original = Image.fromarray(images[expected["row"]]).resize(picture.size)
        apart = np.abs(np.asarray(picture, float) - np.asarray(original, float))
        assert row["picture"] and picture.width == 200 and apart.mean() < 6  # JPEG's loss


def test_the_neighbours_are_the_most_similar_of_another_lesion(corrected, tmp_path, monkeypatch):
    table = files.read_table(corrected.report_dir / "predictions.csv")
    rows, training = predictions.primary_rows(table), split.read(corrected)
    training = training[training["subset"] == "train"].reset_index(drop=True)
    images = pixels.load(corrected.pixels_file)
    wrong = (rows["truth"] != rows["prediction"]).to_numpy()
    similarity = np.random.default_rng(0).random((len(rows), len(training)))
    own = training.loc[0, "lesion_id"]
    rows = rows.assign(lesion_id=np.where(np.arange(len(rows)) == np.argmax(wrong), own, "other"))
    similarity[:, 0] = 2  # the nearest of all, and of the first mistake's own lesion
    monkeypatch.setattr(type(corrected), "report_dir", tmp_path)
    browse.save_similar(corrected, rows, similarity, training, images)
    found = files.read_json(tmp_path / "similar.json")
    assert set(found) == set(rows[wrong]["image"])
    first = training.loc[0, "image"]
    assert [first in [n["image"] for n in near] for near in found.values()] == (
        [False] + [True] * (wrong.sum() - 1)
    )
    for near, of in zip(found.values(), similarity[wrong], strict=True):
        values = [neighbour["similarity"] for neighbour in near]
        assert values == sorted(values, reverse=True) and len(values) == 3
        assert values[-1] >= np.sort(of)[-4]
    strip = Image.open(next((tmp_path / "mistakes").glob("*_similar.jpg")))
    assert strip.width == 600


def test_pictures_of_an_earlier_model_are_gone(corrected, tmp_path, monkeypatch):
    table = files.read_table(corrected.report_dir / "predictions.csv")
    monkeypatch.setattr(type(corrected), "report_dir", tmp_path)
    (tmp_path / "mistakes").mkdir()
    for name in ("mistakes/99999.jpg", "similar.json"):
        (tmp_path / name).write_text("{}")
    browse.save_pictures(corrected, table, pixels.load(corrected.pixels_file))
    wrong = predictions.mistakes(predictions.primary_rows(table))
    assert {p.name for p in (tmp_path / "mistakes").iterdir()} == {f"{r}.jpg" for r in wrong["row"]}
    assert not (tmp_path / "similar.json").exists()


def test_images_of_ones_own_test_set_are_not_forgotten(corrected, tmp_path):
    """They lie in a table of their own: how a mistake was confirmed, and pairs side by side."""
    pairs, table = tmp_path / "pairs.csv", files.read_table(corrected.table_file)
    own = table["source"] == "test"
    one, other = table.loc[~own, "image"].iloc[0], table.loc[own, "image"].iloc[0]
    pairs.write_text(f"image_a,image_b\n{one},{other}\n")
    cfg = dataclasses.replace(
        corrected, work_dir=str(tmp_path / "work"), near_duplicates=str(pairs)
    )
    files.write_table(table[~own], cfg.table_file)
    files.write_table(table[own].assign(confirmed_by="histo"), cfg.own_file)
    found = browse.mistakes(cfg, files.read_table(corrected.report_dir / "predictions.csv"))
    assert {row["confirmed_by"] for row in found} == {"histo"}
    figures.save_near_duplicates(cfg, pixels.load(cfg.pixels_file))
    assert (cfg.report_dir / "near_duplicates.jpg").exists()


def test_the_first_page_links_only_what_is_there(corrected):
    folder = corrected.work / "html"
    files.write_table(predictions_of := split.read(corrected).head(1), folder / "05_evaluate.html")
    assert len(predictions_of)
    text = render.index(corrected).read_text(encoding="utf-8")
    import re

    links = re.findall('href="([^"]+)"', text)
    assert {"report/baseline/report.html", "html/05_evaluate.html", "split.csv"} <= set(links)
    assert "report/baseline/model_card.md" in links and "report/baseline/roc_official.png" in links
    assert not [link for link in links if not (corrected.work / link).exists()]
    metrics = files.read_json(corrected.report_dir / "metrics.json")
    score = metrics["intervals"]["official"]["balanced_accuracy"]
    assert f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" in text


def test_the_page_links_only_files_that_are_there(corrected):
    import re

    text = (corrected.report_dir / "report.html").read_text(encoding="utf-8")
    links = [link for link in re.findall('href="([^"#]+)"', text) if "://" not in link]
    assert {"metrics.json", "predictions.csv", "model_card.md", "submission.csv"} <= set(links)
    assert not [link for link in links if not (corrected.report_dir / link).exists()]


def test_a_page_without_its_pictures_stays_small(corrected):
    assert (corrected.report_dir / "report.html").stat().st_size < 3e6
