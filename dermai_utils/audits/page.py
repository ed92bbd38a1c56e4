"""An audit as lines for the screen, as audit.json and as a page."""

from pathlib import Path

import pandas as pd

from dermai_utils import files
from dermai_utils.audits.sharing import words
from dermai_utils.reports import page
from dermai_utils.study.text import percent, pretty_name, with_interval

VERDICTS = {  # what each verdict means, for people
    "leaking": "Test images are related to images that were trained on, so the score is too high.",
    "official test set": "These images come from the challenge, and nobody trains on them by chance.",
    "lesion-safe": "No lesion of the test images was trained on. An internal split is still easier "
    "than another hospital.",
    "unknown": "Too little is known to say whether the score is too high.",
}
KIND = {"near_duplicates": "listed near-duplicates", "copies": "images with equal pixels"}


def save(found: dict, folder) -> Path:
    """Write audit.json and audit.html into `folder`; the page's path."""
    folder = Path(folder)
    files.write_json(folder / "audit.json", found)
    values = dict(name=found["files"][0], kinds=KIND, meaning=VERDICTS, figures={}, words=words)
    return page.save(folder / "audit.html", "audit.html.j2", found=found, **values)


def lines(found: dict) -> list[str]:
    """What an audit found, for the screen."""
    images = {k: n for k, n in found["images"].items() if k != "n"}
    said = [
        f"{found['images']['n']:,} images: " + ", ".join(f"{n:,} {k}" for k, n in images.items())
    ]
    said += found["notes"]
    if found["not_known"]:
        said.append(f"not known: {', '.join(found['not_known'])} ...")
    said += [shared_table(found).to_string(), found["sentence"]]
    if scored := found["scores"]:
        said += [f"not scored: {n:,} images {why}" for why, n in found["left_out"].items()]
        said.append(
            f"scores on {words(found['scored'])} images, n={scored['n']:,}, 95 % by {scored['by']}:"
        )
        for rule in ("argmax", "prior_corrected"):
            each = (f"{pretty_name(k)} {with_interval(v)}" for k, v in scored[rule].items())
            said.append(f"  {pretty_name(rule)}: {', '.join(each)}")
        said.append(f"  the prior is that of: {scored['prior_of']}")
        said.append(f"  expected calibration error {scored['ece']:.3f}")
        if "where" in scored:
            where = {k: with_interval(v) for k, v in scored["where"].items()}
            said.append(
                f"  balanced accuracy where the lesion is also in {words(found['learnt'])} {where['shared']}, "
                f"where it is not {where['not_shared']}, difference {where['difference']}"
            )
    for name, row in found["compared"].items():
        minus = with_interval(row["minus"]["balanced_accuracy"])
        said.append(f"minus {name}, on {row['n']:,} images: balanced accuracy {minus}")
    said.append(f"verdict: {found['verdict']['name']}: {found['verdict']['why']}")
    return said + [f"to quote: {found['quote']}"] * bool(found["quote"])


def shared_table(found: dict) -> pd.DataFrame:
    """What every two subsets share, as text: a row a pair, a column a kind; "count (images of the
    second subset, their share)"."""
    cells = {}
    for row in found["sharing"]:
        text = "not known" if row["shared"] is None else f"{row['shared']:,}"
        if row["shared"]:
            text += f" ({row['images']:,} images, {percent(row['share'])})"
        cells.setdefault(f"{row['a']} / {row['b']}", {})[KIND.get(row["kind"], row["kind"])] = text
    return pd.DataFrame(cells).T
