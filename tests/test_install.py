"""The package as pip installs it."""

import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes

import pytest

import dermai_utils
from dermai_utils.settings import ROOT


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
    command = [sys.executable, "-m", "dermai_utils", "split", "--size", "32"]
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (empty / "work" / "sample" / "table.csv").exists() and (empty / "cache").exists()
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    assert {path.name for path in site.iterdir()} == {"dermai_utils", info}
