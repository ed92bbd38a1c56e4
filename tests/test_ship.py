"""tools/ship.py: what the shipped model must not learn, and what its figures say."""

import pages
import pandas as pd
import pytest
import ship
import torch

from dermai_utils import runs, splits

FILES = {"settings.json": '{"data": "clinic"}', "history.csv": "epoch\n"}
FILES |= {"table.csv": "image,subset\na,left out\nb,train\n"}


def test_what_the_official_test_set_shows_is_left_out_with_its_lesion_and_twins():
    """Though no image of that test set is here. The others are split as ever."""
    ids = [f"ISIC_00{25000 + k}" for k in range(200)]
    table = pd.DataFrame({"image": ids, "label": ["NV", "MEL"] * 100, "source": "train"})
    table["lesion_id"] = [f"L{k // 2}" for k in range(200)]
    pairs = [(ids[0], "ISIC_0035000"), ("ISIC_0034524", ids[11]), (ids[20], ids[1])]
    pairs = pd.DataFrame([*pairs, (ids[30], "ISIC_0034523")]).to_numpy(object)
    subset = ship.without_official(table, val=0.2, seed=0, pairs=pairs)
    gone = subset[subset == splits.LEFT_OUT].index.tolist()
    assert gone == [0, 1, 10, 11, 20, 21]
    usual = splits.split(table, val=0.2, test=0, seed=0, pairs=pairs)
    assert subset.drop(gone).equals(usual.drop(gone)) and len(subset) == 200


def test_every_weight_is_rounded_to_half_precision(tmp_path):
    (tmp_path / "run").mkdir()
    for name, text in FILES.items():
        (tmp_path / "run" / name).write_text(text)
    weights = {"a": torch.tensor([1 / 3]), "n": torch.tensor(7)}
    runs.save_checkpoint(tmp_path / "run" / "best.pt", {"model": weights})
    made = ship.rounded(runs.Run(tmp_path / "run", device="cpu"), tmp_path / "made")
    found = runs.load_checkpoint(made.folder / "best.pt")["model"]
    assert found["a"].item() == 0.333251953125 and found["a"].dtype == torch.float32
    assert found["n"] == 7 and made.settings["data"] == "isic2018"
    assert "the official training images, without 1 that show" in made.settings["split_about"]
    runs.save_checkpoint(tmp_path / "run" / "best.pt", {"model": {"a": torch.tensor([1e6])}})
    with pytest.raises(ship.UserError, match="too large for half precision"):
        ship.rounded(runs.Run(tmp_path / "run", device="cpu"), tmp_path / "made")


def test_the_tables_have_each_subset_and_say_what_is_not_measured():
    value = {"value": 0.7171, "low": 0.6, "high": 0.8}
    scores = dict.fromkeys(ship.SCORES, value)
    melanomas = {"n": 9, "answered": 8, "without": 1}
    answers = {"answered": 0.75, "answered_held": None, "melanomas": melanomas}
    row = {"n": 1202, "classes": 7, "by_rule": scores, "argmax": scores, "melanoma_auc": 0.9}
    row |= {"answers": answers, "ece": {"after": 0.01}, "unlike": None}
    found = {"subsets": {"val": row, "MSK": row | {"classes": 3}}}
    made = ship.tables(found)
    assert f"| {ship.NAMES['val']} | 1,202 | 0.717 [" in made["scores"]
    assert "| MSK, 3 classes |" in made["scores"] and "not measured yet" in made["scores"]
    assert "| MSK | 75.0 % | not defined | 1 of 8 | 0.010 |  |" in made["answers"]
    found["subsets"]["official"] = row
    assert "not measured" not in ship.tables(found)["scores"]
    assert len({line.count("|") for line in made["scores"].splitlines()}) == 1


def test_a_page_is_filled_between_its_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<a>\nold\n<b>\nafter\n")
    for text in ("longer\ntext", "new"):
        pages.fill(page, ("<a>", "<b>"), text)
    assert page.read_text() == "before\n<a>\nnew\n<b>\nafter\n"
    with pytest.raises(ship.UserError, match="page.md has no line <c>"):
        pages.fill(page, ("<c>", "<b>"), "new")
