"""test= and extra=: a test set of one's own and further training data, end to end on made-up
pictures."""

import contextlib
import io

import numpy as np
import pytest
from pictures import encoded, picture

from dermai_utils import config, files, pipeline
from dermai_utils.__main__ import main
from dermai_utils.config import CLASSES
from dermai_utils.data import clean, download, split

SMALL = dict(image_size=32, backbone="timm:test_resnet", weights="none", epochs=1, batch_size=8)


def write(folder, images, lesions=None):
    """One-hot labels and pictures, {id: (class, seed of its picture)}, in the official layout."""
    top = folder / "ISIC2018_Task3_Training_Input"
    top.mkdir(parents=True)
    lines = [",".join(["image", *CLASSES])]
    for image, (label, seed) in images.items():
        (top / f"{image}.png").write_bytes(encoded(picture(seed=seed), "PNG"))
        lines.append(",".join([image, *("1.0" if c == label else "0.0" for c in CLASSES)]))
    (folder / "ISIC2018_Task3_Training_GroundTruth.csv").write_text("\n".join(lines) + "\n")
    if lesions:
        rows = [f"{image},{lesion}" for image, lesion in lesions.items()]
        text = "\n".join(["image,lesion_id", *rows]) + "\n"
        (folder / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(text)
    return folder


HOME = {f"A{k:02}": (CLASSES[k % 7], k) for k in range(42)}
LESIONS = {image: f"L{int(image[1:]) // 2}" for image in HOME}


@pytest.fixture
def home(tmp_path):
    """make(stage, field=value): 42 images, two a lesion; (config, what was printed, status)."""
    data = write(tmp_path / "home", HOME, LESIONS)

    def make(stage, **given):
        given = (
            SMALL | {"data": data, "device": "cpu", "val_fraction": 0.3, "test_fraction": 0} | given
        )
        given |= {"cache_dir": tmp_path / "cache", "work_dir": tmp_path / "work"}
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([stage, *(f"--{k.replace('_', '-')}={v}" for k, v in given.items())])
        return config.load(env={}, **given), out.getvalue() + err.getvalue(), status

    return make


def test_another_photograph_of_a_training_lesion_in_your_test_set_is_left_out_of_training(
    home, tmp_path
):
    """A home-made test set, cut out of the training data: the worst and commonest leak."""
    new = {"A00b": ("MEL", 100), "Z1": ("NV", 101), "Z2": ("BCC", 102)}
    write(tmp_path / "own", new, {"A00b": "L0", "Z1": "M1", "Z2": "M2"})
    cfg, said, status = home("split", test=tmp_path / "own")
    assert status == 0 and "2 images to learn from are left out: lesions shared with own" in said
    table = split.read(cfg).set_index("image")["subset"]
    assert table[["A00", "A01"]].tolist() == ["left out"] * 2  # both photographs of that lesion
    assert (table[list(new)] == "own").all()
    audit = files.read_json(cfg.audit_file)
    assert audit["left_out"] == {"lesions shared with own": 2}
    assert audit["pairs"]["train/own"]["lesions"] == 0 == audit["pairs"]["train/val"]["lesions"]
    cfg, said, status = home("split", test=tmp_path / "own", leaks="refuse")
    assert status == 2 and "leaks=refuse: 2 images to learn from" in said


def test_the_same_id_and_the_same_pixels_are_found_too(home, tmp_path):
    """Before, the same id ended in a traceback, and the same pixels under a new id in nothing."""
    write(tmp_path / "own", {"A03": ("AKIEC", 103), "new": ("MEL", 7), "other": ("NV", 104)})
    cfg, said, status = home("split", test=tmp_path / "own")
    assert status == 0
    assert "1 images to learn from are left out: image ids shared with own" in said
    assert "1 images to learn from are left out: exact duplicates shared with own" in said
    table = split.read(cfg).set_index("image")["subset"]
    assert table["A03"] == "left out" == table["A07"] and table["own:A03"] == "own"
    # A02 and A06 show the lesions of A03 and A07
    assert table["A02"] == "left out" == table["A06"]
    assert "2 images to learn from are left out: related images shared with own" in said


def test_extra_images_of_a_lesion_that_is_scored_are_left_out(home, tmp_path):
    """The split keeps home's images apart; those of `extra` all went into training."""
    before = split.read(home("split", test_fraction=0.2)[0]).set_index("image")
    lesions = {before.loc[before["subset"] == s, "lesion_id"].iloc[0]: s for s in ("val", "test")}
    extra = {f"E{k}": ("NV", 300 + k) for k in range(3)}
    named = before.index[before["subset"] == "val"][-1]
    extra |= {
        f"{named}_aug0": ("NV", 310),
        f"{before.index[before['subset'] == 'train'][0]}_aug0": ("NV", 311),
    }
    own = dict(zip(extra, [*lesions, "M1", "M2", "M3"], strict=True))
    cfg, said, status = home(
        "split", test_fraction=0.2, extra=write(tmp_path / "extra", extra, own)
    )
    assert status == 0
    for reason in ("lesions shared with val", "lesions shared with test", "names shared with val"):
        assert f"1 images to learn from are left out: {reason}" in said
    kept = split.read(cfg).query("source == 'extra'").set_index("image")["subset"]
    assert (kept == "train").sum() == 2 and kept["E2"] == "train"
    pairs = files.read_json(cfg.audit_file)["pairs"]
    assert pairs["val/extra"]["lesions"] == 0 == pairs["test/extra"]["lesions"]
    _, said, _ = home("split", folds=3, extra=tmp_path / "extra")  # each image is scored once
    assert "2 images to learn from are left out: lesions shared with val" in said
    assert "2 images to learn from are left out: names shared with val" in said


def test_images_of_a_test_set_in_data_itself_are_read_anew_where_they_change(home, tmp_path):
    images = tmp_path / "home" / "ISIC2018_Task3_Test_Input"
    images.mkdir()
    truth = tmp_path / "home" / "ISIC2018_Task3_Test_GroundTruth.csv"
    for k in range(2):
        (images / f"T{k}.png").write_bytes(encoded(picture(seed=500 + k), "PNG"))
        lines = [
            ",".join([f"T{n}", *("1" if c == "NV" else "0" for c in CLASSES)]) for n in range(k + 1)
        ]
        truth.write_text("\n".join([",".join(["image", *CLASSES]), *lines]) + "\n")
        cfg, said, status = home("evaluate")
        assert status == 0 and ("evaluate: making it again, because own.csv" in said) == (k > 0), (
            said
        )
        assert files.read_json(cfg.report_dir / "metrics.json")["subsets"]["own"]["n"] == k + 1
    cfg.own_file.unlink()
    assert "clean: making it again, because own.csv is missing" in home("evaluate")[1]
    _, said, _ = home("near_duplicates")
    truth.write_text(truth.read_text().replace("T1,", "T9,"))
    assert "near_duplicates: making it again, because own.csv changed" in home("near_duplicates")[1]


def test_a_test_set_that_is_the_data_itself_leaves_nothing_to_learn_from(home, tmp_path):
    cfg, said, status = home("train", test=tmp_path / "home")
    assert status == 2 and "42 images to learn from are left out" in said
    assert "too few" in said.splitlines()[-1] and "Traceback" not in said


def test_your_test_set_is_evaluated_and_makes_no_run_anew(home, tmp_path):
    home("evaluate")
    write(tmp_path / "own", {f"Z{k}": (CLASSES[k % 3], 200 + k) for k in range(9)})
    cfg, said, status = home("evaluate", test=tmp_path / "own")
    assert status == 0 and "train: up to date" in said
    metrics = files.read_json(cfg.report_dir / "metrics.json")
    assert metrics["subsets"]["own"]["n"] == 9 and metrics["elsewhere"]["classes"] == 3
    assert metrics["subsets"]["own"]["per_class"]["DF"]["recall"] is None
    assert metrics["lesions_known"] == {"val": True, "own": False}
    text = (cfg.report_dir / "report.html").read_text(encoding="utf-8")
    assert "On images from elsewhere" in text and "too narrow where lesions repeat" in text
    cfg, said, status = home("evaluate")
    assert (
        status == 0
        and "train: up to date" in said
        and "own" not in files.read_json(cfg.report_dir / "metrics.json")["subsets"]
    )


def clinic(folder, images):
    """A label table with patients, as a clinic has one, and the pictures beside it."""
    folder.mkdir()
    for image, (_, seed) in images.items():
        (folder / f"{image}.png").write_bytes(encoded(picture(seed=seed), "PNG"))
    lines = [f"{image},{label},P{k}" for k, (image, (label, _)) in enumerate(images.items())]
    (folder / "labels.csv").write_text("\n".join(["image,label,patient_id", *lines]) + "\n")
    return folder


def test_a_test_set_with_patients_makes_no_run_anew_with_it_and_without_it(home, tmp_path):
    """Its column went into table.csv, on the bytes of which every run rests."""
    images = {f"Z{k}": (CLASSES[k % 3], 200 + k) for k in range(9)}
    cfg, _, _ = home("train")
    before = cfg.table_file.read_bytes()
    for given in ({"test": clinic(tmp_path / "own", images)}, {}):
        _, said, status = home("train", **given)
        assert status == 0 and "train: up to date" in said
        assert cfg.table_file.read_bytes() == before
        table = split.read(cfg)
        patients = set(table.get("patient_id", [""]))
        assert patients == {"", *(f"P{k}" for k in range(9) if given)}


@pytest.mark.parametrize("first", [True, False])
def test_a_test_set_that_comes_or_goes_changes_no_split(home, tmp_path, first):
    """Which images are set aside for an inner test subset hung on it, and so each run."""
    own = clinic(tmp_path / "own", {f"Z{k}": (CLASSES[k % 3], 200 + k) for k in range(9)})
    for k, with_it in enumerate((first, not first, first)):
        given = {"test": own} if with_it else {}
        cfg, said, status = home("train", test_fraction="auto", **given)
        assert status == 0 and ("train: up to date" in said) == (k > 0), said
        assert ("is set aside for an inner one" in said) == first
        assert ("test" in set(split.read(cfg)["subset"])) != first
    # only a choice of test_fraction=auto stands
    cfg, _, _ = home("split", test_fraction=0.2)
    assert "test" in set(split.read(cfg)["subset"])
    home("split", test_fraction=0)
    cfg, _, _ = home("split", test_fraction="auto")
    assert "test" in set(split.read(cfg)["subset"])
    cfg.split_file.write_bytes(b"image;part\n")
    _, said, status = home("split", test_fraction="auto", test=own)
    assert status == 0 and "split: your own test set is there, so" in said


def test_labels_of_a_test_set_that_are_not_understood_are_a_warning_of_their_own(home, tmp_path):
    """A few of many images in all, and most of the test set."""
    images = {f"Z{k}": ("NV" if k else "Warze", 200 + k) for k in range(2)}
    _, said, status = home("clean", test=clinic(tmp_path / "own", images))
    warning = "WARNING: 50.0% of the own test images are left out (1 × class Warze: none of the"
    assert status == 0 and warning in said and said.count("WARNING") == 1


def test_a_table_as_german_excel_saves_it_is_taken_with_a_line(home, tmp_path):
    own = clinic(tmp_path / "own", {f"Z{k}": ("Nävus", 200 + k) for k in range(4)})
    text = (own / "labels.csv").read_text(encoding="utf-8").replace("image,label", "Datei,Diagnose")
    (own / "labels.csv").write_bytes(text.replace(",", ";").encode("cp1252"))
    _, said, status = home("clean", test=own)
    assert status == 0 and "NV 4" in said
    assert "your own test set: labels.csv is not in UTF-8: read as Windows-1252" in said


@pytest.mark.parametrize(
    "field, what", [("test", "test"), ("extra", "extra"), ("data", "training")]
)
def test_images_without_labels_that_are_understood_are_named(home, tmp_path, field, what):
    folder = clinic(tmp_path / "own", {"Z1": ("NV", 201)})
    (folder / "labels.csv").write_text("picture,finding\nZ1,nv\n")
    _, said, status = home("clean", **{field: folder})
    line = said.splitlines()[-1]
    assert status == 2 and f"holds no {what} labels: found labels.csv (picture, finding)" in line
    assert "beside 1 images in own; expected a column of ids (image," in line
    (folder / "labels.csv").unlink()
    line = home("clean", **{field: folder})[1].splitlines()[-1]
    assert f"{folder}: no table of labels for its 1 images in own: expected" in line
    (folder / "Z1.png").unlink()
    line = home("clean", **{field: folder})[1].splitlines()[-1]
    assert f"{folder} holds no {what} images" in line


def test_a_run_of_a_version_that_wrote_the_column_stands_too(home, tmp_path):
    """Of version 0.2.0 and before: the run rests on a table with an empty column of patients."""
    cfg, _, _ = home("split")
    table = files.read_table(cfg.table_file)
    files.write_table(table.assign(patient_id=""), cfg.table_file)
    marker = pipeline._marker(cfg, "clean")
    record = files.read_json(marker)
    files.mark(marker, record["made_from"], pipeline.STAGES["clean"].makes(cfg))
    home("train")
    before = cfg.table_file.read_bytes()
    images = {f"Z{k}": (CLASSES[k % 3], 200 + k) for k in range(9)}
    _, said, _ = home("train", test=clinic(tmp_path / "own", images))
    assert "clean: making it again" in said and "train: up to date" in said
    assert cfg.table_file.read_bytes() == before


def test_pixels_of_another_label_in_the_test_set_change_no_row_of_the_table(home, tmp_path):
    cfg, _, _ = home("clean")
    before = cfg.table_file.read_bytes()
    home("clean", test=clinic(tmp_path / "own", {"Z0": ("VASC", 7), "Z1": ("NV", 200)}))
    assert cfg.table_file.read_bytes() == before
    assert clean.read(cfg).set_index("image").loc["Z0", ["duplicate_of", "conflict"]].tolist() == [
        "A07",
        True,
    ]


def test_extra_images_are_trained_on_and_nothing_else_and_known_ones_are_left_out(home, tmp_path):
    extra = {f"E{k}": (CLASSES[k % 7], 300 + k) for k in range(14)}
    extra |= {"A05": ("DF", 400), "A06_downsampled": ("VASC", 401), "copy": ("MEL", 14)}
    write(tmp_path / "extra", extra)
    cfg, said, status = home("split", extra=tmp_path / "extra")
    assert status == 0 and "2 extra images are in the data already" in said
    assert "whether extra images show a training lesion again under another id is not known" in said
    table = split.read(cfg)
    assert table.loc[table["source"] == "extra", "subset"].unique().tolist() == ["train"]
    assert sorted(table.loc[table["source"] == "extra", "image"]) == sorted(
        f"E{k}" for k in range(14)
    )
    rejected = files.read_table(cfg.rejected_file)
    assert sorted(rejected["reason"]) == sorted(
        [download.IN_DATA_ALREADY] * 2 + [clean.SAME_PIXELS]
    )


def test_a_run_with_extra_images_is_found_by_its_name_alone(home, tmp_path):
    extra = {f"E{k}": (CLASSES[k % 7], 300 + k) for k in range(14)}
    home("train", extra=write(tmp_path / "extra", extra))
    _, said, status = home("evaluate")
    assert status == 0 and "train: up to date" in said


def test_extra_that_is_the_data_itself_adds_nothing(home, tmp_path):
    cfg, said, status = home("split", extra=tmp_path / "home")
    assert status == 0 and "42 extra images are in the data already: left out" in said
    assert not (split.read(cfg)["source"] == "extra").any()


@pytest.mark.parametrize("field", ["test", "extra"])
def test_a_folder_that_is_not_there_is_one_line(home, field):
    _, said, status = home("split", **{field: "/no/such/folder"})
    assert (
        status == 2 and f"error: {field}=/no/such/folder: no such folder" in said.splitlines()[-1]
    )


def test_test_images_without_official_ids_are_never_called_official(tmp_path, made):
    assert download.is_official("ISIC_0035068") and download.is_official("ISIC_0034524")
    others = ("ISIC_0034320", "ISIC_0024306", "ISIC_0036100", "X", "ISIC_0034524_downsampled")
    assert not any(map(download.is_official, others))
    subsets = split.read(made)["subset"]
    assert (subsets == "official").any() and not (subsets == "own").any()  # the sample's


@pytest.mark.parametrize(
    "image, subset, other",
    [("A03", "own", "own:A03"), ("ISIC_0034524", "official", "train:ISIC_0034524")],
    ids=["own", "official"],
)
def test_an_id_in_the_training_and_the_test_table_of_one_folder(
    home, tmp_path, image, subset, other
):
    """Before, the split was made, and whatever read it ended in a traceback."""
    data = write(tmp_path / "both", HOME | {image: ("MEL", 300)})
    for path in write(tmp_path / "test", {image: ("MEL", 301)}).iterdir():
        path.rename(data / path.name.replace("Training", "Test"))
    cfg, said, status = home("split", data=data)
    assert status == 0 and f"1 test images have the id of a training image ({image}, ...)" in said
    assert f"1 images to learn from are left out: image ids shared with {subset}" in said
    table = split.read(cfg).set_index("image")
    assert sorted(table.loc[[image, other], "subset"]) == ["left out", subset]
    assert table.loc[image if subset == "official" else other, "subset"] == subset
    assert len(table) == 43 + (subset == "official")


def test_without_lesion_ids_it_is_not_known_how_many_leak(home, tmp_path):
    data = write(tmp_path / "no_lesions", HOME)
    cfg, said, status = home("split", data=data)
    assert status == 0 and "lesions: not known, no image has a lesion id" in said
    audit = files.read_json(cfg.audit_file)
    assert audit["lesion"]["lesions_in_several_subsets"] is None


def test_augmented_copies_stay_with_their_original(home, tmp_path):
    images = {f"B{k}": (CLASSES[k % 7], 500 + k) for k in range(21)}
    images |= {f"B{k}_aug0": (CLASSES[k % 7], 600 + k) for k in range(21)}
    cfg, _, status = home("split", data=write(tmp_path / "augmented", images))
    subset = split.read(cfg).set_index("image")["subset"]
    assert status == 0
    assert all(subset[f"B{k}"] == subset[f"B{k}_aug0"] for k in range(21))
    assert np.unique(subset).tolist() == ["train", "val"]
    assert pipeline.STAGES["split"].version == 0


def test_a_test_set_that_is_given_later_is_looked_through_for_near_duplicates(home, tmp_path):
    """The list was up to date without it, and what `split` advises to do did nothing."""
    for given in ({}, {"test": write(tmp_path / "own", {"Z0": ("MEL", 200)})}):
        _, said, status = home("near_duplicates", **given)
        assert status == 0 and "near_duplicates: up to date" not in said
    assert "near_duplicates: up to date" in home("near_duplicates", **given)[1]
