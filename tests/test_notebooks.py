import base64
import html
import json
import os
import re
import shutil
import subprocess
import sys

import jupytext
import pytest

from dermai_utils.config import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import publish  # noqa: E402

import notebooks  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def ignored(cell):
    return "nbval-ignore-output" in cell["metadata"].get("tags", [])


def test_they_are_numbered_and_the_first_cell_of_each_is_the_same():
    assert [path.stem[:2] for path in NOTEBOOKS] == [
        f"{number:02}" for number in range(len(NOTEBOOKS))
    ]
    assert len({"".join(code_cells(path)[0]["source"]) for path in NOTEBOOKS}) == 1


def test_colab_is_asked_for_a_t4_and_for_a_pinned_runtime():
    for path in NOTEBOOKS:
        about = json.loads(path.read_text())["metadata"]
        assert (about["accelerator"], about["colab"]["gpuType"]) == ("GPU", "T4")
        assert re.fullmatch(
            r"20\d\d\.\d\d", about["colab"]["runtime_attributes"]["runtime_version"]
        )
        assert about["kaggle"]["isInternetEnabled"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_was_executed_in_order_and_compared_ones_say_something(path):
    cells = code_cells(path)
    # nbval skips a null
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    compared = [cell for cell in cells if not ignored(cell)]
    assert compared and all(cell["outputs"] for cell in compared)
    lines = [
        [line for line in "".join(cell["source"]).splitlines() if line and line[0] != "#"]
        for cell in cells
    ]
    assert max(map(len, lines)) <= 20


def test_what_is_compared_comes_from_the_fixture(made):
    """The committed numbers are those of the fixture as it is made here and now, not of some other
    run."""
    from dermai_utils import files

    table, rejected = files.read_table(made.table_file), files.read_table(made.rejected_file)
    texts = "".join(
        "".join(output.get("text", ""))
        for cell in code_cells(NOTEBOOKS[2])
        for output in cell["outputs"]
    )
    assert f"{len(table):,} usable images, {len(rejected):,} rows left out" in texts


def run_nbval(folder, env):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--nbval",
        "--nbval-current-env",
        str(folder),
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | env  # this checkout's package
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def test_nbval_fails_when_a_compared_output_is_wrong(made, tmp_path):
    folder = ROOT / "notebooks" / "nbval_can_fail"
    folder.mkdir(exist_ok=True)
    env = {"DERMAI_CACHE_DIR": str(tmp_path / "cache"), "DERMAI_WORK_DIR": str(tmp_path / "work")}
    try:
        for falsified in (False, True):
            notebook = json.loads(NOTEBOOKS[1].read_text())
            if falsified:
                text = json.dumps(notebook).replace(
                    "train: 109 images with a label", "train: 110 images with a label"
                )
                assert text != json.dumps(notebook)
                notebook = json.loads(text)
            (folder / "x.ipynb").write_text(json.dumps(notebook))
            assert run_nbval(folder, env).returncode == (1 if falsified else 0)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def tool(tmp_path, monkeypatch, capsys):
    """tools/notebooks.py on a copy of the notebooks: (exit status, output, errors) of a command."""
    shutil.copytree(
        ROOT / "notebooks",
        tmp_path / "notebooks",
        ignore=shutil.ignore_patterns("__pycache__", "nbval_can_fail"),
    )
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for module in (notebooks, publish):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", sorted((tmp_path / "notebooks").glob("*.py")))

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["notebooks.py", *arguments])
        return notebooks.main() or 0, *capsys.readouterr()

    command.folder = tmp_path / "notebooks"
    return command


