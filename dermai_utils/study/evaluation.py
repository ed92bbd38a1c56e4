"""The content of metrics.json: every number of the report, from predictions and the run's table.

`rows` are rows of predictions that count (no zero weight). What is fitted or chosen (temperature,
decision rule, thresholds) takes the rows of `val` and is scored on the primary subset; where that
is val itself, with folds, each fold by what the other folds chose. Every predicted class follows
the chosen decision rule, as in submission.csv; "argmax" holds the same metrics of the most probable
class. AUC, calibration and thresholds need no rule.
"""

import numpy as np
import pandas as pd

from dermai_utils import intervals, metrics, predictions
from dermai_utils.basics import CLASSES, DISCLAIMER, UserError
from dermai_utils.predictions import arrays
from dermai_utils.study import calibration, decisions

SMALL = 50  # images: a smaller subgroup is marked
SUBGROUPS = ("age_band", "sex", "localization", "confirmed_by")
AGE_BANDS = {"under 30": 0, "30 to 44": 30, "45 to 59": 45, "60 to 74": 60, "75 and over": 75}
MISTAKES_LISTED = 12
AUC_NOTE = (
    "AUC ranks the images by the network's probabilities. submission.csv holds the scores of the "
    "decision rule, which rank them a little differently"
)
FOLDS = {
    True: "Decision rule and thresholds were fitted on single networks, the temperature on their "
    "mean: new images get the mean.",
    False: "Decision rule, thresholds and temperature were fitted on single networks, but new "
    "images get their mean, which is less sure than it could be. In a test with five cheap "
    "networks its calibration error was 0.048 (0.028 with a temperature of its own), and it "
    "answered 66 % of the images in place of 71 %. A test subset (test_fraction) avoids this.",
}
MISTAKES_NOTE = (
    "likely_mislabelled: candidates for a second look, not errors; "
    "the model is wrong more often than the label"
)


def evaluate(rows, table, pairs=(), n_resamples=intervals.RESAMPLES) -> dict:
    """Everything in metrics.json but the run's name, data and split.

    `rows`: predictions (see `predictions`) of every held-out subset; they must hold val. `table`:
    the run's table with `subset`, and with `fold` where the run has folds; rows about further test
    images may follow. `pairs` (P, 2): image ids of near-duplicates. `n_resamples`: draws of each
    interval. The primary subset is the one to quote. Predictions with the chosen rule's class:
    `decisions.called(rows, found["decisions"])`. UserError without val or where nothing counts.
    2,000 predictions of each of two subsets take 4 s on one core.

    >>> truth = np.arange(14) % 7
    >>> rows = predictions.table([f"i{k}" for k in range(14)], truth, np.eye(7)[truth] * 0.9,
    ...     subset=["val"] * 7 + ["test"] * 7, lesion_id="", origin="")
    >>> table = pd.DataFrame({"image": rows["image"], "label": rows["truth"], "source": "train",
    ...     "subset": "train", "age": np.nan, "sex": "", "localization": "", "confirmed_by": ""})
    >>> found = evaluate(rows, table, n_resamples=20)
    >>> found["primary_subset"], found["subsets"]["test"]["balanced_accuracy"]
    ('test', 1.0)
    """
    subsets, primary = _subsets(rows)
    rules = decisions.compare_rules(subsets["val"], decisions.training_prior(table))
    subsets = {name: decisions.called(of, rules) for name, of in subsets.items()}
    val, scored = subsets["val"], subsets[primary]
    by_chosen, by_argmax = (by_rule(subsets, of, n_resamples) for of in (rules, None))
    rules_on = {name: _rules_on(name, rules, by_chosen, by_argmax) for name in subsets}
    found = {
        "primary_subset": primary,
        "note": DISCLAIMER,
        **by_chosen,
        "argmax": by_argmax,
        "rule_scores": {name: rule_aucs(of, rules) for name, of in subsets.items()},
        "auc_note": AUC_NOTE,
        "chosen_and_scored_on_the_same_images": primary == "val" and "fold" not in val,
        "resamples": n_resamples,
        "lesions_known": {name: _lesions_known(of) for name, of in subsets.items()},
        "smallest_class": smallest_class(scored),
        "calibration": calibrated(subsets, primary),
        "fitted_by": fitted_by(subsets),
        "decisions": rules_on[primary],
        "operating_points": decisions.operating_points(val, scored),
        "risk_coverage": decisions.abstaining(val, scored),
        "subgroups": subgroups(with_metadata(subsets, table), primary, n_resamples),
        "mistakes": mistakes(scored, table),
        "elsewhere": {
            name: elsewhere(subsets, name, primary, rules_on[name], n_resamples)
            for name in predictions.own_test_sets(subsets)
        },
        "folds": int(rows["fold"].max()) + 1 if "fold" in rows else 0,
        "near_duplicates": near_duplicate_counts(table, pairs),
    }
    return metrics.jsonable(found)


