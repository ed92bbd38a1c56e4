import dataclasses

import pytest

from dermai_utils import config
from dermai_utils.config import Config, UserError, load


def test_later_sources_win():
    assert load(env={}).image_size == config.PRESETS["sample"]["image_size"]
    assert load(env={}, data="isic2018").image_size == config.PRESETS["quick"]["image_size"]
    assert load(env={"DERMAI_IMAGE_SIZE": "96"}).image_size == 96
    assert load(env={"DERMAI_IMAGE_SIZE": "96"}, image_size="112").image_size == 112
    assert load(env={"DERMAI_IMAGE_SIZE": "96"}, image_size="").image_size == 96  # an empty form field is not set


def test_every_preset_is_valid():
    for preset in config.PRESETS:
        assert load(env={}, preset=preset).preset == preset


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(epoch=3), "unknown setting epoch: did you mean epochs?"),
        (dict(epochs="many"), "epochs='many': expected a whole number"),
        (dict(epochs="2.5"), "epochs='2.5': expected a whole number"),
        (dict(epochs=0), "epochs=0: expected 1 to 1000"),
        (dict(learning_rate="fast"), "learning_rate='fast': expected a number"),
        (dict(learning_rate="nan"), "learning_rate='nan': expected a number"),
        (dict(augment="perhaps"), "augment='perhaps': expected true or false"),
        (dict(imbalance="class_weight"), "did you mean class_weights?"),
        (dict(split="lesions"), "did you mean lesion?"),
        (dict(run_name="../other"), "expected a plain folder name"),
        (dict(run_name="x" * 300), "expected a plain folder name"),
        (dict(run_name="ends in a dot."), "expected a plain folder name"),
        (dict(work_dir="a\0b"), "work_dir='a\\x00b': expected plain characters"),
        (dict(data="two\nlines"), "data='two\\nlines': expected plain characters"),
        (dict(epochs="9" * 5000), "expected a whole number"),
        (dict(epochs=[1]), "epochs=[1]: expected a whole number"),
        (dict(folds=1), "folds=1"),
        (dict(folds=5, fold=5), "0 to 4"),
        (dict(val_fraction=0.5, test_fraction=0.5), "under 20 %"),
        (dict(seed=-1), "seed=-1: expected 0 to"),
    ],
)
def test_bad_settings_are_one_line_that_names_the_field(given, said):
    with pytest.raises(UserError) as caught:
        load(env={}, **given)
    assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_an_unknown_field_in_the_environment_is_named():
    with pytest.raises(UserError, match="batchsize: did you mean batch_size"):
        load(env={"DERMAI_BATCHSIZE": "8"})


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda field: field.name)
def test_every_number_and_choice_refuses_what_it_is_not(field):
    if field.type in (int, float, bool) or field.name in config._CHOICES:
        with pytest.raises(UserError, match=field.name):
            load(env={}, **{field.name: "no such thing"})


@pytest.mark.parametrize(
    "cell, shown",
    [
        ("from dermai_utils import config; config.load(epochs='x')", "error: epochs='x': expected a whole number"),
        ("from dermai_utils import train; raise train.Interrupted('stopped; run it again')", "stopped; run it again"),
    ],
    ids=["a mistake", "the stop button"],
)
def test_one_line_is_all_that_a_notebook_shows(cell, shown, capsys):
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.instance().run_cell(cell)
    assert "".join(capsys.readouterr()).strip() == shown


def test_a_run_keeps_its_settings_unless_told_otherwise(tmp_path):
    given = dict(env={}, work_dir=str(tmp_path))
    (tmp_path / "runs" / "baseline").mkdir(parents=True)
    (tmp_path / "runs" / "baseline" / "config.json").write_text('{"image_size": 48, "epochs": 3, "table": "x"}')
    assert config.of_run(**given).image_size == 48
    assert config.of_run(**given, epochs=5).epochs == 5
    assert config.of_run(**given, run_name="other").image_size == config.PRESETS["sample"]["image_size"]


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    cfg = load(env={}, work_dir="~/w", data="~nobody-of-this-name/d", weights="~/w.pth")
    assert (cfg.work_dir, cfg.weights) == ("/home/me/w", "/home/me/w.pth")
    assert cfg.data == "~nobody-of-this-name/d"  # no such user: no such folder


def test_paths_read_the_same_on_every_machine(tmp_path):
    cfg = load(env={}, work_dir=str(tmp_path / "w"), cache_dir=str(tmp_path / "c"))
    assert cfg.show(cfg.split_file) == "work/split.csv"
    assert cfg.show(cfg.sources_file) == "cache/sources.json"
