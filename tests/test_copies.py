"""Any copy of the data by the command line: what is accepted, what is rejected and why, what is
said. One row a case; copies.py makes the folders and knows the commands.

A tree is what `copies.flat` takes. Expected are all rows: {image: "source label lesion"}.
"""

import dataclasses
import hashlib

import pytest
from copies import (
    PAIRS,
    colours,
    contents,
    encoded,
    folder,
    large_png,
    look,
    many,
    official_split,
    photo,
    photos,
    picture,
    some,
    zipped,
)
from PIL import Image

TRAIN, TEST = "ISIC2018_Task3_Training", "ISIC2018_Task3_Test"
TRUTH, GROUPS = f"{TRAIN}_GroundTruth.csv", f"{TRAIN}_LesionGroupings.csv"
INPUT, INPUT_ZIP = f"{TRAIN}_Input/", f"{TRAIN}_Input.zip"
TEST_TRUTH, TEST_INPUT = f"{TEST}_GroundTruth.csv", f"{TEST}_Input/"
ONE_HOT = """\
image,MEL,NV,BCC,AKIEC,BKL,DF,VASC
A1,1.0,0.0,0.0,0.0,0.0,0.0,0.0
A2,0.0,1.0,0.0,0.0,0.0,0.0,0.0
A3,0.0,0.0,1.0,0.0,0.0,0.0,0.0
A4,0.0,1.0,0.0,0.0,0.0,0.0,0.0
"""
GROUPINGS = "image,lesion_id,diagnosis_confirm_type\nA1,L1,histo\nA2,L2,histo\nA3,L3,\nA4,L2,\n"
HAM = """\
lesion_id,image_id,dx,dx_type,age,sex,localization
L1,A1,mel,histo,50.0,male,back
L2,A2,nv,follow_up,30.0,female,face
L3,A3,bcc,histo,,male,
L2,A4,nv,follow_up,30.0,female,face
"""
LABELS = "image,label\nA1,mel\nA2,nv\nA3,bcc\nA4,nv\n"
TEST_ONE_HOT = """\
image,MEL,NV,BCC,AKIEC,BKL,DF,VASC
ISIC_0034524,0,0,0,0,0,1,0
ISIC_0034525,0,0,0,0,0,0,1
"""
TWO, TWO_MORE = ("A1", "A2"), ("A3", "A4")
JPEGS = photos("A1.jpg", "A2.jpg", "A3.jpg", "A4.jpg")
PNGS = photos("A1.png", "A2.png", "A3.png", "A4.png")
TESTS = photos("ISIC_0034524.jpg", "ISIC_0034525.jpg")
FOUR = {"A1": "train MEL L1", "A2": "train NV L2", "A3": "train BCC L3", "A4": "train NV L2"}
UNKNOWN = {"A1": "train MEL -", "A2": "train NV -", "A3": "train BCC -", "A4": "train NV -"}
OFFICIAL_TEST = {"ISIC_0034524": "official DF -", "ISIC_0034525": "official VASC -"}
MASK = encoded(picture(0).convert("1"), "PNG")


def only(files, *stems):
    return {name: content for name, content in files.items() if name.split(".")[0] in stems}


OFFICIAL = {TRUTH: ONE_HOT, GROUPS: GROUPINGS, INPUT: JPEGS}
OFFICIAL_ZIPS = {
    f"{TRAIN}_GroundTruth.zip": {f"{TRAIN}_GroundTruth/{TRUTH}": ONE_HOT},
    GROUPS: GROUPINGS,
    INPUT_ZIP: {INPUT: JPEGS},
}
OFFICIAL_TEST_ZIPS = {
    f"{TEST}_GroundTruth.zip": {f"{TEST}_GroundTruth/{TEST_TRUTH}": TEST_ONE_HOT},
    f"{TEST}_Input.zip": {TEST_INPUT: TESTS},
}
PARTS = {f"HAM10000_images_part_{k}/": only(JPEGS, *ids) for k, ids in ((1, TWO), (2, TWO_MORE))}
PART_ZIPS = {name.replace("/", ".zip"): images for name, images in PARTS.items()}
KAGGLE = {"HAM10000_metadata.csv": HAM, "hmnist_8_8_L.csv": "pixel0000,label\n1,2\n", **PARTS}
MINE = {"labels.csv": LABELS, "photos/": JPEGS}
FOLDERS = {"melanoma/A1.jpg": 1, "nevus/A2.jpg": 2, "basal cell carcinoma/A3.jpg": 3}
FOLDERS |= {"nevus/A4.jpg": 4}


PLAIN = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nA1,1.0,0.0,0.0,0.0,0.0,0.0,0.0\n"
# fmt: off
SAVED = {
    "plain": PLAIN,
    "BOM and CRLF": "\ufeff" + PLAIN.replace("\n", "\r\n"),
    "semicolons and decimal commas": PLAIN.replace(",", ";").replace(".", ","),
    "tabs": PLAIN.replace(",", "\t"),
    "integers": PLAIN.replace(".0", ""),
    "True and False": PLAIN.replace("1.0", "True").replace("0.0", "FALSE"),
    "lower case": PLAIN.lower().replace("a1", "A1"),
    "quotes and blanks": 'image, MEL,"NV",BCC,AKIEC,BKL,DF,VASC\n"A1 ", " 1",0,0,0,0,0,0\n',
    "another order": "NV,MEL,BCC,AKIEC,BKL,DF,image,VASC\n0,1,0,0,0,0,A1,0\n",
    "trailing commas": PLAIN.replace("\n", ",\n"),
    "ids with .png": PLAIN.replace("\nA1", "\nA1.png"),
    "ids with a folder": PLAIN.replace("\nA1", "\nimages/A1.JPEG"),
    "ids of Windows": PLAIN.replace("\nA1", "\nC:\\images\\A1.jpg"),
    "diagnosis": "image_id,diagnosis\nA1,mel\n",
    "class and filename": "filename,class\nA1.jpg,Melanoma\n",
    "UTF-16, tabs": PLAIN.replace(",", "\t").encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "sep= and a title": "sep=;\r\nMy clinic;\r\n" + PLAIN.replace(",", ";"),
    "a title with empty cells": "Clinic of 2024,,,,,,,\n\n,,,,,,,\n" + PLAIN,
    "Windows-1252": "filename;class;Größe\nA1.jpg;melanoma;groß\n".encode("cp1252"),
}
# fmt: on
UNREADABLE = {  # {what: (the official table of labels, why it is refused)}
    "empty": ("", "cannot be read as a CSV"),
    "zeros": (b"\0" * 300, "no column image, MEL"),
    "another encoding": (PLAIN.replace("\n", " \x81\n").encode("latin-1"), "not a text file"),
    "web page": ("<!DOCTYPE html>\n<html>404</html>\n", "no column"),
    "one class missing": (ONE_HOT.replace(",VASC", ",OTHER"), "no column VASC; expected it beside"),
    "no id column": (PLAIN.replace("image", "id"), "no column image; expected it beside id, MEL"),
    "ragged": (PLAIN + "a,1,0,0,0,0,0,0,9,9\n", "cannot be read as a CSV"),
    "a column twice": (PLAIN.replace("VASC", "VASC,Image"), "column image stands there twice"),
}


@dataclasses.dataclass
class Case:
    """data, clinic (--test), more (--extra): {file: content}. looks: {image: the photograph that it
    shows, or the colours of its left and right half}; about: {image: {column: value}}."""

    data: dict
    accepted: dict
    rejected: dict = dataclasses.field(default_factory=dict)
    says: list = ()
    clinic: dict = None
    more: dict = None
    about: dict = dataclasses.field(default_factory=dict)
    looks: dict = dataclasses.field(default_factory=dict)
    flags: dict = dataclasses.field(default_factory=dict)

    def write(self, home):
        """The folders of the case, in `home`; their contents."""
        for name in ("data", "clinic", "more"):
            if (files := getattr(self, name)) is not None:
                folder(home / name, files)
        return contents(home)


