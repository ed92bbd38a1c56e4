import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from dermai_utils import config, pipeline
from dermai_utils.__main__ import COMMANDS, STAGES_OF, main, read_words, settings_page
from dermai_utils.config import UserError, load


def test_later_sources_win():
    assert load(env={}).image_size == config.PRESETS["sample"]["image_size"]
    assert load(env={}, data="isic2018").image_size == config.PRESETS["quick"]["image_size"]
    assert load(env={"DERMAI_IMAGE_SIZE": "96"}).image_size == 96
    assert load(env={"DERMAI_IMAGE_SIZE": "96"}, image_size="112").image_size == 112
    # an empty form field is not set
    assert load(env={"DERMAI_IMAGE_SIZE": "96"}, image_size="").image_size == 96


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
        (dict(work_dir="x" * 300), "xxx: expected folders and files whose names"),
        (
            dict(extra="a/" + "é" * 130),
            "expected folders and files whose names have at most 255 bytes",
        ),
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
    assert (
        said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300
    )


def test_an_unknown_field_in_the_environment_is_named():
    with pytest.raises(UserError, match="batchsize: did you mean batch_size"):
        load(env={"DERMAI_BATCHSIZE": "8"})


@pytest.mark.parametrize("field", config.FIELDS.values(), ids=config.FIELDS)
def test_every_number_and_choice_refuses_what_it_is_not(field):
    if field.type is bool or not isinstance(field.metadata["allowed"], str):
        with pytest.raises(UserError, match=field.name):
            load(env={}, **{field.name: "no such thing"})


def test_the_page_of_settings_is_what_the_package_says():
    page = (config.ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), "python -m dermai_utils settings > docs/settings.md"
    assert all(f"| `{name}` |" in page for name in config.FIELDS)


def test_without_words_each_command_has_a_line_with_an_example_that_is_understood(capsys):
    assert main([]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and "--help" in last
    for line in lines:
        command, *words = line.partition("python -m dermai_utils ")[2].split()
        assert line.split()[0] == pipeline.stage_name(command, (*COMMANDS, "compare")) == command
        settings, _ = read_words(words, image=(), run="", other="")
        load(env={}, **settings)


def test_help_groups_the_settings_by_the_stages_that_read_them(capsys):
    """With defaults and choices. What a stage depends on stands under its name."""
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    headings = re.findall(r"^(\w.*) \((.*)\)$", said, re.M)
    assert dict(headings) == STAGES_OF
    assert all(f"  --{name.replace('_', '-')} " in said for name in config.FIELDS)
    assert "one_cycle, constant (default one_cycle)" in said
    for name, stage in pipeline.STAGES.items():
        for field in stage.fields:
            readers = STAGES_OF[config.FIELDS[field].metadata["group"]]
            assert name in readers or "all after it" in readers, (name, field)


def test_words_are_settings_and_a_tools_own_options():
    words = ["--image-size=64", "--rows", "a", "b", "--epochs", "3", "--kills", "7", "--seed", "-1"]
    settings, options = read_words(words, rows=(), kills=100, json="here")
    assert settings == {"image_size": "64", "epochs": "3", "seed": "-1"}
    assert options == {"rows": ("a", "b"), "kills": 7, "json": "here"}


@pytest.mark.parametrize(
    "words, said",
    [
        ("stray", "stray: expected --setting value"),
        ("--epochs", "--epochs: expected pairs"),
        ("--epochs --seed 1", "--epochs: expected pairs"),
        ("--epochs 3 stray", "--epochs 3 stray: expected pairs"),
        ("--kills x", "kills='x': expected a number, such as 100"),
    ],
)
def test_a_word_that_cannot_be_read_is_named(words, said):
    with pytest.raises(UserError, match=said):
        read_words(words.split(), kills=100)


@pytest.mark.parametrize(
    "cell, shown",
    [
        (
            "from dermai_utils import config; config.load(epochs='x')",
            "error: epochs='x': expected a whole number",
        ),
        (
            "from dermai_utils.training import loop; raise loop.Interrupted('stopped; go on')",
            "stopped; go on",
        ),
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
    (tmp_path / "runs" / "baseline" / "config.json").write_text(
        '{"image_size": 48, "epochs": 3, "table": "x"}'
    )
    assert config.of_run(**given).image_size == 48
    assert config.of_run(**given, epochs=5).epochs == 5
    assert (
        config.of_run(**given, run_name="other").image_size
        == config.PRESETS["sample"]["image_size"]
    )


OLD = {"views": 4, "deferred": False, "optimizer": "adamw", "masks": "", "image_size": 48}


def test_old_names_are_understood_and_announced(capsys):
    cfg = load(env={"DERMAI_VIEWS": "2", "DERMAI_OPTIMIZER": "adamw"}, deferred="false")
    assert (cfg.tta, cfg.drw) == (2, False)
    assert capsys.readouterr().out.splitlines() == [
        "setting views is now called tta",
        "setting optimizer was removed, it is always adamw",
        "setting deferred is now called drw",
    ]
    assert load(env={"DERMAI_TTA": "2"}, views=4).tta == 4
    assert load(env={"DERMAI_VIEWS": "2"}, tta=4).tta == 4
    assert load(env={}, views=2, tta=4).tta == 4


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(optimizer="adam"), "setting optimizer was removed, it is always adamw"),
        (dict(masks="folder"), "setting masks was removed, it is always empty"),
        (dict(imbalance="focal"), "imbalance='focal': expected one of none, class_weights"),
        (dict(schedule="cosine"), "schedule='cosine': expected one of one_cycle, constant"),
        (dict(views=3), "tta=3: expected one of 1, 2, 4, 8"),
    ],
)
def test_a_value_that_is_gone_is_one_line(given, said):
    with pytest.raises(UserError, match=said):
        load(env={}, **given)


