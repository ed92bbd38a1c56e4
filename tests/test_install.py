"""The package as pip installs it."""

import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes

import pytest

import dermai_utils
from dermai_utils.app.pack import SHIPPED
from dermai_utils.basics import CLASSES, DISCLAIMER
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
    paths = [path for path in (ROOT / "dermai_utils").rglob("*") if path.suffix != ".pyc"]
    files = {path.relative_to(ROOT).as_posix() for path in paths if path.is_file()}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == files


def test_its_version_is_the_packages_and_its_dependencies_are_requirements_txt(wheel):
    archive = zipfile.Path(wheel)
    about = next(path for path in archive.iterdir() if path.name.endswith(".dist-info"))
    about = message_from_bytes((about / "METADATA").read_bytes())
    assert about["Version"] == dermai_utils.__version__
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert about.get_all("Requires-Dist") == [line for line in lines if not line.startswith("#")]


def installed(wheel, site, *words, cwd):
    """The lines that `python -m dermai_utils WORDS` prints in an empty folder, without network."""
    if not site.exists():
        zipfile.ZipFile(wheel).extractall(site)
    cwd.mkdir(exist_ok=True)
    # any address leads to a port that nobody listens on
    offline = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    env = os.environ | offline | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "dermai_utils", *words]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_installed_package_works_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site-packages", tmp_path / "empty"
    installed(wheel, site, "split", "--size", "32", cwd=empty)
    assert (empty / "work" / "sample" / "table.csv").exists() and (empty / "cache").exists()
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    assert {path.name for path in site.iterdir()} == {"dermai_utils", info}


@pytest.mark.skipif(not SHIPPED.exists(), reason="this checkout has no shipped model yet")
def test_an_installed_package_answers_about_a_photo(wheel, tmp_path):
    """From pip install to seven named probabilities: no data, no network, one command."""
    made_up = ROOT / "dermai_utils" / "sample" / "ISIC2018_Task3_Test_Input.zip"
    shutil.unpack_archive(made_up, tmp_path)
    photo = str(next(tmp_path.rglob("*.jpg")))
    site, empty = tmp_path / "site", tmp_path / "empty"
    lines = installed(wheel, site, "predict", "--image", photo, cwd=empty)
    assert lines[0].startswith("answers by dermai-lite0, the model that comes with the package")
    assert all(name in lines[1] for name in CLASSES) and DISCLAIMER in lines
    assert list(empty.iterdir()) == [empty / "own_predictions.csv"]
