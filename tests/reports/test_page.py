"""report.html, model_card.md and index.html: whole in one file, and equal to metrics.json."""

import collections
import copy
import dataclasses
import functools
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

SECTIONS = "results classes confusion elsewhere calibration rules answers subgroups mistakes "
SECTIONS += "gradcam leakage training limits next files"
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
def shown(made, metrics, tmp_path):
    """shown(changes, **values of page.report): (page, card), in a folder without figures.

    `changes`: {key of metrics.json: its value}."""

    def fill(changes=(), run=made[0], **values):
        found = copy.deepcopy(metrics)
        for key, value in dict(changes).items():
            *parents, last = key.split("/")
            functools.reduce(page.look_up, parents, found)[last] = value
        run = dataclasses.replace(run, folder=tmp_path)
        usual = dict(audit={}, gradcam={}, mistakes=[], thresholds={})
        path = page.report(run, found, {}, **usual | values)
        return words(path), words(path.with_name("model_card.md"))

    return fill


# The page.


def test_the_sections_stand_in_order_and_in_the_contents(text):
    headings = re.findall('<h2 id="(.*?)"><a href="#(.*?)">(.*?)</a></h2>', text)
    contents = re.findall('<li><a href="#(.*?)">(.*?)</a></li>', text)
    assert [anchor for anchor, _ in contents] == SECTIONS.split()
    assert headings == [(anchor, anchor, title) for anchor, title in contents]
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


def printed_numbers(element, metrics):
    """(text, value in metrics.json) of the number, or number and interval, in an element."""
    key, (first, _, ends) = element["data-key"], element.get_text().partition(" [")
    value, joint = functools.reduce(page.look_up, key.split("/"), metrics), "_"
    if isinstance(value, dict):
        value, joint = value["value"], "/"
    yield first, value
    if ends and ends != "not known]":
        for end, shown in zip(("low", "high"), ends.strip("]").split(", "), strict=True):
            yield shown, page.look_up(metrics, f"{key}{joint}{end}")


def test_every_number_of_the_page_is_the_one_in_metrics_json(text, metrics):
    soup, kinds = read(text), collections.Counter()
    elements = soup.select("[data-key]")
    expected = {"recalls/official/NV", "argmax/recalls/official/NV", "recalls/Basel/NV"}
    expected |= {"rule_scores/official/macro_auc"}
    assert expected <= {element["data-key"] for element in elements}
    for element in elements:
        for printed, value in printed_numbers(element, metrics):
            if value is None or printed == "too few":
                assert printed in ("not defined", "too few"), element
                kinds["not known"] += 1
            elif " of " in printed:  # fewer than ten
                k, n = map(int, printed.split(" of "))
                assert n < 10 and k / n == pytest.approx(value), element
                kinds["counts"] += 1
            else:
                printed = printed.replace(",", "").replace(">0.999", "0.9998")
                assert float(printed) == pytest.approx(value, abs=0.000501), element
                kinds["numbers"] += 1
        element.string = ""  # what is left was typed by hand
    assert kinds["numbers"] > 400 and kinds["counts"] > 3 and kinds["not known"]
    assert len(tables(soup)) > 15
    for lines in tables(soup):
        assert len({len(line) for line in lines}) == 1  # no row is short of a cell
        if not set(NOT_OF_METRICS_JSON) & set(lines[0]):
            cells = [cell for line in lines[1:] for cell in line[1:]]
            assert not [cell for cell in cells if re.search(r"\d\.\d", cell)]


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


def test_a_name_that_metrics_json_lacks_is_an_error_not_a_blank(shown, tmp_path):
    with pytest.raises(jinja2.UndefinedError, match="level"):
        shown({"operating_points": [{}]})
    assert not list(tmp_path.iterdir())


