"""The notebooks as they are committed, and the tool that keeps them so."""

import base64
import html
import json
import re
import sys

import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dermai_utils.basics import UserError
from dermai_utils.settings import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import notebooks as tool  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(path):
    return tool.code_cells(nbformat.read(path, as_version=4))


def compared(cell):
    """Whether nbval compares what the cell prints; a cell that prints nothing does not count."""
    return bool(cell.outputs) and "nbval-ignore-output" not in cell.metadata.get("tags", [])


def lines(cell):
    return [line for line in cell.source.splitlines() if line and line[0] != "#"]


def test_they_are_numbered_and_the_first_cell_of_each_is_the_setup():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{k:02}" for k in range(len(NOTEBOOKS))]
    assert {code_cells(path)[0].source for path in NOTEBOOKS} == {tool.setup_of(ROOT)}
    assert len(tool.SETUP.splitlines()) <= 6 and 'display-mode: "form"' in tool.SETUP


def test_the_pairs_are_equal():
    assert tool.check() == 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_executed_in_order_and_compared_where_it_can_be(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(o.output_type == "error" for cell in cells for o in cell.outputs)
    assert len(cells) <= 14 and max(len(lines(cell)) for cell in cells) <= 20
    assert sum("# @param" in line for cell in cells for line in cell.source.splitlines()) <= 6


def test_half_of_all_cells_are_compared():
    cells = [cell for path in NOTEBOOKS for cell in code_cells(path)]
    assert sum(map(compared, cells)) >= len(cells) / 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sections_are_headings_and_every_figure_has_its_words(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert len(re.findall("^# ", text, re.M)) == 1 and len(re.findall("^## ", text, re.M)) >= 2
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        for kind in set(output.get("data", {})) & {"image/png", "image/jpeg"}:
            assert len(output.metadata.get(kind, {}).get("alt", "")) > 20


# The tool, on a project of two small notebooks.


@pytest.fixture
def project(tmp_path):
    """The root of a project whose notebooks are as the tool wants them."""
    (tmp_path / "notebooks").mkdir()
    for name in ("00_all", "01_one"):
        cells = [new_markdown_cell(f"# {name}"), new_code_cell("x"), new_code_cell("1 + 1")]
        notebook = tool.stamp(new_notebook(cells=cells), name, tool.SETUP)
        for suffix in (".py", ".ipynb"):
            tool.write(notebook, tmp_path / "notebooks" / f"{name}{suffix}")
    buttons = "\n".join(tool.badge(name, "") for name in ("00_all", "01_one"))
    (tmp_path / "README.md").write_text(f"# Title\n\n{buttons}\n")
    assert tool.check(tmp_path) == 0
    return tmp_path


@pytest.mark.parametrize("half", ["01_one.py", "01_one.ipynb"])
def test_an_edit_of_either_half_is_noticed(project, half, capsys):
    path = project / "notebooks" / half
    path.write_text(path.read_text().replace("1 + 1", "1 + 2"))
    assert tool.check(project) == 1 and "01_one.py and its .ipynb differ" in capsys.readouterr().out
    path.unlink()
    assert tool.check(project) == 1


def test_another_setup_cell_is_noticed(project, capsys):
    for half in (project / "notebooks").glob("01_one.*"):
        half.write_text(half.read_text().replace("dermai.setup()", "dermai.set_up()"))
    assert tool.check(project) == 1 and "badge or setup cell" in capsys.readouterr().out


def test_publish_writes_one_address_into_every_setup_cell_and_button(project, capsys):
    tool.publish("somebody/derm-ai", "v1.2", project)
    address = "https://github.com/somebody/derm-ai@v1.2"
    for half in (project / "notebooks").iterdir():
        cells = jupytext.read(half).cells
        assert f"/somebody/derm-ai/blob/v1.2/notebooks/{half.stem}.ipynb" in cells[0].source
        assert f'REPO = "{address}"\n' in cells[2].source.replace("  #", "\n  #")
        assert f"/blob/v1.2/notebooks/{half.stem}.ipynb" in (project / "README.md").read_text()
    assert tool.check(project) == 0
    tool.publish("https://example.org/other.git", "v2", project)  # no GitHub: no button
    assert tool.check(project) == 0 and "blob" not in (project / "README.md").read_text()


@pytest.mark.parametrize(
    "given", [("", "v1"), ("a/b", ""), ('a"/b', "v1"), ("a/b", "c/d"), ("https://x/y;z", "v1")]
)
def test_publish_refuses_what_cannot_be_an_address(project, given):
    with pytest.raises(UserError, match="publish: expected REPO=owner/name"):
        tool.publish(*given, project)
    assert tool.check(project) == 0


def test_the_setup_cell_says_what_to_fill_in(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="Fill in REPO: https://github.com/OWNER/NAME@TAG"):
        exec(tool.SETUP, {})


def test_the_setup_cell_gets_the_package_from_its_address(monkeypatch, capsys):
    class Shell:
        def run_line_magic(self, *words):
            assert words == ("pip", "install -q --no-deps git+https://x.org/y@v1")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "torch" or None)
    source = tool.SETUP.replace('REPO = ""', 'REPO = "https://x.org/y@v1"')
    exec(source.replace("dermai.setup()", ""), {"get_ipython": Shell})


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
        ((BEFORE, {}, {}), VERSION, "changed numpy 2.1.3 -> None"),
        ((BEFORE, AFTER, AFTER | {"more": "1"}), VERSION, "no no-op"),
        ((BEFORE, AFTER, AFTER), INSTALLING + VERSION, "no no-op"),
    ],
)
def test_a_setup_cell_that_changes_what_is_there_or_works_twice_is_found(looks, again, complaint):
    import colab

    def cell(printed):
        return new_code_cell(outputs=[new_output("stream", text=printed)])

    look = [cell(json.dumps(found)) for found in looks]
    cells = [look[0], cell(INSTALLING + VERSION), look[1], cell(again), look[2]]
    wrong = " ".join(colab.judge(cells))
    assert complaint in wrong and bool(wrong) == bool(complaint)


def test_colab_runs_the_setup_cell_twice_with_an_address(project):
    import colab

    path = project / "notebooks" / "01_one.ipynb"
    notebook, before = colab.prepared(path, "file:///x.git@v1")
    cells = tool.code_cells(notebook)
    assert cells[1].source == cells[3].source and 'REPO = "file:///x.git@v1"' in cells[1].source
    assert cells[0].source == cells[2].source == cells[4].source == colab.PROBE
    assert len(cells) == 2 + 4 and len(before) == 2
