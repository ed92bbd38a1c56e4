import json
import os
import shutil
import subprocess
import sys

import jupytext
import pytest

from dermai_utils.config import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def ignored(cell):
    return "nbval-ignore-output" in cell["metadata"].get("tags", [])


def test_there_are_six_and_the_first_cell_of_each_is_the_same():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]
    assert len({"".join(code_cells(path)[0]["source"]) for path in NOTEBOOKS}) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_was_executed_in_order_and_compared_ones_say_something(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))  # nbval skips a null
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    compared = [cell for cell in cells if not ignored(cell)]
    assert compared and all(cell["outputs"] for cell in compared)
    assert all(len("".join(cell["source"]).splitlines()) <= 25 for cell in cells)


def test_what_is_compared_comes_from_the_fixture(made):
    """The committed numbers are those of the fixture as it is made here and now, not of some other run."""
    from dermai_utils import clean

    table, rejected = clean.read_table(made.table_file), clean.read_table(made.rejected_file)
    texts = "".join("".join(output.get("text", "")) for cell in code_cells(NOTEBOOKS[1]) for output in cell["outputs"])
    assert f"{len(table):,} usable images, {len(rejected):,} rows left out" in texts


def run_nbval(folder, env):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)


def test_nbval_fails_when_a_compared_output_is_wrong(made, tmp_path):
    folder = ROOT / "notebooks" / "nbval_can_fail"
    folder.mkdir(exist_ok=True)
    env = {"DERMAI_CACHE_DIR": str(tmp_path / "cache"), "DERMAI_WORK_DIR": str(tmp_path / "work")}
    try:
        for falsified in (False, True):
            notebook = json.loads(NOTEBOOKS[0].read_text())
            if falsified:
                text = json.dumps(notebook).replace("train: 113 image files", "train: 114 image files")
                assert text != json.dumps(notebook)
                notebook = json.loads(text)
            (folder / "x.ipynb").write_text(json.dumps(notebook))
            assert run_nbval(folder, env).returncode == (1 if falsified else 0)
    finally:
        shutil.rmtree(folder)


def pairs_equal(folder):
    command = [sys.executable, str(folder / "tools" / "notebooks.py"), "check"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_pairs_are_equal_and_an_edit_of_either_half_is_noticed(tmp_path):
    for name in ("tools", "notebooks", "dermai_utils"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "nbval_can_fail"))
    assert pairs_equal(tmp_path).returncode == 0
    py = tmp_path / "notebooks" / "03_split.py"
    old = py.read_text()
    py.write_text(old.replace("split.counts(table)", "split.counts(table) + 0"))
    done = pairs_equal(tmp_path)
    assert done.returncode == 1 and "03_split.py" in done.stdout
    py.write_text(old)
    ipynb = tmp_path / "notebooks" / "03_split.ipynb"
    ipynb.write_text(ipynb.read_text().replace("split.counts(table)", "split.counts(table) + 0"))
    assert pairs_equal(tmp_path).returncode == 1
    ipynb.unlink()
    assert pairs_equal(tmp_path).returncode == 1


def test_the_percent_files_compile():
    for path in (ROOT / "notebooks").glob("*.py"):
        compile(path.read_text(), str(path), "exec")
        assert jupytext.read(path).cells