FEW = {"sensitivity": 0.75, "sensitivity_low": 0.2, "sensitivity_high": 0.9, "sensitivity_k": 3}
FEW |= {"sensitivity_n": 4, "sensitivity_lesions": 4, "specificity": None, "ppv": 1.0, "npv": 1.0}
PAIRS = {"pairs": 4, "in_two_subsets": 1, "with_official": 1, "left_out": 1}
MADE_UP = "made-up pictures in place of the official test set"
LEAK = "train and official share 20 × lesions"
ONE_SEX = {"sex": [{"group": "female", "n": 9, "small": True}]}
SAID = [  # (changes of metrics.json, {words: who says them: "p" the page, "c" the card})
    ({}, {"official ISIC 2018 test set": "pc", "How much a random split would add": "p"}),
    ({}, {"gains 0.110 [0.040, 0.180] balanced accuracy by a random split": "c"}),
    ({}, {"How often is an answer right?": "p", "whole lesions": "p", "By the clinic": "p"}),
    ({}, {"same images": "", "Expect less on new": "", "LEAKING": "", "Where does it look?": ""}),
    ({}, {"own parts": "", "FocalLoss": "", "too narrow where lesions repeat": ""}),
    ({}, {"Elsewhere the rate is aimed at, not held": "p", "[not known]": "", MADE_UP: ""}),
    ({"data": "sample"}, {MADE_UP: "pc", "Its numbers mean nothing": "pc", "official ISIC": ""}),
    ({"chosen_and_scored_on_the_same_images": True}, {"same images": "pc"}),
    ({"primary_subset": "val"}, {"Expect less on new images": "p", "networks": ""}),
    (
        {"primary_subset": "val", "folds": 3},
        {"all folds (each image judged": "pc", "Out of fold: each": "pc", "The mean of the 3": ""},
    ),
    (
        {"lesions_known/official": False, "leakage_effect": None},
        {"too narrow where lesions repeat": "pc", "whole lesions": "", "random split": ""},
    ),
    ({"leaks/official": [LEAK]}, {f"LEAKING: {LEAK}.": "pc"}),
    ({"answers": {"sets": {}, "unlike": {}}}, {"How often is an answer right?": ""}),
    ({"subgroups/groups": ONE_SEX}, {"“female” for every image": "p", "| sex |": ""}),
    ({"near_duplicates": PAIRS}, {"4, in two subsets or folds of this split: 1.": "c"}),
    ({"near_duplicates": PAIRS}, {"Further pairs of which one image is left out": "p"}),
    ({"near_duplicates": PAIRS}, {"because a test set has the same lesions: 3 images.": "p"}),
    ({"near_duplicates": PAIRS | {"with_official": 0, "left_out": 0}}, {"Further pairs": ""}),
    (
        {"intervals/val/macro_f1": {"value": 0.35, "low": None, "high": None}},
        {"0.350 <small>[not known]": "p", "0.350 [not known]": "c"},
    ),
    ({"operating_points/0/scored": FEW}, {">3 of 4<": "p", " 3 of 4 ": "c"}),
]


@pytest.mark.parametrize("changes, said", SAID)
def test_page_and_card_say_what_is_known_and_no_more(shown, changes, said):
    text, card = shown(changes)
    for phrase, where in said.items():
        assert ("p" in where, "c" in where) == (phrase in text, phrase in card), phrase
    assert "LEAKING" not in text[text.index("<h2") :]  # above everything


OWN_PARTS = {"loss": "FocalLoss", "augment": "random_erasing", "network": "Tiny"}


def test_the_page_says_what_a_reader_replaced_and_why_there_are_no_maps(shown, made):
    run = dataclasses.replace(made[0], settings=made[0].settings | OWN_PARTS)
    checks = {"images": [], "mean": {}, "note": "no map in a transformer"}
    text, card = shown(run=run, gradcam=checks)
    assert "loss <code>FocalLoss</code>, augment <code>random_erasing</code>" in text
    assert "the reader's own loss | FocalLoss |" in card and "| network | Tiny, 32 px |" in card
    assert "own parts" in text
    assert "<p>no map in a transformer</p>" in text and "Grad-CAM marks" not in text