def refused(data, says, **more):
    """The case of a mistake that is told in one line, which holds all of `says`."""
    return Case(data, {}, says=says, **more)


# fmt: off
LAYOUTS = {
    "official, zips": Case(OFFICIAL_ZIPS, FOUR, says=["layout official ISIC 2018"]),
    "official, with HAM10000's metadata": Case({**OFFICIAL, "HAM10000_metadata.csv": HAM}, FOUR,
        says=["layout official ISIC 2018: MEL 1 · NV 2"], about={"A2": {"age": 30.0,
        "sex": "female", "localization": "face", "confirmed_by": "follow_up"}}),
    "official, lesions from the metadata": Case({TRUTH: ONE_HOT, "HAM10000_metadata.csv": HAM,
        INPUT: JPEGS}, FOUR, says=[f"no {TRAIN}_LesionGroupings.csv"]),
    "official, a lesion that the metadata alone knows": Case({**OFFICIAL,
        GROUPS: "image,lesion_id\nA1,K1\nA2,K2\nA4,K2\n", "HAM10000_metadata.csv": HAM}, {
        "A1": "train MEL K1", "A2": "train NV K2", "A3": "train BCC L3", "A4": "train NV K2"}),
    "official, no lesions": Case({TRUTH: ONE_HOT, INPUT: JPEGS}, UNKNOWN,
        says=[f"no {TRAIN}_LesionGroupings.csv", "no lesion groupings"]),
    "official, a folder of another name": Case({TRUTH: ONE_HOT, GROUPS: GROUPINGS,
        "photos/": JPEGS}, FOUR, says=["layout official ISIC 2018"]),
    "official, with the test set, zips": Case({**OFFICIAL_ZIPS, f"{TEST}_GroundTruth.zip": {
        f"{TEST}_GroundTruth/{TEST}_GroundTruth.csv": TEST_ONE_HOT}, f"{TEST}_Input.zip": {
        TEST_INPUT: TESTS}}, FOUR | OFFICIAL_TEST, says=["layout official ISIC 2018"]),
    "official, the test set's images without their labels": Case(
        {**OFFICIAL, TEST_INPUT: TESTS}, FOUR, says=["2 images", "not used"]),
    "official, the test set's labels without its images": Case(
        {**OFFICIAL, TEST_TRUTH: TEST_ONE_HOT}, FOUR),
    "official, a test set without official ids": Case({**OFFICIAL,
        TEST_TRUTH: "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nT8,0,0,0,0,0,1,0\n",
        f"{TEST}_Input/T8.jpg": 8}, FOUR | {"T8": "given test DF -"},
        says=["without an id of the official test set: 1 of 1"]),
    "official, a test set with the id of a training image": Case(
        {**OFFICIAL, TEST_TRUTH: "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nA1,0,0,0,0,0,1,0\n",
        f"{TEST}_Input/A1.jpg": 8}, FOUR | {"given test:A1": "given test DF L1"},
        says=["with the id of a training image: 1 (A1, ...)"]),
    "official, ids of the test set among the training images": Case(
        {**OFFICIAL, TRUTH: ONE_HOT + "ISIC_0034524,0,1,0,0,0,0,0\n",
        f"{TRAIN}_Input/ISIC_0034524.jpg": 30, TEST_TRUTH: TEST_ONE_HOT,
        TEST_INPUT: TESTS}, FOUR | OFFICIAL_TEST | {"train:ISIC_0034524": "train NV -"},
        says=["with the id of a training image: 1 (ISIC_0034524, ...)"]),
    "Google Drive's parts": Case({TRUTH: ONE_HOT, GROUPS: GROUPINGS,
        f"{TRAIN}_Input-20250131T120000Z-001.zip": {INPUT: only(JPEGS, *TWO)},
        f"{TRAIN}_Input-20250131T120000Z-002.zip": {INPUT: only(JPEGS, "A3", "A4")}},
        FOUR, says=["layout official ISIC 2018"]),
    "a browser's second download": Case({f"{TRAIN}_GroundTruth (1).csv": ONE_HOT,
        f"{TRAIN}_LesionGroupings (2).csv": GROUPINGS, f"{TRAIN}_Input (1).zip": {INPUT: JPEGS}},
        FOUR, says=["layout official ISIC 2018"]),
    "first and second download": Case({**OFFICIAL_ZIPS, f"{TRAIN}_Input (1).zip": OFFICIAL_ZIPS[
        INPUT_ZIP], f"{TRAIN}_LesionGroupings (1).csv": "image,lesion_id\nA1,other\n"}, FOUR,
        says=["layout official ISIC 2018"]),
    "half a folder beside the whole zip": Case({**OFFICIAL_ZIPS, f"{TRAIN}_Input/A1.jpg": 1,
        f"{TRAIN}_Input/A2.jpg": photo(2)[:150]}, FOUR, says=["layout official ISIC 2018",
        "2 images with more than one file"]),
    "a zip in a zip in a zip": Case({**MINE, "a.zip": {"b.zip": {"c.zip": JPEGS}}}, UNKNOWN,
        says=["c.zip is a zip in a zip in a zip: not unpacked"]),
    "a zip of nothing that is needed": Case({**MINE, "holiday.zip": {"beach.jpg": 9}}, UNKNOWN,
        says=["holiday.zip holds no image that a table names"]),
    "a zip from a Mac": Case({"archive.zip": {**KAGGLE, "__MACOSX/HAM10000_images_part_1/._": only(
        JPEGS, "A1"), ".DS_Store": "x"}}, FOUR),
    "Kaggle, archive.zip with every image twice": Case({"archive.zip": {**KAGGLE, **{name.replace(
        "HAM", "ham"): image for name, image in PARTS.items()}}}, FOUR),
    "Kaggle, folders twice, lower case": Case({"HAM10000_metadata.csv": HAM,
        "ham10000_images_part_1/ham10000_images_part_1/a1.JPG": 1,
        "ham10000_images_part_1/ham10000_images_part_1/a2.JPG": 2,
        "HAM10000_images_part_2/HAM10000_images_part_2/A3.jpg": 3,
        "HAM10000_images_part_2/HAM10000_images_part_2/A4.jpg": 4}, FOUR),
    "Dataverse": Case({**PART_ZIPS, "HAM10000_metadata": HAM,
        "HAM10000_segmentations_lesion_tschandl.zip": {f"masks/{name}_segmentation.png": MASK for
        name in ("A1", "A2", "A3", "A4")}}, FOUR, says=["layout Dataverse HAM10000"]),
    "Dataverse, .tab": Case({**PART_ZIPS, "HAM10000_metadata.tab": HAM.replace(",", "\t")}, FOUR,
        says=["layout Dataverse HAM10000"]),
    "Dataverse, with the official test set": Case({**PART_ZIPS, "HAM10000_metadata": HAM,
        TEST_TRUTH: "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
        "T1,ISIC_0034524,df,histo,60.0,male,face\nT2,ISIC_0034525,vasc,histo,,,\n",
        f"{TEST}_Images.zip": TESTS}, FOUR | {"ISIC_0034524": "official DF T1",
        "ISIC_0034525": "official VASC T2"}, about={"ISIC_0034524": {"age": 60.0, "sex": "male",
        "localization": "face"}}),
    "ISIC 2019": Case({
        "ISIC_2019_Training_GroundTruth.csv": "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\nA1,1,0,0,0,"
        "0,0,0,0,0\nA2_downsampled,0,0,0,1,0,0,0,0,0\nA3,0,0,0,0,0,0,0,1,0\nA4,0,0,0,0,0,0,0,0,1\n",
        "ISIC_2019_Training_Metadata.csv": "image,age_approx,anatom_site_general,lesion_id,sex\nA1,"
        "55.0,anterior torso,MSK_1,female\nA2_downsampled,,,BCN_2,male\nA3,,,,\n",
        "ISIC_2019_Training_Input.zip": {"ISIC_2019_Training_Input/": only(JPEGS, "A1", "A3",
        "A4")} | {"ISIC_2019_Training_Input/A2_downsampled.jpg": 2}}, {"A1": "train MEL MSK_1",
        "A2_downsampled": "train AKIEC BCN_2", "A3": "train AKIEC -"}, {
        "A4": "class UNK: none of the seven"}, says=["layout ISIC 2019"], about={"A1": {"age": 55.0,
        "sex": "female", "localization": "anterior torso"}}),
    "isic-cli, today's columns": Case(
        {"metadata.csv": "isic_id,age_approx,anatom_site_general,diagnosis_1,diagnosis_2,"
        "diagnosis_3,diagnosis_4,lesion_id,patient_id,sex\n"
        "A1,50,head/neck,Malignant,Malignant melanocytic,Melanoma Invasive,,L1,P1,male\n"
        'A2,30,,Benign,Benign melanocytic,Nevus,"Nevus, Combined",L2,P2,female\n'
        "A3,,,Malignant,,Basal cell carcinoma,,L3,P1,\nA4,,,Benign,,Nevus,,L2,,\n", **JPEGS}, FOUR,
        says=["layout isic-cli"], about={"A1": {"age": 50.0, "localization": "head/neck",
        "patient_id": "P1"}}),
    "isic-cli, diagnoses that are none of the seven": Case(
        {"metadata.csv": "isic_id,diagnosis_1,diagnosis_3\nA1,Malignant,Melanoma\n"
        "A2,Benign,Scar\nA3,,\nA4,Benign,Nevus\n", **JPEGS}, only(UNKNOWN, "A1", "A4"),
        {"A2": "class Scar: none of the seven", "A3": "no label"}),
    "a table with a split": Case(
        {"t.csv": "image,label,Split\nA1,mel,Training\nA2,nv,dev\nA3,bcc,TEST\nA4,nv,\n", **JPEGS},
        UNKNOWN,
        says=["the data comes with a split (train 1, val 1, test 1): --split given uses it"],
        about={"A1": {"given": "train"}, "A2": {"given": "val"}, "A4": {"given": ""}}),
    "a split in a table of its own": Case({**MINE, "folds.csv": "image,fold\nA1,0\nA2,1\nA3,1\n"},
        UNKNOWN, about={"A1": {"given": "0"}, "A3": {"given": "1"}, "A4": {"given": ""}}),
    "all of one split": Case({"train.csv": LABELS, "train/": JPEGS}, UNKNOWN,
        about={"A1": {"given": ""}}),
    "results of an earlier run": Case(
        {**MINE, "work/table.csv": "image,source,origin,label,lesion_id,pixel_hash,subset\n"
        "A1,train,,DF,L1,1,train\nA2,train,,DF,L1,2,val\n",
        "work/rejected.csv": "image,source,reason\nA9,train,image file missing\n"}, UNKNOWN,
        says=["work/table.csv is a result of this program: not read"], about={"A1": {"given": ""}}),
    "a table of JSON lines": Case({"metadata.jsonl": '{"file_name": "A1.jpg", "label": "mel"}\n'
        '{"file_name": "A2.jpg", "label": "nv"}\n', **only(JPEGS, *TWO)}, only(UNKNOWN, *TWO)),
    "a table, lesions in another": Case(
        {**MINE, "lesions.csv": "image,lesion_id\nA1,L1\nA2,L2\nA3,L3\nA4,L2\n"}, FOUR),
    "a table three levels deep": Case({"a/b/": {"t.csv": LABELS, **JPEGS}}, UNKNOWN),
    "accents of another system": Case({"t.csv": "image,label\nf\u00e9,mel\n",
        "fe\u0301.jpg": 1}, {"f\u00e9": "train MEL -"}),
    "blanks in names": Case({"t.csv": "image,label\nmy photo 1,mel\n",
        "my photos/my photo 1.jpg": 1}, {"my photo 1": "train MEL -"}),
    "a table for each split": Case({"test.csv": "image,label\nA4,nv\n",
        "train.csv": "image,label\nA1,mel\nA2,nv\n", "val.csv": "image,label\nA3,bcc\n",
        "photos/": JPEGS}, UNKNOWN,
        says=["layout label table test.csv, train.csv, val.csv: MEL 1 · NV 2"],
        about={"A1": {"given": "train"}, "A3": {"given": "val"}, "A4": {"given": "test"}}),
    "a table in each split's folder": Case({"test/metadata.csv": "file_name,label\nA4.jpg,nv\n",
        "test/": only(JPEGS, "A4"),
        "train/metadata.csv": "file_name,label\nA1.jpg,mel\nA2.jpg,nv\nA3.jpg,bcc\n",
        "train/": only(JPEGS, "A1", "A2", "A3")}, UNKNOWN, says=[
        "layout label table metadata.csv: MEL 1 · NV 2", "a split (train 3, test 1): --split"],
        about={"A1": {"given": "train"}, "A4": {"given": "test"}}),
    "a table of all images beside one for each split": Case(
        {"all.csv": LABELS, "train.csv": "image,label\nA1,mel\nA2,nv\n",
        "val.csv": "image,label\nA3,bcc\nA4,nv\n", "photos/": JPEGS}, UNKNOWN,
        says=["tables not used: train.csv (another table labels more images)"]),
    "an id in the tables of two splits": Case({"train.csv": "image,label\nA1,mel\nA2,nv\n",
        "val.csv": "image,label\nA1,nv\nA2,nv\nA3,bcc\nA4,nv\nA5,nv\n",
        "photos/": photos("A1.jpg", "A2.jpg", "A3.jpg", "A4.jpg", "A5.jpg", "A6.jpg"),
        "more.csv": "image,label\nA5,mel\nA3,bcc\nA6,nv\nA7,nv\nA8,nv\n",
        "photos/A7.jpg": 7, "photos/A8.jpg": 8}, {"A1": "train NV -", "A2": "train NV -",
        "A3": "train BCC -", "A4": "train NV -"} | {"A6": "train NV -", "A7": "train NV -",
        "A8": "train NV -"}, {"A3": "duplicate id (the first row is kept)",
        "A5": "duplicate id with different labels + duplicate id with different labels"},
        says=["train.csv (another table labels more images)"]),
    "probabilities that sort before the labels": Case({"a submission.csv": ONE_HOT.replace("1.0",
        "0.9"), **MINE}, UNKNOWN,
        says=["tables not used: a submission.csv (4 × a label that is neither 0 nor 1)"]),
    "a table of other things": Case({**MINE, "prices.csv": "item,price\nx,1\n",
        "notes.csv": "image,note\nA1,x\n"}, UNKNOWN, says=[
        "notes.csv (image, note), prices.csv (item, price)"]),
    "one folder a class": Case(FOLDERS, UNKNOWN, says=["layout one folder a class: MEL 1 · NV 2",
        "no lesion groupings"]),
    "one folder a class, in train and test": Case({"train/mel/A1.jpg": 1,
        "train/NV/A2.jpg": 2, "test/bcc/A3.jpg": 3, "test/NV/A4.jpg": 4},
        UNKNOWN, about={"A1": {"given": "train"}, "A3": {"given": "test"}}),
    "one folder a class, with lesions": Case({**FOLDERS, "lesions.csv": GROUPINGS}, FOUR),
    "one folder a class, the same names": Case({"mel/1.jpg": 1, "nv/1.jpg": 2,
        "nv/2.jpg": 3}, {"mel_1": "train MEL -", "nv_1": "train NV -", "2": "train NV -"},
        says=["2 files (1, ...) have the same name as a file in another folder"]),
    "one folder a class, one empty, one unknown": Case({**FOLDERS, "vascular lesion/": "",
        "wart/A5.jpg": 5, "UNK/A6.jpg": 6}, UNKNOWN,
        {"A5": "class wart: none of the seven", "A6": "class UNK: none of the seven"},
        says=["vascular lesion is empty: no VASC from there", "1 × class wart: none of the seven"]),
    "one zip a class": Case({"mel.zip": only(JPEGS, "A1"),
        "nv.zip": only(JPEGS, "A2", "A4"), "bcc.zip": only(JPEGS, "A3")}, UNKNOWN),
    "two copies, one larger": Case({"a/": {TRUTH: ONE_HOT}, f"a/{TRAIN}_Input/A1.jpg": 1,
        "b/": KAGGLE}, FOUR, says=["two copies of the data", "layout Kaggle HAM10000"]),
}
# fmt: on


