"""metrics.json: every number of the report, from predictions and the table. No files, no figures.

`rows` are rows of predictions that count (no zero weight). What is fitted or chosen (temperature,
decision rule, threshold) takes the rows of `val`, and is scored on those of the primary subset;
where val is that, in folds, each fold by what the others chose.
Whatever names a class follows the chosen decision rule, the one of submission.csv; "argmax" holds
the same metrics of the most probable class. AUC, calibration and thresholds need no rule.
"""

import numpy as np
import pandas as pd

from dermai_utils.config import CLASSES
from dermai_utils.data import split
from dermai_utils.metrics import bootstrap, calibration, classification, decisions, predictions
from dermai_utils.metrics.predictions import arrays, choices, of_rows

RESAMPLES = 2000
SMALL = 50  # images: under it a subgroup is marked
SUBGROUPS = ("age_band", "sex", "localization", "confirmed_by")
AGE_BANDS = {"under 30": 0, "30 to 44": 30, "45 to 59": 45, "60 to 74": 60, "75 and over": 75}
MISTAKES_LISTED = 12
MISTAKES_NOTE = (
    "likely_mislabelled: candidates for a second look, not errors; "
    "the model is wrong more often than the label"
)


def summarise(subsets: dict, primary: str, table: pd.DataFrame) -> dict:
    """Every metric, ready for JSON. `subsets`: {name: rows}; `primary`: the one to quote;
    `table`: what split.read returns."""
    prior = decisions.training_prior(table)
    rules = decisions.compare_rules(subsets["val"], subsets[primary], prior, RESAMPLES)
    subsets = {name: decisions.called(rows, rules) for name, rows in subsets.items()}
    val, scored = subsets["val"], subsets[primary]
    return classification.jsonable(
        {
            **by_rule(subsets, rules),
            "argmax": by_rule(subsets, None),
            "chosen_on": "val",
            "chosen_and_scored_on_the_same_images": primary == "val" and "fold" not in val,
            "resamples": RESAMPLES,
            "lesions_known": {n: predictions.lesions_known(rows) for n, rows in subsets.items()},
            "smallest_class": smallest_class(scored),
            "calibration": calibrated(val, scored),
            "decisions": rules,
            "operating_points": decisions.operating_points(val, scored, RESAMPLES),
            "risk_coverage": decisions.abstaining(val, scored),
            "subgroups": subgroups(with_metadata(subsets, table), primary),
            "mistakes": mistakes(scored, table),
            "elsewhere": elsewhere(
                val, subsets.get("own"), prior, val if primary == "own" else scored
            ),
        }
    )


def by_rule(subsets, rules) -> dict:
    """Metrics and their intervals on each subset by the rule that `rules` chose; None: argmax."""
    metrics, intervals = {}, {}
    for name, rows in subsets.items():
        truth, probabilities = arrays(rows)
        scores = decisions.by_chosen_rule(rows, rules) if rules else None
        metrics[name] = classification.metrics(truth, probabilities, scores=scores)
        lesions, options = rows["lesion_id"], dict(scores=scores, n_resamples=RESAMPLES)
        intervals[name] = bootstrap.intervals(truth, probabilities, lesions, **options)
    return {"subsets": metrics, "intervals": intervals}


def elsewhere(val, own, prior, home) -> dict | None:
    """What was chosen on `val`, scored on the user's own test set; None where there is none.

    "same_classes": the images at `home` of the classes that are there, by rule and by argmax.
    """
    if own is None:
        return None
    rules = decisions.compare_rules(val, own, prior, RESAMPLES)
    same = {"home": home[home["truth"].isin(own["truth"])]}
    return {
        "classes": own["truth"].nunique(),
        "same_classes": {
            "n": len(same["home"]),
            "by_rule": by_rule(same, rules)["intervals"]["home"] if len(same["home"]) else None,
            "argmax": by_rule(same, None)["intervals"]["home"] if len(same["home"]) else None,
        },
        "calibration": calibrated(val, own),
        "decisions": rules,
        "operating_points": decisions.operating_points(val, own, RESAMPLES),
        "by_source": by_source(own, rules),
    }


def by_source(own, rules) -> dict:
    """Metrics of each source whose name the lesion ids of `own` begin with (BCN, MSK ... as in
    ISIC 2019), by the chosen rule; {} where they name fewer than two."""
    origin = np.array(split.origin(own["lesion_id"]))
    names = sorted(set(origin) - {""})
    rows = {name: decisions.called(own[origin == name], rules) for name in names}
    found = by_rule(rows, rules)["intervals"] if len(names) > 1 else {}
    return {n: {"n": len(rows[n]), "classes": rows[n]["truth"].nunique()} | found[n] for n in found}


