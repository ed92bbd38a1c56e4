"""Which class to predict, at which threshold, and when to abstain.

`truth` (N,) int and `probabilities` (N, K) float as in `calibration`; `val` and `scored` are rows
of predictions. Whatever is chosen is chosen on `val` and counted on `scored`. Rows of a fold are
counted by what the other folds chose.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from dermai_utils.basics import CLASSES, MALIGNANT, UserError
from dermai_utils.intervals import named, rate
from dermai_utils.metrics import scalar_metrics
from dermai_utils.predictions import arrays, cross_fit, fitted_for, lesions

RULE_SCORES = {"balanced_accuracy": 0, "macro_f1": 1, "accuracy": 3}  # places in SCALAR_METRICS
TARGETS = {"melanoma": ("MEL",), "malignant": MALIGNANT}
RATES = ("sensitivity", "specificity")
LEVELS = [(rate, level) for rate in ("specificity", "sensitivity") for level in (0.90, 0.95)]
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


# The decision rule


def training_prior(table: pd.DataFrame) -> pd.Series:
    """The classes' shares of the training subset, by class; `table`: a run's table.

    Without the `extra` images, whose shares the loss takes out. With folds, where each is val in
    turn, the shares of all.
    """
    home = table[table["source"] != "extra"]
    trained = home["subset"] == ("train" if (home["subset"] == "train").any() else "val")
    shares = home.loc[trained, "label"].value_counts(normalize=True)
    return shares.reindex(CLASSES, fill_value=0)


def prior_corrected(probabilities, prior, tau) -> np.ndarray:
    """(N, K) float: probabilities divided by the classes' `prior` (K,) to the power `tau`,
    renormalised; `tau`: a number, or (N, 1).

    tau = 1 is best for balanced accuracy if the probabilities are calibrated, as tau = 0 is for
    accuracy (Menon et al. 2013, proceedings.mlr.press/v28/menon13a.html). Class weights and a
    balanced sampler have divided already: dividing again overshoots. A class of prior 0 gets
    probability 0. UserError for a prior that is negative or all zero.

    >>> prior_corrected(np.array([[0.3, 0.7]]), [0.1, 0.9], 1).round(2).tolist()
    [[0.79, 0.21]]
    """
    prior = np.asarray(prior, float)
    if (prior < 0).any() or not prior.any():
        raise UserError(
            f"a prior is a share of the images for each class, none negative, got {prior.tolist()}"
        )
    scaled = np.where(prior > 0, probabilities * np.where(prior > 0, prior, 1.0) ** -tau, 0)
    return scaled / np.maximum(scaled.sum(1, keepdims=True), np.finfo(float).tiny)


def tuned_tau(val, prior) -> float:
    """The exponent of the training shares that `val` asks for, from -1 to 1, to two decimals.

    Fitted, together with a temperature, by the log loss in which each class weighs the same: a
    convex problem of two numbers, and their ratio counts for balanced accuracy. The exponent with
    the highest balanced accuracy on `val` hangs on a few images of the rarest class: with 1,200
    images for validation it gave 0.758 on others, this one 0.766. Over 1 balanced accuracy hardly
    rises, and macro F1 falls (LOG.md).
    """
    truth, probabilities = arrays(val)
    trained = prior.to_numpy(float) > 0
    rows = trained[truth]
    if not rows.any():
        return 0.0
    truth = np.cumsum(trained)[truth[rows]] - 1
    log_p = np.log(np.clip(probabilities[rows][:, trained], np.finfo(float).tiny, 1))
    log_prior = np.log(prior.to_numpy(float)[trained])
    weight = 1 / np.bincount(truth)[truth]
    weight, here = weight / weight.sum(), np.arange(len(truth))

    def loss(factors):
        logits = factors[0] * log_p - factors[1] * log_prior
        nll = weight @ (logsumexp(logits, axis=1) - logits[here, truth])
        expected = softmax(logits, axis=1)
        slope = weight @ ((expected * log_p).sum(1) - log_p[here, truth])
        prior_slope = weight @ (log_prior[truth] - expected @ log_prior)
        away = (factors - (1, 0)) / len(truth)  # finite, where any factor separates the few images
        return nll + away @ (factors - (1, 0)) / 2, np.array([slope, prior_slope]) + away

    options = dict(jac=True, method="L-BFGS-B", bounds=[(0.05, None), (None, None)])
    temperature_factor, prior_factor = minimize(loss, np.array([1.0, 0.0]), **options).x
    tau = np.clip(prior_factor / temperature_factor, -1, 1)
    return round(float(tau), 2) + 0.0  # never -0.0


def compare_rules(val, prior) -> dict:
    """Balanced accuracy, macro F1 and accuracy of both rules on `val`, and which one it chose.

    "argmax" takes the most probable class, "prior_corrected" the largest of `prior_corrected` at
    the exponent "tau" that `tuned_tau` fits on `val`.
    """
    taus, (truth, p) = cross_fit(val, lambda rows: tuned_tau(rows, prior)), arrays(val)
    tau = taus.pop(-1)
    rules = {"argmax": p, "prior_corrected": prior_corrected(p, prior, tau)}
    rules = {rule: scalar_metrics(truth, scores)[0] for rule, scores in rules.items()}
    return {
        "training_prior": prior.to_dict(),
        "tau": tau,
        "tau_of_fold": {str(fold): tau for fold, tau in taus.items()},
        "rules": {
            rule: {"val": {name: values[place] for name, place in RULE_SCORES.items()}}
            for rule, values in rules.items()
        },
        "chosen": "prior_corrected" if tau or any(taus.values()) else "argmax",
    }


def by_chosen_rule(rows, decisions: dict) -> np.ndarray:
    """(N, 7) scores of N rows of predictions; the rule that `compare_rules` chose predicts the
    class with the largest one."""
    if decisions["chosen"] == "argmax":
        return arrays(rows)[1]
    prior = pd.Series(decisions["training_prior"])[list(CLASSES)]
    of_fold = {int(fold): tau for fold, tau in decisions.get("tau_of_fold", {}).items()}
    tau = fitted_for({-1: decisions["tau"]} | of_fold, rows)[:, None]
    return prior_corrected(arrays(rows)[1], prior, tau)


def called(rows: pd.DataFrame, decisions: dict) -> pd.DataFrame:
    """`rows` of predictions with the class that the chosen rule predicts, and its probability as
    confidence."""
    probabilities = arrays(rows)[1]
    place = by_chosen_rule(rows, decisions).argmax(1)
    confidence = probabilities[np.arange(len(rows)), place]
    return rows.assign(prediction=np.array(CLASSES)[place], confidence=confidence)


# Thresholds for melanoma and for malignant


def binary(rows, classes):
    """((N,) bool: one of `classes`, (N,) float: the sum of their probabilities) of N rows."""
    return rows["truth"].isin(classes).to_numpy(), rows[list(classes)].sum(axis=1).to_numpy()


def threshold_at(positive, score, rate: str, level: float) -> float:
    """The score from which an image counts as positive: `rate` is at least `level`, and the other
    rate at its best.

    `positive` (N,) 0/1 and `score` (N,) float of validation data; `rate`: sensitivity or
    specificity; `level`: 0 to 1. The threshold is one of the scores, inf if no image may count, NaN
    if the rate has no images. UserError for another rate.

    >>> threshold_at([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], "sensitivity", 1)
    0.4
    """
    if rate not in RATES:
        raise UserError(f"rate={rate!r}: expected {' or '.join(RATES)}")
    positive, score = np.asarray(positive, bool), np.asarray(score, float)
    candidates = np.append(np.unique(score), np.inf)  # sensitivity falls, specificity rises
    counted = np.sort(score[positive if rate == "sensitivity" else ~positive])
    if not len(counted):
        return np.nan
    below = np.searchsorted(counted, candidates) / len(counted)  # their share below each candidate
    if rate == "specificity":
        return float(candidates[np.argmax(below >= level - 1e-12)])
    return float(candidates[np.flatnonzero(1 - below >= level - 1e-12)[-1]])


def operating_point(positive, score, threshold) -> dict:
    """Sensitivity, specificity, ppv and npv at score >= `threshold` (a number, or (N,)); None where
    not defined or where a threshold is NaN, not known."""
    positive, predicted = np.asarray(positive, bool), np.asarray(score) >= threshold
    sides = {
        "sensitivity": predicted[positive],
        "specificity": ~predicted[~positive],
        "ppv": positive[predicted],
        "npv": ~positive[~predicted],
    }
    known = not np.isnan(threshold).any()
    return {name: float(np.mean(v)) if len(v) and known else None for name, v in sides.items()}


def operating_points(val, scored) -> list[dict]:
    """For each target and each asked rate: the threshold chosen on `val` (None where no image may
    count), and the rates on both; on `scored` with exact intervals by lesion, {rate}_low and
    {rate}_high, and {rate}_k of {rate}_n images, of {rate}_lesions."""
    points, lesion = [], lesions(scored)
    for target, classes in TARGETS.items():
        positive, score = binary(scored, classes)
        for asked in LEVELS:

            def choose(rows, asked=asked, classes=classes):
                return threshold_at(*binary(rows, classes), *asked)

            thresholds = cross_fit(val, choose)
            threshold, limits = thresholds[-1], fitted_for(thresholds, scored)
            point = {"target": target, "rate": asked[0], "level": asked[1]}
            point["threshold"] = threshold if np.isfinite(threshold) else None
            point["val"] = operating_point(*binary(val, classes), threshold) | {"n": len(val)}
            point["scored"] = operating_point(positive, score, limits) | {"n": len(scored)}
            points.append(point)
            right, known = (score >= limits) == positive, not np.isnan(limits).any()
            for name, side in zip(RATES, (positive, ~positive), strict=True):
                found = rate(right[side & known], lesion[side & known])
                point["scored"] |= named(name, found)
    return points


# Abstaining


def risk_coverage(truth, probabilities) -> pd.DataFrame:
    """What abstaining from the least confident images gains, one row an image, the surest first.

    Columns: coverage (share answered so far, 1/N to 1), risk (share of those that is wrong),
    confidence (the last one's). Among equally confident images the order is chance, so each counts
    with the errors of all of them on average.
    """
    probabilities = np.asarray(probabilities, float)
    wrong = 1.0 * (probabilities.argmax(1) != truth)
    errors = pd.DataFrame({"confidence": probabilities.max(1), "risk": wrong})
    errors["risk"] = errors.groupby("confidence")["risk"].transform("mean")
    errors = errors.sort_values("confidence", ascending=False, kind="stable", ignore_index=True)
    answered = np.arange(1, len(errors) + 1)
    coverage, risk = answered / max(len(errors), 1), errors["risk"].cumsum() / answered
    return pd.DataFrame({"coverage": coverage, "risk": risk, "confidence": errors["confidence"]})


def abstaining(val, scored) -> dict:
    """Share answered and risk on `scored`, where the confidence lets a given share of `val` pass.

    An answer is the most probable class (argmax), whose probability the confidence is. The risk has
    an exact interval, as in `operating_points`. aurc: the area under risk against coverage, 0 at
    best: the mean risk (Geifman et al. 2019, arxiv.org/abs/1805.08206).
    """
    truth, probabilities = arrays(scored)
    confidence, wrong = probabilities.max(1), probabilities.argmax(1) != truth
    points = []
    for asked in COVERAGES:

        def choose(rows, asked=asked):
            confidence = arrays(rows)[1].max(1)
            return threshold_at(confidence > 0, confidence, "sensitivity", asked)

        thresholds = cross_fit(val, choose) if asked < 1 else {-1: 0.0}
        answered = confidence >= fitted_for(thresholds, scored)
        point = {"asked": asked, "threshold": thresholds[-1], "coverage": answered.mean()}
        risk = rate(wrong[answered], lesions(scored)[answered])
        points.append(point | named("risk", risk) | {"n": answered.sum()})
    return {"aurc": risk_coverage(truth, probabilities)["risk"].mean(), "points": points}
