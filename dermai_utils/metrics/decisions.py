"""Which class to call, at which threshold, and when to abstain.

`truth` (N,) int, `probabilities` (N, K) float and confidence (the largest of a row) as in
calibration; `val` and `scored` are rows of predictions. Whatever is chosen is chosen on `val`, and
what it gives is counted on `scored`; rows of a fold by what was chosen on the other folds.
"""

import functools

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from dermai_utils.config import CLASSES, MALIGNANT, UserError
from dermai_utils.metrics import bootstrap
from dermai_utils.metrics.classification import scalar_metrics
from dermai_utils.metrics.predictions import arrays, choices, of_rows

RULES = ("argmax", "prior_adjusted", "prior_restored", "prior_tuned")
RULE_SCORES = {"balanced_accuracy": 0, "macro_f1": 1, "accuracy": 3}  # places in SCALAR_METRICS
TARGETS = {"melanoma": ("MEL",), "malignant": MALIGNANT}
RATES = ("sensitivity", "specificity")
LEVELS = [(rate, level) for rate in ("specificity", "sensitivity") for level in (0.90, 0.95)]
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


# The decision rule.


def prior_adjusted(probabilities, prior) -> np.ndarray:
    """(N, K) float: probabilities divided by the classes' `prior` (K,), renormalised.

    `prior`: the classes' shares in training, or (N, K). If the probabilities are calibrated, the
    argmax of these has the best expected balanced accuracy, as the argmax of `probabilities` has
    the best accuracy (Menon et al. 2013, proceedings.mlr.press/v28/menon13a.html). A class of prior
    0 gets probability 0. UserError for a prior that can't be one.
    """
    prior = np.asarray(prior, float)
    if (prior < 0).any() or not prior.any():
        raise UserError(
            f"a prior is a share of the images for each class, none negative, got {prior.tolist()}"
        )
    scaled = probabilities * np.divide(1, prior, out=np.zeros_like(prior), where=prior > 0)
    return scaled / np.maximum(scaled.sum(1, keepdims=True), np.finfo(float).tiny)


def prior_corrected(probabilities, prior, tau) -> np.ndarray:
    """`prior_adjusted` by the training shares to the power `tau` (or (N, 1) of them); 0 for a class
    not trained on."""
    prior = np.asarray(prior, float)
    power = np.where(prior > 0, np.power(np.where(prior > 0, prior, 1.0), tau), 0.0)
    return prior_adjusted(probabilities, power)


def decision_rules(probabilities, prior, tau) -> dict:
    """{rule: (N, 7) probabilities to take the largest of}.

    `prior_adjusted` divides by the training shares, best for balanced accuracy after plain training
    if the probabilities are calibrated. With class weights or a balanced sampler the network has
    done that already: dividing again overshoots, and `prior_restored` (multiplied by the shares) is
    the rule for accuracy. `prior_tuned` divides by the shares to the power `tau`. None of these
    three ever predicts a class that was not trained on.
    """
    corrected = (prior_corrected(probabilities, prior, exponent) for exponent in (1, -1, tau))
    return dict(zip(RULES, (probabilities, *corrected), strict=True))


def training_prior(table: pd.DataFrame) -> pd.Series:
    """The classes' shares of the training subset, by class; `table`: what split.read returns.

    Without the `extra` images, whose shares the loss takes out. With all folds as one run, each of
    which is val, those of all.
    """
    home = table[table["source"] != "extra"]
    learnt = home["subset"] == ("train" if (home["subset"] == "train").any() else "val")
    labels = home.loc[learnt, "label"]
    return labels.value_counts(normalize=True).reindex(CLASSES, fill_value=0)


def tuned_tau(val, prior) -> float:
    """The exponent of the training shares that `val` asks for, from -1 to 1, to two decimals.

    Fitted, together with a temperature, by the log loss in which each class weighs the same: a
    convex problem of two numbers, of which balanced accuracy wants the ratio. The exponent with the
    highest balanced accuracy on `val` is what a few images of the rarest class decide: with 1,200
    images for validation it gave 0.758 on others, this one 0.766. Over 1 balanced accuracy hardly
    rises, and macro F1 falls (LOG.md).
    """
    truth, probabilities = arrays(val)
    learned = prior.to_numpy(float) > 0
    rows = learned[truth]
    if not rows.any():
        return 0.0
    truth = np.cumsum(learned)[truth[rows]] - 1
    log_p = np.log(np.clip(probabilities[rows][:, learned], np.finfo(float).tiny, 1))
    log_prior = np.log(prior.to_numpy(float)[learned])
    weight = 1 / np.bincount(truth)[truth]
    weight, here = weight / weight.sum(), np.arange(len(truth))

    def loss(factors):
        logits = factors[0] * log_p - factors[1] * log_prior
        nll = weight @ (logsumexp(logits, axis=1) - logits[here, truth])
        expected = softmax(logits, axis=1)
        slope = weight @ ((expected * log_p).sum(1) - log_p[here, truth])
        prior_slope = weight @ (log_prior[truth] - expected @ log_prior)
        away = (factors - (1, 0)) / len(truth)  # finite, where any factor parts the few there are
        return nll + away @ (factors - (1, 0)) / 2, np.array([slope, prior_slope]) + away

    options = dict(jac=True, method="L-BFGS-B", bounds=[(0.05, None), (None, None)])
    temperature_factor, prior_factor = minimize(loss, np.array([1.0, 0.0]), **options).x
    tau = np.clip(prior_factor / temperature_factor, -1, 1)
    return round(float(tau), 2) + 0.0  # never -0.0


