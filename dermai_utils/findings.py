"""What the report says, as numbers: predictions and the table in, one dict for JSON out. No files, no figures.

`rows` is a predictions_frame with a `lesion_id` column, only the rows that count (no zero weight). What is fitted or
chosen (temperature, rule, threshold) takes the rows of `val`, and is scored on `quoted`, the part of the headline.
"""

import numpy as np
import pandas as pd

from dermai_utils import calibration, evaluate, intervals
from dermai_utils.config import CLASSES

RESAMPLES = 2000
SMALL = 50  # images: under it a subgroup is marked
POSITIVES = {"melanoma": ("MEL",), "malignant": evaluate.MALIGNANT}
TARGETS = (("specificity", 0.90), ("specificity", 0.95), ("sensitivity", 0.90), ("sensitivity", 0.95))
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
SUBGROUPS = ("age_band", "sex", "localization", "confirmed_by")
AGE_EDGES = {"under 30": 0, "30 to 44": 30, "45 to 59": 45, "60 to 74": 60, "75 and over": 75}  # years, from
RULES = ("argmax", "prior_adjusted", "prior_restored", "prior_tuned")
STRENGTHS = np.arange(-10, 11) / 10  # of the tuned rule: -1 is prior_restored, 0 argmax, 1 prior_adjusted
RULE_SCORES = ("balanced_accuracy", "macro_f1", "accuracy")


def arrays(rows):
    """(truth (N,) int, probabilities (N, 7)) of predictions."""
    return rows["truth"].map(CLASSES.index).to_numpy(), rows[list(CLASSES)].to_numpy()


def collect(parts: dict, headline: str, table: pd.DataFrame) -> dict:
    """Every number beyond evaluate.metrics. `parts`: {name: rows}; `headline`: which to quote; `table`: split.read's."""
    val, quoted = parts["val"], parts[headline]
    prior = training_prior(table)
    described = parts_with_metadata(parts, table)
    found = {
        "chosen_on": "val",
        "chosen_and_scored_on_the_same_images": headline == "val",
        "resamples": RESAMPLES,
        "intervals": {name: intervals.headline(*arrays(rows), rows["lesion_id"], n_resamples=RESAMPLES)
                      for name, rows in parts.items()},
        "smallest_class": smallest_class(quoted),
        "calibration": calibrated(val, quoted),
        "decisions": decisions(val, quoted, prior),
        "operating_points": operating_points(val, quoted),
        "risk_coverage": risk_coverage(val, quoted),
        "subgroups": subgroups(described, headline),
        "mistakes": mistakes(quoted, table),
    }  # fmt: skip
    return plain(found)


def smallest_class(rows) -> dict:
    """The class with the fewest images, and how many points (hundredths) of balanced accuracy one of them is."""
    n = rows["truth"].value_counts()
    return {"class": n.index[-1], "n": n.iloc[-1], "points": 100 / (len(n) * n.iloc[-1])}


# Calibration.


def calibrated(val, quoted) -> dict:
    """Calibration errors and the reliability diagram of `quoted`, before and after the temperature that suits `val`."""
    temperature = calibration.fit_temperature(*arrays(val))
    truth, probabilities = arrays(quoted)
    both = {"before": probabilities, "after": calibration.apply_temperature(probabilities, temperature)}
    return {"temperature": temperature} | {when: _calibration(truth, p) for when, p in both.items()}


def _calibration(truth, probabilities):
    measures = (calibration.nll, calibration.brier, calibration.ece, calibration.adaptive_ece)
    return {measure.__name__: measure(truth, probabilities) for measure in measures} | {
        "confidence": probabilities.max(1).mean(),
        "accuracy": (probabilities.argmax(1) == truth).mean(),
        "reliability": calibration.reliability(truth, probabilities).to_dict("records"),
    }


# Decisions.


def training_prior(table: pd.DataFrame) -> pd.Series:
    """The classes' shares of the training part of split.read's table, by class."""
    return table.loc[table["part"] == "train", "label"].value_counts(normalize=True).reindex(CLASSES, fill_value=0)


def divided(probabilities, prior, power: float) -> np.ndarray:
    """(N, 7) probabilities divided by the training shares to that power; 0 for a class that was not trained on."""
    prior = np.asarray(prior, float)
    return calibration.prior_adjusted(probabilities, np.power(prior, power, out=np.zeros_like(prior), where=prior > 0))