def test_each_own_test_set_has_its_own_part(shown, metrics):
    """One without any class of home: the comparison with home is not defined, not zero."""
    parts = ("subsets", "intervals", "recalls", "lesions_known")
    parts += ("argmax/subsets", "argmax/intervals")
    changes = {f"{part}/Rio 2": page.look_up(metrics, f"{part}/Basel") for part in parts}
    same = {"n": 0, "by_rule": None, "argmax": None}
    rio = metrics["elsewhere"]["Basel"] | {"same_classes": same, "by_source": {}}
    changes |= {"elsewhere/Rio 2": rio, "leaks/Rio 2": ["train and Rio 2 share 3 × images"]}
    text, card = shown(changes)
    part = text[text.index("<h3>Your test set “Rio 2”</h3>") : text.index('<h2 id="calibration">')]
    assert "<h3>Your test set “Basel”</h3>" in text and "your test set “Rio 2”" in card
    assert 'data-key="elsewhere/Rio 2/same_classes/by_rule/accuracy">not defined<' in part
    assert "train and Rio 2 share 3 × images: the score on these images is too good" in part
    assert text.count("the score on these images is too good") == 1 and "By the clinic" not in part


def test_answers_are_counted_on_each_test_set_and_not_on_validation(shown, metrics):
    """Fewer than ten are counted; distances are not known where nobody described the pictures."""
    basel = {"answered": 0.1, "answered_held": 5 / 6, "n": 60}
    basel["answers"] = {"one": {"n": 4, "held": 3}, "two": {"n": 2, "held": 2}}
    basel["melanomas"] = {"n": 9, "answered": 2, "without": 1, "low": 0.01, "high": 0.99}
    unlike = {"Basel": {"n": 60, "out_of_distribution": 0.25, "foreign": 0.0}}
    changes = {"answers/sets/Basel": basel, "answers/unlike": unlike}
    text, _ = shown(changes | {"answers/sets/official/melanomas/answered": 0})
    (table,) = [t for t in tables(read(text)) if t[2:] and "an answer" in t[2][0]]
    assert table[0] == ["", "official ISIC 2018 test set", "your test set “Basel”"]
    official, basel = zip(*[row[1:] for row in table[1:]], strict=True)
    assert basel == ("60", "0.100", "5 of 6", "1 of 2 [0.010, 0.990]", "0.250", "0.000")
    assert official[0] == "140" and official[3:] == ("no answer", "not known", "not known")
    text, _ = shown({"answers/sets": {"val": metrics["answers"]["sets"]["val"]}})
    assert 'data-key="answers/sets/val/answered"' in text


def test_the_audit_is_shown(shown):
    row = {"images": 0, "lesions": 2, "patients": None, "copies": 1, "near_duplicates": None}
    (table,) = [t for t in tables(read(shown(audit={"train/val": row})[0])) if "subsets" in t[0]]
    names = "training subset / validation subset"
    assert table[1] == [names, "0", "2", "not known", "1", "not known"]


CARD = {"image": "a", "truth": "NV", "prediction": "MEL", "probabilities": [], "confirmed_by": ""}
CARD |= {"similar": [], "picture": "", "strip": ""}


def test_a_report_about_a_clinic_says_of_its_images_only_what_is_known(shown, tmp_path):
    """It asks for nothing that needs the data that the model was trained on."""
    home, _ = shown(mistakes=[CARD | {"confirmed_by": "consensus"}])
    for name in ("pack.json", "leaks.csv"):
        (tmp_path / name).touch()
    clinic, _ = shown(mistakes=[CARD])
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


def test_text_from_a_csv_is_not_html(shown):
    changes = {"run": "<script>", "subgroups/groups/sex/0/group": "<script>alert(2)"}
    scores = {"<script>alert(4)</script>": {"score": [], "positive": []}}
    card = CARD | {"image": "<script>alert(3)"}
    text, _ = shown(changes, mistakes=[card], thresholds=scores)
    assert "<script>alert" not in text and "&lt;script&gt;alert(3)" in text


# The model card.


def test_the_model_card_says_what_it_is_not_for(made, metrics):
    text = words(made[0].folder / "model_card.md")
    row = metrics["intervals"]["official"]["balanced_accuracy"]
    said = [
        DISCLAIMER,
        "CC BY-NC 4.0",
        "Not intended",
        "Few images show dark skin",
        "| sex | female",
    ]
    said += ["| epochs | 3 |", "| trained | 2026-01-02, 3.0 minutes, two cores |"]
    said.append(f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    assert not [phrase for phrase in said if phrase not in text]


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