def compare_rules(val, scored, prior, n_resamples: int) -> dict:
    """Balanced accuracy, macro F1 and accuracy of each rule, and which one was chosen on `val`."""
    taus = choices(val, lambda rows: tuned_tau(rows, prior))
    rules = {rule: {} for rule in RULES}
    for rule, p in decision_rules(arrays(val)[1], prior, taus[-1]).items():
        values = scalar_metrics(arrays(val)[0], p)[0]
        rules[rule]["val"] = {name: values[place] for name, place in RULE_SCORES.items()}
    for rule, p in decision_rules(arrays(scored)[1], prior, of_rows(taus, scored)[:, None]).items():
        truth, lesions = arrays(scored)[0], scored["lesion_id"]
        metrics = bootstrap.intervals(truth, p, lesions, n_resamples=n_resamples)
        rules[rule]["scored"] = {name: metrics[name] for name in RULE_SCORES}
    tau = taus.pop(-1)
    return {
        "training_prior": prior.to_dict(),
        "tau": tau,
        "tau_of_fold": {str(fold): tau for fold, tau in taus.items()},
        "rules": rules,
        # the other two are exponents as well, 1 and -1
        "chosen": "prior_tuned" if tau or any(taus.values()) else "argmax",
    }


def by_chosen_rule(rows, decisions: dict) -> np.ndarray:
    """(N, 7) probabilities whose largest is the class that `compare_rules` decided to call, of N
    rows of predictions."""
    prior = pd.Series(decisions["training_prior"])[list(CLASSES)]
    of_fold = {int(fold): tau for fold, tau in decisions.get("tau_of_fold", {}).items()}
    tau = of_rows({-1: decisions["tau"]} | of_fold, rows)[:, None]
    return decision_rules(arrays(rows)[1], prior, tau)[decisions["chosen"]]


def called(rows: pd.DataFrame, decisions: dict) -> pd.DataFrame:
    """`rows` of predictions, with the class that the chosen rule calls and its probability."""
    probabilities = arrays(rows)[1]
    place = by_chosen_rule(rows, decisions).argmax(1)
    return rows.assign(
        prediction=np.array(CLASSES)[place], confidence=probabilities[np.arange(len(rows)), place]
    )


# Thresholds for melanoma and for malignant.


def threshold_at(positive, score, *, specificity=None, sensitivity=None) -> float:
    """The score from which on to call positive: one rate at least as asked, the other at its best.

    `positive` (N,) 0/1, `score` (N,) float, both of validation data; give one of the two rates, 0
    to 1. It is one of the scores, inf if none may be called, NaN if the rate has no images to be
    counted on.
    """
    positive, score = np.asarray(positive, bool), np.asarray(score, float)
    if (specificity is None) == (sensitivity is None):
        raise UserError("a threshold is for one rate: give specificity or sensitivity, not both")
    candidates = np.append(np.unique(score), np.inf)  # sensitivity falls, specificity rises
    counted = np.sort(score[positive] if specificity is None else score[~positive])
    if not len(counted):
        return np.nan
    below = np.searchsorted(counted, candidates) / len(counted)  # their share below each candidate
    if specificity is not None:
        return float(candidates[np.argmax(below >= specificity - 1e-12)])
    return float(candidates[np.flatnonzero(1 - below >= sensitivity - 1e-12)[-1]])


def operating_point(positive, score, threshold: float) -> dict:
    """Sensitivity, specificity, ppv and npv at score >= `threshold`; None where not defined.

    Ready for JSON: a threshold of inf (nothing is positive) or NaN (not known) is None too.
    """
    return _rates(positive, np.asarray(score) >= threshold, threshold)


def _rates(positive, predicted, threshold):
    positive = np.asarray(positive, bool)
    rates = {
        "sensitivity": predicted[positive],
        "specificity": ~predicted[~positive],
        "ppv": positive[predicted],
        "npv": ~positive[~predicted],
    }
    defined = not np.isnan(threshold)
    return {
        "threshold": float(threshold) if np.isfinite(threshold) else None,
        **{k: float(np.mean(v)) if len(v) and defined else None for k, v in rates.items()},
        "n": len(positive),
    }


def operating_points(val, scored, n_resamples: int) -> list[dict]:
    """For each target and each asked rate: the threshold chosen on `val`, and the rates on both."""
    points, called = [], []
    for target, classes in TARGETS.items():
        positive, score = binary(scored, classes)
        for rate, level in LEVELS:
            choose = functools.partial(_threshold, classes=classes, **{rate: level})
            thresholds = choices(val, choose)
            called.append(score >= of_rows(thresholds, scored))
            points.append(
                {
                    "target": target,
                    "rate": rate,
                    "level": level,
                    "threshold": thresholds[-1],
                    "val": operating_point(*binary(val, classes), thresholds[-1]),
                    "scored": _rates(positive, called[-1], thresholds[-1]),
                }
            )
    _add_intervals(points, called, scored, n_resamples)
    return points


