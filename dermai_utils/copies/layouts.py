"""Which copy of the data is this? One row of LAYOUTS a layout; each gives the same rows.

docs/data.md shows the layouts. finding.py tries every one of them.
"""

from dataclasses import dataclass

import pandas as pd

from dermai_utils.copies import tables
from dermai_utils.copies.inventory import plain_name

TRAIN, TEST = "isic2018_task3_training", "isic2018_task3_test"  # plain names, see `plain_name`
GROUPINGS, HAM = f"{TRAIN}_lesiongroupings", "ham10000_metadata"
TRUTH, TEST_TRUTH = f"{TRAIN}_groundtruth", f"{TEST}_groundtruth"
IMAGES = {  # the folders with a table's images; the Dataverse's name is the last
    TRUTH: (f"{TRAIN}_input",),
    TEST_TRUTH: (f"{TEST}_input", f"{TEST}_images"),
}

MILK = "milk10k_training_metadata"
NEVI = ("common nevus", "atypical nevus")
KERATOSIS = ("melanoma", "seborrheic_keratosis")


@dataclass(frozen=True)
class Layout:
    """How a copy of the data looks. A new layout is a new row of LAYOUTS, above "label table".

    table: plain name of its label table; "" for any name, None if folders are named by class.
    suffixes: of that table's name; () for any. needs: columns that the table must have.
    image: names of its id column, if not those of `tables.COLUMN_NAMES`; classes: its columns
    of class words, the most precise first (one-hot columns are found by their names).
    words: pairs of a word and its class, if class_words.csv lacks it; rest: the class of a row
    whose class columns are all 0; mark: what stands in the class column that is meant, where the
    others are blank. lesions: (plain name of the table, its column of images), if the label table
    has one row a lesion. clinical: column with the files of clinical photographs, which are not
    used. note: a line for the user.
    """

    name: str
    table: str | None = ""
    suffixes: tuple = ()
    needs: tuple = ()
    image: tuple = ()
    classes: tuple = tables.CLASS_COLUMNS
    words: tuple = ()
    rest: str = ""
    mark: str = ""
    lesions: tuple = ()
    clinical: str = ""
    note: str = ""

    def fits(self, path, names) -> bool:
        """Whether a table with columns `names` has this layout's labels."""
        name = plain_name(path.name)
        if self.table is None or not set(self.needs) <= set(names):
            return False
        if self.table:
            suffix = not self.suffixes or path.suffix.lower() in self.suffixes
            return name == self.table and suffix
        classes = tables.class_columns(names, self.classes)
        ids = tables.column_of(names, "image", self.image)
        return bool(ids and classes) and name != TEST_TRUTH  # which is no training data

    def read(self, path, inventory) -> pd.DataFrame:
        """(image, label, reason) of each row of a label table; CLINICAL is no reason to tell."""
        labels = tables.read_labels(
            path, self.image, self.classes, self.words, self.rest, self.mark
        )
        for table in inventory.named(*self.lesions[:1])[:1]:
            image = self.lesions[1]
            images = tables.read_csv(table, [image, "lesion_id", "image_type"])
            labels = images.merge(labels.rename(columns={"image": "lesion_id"}), on="lesion_id")
            labels["image"] = tables.image_ids(labels[image])
            clinical = labels["image_type"] != "dermoscopic"
            labels["reason"] = labels["reason"].mask(clinical, CLINICAL)
        if self.clinical:
            photos = tables.image_ids(tables.read_csv(path, [self.clinical])[self.clinical])
            labels = pd.concat([labels, pd.DataFrame({"image": photos, "reason": CLINICAL})])
        return labels.reindex(columns=["image", "label", "reason"]).fillna("")


OFFICIAL = "official ISIC 2018"
CLINICAL = "clinical photograph"
PHOTOS = "WARNING: {}, no dermoscopic images: expect other, and worse, answers"
CLINICS, PHONES = PHOTOS.format("clinical photographs"), PHOTOS.format("smartphone photographs")
TILES = PHOTOS.format("tiles of total body photographs")
LAYOUTS = (
    Layout(OFFICIAL, TRUTH),
    Layout("ISIC 2019", needs=("ak", "scc")),
    Layout("Kaggle HAM10000", HAM, suffixes=(".csv",), needs=("dx",)),
    Layout("Dataverse HAM10000", HAM, needs=("dx",)),
    Layout("ISIC 2017", needs=KERATOSIS, classes=KERATOSIS, rest="NV"),
    Layout(
        "ISIC 2024",
        needs=("isic_id", "iddx_1"),
        classes=tuple(f"iddx_{k}" for k in (5, 4, 3, 2, 1)),
        note=TILES,
    ),
    Layout(
        "MILK10k", needs=("lesion_id", "sccka"), image=("lesion_id",), lesions=(MILK, "isic_id")
    ),
    Layout("PAD-UFES-20", needs=("img_id", "diagnostic"), classes=("diagnostic",), note=PHONES),
    Layout("Derm7pt", needs=("clinic", "derm", "diagnosis"), image=("derm",), clinical="clinic"),
    Layout("DDI", needs=("ddi_file", "disease"), classes=("disease",), note=CLINICS),
    Layout("Fitzpatrick17k", needs=("md5hash", "label"), classes=("label",), note=CLINICS),
    Layout(
        "PH2",
        needs=("name", "clinical diagnosis"),
        image=("name",),
        classes=("clinical diagnosis",),
        words=(("0", "NV"), ("1", "NV"), ("2", "MEL")),
    ),
    Layout("PH2's sheet", needs=("image name", *NEVI), classes=(*NEVI, "melanoma"), mark="X"),
    Layout("isic-cli", needs=("isic_id",)),
    Layout("label table {table}"),
    Layout("one folder a class", None),
    Layout(f"{OFFICIAL} test set", TEST_TRUTH),  # a copy only where nothing else is one
)