DEEP = "more than 8 bits a colour, of unclear scale; save it with 8 bits"
# {what: (the content of A2.jpg in `MINE`, why it is rejected, what is said)}
# fmt: off
PICTURES = {
    "a truncated image": (encoded(picture(2, 160, 120))[:700], "truncated or damaged image",
        "3 usable images, 1 rejected", "WARNING: 25.0% of the training images",
        "training images that can be read: MEL 1 · NV 1 · BCC 1"),
    "text as an image": ("<html>404</html>", "not an image"),
    "16 bits of grey": (encoded(Image.new("I;16", (16, 12), 30_000), "PNG"), DEEP),
    "16 bits of colour": (large_png(16, 12, 16, bytes.fromhex("2710 4e20 7530")), DEEP),
    "zero bytes": ("", "the file is empty (zero bytes)"),
    "a picture of 121 million pixels": (large_png(11_000, 11_000),
        "larger than 100 million pixels"),
}
# fmt: on
# {what: (the new row of A2 in `OFFICIAL`, or its word in `MINE`, why it is rejected)}
# fmt: off
ROWS = {
    "no label": ("A2,0.0,0.0", "no label"),
    "several labels": ("A2,1.0,1.0", "several labels"),
    "a blank among the labels": ("A2,,1.0", "a label that is neither 0 nor 1"),
    "a probability as a label": ("A2,0.0,0.9", "a label that is neither 0 nor 1"),
    "a blank word": ("A2,", "no label"),
    "an unknown class": ("A2,wart", "class wart: none of the seven"),
    "a class that is too general": ("A2,keratosis", "class keratosis: none of the seven; accepted: "
        "actinic keratosis (AKIEC), seborrheic keratosis (BKL)"),
    "a misspelt class": ("A2,melanona",
        "class melanona: none of the seven; accepted: melanoma (MEL)"),
}
# fmt: on
def without_a2(data, rows, reason, says=()):
    return Case(data, only(rows, "A1", "A3", "A4"), {"A2": reason}, says=says)


