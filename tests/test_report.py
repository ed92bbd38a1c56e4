"""The report of the fixture's run: whole in one file, equal to metrics.json, and metrics.json equal to other sources."""

import copy
import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from dermai_utils import card, clean, config, evaluate, files, findings, page, pixels, report, split
from dermai_utils.config import CLASSES, DISCLAIMER, UserError

KEPT = ("run", "data", "split", "headline", "note", "parts")


class Read(HTMLParser):
    """What an HTML page holds: its tags with their attributes, its numbers by key, its tables as rows of text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.numbers, self.tables, self._key, self._cell = [], [], [], None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if "data-key" in attributes:
            self._key = (tag, attributes["data-key"])
            self.numbers.append([attributes["data-key"], ""])
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = self.tables[-1][-1]
            self._cell.append("")

    def handle_endtag(self, tag):
        if self._key and tag == self._key[0]:
            self._key = None
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        if self._key:
            self.numbers[-1][1] += data
        if self._cell is not None:
            self._cell[-1] += data


@pytest.fixture(scope="module")
def found(made):
    return files.read_json(made.report_dir / "metrics.json")


@pytest.fixture(scope="module")
def text(made):
    return (made.report_dir / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parts(made):
    predictions = clean.read_table(made.report_dir / "predictions.csv")
    return {part: report.counting(predictions, part) for part in report.HELD_OUT}


def rows(n=400, seed=0, signal=2.0, lesions=300):
    """Predictions that know something, some lesions with several images."""
    rng = np.random.default_rng(seed)
    truth = np.r_[np.arange(7), rng.choice(7, n - 7, p=[0.1, 0.6, 0.1, 0.05, 0.1, 0.025, 0.025])]
    logits = 1.5 * rng.normal(size=(n, 7)) + signal * np.eye(7)[truth]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    images = [f"ISIC_{seed}_{k:05d}" for k in range(n)]
    lesion = [f"HAM_{seed}_{k}" for k in rng.integers(0, lesions, n)]
    return evaluate.predictions_frame(images, truth, p, lesion_id=lesion)


def table_of(frame, seed=0):
    rng = np.random.default_rng(seed)
    n = len(frame)
    return pd.DataFrame({
        "image": frame["image"], "label": frame["truth"], "part": "train", "age": rng.choice([25.0, 30, 59, 60, np.nan], n),
        "sex": rng.choice(["male", "female", ""], n), "localization": rng.choice(["back", "unknown"], n),
        "confirmed_by": rng.choice(["histo", "follow_up"], n),
    })  # fmt: skip


# The page.


def test_the_page_asks_the_network_for_nothing(text):
    tags = Read(text).tags
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe", "object", "embed", "video", "audio")]
    sources = [attributes["src"] for _, attributes in tags if "src" in attributes]
    assert len(sources) >= 8 and all(re.match("data:image/(png|jpeg);base64,", source) for source in sources)
    assert not re.search(r"url\(|@import|srcset|<[^>]+(src|href)=.?https?:", text)


def test_every_picture_has_an_alternative_text_of_its_own(text):
    alts = [attributes.get("alt", "") for tag, attributes in Read(text).tags if tag == "img"]
    assert all(len(alt) > 20 for alt in alts) and len(set(alts)) == len(alts)


def test_every_number_of_the_page_is_the_one_in_metrics_json(text, found):
    def look_up(key):
        value = found
        for name in key.split("/"):
            value = value[int(name)] if isinstance(value, list) else value[name]
        return value

    numbers = Read(text).numbers
    assert len(numbers) > 300
    for key, printed in numbers:
        value = look_up(key)
        if value is None:
            assert printed == "not defined", key
        else:
            assert float(printed.replace(",", "")) == pytest.approx(value, abs=0.000501), key


def test_every_number_in_a_results_table_has_such_a_key(text):
    """But for leakage.json's table, which says so. A number typed in by hand would stand outside of any key."""
    keyless = re.sub(r"<(\w+)[^>]*data-key[^>]*>.*?</\1>", "", text)
    for lines in Read(keyless).tables:
        if "random split" not in lines[0]:
            cells = [cell for line in lines[1:] for cell in line[1:]]
            assert not [cell for cell in cells if re.search(r"\d\.\d", cell)]


