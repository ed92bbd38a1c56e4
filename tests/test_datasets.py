import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from copies import contents, folder, many, photo, photos, some, zipped
from mirror import serving

from dermai_utils import datasets, pixels, splits
from dermai_utils.basics import CLASSES, UserError

MINE = {"labels.csv": "image,label\nA1,mel\nA2,nv\nA3,bcc\nA4,nv\n"}
MINE |= photos("A1.jpg", "A2.jpg", "A3.jpg", "A4.jpg")


@pytest.fixture
def load(tmp_path):
    """load(data, **options) at 32 px, with its cache in tmp_path."""

    def load(data=tmp_path / "data", **options):
        return datasets.load(data, 32, cache=tmp_path / "cache", **options)

    return load


@pytest.fixture
def undecoded(monkeypatch):
    """undecoded(): from now on, a picture that is decoded fails the test."""

    def refuse(*_):
        pytest.fail("a picture is decoded again")

    return lambda: monkeypatch.setattr(pixels, "decode", refuse)


def consistent(dataset):
    """Check what every Dataset promises."""
    table = dataset.table
    assert table.columns.tolist() == datasets.COLUMNS
    assert table.index.equals(pd.RangeIndex(len(table))) and table["image"].is_unique
    assert dataset.rejected.columns.tolist() == ["image", "source", "reason"]
    assert table["age"].dtype == float and set(table["label"]) <= set(CLASSES)
    text = table.drop(columns="age")
    assert text.map(lambda value: isinstance(value, str)).all(axis=None)
    height, width = pixels.shape(32)
    assert dataset.pixels.shape == (len(table), height, width, 3)
    assert isinstance(dataset.pixels, np.memmap) and not dataset.pixels.flags.writeable
    for k, path in enumerate(table["path"]):
        with open(path, "rb") as file:
            assert (dataset.pixels[k] == pixels.decode(file.read(), height, width)).all()
    return dataset


def test_the_sample_has_all_classes_and_names_every_picture_that_is_left_out(load, capsys):
    dataset = consistent(load("sample"))
    printed = capsys.readouterr().out.splitlines()
    assert dataset.name == "sample" and dataset.layout == "official ISIC 2018"
    assert [line for line in printed if "decoding" not in line] == [
        f"data: {note}" for note in dataset.notes
    ]
    table, rejected = dataset.table, dataset.rejected
    assert set(table["source"]) == {"train", "official"}
    assert set(table["label"]) == set(CLASSES) and (rejected["reason"] != "").all()
    early = rejected["reason"].isin(("image file missing", "image without a label row"))
    assert early.any() and not early.all()  # others are found only when they are decoded
    counts = " · ".join(f"{c} " for c in CLASSES)
    assert re.sub(r"\d+", "", dataset.notes[0]) == f"layout official ISIC : {counts}"
    assert f"{len(table):,} usable images, {len(rejected):,} rejected" in dataset.notes
    reasons = rejected["reason"].value_counts()
    assert {f"{count} × {reason}" for reason, count in reasons.items()} <= set(dataset.notes)


def test_class_counts_agree_with_pandas(load):
    table = load("sample").table
    counts = datasets.class_counts(table)
    assert counts.index.tolist() == list(CLASSES)
    assert counts["images"].to_dict() == {c: (table["label"] == c).sum() for c in CLASSES}
    ids = table["lesion_id"].where(table["lesion_id"] != "", table["image"])
    assert counts["lesions"].sum() == len(table.assign(ids=ids)[["label", "ids"]].drop_duplicates())
    empty = datasets.class_counts(table[table["label"] == "NV"])
    assert empty.loc["DF"].tolist() == [0, 0, 0] and empty["share"].sum() == 1


def test_rows_are_found_by_image(load, tmp_path):
    folder(tmp_path / "data", MINE)
    dataset = load()
    assert dataset.table["image"][dataset.rows(["A3", "A1"])].tolist() == ["A3", "A1"]
    with pytest.raises(UserError, match="image A9 is not in data"):
        dataset.rows(["A1", "A9"])


# The cache


def test_a_second_load_decodes_nothing_and_gives_the_same(load, tmp_path, undecoded):
    folder(tmp_path / "data", many())
    folder(tmp_path / "clinic", some({"B1": "nv,,", "B2": "mel,,"}, first=150))
    first = consistent(load(test=tmp_path / "clinic"))
    before = contents(tmp_path)
    undecoded()
    second = load(test=[str(tmp_path / "clinic")])
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(first.rejected, second.rejected)
    assert (first.pixels == second.pixels).all() and first.notes == second.notes
    assert contents(tmp_path) == before


