import os
import shutil
import subprocess
import sys

import pytest

from dermai_utils import settings
from dermai_utils.basics import UserError
from dermai_utils.settings import FIELDS, PRESETS, ROOT, read


def test_later_sources_win(tmp_path):
    quick = PRESETS["quick" if settings.nvidia_gpu() else "quick_cpu"]["size"]
    assert read({}).size == PRESETS["sample"]["size"]
    assert read({}, data=tmp_path).size == read({}, data="isic2018").size == quick
    assert read({"DERMAI_SIZE": "96"}).size == 96
    assert read({"DERMAI_SIZE": "96"}, size="112").size == 112
    assert read({"DERMAI_SIZE": "96"}, size="", test=[]).size == 96  # empty: not set


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for nvidia-smi")
@pytest.mark.parametrize("status, preset", [(0, "quick"), (9, "quick_cpu")])
def test_real_data_is_trained_by_what_the_machine_can_do(tmp_path, monkeypatch, status, preset):
    """9: the driver answers that no GPU is there, as on a Colab machine without one."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\necho 'Tesla T4, 15360 MiB'\nexit {status}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert settings.nvidia_gpu() == ("" if status else "Tesla T4, 15360 MiB")
    assert read({}, data=tmp_path).preset == preset and read({}).preset == "sample"


def test_every_preset_is_valid_and_none_shares_its_name_with_the_default_run():
    assert [read({}, preset=preset).preset for preset in PRESETS] == list(PRESETS)
    assert read({}).run_name not in PRESETS


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(epoch=3), "unknown setting epoch: did you mean epochs?"),
        (dict(epochs="many"), "epochs='many': expected a whole number"),
        (dict(epochs="2.5"), "epochs='2.5': expected a whole number"),
        (dict(epochs=True), "epochs=True: expected a whole number"),
        (dict(epochs="9" * 5000), "expected a whole number"),
        (dict(epochs=0), "epochs=0: expected a whole number, 1 to 1000"),
        (dict(learning_rate="fast"), "learning_rate='fast': expected a number"),
        (dict(learning_rate="nan"), "learning_rate='nan': expected a number"),
        (dict(test=[""]), "test='': no such file or folder"),
        (dict(imbalance="class_weight"), "did you mean class_weights?"),
        (dict(split="lesions"), "split='lesions': no such file or folder; expected lesion, random"),
        (dict(split="lesions"), "did you mean lesion?"),
        (dict(test="/no/such"), "test='/no/such': no such file or folder"),
        (dict(test_fraction="0.6"), "test_fraction='0.6': expected auto, or 0.0 to 0.5"),
        (dict(test_fraction="some"), "test_fraction='some': expected auto, or 0.0 to 0.5"),
        (dict(run_name="../other"), "expected a plain folder name"),
        (dict(run_name="ends in a dot."), "expected a plain folder name"),
        (dict(work_dir="a\0b"), "work_dir='a\\x00b': expected plain characters"),
        (dict(data="two\nlines"), "data='two\\nlines': expected plain characters"),
        (dict(folds=1), "folds=1"),
        (dict(val_fraction=0.5, test_fraction=0.5), "under 20 %"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(given, said):
    with pytest.raises(UserError) as caught:
        read({}, **given)
    line = str(caught.value)
    assert said in line and "\n" not in line and len(line) < 300


def test_an_unknown_setting_in_the_environment_is_named():
    with pytest.raises(UserError, match="batchsize: did you mean batch_size"):
        read({"DERMAI_BATCHSIZE": "8"})


def test_several_test_sets_and_the_samples_second_clinic(tmp_path):
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    os.mkdir(one), os.mkdir(two)
    for given in ([one, two], (one, two), os.pathsep.join([one, two])):
        assert read({}, test=given).test == (one, two)
    assert read({"DERMAI_TEST": one}).test_sets == (one,)
    assert os.path.isdir(*read({}).test_sets) and read({}, data="isic2018").test_sets == ()


def test_the_page_of_settings_is_up_to_date():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings.page(), "python -m dermai_utils settings > docs/settings.md"
    assert all(f"| `{name}` |" in page for name in FIELDS)


def test_an_installed_package_works_in_the_current_folder(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__", "*.zip")
    shutil.copytree(settings.PACKAGE, tmp_path / "site" / "dermai_utils", ignore=ignored)
    code = "from dermai_utils.settings import *; c = read(); print(c.cache, c.work)"
    options = dict(cwd=tmp_path, env=os.environ | {"PYTHONPATH": "site"}, text=True)
    said = subprocess.check_output([sys.executable, "-c", code], **options)
    assert said.split() == [str(tmp_path / kind / "sample") for kind in ("cache", "work")]
    assert read({}).run_folder == ROOT / "work" / "sample" / "runs" / "first"  # a checkout


def test_the_home_folder_may_be_written_as_a_tilde():
    home = os.path.expanduser("~")
    found = read({}, work_dir="~/w", extra="~")
    assert (found.work_dir, found.extra) == (os.path.join(home, "w"), (home,))