def test_the_story_is_told_in_order(text, made):
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == ["How good is it?", "Class by class", "What is taken for what", "Can its probabilities be believed?",
                      "What should be called?", "For whom?", "Where is it wrong?", "Where does it look?", "Does anything leak?",
                      "What it can't do"]  # fmt: skip
    assert text.count(DISCLAIMER) == 2 and "$" not in re.sub("<style>.*?</style>", "", text, flags=re.S)


@pytest.mark.parametrize("part, n, said", [("official", 1511, True), ("official", 27, False), ("test", 1511, False)])
def test_published_results_stand_beside_the_official_test_set_only(made, found, part, n, said, tmp_path, monkeypatch):
    changed = copy.deepcopy(found)
    changed["headline"], changed["parts"][part]["n"] = part, n
    monkeypatch.setattr(config.Config, "report_dir", tmp_path)
    page.write(made, changed)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [words in text for words in ("0.680 [0.634, 0.726]", "winner of the challenge")] == [said, said]


def test_what_was_chosen_on_the_same_images_is_called_so(made, found, parts, tmp_path, monkeypatch):
    """test_fraction=0 and no official test set: validation is the headline."""
    monkeypatch.setattr(config.Config, "report_dir", tmp_path)
    only = report.numbers(made, {"val": parts["val"]})
    assert only["headline"] == "val" and only["chosen_and_scored_on_the_same_images"]
    assert not found["chosen_and_scored_on_the_same_images"]
    for numbers, said in ((only, True), (found, False)):
        page.write(made, numbers)
        card.write(made, numbers)
        assert ("chosen on the very images" in (tmp_path / "report.html").read_text()) == said
        assert ("that is the validation part itself" in (tmp_path / "model_card.md").read_text()) == said


def test_a_backbone_without_maps_is_said_in_words(made, found, tmp_path, monkeypatch):
    picture = (made.report_dir / "gradcam.png").read_bytes()
    monkeypatch.setattr(config.Config, "report_dir", tmp_path)
    page.write(made, found)
    assert "Where does it look?" not in (tmp_path / "report.html").read_text()  # before the gradcam stage
    (tmp_path / "gradcam.png").write_bytes(picture)
    files.write_json(tmp_path / "gradcam.json", {"images": [], "mean": {}, "note": "no map in a transformer"})
    page.write(made, found)
    text = (tmp_path / "report.html").read_text()
    assert "<p>no map in a transformer</p>" in text and "its saliency map" not in text


def test_text_from_a_csv_is_not_html(made, found, tmp_path, monkeypatch):
    monkeypatch.setattr(config.Config, "report_dir", tmp_path)
    changed = copy.deepcopy(found) | {"run": "<script>"}
    changed["mistakes"]["most_confident"][0]["image"] = "<script>alert(1)</script>"
    page.write(made, changed)
    assert "<script" not in (tmp_path / "report.html").read_text()


def test_the_model_card_says_what_it_is_not_for(made, found):
    text = (made.report_dir / "model_card.md").read_text(encoding="utf-8")
    row = found["intervals"]["official"]["balanced_accuracy"]
    headline = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    for said in (DISCLAIMER, "CC BY-NC 4.0", "Not intended", "180161", "1902.03368", "few images of dark skin",
                 "Made-up pictures", "| learning_rate | 0.006 |", headline, "What a random split would add", "### Subgroups",
                 "| sex | female"):  # fmt: skip
        assert said in text
    assert "$" not in text