def rules(probabilities, prior, strength: float) -> dict:
    """{rule: (N, 7) probabilities to take the largest of}.

    `prior_adjusted` divides by the training shares, best for balanced accuracy after plain training if the probabilities
    are calibrated. With class weights or a balanced sampler the network has done that already: dividing again overshoots,
    and `prior_restored` (multiplied by the shares) is the rule for accuracy. `prior_tuned` divides by the shares to the power
    `strength`. A class that was not trained on is never called by these.
    """
    return dict(zip(RULES, (probabilities, *(divided(probabilities, prior, s) for s in (1, -1, strength))), strict=True))


def tuned_strength(val, prior) -> float:
    """The one of STRENGTHS for the highest balanced accuracy on `val`.

    Of those that are within one image of the smallest class of it, which is chance, the one that changes least.
    """
    truth, probabilities = arrays(val)
    everyone, n = np.ones((1, len(truth))), np.bincount(truth)
    called = [divided(probabilities, prior, strength).argmax(1) for strength in STRENGTHS]
    scores = np.array([intervals.confusion_numbers(truth, one, everyone)[0, 0] for one in called])
    one_image = 1 / (n > 0).sum() / n[n > 0].min()
    good = STRENGTHS[scores >= scores.max() - one_image - 1e-9]
    return float(good[np.argmin(np.abs(good))])


def decisions(val, quoted, prior) -> dict:
    """Accuracy, macro F1 and balanced accuracy of each rule, and the one that `val` speaks for (see `tuned_strength`)."""
    found, strength = {}, tuned_strength(val, prior)
    for part, rows in (("val", val), ("scored", quoted)):
        truth, probabilities = arrays(rows)
        for rule, p in rules(probabilities, prior, strength).items():
            scores = intervals.headline(truth, p, rows["lesion_id"], n_resamples=RESAMPLES if part == "scored" else 1)
            kept = {name: scores[name] if part == "scored" else scores[name]["value"] for name in RULE_SCORES}
            found.setdefault(rule, {})[part] = kept
    chosen = "prior_tuned" if strength else "argmax"  # the other two are powers as well, 1 and -1
    return {"training_prior": prior.to_dict(), "strength": strength, "rules": found, "chosen": chosen}


def by_rule(probabilities, decided) -> np.ndarray:
    """(N, 7) probabilities whose largest is the call of the rule that `decisions` chose."""
    return rules(probabilities, pd.Series(decided["training_prior"])[list(CLASSES)], decided["strength"])[decided["chosen"]]


def operating_points(val, quoted) -> list[dict]:
    """For each finding and each asked rate: the threshold, chosen on `val`, and the rates there and on `quoted`."""
    points = []
    for finding, classes in POSITIVES.items():
        for rate, level in TARGETS:
            threshold = calibration.threshold_at(*_binary(val, classes), **{rate: level})
            point = {part: calibration.operating_point(*_binary(rows, classes), threshold)
                     for part, rows in (("val", val), ("scored", quoted))}  # fmt: skip
            points.append({"finding": finding, "rate": rate, "level": level, "threshold": threshold, **point})
    _with_intervals(points, quoted)
    return points


def _binary(rows, classes):
    """((N,) bool: one of `classes`, (N,) float: the sum of their probabilities)."""
    return rows["truth"].isin(classes).to_numpy(), rows[list(classes)].sum(axis=1).to_numpy()


def _with_intervals(points, quoted):
    """Add {rate}_low and {rate}_high, by lesion, to what was scored. All rates at once: the lesions are drawn once."""
    counted, right = [], []
    for point in points:
        positive, score = _binary(quoted, POSITIVES[point["finding"]])
        called = score >= point["threshold"]
        counted += [positive, ~positive]  # of whom sensitivity, specificity are the share that is right
        right += [positive & called, ~positive & ~called]
    counted, right = np.array(counted, float).T, np.array(right, float).T

    def rates(weights):
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ right) / (weights @ counted)

    truth, _ = arrays(quoted)
    low, high = intervals.by_lesion(rates, quoted["lesion_id"], strata=truth, n_resamples=RESAMPLES, vectorised=True)
    for k, point in enumerate(points):
        for j, rate in enumerate(("sensitivity", "specificity")):
            known = point["scored"][rate] is not None
            point["scored"] |= {f"{rate}_low": low[2 * k + j] if known else None,
                                f"{rate}_high": high[2 * k + j] if known else None}  # fmt: skip


