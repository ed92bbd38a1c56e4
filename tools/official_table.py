"""The table of the 10,015 official training images that the audit knows, from the official files.

python tools/official_table.py FOLDER writes dermai_utils/audits/official/table.csv.gz. FOLDER has
the challenge's ground truth (a zip) and the HAM10000 metadata, such as cache/isic2018/archives. The
same files give the same bytes.
"""

import gzip
import io
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd  # noqa: E402

from dermai_utils import files  # noqa: E402
from dermai_utils.audits.known import COLUMNS, TABLE  # noqa: E402
from dermai_utils.basics import CLASSES, UserError  # noqa: E402

TRUTH = "ISIC2018_Task3_Training_GroundTruth"


def table(folder) -> pd.DataFrame:
    """COLUMNS of the official training images, by image. UserError where two files disagree."""
    with zipfile.ZipFile(Path(folder) / f"{TRUTH}.zip") as archive:
        truth = pd.read_csv(io.BytesIO(archive.read(f"{TRUTH}/{TRUTH}.csv")), index_col="image")
    rows = pd.read_csv(Path(folder) / "HAM10000_metadata.csv").sort_values("image_id")
    rows = rows.rename(columns={"image_id": "image"}).assign(label=rows["dx"].str.upper())
    official = truth[list(CLASSES)].idxmax(axis=1).reindex(rows["image"])
    if len(truth) != len(rows) or (official.to_numpy() != rows["label"]).any():
        raise UserError(f"{folder}: ground truth and metadata disagree: expected equal labels")
    rows["age"] = rows["age"].astype("Int64")  # years; all are whole numbers, in steps of five
    return rows[COLUMNS]


def packed(table) -> bytes:
    """The table as gzip, with neither date nor name in it."""
    return gzip.compress(files.table_text(table).encode(), 9, mtime=0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/official_table.py FOLDER")
    data = packed(table(sys.argv[1]))
    with files.atomic(TABLE, "wb") as file:
        file.write(data)
    print(f"{TABLE}: {len(data):,} bytes")
