"""What guards the repository: tools/habits.py, and that documents and workflows name commands that
exist."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml

import dermai_utils
from dermai_utils.config import ROOT

MARKDOWN = ["README.md", "CONTRIBUTING.md", ".github/pull_request_template.md"]
MARKDOWN += [f"docs/{page}.md" for page in ("results", "speed", "faults", "faq", "share")]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture
def habits(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("habits", ROOT / "tools" / "habits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def code_cell(source="1", outputs=(), tags=()):
    return {
        "cell_type": "code",
        "source": [source],
        "outputs": list(outputs),
        "metadata": {"tags": list(tags)},
    }


def found_in(habits, name, content=b""):
    path = habits.ROOT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return " ".join(habits.complaints(path))


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("notes.csv", b"x" * 500_001, "500,001 bytes"),
        ("assets/ISIC_0024306.png", b"", "patients' pictures"),
        ("assets/lesion.JPG", b"", "a photograph"),
        ("docs/curve.png", b"", "outside assets/"),
        ("assets/curve.png", b"", ""),
        ("notes.csv", b"x" * 500_000, ""),
    ],
)
def test_large_files_and_pictures(habits, name, content, complaint):
    found = found_in(habits, name, content)
    assert complaint in found and bool(complaint) == bool(found)


def test_patients_pictures_in_an_archive(habits):
    for image, complaint in (("ISIC_0024306.jpg", True), ("ISIC_9000001.jpg", False)):
        path = habits.ROOT / "some.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"folder/{image}", b"")
        assert bool(list(habits.complaints(path))) == complaint


WIDGET = {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}}
REAL = {"output_type": "stream", "text": ["ISIC_0024306 is a nevus"]}
ADDRESS = {"output_type": "stream", "text": ["<generator object at 0x7f30a1b2c3d0>"]}


@pytest.mark.parametrize("tags, compared", [((), True), (("nbval-ignore-output",), False)])
@pytest.mark.parametrize(
    "cell",
    [
        code_cell("clear_output(wait=True)"),
        code_cell("display(1, display_id=True)"),
        code_cell(outputs=[WIDGET]),
        code_cell(outputs=[ADDRESS]),
    ],
)
def test_outputs_that_nbval_cannot_compare_need_the_tag(habits, cell, tags, compared):
    cell = cell | {"metadata": {"tags": list(tags)}}
    assert (
        "nbval-ignore-output" in found_in(habits, "x.ipynb", {"metadata": {}, "cells": [cell]})
    ) == compared


def test_widget_state_and_outputs_of_real_images(habits):
    assert "widget state" in found_in(habits, "x.ipynb", {"metadata": {"widgets": {}}, "cells": []})
    real = {"metadata": {}, "cells": [code_cell(outputs=[REAL], tags=["nbval-ignore-output"])]}
    assert "real ISIC image" in found_in(habits, "x.ipynb", real)


def test_the_command_names_what_it_found_and_exits_1(tmp_path):
    (tmp_path / "tools").mkdir()
    script = shutil.copy(ROOT / "tools" / "habits.py", tmp_path / "tools")
    for name in ("ISIC_0024306.jpg", "README.md"):
        (tmp_path / name).write_bytes(b"")
    for names, status in (
        (["ISIC_0024306.jpg", "README.md"], 1),
        (["README.md", "no such file"], 0),
    ):
        done = subprocess.run(
            [sys.executable, script, *names], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == status and len(done.stdout.splitlines()) == status
        assert done.stdout.startswith("ISIC_0024306.jpg: ") == bool(status)


def commands(text):
    """The words of each `make ...` in markdown: in backticks, or a line of a code block."""
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S))
    return re.findall(r"`make ([a-z][a-z0-9-]*)", text) + re.findall(
        r"^make ([a-z][a-z0-9-]*)", blocks, re.M
    )


def test_every_make_command_that_is_written_down_exists():
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))
    named = {name: set(commands((ROOT / name).read_text())) for name in MARKDOWN}
    named |= {
        path.name: set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", steps(path))) for path in WORKFLOWS
    }
    assert (
        all(named.values())
        and {"run", "test"} <= named["README.md"]
        and {"colab"} <= named["weekly.yml"]
    )
    assert {name: missing for name, words in named.items() if (missing := words - targets)} == {}


def anchors(path):
    """GitHub's anchors of the headings of a markdown file."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*MARKDOWN, "CHANGELOG.md", "docs/settings.md"])
def test_every_link_inside_the_repository_leads_somewhere(name):
    page = ROOT / name
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page.read_text(encoding="utf-8"))
    for link in filter(lambda link: "://" not in link, map("".join, links)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists() and (not anchor or anchor in anchors(target)), link


def steps(path):
    """All that a workflow runs: the steps' commands, and what its matrix puts into them."""
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return "\n".join(
        [step.get("run", "") for job in jobs for step in job["steps"]]
        + [str(value) for job in jobs for value in job["strategy"]["matrix"].values()]
    )


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
    assert (
        "python -m dermai_utils --version" in asked["attributes"]["description"]
        and asked["validations"]["required"]
    )
    name = f"DermAI-ISIC2018 {citation['version']}"
    assert printed.split(", ")[0] == asked["attributes"]["placeholder"].split(", ")[0] == name
