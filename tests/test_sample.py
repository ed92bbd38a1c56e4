"""The sample: its bytes, its mix, its faults, and what its preset gives."""

import make_sample
import pandas as pd
import pictures
import pytest
from PIL import Image

import dermai_utils as dermai
from dermai_utils import commands, files, predictions, settings
from dermai_utils.basics import CLASSES
from dermai_utils.settings import PACKAGE, ROOT
from dermai_utils.study import decisions


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """(Settings, Dataset) of the preset."""
    folder = tmp_path_factory.mktemp("sample")
    s = settings.read({}, cache_dir=folder / "cache", work_dir=folder / "work", device="cpu")
    return s, commands.load(s)


@pytest.fixture(scope="module")
def run(sample):
    """The one training of these tests."""
    return commands.trained(*sample, commands.subsets(*sample))


def test_the_script_makes_the_committed_bytes(tmp_path):
    make_sample.make(tmp_path)
    made = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert len(made) == 9
    for name in made:
        assert (tmp_path / name).read_bytes() == (PACKAGE / name).read_bytes(), name


def test_the_mix_of_classes(sample):
    table = sample[1].table
    kinds = {name: rows["label"].value_counts() for name, rows in table.groupby("source")}
    assert set(kinds) == {"train", "official", "sample_elsewhere"}
    for name, share in (("train", 1 / 2), ("official", 1 / 3)):
        counts = kinds[name]
        assert counts["NV"] / counts.sum() == pytest.approx(share, abs=0.03)
        assert set(counts.nsmallest(2).index) == {"DF", "VASC"}
    assert kinds["official"].reindex(CLASSES).min() >= 6 and kinds["official"].sum() == 81
    elsewhere = kinds["sample_elsewhere"]
    assert elsewhere.sum() == 40 and not {"DF", "VASC"} & set(elsewhere.index)
    pictures_of = table[table["source"] == "train"]["lesion_id"].value_counts()
    assert pictures_of.max() == 5 and (pictures_of == 1).sum() > 60


def test_every_fault_is_on_its_own_id(sample):
    rejected, table = sample[1].rejected, sample[1].table.set_index("image")
    expected = {
        901: "image file missing",
        902: "image without a label row",
        903: "truncated or damaged image",
        904: "not an image",
        905: "the file is empty (zero bytes)",
        906: "no label",
        907: "several labels",
        908: "duplicate id (the first row is kept)",
        909: "duplicate id with different labels | duplicate id with different labels",
    }
    reasons = rejected.groupby("image")["reason"].agg(" | ".join).to_dict()
    assert reasons == {f"ISIC_9000{number}": reason for number, reason in expected.items()}
    rows = table.loc[[f"ISIC_9000{number}" for number in (908, *range(910, 921))]]
    assert not table.index.isin([f"ISIC_9000{number}" for number in (*range(901, 908), 909)]).any()
    rows.index = rows.index.str[-3:].astype(int)
    copies = [set(group.index) for _, group in rows.groupby("pixel_hash") if len(group) > 1]
    assert sorted(map(sorted, copies)) == [[910, 911], [912, 913], [914, 915]]
    assert set(rows.loc[[912, 913], "label"]) == {"NV", "MEL"}
    assert len(set(rows.loc[[914, 915, 916, 917], "lesion_id"])) == 2
    groups = pd.Series(dermai.groups(table.reset_index()), table.index)
    for together in ((910, 911), (912, 913), (914, 915, 916, 917), (919, 920)):
        assert groups[[f"ISIC_9000{number}" for number in together]].nunique() == 1


def test_one_seed_gives_mistakes_to_learn_from(run):
    """Wide limits: another processor gives other weights."""
    found = dermai.evaluate(run.predictions, run.table, n_resamples=20)
    assert 0.60 <= found["subsets"]["official"]["balanced_accuracy"] <= 0.95
    rows = predictions.primary_rows(decisions.called(run.predictions, found["decisions"]))
    wrong = predictions.mistakes(rows)
    assert len(wrong[["truth", "prediction"]].drop_duplicates()) >= 3


def test_the_readmes_picture_shows_the_committed_number():
    metrics = files.read_json(ROOT / "assets" / "sample_metrics.json")
    number = metrics["intervals"]["official"]["balanced_accuracy"]["value"]
    shown = Image.open(ROOT / "assets" / "report.png").text[pictures.SHOWN]
    assert shown == f"{number:.3f}"
