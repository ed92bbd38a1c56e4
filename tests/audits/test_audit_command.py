"""The command, as a user gives it, and its page."""

import json

import mirror
import numpy as np
import pandas as pd
import pytest
from browser import check_accessible, chromium

from dermai_utils import cli, settings
from dermai_utils.audits import inputs, known
from dermai_utils.basics import CLASSES, ZERO_WEIGHT

RUN = settings.PACKAGE / "sample_run"


@pytest.fixture
def call(tmp_path, capsys):
    """call(*words): (exit status, printed lines, the error's line)."""

    def run(*words):
        folders = [f"--work-dir={tmp_path / 'work'}", f"--cache-dir={tmp_path / 'cache'}"]
        status = cli.main(["audit", *map(str, words), *folders])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.strip()

    return run


@pytest.fixture
def leaking(tmp_path):
    """Predictions of the sample's val images, and a random split that has them in test."""
    rows = pd.read_csv(RUN / "predictions.csv", dtype=str)
    val = rows[rows["subset"] == "val"]
    val[["image", *CLASSES]].to_csv(tmp_path / "mine.csv", index=False)
    table = pd.read_csv(RUN / "table.csv", dtype=str).fillna("")
    home = table[table["source"] == "train"]
    drawn = np.random.default_rng(0).random(len(home)) < 0.5
    test = home["image"].isin(val["image"]) & drawn
    split = home[["image", "lesion_id", "label"]].assign(subset=np.where(test, "test", "train"))
    split.to_csv(tmp_path / "split.csv", index=False)
    return tmp_path / "mine.csv", tmp_path / "split.csv", split


