"""The audit itself: tables of what is known, predicted and split -> one dictionary for JSON."""

import pandas as pd

from dermai_utils import predictions as prediction_tables
from dermai_utils import splits
from dermai_utils.audits import known, sharing
from dermai_utils.audits.scores import compared, scores
from dermai_utils.basics import CLASSES, ZERO_WEIGHT, UserError
from dermai_utils.metrics import jsonable
from dermai_utils.splits import LEFT_OUT
from dermai_utils.study.text import with_interval

FACTS = ["known_as", "label", "lesion_id", "patient_id", "pixel_hash"]
BY_FILE = "the file alone"
NOT_KNOWN, PREDICTED = "not known", "predicted"


def knowledge(*tables) -> tuple[pd.DataFrame, list[str]]:
    """(FACTS by photograph, notes): of each image and fact what the first of `tables` says that
    knows it. Each has image and some of FACTS; "" is not known."""
    rows = pd.concat(tables, ignore_index=True).reindex(columns=["image", *FACTS])
    rows = rows.astype(object).where(rows != "")
    rows["label_by"] = rows["known_as"].where(rows["label"].notna())
    facts, notes = rows.groupby("image", sort=False).first(), []
    if differ := (rows.groupby("image")["label"].nunique() > 1).sum():
        which = f"{differ:,} images have another label in the file than in their set's table"
        notes.append(f"{which}: the table's labels count")
    return facts.fillna(""), notes


def audit(facts, predicted=None, split=None, others=None, pairs=None, **options) -> dict:
    """Everything that can be said of predictions, of a split, or of both, ready for JSON.

    facts: as from `knowledge`. predicted: rows as from `reading.predictions`. split: image, subset.
    others: {name: rows of other predictions}. pairs: near-duplicates, None for the shipped list.
    options: of `intervals.interval`. UserError where none of the images is known, or the tables
    have no image in common.

    >>> facts, _ = knowledge(pd.DataFrame({"image": list("abc"), "lesion_id": list("LLM")}))
    >>> split = pd.DataFrame({"image": list("abc"), "subset": ["train", "test", "test"]})
    >>> audit(facts.assign(known_as="mine"), split=split)["sentence"]
    '1 of 2 test images show a lesion that is also in train.'
    """
    pairs = splits.near_duplicates() if pairs is None else pairs
    table = placed(facts, predicted, split)
    asked = table[table["subset"] != sharing.OTHERS].drop_duplicates("image")
    counts = asked["known_as"].replace("", NOT_KNOWN).value_counts()
    if set(counts.index) <= {NOT_KNOWN}:
        what = f"none of the {len(asked):,} images is known ({asked['image'].iloc[0]}, ...)"
        raise UserError(f"{what}: expected ids such as ISIC_0024306, or their table as --data")
    shared = sharing.sharing(table, table["subset"], pairs)
    a, b = sharing.training_side(table["subset"]), scored_subset(table, predicted)
    name, why = sharing.verdict(table, table["subset"], shared, a, b)
    found = {"images": {"n": len(asked), **counts}, "learnt": a, "scored": b, "scores": None}
    found["not_known"] = list(asked.loc[asked["known_as"] == "", "image"][:5])
    found["sharing"] = shared.astype(object).where(shared.notna(), None).to_dict("records")
    found["sentence"] = sharing.sentence(shared, a, b)
    found |= {"verdict": {"name": name, "why": why}, "compared": {}, "quote": None}
    rows, found["left_out"] = scored_rows(table, predicted, b)
    if len(rows):
        prior, whose = prior_of(table, a)
        common = sharing.in_common(sharing.links(table), table["subset"], a, b)
        common = table["image"].iloc[common.loc[common["kind"].isin(("images", "lesions")), "row"]]
        known_lesions = (rows["lesion_id"] != "").any()
        same = rows["image"].isin(common).to_numpy() if a and known_lesions else None
        found["scores"] = scores(rows, prior, same, **options) | {"prior_of": whose}
        found["scores"] |= labels_of(rows)
        found["scores"]["by"] = "lesion" if known_lesions else "image (no lesion is known)"
        for other, theirs in (others or {}).items():
            row = compared(rows, theirs, prior, other, **options)
            both = rows.drop(columns=[*CLASSES]).merge(theirs[["image", *CLASSES]], on="image")
            found["compared"][other] = row | {"scores": scores(both, prior, **options)}
        found["quote"] = quote(found)
    return jsonable(found)


