"""Which copy of the data is this? One row of LAYOUTS a layout; each gives the same rows.

docs/data.md shows the layouts. finding.py tries every one of them.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dermai_utils.copies import tables
from dermai_utils.copies.inventory import image_id, plain_name

TRAIN, TEST = "isic2018_task3_training", "isic2018_task3_test"  # plain names, see `plain_name`
GROUPINGS, HAM = f"{TRAIN}_lesiongroupings", "ham10000_metadata"
TRUTH, TEST_TRUTH = f"{TRAIN}_groundtruth", f"{TEST}_groundtruth"
TRAIN_IMAGES = (f"{TRAIN}_input",)
TEST_IMAGES = (f"{TEST}_input", f"{TEST}_images")  # the Dataverse's name is the second

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
    metadata: plain names of the tables with lesions, ages and so on, the first one that knows a
    value counts; () for the label table and then all others. images: plain names of the folders
    that alone hold its images, if there are any. test: the official test set may lie beside it.
    alone: it is a copy only where no other layout fits. words: pairs of a word and its class, if
    tables.CLASS_WORDS lacks it; rest: the class of a row whose class columns are all 0; mark: what
    stands in the class column that is meant, where the others are blank. lesions:
    (plain name of the table, its column of images), if the label table has one row a lesion.
    clinical: column with the files of clinical photographs, which are not used. note: a line for
    the user.
    """

    name: str
    table: str | None = ""
    suffixes: tuple = ()
    needs: tuple = ()
    image: tuple = ()
    classes: tuple = tables.CLASS_COLUMNS
    metadata: tuple = ()
    images: tuple = ()
    test: bool = False
    alone: bool = False
    words: tuple = ()
    rest: str = ""
    mark: str = ""
    lesions: tuple = ()
    clinical: str = ""
    note: str = ""

    def label_tables(self, inventory) -> list[Path]:
        """The tables with this layout's labels."""
        if self.table is None:
            return []
        known = inventory.named(self.table) if self.table else inventory.tables
        return [path for path in known if self._fits(path, tables.header(path))]

    def parts(self, inventory, seen) -> list[list[Path]]:
        """The label tables but for those `seen`, in lists: the tables of one list are one copy, as
        train.csv and val.csv. [[]] if folders named by class hold images.
        """
        if self.table is None:
            return [[]] if any(class_folders(inventory).values()) else []
        forms = {}
        for path in self.label_tables(inventory):
            names = tables.header(path)
            form = tables.column_of(names, "image", self.image)
            form = form, *tables.class_columns(names, self.classes)
            forms.setdefault(form, []).extend([path] * (path not in seen))
        return [part for paths in forms.values() for part in self._joined(paths, inventory)]

    def _joined(self, paths, inventory) -> list[list[Path]]:
        """Tables of one form in lists; one that mostly names other images joins the largest."""
        if len(paths) < 2:
            return [paths] * bool(paths)
        here = {image_id(name).casefold() for names in inventory.folders.values() for name in names}
        ids = {path: _usable_ids(self.read(path, inventory)) & here for path in paths}
        largest, *rest = sorted(paths, key=lambda path: -len(ids[path]))
        joined, alone, known = [largest], [], set(ids[largest])
        for path in rest:
            new = len(ids[path] - known) > len(ids[path]) / 2
            (joined if new else alone).append(path)
            known |= ids[path] if new else set()
        return [sorted(joined), *([path] for path in alone)]

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

    def _fits(self, path, names) -> bool:
        by_columns = (
            plain_name(path.name) != TEST_TRUTH  # the official test set is no training data
            and tables.column_of(names, "image", self.image)
            and tables.class_columns(names, self.classes)
        )
        suffix = not self.suffixes or path.suffix.lower() in self.suffixes
        return bool(self.table or by_columns) and suffix and set(self.needs) <= set(names)


OFFICIAL = "official ISIC 2018"
CLINICAL = "clinical photograph"
PHOTOS = "WARNING: {}, no dermoscopic images: expect other, and worse, answers"
CLINICS, PHONES = PHOTOS.format("clinical photographs"), PHOTOS.format("smartphone photographs")
TILES = PHOTOS.format("tiles of total body photographs")
LAYOUTS = (
    Layout(OFFICIAL, TRUTH, metadata=(GROUPINGS, TRUTH, HAM), images=TRAIN_IMAGES, test=True),
    Layout("ISIC 2019", needs=("ak", "scc")),
    Layout("Kaggle HAM10000", HAM, suffixes=(".csv",), needs=("dx",), metadata=(HAM,), test=True),
    Layout("Dataverse HAM10000", HAM, needs=("dx",), metadata=(HAM,), test=True),
    Layout("ISIC 2017", needs=KERATOSIS, classes=KERATOSIS, rest="NV"),
    Layout(
        "ISIC 2024",
        needs=("isic_id", "iddx_1"),
        classes=tuple(f"iddx_{k}" for k in (5, 4, 3, 2, 1)),
        note=TILES,
    ),
    Layout(
        "MILK10k",
        needs=("lesion_id", "sccka"),
        image=("lesion_id",),
        lesions=(MILK, "isic_id"),
        metadata=(MILK,),
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
    Layout(
        f"{OFFICIAL} test set", TEST_TRUTH, metadata=(TEST_TRUTH,), images=TEST_IMAGES, alone=True
    ),
)


def class_folders(inventory) -> dict:
    """{folder: names of its images} of folders named by class, and of those beside them."""
    classes = [path for path in inventory.folders if tables.class_of(path.name)]
    parents = {path.parent for path in classes if any(inventory.folders[p] for p in classes)}
    return {path: names for path, names in inventory.folders.items() if path.parent in parents}


def _usable_ids(labels) -> set[str]:
    """The ids, in lower case, of the rows with a label."""
    return set(labels.loc[labels["reason"] == "", "image"].str.casefold())
