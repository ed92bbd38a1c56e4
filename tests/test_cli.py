"""Every command on the sample. They run in this process; `made` (conftest.py) is run once."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small import SMALL

import dermai_utils
from dermai_utils import cli, commands, files, settings
from dermai_utils.basics import CLASSES, DISCLAIMER, UserError

ELSEWHERE = settings.PACKAGE / "sample_elsewhere"


@pytest.fixture
def call(made, capsys):
    """call(command, *words, **settings): (exit status, lines printed, error line), in the folders
    of `made`."""

    def run(command, *words, **given):
        capsys.readouterr()
        given = dict(cache_dir=made.cache, work_dir=made.work) | given
        words += tuple(f"--{name.replace('_', '-')}={value}" for name, value in given.items())
        status = cli.main([command, *words])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.strip().rpartition("\n")[2]

    return run


def test_a_reader_that_wants_no_more_is_no_error():
    """As in `python -m dermai_utils settings | head -1`."""
    command = [sys.executable, "-u", "-m", "dermai_utils", "settings"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=settings.ROOT)
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 0


# Words.


def test_help_names_every_command_and_its_settings_beside_version_and_list(capsys):
    def said(*words):
        assert cli.main(words) == 0
        return capsys.readouterr().out

    assert said() == said("--help")
    assert [line.split()[0] for line in said().splitlines()[2:-3]] == list(cli.COMMANDS)
    assert all(
        f"--{name.replace('_', '-')} " in said("train", "--help") for name in settings.FIELDS
    )
    assert "--run-name" in said("report", "-h") and "--epochs" not in said("report", "-h")
    assert said("--version").startswith(f"DermAI-ISIC2018 {dermai_utils.__version__}, Python")
    assert said("settings") == settings.page()


@pytest.mark.parametrize(
    "words, said",
    [
        ("trian", "unknown command 'trian': did you mean train?"),
        ("xyz", "unknown command 'xyz': expected one of run, data, split"),
        ("train --epoch 3", "unexpected --epoch, did you mean --epochs?"),
        ("report --epochs 3", "unexpected --epochs, which this command does not read"),
        ("train --epochs", "argument --epochs: expected one argument"),
        ("train stray", "unexpected stray"),
        ("train --seed -1", "seed='-1': expected a whole number, 0 to"),
        ("train --data=", "--data is blank: expected sample, isic2018, or a path"),
        ("predict --image=", "--image is blank"),
        ("predict", "predict needs --image PHOTO"),
        ("predict photo.jpg", "unexpected photo.jpg, did you mean --image photo.jpg?"),
        ("compare", "compare needs --other NAME"),
        ("evaluate --pretrained", "evaluate: give --test FOLDER"),
        ("evaluate --test tests", "evaluate: which model? give --pretrained, --run PACK or"),
    ],
)
def test_a_wrong_word_is_one_line(words, said, capsys):
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_words_become_settings_and_own_options():
    words = ["--image", "a", "b", "--image=c", "--test", "d", "--base-url=x"]
    given, own = cli.split_words(cli.parser("predict"), words)
    assert given == {"test": ["d"], "base_url": "x"} and own == {"image": ["a", "b", "c"]}


@pytest.mark.parametrize(
    "error, status, line",
    [
        (UserError("no"), 2, "error: no"),
        (FileNotFoundError(2, "No such file", "x.csv"), 2, "error: x.csv: No such file; put that"),
        (OSError("odd"), 2, "error: odd; put that right"),
        (MemoryError(), 2, "error: out of memory (MemoryError): give a smaller --batch-size"),
        (RuntimeError("CUDA out of memory. Tried"), 2, "error: out of memory (CUDA out of memory)"),
        (KeyboardInterrupt(), 130, "interrupted; run it again to go on"),
        (KeyboardInterrupt("stopped after step 2"), 130, "stopped after step 2"),
    ],
)
def test_what_a_user_can_mend_ends_in_one_line_and_a_bug_in_a_traceback(
    error, status, line, capsys
):
    def fail(reason):
        raise reason

    assert cli.exit_status(fail, error) == status
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1
    with pytest.raises(RuntimeError, match="shapes"):
        cli.exit_status(fail, RuntimeError("shapes differ"))


def test_one_line_is_all_that_a_notebook_shows(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    cell = "from dermai_utils import settings; settings.read({}, epochs='x')"
    InteractiveShell.instance().run_cell(cell)
    said = "".join(capsys.readouterr()).strip()
    assert said == "error: epochs='x': expected a whole number, 1 to 1000"


# The commands.


def test_run_leaves_everything(made):
    run = made.run_folder
    for name in ("report.html", "model_card.md", "answers.safetensors"):
        assert (run / name).stat().st_size > 500, name
    assert set(files.read_json(run / "studies.json")) == {"probe", "leakage_effect"}
    assert run.name in (made.work / "index.html").read_text(encoding="utf-8")
    table, kept = (files.read_table(folder / "table.csv") for folder in (made.work, run))
    assert table.equals(kept) and "path" not in table
    subsets = files.read_json(run / "metrics.json")["subsets"]
    assert set(subsets) == {"val", "official", "sample_elsewhere"}
    assert str(made.cache.parent) not in (run / "settings.json").read_text(encoding="utf-8")


def test_run_again_trains_nothing_and_changes_nothing(call, made):
    names = ("best.pt", "predictions.csv", "metrics.json", "table.csv")
    before = [(made.run_folder / name).read_bytes() for name in names]
    status, lines, _ = call("run", **SMALL)
    assert status == 0 and lines[-1] == str(made.run_folder / "report.html")
    assert any("already done" in line for line in lines) and "epoch 1/2" not in "".join(lines)
    assert [(made.run_folder / name).read_bytes() for name in names] == before


def test_data_and_split_and_an_edited_split(call, made, tmp_path):
    given = {"size": SMALL["size"], "data": "sample", "work_dir": tmp_path}
    status, lines, _ = call("data", **given)
    assert status == 0 and lines[-1] == str(tmp_path / "table.csv")
    assert set(files.read_table(tmp_path / "rejected.csv")) == {"image", "source", "reason"}
    (tmp_path / ".audit.json.4711.tmp").write_text("{")  # of a killed process
    status, lines, _ = call("split", **given)
    assert not list(tmp_path.glob(".*.tmp"))
    assert status == 0 and "not known" in lines[-2] and "NA" not in lines[-2]
    table, kept = (files.read_table(x / "table.csv") for x in (tmp_path, made.run_folder))
    assert table["subset"].tolist() == kept["subset"].tolist()
    shared = files.read_json(tmp_path / "audit.json")["train/val"]
    assert shared["lesions"] == shared["copies"] == 0
    home = table[table["source"] == "train"].copy()
    home.loc[home.index[0], "subset"] = "left out"
    files.write_table(home[["image", "subset"]], tmp_path / "mine.csv")
    assert call("split", split=tmp_path / "mine.csv", **given)[0] == 0
    edited = files.read_table(tmp_path / "table.csv").set_index("image")["subset"]
    assert edited[home["image"].iloc[0]] == "left out"


def test_gradcam_and_export_lie_in_the_run(call, made):
    for command, name in (("gradcam", "gradcam.json"), ("export", "model.")):
        status, lines, _ = call(command)
        assert status == 0 and lines[-1].startswith(str(made.run_folder / name))


@pytest.mark.parametrize(
    "command, given, said",
    [
        ("report", dict(run_name="frist"), "there is no such run; did you mean first?"),
        ("report", dict(data="isic2018"), "run first was trained on data=sample, not on isic2018"),
        ("predict", dict(image="/no/x.jpg", run_name="first"), "error: /no/x.jpg: "),
        ("train", SMALL | {"learning_rate": 0.1}, "learning_rate was 0.0"),
    ],
)
def test_a_run_or_photo_that_is_not_there_and_other_settings_are_one_line(
    call, command, given, said
):
    status, _, error = call(command, **given)
    assert status == 2 and said in error


def test_a_test_set_that_comes_later_adds_rows_and_loses_nothing(call, made, tmp_path):
    shutil.copytree(made.work, tmp_path / "work")
    shutil.copytree(ELSEWHERE, tmp_path / "Basel")
    status, _, _ = call(
        "evaluate", test=tmp_path / "Basel", run_name="first", work_dir=tmp_path / "work"
    )
    folder = tmp_path / "work" / "runs" / "first"
    assert status == 0 and "Basel" in set(files.read_table(folder / "predictions.csv")["subset"])
    assert "Basel" not in set(files.read_table(folder / "table.csv")["subset"])
    assert "Basel" in files.read_json(folder / "answers.json")["sets"]
    before, after = (files.read_json(x / "metrics.json") for x in (made.run_folder, folder))
    for name in ("probe", "leakage_effect"):
        assert before[name] and after[name] == before[name]


def test_two_runs_are_compared(call, made, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(made.run_folder, tmp_path / "runs" / name)
    status, lines, _ = call("compare", "--other", "second", work_dir=tmp_path)
    assert status == 0 and lines[-1].startswith("over 0: first is better")
    assert any(line.split()[:2] == ["balanced_accuracy", "0.0"] for line in lines)


@pytest.mark.parametrize("command", ["probe", "leakage-effect", "near-duplicates"])
def test_the_studies(call, tmp_path, command):
    given = {name: SMALL[name] for name in ("size", "backbone", "weights", "device")}
    status, lines, _ = call(command, **given | {"work_dir": tmp_path})
    assert status == 0 and lines[-1].startswith(str(tmp_path))


def test_without_a_class_in_training_there_is_no_probe_and_the_run_goes_on(made, capsys):
    dataset = commands.load(made)
    subset = commands.subsets(made, dataset)
    subset = subset.mask((dataset.table["label"] == "DF") & (subset == "train"), "left out")
    found = commands._studies(made, dataset, subset)
    assert found["probe"] is None and found["leakage_effect"]["classifiers"]
    assert "not possible here: linear probe: no image of DF" in capsys.readouterr().out


def test_folds(call, tmp_path):
    given = SMALL | {"epochs": 1, "work_dir": tmp_path, "folds": 2}
    status, lines, _ = call("train", **given)
    folder = tmp_path / "runs" / "first"
    assert status == 0 and lines[-1] == str(folder)
    rows = files.read_table(folder / "predictions.csv")
    assert set(rows["fold"]) == {-1, 0, 1} and (folder / "1" / "best.pt").exists()
    assert call("report", work_dir=tmp_path)[0] == 0
    assert files.read_json(folder / "metrics.json")["folds"] == 2


# Answers.


def test_predict_and_a_pack_give_the_same_answer(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.unpack_archive(ELSEWHERE / "ISIC_2019_Training_Input.zip", "photos")
    photo = next(Path("photos").rglob("*.jpg"))
    status, lines, _ = call("predict", image=photo, run_name="first")
    assert lines[0].startswith("answers by run first, trained on 2")
    assert status == 0 and DISCLAIMER in lines and photo.name in "".join(lines)
    packed = call("pack")[1][-1]
    given = dict(image=photo, run=packed, cache_dir=tmp_path / "cache")
    status, again, _ = call("predict", **given)
    assert status == 0 and any(line.startswith("answers by pack first-") for line in again)
    written = [each[-1].removeprefix("table written to ") for each in (lines, again)]
    assert written[1] == str(tmp_path / "own_predictions.csv")
    tables = [files.read_table(path)[list(CLASSES)] for path in written]
    assert tables[0].equals(tables[1])
    status, _, error = call("predict", **given, run_name="first")
    assert status == 2 and error.startswith("error: --run and --run-name: give one of them")


def test_a_pack_is_evaluated_in_a_folder_of_its_own(call, made, tmp_path):
    """On another clinic's images, without any training; the run's own folder stays as it is."""
    packed = call("pack")[1][-1]
    before = sorted(made.run_folder.iterdir())
    folders = dict(cache_dir=tmp_path / "cache", work_dir=tmp_path)
    status, lines, _ = call("evaluate", run=packed, test=ELSEWHERE, **folders)
    page = tmp_path / "packs" / Path(packed).stem / "sample_elsewhere" / "report.html"
    assert status == 0 and lines[-1] == str(page)
    assert 'data-key="answers/sets/sample_elsewhere/answered"' in page.read_text(encoding="utf-8")
    assert sorted(made.run_folder.iterdir()) == before
