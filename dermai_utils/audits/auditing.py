"""The audit itself: tables of what is known, predicted and split -> one dictionary for JSON."""

import pandas as pd

from dermai_utils import predictions as prediction_tables
from dermai_utils import splits
from dermai_utils.audits import known, sharing
from dermai_utils.audits.scores import compared, scores
from dermai_utils.basics import CLASSES, ZERO_WEIGHT, UserError
from dermai_utils.metrics import jsonable
from dermai_utils.splits import LEFT_OUT

FACTS = ["known_as", "label", "lesion_id", "patient_id", "pixel_hash"]
BY_FILE = "the file alone"
NOT_KNOWN = "not known"


def knowledge(*tables) -> tuple[pd.DataFrame, list[str]]:
    """(FACTS by photograph, notes): of each image and fact what the first of `tables` says that
    knows it. Each has image and some of FACTS; "" is not known."""
    rows = pd.concat(tables, ignore_index=True).reindex(columns=["image", *FACTS])
    rows = rows.astype(object).where(rows != "")
    facts, notes = rows.groupby("image", sort=False).first(), []
    if differ := (rows.groupby("image")["label"].nunique() > 1).sum():
        notes.append(
            f"{differ:,} images have another label here than in their set: the set's counts"
        )
    return facts.fillna(""), notes


def audit(facts, predicted=None, split=None, others=None, pairs=None, **options) -> dict:
    """Everything that can be said of predictions, of a split, or of both, ready for JSON.

    facts: as from `knowledge`. predicted: rows as from `reading.predictions`. split: image, subset.
    others: {name: rows of other predictions}. pairs: near-duplicates, None for the shipped list.
    options: of `intervals.interval`. UserError where none of the images is known, or the tables
    have no image in common.
    """
    pairs = splits.near_duplicates() if pairs is None else pairs
    table, subset = subsets(facts, predicted, split)
    asked = table[subset != sharing.OUTSIDE]
    counts = asked.drop_duplicates("image")["known_as"].replace("", NOT_KNOWN).value_counts()
    if set(counts.index) <= {NOT_KNOWN}:
        first = table["image"].iloc[0]
        raise UserError(
            f"none of the {len(asked):,} images is known ({first}, ...): expected ids such as "
            "ISIC_0024306, lesion_id and label in the file, or --data with their table"
        )
    shared, a = sharing.sharing(table, subset, pairs), sharing.training_side(subset)
    b = scored_subset(subset, predicted is not None and table["image"].isin(predicted["image"]))
    name, why = sharing.verdict(table, subset, shared, a, b)
    found = {"images": {"n": int(counts.sum()), **counts.to_dict()}}
    strangers = asked.loc[asked["known_as"] == "", "image"]
    found |= {"not_known": list(strangers.unique()[:5]), "subsets": _described(table, subset)}
    pairs_found = shared.astype(object).where(shared.notna(), None).to_dict("records")
    found |= {"sharing": pairs_found, "sentence": sharing.sentence(shared, a, b)}
    found |= {"verdict": {"name": name, "why": why}, "learnt": a, "scored": b, "scores": None}
    found |= {"compared": {}, "quote": None}
    if predicted is not None:
        found |= _scored(table, subset, predicted, others or {}, a, b, pairs, options)
        found["quote"] = quote(found)
    return jsonable(found)


def subsets(facts, predicted, split) -> tuple[pd.DataFrame, pd.Series]:
    """(table with FACTS, subset of each row) of a split; without one, of the subsets that the
    predictions name; without these, of the predicted images and OUTSIDE."""
    if split is None and "subset" in predicted:
        split = predicted[["image", "subset"]]
    if split is None:
        images = predicted["image"]
        split = pd.DataFrame({"image": images, "subset": sharing.PREDICTED})
        outside = facts.index[facts["known_as"] == known.TRAINING].difference(images, sort=False)
        if facts["known_as"].reindex(images).isin([known.TRAINING, known.TEST]).any():
            outside = pd.DataFrame({"image": outside, "subset": sharing.OUTSIDE})
            split = pd.concat([outside, split], ignore_index=True)
    split = split.drop_duplicates(["image", "subset"], ignore_index=True)
    table = split[["image"]].join(facts, on="image").fillna("")
    return table, split["subset"].astype(str).str.replace("/", "-")