# fmt: off
BROKEN = {
    **{f"a table, {name}": Case({"t.csv": content, "photos/A1.jpg": 1}, {"A1": "train MEL -"})
        for name, content in SAVED.items()},
    **{name: without_a2({**MINE, "photos/A2.jpg": content}, UNKNOWN, reason, says) for name,
        (content, reason, *says) in PICTURES.items()},
    **{name: without_a2({**OFFICIAL, TRUTH: ONE_HOT.replace("A2,0.0,1.0", row)}, FOUR, why) if
        ".0" in row or "," in row[3:] else without_a2({**MINE, "labels.csv": LABELS.replace("A2,nv",
        row)}, UNKNOWN, why) for name, (row, why) in ROWS.items()},
    "a missing image": Case({"labels.csv": LABELS, **only(JPEGS, "A1", "A2", "A4")},
        only(UNKNOWN, "A1", "A2", "A4"), {"A3": "image file missing"}),
    "an image without a label row": Case({**MINE, "photos/A9.jpg": 9}, UNKNOWN,
        {"A9": "image without a label row"}),
    "images in a folder that no label names": Case({**MINE, "holiday/A9.jpg": 9}, UNKNOWN,
        says=["not used: 1 image in holiday, which no label names"]),
    "a row without an id": Case({**MINE, "labels.csv": LABELS + ",nv\n"}, UNKNOWN,
        {"": "label row without an image id"}),
    "an id twice": Case({**MINE, "labels.csv": LABELS + "A2,nv\n"}, UNKNOWN,
        {"A2": "duplicate id (the first row is kept)"}),
    "an id twice with two labels": Case({**MINE, "labels.csv": LABELS + "A2,mel\n"},
        only(UNKNOWN, "A1", "A3", "A4"),
        {"A2": "duplicate id with different labels + duplicate id with different labels"}),
    "the same pixels with another label": Case({**MINE, "photos/A3.jpg": 2}, UNKNOWN,
        says=["A3 and A2 have the same pixels and different labels"]),
    "a blank lesion": Case({**OFFICIAL, GROUPS: GROUPINGS.replace("A4,L2", "A4,")}, FOUR
        | {"A4": "train NV -"}, says=["1 image without a lesion id"]),
    "two lesions for one image": Case({**OFFICIAL, GROUPS: GROUPINGS + "A1,L9,\n"}, FOUR,
        says=["gives 1 image several lesions (A1)"]),
    "an age that is no number": Case({**KAGGLE, "HAM10000_metadata.csv": HAM.replace(
        "50.0,male,back", "old,,unknown")}, FOUR, about={"A1": {"age": None, "sex": "",
        "localization": "unknown"}}),
    "masks beside the images": Case({**MINE, "photos/A1.png": MASK,
        "photos/A2_segmentation.png": MASK, "photos/A3_mask.png": MASK}, UNKNOWN,
        says=["1 image with more than one file: A1.jpg is used", "2 masks"]),
    "a folder of masks": Case({**MINE, **{f"masks/{name}.png": MASK
        for name in ("A1", "A2", "A3", "A4")}}, UNKNOWN, says=["4 images with more than one file"],
        looks={"A1": 1}),
    "a mask without its photograph": Case({"labels.csv": LABELS, **only(JPEGS, "A1", "A2", "A3")} |
        {f"{name}.png": MASK for name in ("A1", "A2", "A3", "A4")}, only(UNKNOWN, "A1", "A2", "A3"),
        {"A4": "image file missing"}, says=["1 image with a mask and no photograph"]),
    "an image as JPEG and PNG": Case({**MINE, "photos/A1.png": 9}, UNKNOWN, says=[
        "1 image with more than one file: A1.jpg is used and A1.png is not"], looks={"A1": 1}),
    "an image in two folders": Case({**MINE, "more/A1.jpg": 9}, UNKNOWN,
        says=["1 image with more than one file"], looks={"A1": 1}),
    "other files": Case({"labels.csv": "image,label\nA1,mel\nA2,nv\nA3,bcc\nA4,nv\n", "A1.tif": 1,
        "A2.bmp": 2, "A3.webp": photo(3, "WEBP", lossless=True), "A4.jfif": 4}, UNKNOWN, looks={
        "A1": 1, "A2": 2, "A3": 3, "A4": 4}),
    "hidden files and notes": Case({**MINE, "photos/.A1.jpg": "x", "photos/._A2.jpg": "x",
        "README.txt": "x", "a.json": "{}"}, UNKNOWN),
}
# fmt: on


