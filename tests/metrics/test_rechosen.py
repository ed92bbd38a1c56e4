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
    val, own = rows(600, 0), rows(400, 1, shift=-1.0)
    table = decisions.rechosen(val, own, n=60)
    assert list(table.index)[0] == "chosen at home"
    drawn = int(table.index[1].split()[-2])
    assert 60 <= drawn < 70 and (table["n"] == len(own) - drawn).all()
    home = val.loc[val["truth"] == "MEL", "MEL"].sort_values().to_numpy()
    threshold = home[int(0.1 * len(home))]  # nine in ten of the melanomas are at it or above
    assert table["threshold"].iloc[0] == pytest.approx(threshold)
    # the rest, found by its size: every lesion is on one side
    rng = np.random.default_rng(0).permutation(np.unique(own["lesion_id"].to_numpy(str)))
    few, count = set(), 0
    while count < 60:
        few.add(rng[len(few)])
        count = own["lesion_id"].isin(few).sum()
    rest = own[~own["lesion_id"].isin(few)]
    melanoma = rest["truth"] == "MEL"
    for row in table.itertuples():
        called = rest["MEL"] >= row.threshold - 1e-12
        assert row.sensitivity == pytest.approx((called & melanoma).sum() / melanoma.sum())
        assert row.specificity == pytest.approx((~called & ~melanoma).sum() / (~melanoma).sum())
    assert abs(table["sensitivity"].iloc[1] - 0.9) < abs(table["sensitivity"].iloc[0] - 0.9)


def test_without_a_melanoma_to_choose_on_it_is_not_known():
    val, own = rows(100, 0), rows(100, 1)
    own = own[own["truth"] != "MEL"]
    table = decisions.rechosen(val, own, n=20)
    assert pd.isna(table["threshold"].iloc[1]) and table["sensitivity"].isna().all()
    assert set(CLASSES) >= set(own["truth"])