def _subsets(rows):
    """{subset: scored rows}, and the primary one."""
    subsets = {name: of for name, of in predictions.by_subset(rows).items() if len(of)}
    primary = predictions.primary_subset(subsets)
    if "val" not in subsets:
        raise UserError(
            f"the predictions hold {', '.join(subsets)} but no val: decision rule, temperature and "
            "thresholds are chosen on validation images, never on a test set; predict val too"
        )
    return subsets, primary


def _lesions_known(rows):
    return bool((predictions.lesions(rows) != rows["image"].to_numpy(str)).any())


def by_rule(subsets, rules, n_resamples) -> dict:
    """Metrics, their intervals and each class's recall on each subset by the rule that `rules`
    chose; None: argmax."""
    found = {"subsets": {}, "intervals": {}, "recalls": {}}
    for name, rows in subsets.items():
        (truth, probabilities), lesions = arrays(rows), predictions.lesions(rows)
        scores = decisions.by_chosen_rule(rows, rules) if rules else probabilities
        found["subsets"][name] = metrics.all_metrics(truth, probabilities, scores=scores)
        each = intervals.intervals(truth, probabilities, lesions, scores, n_resamples=n_resamples)
        found["intervals"][name] = each
        found["recalls"][name] = intervals.recalls(truth, scores.argmax(1), lesions)
    return found


def _rules_on(name, rules, by_chosen, by_argmax) -> dict:
    """`rules`, with the scores of both rules on the subset `name` as "scored"."""
    rules_on = {"argmax": by_argmax, "prior_corrected": by_chosen}
    for rule, by in rules_on.items():
        scored = {metric: by["intervals"][name][metric] for metric in decisions.RULE_SCORES}
        rules_on[rule] = rules["rules"][rule] | {"scored": scored}
    return rules | {"rules": rules_on}


def rule_aucs(rows, rules) -> dict:
    """macro_auc and malignant_auc of the decision rule's scores, as submission.csv has them."""
    found = metrics.scalar_metrics(arrays(rows)[0], decisions.by_chosen_rule(rows, rules))[0]
    names = ("macro_auc", "malignant_auc")
    return {name: found[metrics.SCALAR_METRICS.index(name)] for name in names}


def elsewhere(subsets, name, primary, rules, n_resamples) -> dict:
    """What was chosen on val, scored on the own test set `name`.

    "same_classes": the images at home (of the primary subset, else of val) of the classes that it
    has, by rule and by argmax.
    """
    val, own = subsets["val"], subsets[name]
    home = val if name == primary else subsets[primary]
    home = home[home["truth"].isin(own["truth"])]
    same = {"n": len(home), "by_rule": None, "argmax": None}
    for key, by in (("by_rule", rules), ("argmax", None)) if len(home) else ():
        same[key] = by_rule({"home": home}, by, n_resamples)["intervals"]["home"]
    return {
        "classes": own["truth"].nunique(),
        "same_classes": same,
        "calibration": calibrated(subsets, name),
        "decisions": rules,
        "operating_points": decisions.operating_points(val, own),
        "by_source": by_origin(own, rules, n_resamples),
    }


def by_origin(own, rules, n_resamples) -> dict:
    """Metrics of each clinic that the lesion ids of `own` name (BCN, MSK ... as in ISIC 2019), by
    the chosen rule; {} where they name fewer than two."""
    unnamed = ["", *own["subset"].unique()]  # an image without a clinic has its test set's name
    names = sorted(set(own["origin"].dropna()) - set(unnamed))
    rows = {name: own[own["origin"] == name] for name in names}
    found = by_rule(rows, rules, n_resamples)["intervals"] if len(names) > 1 else {}
    return {n: {"n": len(rows[n]), "classes": rows[n]["truth"].nunique()} | found[n] for n in found}


def smallest_class(rows) -> dict:
    """The class with the fewest images, and by how much one of them changes balanced accuracy."""
    n = rows["truth"].value_counts()
    return {"class": n.index[-1], "n": n.iloc[-1], "one_image": 1 / (len(n) * n.iloc[-1])}


def calibrated(subsets, name) -> dict:
    """Calibration errors and reliability diagram of the subset `name`, before and after temperature
    scaling; "temperature" is that of new images. See `calibration.temperatures`."""
    temperatures, (truth, before) = calibration.temperatures(subsets), arrays(subsets[name])
    after = calibration.apply_temperature(before, temperatures[name][:, None])
    return {
        "temperature": temperatures[calibration.NEW],
        "before": _calibration(truth, before),
        "after": _calibration(truth, after),
    }