def risk_coverage(val, quoted) -> dict:
    """Abstaining below a confidence that lets the asked share of `val` through: the share and the error on `quoted`."""
    truth, probabilities = arrays(quoted)
    confidence, wrong, points = probabilities.max(1), probabilities.argmax(1) != truth, []
    for asked in COVERAGES:
        threshold = np.quantile(val["confidence"], 1 - asked, method="lower") if asked < 1 else 0.0
        answered = confidence >= threshold
        risk = wrong[answered].mean() if answered.any() else None
        points.append({"asked": asked, "threshold": threshold, "coverage": answered.mean(), "risk": risk,
                       "n": answered.sum()})  # fmt: skip
    return {"aurc": calibration.aurc(truth, probabilities), "points": points}


# Who it works for.


def parts_with_metadata(parts, table) -> dict:
    """{part: rows with age_band, sex, localization, confirmed_by}, of the parts where any of them is known."""
    about = table[["image", "age", "sex", "localization", "confirmed_by"]].replace("", np.nan)
    edges = [*AGE_EDGES.values(), np.inf]
    about = about.assign(age_band=pd.cut(about["age"], edges, right=False, labels=list(AGE_EDGES)))
    joined = {part: rows.merge(about, on="image", how="left") for part, rows in parts.items()}
    return {part: rows for part, rows in joined.items() if rows[list(SUBGROUPS)].notna().any(axis=None)}


def subgroups(described, headline) -> dict:
    """Scores of each subgroup of the headline part, or where that has no metadata of the best part that has."""
    part = headline if headline in described else next(iter(reversed(described)), None)
    found = {"part": part, "small_below": SMALL, "groups": {}}
    for column in SUBGROUPS if part else ():
        rows = described[part].rename(columns={"lesion_id": "lesion"})
        frame = intervals.subgroups(rows, column, min_n=SMALL, n_resamples=RESAMPLES)
        found["groups"][column] = frame.rename_axis("group").reset_index().to_dict("records")
    return found


# Mistakes.


def mistakes(rows, table, each=12) -> dict:
    """How many images there are of three kinds of mistakes, and the first `each` of them, one image a lesion."""
    rows = rows.merge(table[["image", "confirmed_by"]], on="image", how="left")
    kinds = {
        "most_confident": evaluate.mistakes(rows, len(rows)),
        "costly": evaluate.costly_mistakes(rows, len(rows)),
        "likely_mislabelled": likely_mislabelled(rows),
    }
    columns = ["image", "lesion_id", "truth", "prediction", "confidence", "confirmed_by"]
    return {
        "counts": {kind: len(found) for kind, found in kinds.items()},
        "note": "likely_mislabelled: candidates for a second look, not errors; the model is wrong more often than the label",
    } | {kind: found.drop_duplicates("lesion_id")[columns].head(each).to_dict("records") for kind, found in kinds.items()}


def likely_mislabelled(rows) -> pd.DataFrame:
    """Rows called another class, at least as surely as images of that class are on average; the widest margin first.

    Not those confirmed by histopathology (`confirmed_by` is histo): there the model is wrong. Confident learning (Northcutt
    et al. 2021, arXiv 1911.00068): one threshold a class, its mean self-confidence, so a class of which the model is never
    sure can be on the list too.
    """
    truth, probabilities = arrays(rows)
    self_confidence = np.full(len(CLASSES), np.inf)
    for k in np.unique(truth):
        self_confidence[k] = probabilities[truth == k, k].mean()
    called, here = probabilities.argmax(1), np.arange(len(rows))
    doubtful = (called != truth) & (probabilities[here, called] >= self_confidence[called])
    doubtful &= (rows["confirmed_by"] != "histo").to_numpy()
    margin = pd.Series(probabilities[here, called] - probabilities[here, truth], rows.index)
    return rows.loc[margin[doubtful].sort_values(ascending=False, kind="stable").index]


def plain(value):
    """`value` as JSON can hold it: numpy's numbers as Python's, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