def test_each_size_and_each_combination_has_its_array(load, tmp_path, undecoded):
    folder(tmp_path / "data", MINE)
    for name, first in (("x", 20), ("y", 30)):
        folder(tmp_path / name, some({f"{name}1": "df,,"}, first=first))
    x, y = tmp_path / "x", tmp_path / "y"
    combinations = [dict(), dict(test=x), dict(extra=x), dict(test=[x, y]), dict(test=y, extra=x)]
    made = [load(**options) for options in combinations]
    large = datasets.load(tmp_path / "data", 224, cache=tmp_path / "cache")
    assert large.pixels.shape == (4, 225, 300, 3)
    undecoded()
    for options, dataset in zip(combinations, made, strict=True):
        again = load(**options)
        assert again.table.equals(dataset.table) and (again.pixels == dataset.pixels).all()
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 6


def test_after_a_move_labels_are_read_anew_and_nothing_is_decoded(load, tmp_path, undecoded):
    images = {name: data for name, data in MINE.items() if name != "labels.csv"}
    archive = {"labels.csv": MINE["labels.csv"], "photos.zip": zipped(images)}
    folder(tmp_path / "data", archive)
    first = load()
    shutil.copytree(tmp_path / "cache", tmp_path / "new cache", symlinks=True)
    shutil.rmtree(tmp_path / "cache")
    undecoded()
    other = (tmp_path / "data").rename(tmp_path / "other")
    (other / "labels.csv").write_text(MINE["labels.csv"].replace("A3,bcc", "A3,df"))
    moved = datasets.load(other, 32, cache=tmp_path / "new cache").table
    assert moved["label"].tolist() == ["MEL", "NV", "DF", "NV"]
    same = ["image", "source", "pixel_hash"]
    assert moved[same].equals(first.table[same])


@pytest.mark.parametrize("harm", ["no record", "cut off", "another record"])
def test_an_array_that_is_not_whole_is_made_again(load, tmp_path, harm):
    folder(tmp_path / "data", MINE)
    load()
    array, record = (next((tmp_path / "cache").glob(f"pixels*.{kind}")) for kind in ("npy", "json"))
    if harm == "no record":  # killed before it was written
        array.write_bytes(b"half")
        record.unlink()
    elif harm == "cut off":
        array.write_bytes(array.read_bytes()[:-1])
    else:
        record.write_text('{"made_from": "some')
    consistent(load())


def test_two_processes_at_once_make_the_same(tmp_path):
    folder(tmp_path / "data", many())
    code = "import sys; from dermai_utils import datasets; d = datasets.load(sys.argv[1], 32, "
    code += "cache=sys.argv[2]); print(d.table['pixel_hash'].sum(), int(d.pixels.sum()))"
    words = [sys.executable, "-c", code, str(tmp_path / "data"), str(tmp_path / "cache")]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert lines[0][-1] == lines[1][-1]
    assert sum("decoding" in line for line in lines[0] + lines[1]) == 1


# Further folders


def test_test_sets_and_extra_folders_are_named_after_their_folders(load, tmp_path):
    folder(tmp_path / "data", MINE)
    places = ["a/clinic", "b/clinic", "val", "2024", "Given Test"]
    for k, place in enumerate(places):
        folder(tmp_path / place, some({f"B{k}": f"nv,BCN_{k},", "A1": "nv,,"}, first=20 + 2 * k))
    dataset = consistent(load(test=[tmp_path / place for place in places]))
    names = ["clinic", "clinic-2", "val set", "2024 set", "Given Test set"]
    assert dataset.table["source"].drop_duplicates().tolist() == ["train", *names]
    by_image = dataset.table.set_index("image")["origin"]
    for k, name in enumerate(names):
        assert by_image[f"B{k}"] == "BCN" and by_image[f"{name}:A1"] == name
    assert (by_image[["A1", "A2"]] == "").all()


