"""The notebooks as they are committed, and the tools that keep, publish and try them."""

import base64
import html
import json
import re
import subprocess
import sys

import colab
import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import notebooks as tool
from dermai_utils.basics import UserError
from dermai_utils.settings import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(path):
    return tool.code_cells(nbformat.read(path, as_version=4))


def test_they_are_numbered_equal_in_pairs_and_half_of_their_cells_are_compared():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{k:02}" for k in range(len(NOTEBOOKS))]
    assert tool.check() == 0 and len(tool.SETUP.splitlines()) <= 6
    cells = [cell for path in NOTEBOOKS for cell in code_cells(path)]
    # nbval compares what a cell prints; a cell that prints nothing does not count
    compared = [c for c in cells if "nbval-ignore-output" not in c.metadata.get("tags", [])]
    assert sum(bool(cell.outputs) for cell in compared) >= len(cells) / 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_executed_in_order_and_its_figures_have_words(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    sources = [cell.source for cell in cells]
    assert len(cells) <= 14 and max(source.count("\n") for source in sources) < 20
    assert "".join(sources).count("# @param") <= 6
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type != "error"
        for kind in set(output.get("data", {})) & {"image/png", "image/jpeg"}:
            assert len(output.metadata.get(kind, {}).get("alt", "")) > 20


# The tool, on a project of two small notebooks.

README = """# Title

git clone URL DermAI-ISIC2018     # URL: what this page's "Code" button says
pip install git+URL
"""


@pytest.fixture
def project(tmp_path):
    """The root of a project whose notebooks are as the tool wants them."""
    for name in ("notebooks", "docs", "spaces"):
        (tmp_path / name).mkdir()
    for name in ("00_all", "01_one"):
        cells = [new_markdown_cell(f"# {name}"), new_code_cell("x"), new_code_cell("1 + 1")]
        notebook = tool.stamp(new_notebook(cells=cells), name, tool.SETUP)
        for suffix in (".py", ".ipynb"):
            tool.write(notebook, tmp_path / "notebooks" / f"{name}{suffix}")
    buttons = "\n".join(tool.badge(name, "") for name in ("00_all", "01_one"))
    (tmp_path / "README.md").write_text(f"{README}\n{buttons}\n")
    for other in ("docs/share.md", "spaces/requirements.txt"):
        (tmp_path / other).write_text("dermai @ git+URL\n")
    (tmp_path / "CITATION.cff").write_text("version: 1\nlicense: MIT\nauthors:\n")
    assert tool.check(tmp_path) == 0
    return tmp_path


@pytest.mark.parametrize(
    "name, old, said",
    [
        ("01_one.py", "1 + 1", "01_one.py and its .ipynb differ"),
        ("01_one.ipynb", "1 + 1", "01_one.py and its .ipynb differ"),
        ("01_one.*", "dermai.setup()", "badge or setup cell"),
    ],
)
def test_an_edit_of_one_half_and_another_setup_cell_are_noticed(project, name, old, said, capsys):
    for half in (project / "notebooks").glob(name):
        half.write_text(half.read_text().replace(old, "1 + 2"))
    assert tool.check(project) == 1 and said in capsys.readouterr().out


def test_publish_writes_one_address_everywhere_and_again_another(project):
    for tag in ("v1.2", "v2"):
        tool.publish("some/derm-ai", tag, project)
        page, address = (project / "README.md").read_text(), "https://github.com/some/derm-ai"
        for half in (project / "notebooks").iterdir():
            button = f"/some/derm-ai/blob/{tag}/notebooks/{half.stem}.ipynb"
            cells = jupytext.read(half).cells
            assert button in cells[0].source and button in page
            assert f'REPO = "{address}@{tag}"  #' in cells[2].source
        assert f"git clone {address} DermAI-ISIC2018\npip install git+{address}@{tag}\n" in page
        for other in ("docs/share.md", "spaces/requirements.txt"):
            assert (project / other).read_text() == f"dermai @ git+{address}@{tag}\n"
        citation = (project / "CITATION.cff").read_text()
        assert citation.count(f'license: MIT\nrepository-code: "{address}"\n') == 1
        assert tool.check(project) == 0 and "URL" not in page
    tool.publish("https://example.org/other.git", "v2", project)  # no GitHub: no button
    assert tool.check(project) == 0 and "blob" not in (project / "README.md").read_text()


@pytest.mark.parametrize(
    "given", [("", "v1"), ("a/b", ""), ('a"/b', "v1"), ("a/b", "c/d"), ("https://x/y;z", "v1")]
)
def test_publish_refuses_what_cannot_be_an_address(project, given):
    with pytest.raises(UserError, match="publish: expected REPO=owner/name"):
        tool.publish(*given, project)
    assert tool.check(project) == 0


def test_the_published_form_can_be_cloned_and_installed(tmp_path):
    """From a git server on this machine."""
    bare, mine = tmp_path / "server.git", tmp_path / "mine"
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", "-C", mine]
    subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, bare], check=True)
    subprocess.run(["git", "clone", "--quiet", bare, mine], check=True)
    tool.publish(bare.as_uri(), "v1", mine)
    for words in (["commit", "-qam", "x"], ["tag", "v1"], ["push", "-q", "origin", "HEAD", "v1"]):
        subprocess.run([*git, *words], check=True)
    clone = re.search("^git clone .*", (mine / "README.md").read_text(), re.M)[0]
    subprocess.run(clone.split(), cwd=tmp_path, check=True)
    [address] = {tool.REPO.search(code_cells(p)[0].source)[1] for p in mine.rglob("*.ipynb")}
    install = ["pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", "site"]
    subprocess.run([sys.executable, "-m", *install, f"git+{address}"], cwd=tmp_path, check=True)
    for place in ("DermAI-ISIC2018", "site"):
        assert (tmp_path / place / "dermai_utils" / "sample").is_dir()