B = "image,label,lesion_id,patient_id\nB5,mel,M5,Q1\nB6,df,M6,Q2\n"
CLINIC = {"labels.csv": B, **photos("B5.jpg", "B6.jpg")}
# fmt: off
FURTHER = {
    "a test set, a table": Case(MINE, UNKNOWN | {"B5": "clinic MEL M5", "B6": "clinic DF M6"},
        clinic=CLINIC, says=["MEL 1 · NV 0 · BCC 0 · AKIEC 0 · BKL 0 · DF 1"],
        about={"B5": {"patient_id": "Q1"}, "A1": {"patient_id": ""}}, looks={"B5": 5, "A1": 1}),
    "a test set, one folder a class": Case(OFFICIAL, FOUR | {"B5": "clinic BKL -",
        "B6": "clinic VASC -"}, {"B7": "class normal skin: none of the seven"},
        clinic={"benign keratosis/B5.jpg": 5, "angioma/B6.jpg": 6,
        "normal skin/B7.jpg": 7}, says=["1 × class normal skin: none of the seven"]),
    "a test set with an id of the data": Case(MINE, UNKNOWN | {"clinic:A1": "clinic VASC -",
        "B6": "clinic DF -"}, clinic={"labels.csv": "image,label\nA1,vasc\nB6,df\n", "photos/": {
        "A1.jpg": 9, "B6.jpg": 6}}, looks={"clinic:A1": 9, "A1": 1}),
    "a test set with pixels of the data and another label": Case(MINE, UNKNOWN
        | {"B5": "clinic MEL M5", "B6": "clinic DF M6"}, clinic={**CLINIC, "B5.jpg": 2},
        says=["B5 and A2 have the same pixels and different labels"]),
    "a test set of which an image is broken": Case(MINE, UNKNOWN | {"B5": "clinic MEL M5"},
        {"B6": "not an image"}, clinic={**CLINIC, "B6.jpg": "<html>404</html>"},
        says=["WARNING: 50.0% of the clinic images are left out (1 × not an image)"]),
    "a test set with words that are not understood": Case(MINE, UNKNOWN | {"B6": "clinic DF M6"},
        {"B5": "class melanocytic: none of the seven; accepted: melanocytic nevus (NV)"},
        clinic={**CLINIC,
        "labels.csv": B.replace("mel", "melanocytic")}, says=[
        "WARNING: 50.0% of the clinic images are left out (1 × class melanocytic"]),
    "a test set in Windows-1252": Case(MINE, UNKNOWN | {"B5": "clinic MEL -"},
        clinic={"labels.csv": "image;label;Größe\nB5;mel;groß\n".encode("cp1252"),
        "B5.jpg": 5}, says=["labels.csv is not in UTF-8: read as Windows-1252"]),
    "a test set with numbers as lesions and patients, as in the data": Case(
        {"labels.csv": "image,label,lesion_id,patient_id\nA1,mel,1,7\nA2,nv,2,8\n",
        **only(JPEGS, *TWO)}, {"A1": "train MEL 1", "A2": "train NV 2",
        "B5": "clinic MEL clinic:1", "B6": "clinic DF 3"}, clinic={**CLINIC,
        "labels.csv": B.replace("M5", "1").replace("M6", "3").replace("Q", "7")},
        says=["clinic: 1 image with a number as lesion_id that is in the data too"],
        about={"B5": {"patient_id": "71"}}),
    "a test set, the archives of the official one": Case(OFFICIAL, FOUR | {
        "ISIC_0034524": "clinic DF -", "ISIC_0034525": "clinic VASC -"}, clinic=OFFICIAL_TEST_ZIPS,
        says=["layout official ISIC 2018 test set: MEL 0 · NV 0 · BCC 0 · AKIEC 0 · BKL 0 · DF 1"]),
    "a test set, the Dataverse's official one": Case(OFFICIAL, FOUR | {
        "ISIC_0034524": "clinic DF T1", "ISIC_0034525": "clinic VASC T2"}, clinic={
        TEST_TRUTH: "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
        "T1,ISIC_0034524,df,histo,60.0,male,face\nT2,ISIC_0034525,vasc,histo,,,\n",
        f"{TEST}_Images.zip": TESTS}, about={"ISIC_0034524": {"age": 60.0, "sex": "male"}}),
    "extra with ids, none of the archive, and pixels of the data": Case(MINE, UNKNOWN | {
        "extra:A1": "extra MEL -", "extra:A2_downsampled": "extra NV -", "B6": "extra DF -"}, {
        "B5": "extra image that is in the data already (same pixels)"}, more={
        "labels.csv": "image,label\nA1,mel\nA2_downsampled,nv\nB5,mel\nB6,df\n", "A1.jpg": 11,
        "A2_downsampled.jpg": 12, "B5.jpg": 3, "B6.jpg": 6}, says=[
        "1 × extra image that is in the data already (same pixels)"]),
}
# fmt: on

