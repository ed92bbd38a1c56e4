"""What is known about the official images without any download but one small table.

The package has the labels and lesions of the 10,015 training images (official/, with a licence of
its own). The Dataverse has those of the test images: they are fetched once where there is a
network, and are not known elsewhere.
"""

from pathlib import Path

import pandas as pd

from dermai_utils.basics import ZERO_WEIGHT, UserError
from dermai_utils.copies import fetch, tables
from dermai_utils.image_names import is_official_test

TABLE = Path(__file__).parent / "official" / "table.csv.gz"
COLUMNS = ["image", "lesion_id", "label", "sex", "age", "localization"]
TRAINING, TEST = "official training", "official test"
DATAVERSE = "https://dataverse.harvard.edu/api/access/datafile"
TEST_FILE = "6924466"  # ISIC2018_Task3_Test_GroundTruth.tab of doi:10.7910/DVN/DBW86T


def training() -> pd.DataFrame:
    """COLUMNS and known_as of the official training images, all of them text; "" is not known.

    >>> len(training()), training()["lesion_id"].nunique()
    (10015, 7470)
    """
    return pd.read_csv(TABLE, keep_default_na=False, dtype=str).assign(known_as=TRAINING)


def test(images, cache, address=DATAVERSE) -> tuple[pd.DataFrame, list[str]]:
    """(what is known of the official test images, notes) where some of `images` (N,) are such.

    Their table is fetched into the folder `cache` once. Without a network the images' numbers tell
    which they are, and a note says that nothing else is known of them.
    """
    here = images[images.map(is_official_test) & (images != ZERO_WEIGHT)]
    here = pd.DataFrame({"image": here, "known_as": TEST})
    if here.empty:
        return here, []
    target = Path(cache) / TEST_FILE
    try:
        if not fetch.fetch([address], target, wait=0.1, timeout=(5, 20)):
            raise UserError(f"{address}/{TEST_FILE} is not there")
        rows = tables.read_metadata(target)[0].merge(tables.read_labels(target), on="image")
    except UserError:
        note = f"labels and lesions of the official test set: not known, {address} gives none now"
        return here, [note]
    rows = rows.reindex(columns=COLUMNS).astype(object).fillna("").astype(str)
    return rows.assign(known_as=TEST), []
