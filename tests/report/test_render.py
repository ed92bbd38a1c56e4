"""report.html and model_card.md of the fixture's run: whole in one file, equal to metrics.json."""

import copy
import dataclasses
import html
import re
import time
from html.parser import HTMLParser

import jinja2
import pytest

import dermai_utils
from dermai_utils import config, files
from dermai_utils.__main__ import read_words
from dermai_utils.config import DISCLAIMER
from dermai_utils.data import pixels, split
from dermai_utils.metrics import predictions
from dermai_utils.report import evaluate, figures, render
from dermai_utils.training import checkpoint

TITLES = [
    "How good is it?",
    "Class by class",
    "Which classes are confused?",
    "Can its probabilities be believed?",
    "Which decision rule?",
    "Who does it work for?",
    "Where is it wrong?",
    "Where does it look?",
    "Does anything leak?",
    "How it was trained",
    "What it can't do",
    "What next?",
    "Files and papers",
]
NOT_OF_METRICS_JSON = (
    "random split",
    "setting",
)  # in the header: leakage.json's, the settings' table


class Read(HTMLParser):
    """What an HTML page holds: its tags with their attributes, its numbers by key, its tables as
    rows of text."""

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


def words(path) -> str:
    """The file with every line break and indent as one space: a sentence may be wrapped in it."""
    return " ".join(path.read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def metrics(made):
    return files.read_json(made.report_dir / "metrics.json")


@pytest.fixture(scope="module")
def text(made):
    return (made.report_dir / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def val(made):
    table = files.read_table(made.report_dir / "predictions.csv")
    return predictions.scored_rows(table, "val")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where this test's reports go: the fixture's own report is only read."""
    monkeypatch.setattr(config.Config, "report_dir", tmp_path)
    return tmp_path


# The page.


def test_the_page_asks_the_network_for_nothing(text):
    """Inside it or beside it is all that it shows; a link is only followed by hand."""
    tags = Read(text).tags
    loading = ("link", "iframe", "object", "embed", "video", "audio")
    assert not [tag for tag, _ in tags if tag in loading]
    sources = [(tag, attributes["src"]) for tag, attributes in tags if "src" in attributes]
    assert len(sources) >= 8 and {tag for tag, _ in sources} == {"img"}
    beside_or_inside = (
        r"data:image/(png|jpeg);base64,|mistakes/\d+(_similar)?\.jpg$|near_duplicates.jpg$"
    )
    assert all(re.match(beside_or_inside, source) for _, source in sources)
    assert not re.search(r"url\(|@import|srcset|fetch\(|XMLHttp|<[^>]+src=.?https?:", text)


def test_every_picture_has_an_alternative_text_of_its_own(text):
    images = [attributes for tag, attributes in Read(text).tags if tag == "img"]
    alts = [image.get("alt", "") for image in images]
    assert all(alts) and len(set(alts)) == len(alts)
    assert all(len(i["alt"]) > 20 for i in images if i["src"].startswith("data:"))
    assert not [alt for alt in alts if "\n" in alt or "  " in alt]


def test_every_number_of_the_page_is_the_one_in_metrics_json(text, metrics):
    def look_up(key):
        value = metrics
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
    """But for leakage.json's table, which says so. A number typed in by hand would stand outside of
    any key."""
    keyless = re.sub(r"<(\w+)[^>]*data-key[^>]*>.*?</\1>", "", text)
    for lines in Read(keyless).tables:
        if not set(NOT_OF_METRICS_JSON) & set(lines[0]):
            cells = [cell for line in lines[1:] for cell in line[1:]]
            assert not [cell for cell in cells if re.search(r"\d\.\d", cell)]


def test_the_sections_stand_in_order(text):
    titles = re.findall('<h2 id="(.*?)"><a href="#(.*?)">(.*?)</a></h2>', html.unescape(text))
    assert [title for *_, title in titles] == TITLES
    assert all(anchor == link for anchor, link, _ in titles)
    contents = re.findall('<li><a href="#(.*?)">(.*?)</a></li>', html.unescape(text))
    assert contents == [(anchor, title) for anchor, _, title in titles]
    assert html.unescape(text).count(DISCLAIMER) == 2
    words = re.sub("<(style|script)[^>]*>.*?</\\1>", "", text, flags=re.S)
    assert not re.search(r"\{\{|\{%|\{#|\$", words)


def test_the_page_says_how_the_run_was_trained(made, text, monkeypatch):
    """The command makes the same settings again, and which epoch was kept is what best.pt says."""
    about = render.training(made)
    given, _ = read_words(about["command"].split("gradcam", 1)[1].split())
    again = config.load(env={}, **given)
    folders = ("cache_dir", "work_dir", "device", "workers")
    for name in set(config.FIELDS) - set(folders):
        assert getattr(again, name) == getattr(made, name)
    assert about["command"] in html.unescape(text) and about["last_epoch_kept"]
    monkeypatch.setattr(checkpoint, "kept_epoch", lambda folder: 1)
    assert not render.training(made)["last_epoch_kept"]


def test_the_page_has_the_test_time_augmentation_of_the_evaluation(made):
    assert render.training(dataclasses.replace(made, tta=8))["settings"]["tta"] == "8"


def test_a_name_that_metrics_json_lacks_is_an_error_not_a_blank(made, metrics, folder):
    with pytest.raises(jinja2.UndefinedError, match="operating_points"):
        render.report(made, {k: v for k, v in metrics.items() if k != "operating_points"})
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "subset, n, shown", [("official", 1511, True), ("official", 27, False), ("val", 1511, False)]
)
def test_published_results_stand_beside_the_official_test_set_only(
    made, metrics, subset, n, shown, folder
):
    changed = copy.deepcopy(metrics)
    changed["primary_subset"], changed["subsets"][subset]["n"] = subset, n
    render.report(made, changed)
    text = words(folder / "report.html")
    assert ("0.680 [0.634, 0.726]" in text) == shown
    assert ("winner of the challenge" in text) == shown


def test_what_was_chosen_on_the_same_images_is_said_to_be(made, metrics, val, folder):
    """test_fraction=0 and no official test set: results are those on validation."""
    only = evaluate.report_metrics(made, {"val": val})
    assert only["primary_subset"] == "val" and only["chosen_and_scored_on_the_same_images"]
    assert not metrics["chosen_and_scored_on_the_same_images"]
    for numbers, warned in ((only, True), (metrics, False)):
        render.report(made, numbers)
        render.model_card(made, numbers)
        page, card = words(folder / "report.html"), words(folder / "model_card.md")
        assert ("chosen on the very images" in page) == warned
        assert ("that is the validation set itself" in card) == warned


def test_a_backbone_without_maps_is_said_in_words(made, metrics, tmp_path, monkeypatch):
    picture = (made.report_dir / "gradcam.png").read_bytes()
    monkeypatch.setattr(config.Config, "report_dir", tmp_path)
    render.report(made, metrics)
    # before the gradcam stage
    assert "Where does it look?" not in words(tmp_path / "report.html")
    (tmp_path / "gradcam.png").write_bytes(picture)
    checks = {"images": [], "mean": {}, "note": "no map in a transformer"}
    files.write_json(tmp_path / "gradcam.json", checks)
    render.report(made, metrics)
    text = words(tmp_path / "report.html")
    assert "<p>no map in a transformer</p>" in text and "its saliency map" not in text


@pytest.mark.parametrize(
    "gains, verdict",
    [
        ([0.1, 0.2, 0.1, 0.2], "better"),
        ([0.1, -0.2, 0.1, 0.2], "not clearly better"),
        ([0.1, 0.1], "not clearly better"),
        ([-0.1, -0.2, -0.1, -0.2], "not clearly better"),
    ],
)
def test_maps_are_better_than_random_ones_by_more_than_chance_only(gains, verdict):
    """Twice the standard error, and at least three images; deletion is better where it is lower."""
    images = [
        {
            "insertion": 0.5 + gain,
            "insertion_random": 0.5,
            "deletion": 0.5 - gain,
            "deletion_random": 0.5,
        }
        for gain in gains
    ]
    checks = render.gradcam_checks({"images": images, "mean": {"deletion": 0.5}})
    assert checks["insertion"] == checks["deletion"] == verdict


def test_text_from_a_csv_is_not_html(made, metrics, folder):
    changed = copy.deepcopy(metrics) | {"run": "<script>"}
    changed["mistakes"]["most_confident"][0]["image"] = '"><script>alert(1)</script>'
    changed["subgroups"]["groups"]["sex"][0]["group"] = "<script>"
    render.report(made, changed)
    text = (folder / "report.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;" in text


# The model card.


@pytest.mark.parametrize("known", [True, False])
def test_intervals_are_by_lesion_only_where_lesions_are_known(made, metrics, folder, known):
    changed = copy.deepcopy(metrics)
    changed["lesions_known"][metrics["primary_subset"]] = known
    changed["leakage_effect"] = None  # a result of its own, on the training data
    render.report(made, changed)
    render.model_card(made, changed)
    for page in (words(folder / "report.html"), words(folder / "model_card.md")):
        assert ("too narrow where lesions repeat" in page) != known
        assert known or "by lesion" not in page.lower().replace("split by lesion", "")


def test_the_model_card_says_what_it_is_not_for(made, metrics):
    text = words(made.report_dir / "model_card.md")
    row = metrics["intervals"]["official"]["balanced_accuracy"]
    for phrase in (
        DISCLAIMER,
        "CC BY-NC 4.0",
        "Not intended",
        "180161",
        "1902.03368",
        "few images of dark skin",
        "Made-up pictures",
        "| learning_rate | 0.006 |",
        "| train_fraction | 1.0 |",
        "| freeze | none |",
        "| first_size | 0 |",
        "| tta | 1 |",
        f"| version | {dermai_utils.__version__} |",
        f"| trained | {time.strftime('%F')}, on",
        f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
        "What a random split would add",
        "### Subgroups",
        "| sex | female",
    ):
        assert phrase in text
    assert not re.search(r"\{\{|\{%|\$", text)


def test_the_tables_of_the_card_are_whole(made):
    """Every line of a table has as many cells as its header, and nothing stands between them."""
    text = (made.report_dir / "model_card.md").read_text(encoding="utf-8")
    tables = [block.split("\n") for block in re.split("\n\n+", text) if "\n| ---" in block]
    assert len(tables) >= 9
    for lines in tables:
        lines = [line for line in lines if line.strip()]
        start = next(k for k, line in enumerate(lines) if line.startswith("|"))
        assert len({line.count("|") for line in lines[start:]}) == 1, lines
        assert all(re.match(r"\|.*\|$", line) for line in lines[start:]), lines


# Both.


def test_the_effect_of_leakage_is_shown_where_it_was_measured(made, metrics, text, folder):
    row = metrics["leakage_effect"]["classifiers"]["nearest neighbour"]
    assert "How much a random split would add" in text
    assert f"nearest neighbour {row['random']:.3f} with images split at random" in text
    for nothing in (None, metrics["leakage_effect"] | {"prone_images": 0}):
        render.report(made, metrics | {"leakage_effect": nothing})
        render.model_card(made, metrics | {"leakage_effect": nothing})
        assert "How much a random split would add" not in words(folder / "report.html")
        assert "What a random split would add" not in words(folder / "model_card.md")


def test_near_duplicates_are_counted_and_shown_side_by_side(made, metrics, tmp_path, folder):
    subsets = split.read(made).set_index("image")["subset"]
    one, two, left, other, official = (
        subsets.index[subsets == subset][k]
        for subset, k in (("train", 0), ("train", 1), ("train", 2), ("val", 0), ("official", 0))
    )
    pairs = [(one, two), (one, other), (two, official), (left, official), (one, "ISIC_not_here")]
    (tmp_path / "pairs.csv").write_text(
        "image_a,image_b\n" + "".join(f"{a},{b}\n" for a, b in pairs)
    )
    cfg = dataclasses.replace(made, near_duplicates=str(tmp_path / "pairs.csv"))
    table = split.read(cfg)
    table["subset"] = table["subset"].mask(table["image"] == left, "left out")
    counts = evaluate.near_duplicates(cfg, table)
    assert counts == {"pairs": 4, "in_two_subsets": 1, "with_official": 1, "left_out": 1}
    figures.save_near_duplicates(cfg, pixels.load(cfg.pixels_file))
    render.report(cfg, metrics | {"near_duplicates": counts})
    text = words(folder / "report.html")
    assert "1</span> more tie an image of another subset to an official test image" in text
    assert "1</span> more an image is left out, and nothing is learned from it. Judge" in text
    assert (
        text.count("data:image/jpeg") == 1
        and 'src="near_duplicates.jpg"' in text
        and "The same lesion under two ids" in text
    )
    # the list of the repository has none of these images
    figures.save_near_duplicates(made, pixels.load(cfg.pixels_file))
    assert not list(folder.glob("*.jpg"))
    render.model_card(cfg, metrics | {"near_duplicates": counts})
    text = words(folder / "model_card.md")
    assert "; of 1 more an image is left out, and nothing is learned from it. " in text
    nothing = counts | {"with_official": 0, "left_out": 0}
    render.report(cfg, metrics | {"near_duplicates": nothing})
    text = words(folder / "report.html")
    assert "or folds, of this split. Judge" in text and "left out, and" not in text


def test_of_all_folds_as_one_run_a_pair_in_two_folds_is_in_two_subsets(made, tmp_path):
    """Each of its images is val, and in the other folds it was learned from."""
    table = split.read(made).head(3).assign(subset="val", fold=[0, 0, 1])
    a, b, c = table["image"]
    (tmp_path / "pairs.csv").write_text(f"image_a,image_b\n{a},{b}\n{a},{c}\n")
    cfg = dataclasses.replace(made, near_duplicates=str(tmp_path / "pairs.csv"))
    counts = evaluate.near_duplicates(cfg, table)
    assert counts == {"pairs": 2, "in_two_subsets": 1, "with_official": 0, "left_out": 0}