ONE_OF_EACH = {"A1": "train MEL -", "A2": "train NV -", "A3": "train BCC -", "A4": "train AKIEC -"}
# fmt: off
PUBLIC = {
    "PAD-UFES-20": Case(MINE, UNKNOWN | {"PAT_1_2_3": "clinic AKIEC 2",
        "PAT_1_5_6": "clinic BKL 5"} | {"PAT_2_7_8": "clinic NV 7"}, clinic={
        "metadata.csv": "patient_id,lesion_id,smoke,age,gender,fitspatrick,region,diagnostic,itch,"
        "img_id,biopsed\nPAT_1,2,False,55,FEMALE,3.0,NECK,ACK,True,PAT_1_2_3.png,True\nPAT_1,5,False,55,"
        "FEMALE,3.0,NECK,SEK,True,PAT_1_5_6.png,True\nPAT_2,7,,8,,,FACE,NEV,,PAT_2_7_8.png,"
        "False\n", "images/imgs_part_1/": photos("PAT_1_2_3.png", "PAT_1_5_6.png",
        "PAT_2_7_8.png")}, says=["layout PAD-UFES-20",
        "WARNING: smartphone photographs, no dermoscopic images"], about={"PAT_1_2_3": {
        "patient_id": "PAT_1", "age": 55, "localization": "NECK"}}),
    "ISIC 2017": Case({
        "ISIC-2017_Training_Part3_GroundTruth.csv": "image_id,melanoma,seborrheic_keratosis\nA1,"
        "1.0,0.0\nA2,0.0,0.0\n",
        "ISIC-2017_Test_v2_Part3_GroundTruth.csv": "image_id,melanoma,seborrheic_keratosis\nA3,0.0,"
        "1.0\n", "ISIC-2017_Training_Data/": only(JPEGS, *TWO), "ISIC-2017_Test_v2_Data/": only(
        JPEGS, "A3"), "ISIC-2017_Training_Data/A1_superpixels.png": MASK}, {"A1": "train MEL -",
        "A2": "train NV -", "A3": "train BKL -"}, says=["layout ISIC 2017"]),
    "ISIC 2024": Case({"train-metadata.csv":
        "isic_id,target,patient_id,age_approx,sex,anatom_site_general,lesion_id,iddx_full,iddx_1,"
        "iddx_2,iddx_3,iddx_4,iddx_5\nA1,1,P1,50,male,back,L1,x,Malignant,y,Melanoma Invasive,,\n"
        'A2,0,P2,,,,L2,x,Benign,y,Nevus,"Nevus, Atypical, Dysplastic, or Clark",\n'
        'A3,1,P3,,,,L3,x,Malignant,y,Basal cell carcinoma,"Basal cell carcinoma, Nodular",\n'
        "A4,0,P4,,,,,Benign,Benign,,,,\n", "train-image/image/": JPEGS}, only(FOUR, "A1", "A2",
        "A3"), {"A4": "class Benign: none of the seven"}, says=["layout ISIC 2024",
        "WARNING: tiles of total body photographs"]),
    "Derm7pt": Case({"meta/meta.csv":
        "case_num,diagnosis,seven_point_score,pigment_network,level_of_diagnostic_difficulty,"
        "location,sex,management,clinic,derm,notes\n1,melanoma (less than 0.76 mm),3,absent,low,"
        "back,female,excision,X/B1.jpg,X/A1.jpg,\n2,reed or spitz nevus,1,absent,low,back,female,"
        "excision,X/B2.jpg,X/A2.jpg,\n3,lentigo,1,absent,low,back,female,excision,X/B3.jpg,"
        "X/A3.jpg,\n", "images/X/": only(JPEGS, *TWO, "A3") | photos("B1.jpg", "B2.jpg",
        "B3.jpg")}, only(UNKNOWN, *TWO), {"A3":
        "class lentigo: none of the seven; accepted: lentigo maligna (MEL), solar lentigo (BKL)"
        }, says=[
        "layout Derm7pt", "not used: 3 clinical photographs"], about={"A1": {"sex": "female",
        "localization": "back"}}),
    "MILK10k": Case({
        "MILK10k_Training_GroundTruth.csv": "lesion_id,AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,"
        "SCCKA,VASC\nIL_1,0,0,0,0,0,0,0,1,0,0,0\nIL_2,0,0,0,0,0,0,0,0,0,1,0\nIL_3,0,0,0,0,0,1,0,0,"
        "0,0,0\n", "MILK10k_Training_Metadata.csv":
        "lesion_id,image_type,isic_id,age_approx,sex,site\nIL_1,clinical: close-up,B1,60,male,"
        "foot\nIL_1,dermoscopic,A1,60,male,foot\nIL_2,dermoscopic,A2,,,\nIL_2,clinical: close-up,"
        "B2,,,\nIL_3,dermoscopic,A3,,,\n", "MILK10k_Training_Input/IL_1/A1.jpg": 1,
        "MILK10k_Training_Input/IL_1/B1.jpg": 5, "MILK10k_Training_Input/IL_2/A2.jpg": 2,
        "MILK10k_Training_Input/IL_2/B2.jpg": 6, "MILK10k_Training_Input/IL_3/A3.jpg": 3}, {
        "A1": "train MEL IL_1", "A2": "train AKIEC IL_2"}, {"A3": "class INF: none of the seven"},
        says=["layout MILK10k", "not used: 2 clinical photographs"], about={"A1": {"age": 60.0,
        "sex": "male"}}),
    "DDI": Case({"ddi_metadata.csv": ",DDI_ID,DDI_file,skin_tone,malignant,disease\n"
        "0,1,A1.png,56,True,melanoma-acral-lentiginous\n1,2,A2.png,56,False,melanocytic-nevi\n"
        "2,3,A3.png,12,True,basal-cell-carcinoma-nodular\n"
        "3,4,A4.png,12,True,squamous-cell-carcinoma-keratoacanthoma\n", **PNGS}, ONE_OF_EACH,
        says=["layout DDI", "WARNING: clinical photographs, no dermoscopic images"]),
    "Fitzpatrick17k": Case({
        "fitzpatrick17k.csv": "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,"
        "nine_partition_label,three_partition_label,qc,url,url_alphanum\nA1,3,3,superficial "
        "spreading melanoma ssm,malignant melanoma,malignant,,u,a1.jpg\nA2,3,3,nevocytic nevus,"
        "benign melanocyte,benign,,u,a2.jpg\nA3,3,3,solid cystic basal cell carcinoma,malignant "
        "epidermal,malignant,,u,a3.jpg\nA4,3,3,actinic keratosis,malignant epidermal,malignant,,u,"
        "a4.jpg\n", "images/": JPEGS}, ONE_OF_EACH, says=["layout Fitzpatrick17k",
        "WARNING: clinical photographs, no dermoscopic images"]),
    "PH2": Case({"PH2Dataset/PH2_dataset.txt": "||   Name || Histological Diagnosis || Clinical "
        "Diagnosis || Asymmetry | Pigment Network | Dots/Globules | Streaks | Regression Areas | "
        "Blue-Whitish Veil ||           Colors ||\n|| IMD001 ||  || 0 || 0 | T | A | A || 4 ||\n"
        "|| IMD002 || melanoma || 2 || 2 | AT | AT | P | A | P || 1  2 ||\n"
        "|| IMD003 ||  || 1 || 0 | T | A | A | A | A || 3 ||\n\n"
        "Clinical Diagnosis:\n0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma\n",
        **{f"PH2Dataset/PH2 Dataset images/IMD00{k}/IMD00{k}_{what}/IMD00{k}{end}.bmp": content
        for k in (1, 2, 3) for what, end, content in (("Dermoscopic_Image", "", k),
        ("lesion", "_lesion", encoded(picture(0).convert("1"), "BMP")))}},
        {"IMD001": "train NV -", "IMD002": "train MEL -", "IMD003": "train NV -"},
        says=["layout PH2"]),
    "PH2's sheet": Case(
        {"PH2_dataset.csv": "Image Name,Histological Diagnosis,Common Nevus,Atypical Nevus,"
        "Melanoma,Asymmetry\nA1,Melanoma,,,X,2\nA2,,X,,,0\nA3,,,X,,1\nA4,,,,,0\n",
        "PH2 Dataset images/": JPEGS}, {"A1": "train MEL -", "A2": "train NV -",
        "A3": "train NV -"}, {"A4": "no label"}, says=["layout PH2's sheet"]),
    "a kernel's table of paths and cell types": Case(
        {"df.csv": ",path,cell_type\n0,../input/x/A1.jpg,melanoma\n"
        "1,../input/x/A2.jpg,Melanocytic nevi\n2,../input/x/A3.jpg,Basal cell carcinoma\n"
        "3,../input/x/A4.jpg,Actinic keratoses\n", "x/": JPEGS}, ONE_OF_EACH),
}
REFUSED = {
    **{f"a table, {name}": refused({**OFFICIAL, TRUTH: content}, [TRUTH, why])
        for name, (content, why) in UNREADABLE.items()},
    "a folder of other files": refused({"a.nii": "x", "b.NII": "x", "notes.txt": "x"},
        ["found 2 × .nii, 1 × .txt"]),
    "benign and malignant": refused({"benign/A1.jpg": 1, "malignant/A2.jpg": 2},
        ["benign or malignant is no diagnosis, and none of the seven follows from it"]),
    "a table of benign and malignant": refused({"t.csv": "image,label\nA1,Malignant\nA2,benign\n",
        **only(JPEGS, *TWO)},
        ["benign or malignant is no diagnosis, and none of the seven follows from it"]),
    "a sheet that is none": refused({"t.xlsx": "x", **JPEGS}, ["t.xlsx (", "4 images in data"]),
    "a missing folder": refused(None, ["data=", "does not exist"]),
    "an empty folder": refused({"a/": ""}, ["holds no training images", "found nothing of use"]),
    "a file in place of a folder": refused("x", ["data=", "is a file"]),
    "images without a table": refused({"holiday/beach.jpg": 1},
        ["with labels: found 1 image in holiday"]),
    "a table without images": refused({"labels.csv": LABELS}, ["labels.csv", "docs/data.md"]),
    "a table of other images": refused({"labels.csv": LABELS, "X1.jpg": 1},
        ["with labels: found labels.csv (image, label), 1 image in data"]),
    "a table without an id column": refused({"labels.csv": LABELS.replace("image", "picture"),
        **JPEGS}, ["labels.csv (picture, label)", "a column of ids"]),
    "a table without a class column": refused({"labels.csv": LABELS.replace("label", "finding"),
        **JPEGS}, ["labels.csv (image, finding)", "one of classes"]),
    "a table with blanks between the cells": refused({"labels.csv": LABELS.replace(",", " "),
        **JPEGS}, ["labels.csv (image label)"]),
    "files too deep": refused({"a/b/c/d/": {"labels.csv": LABELS, **JPEGS}},
        ["at most 2 folders deep"]),
    "no word that is a class": refused({"labels.csv": "image,label\nA1,wart\nA2,wart\n",
        **only(JPEGS, *TWO)}, ["labels.csv", "2 × class wart: none of the seven"]),
    "numbers as classes": refused({"labels.csv": "image,label\nA1,0\nA2,1\n",
        **only(JPEGS, *TWO)}, ["labels.csv", "class 0: none of the seven"]),
    "all images broken": refused({"labels.csv": LABELS, **dict.fromkeys(JPEGS, "")},
        ["no training image can be read", "4 × the file is empty (zero bytes)"]),
    "a zip with a wrong byte": refused({**OFFICIAL_ZIPS, INPUT_ZIP: zipped(OFFICIAL_ZIPS[
        INPUT_ZIP]).replace(photo(1)[-40:-20], b"\0" * 20)}, [f"{TRAIN}_Input.zip is damaged",
        "CRC"]),
    "a zip that leaves its folder": refused({**MINE, "more.zip": {"other.csv": LABELS,
        "../../evil.csv": LABELS}}, ["more.zip", "a name that leaves the folder",
        "../../evil.csv"]),
    "a zip with a link": refused({**MINE, "more.zip": zipped({"other.csv": LABELS, "link": "/etc"},
        link="link")}, ["more.zip", "a link or device"]),
    "an encrypted zip": refused({**MINE, "more.zip": zipped({"other.csv": LABELS},
        encrypted=True)}, ["more.zip", "an encrypted file"]),
    "a test set that is not there": refused(MINE, ["test=/no/such/folder: no such folder"],
        flags={"test": "/no/such/folder"}),
    "a test set without labels": refused(MINE, ["holds no test images", "1 image in clinic"],
        clinic={"B5.jpg": 5}),
    "a test set with other columns": refused(MINE,
        ["holds no test images with labels: found labels.csv (picture, finding)"],
        clinic={"labels.csv": "picture,finding\nB5,nv\n", "B5.jpg": 5}),
    "an empty test set": refused(MINE, ["clinic holds no test images"], clinic={"a/": ""}),
}
# fmt: on


