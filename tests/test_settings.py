import os

import pytest

from dermai_utils import settings
from dermai_utils.basics import UserError
from dermai_utils.settings import PRESETS, ROOT, read


def test_later_sources_win(tmp_path):
    assert read({}).size == PRESETS["sample"]["size"]
    assert read({}, preset="quick").size == PRESETS["quick"]["size"]
    assert read({"DERMAI_SIZE": "96"}).size == 96
    assert read({"DERMAI_SIZE": "96"}, size="112").size == 112
    assert read({"DERMAI_SIZE": "96", "DERMAI_SEED": ""}, size="", test=[]).size == 96  # not set
    with pytest.raises(UserError, match="batchsize: did you mean batch_size"):
        read({"DERMAI_BATCHSIZE": "8"})


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for nvidia-smi")
@pytest.mark.parametrize("status, preset", [(0, "quick"), (9, "quick_cpu")])
def test_real_data_is_trained_by_what_the_machine_can_do(tmp_path, monkeypatch, status, preset):
    """9: the driver answers that no GPU is there, as on a Colab machine without one."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\necho 'Tesla T4, 15360 MiB'\nexit {status}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert settings.nvidia_gpu() == ("" if status else "Tesla T4, 15360 MiB")
    assert read({}, data=tmp_path).preset == read({}, data="isic2018").preset == preset
    assert read({}).preset == "sample"


def test_every_preset_is_valid_and_none_shares_its_name_with_the_default_run():
    assert [read({}, preset=preset).preset for preset in PRESETS] == list(PRESETS)
    assert read({}).run_name not in PRESETS


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(epoch=3), "unknown setting epoch: did you mean epochs?"),
        (dict(epochs="2.5"), "epochs='2.5': expected a whole number, 1 to 1000"),
        (dict(epochs=True), "expected a whole number"),
        (dict(epochs="9" * 5000), "expected a whole number"),
        (dict(epochs=0), "epochs='0': expected a whole number"),
        (dict(learning_rate="nan"), "learning_rate='nan': expected a number"),
        (dict(test=[""]), "test='': no such file or folder"),
        (dict(test="/no/such"), "test='/no/such': no such file or folder"),
        (dict(imbalance="class_weight"), "did you mean class_weights?"),
        (dict(split="lesions"), "split='lesions': no such file or folder; expected lesion, random"),
        (dict(test_fraction="0.6"), "test_fraction='0.6': expected auto, 0.0 to 0.5"),
        (dict(run_name="../other"), "expected a plain folder name"),
        (dict(run_name="ends in a dot."), "expected a plain folder name"),
        (dict(run_name="two\nlines"), "expected a plain folder name"),
        (dict(data="two\nlines"), "data='two\\nlines': no such file or folder"),
        (dict(folds=1), "folds='1': expected a whole number, 0, 2 to 20"),
        (dict(val_fraction=0.5, test_fraction=0.5), "under 20 %"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(given, said):
    with pytest.raises(UserError) as caught:
        read({}, **given)
    line = str(caught.value)
    assert said in line and "\n" not in line and len(line) < 300


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


def test_the_home_folder_may_be_a_tilde_and_a_checkout_keeps_its_results():
    home = os.path.expanduser("~")
    found = read({}, work_dir="~/w", extra="~")
    assert (found.work_dir, found.extra) == (os.path.join(home, "w"), (home,))
    assert read({}).run_folder == ROOT / "work" / "sample" / "runs" / "first"
