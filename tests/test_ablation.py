"""The ablation's table, against a bootstrap written out by hand."""

import json
import sys

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from dermai_utils import config
from dermai_utils.metrics import bootstrap
from dermai_utils.report import plots

sys.path.insert(0, str(config.ROOT / "tools"))
import ablation  # noqa: E402


def test_every_row_changes_settings_that_exist():
    for name in ablation.ROWS:
        cfg = ablation.variant(config.load(env={}), name, 3)
        assert cfg.seed == 3 and cfg.run_name == f"{name}-0-3"
        assert bool(cfg.ensemble) == (name == "tta")


def test_the_difference_is_the_mean_over_seeds_and_its_interval_holds_it():
    random = np.random.default_rng(0)
    truth = random.integers(0, 7, 300)
    good, bad = (
        [np.eye(7)[truth] * s + random.dirichlet(np.ones(7), 300) for _ in range(2)]
        for s in (0.6, 0.3)
    )
    differences = bootstrap.difference(truth, good, bad, np.arange(300))
    scores = [[balanced_accuracy_score(truth, p.argmax(1)) for p in run] for run in (good, bad)]
    number = differences["balanced_accuracy"]
    assert number["value"] == pytest.approx(np.mean(scores[0]) - np.mean(scores[1]))
    draws = []
    for _ in range(300):
        drawn = np.concatenate(
            [random.choice(np.flatnonzero(truth == k), (truth == k).sum()) for k in range(7)]
        )
        draws.append(
            np.mean([balanced_accuracy_score(truth[drawn], a.argmax(1)[drawn]) for a in (*good,)])
            - np.mean([balanced_accuracy_score(truth[drawn], b.argmax(1)[drawn]) for b in (*bad,)])
        )
    assert (number["low"], number["high"]) == pytest.approx(
        np.percentile(draws, [2.5, 97.5]), abs=0.02
    )
    assert 0 < number["low"] < number["high"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--rows magic", "the rows are unchanged, all-layers"),
        ("--seeds two", "seeds='two': expected a number"),
        ("--epochs", "--epochs: expected pairs"),
        ("--epoch 3", "epochs"),
    ],
)
def test_a_word_that_cannot_be_used_is_one_line(words, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ablation.py", *words.split()])
    assert ablation.main() == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and expected in line and line.count("\n") == 1


def test_rows_are_trained_once_compared_with_the_unchanged_run_and_drawn(
    made, small, tmp_path, monkeypatch, capsys
):
    settings = small | dict(
        cache_dir=made.cache, work_dir=tmp_path, epochs=1, rows="half-the-lesions,tta"
    )
    monkeypatch.setattr(
        sys,
        "argv",
        ["ablation.py", *(str(word) for k, v in settings.items() for word in (f"--{k}", v))],
    )
    assert ablation.main() == 0
    folder = tmp_path / "ablation"
    unchanged, half, tta = json.loads((folder / "ablation.json").read_text())["rows"]
    assert (
        not unchanged["difference"]
        and half["change"] == {"train_fraction": 0.5}
        and tta["change"] == {"tta": 8}
    )
    for row in (half, tta):
        assert row["difference"]["macro_auc"]["value"] == pytest.approx(
            row["macro_auc"]["mean"] - unchanged["macro_auc"]["mean"]
        )
    assert (folder / "ablation.md").read_text().count("\n") == 5 and (
        folder / "ablation.png"
    ).stat().st_size > 5000
    weights = (folder / "runs" / "half-the-lesions-0-0" / "best.pt").read_bytes()
    capsys.readouterr()
    assert ablation.main() == 0 and "epoch 1/" not in capsys.readouterr().out
    assert (folder / "runs" / "half-the-lesions-0-0" / "best.pt").read_bytes() == weights


def test_a_dot_is_hollow_where_the_difference_may_be_nothing():
    spans = {
        "clear": (0.02, 0.01, 0.03),
        "nothing": (0.01, -0.01, 0.03),
        "worse": (-0.02, -0.03, -0.01),
    }
    scores = ("balanced_accuracy", "macro_f1", "macro_auc")
    rows = [
        {
            "change": name,
            "difference": dict.fromkeys(
                scores, dict(zip(("value", "low", "high"), span, strict=True))
            ),
        }
        for name, span in spans.items()
    ]
    for ax in plots.differences(rows).axes:
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        assert [dot.get_xdata()[0] for dot in dots] == [0.02, 0.01, -0.02]
        assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, False]
