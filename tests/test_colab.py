"""What only Colab has: Drive and the browser, each with a stand-in; and the cell with which every notebook begins."""

import os
import subprocess
import sys
import time
import types
import zipfile

import jupytext
import pytest

from dermai_utils import colab, config
from dermai_utils.config import ROOT

SETUP = next(cell.source for cell in jupytext.read(ROOT / "notebooks" / "00_run_all.py").cells if cell.cell_type == "code")


# Drive.


@pytest.fixture
def google(monkeypatch, tmp_path):
    """A stand-in for google.colab: what was asked (`mounts`, `saved`), what mount answers (`refusal`), an upload (`chosen`)."""
    asked = types.SimpleNamespace(mounts=[], saved=[], refusal=None, chosen={})

    def mount(path):
        asked.mounts.append(path)
        if asked.refusal:
            raise asked.refusal
        (tmp_path / "drive" / "MyDrive").mkdir(parents=True, exist_ok=True)

    package = types.ModuleType("google.colab")
    package.drive, package.files = types.SimpleNamespace(mount=mount), types.SimpleNamespace()
    package.files.download, package.files.upload = asked.saved.append, lambda: asked.chosen
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", package)
    monkeypatch.setattr(colab, "DRIVE", tmp_path / "drive")
    return asked


def test_drive_is_mounted_only_when_asked_and_holds_the_results_not_the_images(google, tmp_path, capsys):
    assert colab.folders(False, "sample") == {} and google.mounts == []
    cfg = config.load(env={}, data="isic2018", **colab.folders(True, "isic2018"))
    assert google.mounts == [str(tmp_path / "drive")]
    assert cfg.run_dir.is_relative_to(tmp_path / "drive" / "MyDrive" / "DermAI-ISIC2018" / "isic2018")
    assert not cfg.cache.is_relative_to(tmp_path / "drive") and not list(cfg.work.iterdir())
    assert str(cfg.work) in capsys.readouterr().out
    assert colab.folders(True, "sample") != colab.folders(True, "isic2018")  # two data sets never share a table


def test_a_repository_that_lies_on_drive_has_its_images_elsewhere(google, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path / "drive" / "MyDrive" / "repository")
    cfg = config.load(env={}, **colab.folders(True))
    assert cfg.cache == tmp_path / "cache" / "sample"


REFUSALS = ValueError("mount failed"), Exception("Error: credential propagation\nwas unsuccessful"), OSError(5, "")


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_mount_is_one_line_and_the_run_stays_here(google, refusal, capsys):
    google.refusal = refusal
    assert colab.folders(True) == {}
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "not mounted" in out and "this machine" in out


def test_a_full_drive_is_one_line_too(google, tmp_path, capsys):
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    (tmp_path / "drive" / "MyDrive" / "DermAI-ISIC2018").write_text("a file where the folder should be")
    assert colab.folders(True) == {} and capsys.readouterr().out.count("\n") == 1


def test_without_colab_there_is_no_drive_no_download_and_no_upload(capsys, tmp_path):
    assert colab.folders(True) == {}
    colab.download(tmp_path / "x.zip")
    assert colab.upload() == {}
    out = capsys.readouterr().out
    assert out.count("\n") == 3 and out.count("not Colab") == 2 and "x.zip" in out


def test_the_report_goes_to_the_browser_as_one_zip(google, tmp_path):
    report = tmp_path / "baseline"
    report.mkdir()
    for name in ("report.html", "metrics.json", ".evaluate.json"):
        (report / name).write_text(name)
    colab.download(colab.zipped(report))
    assert google.saved == [str(tmp_path / "baseline.zip")]
    with zipfile.ZipFile(tmp_path / "baseline.zip") as bundle:
        assert {name: bundle.read(name).decode() for name in bundle.namelist()} == {
            "baseline/report.html": "report.html", "baseline/metrics.json": "metrics.json"}  # fmt: skip


def test_an_upload_is_what_was_chosen_and_nothing_is_one_line(google, capsys):
    google.chosen = {"mine.jpg": b"..."}
    assert colab.upload() == google.chosen and not capsys.readouterr().out
    google.chosen = {}
    assert colab.upload() == {} and capsys.readouterr().out.startswith("upload: nothing was chosen")