def test_what_leakage_is_worth_is_told_where_it_was_measured(made, found, text, tmp_path, monkeypatch):
    row = found["inflation"]["classifiers"]["nearest neighbour"]
    assert "What leakage is worth" in text and f"nearest neighbour {row['random']:.3f} with images dealt at random" in text
    monkeypatch.setattr(config.Config, "report_dir", tmp_path)
    for nothing in (None, found["inflation"] | {"prone_images": 0}):
        page.write(made, found | {"inflation": nothing})
        card.write(made, found | {"inflation": nothing})
        assert "What leakage is worth" not in (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "What a random split would add" not in (tmp_path / "model_card.md").read_text(encoding="utf-8")


def test_near_duplicates_are_counted_and_shown_side_by_side(made, found, tmp_path, monkeypatch):
    parts = split.read(made).set_index("image")["part"]
    one, two, other, official = (parts.index[parts == part][k] for part, k in
                                 (("train", 0), ("train", 1), ("val", 0), ("official", 0)))  # fmt: skip
    pairs = [(one, two), (one, other), (two, official), (one, "ISIC_not_here")]
    (tmp_path / "pairs.csv").write_text("image_a,image_b\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    cfg = dataclasses.replace(made, near_duplicates=str(tmp_path / "pairs.csv"))
    counts = report.near_duplicates(cfg, split.read(cfg))
    assert counts == {"pairs": 3, "in_two_parts": 1, "with_official": 1}
    monkeypatch.setattr(config.Config, "report_dir", tmp_path)
    report.side_by_side(cfg, pixels.load(cfg.pixels_file))
    page.write(cfg, found | {"near_duplicates": counts})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1</span> more tie a training image to an official test image" in text
    assert text.count("data:image/jpeg") == 2 and "The same lesion under two ids" in text
    report.side_by_side(made, pixels.load(cfg.pixels_file))  # the list of the repository has none of these images
    assert not list(tmp_path.glob("*.jpg"))


# The numbers, against other sources.


def test_metrics_json_keeps_its_keys_and_holds_no_nan(made, found):
    assert list(found)[: len(KEPT)] == list(KEPT)
    assert "NaN" not in (made.report_dir / "metrics.json").read_text() and not json.dumps(found, allow_nan=False) == ""


def test_the_zero_weight_row_is_in_no_number(made, parts, found):
    everything = clean.read_table(made.report_dir / "predictions.csv")
    assert evaluate.OFFICIAL_ZERO_WEIGHT in set(everything["image"])
    n = (everything["part"] == "official").sum() - 1
    assert len(parts["official"]) == n == found["parts"]["official"]["n"]
    assert sum(found["mistakes"]["counts"][k] for k in ("most_confident",)) <= n
    reliability = found["calibration"]["before"]["reliability"]
    assert sum(row["n"] for row in reliability) == n == found["operating_points"][0]["scored"]["n"]
    assert found["risk_coverage"]["points"][0]["n"] == n


def test_intervals_hold_their_values(found, parts):
    for part, of_part in parts.items():
        called = of_part[list(CLASSES)].to_numpy().argmax(1)
        truth = of_part["truth"].map(CLASSES.index)
        numbers = found["intervals"][part]
        assert numbers["balanced_accuracy"]["value"] == pytest.approx(sk.recall_score(truth, called, average="macro"))
        assert numbers["accuracy"]["value"] == pytest.approx(sk.accuracy_score(truth, called))
        for row in numbers.values():
            assert row["low"] <= row["value"] <= row["high"]


def test_the_temperature_is_that_of_validation_alone():
    """By brute force over a grid, and it doesn't move with the part that is scored."""
    val, quoted = rows(seed=1), rows(seed=2, signal=1)
    truth, p = findings.arrays(val)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 4001))
    scaled = np.log(p)[None] / grid[:, None, None]
    losses = np.log(np.exp(scaled).sum(2)) - scaled[:, np.arange(len(p)), truth]
    found = findings.calibrated(val, quoted)
    assert found["temperature"] == pytest.approx(grid[losses.mean(1).argmin()], rel=2e-3)
    assert found["temperature"] != pytest.approx(findings.calibrated(quoted, quoted)["temperature"], rel=0.05)
    truth, p = findings.arrays(quoted)
    assert found["before"]["nll"] == pytest.approx(sk.log_loss(truth, p, labels=range(7)))
    scaled = p ** (1 / found["temperature"])
    scaled /= scaled.sum(1, keepdims=True)
    assert found["after"]["nll"] == pytest.approx(sk.log_loss(truth, scaled, labels=range(7)))