def test_the_pairs_are_equal_and_an_edit_of_either_half_is_noticed(tool):
    assert tool("check") == (0, "", "")
    py = tool.folder / "03_split.py"
    old = py.read_text()
    py.write_text(old.replace("split.counts(table)", "split.counts(table) + 0"))
    status, out, _ = tool("check")
    assert status == 1 and "03_split.py" in out
    py.write_text(old)
    ipynb = tool.folder / "03_split.ipynb"
    ipynb.write_text(ipynb.read_text().replace("split.counts(table)", "split.counts(table) + 0"))
    assert tool("check")[0] == 1
    ipynb.unlink()
    assert tool("check")[0] == 1


def top(path):
    """(the first cell's source, the setup cell's) of either half."""
    cells = jupytext.read(path).cells
    return cells[0].source, next(cell.source for cell in cells if cell.cell_type == "code")


def test_publish_writes_one_address_into_every_setup_cell_and_badge(tool):
    assert tool("publish", "somebody/derm-ai", "v1.2")[0] == 0
    address, unset = "git+https://github.com/somebody/derm-ai@v1.2", "git+@main"
    for path in tool.folder.glob("0*"):
        badge, setup = top(path)
        assert (
            f"(https://colab.research.google.com/github/somebody/derm-ai/blob/v1.2/notebooks/{path.stem}.ipynb)"
            in badge
        )
        assert address in setup and setup.replace(address, unset) == top(NOTEBOOKS[0])[1]
    for path in NOTEBOOKS:  # nothing was executed
        assert [c["outputs"] for c in code_cells(tool.folder / path.name)] == [
            c["outputs"] for c in code_cells(path)
        ]
    page = (tool.folder / "../README.md").read_text()
    for path in NOTEBOOKS:
        assert f"github/somebody/derm-ai/blob/v1.2/notebooks/{path.stem}.ipynb" in page
    assert tool("check") == (0, "", "")
    pyproject = tool.folder / "../pyproject.toml"
    # now badges and cells say another tag
    pyproject.write_text(pyproject.read_text().replace("v1.2", "v2"))
    status, out, _ = tool("check")
    assert status == 1 and out.count("\n") == len(NOTEBOOKS) + 1


@pytest.mark.parametrize(
    "given",
    [
        ("", "v1"),
        ("owner/name", ""),
        ('owner"/name', "v1"),
        ("owner/name", "a/b"),
        ("https://x/y;z", "v1"),
    ],
)
def test_publish_refuses_what_cannot_be_an_address_in_one_line(given, tool):
    status, _, errors = tool("publish", *given)
    assert status == 2 and errors.startswith("error: publish") and errors.count("\n") == 1
    assert tool("check")[0] == 0


def test_run_says_what_it_does_how_long_it_takes_and_where_the_report_is(
    tool, made, tmp_path, monkeypatch
):
    shutil.copytree(made.work, tmp_path / "work")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", notebooks.NOTEBOOKS[:2])
    monkeypatch.setattr(notebooks, "execute", lambda notebook, name: print(f"{name} ran"))
    for name in ("CACHE_DIR", "WORK_DIR"):
        monkeypatch.setenv(f"DERMAI_{name}", "")  # so that what `run` sets goes again
    index = tmp_path / "work" / "index.html"
    given = ["--cache-dir", made.cache_dir, "--work-dir", str(tmp_path / "work")]
    status, out, _ = tool("run", *given)
    before, after = out.split("01_download ran\n")
    assert status == 0 and "on data=sample" in before and "time: " in before
    score = json.loads((made.report_dir / "metrics.json").read_text())["intervals"]["official"]
    assert f"balanced accuracy  {score['balanced_accuracy']['value']:.3f} [" in after
    report = tmp_path / "work" / "report" / "baseline" / "report.html"
    assert after.splitlines()[-2:] == [f"report: {report}", f"start here: {index}"]
    assert "made-up pictures: the numbers mean nothing" in after


