"""An audit as lines for the screen, as audit.json and as a page."""

from pathlib import Path

import pandas as pd

from dermai_utils import files
from dermai_utils.audits.sharing import KINDS
from dermai_utils.reports import page
from dermai_utils.study.text import percent, pretty_name, with_interval

VERDICTS = {  # what each verdict means, for people
    "leaking": "Some images are related to images that were learnt from: expect less on new ones.",
    "official test set": "The challenge's own images. What was learnt from is the author's to say.",
    "lesion-safe": "No lesion was learnt from. It is still easier than another hospital's images.",
    "unknown": "Too little is known to say whether the score is too high.",
}

AUCS = "malignant AUC: MEL, BCC or AKIEC against the other classes; melanoma AUC: MEL alone"
RULES = {"argmax": "by argmax", "prior_corrected": "prior-corrected"}


def folder_name(files) -> str:
    """The name of an audit's folder: the stems of its files, each shortened to a share of 80 signs.

    >>> folder_name(["mine.csv", "split.csv"]), folder_name(["x" * 60 + "1.csv", "split.csv"])
    ('mine-split', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx1-split')
    """
    stems = [Path(name).stem.strip(".") or "folder" for name in files]  # of . and .. too
    longest = max(2, 80 // len(files))
    half = longest // 2
    return "-".join(s if len(s) <= longest else s[:half] + s[half - longest :] for s in stems)


def save(found: dict, folder) -> Path:
    """Write audit.json and audit.html into `folder`; the page's path."""
    files.write_json(Path(folder) / "audit.json", found)
    values = dict(meaning=VERDICTS, aucs=AUCS, shared=shared_table(found), figures={})
    return page.save(Path(folder) / "audit.html", "audit.html.j2", found=found, **values)


def lines(found: dict) -> list[str]:
    """What an audit found, for the screen."""
    images, scored = dict(found["images"]), found["scores"]
    sources = f"{images.pop('n'):,} images: " + ", ".join(f"{n:,} {k}" for k, n in images.items())
    shared = [shared_table(found).to_string()] if found["sharing"] else []
    said = [sources, *shared, found["sentence"]]
    said += [f"not scored: {n:,} images {why}" for why, n in found["left_out"].items()]
    if scored:
        said.append(f"{found['scored']}, n={scored['n']:,}, 95 % intervals by {scored['by']}:")
        parts = RULES | {
            "where": f"where the lesion is also in {found['learnt']}, and where it is not"
        }
        for part in [part for part in parts if part in scored]:
            each = (f"{pretty_name(k)} {with_interval(v)}" for k, v in scored[part].items())
            said.append(f"  {parts[part]}: {', '.join(each)}")
        said.append(f"  {AUCS}")
        said.append(f"  prior: the classes' shares in {scored['prior_of']}")
        said.append(f"  expected calibration error {scored['ece']:.3f}")
    for name, row in found["compared"].items():
        by_argmax, by_rule = (row["scores"][part]["balanced_accuracy"] for part in RULES)
        own = f"{with_interval(by_argmax)} by argmax, {with_interval(by_rule)} prior-corrected"
        said.append(f"balanced accuracy of {name}, n={row['n']:,}: {own}")
        minus = with_interval(row["minus"]["balanced_accuracy"])
        said.append(f"balanced accuracy minus that of {name}, n={row['n']:,}: {minus}")
    said.append(f"verdict: {found['verdict']['name']}: {found['verdict']['why']}")
    said += [f"note: {line}" for line in found["notes"]]
    return said + [f"to quote: {found['quote']}"] * bool(found["quote"])


def shared_table(found: dict) -> pd.DataFrame:
    """What every two subsets share, as text: a row a pair, a column a kind; in brackets the images
    of the second subset."""
    cells = {}
    for row in found["sharing"]:
        text = "not known" if row["shared"] is None else f"{row['shared']:,}"
        if row["shared"]:
            text += f" ({row['images']:,} of {row['of']:,}, {percent(row['share'])})"
        cells.setdefault(f"{row['a']} / {row['b']}", {})[KINDS[row["kind"]]] = text
    return pd.DataFrame(cells).T