def test_what_extra_folders_repeat_is_rejected_and_the_pixels_stay_in_order(load, tmp_path):
    one, two, three = (f"ISIC_000000{k}" for k in (1, 2, 3))
    labels = f"image,label\n{one},mel\n{two},nv\nA3,bcc\nA4,nv\n"
    pictures = photos(f"{one}.jpg", f"{two}.jpg", "A3.jpg") | {"A4.jpg": b"<html>404</html>"}
    folder(tmp_path / "data", {"labels.csv": labels} | pictures)
    rows = {one: "nv,,", "C1": "nv,MSK_1,", "C2": "nv,,", f"{two}_downsampled": "df,,"}
    folder(tmp_path / "x", some(rows | {three: "df,,"}, first=40, C2=41))
    folder(tmp_path / "y", some({three: "df,,", "D1": "df,,", "D2": "nv,,"}, first=60, D1=44))
    folder(tmp_path / "clinic", some({three: "df,,", "T1": "nv,,"}, first=70, T1=41))
    extra = [tmp_path / "x", tmp_path / "y"]
    dataset = consistent(load(test=tmp_path / "clinic", extra=extra))
    reasons = dataset.rejected.set_index("image")["reason"].to_dict()
    assert reasons == {
        "A4": "not an image",
        f"extra:{one}": datasets.SAME_ID,
        f"extra:{two}_downsampled": datasets.SAME_ID,
        f"extra:{three}": datasets.SAME_ID,
        "C2": datasets.SAME_PIXELS,
        "D1": datasets.SAME_PIXELS,
    }
    table = dataset.table.set_index("image")
    names = ["A3", one, two, "C1", three, "D2", f"clinic:{three}", "T1"]
    assert table.index.tolist() == names
    assert table["origin"].tolist() == [*[""] * 3, "MSK", "x", "y", "clinic", "clinic"]
    assert table["pixel_hash"]["C1"] == table["pixel_hash"]["T1"]


def test_numbers_as_ids_in_several_folders_are_different_images(load, tmp_path):
    for k, place in enumerate(("data", "x", "y", "clinic")):
        rows = {"1": "mel,,", "2": "nv,,", "3": "bcc,,", "4": "nv,,"}
        folder(tmp_path / place, some(rows, first=10 * k))
    extra = [tmp_path / "x", tmp_path / "y"]
    dataset = consistent(load(test=tmp_path / "clinic", extra=extra))
    assert dataset.rejected.empty and len(dataset.table) == 16
    assert {"1", "extra:1", "extra-2:1", "clinic:1"} <= set(dataset.table["image"])
    subset = splits.split(dataset.table, val=0.25, pairs=())
    assert (subset != splits.LEFT_OUT).all()


UNKNOWN = ["unknown", "NA", "0", "-1", "0.0", "not yet"]
PLACEHOLDERS = [*(("lesion_id", word) for word in UNKNOWN), ("patient_id", "not yet")]
PICTURES = {f"B{k}.png": photo(k, "PNG") for k in range(84)}


@pytest.mark.parametrize("column, word", PLACEHOLDERS)
def test_a_placeholder_is_no_id(load, tmp_path, column, word):
    cells = [word if k % 3 else f"L{k // 6}" for k in range(84)]  # 56 of 84
    rows = ["image,label," + column, *(f"B{k},nv,{cell}" for k, cell in enumerate(cells))]
    folder(tmp_path / "data", {"labels.csv": "\n".join(rows) + "\n"} | PICTURES)
    dataset = load()
    ids = dataset.table.set_index("image")[column]
    assert all(ids[f"B{k}"] == ("" if cell == word else cell) for k, cell in enumerate(cells))
    if word != "NA":  # which pandas reads as blank
        assert any(f"{column} {word} of 56 images is no id" in note for note in dataset.notes)
    assert len(set(splits.groups(dataset.table))) == 56 + 14


def test_ids_from_0_on_and_a_few_patients_of_many_images_are_ids(load, tmp_path):
    rows = [f"B{k},nv,{k // 2},{'PQR'[k % 3]}" for k in range(84)]
    text = "\n".join(["image,label,lesion_id,patient_id", *rows]) + "\n"
    folder(tmp_path / "data", {"labels.csv": text} | PICTURES)
    table = load().table
    assert table["lesion_id"].nunique() == 42 and set(table["patient_id"]) == set("PQR")
    few = text.replace("\nB2,nv,1,", "\nB2,nv,0,")  # three images of 0, two of any other: no id
    (tmp_path / "data" / "labels.csv").write_text(few)
    assert (load().table["lesion_id"] == "").sum() == 3