def test_rules_divide_and_multiply_by_the_training_shares():
    val, quoted, prior = rows(seed=1), rows(seed=2), pd.Series([0.1, 0.6, 0.1, 0.1, 0.1, 0, 0], CLASSES)
    found = findings.decisions(val, quoted, prior)
    truth, p = findings.arrays(quoted)
    inverse = np.array([10, 1 / 0.6, 10, 10, 10, 0, 0])
    called = {
        "argmax": p.argmax(1),
        "prior_adjusted": (p * inverse).argmax(1),
        "prior_restored": (p * prior.to_numpy()).argmax(1),
        "prior_tuned": (p * np.power(inverse, found["strength"], out=np.zeros(7), where=inverse > 0)).argmax(1),
    }
    for rule, one in called.items():
        scored = {name: row["value"] for name, row in found["rules"][rule]["scored"].items()}
        assert scored == pytest.approx({"balanced_accuracy": sk.balanced_accuracy_score(truth, one),
                                        "macro_f1": sk.f1_score(truth, one, average="macro"),
                                        "accuracy": sk.accuracy_score(truth, one)})  # fmt: skip
    of_val = {rule: row["val"]["balanced_accuracy"] for rule, row in found["rules"].items()}
    truth, p = findings.arrays(val)
    assert of_val["argmax"] == pytest.approx(sk.balanced_accuracy_score(truth, p.argmax(1)))
    assert found["chosen"] == ("prior_tuned" if found["strength"] else "argmax")
    assert of_val[found["chosen"]] >= max(of_val.values()) - 1 / 6 / min(np.bincount(truth)[np.bincount(truth) > 0])
    assert len(set(of_val.values())) >= 3
    called = findings.by_rule(findings.arrays(quoted)[1], found).argmax(1)
    assert sk.balanced_accuracy_score(findings.arrays(quoted)[0], called) == pytest.approx(
        found["rules"][found["chosen"]]["scored"]["balanced_accuracy"]["value"]
    )


@pytest.mark.parametrize("seed, power", [(0, 0.0), (1, 0.5), (2, 1.0), (3, -1.0)])
def test_the_tuned_strength_is_the_best_of_a_brute_force_on_validation(seed, power):
    prior = pd.Series([0.1, 0.6, 0.1, 0.05, 0.1, 0.025, 0.025], CLASSES)
    val = rows(800, seed=seed)
    val[list(CLASSES)] *= prior.to_numpy() ** power
    val[list(CLASSES)] /= val[list(CLASSES)].sum(axis=1).to_numpy()[:, None]
    truth, p = findings.arrays(val)
    scores = {s: sk.balanced_accuracy_score(truth, (p / prior.to_numpy() ** s).argmax(1)) for s in findings.STRENGTHS}
    found, one_image = findings.tuned_strength(val, prior), 1 / 7 / min(np.bincount(truth))
    good = [s for s in scores if scores[s] >= max(scores.values()) - one_image - 1e-9]
    assert found in good and abs(found) == min(map(abs, good))


def test_the_rule_is_fixed_on_validation():
    """Validation as after plain training, the other part as after training with class weights: their best rules differ."""
    prior = pd.Series([0.1, 0.6, 0.1, 0.05, 0.1, 0.025, 0.025], CLASSES)
    val, quoted = rows(800, seed=1), rows(800, seed=2)
    val[list(CLASSES)] *= prior.to_numpy()
    val[list(CLASSES)] /= val[list(CLASSES)].sum(axis=1).to_numpy()[:, None]
    found = findings.decisions(val, quoted, prior)
    scored = {rule: row["scored"]["balanced_accuracy"]["value"] for rule, row in found["rules"].items()}
    assert found["chosen"] == "prior_tuned" and found["strength"] > 0
    assert max(scored, key=scored.get) == "argmax"


def test_the_prior_is_that_of_the_training_part(made, found):
    split = clean.read_table(made.split_file).merge(clean.read_table(made.table_file), on="image")
    train = split.loc[split["part"] == "train", "label"].tolist()
    assert found["decisions"]["training_prior"] == pytest.approx({c: train.count(c) / len(train) for c in CLASSES})


def test_thresholds_come_from_validation_and_rates_from_the_headline_part():
    val, quoted = rows(600, seed=1), rows(500, seed=2)
    points = findings.operating_points(val, quoted)
    assert [(p["finding"], p["rate"], p["level"]) for p in points] == [
        (finding, *target) for finding in ("melanoma", "malignant") for target in findings.TARGETS
    ]
    for point in points:
        classes = ["MEL"] if point["finding"] == "melanoma" else ["MEL", "BCC", "AKIEC"]
        best = {}
        for part, some in (("val", val), ("scored", quoted)):
            positive, score = some["truth"].isin(classes).to_numpy(), some[classes].sum(axis=1).to_numpy()
            called = score >= point["threshold"]
            expected = (
                sk.recall_score(positive, called),
                sk.recall_score(~positive, ~called),
                sk.precision_score(positive, called),
            )
            assert [point[part][k] for k in ("sensitivity", "specificity", "ppv")] == pytest.approx(expected)
            best[part] = (positive, score)
        assert point["val"][point["rate"]] >= point["level"] - 1e-12
        other = "sensitivity" if point["rate"] == "specificity" else "specificity"
        positive, score = best["val"]
        for threshold in score:  # no other threshold that keeps the rate has a better other one
            rates = {"sensitivity": (score[positive] >= threshold).mean(), "specificity": (score[~positive] < threshold).mean()}
            assert rates[point["rate"]] < point["level"] - 1e-12 or rates[other] <= point["val"][other] + 1e-12
        for rate in ("sensitivity", "specificity"):
            scored = point["scored"]
            assert scored[f"{rate}_low"] <= scored[rate] <= scored[f"{rate}_high"]


