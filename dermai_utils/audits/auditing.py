"""The audit itself: tables of what is known, predicted and split -> one dictionary for JSON."""

import pandas as pd

from dermai_utils import predictions as prediction_tables
from dermai_utils import splits
from dermai_utils.audits import known, sharing
from dermai_utils.audits.scores import EXPONENT, compared, scores
from dermai_utils.basics import CLASSES, ZERO_WEIGHT, UserError, counted
from dermai_utils.metrics import jsonable
from dermai_utils.splits import LEFT_OUT
from dermai_utils.study.text import with_interval

FACTS = ["known_as", "label", "lesion_id", "patient_id", "pixel_hash"]
BY_FILE = "described in your file only"
NOT_KNOWN, PREDICTED = "not known", "predicted"


def knowledge(*tables) -> tuple[pd.DataFrame, list[str]]:
    """(FACTS by photograph, notes): of each image and fact what the first of `tables` says that
    knows it. Each has image and some of FACTS; "" is not known."""
    rows = pd.concat(tables, ignore_index=True).reindex(columns=["image", *FACTS])
    rows = rows.astype(object).where(rows != "")
    rows["label_by"] = rows["known_as"].where(rows["label"].notna())
    facts, notes = rows.groupby("image", sort=False).first(), []
    if differ := (rows.groupby("image")["label"].nunique() > 1).sum():
        which = (
            f"{counted(differ, 'image')} with another label in the file than in their set's table"
        )
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
    subset = table["subset"]
    asked = table[subset != sharing.OTHERS].drop_duplicates("image")
    counts = asked["known_as"].replace("", NOT_KNOWN).value_counts()
    if set(counts.index) <= {NOT_KNOWN}:
        what = f"none of {counted(len(asked), 'image')} is known ({asked['image'].iloc[0]}, ...)"
        raise UserError(f"{what}: expected ids such as ISIC_0024306, or their table as --data")
    shared = sharing.sharing(table, subset, pairs)
    a, b = sharing.training_side(subset), scored_subset(table, predicted)
    verdict = dict(zip(("name", "why"), sharing.verdict(table, subset, shared, a, b), strict=True))
    rows, left_out = scored_rows(table, predicted, b)
    found = {"images": {"n": len(asked), **counts}, "learnt": a, "scored": b}
    found["not_known"] = list(asked.loc[asked["known_as"] == "", "image"][:5])
    found["sharing"] = shared.astype(object).where(shared.notna(), None).to_dict("records")
    found |= {"sentence": sharing.sentence(shared, a, b), "verdict": verdict, "left_out": left_out}
    found |= {"scores": None, "compared": {}, "quote": None}
    if len(rows):
        prior, whose = prior_of(table, a)
        found["scores"] = scores(rows, prior, same_lesion(table, rows, a, b), **options)
        by = "lesion" if (rows["lesion_id"] != "").any() else "image (no lesion is known)"
        found["scores"] |= {"prior_of": whose, "by": by, "labels_by": labels_of(rows)}
        for name, theirs in (others or {}).items():
            found["compared"][name] = compared(rows, theirs, prior, name, **options)
        found["quote"] = quote(jsonable(found))
    return jsonable(found)


def placed(facts, predicted, split) -> pd.DataFrame:
    """image, subset and FACTS: of a split; without one, of the subsets that the predictions name,
    else PREDICTED. Without training images, the other official training images come first."""
    if split is None and "subset" in predicted:
        split = predicted[["image", "subset"]]
    if split is None:
        split = pd.DataFrame({"image": predicted["image"], "subset": PREDICTED})
    official = facts["known_as"].reindex(split["image"]).isin([known.TRAINING, known.TEST]).any()
    if official and not sharing.training_side(split["subset"]):
        home = facts.index[facts["known_as"] == known.TRAINING]
        rest = home.difference(split["image"], sort=False)
        split = pd.concat([pd.DataFrame({"image": rest, "subset": sharing.OTHERS}), split])
    split = split.drop_duplicates(["image", "subset"], ignore_index=True).astype(str)
    return split.join(facts, on="image").fillna("")


