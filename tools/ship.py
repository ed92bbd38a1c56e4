"""The model that comes with the package: what it must not learn, and how it is made from a run.

    python tools/ship.py split --data HAM           the split to train it on: work/HAM/ship.csv
    python -m dermai_utils train --data HAM --split work/HAM/ship.csv ...
"""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dermai_utils import cli, commands, files, image_names, settings, splits  # noqa: E402


def without_official(table: pd.DataFrame, **options) -> pd.Series:
    """(N,) train, val and left out: the split that `splits.split` draws beside the official test
    set, though its images are not here. Of those it needs only the ids that `pairs` name.

    options: seed, val and pairs of `splits.split`.
    """
    pairs = options["pairs"]
    numbered = {image: image_names.ARCHIVE_ID.fullmatch(image) for image in pairs.ravel()}
    first, last = image_names.OFFICIAL_IDS
    ids = {image for image, n in numbered.items() if n and first <= int(n[1]) <= last}
    ids -= set(table["image"])
    test = pd.DataFrame({"image": sorted(ids), "label": "NV", "source": "official"})
    whole = pd.concat([table, test], ignore_index=True)
    return splits.split(whole, test=0, **options).iloc[: len(table)].set_axis(table.index)


def split(s) -> Path:
    """Write the split of these Settings as a CSV, for `--split`."""
    table, pairs = commands.load(s).table, splits.near_duplicates(s.near_duplicates)
    subset = without_official(table, val=s.val_fraction, seed=s.split_seed, pairs=pairs)
    print(subset.value_counts().to_string())
    print("left out:", *table.loc[subset == splits.LEFT_OUT, "image"])
    path = s.work / "ship.csv"
    files.write_table(table[["image"]].assign(subset=subset), path)
    return path


def main(words) -> int:
    """Exit status, as of `cli.main`."""
    given, _ = cli.split_words(cli.parser("split"), words[1:])
    print(split(settings.read(**given)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.exit_status(main, sys.argv[1:]))