def placed(facts, predicted, split) -> pd.DataFrame:
    """image, subset and FACTS: of a split; without one, of the subsets that the predictions name,
    else PREDICTED. Where nothing was learnt from, the other official training images come first."""
    if split is None and "subset" in predicted:
        split = predicted[["image", "subset"]]
    if split is None:
        split = pd.DataFrame({"image": predicted["image"], "subset": PREDICTED})
    official = facts["known_as"].reindex(split["image"]).isin([known.TRAINING, known.TEST]).any()
    if official and not sharing.training_side(split["subset"]):
        home = facts.index[facts["known_as"] == known.TRAINING]
        rest = home.difference(split["image"], sort=False)
        rest = pd.DataFrame({"image": rest, "subset": sharing.OTHERS})
        split = pd.concat([rest, split])
    split = split.drop_duplicates(["image", "subset"], ignore_index=True).astype(str)
    return split.join(facts, on="image").fillna("")


def scored_subset(table, predicted=None) -> str:
    """The subset whose score is quoted, of those with a predicted image: all folds, or the first
    held-out one. UserError where there is none."""
    here = table if predicted is None else table[table["image"].isin(predicted["image"])]
    if here["subset"].str.isdigit().any():
        return sharing.FOLDS
    learnt = ("train", LEFT_OUT, sharing.OTHERS)
    names = [name for name in here["subset"].unique() if name not in learnt]
    if names:
        return prediction_tables.primary_subset(names)
    which = f"{len(table):,}" if predicted is None else f"{len(predicted):,} predicted"
    raise UserError(f"none of the {which} images is in val or test of the split: expected some")


def scored_rows(table, predicted, b) -> tuple[pd.DataFrame, dict]:
    """(the predictions of subset b with truth and lesion, {why: how many images are left out})."""
    if predicted is None:
        return table[:0], {}
    inside = table[sharing.members(table["subset"], b)].drop_duplicates("image")
    rows = inside.merge(predicted[["image", "truth", *CLASSES]], on="image")
    rows["given"], known_label = rows["truth"], rows["label"] != ""
    rows["truth"] = rows["label"].where(known_label, rows["truth"])
    left = {
        "without a known label": (rows["truth"] == "").sum(),
        f"predicted, but not of {b}": (~predicted["image"].isin(inside["image"])).sum(),
        f"of {b}, without a prediction": len(inside) - len(rows),
    }
    rows = rows[(rows["truth"] != "") & (rows["image"] != ZERO_WEIGHT)].reset_index(drop=True)
    return rows, {why: int(n) for why, n in left.items() if n}


def labels_of(rows) -> dict:
    """{labels_by: whose labels score these rows, in words; other_labels: how many of them have
    another class in the file of predictions}."""
    by = rows["label_by"] if "label_by" in rows else rows["known_as"]
    by = by.where(rows["label"] != "", BY_FILE).unique()
    words = {known.TRAINING: "the official labels", BY_FILE: "the labels in the file"}
    words[known.TEST] = words[known.TRAINING]
    whose = dict.fromkeys(words.get(name, f"the labels of {name}") for name in by)
    differ = (rows["given"] != "") & (rows["given"] != rows["truth"])
    return {"labels_by": " and ".join(whose), "other_labels": int(differ.sum())}


def prior_of(table, a) -> tuple[pd.Series, str]:
    """(shares of the classes, whose): of what was learnt from, where its labels are known; else of
    the official training images that are not in the table."""
    labels = table.loc[sharing.members(table["subset"], a), "label"]
    whose = "all folds" if a == sharing.ANOTHER else a
    if not (labels != "").any():
        rest = known.training()
        labels, whose = rest.loc[~rest["image"].isin(table["image"]), "label"], sharing.OTHERS
    shares = labels[labels != ""].value_counts(normalize=True)
    return shares.reindex(CLASSES, fill_value=0.0), whose


def quote(found: dict) -> str:
    """The line to quote: score, interval, n, protocol."""
    scored, protocol = found["scores"], found["verdict"]["name"]
    rules = (scored[rule]["balanced_accuracy"] for rule in ("argmax", "prior_corrected"))
    protocol += f" ({found['verdict']['why']})" if protocol == "unknown" else ""
    by_argmax, by_rule = map(with_interval, jsonable(list(rules)))
    labels = f"scored by {scored['labels_by']}"
    if scored["other_labels"]:
        labels += f" (the file has another one for {scored['other_labels']:,} images)"
    return (
        f"Balanced accuracy {by_argmax} by argmax, {by_rule} after prior correction "
        f"(95 % intervals by {scored['by']}); n = {scored['n']:,}, {labels}; protocol: {protocol}. "
        f"{found['sentence']}"
    )