# The setup cell, on a machine that has nothing but this notebook.


ENVIRONMENT = "def setup(): print({version!r})\n"


def git(*arguments, cwd):
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True)


def package(folder, version):
    (folder / "dermai_utils").mkdir(parents=True, exist_ok=True)
    (folder / "dermai_utils" / "config.py").write_text("")
    (folder / "dermai_utils" / "environment.py").write_text(ENVIRONMENT.format(version=version))
    return folder


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A repository with tag v1, and a later commit on main."""
    folder = tmp_path_factory.mktemp("origin")
    git("init", cwd=folder)
    for version in ("v1", "later"):
        package(folder, version)
        git("add", ".", cwd=folder)
        git("commit", "-m", version, cwd=folder)
        git(*(["tag", "v1"] if version == "v1" else ["status"]), cwd=folder)
    return folder


PLAIN = """
try:
    exec({0!r}, globals())
except Exception as error:
    print(*error._render_traceback_(), sep="\\n")  # what IPython asks an error for
"""
IPYTHON = "from IPython.core.interactiveshell import InteractiveShell as Shell; Shell.instance().run_cell({0!r})"


def start_cell(folder, repository="", tag="v1", before="", path=None, shell=PLAIN):
    """The setup cell, running in `folder` in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    source = SETUP.replace('REPOSITORY, TAG = "", "main"', f"REPOSITORY, TAG = {str(repository)!r}, {tag!r}")
    assert repr(str(repository)) in source
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ({"PATH": path} if path else {})
    command = [sys.executable, "-c", shell.format(before + source)]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def shown(*arguments, **options):
    return start_cell(*arguments, **options).communicate(timeout=60)[0].strip()


def test_the_setup_cell_clones_the_pinned_tag_once(origin, tmp_path):
    content = tmp_path / "content"
    assert shown(content, origin) == "v1"  # not "later"
    assert shown(content, tmp_path / "gone") == "v1"  # a second time it fetches nothing
    assert [path.name for path in content.iterdir()] == ["DermAI-ISIC2018-v1"]
    assert shown(content, origin, "main") == "later"  # another notebook, another version: never mixed


def test_the_setup_cell_finds_the_package_from_any_folder(tmp_path):
    repository = package(tmp_path / "elsewhere", "found")
    for folder in (repository, repository / "notebooks" / "deep"):
        assert shown(folder, "unused") == "found"
    before = f"__vsc_ipynb_file__ = {str(repository / 'notebooks' / 'x.ipynb')!r}\n"
    assert shown(tmp_path / "workspace", before=before) == "found"  # VS Code


def test_a_clone_that_was_cut_off_is_not_believed(origin, tmp_path):
    slow = tmp_path / "bin"
    package(slow, "half")
    script = ["#!/bin/sh", "for last; do :; done", f'cp -r "{slow}" "$last"', f'touch "{tmp_path}/started"', "exec sleep 60"]
    (slow / "git").write_text("\n".join(script))
    (slow / "git").chmod(0o755)
    content = tmp_path / "content"
    killed = start_cell(content, origin, path=f"{slow}:{os.environ['PATH']}")
    while not (tmp_path / "started").exists():
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    assert list(content.rglob("config.py"))  # it did leave a folder that looks like the package
    assert shown(content, origin) == "v1"
    assert [path.name for path in content.iterdir()] == ["DermAI-ISIC2018-v1"]


FAILURES = {
    "REPOSITORY": ("", "main", None),
    "does not exist": ("/no/such/repository", "v1", None),
    "v9 not found": ("origin", "v9", None),
    "'git'": ("origin", "v1", "/nowhere"),
}


@pytest.mark.parametrize("word", FAILURES)
def test_a_clone_that_fails_is_one_plain_line(word, origin, tmp_path):
    repository, tag, path = FAILURES[word]
    said = shown(tmp_path / "content", origin if repository == "origin" else repository, tag, path=path)
    assert said.startswith("error: ") and word in said and "\n" not in said


def test_and_so_a_notebook_shows_it(tmp_path):
    said = shown(tmp_path, "/no/such/repository", shell=IPYTHON)
    assert said.startswith("error: /no/such/repository v1") and "\n" not in said