def scored_subset(subset, predicted=False) -> str:
    """The subset whose score is quoted: "folds", or the first held-out one; of those with a
    `predicted` image (N,) bool, where there are any. UserError where there is none."""
    here = subset[predicted] if predicted is not False else subset
    if here.str.isdigit().any():
        return "folds"
    names = [n for n in dict.fromkeys(here) if n not in ("train", LEFT_OUT, sharing.OUTSIDE)]
    if names:
        return prediction_tables.primary_subset(names)
    if predicted is False:
        raise UserError("the split has no subset beside train: expected val or test too")
    raise UserError(
        f"no predicted image is held out: {len(here):,} of them are in the split's train, none in "
        "another subset; expected predictions of its val or test images"
    )


def _described(table, subset):
    """{subset: {images, and how many of them have a known label, lesion and patient}}."""
    names = {"labels": "label", "lesions": "lesion_id", "patients": "patient_id"}
    rows = (table[list(names.values())] != "").set_axis(list(names), axis=1)
    return {
        name: {"images": len(part), **{key: int(n) for key, n in part.sum().items()}}
        for name, part in rows.groupby(subset, sort=False)
    }


def prior_of(table, subset, a) -> tuple[pd.Series, str]:
    """(shares of the classes, whose): of what was trained on, where it is given and its labels are
    known; else of the official training images that are not in the table."""
    learnt = subset.str.isdigit() if a == "fold" else subset == a
    labels, whose = table.loc[learnt, "label"], "all folds" if a == "fold" else a
    if not (labels != "").any():
        rest = known.training()
        labels, whose = rest.loc[~rest["image"].isin(table["image"]), "label"], sharing.OUTSIDE
    shares = labels[labels != ""].value_counts(normalize=True)
    return shares.reindex(CLASSES, fill_value=0.0), whose


def _scored(table, subset, predicted, others, a, b, pairs, options) -> dict:
    """The keys scores, compared and left_out."""
    inside = subset.str.isdigit() if b == "folds" else subset == b
    leaks = sharing.affected(table, subset, a, b, pairs)[["images", "lesions"]].any(axis=1)
    rows = table.assign(shared=leaks)[inside].drop_duplicates("image")
    rows = rows.merge(predicted.drop(columns=["subset", "lesion_id"], errors="ignore"), on="image")
    rows["truth"] = rows["label"].where(rows["label"] != "", rows["truth"])
    usable = (rows["truth"] != "") & (rows["image"] != ZERO_WEIGHT)
    left = {"without a known label": int((rows["truth"] == "").sum())}
    left["in no scored subset"] = int((~predicted["image"].isin(rows["image"])).sum())
    left[f"of {b}, without a prediction"] = int(inside.sum() - len(rows))
    rows = rows[usable].reset_index(drop=True)
    if not len(rows):
        raise UserError(
            f"no true class is known for the predicted images of {b}: expected a column truth in "
            "the file, or --data with their labels"
        )
    prior, whose = prior_of(table, subset, a)
    truth, p = prediction_tables.arrays(rows)
    lesions, covered = prediction_tables.lesions(rows), (rows["lesion_id"] != "").any()
    found = scores(truth, p, prior, lesions, rows["shared"] if a and covered else None, **options)
    found |= {"prior": prior.to_dict(), "prior_of": whose}
    found |= {"by": "lesion" if covered else "image (no lesion is known)"}
    compared_with = {
        name: _comparison(rows, other, prior, name, options) for name, other in others.items()
    }
    left = {reason: n for reason, n in left.items() if n}
    return {"scores": found, "compared": compared_with, "left_out": left}


def _comparison(rows, other, prior, name, options):
    """What `compared` finds on the images that both predictions have."""
    other = other[["image", *CLASSES]].rename(columns={c: f"other {c}" for c in CLASSES})
    rows = rows.merge(other, on="image")
    if not len(rows):
        raise UserError(f"{name} has none of the scored images: expected predictions of the same")
    truth, p = prediction_tables.arrays(rows)
    theirs = rows[[f"other {c}" for c in CLASSES]].to_numpy()
    lesions = prediction_tables.lesions(rows)
    return {"n": len(rows), "minus": compared(truth, p, theirs, prior, lesions, **options)}


def quote(found: dict) -> str:
    """The line to quote: score, interval, n, protocol."""
    scored, name = found["scores"], found["verdict"]["name"]
    by_rule, by_argmax = (
        f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        for row in (scored[part]["balanced_accuracy"] for part in ("prior_corrected", "argmax"))
    )
    return (
        f"Balanced accuracy {by_argmax} by argmax, {by_rule} after prior correction; "
        f"n = {scored['n']:,} {sharing.words(found['scored'])} images; protocol: {name} "
        f"({found['verdict']['why']}); 95 % intervals by {scored['by']}."
    )