ALL = LAYOUTS | PUBLIC | BROKEN | FURTHER


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_a_copy_gives_these_rows(case, tmp_path):
    before = case.write(tmp_path)
    found = look(tmp_path)
    assert not found.error, found.printed
    assert (found.accepted, found.rejected) == (case.accepted, case.rejected)
    for words in case.says:
        assert words in found.printed
    for image, values in case.about.items():
        cells = found.table.loc[image, list(values)]
        assert cells.where(cells.notna(), None).to_dict() == values
    for image, shown in case.looks.items():
        halves = found.pixels[image][37, [20, 80]].astype(int)
        expected = colours(shown) if isinstance(shown, int) else shown
        assert abs(halves - expected).max() <= 8, halves  # a JPEG's colours are not exact
    assert set(found.pixels) == set(case.accepted)
    assert before.items() <= contents(tmp_path).items()  # nobody's files are changed


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_told_in_one_line(case, tmp_path):
    before = case.write(tmp_path)
    found = look(tmp_path, **case.flags)
    assert len(found.error.splitlines()) == 1 and found.error.startswith("error: ")
    for words in case.says:
        assert words in found.error
    assert before.items() <= contents(tmp_path).items()
    assert not (tmp_path / "work" / "table.csv").exists()
    assert {path.name for path in tmp_path.parent.glob("evil*")} == set()


def test_a_copy_that_changed_is_read_again(tmp_path):
    """Each time what is there now, whatever was decoded before."""
    data = folder(tmp_path / "data", MINE)
    assert look(tmp_path).accepted == UNKNOWN
    folder(data, {"labels.csv": LABELS + "A5,df\n", "photos/A5.jpg": 5})
    found = look(tmp_path)
    assert found.accepted == UNKNOWN | {"A5": "train DF -"}
    assert abs(found.pixels["A5"][37, 20].astype(int) - colours(5)[0]).max() <= 8
    (data / "photos" / "A1.jpg").unlink()
    found = look(tmp_path)
    assert "A1" not in found.accepted and found.rejected == {"A1": "image file missing"}
    assert abs(found.pixels["A5"][37, 20].astype(int) - colours(5)[0]).max() <= 8
    folder(data, MINE)
    folder(data, {"photos/A2.jpg": 17})
    found = look(tmp_path)
    assert abs(found.pixels["A2"][37, 20].astype(int) - colours(17)[0]).max() <= 8


def test_a_second_folder_of_the_same_name_does_not_take_the_first_ones_place(tmp_path):
    """With one cache, each is read as it is; before, the second was refused."""
    first, second, cache = tmp_path / "first", tmp_path / "second", tmp_path / "cache"
    folder(first / "data", MINE)
    folder(second / "data", {**FOLDERS, "nevus/A2.jpg": 17})
    for home, number in ((first, 2), (second, 17), (first, 2)):
        found = look(home, cache_dir=cache)
        assert found.accepted == UNKNOWN
        assert abs(found.pixels["A2"][37, 20].astype(int) - colours(number)[0]).max() <= 8


@dataclasses.dataclass
class Split:
    """subset: {name: its images, or their number}, without train; digest: of all of these; audit:
    {two subsets: what is in both, of image_ids, lesions, patients, exact_duplicates and
    near_duplicates, None where not known}; left_out: {reason: images}."""

    subset: dict
    digest: str
    audit: dict
    left_out: dict = dataclasses.field(default_factory=dict)
    data: dict = dataclasses.field(default_factory=many)
    clinic: dict = None
    more: dict = None
    flags: dict = dataclasses.field(default_factory=dict)
    says: list = ()


