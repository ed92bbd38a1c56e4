"""report.html, model_card.md and index.html: whole in one file, and equal to metrics.json."""

import copy
import dataclasses
import html
import re
import shlex

import jinja2
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from dermai_utils import predictions, settings
from dermai_utils.basics import CLASSES, DISCLAIMER, MALIGNANT
from dermai_utils.reports import index, page
from dermai_utils.reports import mistakes as browse

TITLES = [
    "How good is it?",
    "Class by class",
    "Which classes does it confuse?",
    "On images from elsewhere",
    "Can its probabilities be believed?",
    "Which decision rule?",
    "How often is an answer right?",
    "Who does it work for?",
    "Where is it wrong?",
    "Where does it look?",
    "Does anything leak?",
    "How was it trained?",
    "What can't it do?",
    "What next?",
    "Files and papers",
]
NOT_OF_METRICS_JSON = ("subsets", "setting")  # in the header: the audit's, the settings' table


def read(text):
    return BeautifulSoup(text, "html.parser")


def tables(soup) -> list:
    """Each table as rows of texts."""
    return [
        [[cell.get_text().strip() for cell in row.select("th, td")] for row in table.select("tr")]
        for table in soup.select("table")
    ]


def words(path) -> str:
    """The file with every line break and indent as one space: a sentence may be wrapped in it."""
    return " ".join(path.read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def metrics(made):
    return made[0].metrics


@pytest.fixture(scope="module")
def text(made):
    return (made[0].folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def shown(made, tmp_path):
    """shown(metrics, **values of page.report): (page, card), in a folder without figures."""

    def fill(found, run=made[0], **values):
        run = dataclasses.replace(run, folder=tmp_path)
        leaks = dict.fromkeys(found["elsewhere"], [])
        usual = dict(audit={}, leaks=leaks, gradcam={}, mistakes=[], thresholds={})
        paths = page.report(run, found, {}, **usual | values), page.model_card(run, found)
        return [words(path) for path in paths]

    return fill


# The page.


def test_the_sections_stand_in_order_and_in_the_contents(text):
    titles = re.findall('<h2 id="(.*?)"><a href="#(.*?)">(.*?)</a></h2>', html.unescape(text))
    assert [title for *_, title in titles] == TITLES
    assert all(anchor == link for anchor, link, _ in titles)
    contents = re.findall('<li><a href="#(.*?)">(.*?)</a></li>', html.unescape(text))
    assert contents == [(anchor, title) for anchor, _, title in titles]
    assert html.unescape(text).count(DISCLAIMER) == 2  # above, and at the end
    without = re.sub("<(style|script)[^>]*>.*?</\\1>", "", text, flags=re.S)
    assert not re.search(r"\{\{|\{%|\{#|\$", without)


def test_the_page_asks_the_network_for_nothing_and_names_its_pictures(text):
    """Inside it or beside it is all that it shows; a reader follows a link by hand."""
    soup = read(text)
    assert not soup.select("link, iframe, object, embed, video, audio")
    images = soup.select("[src]")
    assert len(images) >= 12 and {image.name for image in images} == {"img"}
    allowed = r"data:image/(png|jpeg);base64,|mistakes/\d+(_similar)?\.jpg$"
    assert all(re.match(allowed, image["src"]) for image in images)
    assert not re.search(r"url\(|@import|srcset|fetch\(|XMLHttp|<[^>]+src=.?https?:", text)
    assert len(text) < 3e6
    alts = [image.get("alt", "") for image in images]
    assert all(alts) and len(set(alts)) == len(alts)
    assert all(len(i["alt"]) > 40 for i in images if i["src"].startswith("data:"))
    assert not [alt for alt in alts if "\n" in alt or "  " in alt]


def test_every_number_of_the_page_is_the_one_in_metrics_json(text, metrics):
    def look_up(key):
        value = metrics
        for name in key.split("/"):
            value = value[int(name)] if isinstance(value, list) else value[name]
        return value

    soup, counts = read(text), 0
    numbers = soup.select("[data-key]")
    assert len(numbers) > 400
    keys = {number["data-key"] for number in numbers}
    for key in (
        "recalls/official/NV/low",
        "recalls/Basel/NV/high",
        "argmax/recalls/official/NV/low",
    ):
        assert key in keys
    for number in numbers:
        key, printed = number["data-key"], number.get_text()
        value = look_up(key)
        if value is None or printed == "too few":
            assert printed in ("not defined", "too few"), key
        elif " of " in printed:  # fewer than ten
            k, n = map(int, printed.split(" of "))
            assert n < 10 and k / n == pytest.approx(value), key
            counts += 1
        else:
            printed = printed.replace(",", "").replace(">0.999", "0.9998")
            assert float(printed) == pytest.approx(value, abs=0.000501), key
    assert counts > 3
    for number in numbers:
        number.string = ""  # what is left was typed by hand
    assert len(tables(soup)) > 15
    for lines in tables(soup):
        assert len({len(line) for line in lines}) == 1  # no row is short of a cell
        if not set(NOT_OF_METRICS_JSON) & set(lines[0]):
            cells = [cell for line in lines[1:] for cell in line[1:]]
            assert not [cell for cell in cells if re.search(r"\d\.\d", cell)]


def test_an_interval_that_is_not_known_and_a_rate_of_few_lesions_are_said_so(shown, metrics):
    changed = copy.deepcopy(metrics)
    changed["intervals"]["val"]["macro_f1"] = {"value": 0.35, "low": None, "high": None}
    changed["operating_points"][0]["scored"] |= {
        "sensitivity": 0.75,
        "sensitivity_low": 0.2,
        "sensitivity_k": 3,
        "sensitivity_n": 4,
        "sensitivity_lesions": 4,
    }
    page, card = (" ".join(re.sub("<[^>]*>", " ", content).split()) for content in shown(changed))
    for content in (page, card):
        assert "0.350 [not known]" in content and "3 of 4" in content


def test_page_and_index_link_only_files_that_are_there(made, text):
    folder = made[0].folder
    (work := folder.parents[1]).joinpath("html").mkdir()
    for name in ("html/05_evaluate.html", "table.csv"):
        (work / name).write_text("")
    first = index(work).read_text(encoding="utf-8")
    for content, where, some in (
        (text, folder, {"metrics.json", "predictions.csv", "model_card.md", "submission.csv"}),
        (first, work, {"runs/first/report.html", "html/05_evaluate.html", "table.csv"}),
    ):
        links = re.findall('href="([^"#]+)"', content)
        links = [link for link in links if "://" not in link]
        assert some <= set(links) and not [link for link in links if not (where / link).exists()]
    score = made[0].metrics["intervals"]["official"]["balanced_accuracy"]
    assert f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" in first
    assert html.unescape(first).count(DISCLAIMER) == 2


def test_the_command_trains_with_the_same_settings_again(made):
    """Read by the shell's own settings: whatever a run has of them comes back."""
    about = made[0].settings | {"epochs": 7, "val_fraction": 0.2, "folds": 5, "seed": 3}
    table = made[0].table
    command = page.command(about, table[table["source"] != "Basel"])
    given = shlex.split(command)[4:]
    names = [flag.removeprefix("--").replace("-", "_") for flag in given[::2]]
    again = settings.read({}, **dict(zip(names, given[1::2], strict=True)))
    shared = set(settings.FIELDS) & set(about)
    assert len(shared) > 8
    assert {name: getattr(again, name) for name in shared} == {n: about[n] for n in shared}
    more = pd.DataFrame({"source": ["train", "extra", "Basel 2", "given test", "official"]})
    end = "--data 'path/to/my skin' --extra path/to/extra --test 'path/to/Basel 2'"
    assert page.command({"data": "my skin"}, more).endswith(end)


def test_the_page_says_what_a_reader_replaced(shown, made, metrics):
    own = {"loss": "FocalLoss", "augment": "random_erasing", "network": "Tiny"}
    plain, plain_card = shown(metrics)
    changed = dataclasses.replace(made[0], settings=made[0].settings | own)
    text, card = shown(metrics, run=changed)
    assert "loss <code>FocalLoss</code>, augment <code>random_erasing</code>" in text
    assert "the reader's own loss | FocalLoss |" in card and "| network | Tiny, 32 px |" in card
    assert "own parts" in text and "own parts" not in plain and "FocalLoss" not in plain_card


def test_a_name_that_metrics_json_lacks_is_an_error_not_a_blank(shown, metrics, tmp_path):
    with pytest.raises((jinja2.UndefinedError, KeyError), match="operating_points"):
        shown({k: v for k, v in metrics.items() if k != "operating_points"})
    assert not list(tmp_path.iterdir())


def test_the_page_claims_no_more_than_is_known(shown, metrics, text):
    """Made-up pictures are not the official test set; what was chosen on the same images is said to
    be; intervals are by lesion only where lesions are known."""
    for content in shown(metrics | {"data": "sample"}):
        assert "official ISIC 2018 test set" not in content
        assert "made-up pictures in place of the official test set" in content
        assert "Its numbers mean nothing" in content
    assert "official ISIC 2018 test set" in text and "made-up pictures" not in text
    only = metrics | {"primary_subset": "val", "chosen_and_scored_on_the_same_images": True}
    for found, warned in ((only, True), (metrics, False)):
        page, card = shown(found)
        assert ("chosen on the same images that score it" in page) == warned
        assert ("Expect less on new images" in page) == warned
        assert ("those are the same images" in card) == warned
    for known in (True, False):
        changed = copy.deepcopy(metrics) | {"leakage_effect": None}
        changed["lesions_known"][metrics["primary_subset"]] = known
        for content in shown(changed):
            assert ("too narrow where lesions repeat" in content) != known
            assert known or "whole lesions" not in content
    assert "Elsewhere the rate is aimed at, not held" in " ".join(text.split())
    challenge = metrics["rule_scores"]["official"]["macro_auc"]
    assert "as in submission.csv, the macro AUC is" in " ".join(text.split())
    assert f'rule_scores/official/macro_auc">{challenge:.3f}<' in text


def test_a_leak_into_the_subset_to_quote_stands_above_everything(shown, metrics):
    leak = "train and official share 20 × lesions"
    leaks = dict.fromkeys(metrics["elsewhere"], []) | {"official": [leak]}
    text, card = shown(metrics | {"leaks": leaks}, leaks=leaks)
    said = f"LEAKING: {leak}."
    assert text.index(said) < text.index("<h2") and said in card
    assert "LEAKING" not in "".join(shown(metrics))


def test_each_own_test_set_has_its_own_part(shown, metrics):
    """One without any class of home: the comparison with home is not defined, not zero."""
    changed = copy.deepcopy(metrics)
    for part in ("subsets", "intervals", "recalls", "lesions_known", "elsewhere"):
        changed[part]["Rio 2"] = copy.deepcopy(changed[part]["Basel"])
    for part in ("subsets", "intervals"):
        changed["argmax"][part]["Rio 2"] = copy.deepcopy(changed["argmax"][part]["Basel"])
    changed["elsewhere"]["Rio 2"]["same_classes"] = {"n": 0, "by_rule": None, "argmax": None}
    changed["elsewhere"]["Rio 2"]["by_source"] = {}
    leaks = {"Basel": [], "Rio 2": ["train and Rio 2 share 3 × images"]}
    text, card = shown(changed, leaks=leaks)
    part = text[text.index("<h3>Your test set “Rio 2”</h3>") : text.index('<h2 id="calibration">')]
    assert "<h3>Your test set “Basel”</h3>" in text and "your test set “Rio 2”" in card
    assert 'data-key="elsewhere/Rio 2/same_classes/by_rule/accuracy">not defined<' in part
    assert "train and Rio 2 share 3 × images: the score on these images is too good" in part
    assert text.count("the score on these images is too good") == 1
    assert "By the clinic" not in part and "By the clinic" in text


def test_what_was_not_measured_has_no_part(shown, metrics):
    assert "Where does it look?" not in shown(metrics)[0]
    checks = {"images": [], "mean": {}, "note": "no map in a transformer"}
    text, _ = shown(metrics, gradcam=checks)
    assert "<p>no map in a transformer</p>" in text and "Grad-CAM marks" not in text
    for effect in (None, metrics["leakage_effect"] | {"prone_images": 0}):
        text, card = shown(metrics | {"leakage_effect": effect})
        assert "How much a random split would add" not in text
        assert "by a random split" not in card
    text, card = shown(metrics)
    assert "How much a random split would add" in text
    assert "gains 0.110 [0.040, 0.180] balanced accuracy by a random split" in card
    assert "How often is an answer right?" in text
    alone = copy.deepcopy(metrics) | {"answers": {"sets": {}, "unlike": {}}}
    alone["subgroups"]["groups"] = {"sex": metrics["subgroups"]["groups"]["sex"][:1]}
    text, card = shown(alone)
    assert "How often is an answer right?" not in text
    assert "“female” for every image, so there is nothing to compare" in text
    assert "| sex |" not in card and '<th scope="col">sex</th>' not in text


def test_answers_are_counted_on_each_test_set_and_not_on_validation(shown, metrics):
    """Fewer than ten are counted; distances are not known where nobody described the pictures."""
    sets = copy.deepcopy(metrics["answers"]["sets"])
    sets["Basel"] |= {"answered": 0.1, "answered_held": 5 / 6, "n": 60}
    sets["Basel"]["answers"] = {"one": {"n": 4, "held": 3}, "two": {"n": 2, "held": 2}}
    sets["Basel"]["melanomas"] = {"n": 9, "answered": 2, "without": 1, "low": 0.01, "high": 0.99}
    sets["official"]["melanomas"]["answered"] = 0
    answers = {
        "sets": sets,
        "unlike": {"Basel": {"n": 60, "out_of_distribution": 0.25, "foreign": 0.0}},
    }
    text, _ = shown(metrics | {"answers": answers})
    (table,) = [t for t in tables(read(text)) if t[2:] and "an answer" in t[2][0]]
    assert len(table[0]) == 3 and table[0][1:] == [
        "official ISIC 2018 test set",
        "your test set “Basel”",
    ]
    official, basel = zip(*[row[1:] for row in table[1:]], strict=True)
    assert basel == ("60", "0.100", "5 of 6", "1 of 2 [0.010, 0.990]", "0.250", "0.000")
    assert official[0] == "140" and official[3:] == ("no answer", "not known", "not known")
    text, _ = shown(metrics | {"answers": {"sets": {"val": sets["val"]}, "unlike": {}}})
    assert 'data-key="answers/sets/val/answered"' in text


def test_the_audit_the_left_out_and_near_duplicates_are_shown(shown, metrics):
    row = {"images": 0, "lesions": 2, "patients": None, "copies": 1, "near_duplicates": None}
    counts = {"pairs": 4, "in_two_subsets": 1, "with_official": 1, "left_out": 1}
    text, card = shown(metrics | {"near_duplicates": counts}, audit={"train/val": row})
    (table,) = [t for t in tables(read(text)) if t[0][0] == "subsets"]
    names = "training subset / validation subset"
    assert table[1] == [names, "0", "2", "not known", "1", "not known"]
    assert "because a test set has the same lesions: 3 images." in text
    assert "Further pairs of another subset and an official test image" in text
    assert "Further pairs of which one image is left out of training" in text
    assert "show one lesion under two ids: 4, in two subsets or folds of this split: 1." in card
    text, _ = shown(metrics | {"near_duplicates": counts | {"with_official": 0, "left_out": 0}})
    assert "Further pairs" not in text


def test_a_report_about_a_clinic_says_of_its_images_only_what_is_known(shown, metrics, tmp_path):
    """It asks for nothing that needs the data that the model was trained on."""
    card = {"image": "a", "truth": "NV", "prediction": "MEL", "probabilities": []}
    card |= {"confirmed_by": "consensus", "similar": [], "picture": "", "strip": ""}
    home, _ = shown(metrics, mistakes=[card])
    for name in ("pack.json", "leaks.csv"):
        (tmp_path / name).touch()
    clinic, _ = shown(metrics, mistakes=[card | {"confirmed_by": ""}])
    both = {
        "Left out of training and validation": "leaks.csv names them",
        "and no microscope confirmed the label": "whether a microscope confirmed the label is not",
        "This command trains": "evaluate --pretrained --test FOLDER",
        "--run-name": "predict --image photo.jpg",
        "Report of the run": "Report of the model",
    }
    home, clinic = (text.replace("</span> <span>", " ") for text in (home, clinic))
    for here, there in both.items():
        assert here in home and there not in home
        assert there in clinic and here not in clinic


def test_text_from_a_csv_is_not_html(shown, metrics):
    changed = copy.deepcopy(metrics) | {"run": "<script>"}
    changed["subgroups"]["groups"]["sex"][0]["group"] = "<script>alert(2)"
    card = {"image": "<script>alert(3)", "truth": "NV", "prediction": "MEL", "probabilities": []}
    card |= {"confirmed_by": "", "similar": [], "picture": "", "strip": ""}
    scores = {"<script>alert(4)</script>": {"score": [], "positive": []}}
    text, _ = shown(changed, mistakes=[card], thresholds=scores)
    assert "<script>alert" not in text and "&lt;script&gt;alert(3)" in text


# The model card.


def test_the_model_card_says_what_it_is_not_for(made, metrics):
    text = words(made[0].folder / "model_card.md")
    row = metrics["intervals"]["official"]["balanced_accuracy"]
    for phrase in (
        DISCLAIMER,
        "CC BY-NC 4.0",
        "Not intended",
        "Few images show dark skin",
        "| epochs | 3 |",
        "| version | 0.3.0 |",
        "| trained | 2026-01-02, 3.0 minutes, two cores |",
        f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
        "| sex | female",
    ):
        assert phrase in text


def test_the_tables_of_the_card_are_whole_and_count_the_run_s_images(made):
    """Every line of a table has as many cells as its header, and nothing stands between them."""
    run = made[0]
    text = (run.folder / "model_card.md").read_text(encoding="utf-8")
    tables = [block.split("\n") for block in re.split("\n\n+", text) if "\n| ---" in block]
    assert len(tables) >= 7
    for lines in tables:
        lines = [line for line in lines if line.strip()]
        assert len({line.count("|") for line in lines}) == 1, lines
        assert all(re.match(r"\|.*\|$", line) for line in lines), lines
    header = re.search(r"^\| class \| (.*train.*) \|$", text, re.M)[1].split(" | ")
    subsets = ("train", "val", "official", "Basel", "left out")
    names = {page.short_name(name, run.metrics): name for name in subsets}
    header = [names.pop(name) for name in header]
    assert names == {}
    expected = pd.crosstab(run.table["label"], run.table["subset"])
    for c, counts in re.findall(r"^\| (\w+) \([^)]*\) \| (.*) \|$", text, re.M):
        assert [int(n) for n in counts.split(" | ")] == list(expected.loc[c, header])


# Every mistake.


def test_every_mistake_has_its_own_picture_and_probabilities(made, tmp_path):
    run, dataset = made
    rows = predictions.primary_rows(run.predictions)
    wrong = rows[rows["truth"] != rows["prediction"]].set_index("image")
    near = [{"image": "tra_0003", "label": "NV", "similarity": 0.5}]
    found = browse.cards(rows, run.table, dict.fromkeys(wrong.index, near))
    browse.save_pictures(tmp_path, found, dataset)
    confirmed = run.table.set_index("image")["confirmed_by"]
    place = dict(zip(dataset.table["image"], dataset.table.index, strict=True))
    assert {card["image"] for card in found} == set(wrong.index) and len(found) == len(wrong) > 9
    sure = [wrong.loc[card["image"], "confidence"] for card in found]
    assert sure == sorted(sure, reverse=True)
    for card in found:
        shown = dict((c, p) for p, c in card["probabilities"])
        assert shown == wrong.loc[card["image"], list(CLASSES)].to_dict()
        assert [p for p, _ in card["probabilities"]] == sorted(shown.values(), reverse=True)
        assert card["confirmed_by"] == confirmed[card["image"]]
        for file, image in ((card["picture"], card["image"]), (card["strip"], "tra_0003")):
            picture = Image.open(tmp_path / file)
            original = Image.fromarray(dataset.pixels[place[image]]).resize(picture.size)
            apart = np.abs(np.asarray(picture, float) - np.asarray(original, float))
            assert picture.size == (200, 150) and apart.mean() < 25  # JPEG's loss on noise


def test_the_slider_has_the_scores_of_the_scored_images(made):
    rows = predictions.primary_rows(made[0].predictions)
    found = browse.thresholds(rows)
    for target, classes in (("melanoma", ["MEL"]), ("malignant", list(MALIGNANT))):
        expected = rows.assign(score=rows[classes].sum(axis=1)).sort_values("score", kind="stable")
        assert found[target]["score"] == pytest.approx(expected["score"].tolist())
        assert found[target]["positive"] == expected["truth"].isin(classes).astype(int).tolist()