def test_rates_of_several_images_a_lesion_have_wider_intervals():
    """Each image twice under one lesion id tells nothing new; the same rows as lesions of their own would seem to."""
    val, once = rows(300, seed=1, lesions=10**6), rows(300, seed=2, lesions=10**6)
    twice = pd.concat([once, once.assign(image=once["image"] + "b")], ignore_index=True)
    pretended = twice.assign(lesion_id=twice["image"])
    width = []
    for some in (once, twice, pretended):
        scored = findings.operating_points(val, some)[0]["scored"]
        width.append(scored["sensitivity_high"] - scored["sensitivity_low"])
    assert width[1] == pytest.approx(width[0], rel=0.15) and width[2] < 0.85 * width[0]


def test_abstaining_is_counted_by_hand():
    val, quoted = rows(seed=1), rows(seed=2)
    found = findings.risk_coverage(val, quoted)
    for point in found["points"]:
        answered = quoted[quoted["confidence"] >= point["threshold"]]
        assert (val["confidence"] >= point["threshold"]).mean() >= point["asked"] - 1e-9
        assert point["n"] == len(answered) and point["coverage"] == pytest.approx(len(answered) / len(quoted))
        assert point["risk"] == pytest.approx((answered["truth"] != answered["prediction"]).mean())
    assert [point["asked"] for point in found["points"]] == [1, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert found["points"][0]["n"] == len(quoted)


def test_subgroups_are_counted_by_hand_and_small_ones_marked():
    quoted = rows(400)
    table = table_of(quoted)
    found = findings.plain(findings.subgroups(findings.parts_with_metadata({"test": quoted}, table), "test"))
    joined = quoted.merge(table, on="image")
    groups = {(column, row["group"]): row for column, lines in found["groups"].items() for row in lines}
    expected = {
        ("age_band", "under 30"): joined["age"] < 30,
        ("age_band", "30 to 44"): joined["age"].between(30, 44.9),
        ("age_band", "45 to 59"): joined["age"].between(45, 59),
        ("age_band", "60 to 74"): joined["age"].between(60, 74),
        ("age_band", "unknown"): joined["age"].isna(),
        ("sex", "unknown"): joined["sex"] == "",
        ("sex", "male"): joined["sex"] == "male",
        ("localization", "unknown"): joined["localization"] == "unknown",
        ("confirmed_by", "histo"): joined["confirmed_by"] == "histo",
    }
    for key, chosen in expected.items():
        some = joined[chosen]
        assert groups[key]["n"] == len(some) and groups[key]["lesions"] == some["lesion_id"].nunique()
        called, present = some["prediction"], sorted(some["truth"].unique())
        assert groups[key]["balanced_accuracy"] == pytest.approx(
            sk.recall_score(some["truth"], called, labels=present, average="macro", zero_division=0)
        )
        assert groups[key]["small"] == (len(some) < 50)
    few = findings.subgroups(findings.parts_with_metadata({"test": quoted.head(60)}, table), "test")
    assert {row["small"] for row in few["groups"]["sex"]} == {True}
    for column, lines in found["groups"].items():
        assert sum(row["n"] for row in lines) == len(quoted), column


def test_subgroups_come_from_a_part_with_metadata(found, made):
    """The official test set is given without age, sex and localization."""
    table = clean.read_table(made.table_file)
    known = table[(table["source"] == "test") & (table["sex"] != "")]
    assert known.empty and found["headline"] == "official" and found["subgroups"]["part"] == "test"


def test_without_any_metadata_there_are_no_subgroups():
    quoted = rows(60)
    table = table_of(quoted).assign(age=np.nan, sex="", localization="", confirmed_by="")
    found = findings.subgroups(findings.parts_with_metadata({"test": quoted}, table), "test")
    assert found["part"] is None and found["groups"] == {}


def test_mistakes_are_the_wrong_ones_and_a_planted_label_error_leads_the_candidates():
    quoted = rows(300, signal=4)
    table = table_of(quoted)
    followed = (table["confirmed_by"] != "histo").to_numpy()
    sure = quoted.index[(quoted["truth"] == "NV") & (quoted["prediction"] == "NV") & followed][5]
    histo = quoted.index[(quoted["truth"] == "NV") & (quoted["prediction"] == "NV") & ~followed][5]
    for planted, p in ((sure, 0.994), (histo, 0.9952)):  # the second is surer, but seen under the microscope
        quoted.loc[planted, [*CLASSES]] = np.where(np.array(CLASSES) == "NV", p, (1 - p) / 6)
        quoted.loc[planted, ["truth", "confidence"]] = ["BKL", p]
    found = findings.mistakes(quoted, table)
    assert found["likely_mislabelled"][0]["image"] == quoted.loc[sure, "image"]
    wrong = quoted[quoted["truth"] != quoted["prediction"]]
    assert found["counts"]["most_confident"] == len(wrong) > 12
    once = wrong.sort_values("confidence", ascending=False).drop_duplicates("lesion_id").head(12)
    assert [row["image"] for row in found["most_confident"]] == list(once["image"])
    malignant = ("MEL", "BCC", "AKIEC")
    assert all(row["truth"] in malignant and row["prediction"] not in malignant for row in found["costly"])
    own = {c: quoted.loc[quoted["truth"] == c, c].mean() for c in CLASSES}
    candidates = [image for _, image in sorted(
        (row["truth_p"] - row["confidence"], row["image"]) for row in
        ({**r, "truth_p": r[r["truth"]]} for r in wrong[followed[wrong.index]].to_dict("records"))
        if row["confidence"] >= own[row["prediction"]]
    )]  # fmt: skip
    lesion = quoted.set_index("image")["lesion_id"]
    assert found["counts"]["likely_mislabelled"] == len(candidates)
    candidates = list(dict.fromkeys(lesion[candidates]))  # one image a lesion
    assert [row["lesion_id"] for row in found["likely_mislabelled"]] == candidates[:12]
    assert "histo" not in {row["confirmed_by"] for row in found["likely_mislabelled"]}


def test_the_smallest_class_and_what_one_image_of_it_is_worth():
    truth = np.repeat(range(7), (171, 909, 93, 43, 217, 44, 35))
    quoted = pd.DataFrame({"truth": np.array(CLASSES)[truth]})
    found = findings.smallest_class(quoted)
    assert found["class"] == "VASC" and found["n"] == 35 and found["points"] == pytest.approx(0.408, abs=1e-3)
    recalls = np.ones(7)
    recalls[6] = 34 / 35
    assert found["points"] == pytest.approx(100 * (1 - recalls.mean()))


def test_two_runs_are_compared_on_the_same_images(made, tmp_path, monkeypatch):
    predictions = clean.read_table(made.report_dir / "predictions.csv")
    perfect = predictions.copy()
    perfect[list(CLASSES)] = np.eye(7)[[CLASSES.index(c) for c in perfect["truth"]]]
    monkeypatch.setattr(config.Config, "report_dir", tmp_path / "one")
    clean.write_csv(perfect, tmp_path / "one" / "predictions.csv")
    clean.write_csv(predictions.iloc[::-1], tmp_path / "two" / "predictions.csv")  # in any order
    clean.write_csv(predictions.head(20), tmp_path / "three" / "predictions.csv")
    rows = report.counting(predictions, "official")
    truth, p = findings.arrays(rows)
    expected = 1 - sk.balanced_accuracy_score(truth, p.argmax(1))
    assert report.compare(made, "two")["balanced_accuracy"]["value"] == pytest.approx(expected)
    with pytest.raises(UserError, match="three"):
        report.compare(made, "three")
    with pytest.raises(UserError, match="evaluate that run first"):
        report.compare(made, "four")


def test_the_report_of_two_thousand_predictions_takes_seconds():
    import time

    val, quoted = rows(2000, 1, lesions=1500), rows(2000, 2, lesions=1500)
    table = pd.concat([table_of(val), table_of(quoted)])
    started = time.process_time()
    findings.collect({"val": val, "test": quoted}, "test", table)
    assert time.process_time() - started < 40