def _threshold(rows, classes, **rate):
    return threshold_at(*binary(rows, classes), **rate)


def rechosen(
    val, own, n: int = 50, sensitivity: float = 0.9, draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Melanoma on images from elsewhere: by the threshold of `val`, and by one chosen anew there.

    `own`: rows of labelled predictions, of which whole lesions are drawn until they are `n` images;
    the new threshold is chosen on these, and both are counted on the rest. A row each: threshold,
    sensitivity and specificity, means over the draws with their standard deviations (_sd): what
    another 50 images would have given. NaN where one is not defined.
    """
    lesions, random = own["lesion_id"].to_numpy(str), np.random.default_rng(seed)
    lesion, each = np.unique(lesions, return_inverse=True)
    melanoma, found = TARGETS["melanoma"], {"chosen at home": [], f"chosen anew on {n} images": []}
    positive, score = binary(own, melanoma)
    at_home = threshold_at(*binary(val, melanoma), sensitivity=sensitivity)
    for _ in range(draws):
        order = random.permutation(len(lesion))
        images = np.bincount(each)[order].cumsum()
        few = np.isin(each, order[: np.searchsorted(images, n) + 1])
        anew = threshold_at(positive[few], score[few], sensitivity=sensitivity)
        for rows, threshold in zip(found.values(), (at_home, anew), strict=True):
            rows.append(operating_point(positive[~few], score[~few], threshold))
    return pd.DataFrame({name: _over_draws(rows) for name, rows in found.items()}).T


def _over_draws(points):
    table = pd.DataFrame(points)[["threshold", *RATES]].astype(float)
    spread = table[list(RATES)].std().add_suffix("_sd")
    columns = ["threshold", *(name + end for name in RATES for end in ("", "_sd"))]
    return pd.concat([table.mean(), spread])[columns]


def binary(rows, classes):
    """((N,) bool: one of `classes`, (N,) float: the sum of their probabilities) of N rows."""
    return rows["truth"].isin(classes).to_numpy(), rows[list(classes)].sum(axis=1).to_numpy()


def _add_intervals(points, called, scored, n_resamples):
    """Add {rate}_low and {rate}_high, by lesion; all rates with the same drawn lesions."""
    counted, right = [], []  # a rate is the share of the counted images that is right
    for point, predicted in zip(points, called, strict=True):
        positive, _ = binary(scored, TARGETS[point["target"]])
        counted += [positive, ~positive]
        right += [positive & predicted, ~positive & ~predicted]
    counted, right = np.array(counted, float).T, np.array(right, float).T

    def rates(weights):
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ right) / (weights @ counted)

    options = dict(strata=arrays(scored)[0], n_resamples=n_resamples, vectorised=True)
    ends = np.transpose(bootstrap.by_lesion(rates, scored["lesion_id"], **options))
    for point, pair in zip(points, ends.reshape(len(points), 2, 2), strict=True):
        for rate, (low, high) in zip(RATES, pair, strict=True):
            defined = point["scored"][rate] is not None
            point["scored"][f"{rate}_low"] = low if defined else None
            point["scored"][f"{rate}_high"] = high if defined else None


# Abstaining.


def risk_coverage(truth, probabilities) -> pd.DataFrame:
    """What abstaining from the least confident images buys, one row an image, the surest first.

    Columns: coverage (share answered so far, 1/N to 1), risk (share of those that is wrong),
    confidence (of the last one). Among equally confident images the order is chance, so each counts
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


def aurc(truth, probabilities) -> float:
    """Area under risk against coverage, 0 at best: the mean risk.

    Geifman et al. 2019, arxiv.org/abs/1805.08206.
    """
    risk = risk_coverage(truth, probabilities)["risk"]
    return float(np.mean(risk)) if len(risk) else np.nan


def abstaining(val, scored) -> dict:
    """Share answered and risk on `scored` where the confidence lets a given share of `val` pass.

    An answer is the most probable class (argmax): it is what the confidence is the probability of.
    """
    truth, probabilities = arrays(scored)
    confidence, wrong = probabilities.max(1), probabilities.argmax(1) != truth
    points = []
    for asked in COVERAGES:
        thresholds = choices(val, functools.partial(_confidence_of, asked=asked))
        answered = confidence >= of_rows(thresholds, scored)
        risk = wrong[answered].mean() if answered.any() else None
        point = {"asked": asked, "threshold": thresholds[-1], "coverage": answered.mean()}
        points.append(point | {"risk": risk, "n": answered.sum()})
    return {"aurc": aurc(truth, probabilities), "points": points}


def _confidence_of(rows, asked):
    """What the most confident `asked` of the rows are at least."""
    return np.quantile(arrays(rows)[1].max(1), 1 - asked, method="lower") if asked < 1 else 0.0
