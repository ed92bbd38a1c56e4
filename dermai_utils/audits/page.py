"""An audit as lines for the screen, as audit.json and as a page."""

import hashlib
from pathlib import Path

import pandas as pd

from dermai_utils import files
from dermai_utils.audits.auditing import rules
from dermai_utils.audits.scores import of_difference
from dermai_utils.audits.sharing import KINDS
from dermai_utils.basics import counted
from dermai_utils.reports import page
from dermai_utils.study.text import percent, pretty_name, with_interval

VERDICTS = {  # what each verdict means, for people
    "leaking": "Some scored images are related to training images. Expect less on new images.",
    "official test set": "The challenge's own images. Only the author knows what was trained on.",
    "lesion-safe": "No scored lesion was trained on. Another hospital's images are usually harder.",
    "unknown": "Too little is known to say whether the score is too high.",
}
AUCS = "malignant AUC: MEL, BCC or AKIEC against the other classes; melanoma AUC: MEL alone"
LONGEST = 80  # letters of a folder's name


def save_in(audits, found: dict, paths) -> Path:
    """`save` an audit of the files `paths` in the folder `audits`, under their names. An audit of
    other files with these names stays: then a checksum of the paths tells the two apart."""
    paths = [Path(path).expanduser().resolve() for path in paths]
    key = hashlib.sha256("\n".join(map(str, paths)).encode()).hexdigest()[:6]
    names = (path.stem.strip(".") or "folder" for path in paths)
    folder = Path(audits) / "-".join(names)[:LONGEST]
    before = files.read_json(folder / "audit.json") or {}
    if before.get("key", key) != key:
        print(f"audit: {folder} is of other files with these names, so yours lies beside it")
        folder = folder.with_name(f"{folder.name}-{key}")
    return save(found | {"key": key}, folder)


def save(found: dict, folder) -> Path:
    """Write audit.json and audit.html into `folder`; the page's path."""
    files.write_json(Path(folder) / "audit.json", found)
    values = dict(meaning=VERDICTS, aucs=AUCS, shared=shared_table(found), of=of_difference)
    values["rules"] = rules(found) if found["scores"] else {}
    return page.save(Path(folder) / "audit.html", "audit.html.j2", found=found, **values)


def lines(found: dict) -> list[str]:
    """What an audit found, for the screen."""
    images, scored = dict(found["images"]), found["scores"]
    n = counted(images.pop("n"), "image")
    said = [f"{n}: {', '.join(f'{n:,} {source}' for source, n in images.items())}"]
    said += [shared_table(found).to_string()] if found["sharing"] else []
    said.append(found["sentence"])
    said += [f"not scored: {counted(n, 'image')} ({why})" for why, n in found["left_out"].items()]
    names = rules(found) if scored else {}
    if scored:
        said.append(f"{found['scored']}, n={scored['n']:,}, 95 % intervals by {scored['by']}:")
        where = {"where": f"where the lesion is also in {found['learnt']}, and where it is not"}
        for part, words in (names | where).items():
            each = (f"{pretty_name(k)} {with_interval(v)}" for k, v in scored.get(part, {}).items())
            said += [f"  {words}: {', '.join(each)}"] * (part in scored)
        said += [f"  {AUCS}", f"  expected calibration error {scored['ece']:.3f}"]
    for name, row in found["compared"].items():
        both = f"{row['n']:,} of {counted(scored['n'], 'scored image')}"
        said.append(f"against {name}, on the {both} that both have, balanced accuracy:")
        for key, rule in zip(row["minus"], names.values(), strict=False):
            a, b = (with_interval(of_difference(row[k], key)) for k in ("first", "other"))
            minus = with_interval(row["minus"][key])
            said.append(f"  {rule}: {a}; the other {b}; difference {minus}")
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