def of_old_run(folder, **settings):
    path = folder / "runs" / "baseline" / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(OLD | settings))
    return config.of_run(env={}, work_dir=str(folder))


def test_a_run_of_an_earlier_version_keeps_its_settings(tmp_path, capsys):
    cfg = of_old_run(tmp_path)
    assert (cfg.tta, cfg.drw, cfg.image_size) == (4, False, 48)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "gone", [dict(imbalance="focal"), dict(schedule="cosine"), dict(optimizer="adam")], ids=str
)
def test_a_run_that_this_version_cannot_make_is_refused_by_name(tmp_path, gone):
    ((name, value),) = gone.items()
    with pytest.raises(UserError, match=f"config.json: this version has no {name}={value}; give"):
        of_old_run(tmp_path, **gone)


def test_modernised_settings_of_today_are_as_they_were():
    today = {"tta": 2, "epochs": 3, "split file": "abc", "table": None}
    assert config.modernised(today) == config.supported(today, "here") == today
    assert config.modernised({"views": 2, "optimizer": "adam"}) == {"tta": 2, "optimizer": "adam"}


def test_an_installed_package_works_in_the_current_folder(tmp_path):
    package = config.ROOT / "dermai_utils"
    ignored = shutil.ignore_patterns("__pycache__", "*.zip")
    shutil.copytree(package, tmp_path / "site" / "dermai_utils", ignore=ignored)
    (tmp_path / "here").mkdir()
    code = "from dermai_utils.config import *; c = load(); print(c.cache, c.work, SAMPLE, sep='|')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(c.near_duplicates_file.exists())"],
        cwd=tmp_path / "here",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    folders, exists = done.stdout.split()
    here, sample = tmp_path / "here", tmp_path / "site" / "dermai_utils" / "sample"
    assert folders.split("|") == [
        str(here / "cache/sample"),
        str(here / "work/sample"),
        str(sample),
    ]
    assert exists == "True"
    assert load(env={}).work == config.ROOT / "work" / "sample"  # a checkout


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    cfg = load(env={}, work_dir="~/w", data="~nobody-of-this-name/d", weights="~/w.pth")
    assert (cfg.work_dir, cfg.weights) == ("/home/me/w", "/home/me/w.pth")
    assert cfg.data == "~nobody-of-this-name/d"  # no such user: no such folder


def test_paths_read_the_same_on_every_machine(tmp_path):
    cfg = load(env={}, work_dir=str(tmp_path / "w"), cache_dir=str(tmp_path / "c"))
    assert cfg.show(cfg.split_file) == "work/sample/split.csv"
    assert cfg.show(cfg.sources_file) == "cache/sample/sources.json"
