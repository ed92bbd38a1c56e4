"""The package as pip installs it, and the cell with which every notebook begins."""

import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from types import SimpleNamespace

import jupytext
import pytest

import dermai_utils
from dermai_utils import environment
from dermai_utils.config import ROOT, UserError

SETUP = next(
    cell.source
    for cell in jupytext.read(ROOT / "notebooks" / "00_run_all.py").cells
    if cell.cell_type == "code"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout, built without network and without a trace in it."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "dermai_utils", folder / "source" / "dermai_utils", ignore=caches)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "-w", folder, folder / "source"], check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dermai_utils").rglob("*.*")}
    files = {name for name in files if "__pycache__" not in name}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == files
    assert "dermai_utils/data/near_duplicates.csv" in names
    assert "dermai_utils/sample/ISIC2018_Task3_Training_Input.zip" in names


def test_its_version_is_the_packages_and_its_dependencies_are_requirements_txt(wheel):
    archive = zipfile.ZipFile(wheel)
    name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    about = message_from_bytes(archive.read(name))
    assert about["Version"] == dermai_utils.__version__
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert about.get_all("Requires-Dist") == [line for line in lines if not line.startswith("#")]


def test_an_installed_package_works_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site-packages", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    command = [sys.executable, "-m", "dermai_utils", "split"]
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (empty / "work" / "sample" / "split.csv").exists() and (empty / "cache").exists()
    assert {path.name for path in site.iterdir()} == {"dermai_utils", wheel_info(wheel)}


def wheel_info(wheel):
    return "-".join(wheel.name.split("-")[:2]) + ".dist-info"


# The setup cell.


@pytest.fixture
def cell(monkeypatch):
    """Run the setup cell where dermai_utils is there or not; returns the magics that it called."""
    monkeypatch.setattr(environment, "setup", lambda: print("version line"))

    def run(there):
        magics = []
        shell = SimpleNamespace(run_line_magic=lambda *words: magics.append(words))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: there or None)
        exec(SETUP, {"get_ipython": lambda: shell})
        return magics

    return run


def test_the_setup_cell_is_short_and_folds():
    lines = [line for line in SETUP.splitlines() if line]
    assert len(lines) <= 6
    assert lines[0].startswith("# @title Setup") and 'display-mode: "form"' in lines[0]


def test_the_setup_cell_gets_the_package_only_where_it_is_missing(cell, capsys):
    assert cell(there=True) == []
    [(magic, line)] = cell(there=False)
    # what the package needs is setup()'s: pip would bring 5 GB of torch into anybody's kernel
    assert magic == "pip" and line.startswith("install -q --no-deps git+")
    assert capsys.readouterr().out == "version line\n" * 2


def test_setup_never_installs_torch_into_somebodys_kernel(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(environment, "install_missing", lambda: calls.append("install"))
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    for name in ("google.colab", "google"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    with pytest.raises(UserError) as refusal:
        environment.setup()
    assert "no PyTorch" in str(refusal.value) and ".venv" in str(refusal.value)
    assert "5 GB" in str(refusal.value) and "\n" not in str(refusal.value) and calls == []
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    environment.setup()
    assert calls == ["install"] and capsys.readouterr().out.startswith("DermAI-ISIC2018 ")
