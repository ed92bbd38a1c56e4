"""What guards the repository: tools/habits.py, and that pages and workflows name what exists."""

import json
import re
import sys
import zipfile

import pytest
import yaml

import dermai_utils
from dermai_utils.settings import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import habits  # noqa: E402

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES += [*(ROOT / "docs").glob("*.md"), ROOT / ".github" / "pull_request_template.md"]


def found_in(root, name, content=b""):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return " ".join(habits.complaints(path, root))


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("notes.csv", b"x" * (habits.LARGEST + 1), "bytes"),
        ("assets/ISIC_0024306.png", b"", "patients' pictures"),
        ("assets/lesion.JPG", b"", "a photograph"),
        ("docs/curve.png", b"", "outside assets/"),
        ("assets/curve.png", b"", ""),
        ("notes.csv", b"x" * habits.LARGEST, ""),
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


WIDGET = {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}}
REAL = {"output_type": "stream", "text": ["ISIC_0024306 is a nevus"]}
ADDRESS = {"output_type": "stream", "text": ["<generator object at 0x7f30a1b2c3d0>"]}
TAG = "nbval-ignore-output"


@pytest.mark.parametrize(
    "source, output, complaint, tagged",
    [
        ("clear_output(wait=True)", [], TAG, ""),
        ("display(1, display_id=True)", [], TAG, ""),
        ("1", [WIDGET], TAG, ""),
        ("1", [ADDRESS], TAG, ""),
        ("1", [REAL], "real ISIC image", "real ISIC image"),
    ],
)
def test_outputs_that_nbval_cannot_compare_need_the_tag(
    tmp_path, source, output, complaint, tagged
):
    for tags, expected in (([], complaint), ([TAG], tagged)):
        cell = {"cell_type": "code", "source": [source], "outputs": output}
        notebook = {"metadata": {}, "cells": [cell | {"metadata": {"tags": tags}}]}
        found = found_in(tmp_path, "x.ipynb", notebook)
        assert expected in found and bool(expected) == bool(found)
    assert "widget state" in found_in(
        tmp_path, "x.ipynb", {"metadata": {"widgets": {}}, "cells": []}
    )


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
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    asked = next(field for field in form["body"] if field.get("id") == "version")
    asked = asked["attributes"]["placeholder"].split(",")[0]
    assert citation["version"] == dermai_utils.__version__
    assert asked == f"DermAI-ISIC2018 {dermai_utils.__version__}"
