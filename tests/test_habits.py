"""What guards the repository: tools/habits.py, and that pages and workflows name what exists."""

import importlib.util
import json
import re
import subprocess
import sys
import zipfile

import pytest
import yaml

import dermai_utils
from dermai_utils.settings import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES += [*(ROOT / "docs").glob("*.md"), ROOT / ".github" / "pull_request_template.md"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SPEC = importlib.util.spec_from_file_location("habits", ROOT / "tools" / "habits.py")
habits = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(habits)


def found_in(root, name, content=b""):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return " ".join(habits.complaints(path, root))


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("notes.csv", b"x" * 500_001, "500,001 bytes"),
        ("assets/ISIC_0024306.png", b"", "patients' pictures"),
        ("assets/lesion.JPG", b"", "a photograph"),
        ("docs/curve.png", b"", "outside assets/"),
        ("assets/curve.png", b"", ""),
        ("notes.csv", b"x" * 500_000, ""),
        ("dermai_utils/weights/a/weights.safetensors", b"x" * 500_001, ""),
        ("dermai_utils/weights/a/net.pt", b"", "the shipped model has only .csv"),
    ],
)
def test_large_files_and_pictures(tmp_path, name, content, complaint):
    found = found_in(tmp_path, name, content)
    assert complaint in found and bool(complaint) == bool(found)


@pytest.mark.parametrize("image, wrong", [("ISIC_0024306.jpg", True), ("ISIC_9000001.jpg", False)])
def test_patients_pictures_in_an_archive(tmp_path, image, wrong):
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr(f"folder/{image}", b"")
    assert bool(list(habits.complaints(tmp_path / "some.zip", tmp_path))) == wrong


def code_cell(source="1", output=None, tags=()):
    outputs = [output] if output else []
    about = {"cell_type": "code", "source": [source], "outputs": outputs}
    return about | {"metadata": {"tags": list(tags)}}


WIDGET = {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}}
REAL = {"output_type": "stream", "text": ["ISIC_0024306 is a nevus"]}
ADDRESS = {"output_type": "stream", "text": ["<generator object at 0x7f30a1b2c3d0>"]}


@pytest.mark.parametrize("tags, compared", [((), True), (("nbval-ignore-output",), False)])
@pytest.mark.parametrize(
    "source, output",
    [
        ("clear_output(wait=True)", None),
        ("display(1, display_id=True)", None),
        ("1", WIDGET),
        ("1", ADDRESS),
    ],
)
def test_outputs_that_nbval_cannot_compare_need_the_tag(tmp_path, source, output, tags, compared):
    notebook = {"metadata": {}, "cells": [code_cell(source, output, tags)]}
    assert ("nbval-ignore-output" in found_in(tmp_path, "x.ipynb", notebook)) == compared


def test_widget_state_and_outputs_of_real_images(tmp_path):
    state = {"metadata": {"widgets": {}}, "cells": []}
    assert "widget state" in found_in(tmp_path, "x.ipynb", state)
    cell = code_cell("1", REAL, ["nbval-ignore-output"])
    real = {"metadata": {}, "cells": [cell]}
    assert "real ISIC image" in found_in(tmp_path, "x.ipynb", real)


# Pages and workflows.


def commands(text):
    """The words of each `make ...` in markdown: in backticks, or a line of a code block."""
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S))
    return re.findall(r"`make ([a-z][a-z0-9-]*)", text) + re.findall(
        r"^make ([a-z][a-z0-9-]*)", blocks, re.M
    )


def test_every_make_command_that_is_written_down_exists():
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))
    named = {path.name: set(commands(path.read_text())) for path in PAGES}
    for path in WORKFLOWS:
        named[path.name] = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", path.read_text()))
    assert {name: missing for name, words in named.items() if (missing := words - targets)} == {}


def anchors(path):
    """GitHub's anchors of the headings of a markdown file."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_repository_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page.read_text(encoding="utf-8"))
    for link in filter(lambda link: "://" not in link, map("".join, links)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists() and (not anchor or anchor in anchors(target)), link


def test_what_pre_commit_runs_is_there():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    scripts = [word for hook in hooks for word in hook["entry"].split() if word.endswith(".py")]
    assert len(scripts) == 2 and all((ROOT / script).is_file() for script in scripts)


def test_the_version_is_one_and_the_bug_form_asks_for_the_line_that_is_printed():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dermai_utils.__version__ and citation["license"] == "MIT"
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    asked = next(field for field in form["body"] if field.get("id") == "version")
    command = [sys.executable, "-m", "dermai_utils", "--version"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    name = f"DermAI-ISIC2018 {citation['version']}"
    assert printed.split(", ")[0] == asked["attributes"]["placeholder"].split(", ")[0] == name
