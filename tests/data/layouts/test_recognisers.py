"""Every layout and every fault of a copy, on 14 made-up pictures: two of each class, one lesion."""

import os

import pytest
from mirror import refusal, write, zipped
from pictures import encoded, picture

from dermai_utils import files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data.layouts import match, recognisers

TRAIN = "ISIC2018_Task3_Training"
IDS = [f"ISIC_{k:07}" for k in range(14)]
LABEL = {image: CLASSES[k // 2] for k, image in enumerate(IDS)}
LESION = {image: f"HAM_{k // 2}" for k, image in enumerate(IDS)}
JPEG = {image: encoded(picture(30, 40, seed=k), "JPEG") for k, image in enumerate(IDS)}
MASK = encoded(picture(30, 40).convert("1"))
BLANK = dict.fromkeys(IDS, "")


def table(header, row, separator=","):
    """The bytes of a CSV; row: image -> its cells."""
    lines = [header, *(row(image) for image in IDS)]
    return "".join(separator.join(cells) + "\n" for cells in lines).encode()


def one_hot(classes, label=LABEL.get, off="0.0", on="1.0"):
    row = lambda image: [image, *(on if c == label(image) else off for c in classes)]  # noqa: E731
    return table(["image", *classes], row)


def ham(separator=","):
    header = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    rest = ["histo", "50.0", "male", "back"]
    return table(header, lambda i: [LESION[i], i, LABEL[i].lower(), *rest], separator)


def images(folder="", ids=IDS, suffix=".jpg"):
    return {f"{folder}{image}{suffix}": JPEG[image] for image in ids}


GROUPINGS = table(["image", "lesion_id"], lambda image: [image, LESION[image]])
GROUND_TRUTH = one_hot(CLASSES)
OFFICIAL = {f"{TRAIN}_GroundTruth.csv": GROUND_TRUTH, f"{TRAIN}_LesionGroupings.csv": GROUPINGS}
NINE = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
PART_1 = images("HAM10000_images_part_1/", IDS[:8])
PART_2 = images("HAM10000_images_part_2/", IDS[8:])
HALVES = {"HAM10000_images_part_1.zip": zipped(images(ids=IDS[:8]))}
HALVES |= {"HAM10000_images_part_2.zip": zipped(images(ids=IDS[8:]))}
CLI_WORDS = {
    "MEL": "melanoma",
    "NV": "nevus",
    "BCC": "basal cell carcinoma",
    "AKIEC": "actinic keratosis",
    "BKL": "pigmented benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
}
TEST_TABLE = b"lesion_id,image_id,dx\nHAM_T,ISIC_T,nv\n"


def nine(image):
    """AKIEC was two classes in 2019."""
    return LABEL[image] if LABEL[image] != "AKIEC" else ("AK", "SCC")[IDS.index(image) % 2]


def cli(image):
    return [image, CLI_WORDS[LABEL[image]], "40", "back", "histo", LESION[image], "IP_1"]


CLI_HEADER = ["isic_id", "diagnosis", "age_approx", "anatom_site_general"]
CLI_HEADER += ["diagnosis_confirm_type", "lesion_id", "patient_id"]
TRUE_FALSE = one_hot([c.lower() for c in CLASSES], lambda i: LABEL[i].lower(), "False", "True")
LAYOUTS = {
    "official zips": (
        {
            f"{TRAIN}_Input.zip": zipped(images(f"{TRAIN}_Input/")),
            f"{TRAIN}_GroundTruth.zip": zipped(
                {f"{TRAIN}_GroundTruth/{TRAIN}_GroundTruth.csv": GROUND_TRUTH}
            ),
            f"{TRAIN}_LesionGroupings.csv": GROUPINGS,
        },
        "official ISIC 2018",
    ),
    "official, True and False, lower case": (
        {**OFFICIAL, f"{TRAIN}_GroundTruth.csv": TRUE_FALSE, **images(f"{TRAIN}_Input/")},
        "official ISIC 2018",
    ),
    "official, ids with .png": (
        {
            **OFFICIAL,
            f"{TRAIN}_GroundTruth.csv": table(
                ["image", *CLASSES],
                lambda i: [f"{i}.png", *("1" if c == LABEL[i] else "0" for c in CLASSES)],
            ),
            **images(f"{TRAIN}_Input/"),
        },
        "official ISIC 2018",
    ),
    "official, lesions in the ground truth": (
        {
            f"{TRAIN}_GroundTruth.csv": table(
                ["image", *CLASSES, "lesion_id"],
                lambda i: [i, *("1" if c == LABEL[i] else "0" for c in CLASSES), LESION[i]],
            ),
            **images(f"{TRAIN}_Input/"),
        },
        "official ISIC 2018",
    ),
    "official, images in a folder of another name": (
        {**OFFICIAL, **images("photos/")},
        "official ISIC 2018",
    ),
    "Google Drive's parts": (
        {
            **OFFICIAL,
            f"{TRAIN}_Input-20250131T120000Z-001.zip": zipped(images(f"{TRAIN}_Input/", IDS[:8])),
            f"{TRAIN}_Input-20250131T120000Z-002.zip": zipped(images(f"{TRAIN}_Input/", IDS[8:])),
        },
        "official ISIC 2018",
    ),
    "a browser's second download": (
        {
            f"{TRAIN}_GroundTruth (1).csv": GROUND_TRUTH,
            f"{TRAIN}_LesionGroupings (2).csv": GROUPINGS,
            f"{TRAIN}_Input (1).zip": zipped(images(f"{TRAIN}_Input/")),
        },
        "official ISIC 2018",
    ),
    "Kaggle": ({"HAM10000_metadata.csv": ham(), **PART_1, **PART_2}, "Kaggle HAM10000"),
    "Kaggle, nested twice, lower case": (
        {
            "HAM10000_metadata.csv": ham(),
            **{f"ham10000_images_part_1/{name.lower()}": data for name, data in PART_1.items()},
            **{f"HAM10000_images_part_2/{name}": data for name, data in PART_2.items()},
        },
        "Kaggle HAM10000",
    ),
    "Kaggle's one zip, every image twice": (
        {
            "archive.zip": zipped(
                {
                    "HAM10000_metadata.csv": ham(),
                    **images("HAM10000_images_part_1/"),
                    **images("ham10000_images_part_1/"),
                    "hmnist_8_8_L.csv": b"pixel0000,label\n1,2\n",
                }
            )
        },
        "Kaggle HAM10000",
    ),
    "Dataverse": (
        {
            **HALVES,
            "HAM10000_metadata": ham(),
            "ISIC2018_Task3_Test_GroundTruth.csv": TEST_TABLE,
            "HAM10000_segmentations.zip": zipped({f"s/{i}_segmentation.png": MASK for i in IDS}),
        },
        "Dataverse HAM10000",
    ),
    "Dataverse, .tab": ({**HALVES, "HAM10000_metadata.tab": ham("\t")}, "Dataverse HAM10000"),
    "ISIC 2019": (
        {
            "ISIC_2019_Training_GroundTruth.csv": one_hot(NINE, nine),
            "ISIC_2019_Training_Metadata.csv": table(
                ["image", "age_approx", "anatom_site_general", "lesion_id", "sex"],
                lambda image: [image, "40.0", "back", LESION[image], "male"],
            ),
            "ISIC_2019_Training_Input.zip": zipped(images("ISIC_2019_Training_Input/")),
        },
        "ISIC 2019",
    ),
    "isic-cli": ({"metadata.csv": table(CLI_HEADER, cli), **images()}, "isic-cli"),
    "a zip in a zip": (
        {"all.zip": zipped({f"{TRAIN}_Input.zip": zipped(images(f"{TRAIN}_Input/"))}), **OFFICIAL},
        "official ISIC 2018",
    ),
    "one folder a class": (
        {f"{LABEL[image]}/{image}.jpg": JPEG[image] for image in IDS},
        "one folder a class",
    ),
    "one zip a class": (
        {
            f"{CLI_WORDS[c]}.zip": zipped(images(ids=[i for i in IDS if LABEL[i] == c]))
            for c in CLASSES
        },
        "one folder a class",
    ),
    "one folder a class, with HAM10000's lesions": (
        {
            **{f"train/{CLI_WORDS[LABEL[image]]}/{image}.jpg": JPEG[image] for image in IDS},
            "lesions.csv": GROUPINGS,
        },
        "one folder a class",
    ),
}


@pytest.fixture
def recognise(tmp_path):
    def recognised(contents):
        folder = write(tmp_path / "data", contents)
        return recognisers.recognise(folder, tmp_path / "unpacked")

    return recognised


def column(copy, name):
    """{image: value} of the usable rows; each has a file."""
    rows = copy.rows[copy.rows["reason"] == ""]
    return rows.set_index("image")[name].to_dict()


@pytest.mark.parametrize("contents, name", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_rows(recognise, contents, name):
    copy = recognise(contents)
    assert copy.layout == name and copy.counts() == dict.fromkeys(CLASSES, 2)
    assert column(copy, "label") == LABEL
    unknown = name == "one folder a class" and "lesions.csv" not in contents
    assert column(copy, "lesion_id") == (BLANK if unknown else LESION)
    for image, path in column(copy, "path").items():
        with open(path, "rb") as file:
            assert file.read() == JPEG[image]
    assert set(copy.rows["reason"]) == {""} and set(copy.rows["source"]) == {"train"}


def test_metadata_has_our_names_in_every_layout(recognise):
    copy = recognise(LAYOUTS["isic-cli"][0])
    row = copy.rows.iloc[0]
    assert row[["patient_id", "age", "localization", "confirmed_by"]].tolist() == [
        *("IP_1", 40.0, "back", "histo")
    ]


def test_the_same_files_elsewhere_have_the_same_digest(tmp_path):
    folder = write(tmp_path / "data", LAYOUTS["official zips"][0])
    first = recognisers.recognise(folder, tmp_path / "a")
    assert recognisers.recognise(folder, tmp_path / "b").digest == first.digest


def test_the_test_set_of_the_dataverse_is_a_source_of_its_own(recognise):
    official_test = {"ISIC2018_Task3_Test_Images.zip": zipped({"ISIC_T.jpg": JPEG[IDS[0]]})}
    copy = recognise({**LAYOUTS["Dataverse"][0], **official_test})
    assert column(copy, "source") == {**dict.fromkeys(IDS, "train"), "ISIC_T": "test"}
    assert column(copy, "lesion_id")["ISIC_T"] == "HAM_T"


# Faults


def test_unknown_classes_are_rejected_by_name(recognise):
    unknown = {"metadata.csv": table(CLI_HEADER, cli).replace(b"vascular lesion", b"scar")}
    copy = recognise({**images(), **unknown})
    assert copy.rows["reason"].value_counts().to_dict() == {
        "": 12,
        "class scar: none of the seven": 2,
    }
    folders = {f"{LABEL[image]}/{image}.jpg": JPEG[image] for image in IDS}
    copy = recognise({"folders/UNK/x.jpg": MASK, **{f"folders/{n}": d for n, d in folders.items()}})
    assert (copy.rows["reason"] == "class UNK: none of the seven").sum() == 1


def notes_of(copy, word):
    return [note for note in copy.notes if word in note]


@pytest.mark.parametrize("folder", ["", "masks/"])
def test_a_photograph_is_preferred_to_its_mask(recognise, folder):
    masks = {f"{folder}{image}.png": MASK for image in IDS}
    copy = recognise({"HAM10000_metadata.csv": ham(), **images(), **masks})
    assert all(path.endswith(".jpg") for path in column(copy, "path").values())
    (line,) = notes_of(copy, "more than one file")
    assert line.startswith("14 images") and ".png" in line


def test_an_image_that_has_a_mask_alone_is_missing(recognise):
    masks = {f"{image}.png": MASK for image in IDS}
    copy = recognise({"HAM10000_metadata.csv": ham(), **images(ids=IDS[1:]), **masks})
    assert set(column(copy, "label")) == set(IDS[1:])
    assert copy.rows.set_index("image")["reason"][IDS[0]] == "image file missing"
    assert notes_of(copy, "1 images have a mask and no photograph")


@pytest.mark.parametrize("where", ["", "MEL/"])
def test_files_called_masks_are_not_images(recognise, where):
    contents = dict(LAYOUTS["one folder a class" if where else "isic-cli"][0])
    copy = recognise({**contents, f"{where}{IDS[0]}_segmentation.png": MASK})
    assert column(copy, "label") == LABEL and len(copy.rows) == 14
    assert notes_of(copy, "1 masks")


def test_half_a_folder_beside_the_whole_zip(recognise):
    half = {**images(f"{TRAIN}_Input/", IDS[:5]), **LAYOUTS["official zips"][0]}
    half[f"{TRAIN}_Input/{IDS[5]}.jpg"] = JPEG[IDS[5]][:200]  # where the unpacking stopped
    copy = recognise(half)
    assert column(copy, "label") == LABEL
    assert all("unpacked" in path for path in column(copy, "path").values())
    assert notes_of(copy, "6 images have more than one file")


def test_a_zip_that_lies_there_unpacked_is_not_unpacked_again(recognise, tmp_path):
    copy = recognise({**images(f"{TRAIN}_Input/"), **LAYOUTS["official zips"][0]})
    assert column(copy, "label") == LABEL and copy.notes == []
    assert not (tmp_path / "unpacked" / f"{TRAIN}_Input").exists()


def test_of_two_copies_the_one_with_more_usable_images(recognise):
    kaggle = LAYOUTS["Kaggle"][0]
    small = {f"{TRAIN}_GroundTruth.csv": GROUND_TRUTH, **images(f"{TRAIN}_Input/", IDS[:3])}
    contents = {f"a/{n}": d for n, d in small.items()} | {f"b/{n}": d for n, d in kaggle.items()}
    copy = recognise(contents)
    assert copy.layout == "Kaggle HAM10000" and column(copy, "label") == LABEL
    (line,) = notes_of(copy, "two copies")
    assert "14 usable images" in line and "3 usable images" in line


def test_ids_that_differ_in_case_are_matched(recognise):
    names = {IDS[0]: "isic_0000000.JPG", IDS[1]: "Isic_0000001.Jpe", IDS[2]: "ISIC_0000002.jfif"}
    contents = {**images(ids=IDS[3:]), **{name: JPEG[image] for image, name in names.items()}}
    copy = recognise({"HAM10000_metadata.csv": ham(), **contents})
    assert column(copy, "label") == LABEL


def test_class_folders_with_other_scripts_and_the_same_names(recognise):
    contents = {f"данные/{c}/снимок 1.jpg": JPEG[IDS[k]] for k, c in enumerate(CLASSES)}
    copy = recognise({**contents, "данные/MEL/étude.jpg": MASK})
    assert column(copy, "label") == {"étude": "MEL", **{f"{c}_снимок 1": c for c in CLASSES}}
    assert notes_of(copy, "7 files (снимок 1, ...) have the same name")


@pytest.mark.parametrize("layout", ["one folder a class", "isic-cli"])
def test_what_has_a_name_that_is_no_utf8_is_said(recognise, layout):
    """An image has a row with the reason, a folder and a table a line; all else is as it was."""
    top = "MEL/" if layout == "one folder a class" else ""
    odd = [b"caf\xe8.jpg", b"caf\xe9.jpg", b"l\xe9sions/x.jpg", b"donn\xe9es.csv"]
    try:
        copy = recognise(LAYOUTS[layout][0] | {top + os.fsdecode(n): JPEG[IDS[0]] for n in odd})
    except (OSError, UnicodeError):
        pytest.skip("this system has no such names")
    assert column(copy, "label") == LABEL
    rejected = copy.rows[copy.rows["reason"] != ""]
    assert rejected["image"].tolist() == ["caf\ufffd"] * 2
    assert set(rejected["reason"]) == {match.NOT_UTF8}
    for name in ("l\ufffdsions", "donn\ufffdes.csv"):
        assert notes_of(copy, f"{name} is not looked into: its name is not in UTF-8; rename it")
    assert files.table_text(copy.rows).encode()  # which letters for such bytes refuse


def test_an_empty_class_folder_is_named(recognise, tmp_path):
    (tmp_path / "data" / "DF").mkdir(parents=True)
    copy = recognise({f"{c}/{c}.jpg": JPEG[IDS[0]] for c in CLASSES if c != "DF"})
    assert notes_of(copy, "DF is empty: no DF from there") and copy.counts()["DF"] == 0


def test_images_that_no_label_names_are_counted(recognise):
    copy = recognise({**LAYOUTS["Kaggle"][0], "holiday/beach.jpg": MASK})
    assert column(copy, "label") == LABEL and len(copy.rows) == 14
    assert notes_of(copy, "1 images in holiday are not used")


@pytest.mark.parametrize(
    "contents, says",
    [
        ({"holiday/beach.jpg": MASK}, "1 images in holiday"),
        ({"HAM10000_metadata.csv": ham(), "pictures/x.jpg": MASK}, "HAM10000_metadata.csv"),
        ({"notes.txt": b""}, "found nothing of use"),
        (dict.fromkeys(["a/b/c/HAM10000_metadata.csv", "a/b/c/x.jpg"], ham()), "3 levels deep"),
    ],
)
def test_no_layout_says_what_was_found_and_where_to_read(recognise, contents, says):
    line = refusal(recognise, contents)
    assert says in line and "docs/data.md" in line


def test_labels_of_other_images_are_one_line(recognise):
    contents = {**OFFICIAL, **{f"{TRAIN}_Input/X{i}.jpg": JPEG[i] for i in IDS}}
    with pytest.raises(UserError, match="14 × image file missing.*expected the files' names"):
        recognise(contents)


def test_a_zip_in_a_zip_in_a_zip_is_named(recognise):
    inner = zipped({"b.zip": zipped({"c.zip": zipped(images())})})
    copy = recognise({**LAYOUTS["isic-cli"][0], "a.zip": inner})
    assert notes_of(copy, "c.zip is a zip in a zip in a zip")