NO_LESIONS = "".join(
    ",".join(row.split(",")[:2]) + "\n" for row in many()["labels.csv"].splitlines()
)
CLINIC_THAT_LEAKS = some(
    {
        "B1": "nv,L10,",  # a lesion of the data
        "B2": "mel,M2,P5",  # a patient
        "a033": "nv,,",  # an id, but not of the archive
        "B4": "mel,M4,",  # the pixels of a047
        "a062_aug3": "mel,,",  # named after a062
        "B9": "df,M9,",  # a near-duplicate of a100
        "B10": "nv,M10,Q1",
    },
    first=150,
    B4=47,
)
MORE_THAT_LEAKS = some(
    {
        "C1": "nv,L33,",
        "C2": "mel,N2,P2",
        "C3": "nv,N3,",  # the pixels of a045
        "a073_aug5": "nv,,",
        "C5": "vasc,M9,",  # with a test set: a lesion of it
        "C6": "df,N6,R1",
        "C7": "df,N6,R1",
        "a000": "nv,,",
        "C8": "bcc,,",  # with a test set: the pixels of its a033
    },
    first=170,
    C3=45,
    C8=152,
)
LINKED = (  # of `many`, with something of CLINIC_THAT_LEAKS
    "a016, a017, a018, a019, a025, a026, a027, a028, a029, a030, a031, a031 (1), a046, a047, a062, "
    "a063, a100, a101, a102"
)
# fmt: off
SPLITS = {
    "seed 0": Split(subset={"test": 20, "val": 24}, digest="222d21dc9cc8ffe8",
        audit={"train/val": {}, "train/test": {}, "val/test": {}},
        says=["no two subsets share images, lesions, patients, copies, near-duplicates"]),
    "seed 1": Split(flags={"split_seed": 1}, subset={"test": 20, "val": 24},
        digest="30901d5e1ceb080d", audit={"train/val": {}, "train/test": {}, "val/test": {}}),
    "other shares": Split(flags={"val_fraction": 0.2, "test_fraction": 0}, subset={"val": 32},
        digest="c6600eaa6b5e3f21", audit={"train/val": {}}),
    "three folds": Split(flags={"folds": 3}, subset={"0": 47, "1": 42, "2": 35, "test": 20},
        digest="24ead366b708d7a8", audit={"train/test": {}}, says=["no AKIEC in 2"]),
    "image by image": Split(flags={"split": "random"}, subset={"test": 20, "val": 20},
        digest="eea00f48242f481f", audit={"train/val": {"images": 1, "lesions": 9,
        "patients": 5, "near_duplicates": 2}, "train/test": {"lesions": 9, "patients": 3,
        "copies": 1}, "val/test": {"lesions": 2, "patients": 3, "copies": 1}},
        says=["train/val share 1 × images, 9 × lesions, 5 × patients"]),
    "no near-duplicates": Split(flags={"near_duplicates": "none"}, subset={"test": 21, "val": 24},
        digest="15dd8eae1681fd88", audit={"train/val": {}, "train/test": {}, "val/test": {}}),
    "lesions and patients not known": Split(data=many() | {"labels.csv": NO_LESIONS}, subset={
        "test": 19, "val": 19}, digest="b4343ecb938c7a5d", audit={"train/val": {"lesions": None,
        "patients": None}, "train/test": {"lesions": None, "patients": None}, "val/test": {
        "lesions": None, "patients": None}}, says=["lesions: not known"]),
    "a test set that leaks": Split(clinic=CLINIC_THAT_LEAKS,
        subset={"clinic": "B1, B10, B2, B4, B9, a062_aug3, clinic:a033", "left out": LINKED,
        "val": 22}, digest="4934b823ffda011d", left_out={"copies shared with clinic": 1,
        "lesions shared with clinic": 2, "names shared with clinic": 1,
        "near duplicates shared with clinic": 1, "patients shared with clinic": 7,
        "related images shared with clinic": 7}, audit={"train/val": {}, "train/clinic": {},
        "val/clinic": {}}, says=["left out: 7, patients shared with clinic",
        "left out: 7, related images shared with clinic"]),
    "a test set that leaks, and an inner one": Split(clinic=CLINIC_THAT_LEAKS, flags={
        "test_fraction": 0.12}, subset={"clinic": "B1, B10, B2, B4, B9, a062_aug3, clinic:a033",
        "left out": LINKED, "test": 20, "val": 22}, digest="494e6cffc940a194", left_out={
        "copies shared with clinic": 1, "lesions shared with clinic": 2,
        "names shared with clinic": 1, "near duplicates shared with clinic": 1,
        "patients shared with clinic": 7, "related images shared with clinic": 7}, audit={
        "train/val": {}, "train/test": {}, "train/clinic": {}, "val/test": {}, "val/clinic": {},
        "test/clinic": {}}),
    "an official test set that leaks": Split(data={
        "HAM10000_metadata": "lesion_id,image_id,dx\nL1,A1,mel\nL2,A2,nv\nL3,A3,bcc\nL2,A4,nv\nL5,"
        "ISIC_0025373,nv\nL6,A6,mel\n", **JPEGS, "ISIC_0025373.jpg": 5, "A6.jpg": 6,
        TEST_TRUTH: "lesion_id,image_id,dx\nL2,ISIC_0034524,nv\nT2,ISIC_0035064,nv\n",
        f"{TEST}_Images/ISIC_0034524.jpg": 8, f"{TEST}_Images/ISIC_0035064.jpg": 9}, flags={
        "near_duplicates": "listed"}, subset={"left out": "A2, A4, ISIC_0025373",
        "official": "ISIC_0034524, ISIC_0035064", "val": "A6"}, digest="0569d9d2935b0f75",
        left_out={"lesions shared with official": 2, "near duplicates shared with official": 1},
        audit={"train/val": {"patients": None}, "train/official": {"patients": None},
        "val/official": {"patients": None}}),
    "extra images that leak": Split(more=MORE_THAT_LEAKS, subset={
        "extra": "C5, C6, C7, C8, extra:a000", "left out": "C1, C2, a073_aug5", "test": 20,
        "val": 24}, digest="e44023b7271de7aa", left_out={"lesions shared with test": 1,
        "names shared with val": 1, "patients shared with val": 1},
        audit={"train/val": {}, "train/test": {}, "train/extra": {}, "val/test": {},
        "val/extra": {}, "test/extra": {}}, says=["left out: 1, lesions shared with test"]),
    "both, three folds": Split(clinic=CLINIC_THAT_LEAKS, more=MORE_THAT_LEAKS, flags={"folds": 3},
        subset={"0": 42, "1": 42, "2": 41, "clinic": "B1, B10, B2, B4, B9, a062_aug3, clinic:a033",
        "extra": "C6, C7, extra:a000", "left out": "C1, C2, C5, C8, " + LINKED.replace("a063, ",
        "a063, a073_aug5, ")}, digest="b064c30d2d1cc6e3", left_out={
        "copies shared with clinic": 2, "lesions shared with clinic": 3,
        "lesions shared with val": 1, "names shared with clinic": 1, "names shared with val": 1,
        "near duplicates shared with clinic": 1, "patients shared with clinic": 7,
        "patients shared with val": 1, "related images shared with clinic": 7},
        audit={"train/extra": {}, "train/clinic": {}, "extra/clinic": {}}),
}
# fmt: on


@pytest.mark.parametrize("case", SPLITS.values(), ids=SPLITS)
def test_a_split_puts_each_image_there(case, tmp_path):
    for name in ("data", "clinic", "more"):
        if (files := getattr(case, name)) is not None:
            folder(tmp_path / name, files)
    (tmp_path / "pairs.csv").write_text(PAIRS)
    found = look(tmp_path, "split", **{"near_duplicates": tmp_path / "pairs.csv"} | case.flags)
    assert not found.error, found.printed
    rows = sorted(f"{image},{name}" for image, name in found.subset.items() if name != "train")
    for name, images in case.subset.items():
        there = sorted(image for image, subset in found.subset.items() if subset == name)
        assert images == (len(there) if isinstance(images, int) else ", ".join(there))
    assert hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16] == case.digest
    assert set(found.subset) == set(found.accepted)
    assert found.audit.pop("left out") == case.left_out
    shared = {
        pair: {key: count for key, count in counts.items() if count != 0}
        for pair, counts in found.audit.items()
    }
    assert shared == case.audit
    for words in case.says:
        assert words in found.printed


def test_a_test_set_that_is_the_data_leaves_nothing_to_train_on(tmp_path):
    """Before, there was a split without training images, and `train` refused it."""
    for name in ("data", "clinic"):
        folder(tmp_path / name, many())
    found = look(tmp_path, "split", near_duplicates="none")
    assert len(found.error.splitlines()) == 1
    assert "no image is left in train, val: 144 images would leak into a test set" in found.error


@pytest.mark.parametrize(
    "pairs, says",
    [
        (None, ["pairs.csv", "no such file", "image_a,image_b"]),
        ("a,b\na000,a001\n", ["pairs.csv", "no column image_a, image_b"]),
    ],
    ids=["missing", "other columns"],
)
def test_a_list_of_near_duplicates_that_is_none_is_told_in_one_line(pairs, says, tmp_path):
    folder(tmp_path / "data", MINE)
    if pairs is not None:
        (tmp_path / "pairs.csv").write_text(pairs)
    found = look(tmp_path, "split", near_duplicates=tmp_path / "pairs.csv")
    assert len(found.error.splitlines()) == 1
    for words in says:
        assert words in found.error


# SHA-256 of the lines "image,subset", sorted, of the 10,015 official training images: every figure
# of docs/results.md rests on them
OFFICIAL_SPLITS = {
    (0, 0): "1fff7078a89493ba871f7a1929151a183c4e8ab258b88a8957674c1f6f153fcc",
    (1, 0): "37ec95b716b2d4ce38691e8bbaab3fe8a7af8153f6b480b7d750ef026a270569",
    (0, 5): "d34b222120c9b7455ccd01a6c47d768bcabb283de594eadf974b67421aba0763",
    (1, 5): "454d3ef5aaceb579115a5e14c3d9017113071e1ab0ba3308c770f76d1215c4b6",
}


@pytest.mark.parametrize("seed, folds", OFFICIAL_SPLITS)
def test_the_split_of_the_official_images_is_what_it_was(seed, folds):
    subset = official_split(seed, folds)
    if subset is None:
        pytest.skip("the official tables are not at hand")
    lines = "".join(f"{image},{name}\n" for image, name in sorted(subset.items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == OFFICIAL_SPLITS[seed, folds]
