"""A threshold chosen anew on a few images from elsewhere, against a count by hand."""

import numpy as np
import pandas as pd
import pytest

from dermai_utils.config import CLASSES
from dermai_utils.metrics import decisions, predictions


def rows(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1], n)
    score = 1 / (1 + np.exp(-rng.normal(2.0 * truth - 1 - shift, 1.5)))  # of NV
    p = np.zeros((n, 7))
    p[:, 0], p[:, 1] = 1 - score, score
    lesions = [f"L{k}" for k in rng.integers(0, n // 2, n)]
    return predictions.build([f"I{k}" for k in range(n)], truth, p, lesion_id=lesions)


def test_both_thresholds_are_counted_on_lesions_that_chose_neither():
    """By hand, draw by draw, with sets of lesions."""
    val, own = rows(600, 0), rows(400, 1, shift=-1.0)
    table = decisions.rechosen(val, own, n=60, draws=3)
    assert list(table.index) == ["chosen at home", "chosen anew on 60 images"]
    home = val.loc[val["truth"] == "MEL", "MEL"].sort_values().to_numpy()
    assert table["threshold"].iloc[0] == pytest.approx(home[int(0.1 * len(home))])
    random, counted = np.random.default_rng(0), [[], []]
    for _ in range(3):
        order, few = random.permutation(np.unique(own["lesion_id"].to_numpy(str))), set()
        while own["lesion_id"].isin(few).sum() < 60:
            few.add(order[len(few)])
        drawn, rest = own[own["lesion_id"].isin(few)], own[~own["lesion_id"].isin(few)]
        chosen = drawn.loc[drawn["truth"] == "MEL", "MEL"].sort_values().to_numpy()
        for rates, scores in zip(counted, (home, chosen), strict=True):
            called, melanoma = rest["MEL"] >= scores[int(0.1 * len(scores))], rest["truth"] == "MEL"
            rates.append((called[melanoma].mean(), (~called[~melanoma]).mean()))
    for row, rates in zip(table.itertuples(), counted, strict=True):
        assert (row.sensitivity, row.specificity) == pytest.approx(np.mean(rates, 0))
        assert (row.sensitivity_sd, row.specificity_sd) == pytest.approx(np.std(rates, 0, ddof=1))
    assert abs(table["sensitivity"].iloc[1] - 0.9) < abs(table["sensitivity"].iloc[0] - 0.9)


def test_without_a_melanoma_to_choose_on_it_is_not_known():
    val, own = rows(100, 0), rows(100, 1)
    own = own[own["truth"] != "MEL"]
    table = decisions.rechosen(val, own, n=20)
    assert pd.isna(table["threshold"].iloc[1]) and table["sensitivity"].isna().all()
    assert set(CLASSES) >= set(own["truth"])