def scored_subset(table, predicted=None) -> str:
    """The subset whose score is quoted, of those with a predicted image: all folds, or the first
    held-out one. UserError where there is none."""
    here = table if predicted is None else table[table["image"].isin(predicted["image"])]
    if here["subset"].str.isdigit().any():
        return sharing.FOLDS
    names = here["subset"][~here["subset"].isin(["train", LEFT_OUT, sharing.OTHERS])]
    if len(names):
        return prediction_tables.primary_subset(names)
    images = counted(len(table), "image")
    which = images if predicted is None else counted(len(predicted), "predicted image")
    raise UserError(f"none of {which} is in val or test of the split: expected some")


def scored_rows(table, predicted, b) -> tuple[pd.DataFrame, dict]:
    """(the predictions of subset b with truth and lesion, {why: how many images are left out})."""
    if predicted is None:
        return table[:0], {}
    inside = table[sharing.members(table["subset"], b)].drop_duplicates("image")
    rows = inside.merge(predicted[["image", "truth", *CLASSES]], on="image")
    rows["truth"] = rows["label"].where(rows["label"] != "", rows["truth"])
    left = {
        "without a known label": (rows["truth"] == "").sum(),
        f"predicted, but not in {b}": (~predicted["image"].isin(inside["image"])).sum(),
        f"in {b}, but without a prediction": len(inside) - len(rows),
    }
    rows = rows[(rows["truth"] != "") & (rows["image"] != ZERO_WEIGHT)].reset_index(drop=True)
    return rows, {why: int(n) for why, n in left.items() if n}


def same_lesion(table, rows, a, b):
    """(N,) bool: whether subset a has the image or lesion of each of the scored rows of subset b;
    None where that is not known."""
    if not a or not (rows["lesion_id"] != "").any():
        return None
    common = sharing.in_common(sharing.links(table), table["subset"], a, b)
    common = common.loc[common["kind"].isin(("images", "lesions")), "row"]
    return rows["image"].isin(table["image"].iloc[common]).to_numpy()


def labels_of(rows) -> str:
    """Whose labels score these rows, in words."""
    words = dict.fromkeys((known.TRAINING, known.TEST), "the official labels")
    words |= {"": "the labels in the file", BY_FILE: "the labels in the file"}
    by = dict.fromkeys(words.get(name, f"the labels of {name}") for name in rows["label_by"])
    return " and ".join(by)


def prior_of(table, a) -> tuple[pd.Series, str]:
    """(shares of the classes, whose): of the training images, where their labels are known; else of
    the official training images that are not in the table."""
    labels = table.loc[sharing.members(table["subset"], a), "label"]
    whose = "all folds" if a == sharing.ANOTHER else a
    if not (labels != "").any():
        rest = known.training()
        labels, whose = rest.loc[~rest["image"].isin(table["image"]), "label"], sharing.OTHERS
    shares = labels[labels != ""].value_counts(normalize=True)
    return shares.reindex(CLASSES, fill_value=0.0), whose


def rules(found: dict) -> dict:
    """{key of `scores`: the decision rule, in words that tell it from other prior corrections}."""
    shares = f"exponent {EXPONENT}, class shares of {found['scores']['prior_of']}"
    return {"argmax": "by argmax", "prior_corrected": f"prior-corrected ({shares})"}


def quote(found: dict) -> str:
    """The line to quote: score, interval, n, protocol."""
    scored, protocol = found["scores"], found["verdict"]["name"]
    protocol += f" ({found['verdict']['why']})" if protocol == "unknown" else ""
    values = ", ".join(
        f"{with_interval(scored[key]['balanced_accuracy'])} {rule}"
        for key, rule in rules(found).items()
    )
    return (
        f"Balanced accuracy {values}; 95 % intervals by {scored['by']}; n = {scored['n']:,}, "
        f"scored by {scored['labels_by']}; protocol: {protocol}. {found['sentence']}"
    )