def fitted_by(subsets) -> dict:
    """By what and on which subset temperature, decision rule and thresholds were fitted, in words,
    and a "note" about folds."""
    if "fold" not in subsets["val"]:
        fitted = "the network, on the validation subset"
        return {"temperature": fitted, "rule_and_thresholds": fitted, "note": ""}
    single = "single networks, each on the fold that it did not learn"
    mean = calibration.mean_of_folds(subsets) is not None
    temperature = "the mean of all networks, on the test subset" if mean else single
    return {"temperature": temperature, "rule_and_thresholds": single, "note": FOLDS[mean]}


def _calibration(truth, probabilities):
    measures = (calibration.nll, calibration.brier, calibration.ece)
    return {measure.__name__: measure(truth, probabilities) for measure in measures} | {
        "confidence": probabilities.max(1).mean(),
        "accuracy": (probabilities.argmax(1) == truth).mean(),
        "reliability": calibration.reliability(truth, probabilities).to_dict("records"),
    }


def near_duplicate_counts(table, pairs) -> dict:
    """How many of `pairs` (P, 2) have both images in `table`, and what became of them.

    left_out: one image is left out of training. Of the others, with_official: one is an official
    test image; in_two_subsets: they are in two other subsets (with folds each fold counts as one).
    """
    subsets = table["subset"]
    if "fold" in table:
        subsets = subsets.where(subsets != "val", "fold " + table["fold"].astype(str))
    subset = dict(zip(table["image"], subsets, strict=True))
    found = [{subset[a], subset[b]} for a, b in pairs if a in subset and b in subset]
    apart = [names for names in found if len(names) == 2 and "left out" not in names]
    official = sum("official" in names for names in apart)
    return {
        "pairs": len(found),
        "in_two_subsets": len(apart) - official,
        "with_official": official,
        "left_out": sum("left out" in names for names in found),
    }


# Subgroups


def with_metadata(subsets, table) -> dict:
    """{subset: rows with age_band, sex, localization, confirmed_by}, where any of them is given."""
    metadata = table[["image", "age", "sex", "localization", "confirmed_by"]].replace("", np.nan)
    edges = [*AGE_BANDS.values(), np.inf]
    bands = pd.cut(metadata["age"], edges, right=False, labels=list(AGE_BANDS))
    metadata = metadata.assign(age_band=bands)
    joined = {name: rows.merge(metadata, on="image", how="left") for name, rows in subsets.items()}
    given = list(SUBGROUPS)
    return {name: rows for name, rows in joined.items() if rows[given].notna().any(axis=None)}


def subgroups(described: dict, primary: str, n_resamples) -> dict:
    """Scores of each subgroup of the primary subset, or of the last one of `described` (see
    `with_metadata`) where the primary subset has no metadata."""
    subset = primary if primary in described else next(iter(reversed(described)), None)
    groups = {}
    for column in SUBGROUPS if subset else ():
        rows = described[subset]
        frame = intervals.subgroups(rows, column, min_n=SMALL, n_resamples=n_resamples)
        groups[column] = frame.rename_axis("group").reset_index().to_dict("records")
    return {"subset": subset, "small_below": SMALL, "groups": groups}


# Mistakes


def mistakes(rows, table) -> dict:
    """How many images there are of three kinds of mistakes, and the first of them, one a lesion."""
    rows = rows.merge(table[["image", "confirmed_by"]], on="image", how="left")
    rows["lesion"] = predictions.lesions(rows)
    kinds = {
        "most_confident": predictions.mistakes(rows),
        "costly": predictions.costly_mistakes(rows),
        "likely_mislabelled": likely_mislabelled(rows),
    }
    columns = ["image", "lesion_id", "truth", "prediction", "confidence", "confirmed_by"]
    first = {k: of.drop_duplicates("lesion").head(MISTAKES_LISTED) for k, of in kinds.items()}
    return {
        "counts": {kind: len(rows) for kind, rows in kinds.items()},
        "note": MISTAKES_NOTE,
        **{kind: rows[columns].to_dict("records") for kind, rows in first.items()},
    }


def likely_mislabelled(rows) -> pd.DataFrame:
    """Rows predicted as another class, more probable than the label's and at least as surely as
    images of that class are on average; the widest margin first.

    Not those confirmed by histopathology (`confirmed_by` is histo): there the model is wrong.
    Confident learning (Northcutt et al. 2021, arXiv 1911.00068): one threshold a class, its mean
    self-confidence, so a class that the model is never sure of can be on the list too.
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