def test_many_reasons_are_counted_and_only_the_commonest_named(load, tmp_path, capsys):
    words = "".join(f"X{k},wart {k}\n" for k in range(14)) + "X14,wart 0\n"
    images = {f"X{k}.jpg": photo(20 + k) for k in range(15)}
    folder(tmp_path / "data", MINE | images | {"labels.csv": MINE["labels.csv"] + words})
    notes = load().notes
    assert "2 × class wart 0: none of the seven" in notes
    assert "4 × 4 other reasons" in notes
    assert "WARNING: 78.9% of the training images are left out" in "\n".join(notes)


# Where the data come from


def test_official_archives_are_fetched_once(load, tmp_path, undecoded):
    top, ids = "ISIC2018_Task3_Training", ["ISIC_0024306", "ISIC_0024307"]
    truth = f"image,{','.join(CLASSES)}\n{ids[0]},1,0,0,0,0,0,0\n{ids[1]},0,1,0,0,0,0,0\n"
    files = {
        f"{top}_GroundTruth.zip": zipped({f"{top}_GroundTruth/{top}_GroundTruth.csv": truth}),
        f"{top}_Input.zip": zipped({f"{top}_Input/{i}.jpg": photo(int(i[-1])) for i in ids}),
    }
    with serving(files) as server:
        first = consistent(load("isic2018", base_url=server.url))
        assert first.notes[0].startswith("fetched ISIC2018_Task3_Training_GroundTruth.zip")
        asked = len(server.asked)
        undecoded()
        again = load("isic2018", base_url=server.url)
        assert len(server.asked) == asked and again.table.equals(first.table)
    assert not any("fetched" in note for note in again.notes)
    assert any("no official test set" in note for note in again.notes)


def test_results_inside_the_data_can_be_left_out(load, tmp_path):
    folder(tmp_path / "data", MINE)
    folder(tmp_path / "data" / "work", many())
    assert len(load().table) > 4
    assert len(load(leave_out=[tmp_path / "data" / "work"]).table) == 4


def test_a_cache_that_cannot_be_is_one_line(tmp_path):
    data = folder(tmp_path / "data", MINE)
    with pytest.raises(UserError, match="test_datasets.py: .*expected to read and write there"):
        datasets.load(data, 32, cache=__file__)


def test_a_zip_is_taken_like_the_folder_that_it_holds(load, tmp_path):
    """As data, test and extra; named without .zip. A name of two words is quoted."""
    clinic = {"labels.csv": "image,label\nB5,mel\n", **photos("B5.jpg")}
    more = {"labels.csv": "image,label\nC7,df\n", **photos("C7.jpg")}
    for name, files in (("mine.zip", MINE), ("a clinic.zip", clinic), ("more.ZIP", more)):
        (tmp_path / name).write_bytes(zipped(files))
    dataset = consistent(
        load(tmp_path / "mine.zip", test=tmp_path / "a clinic.zip", extra=tmp_path / "more.ZIP")
    )
    assert dataset.name == "mine"
    sources = dataset.table.set_index("image")["source"].to_dict()
    assert sources == dict.fromkeys(["A1", "A2", "A3", "A4"], "train") | {
        "B5": "a clinic",
        "C7": "extra",
    }
    assert any(note.startswith("test set 'a clinic', layout") for note in dataset.notes)


WRONG_FOLDERS = {
    "data that names nothing": (dict(data=" "), "names nothing; expected sample"),
    "a test set that is the data": (dict(test="data"), "test=data is the training data itself"),
    "extra images that are the data": (dict(extra=["./data"]), "is the training data itself"),
    "the work folder is the data": (dict(leave_out=["data"]), "data was left out: it is a work"),
    "the work folder holds the images": (dict(leave_out=["data/photos"]), "photos was left out"),
}


@pytest.mark.parametrize("options, says", WRONG_FOLDERS.values(), ids=WRONG_FOLDERS)
def test_a_folder_in_the_wrong_place_is_told_in_one_line(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "data", {"labels.csv": MINE["labels.csv"], "photos/A1.jpg": photo(1)})
    with pytest.raises(UserError) as error:
        datasets.load(**{"data": "data", "size": 32, "cache": "cache"} | options)
    assert says in str(error.value) and "\n" not in str(error.value)