def in_a_notebook(tmp_path, monkeypatch, code):
    """Let `run` execute one notebook with this one cell."""
    (tmp_path / "notebooks" / "01_x.py").write_text(f"# %%\n{code}\n")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", [None, tmp_path / "notebooks" / "01_x.py"])
    monkeypatch.setattr(notebooks, "announce", lambda cfg: None)
    for name in ("CACHE_DIR", "WORK_DIR"):
        monkeypatch.setenv(f"DERMAI_{name}", str(tmp_path / "made"))


@pytest.mark.skipif(os.name == "nt", reason="no such signal on Windows")
def test_ctrl_c_while_a_notebook_runs_is_one_line(tool, tmp_path, monkeypatch):
    stop = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"
    in_a_notebook(tmp_path, monkeypatch, stop)
    status, _, errors = tool("run")
    assert (status, errors) == (130, "stopped; the same command goes on\n")


def test_a_users_mistake_in_a_notebook_is_said_without_the_name_of_its_class(
    tool, tmp_path, monkeypatch
):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "from dermai_utils.config import UserError\nraise UserError('epochs=x: no number')"
    in_a_notebook(tmp_path, monkeypatch, code)
    status, _, errors = tool("run")
    assert (status, errors) == (2, "error: in 01_x: epochs=x: no number\n")


@pytest.mark.parametrize(
    "given, said",
    [
        (["--backbone", "timm:test_resnett"], "error: backbone='timm:test_resnett': timm has no"),
        (["--data", "/no/such/folder"], "error: data=/no/such/folder"),
        (["--test", "/no/such/folder"], "error: test=/no/such/folder"),
    ],
)
def test_a_mistake_that_can_be_told_is_told_before_anything_is_run(
    tool, tmp_path, monkeypatch, given, said
):
    in_a_notebook(tmp_path, monkeypatch, "raise SystemExit")
    monkeypatch.setattr(notebooks, "announce", lambda cfg: pytest.fail("measured before"))
    monkeypatch.setenv(f"DERMAI_{given[0][2:].upper()}", "")  # so that what `run` sets goes again
    status, out, errors = tool("run", *given)
    assert status == 2 and errors.startswith(said) and errors.count("\n") == 1 and not out
    assert not (tmp_path / "made").exists()


def test_an_export_is_offline_titled_and_has_words_for_every_figure():
    """As `make run` leaves it in work/DATA/html."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    from dermai_utils.report import plots

    figure = plots.message("nothing")
    figure.alt = 'A figure with "nothing" in it.'
    png, about = figure._repr_png_()
    picture = {"image/png": base64.b64encode(png).decode()}
    shown = new_output("display_data", picture, metadata={"image/png": about})
    setup = new_code_cell("the_setup = 1", metadata={"jupyter": {"source_hidden": True}})
    cells = [new_markdown_cell("# 09 · Title"), setup, new_code_cell("1", outputs=[shown])]
    text = notebooks.as_html(new_notebook(cells=cells))
    assert "<title>DermAI-ISIC2018: 09 · Title</title>" in text
    assert not re.search("<(script|link|img|iframe)[^>]*https?:|import\\(|@import", text)
    assert re.search(r"""alt=(["'])A figure with "nothing" in it\.\1""", html.unescape(text))
    (folded,) = re.findall("<details>(.*?)</details>", text, re.S)
    assert "the_setup" in folded and "the_setup" not in text.replace(folded, "")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sections_are_headings_and_every_figure_has_its_words(path):
    cells = json.loads(path.read_text())["cells"]
    text = "".join("".join(c["source"]) + "\n" for c in cells if c["cell_type"] == "markdown")
    assert len(re.findall("^# ", text, re.M)) == 1 and len(re.findall("^## ", text, re.M)) >= 2
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    for output in outputs:
        for kind in set(output.get("data", {})) & {"image/png", "image/jpeg"}:
            assert len(output["metadata"][kind]["alt"]) > 20


def test_the_percent_files_compile():
    for path in (ROOT / "notebooks").glob("*.py"):
        compile(path.read_text(), str(path), "exec")
        assert jupytext.read(path).cells
