"""What guards the repository: tools/habits.py, and that pages and workflows name what exists."""

import io
import json
import re
import zipfile

import habits
import pytest

import dermai_utils
from dermai_utils.settings import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES += [*(ROOT / "docs").glob("*.md"), ROOT / ".github" / "pull_request_template.md"]


TAG = ["nbval-ignore-output"]


def archive(name):
    """A zip file with one member, as bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        bundle.writestr(name, b"")
    return file.getvalue()


def notebook(source, output=None, tags=(), **metadata):
    """A notebook with one code cell, as bytes."""
    cell = {"cell_type": "code", "source": [source], "metadata": {"tags": tags}}
    cell["outputs"] = [output] if output else []
    return json.dumps({"metadata": metadata, "cells": [cell]}).encode()


WIDGET = {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}}
REAL = {"output_type": "stream", "text": ["ISIC_0024306 is a nevus"]}
ADDRESS = {"output_type": "stream", "text": ["<generator object at 0x7f30a1b2c3d0>"]}


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("notes.csv", b"x" * (habits.LARGEST + 1), "bytes"),
        ("notes.csv", b"x" * habits.LARGEST, ""),
        ("assets/ISIC_0024306.png", b"", "patients' pictures"),
        ("assets/lesion.JPG", b"", "a photograph"),
        ("docs/curve.png", b"", "outside assets/"),
        ("assets/curve.png", b"", ""),
        ("some.zip", archive("folder/ISIC_0024306.jpg"), "patients' pictures"),
        ("some.zip", archive("folder/ISIC_9000001.jpg"), ""),
        ("dermai_utils/weights/a/weights.safetensors", b"x" * 500_001, ""),
        ("dermai_utils/weights/a/net.pt", b"", "the shipped model has only .csv"),
        ("x.ipynb", notebook("1", widgets={}), "widget state"),
        ("x.ipynb", notebook("clear_output(wait=True)"), *TAG),
        ("x.ipynb", notebook("clear_output(wait=True)", tags=TAG), ""),
        ("x.ipynb", notebook("display(1, display_id=True)"), *TAG),
        ("x.ipynb", notebook("1", WIDGET), *TAG),
        ("x.ipynb", notebook("1", ADDRESS), *TAG),
        ("x.ipynb", notebook("1", ADDRESS, TAG), ""),
        ("x.ipynb", notebook("1", REAL, TAG), "real ISIC image"),
    ],
)
def test_what_a_commit_must_not_bring(tmp_path, name, content, complaint):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    found = " ".join(habits.complaints(path, tmp_path))
    assert complaint in found and bool(complaint) == bool(found)


# Pages and workflows.


def test_every_make_command_that_is_written_down_exists():
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))
    for path in [*PAGES, *(ROOT / ".github" / "workflows").glob("*.yml")]:
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^|run: |\")make ([a-z][a-z0-9-]*)", text, re.M))
        assert named <= targets, path.name


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


def test_the_version_is_one_everywhere():
    for name, before in (
        ("CITATION.cff", "version: "),
        (".github/ISSUE_TEMPLATE/bug.yml", "2018 "),
    ):
        assert before + dermai_utils.__version__ in (ROOT / name).read_text(), name