def smallest_class(rows) -> dict:
    """The class with the fewest images, and by how much one of them changes balanced accuracy."""
    n = rows["truth"].value_counts()
    return {"class": n.index[-1], "n": n.iloc[-1], "one_image": 1 / (len(n) * n.iloc[-1])}


def calibrated(val, scored) -> dict:
    """Calibration errors and reliability diagram of `scored`, before and after the temperature that
    was fitted on `val`."""
    temperatures = choices(val, lambda rows: calibration.fit_temperature(*arrays(rows)))
    truth, before = arrays(scored)
    after = calibration.apply_temperature(before, of_rows(temperatures, scored)[:, None])
    return {
        "temperature": temperatures[-1],
        "before": _calibration(truth, before),
        "after": _calibration(truth, after),
    }


def _calibration(truth, probabilities):
    measures = (calibration.nll, calibration.brier, calibration.ece, calibration.adaptive_ece)
    return {measure.__name__: measure(truth, probabilities) for measure in measures} | {
        "confidence": probabilities.max(1).mean(),
        "accuracy": (probabilities.argmax(1) == truth).mean(),
        "reliability": calibration.reliability(truth, probabilities).to_dict("records"),
    }


# Subgroups.


def with_metadata(subsets, table) -> dict:
    """{subset: rows with age_band, sex, localization, confirmed_by}, where any of them is given."""
    metadata = table[["image", "age", "sex", "localization", "confirmed_by"]].replace("", np.nan)
    edges = [*AGE_BANDS.values(), np.inf]
    bands = pd.cut(metadata["age"], edges, right=False, labels=list(AGE_BANDS))
    metadata = metadata.assign(age_band=bands)
    joined = {name: rows.merge(metadata, on="image", how="left") for name, rows in subsets.items()}
    present = {name: rows[list(SUBGROUPS)].notna().any(axis=None) for name, rows in joined.items()}
    return {name: rows for name, rows in joined.items() if present[name]}


def subgroups(described: dict, primary: str) -> dict:
    """Scores of each subgroup of the primary subset, or of the best one of `described` (see
    `with_metadata`) where that has no metadata."""
    subset = primary if primary in described else next(iter(reversed(described)), None)
    groups = {}
    for column in SUBGROUPS if subset else ():
        frame = bootstrap.subgroups(described[subset], column, min_n=SMALL, n_resamples=RESAMPLES)
        groups[column] = frame.rename_axis("group").reset_index().to_dict("records")
    return {"subset": subset, "small_below": SMALL, "groups": groups}


# Mistakes.


def mistakes(rows, table) -> dict:
    """How many images there are of three kinds of mistakes, and the first of them, one a lesion."""
    rows = rows.merge(table[["image", "confirmed_by"]], on="image", how="left")
    kinds = {
        "most_confident": predictions.mistakes(rows),
        "costly": predictions.costly_mistakes(rows),
        "likely_mislabelled": likely_mislabelled(rows),
    }
    columns = ["image", "lesion_id", "truth", "prediction", "confidence", "confirmed_by"]
    first = {
        k: r.drop_duplicates("lesion_id")[columns].head(MISTAKES_LISTED) for k, r in kinds.items()
    }
    return {
        "counts": {kind: len(rows) for kind, rows in kinds.items()},
        "note": MISTAKES_NOTE,
        **{kind: rows.to_dict("records") for kind, rows in first.items()},
    }


def listed_mistakes(metrics, rows, kind: str) -> pd.DataFrame:
    """The rows of predictions that metrics.json lists as `kind` of mistake, in its order."""
    images = [row["image"] for row in metrics["mistakes"][kind]]
    return rows.set_index("image", drop=False).loc[images]


def likely_mislabelled(rows) -> pd.DataFrame:
    """Rows predicted as another class, more probable than the label's and at least as surely as
    images of that class are on average; the widest margin first.

    Not those confirmed by histopathology (`confirmed_by` is histo): there the model is wrong.
    Confident learning (Northcutt et al. 2021, arXiv 1911.00068): one threshold a class, its mean
    self-confidence, so a class of which the model is never sure can be on the list too.
    """
    truth, probabilities = arrays(rows)
    self_confidence = np.full(len(CLASSES), np.inf)
    for k in np.unique(truth):
        self_confidence[k] = probabilities[truth == k, k].mean()
    predicted, here = rows["prediction"].map(CLASSES.index).to_numpy(), np.arange(len(rows))
    margin = pd.Series(probabilities[here, predicted] - probabilities[here, truth], rows.index)
    doubtful = (margin > 0) & (probabilities[here, predicted] >= self_confidence[predicted])
    doubtful &= rows["confirmed_by"] != "histo"
    return rows.loc[margin[doubtful].sort_values(ascending=False, kind="stable").index]