def test_the_setup_cell_says_what_to_fill_in(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="Fill in REPO: https://github.com/OWNER/NAME@TAG"):
        exec(tool.SETUP, {})


def test_an_error_in_a_notebook_is_one_line():
    code = "from dermai_utils.basics import UserError\nraise UserError('epochs=x: no number')"
    with pytest.raises(UserError, match="^in 01_x: epochs=x: no number$"):
        tool.execute(new_notebook(cells=[new_code_cell(code)]), "01_x")


def test_an_export_is_offline_titled_and_has_words_for_every_figure():
    png = base64.b64encode(b"no picture").decode()
    about = {"image/png": {"alt": 'A figure with "nothing" in it.'}}
    shown = new_output("display_data", {"image/png": png}, metadata=about)
    setup = new_code_cell("the_setup = 1", metadata={"jupyter": {"source_hidden": True}})
    cells = [new_markdown_cell("# 09 · Title"), setup, new_code_cell("1", outputs=[shown])]
    text = tool.as_html(new_notebook(cells=cells))
    assert "<title>DermAI-ISIC2018: 09 · Title</title>" in text
    assert not re.search("<(script|link|img|iframe)[^>]*https?:|import\\(|@import", text)
    assert re.search(r"""alt=(["'])A figure with "nothing" in it\.\1""", html.unescape(text))
    (folded,) = re.findall("<details>(.*?)</details>", text, re.S)
    assert "the_setup" in folded and "the_setup" not in text.replace(folded, "")


# `make colab`: its judgement must be able to say no. (That it says yes takes minutes.)

BEFORE = {"numpy": "2.1.3"}
AFTER = BEFORE | {"timm": "1.0", "dermai-isic2018": "0.3.0"}
VERSION, INSTALLING = "DermAI-ISIC2018 0.3.0\n", "setup: installing timm>=1.0\n"


@pytest.mark.parametrize(
    "looks, again, complaint",
    [
        ((BEFORE, AFTER, AFTER), VERSION, ""),
        ((BEFORE, BEFORE, BEFORE), VERSION, "did not come from the setup cell"),
        ((AFTER, AFTER, AFTER), VERSION, "did not come from the setup cell"),
        ((BEFORE, AFTER | {"numpy": "2.2"}, AFTER), VERSION, "changed numpy 2.1.3 -> 2.2"),
        ((BEFORE, AFTER, AFTER | {"more": "1"}), VERSION, "no no-op"),
        ((BEFORE, AFTER, AFTER), INSTALLING + VERSION, "no no-op"),
    ],
)
def test_a_setup_cell_that_changes_what_is_there_or_works_twice_is_found(looks, again, complaint):
    before, between, after = map(json.dumps, looks)
    printed = before, INSTALLING + VERSION, between, again, after
    cells = [new_code_cell(outputs=[new_output("stream", text=text)]) for text in printed]
    wrong = " ".join(colab.judge(cells))
    assert complaint in wrong and bool(wrong) == bool(complaint)
