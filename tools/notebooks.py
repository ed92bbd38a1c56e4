"""The notebooks from a terminal.

    python tools/notebooks.py run [--data isic2018] [--field value ...]   execute 01 and on in order, leave them as HTML
    python tools/notebooks.py sync                                        make each pair equal, with outputs from the sample
    python tools/notebooks.py check                                       say which pairs differ (exit 1)
    python tools/notebooks.py publish owner/name v1                       where Colab gets the package: setup cells, badges

00_run_all does in one notebook what the others do together: `run` leaves it out. Its setup cell is everybody's.
A pair is compared by content, cell types and sources, never by file time.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import publish  # noqa: E402

from dermai_utils import config, files  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
RUNTIME = "2026.07"  # Colab's: Python 3.12, torch 2.11; the pinnable ones are listed at github.com/googlecolab/backend-info


def cells(notebook):
    return [(cell.cell_type, cell.source.strip(), cell.metadata.get("tags", [])) for cell in notebook.cells]


def differing():
    """The pairs that are not equal by content; a notebook without its other half is one of them."""
    stems = {path.with_suffix("") for path in (ROOT / "notebooks").iterdir() if path.suffix in (".py", ".ipynb")}
    pairs = [(stem.with_suffix(".py"), stem.with_suffix(".ipynb")) for stem in sorted(stems)]
    return [
        py
        for py, ipynb in pairs
        if not (py.exists() and ipynb.exists() and cells(jupytext.read(py)) == cells(jupytext.read(ipynb)))
    ]


def check():
    wrong = [f"{path.relative_to(ROOT)} and its .ipynb differ: run `make sync`" for path in differing()]
    setup = publish.first_code(jupytext.read(NOTEBOOKS[0])).source
    for path in NOTEBOOKS:
        if cells(jupytext.read(path)) != cells(publish.stamp(jupytext.read(path), path.stem, setup)):
            wrong.append(f"{path.relative_to(ROOT)}: its badge or its setup cell isn't everybody's: run `make sync`")
    if publish.badge(NOTEBOOKS[0].stem) not in (ROOT / "README.md").read_text(encoding="utf-8"):
        wrong.append("README.md: its Colab button isn't the one that pyproject.toml says: run `make publish REPO=... TAG=...`")
    print("".join(f"{line}\n" for line in wrong), end="")
    return 1 if wrong else 0


def publish_as(repository, tag):
    """Fill in the address wherever it stands. Executes nothing, so the outputs stay."""
    publish.record(repository, tag)
    for py in NOTEBOOKS:
        for half in (py, py.with_suffix(".ipynb")):
            notebook = jupytext.read(half)
            write(publish.stamp(notebook, py.stem, publish.first_code(notebook).source), half)
    print(f"notebooks get the package from {publish.published()[0]} at {tag}: now commit, `git tag {tag}`, and push both")


def write(notebook, path):
    with files.atomic(path) as file:
        if path.suffix == ".ipynb":
            tidy(notebook)
            nbformat.write(notebook, file)
        else:
            file.write(jupytext.writes(notebook, fmt="py:percent"))


def changed_since_commit(path):
    """Whether the cells of `path` differ from those of the last commit (True where there was none)."""
    old = subprocess.run(["git", "show", f"HEAD:{path.relative_to(ROOT).as_posix()}"], cwd=ROOT, capture_output=True, text=True)
    if old.returncode or not path.exists():
        return path.exists()
    return cells(jupytext.reads(old.stdout, fmt=path.suffix[1:] + (":percent" if path.suffix == ".py" else ""))) != cells(
        jupytext.read(path)
    )


def newer(py):
    """The half of a pair that was edited; a pair with different edits in both halves is refused."""
    ipynb = py.with_suffix(".ipynb")
    if ipynb.exists() and py in differing() and changed_since_commit(ipynb):
        if changed_since_commit(py):
            sys.exit(
                f"error: {py.name} and {ipynb.name} were both edited, differently: make one of them right, delete the other"
            )
        return ipynb
    return py


def execute(notebook, name):
    """Run all cells, from the notebook's own folder; exit 2 with the error's one line."""
    started = time.monotonic()
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(ROOT / "notebooks")}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"error in {name}: {error.ename}: {error.evalue}", file=sys.stderr)
        sys.exit(2)
    print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)


def sync():
    setup = publish.first_code(jupytext.read(newer(NOTEBOOKS[0]))).source
    notebooks = {py: publish.stamp(jupytext.read(newer(py)), py.stem, setup) for py in NOTEBOOKS}
    with tempfile.TemporaryDirectory() as folder:
        for py, notebook in notebooks.items():
            mine = f"{folder}/{'00' if py == NOTEBOOKS[0] else 'others'}"  # so that 01 and on show how things are made, too
            os.environ.update(DERMAI_DATA="sample", DERMAI_CACHE_DIR=f"{mine}/cache", DERMAI_WORK_DIR=f"{mine}/work")
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
            execute(notebook, py.stem)
            write(notebook, py.with_suffix(".ipynb"))
            write(notebook, py)


def tidy(notebook):
    """What changes from run to run and says nothing: times, the Python version, progress bars' widget state."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "jupytext": {"formats": "ipynb,py:percent"}, "language_info": {"name": "python"},
                         "accelerator": "GPU",
                         "colab": {"gpuType": "T4", "provenance": [], "runtime_attributes": {"runtime_version": RUNTIME}},
                         "kaggle": {"accelerator": "nvidiaTeslaT4", "dataSources": [], "isGpuEnabled": True,
                                    "isInternetEnabled": True, "language": "python", "sourceType": "notebook"}}  # fmt: skip
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.pop("execution", None)


def run(arguments):
    given = dict(zip((a.removeprefix("--").replace("-", "_") for a in arguments[::2]), arguments[1::2], strict=True))
    cfg = config.load(**given)
    os.environ.update({f"DERMAI_{name.upper()}": str(value) for name, value in given.items()})
    for name in ("cache_dir", "work_dir", "data", "weights"):  # the kernels work in notebooks/: paths become absolute
        value = given.get(name, "")
        if value and Path(value).expanduser().exists() or name.endswith("_dir") and value:
            os.environ[f"DERMAI_{name.upper()}"] = str(Path(value).expanduser().resolve())
    folder = cfg.work / "html"
    for py in NOTEBOOKS[1:]:
        notebook = jupytext.read(py)
        execute(notebook, py.stem)
        with files.atomic(folder / f"{py.stem}.html") as file:
            file.write(HTMLExporter().from_notebook_node(notebook)[0])
    print(f"numbers: {cfg.report_dir / 'metrics.json'}\nnotebooks: {folder}")


def main():
    command, *rest = sys.argv[1:] or ["help"]
    try:
        if command == "run":
            return run(rest)
        if command in ("sync", "check"):
            return globals()[command]()
        if command == "publish" and len(rest) == 2:
            return publish_as(*rest)
    except config.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValueError:
        print("error: expected --field value pairs", file=sys.stderr)
        return 2
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main())