def test_predictions_and_their_split(call, leaking, tmp_path):
    mine, path, split = leaking
    status, lines, _ = call(path, mine)
    lesions = {name: set(rows["lesion_id"]) for name, rows in split.groupby("subset")}
    test = split[split["subset"] == "test"]
    n = test["lesion_id"].isin(lesions["train"]).sum()
    assert status == 0 and n > 0
    assert f"{n} of {len(test)} test images show a lesion that is also in train." in lines
    assert any(line.startswith("verdict: leaking") for line in lines)
    folder = tmp_path / "work" / "audits" / "split-mine"
    assert lines[-1] == str(folder / "audit.html")
    found = json.loads((folder / "audit.json").read_text())
    rows = pd.read_csv(mine).set_index("image").loc[test["image"]]
    right = rows[list(CLASSES)].idxmax(axis=1).to_numpy() == test["label"].to_numpy()
    assert found["scores"]["argmax"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert found["scores"]["n_shared"] == n
    shares = split.loc[split["subset"] == "train", "label"].value_counts(normalize=True)
    assert found["scores"]["prior"] == pytest.approx(shares.to_dict())
    assert "prior-corrected (exponent 1, class shares of train)" in lines[-2]
    said = "scored by the labels in the file; protocol: leaking"
    assert f"n = {len(test)}, {said}. {n} of" in lines[-2]


def test_an_audit_of_other_files_with_the_same_name_stays(call, leaking, monkeypatch, tmp_path):
    mine, path, _ = leaking
    folders = {}
    for name in ("a", "b", "b", "a"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "preds.csv").write_bytes(mine.read_bytes())
        lines = call(tmp_path / name / "preds.csv", path)[1]
        assert any("of other files with these names" in line for line in lines) == (name == "b")
        assert folders.setdefault(name, lines[-1]) == lines[-1]
    assert folders["a"].endswith("preds-split/audit.html")
    assert len(list((tmp_path / "work" / "audits").iterdir())) == 2 == len(set(folders.values()))
    monkeypatch.setattr(settings, "ROOT", tmp_path / "root")  # without data: beside the data sets
    assert cli.main(["audit", str(mine), str(path), f"--cache-dir={tmp_path / 'cache'}"]) == 0
    assert (tmp_path / "root" / "work" / "audits" / "mine-split" / "audit.html").exists()


def test_against_ours_reads_the_out_of_fold_file_or_says_that_there_is_none(
    call, leaking, monkeypatch
):
    """Predictions that name their subsets; nobody is asked, though they hold the official image
    without weight."""
    monkeypatch.setattr(inputs, "OURS", leaking[0].parent / "ours")
    assert ZERO_WEIGHT in (RUN / "predictions.csv").read_text()
    status, lines, _ = call(RUN / "predictions.csv", "--against", "ours")
    assert status == 0 and any("official, n=80, 95 % intervals by image" in line for line in lines)
    assert sum("not compared with ours: no " in line for line in lines) == 1
    inputs.OURS.mkdir()
    ours = pd.read_csv(leaking[0], dtype=str).iloc[::-1].assign(fold="0")
    ours.to_csv(inputs.OURS / inputs.OURS_FILE, index=False)
    lines = call(*leaking[:2], "--against=ours")[1]
    at = next(
        k for k, line in enumerate(lines) if line.startswith("against ours (out_of_fold.csv.")
    )
    assert lines[at + 1].endswith("difference 0.000 [not known]")


def test_each_of_two_files_has_its_own_score(call, leaking, tmp_path):
    mine, path, _ = leaking
    rows = pd.read_csv(mine).assign(MEL=lambda rows: rows["MEL"] ** 0.5)
    rows.to_csv(tmp_path / "theirs.csv", index=False)
    quoted = call(tmp_path / "theirs.csv", path)[1][-2].split("acy ")[1].split(";")[0]
    alone, by_rule = quoted.partition(" by argmax, ")[::2]
    _, lines, _ = call(mine, path, tmp_path / "theirs.csv")
    at = next(k for k, line in enumerate(lines) if line.startswith("against theirs, on the "))
    assert f"; the other {alone}; " in lines[at + 1] and "by argmax" in lines[at + 1]
    by_rule, rule = by_rule.split(" prior-")
    assert f"; the other {by_rule}; " in lines[at + 2] and f"prior-{rule}: " in lines[at + 2]
    page = (tmp_path / "work" / "audits" / "mine-split-theirs" / "audit.html").read_text()
    assert alone.split(" [")[0] in page
    assert "alignant AUC: MEL, BCC or AKIEC against" in page


def test_other_labels_in_the_file_are_said_and_do_not_count(call, tmp_path):
    table = known.training().groupby("label").head(20)
    p = np.eye(7)[table["label"].map(CLASSES.index)]
    rows = pd.DataFrame(p, columns=list(CLASSES)).assign(image=table["image"].to_numpy())
    wrong = np.where(np.arange(140) % 2, "NV", table["label"])
    rows.assign(NV=rows["NV"] + 1e-4, label=wrong).to_csv(tmp_path / "mine.csv", index=False)
    lines = call(tmp_path / "mine.csv")[1]
    differ = (wrong != table["label"].to_numpy()).sum()
    said = "n = 140, scored by the official labels; protocol: unknown (the list of"
    assert differ > 50 and said in lines[-2]
    assert lines[-3].startswith(f"note: {differ} images with another label in the file")
    assert "by argmax: balanced accuracy 1.000" in "\n".join(lines)


def test_the_official_test_set_is_fetched_once_or_not_known(tmp_path):
    images, labels = [f"ISIC_{number:07d}" for number in range(34_524, 34_564)], np.arange(40) % 7
    table = pd.DataFrame({"lesion_id": [f"HAM_{k // 2}" for k in range(40)], "image_id": images})
    table["dx"] = np.array([name.lower() for name in CLASSES])[labels]
    path, p = tmp_path / "submission.csv", np.eye(7)[labels] * 0.5 + 0.5 / 7
    pd.DataFrame(p, images, list(CLASSES)).rename_axis("image").to_csv(path)
    served = {known.TEST_FILE: table.to_csv(sep="\t", index=False).encode()}
    with mirror.serving(served) as server:
        options = dict(cache=tmp_path / "cache", n_resamples=20)
        for address in (server.url, "http://127.0.0.1:9"):  # the second time from the cache
            found = inputs.audit_files([path], address=address, **options)
            assert found["images"] == {"n": 40, "official test": 40}
            assert found["scores"]["argmax"]["accuracy"]["value"] == 1
            assert found["scores"]["by"] == "lesion" and not found["notes"]
    assert len(server.asked) == 1
    found = inputs.audit_files([path], cache=tmp_path / "x", address="http://127.0.0.1:9/")
    assert found["images"] == {"n": 40, "official test": 40} and found["scores"] is None
    assert found["left_out"] == {"without a known label": 40}
    assert "labels and lesions of the official test set: not known" in found["notes"][0]
    assert found["verdict"]["name"] == "unknown"


def test_data_tells_of_other_images(call, tmp_path):
    table = pd.DataFrame({"image": [f"clinic_{k}" for k in range(8)], "label": "NV"})
    table.assign(lesion_id=list("AABBCCDD")).to_csv(tmp_path / "clinic.csv", index=False)
    split = table[["image"]].assign(split=["train", "test"] * 4)
    split.to_csv(tmp_path / "split.csv", index=False)
    status, lines, _ = call(tmp_path / "split.csv", "--data", tmp_path / "clinic.csv")
    assert status == 0 and "8 images: 8 clinic.csv" in lines
    assert "4 of 4 test images show a lesion that is also in train." in lines
    status, _, error = call(tmp_path / "split.csv")
    assert status == 2 and "none of 8 images is known (clinic_0, ...): expected ids" in error


def test_a_misspelled_subset_is_noted(call, leaking, tmp_path):
    rows = leaking[2].assign(subset=leaking[2]["subset"].replace("train", "training set"))
    rows.loc[rows.index[:2], "subset"] = ["Valdation", "Basel"]
    rows.to_csv(tmp_path / "s.csv", index=False)
    status, lines, _ = call(tmp_path / "s.csv")
    said = "note: 1 image in Valdation, taken as a subset of its own: did you mean validation?"
    assert status == 0 and [line for line in lines if "did you mean" in line] == [said]


def test_bad_words_are_one_line(call, leaking, tmp_path):
    mine, path, split = leaking
    table = pd.read_csv(mine, dtype=str)
    other = table.assign(image=[f"ISIC_00243{k % 90 + 10}" for k in range(len(table))])
    other.drop_duplicates("image").to_csv(tmp_path / "other.csv", index=False)
    learnt, elsewhere = tmp_path / "learnt.csv", tmp_path / "elsewhere.csv"
    split.assign(subset="train").to_csv(learnt, index=False)
    other[["image"]].assign(subset="test").to_csv(elsewhere, index=False)
    for words, said in {
        (): "the following arguments are required: FILE",
        (tmp_path / "no.csv",): "no.csv: no such file or folder",
        (mine, path, "--against", tmp_path / "other.csv"): "other has none of the scored images",
        (mine, learnt): "none of 62 predicted images is in val or test of the split",
        (learnt,): "none of 242 images is in val or test",
        (mine, elsewhere): "none of 62 predicted images is in val or test",
        (mine,): "none of",
        (mine, "--epochs", 3): "unexpected --epochs, which this command does not read",
    }.items():
        status, _, error = call(*words)
        assert status == 2 and said in error and "\n" not in error, (words, error)


def test_the_page_on_a_telephone(call, leaking, tmp_path):
    assert call(*leaking[:2], "--against", RUN / "predictions.csv")[0] == 0
    path = tmp_path / "work" / "audits" / "mine-split-predictions" / "audit.html"
    text, found = path.read_text(), json.loads(path.with_name("audit.json").read_text())
    assert found["sentence"] in text and "A line to quote" in text and "not known" in text
    with chromium() as browser:
        for colours in ("light", "dark"):
            options = dict(viewport={"width": 390, "height": 900}, color_scheme=colours)
            page, wrong = browser.new_context(**options).new_page(), []
            page.on("request", lambda r, w=wrong: r.url.startswith("file:") or w.append(r.url))
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            check_accessible(page)
            assert not wrong
