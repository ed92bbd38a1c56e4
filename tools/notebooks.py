"""The notebooks from a terminal.

    python tools/notebooks.py run [--field value ...]    execute 01 and on in order, as HTML
    python tools/notebooks.py sync                       make each pair equal; outputs: the sample's
    python tools/notebooks.py check                      say which pairs differ (exit 1)
    python tools/notebooks.py publish owner/name v1      where Colab gets the package

00_run_all does in one notebook what the others do together: `run` leaves it out. Its setup cell is
everybody's. A pair is compared by content, cell types and sources, never by file time.
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

from dermai_utils import config, files, pipeline  # noqa: E402
from dermai_utils.__main__ import read_words  # noqa: E402
from dermai_utils.metrics import text  # noqa: E402
from dermai_utils.report import render  # noqa: E402

TEMPLATE = Path(__file__).with_name("notebook.html.j2")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
# Colab's runtime with Python 3.12 and torch 2.11; the list of those that can be pinned:
# github.com/googlecolab/backend-info
RUNTIME = "2026.07"
# what changes from run to run and says nothing (times, the Python version) is left out
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "jupytext": {"formats": "ipynb,py:percent"},
    "language_info": {"name": "python"},
    "accelerator": "GPU",
    "colab": {
        "gpuType": "T4",
        "provenance": [],
        "runtime_attributes": {"runtime_version": RUNTIME},
    },
    "kaggle": {
        "accelerator": "nvidiaTeslaT4",
        "dataSources": [],
        "isGpuEnabled": True,
        "isInternetEnabled": True,
        "language": "python",
        "sourceType": "notebook",
    },
}


# The pairs.


def cells(notebook):
    """What of a notebook must be equal in both halves: [(cell type, source, tags)]."""
    return [
        (cell.cell_type, cell.source.strip(), cell.metadata.get("tags", []))
        for cell in notebook.cells
    ]


def equal(py):
    ipynb = py.with_suffix(".ipynb")
    both = py.exists() and ipynb.exists()
    return both and cells(jupytext.read(py)) == cells(jupytext.read(ipynb))


def check():
    """Say which pairs, setup cells and badges are wrong; exit status 1 where there is one."""
    halves = [p for p in (ROOT / "notebooks").iterdir() if p.suffix in (".py", ".ipynb")]
    wrong = [
        f"notebooks/{py.name} and its .ipynb differ: run `make sync`"
        for py in sorted({path.with_suffix(".py") for path in halves})
        if not equal(py)
    ]
    setup = publish.first_code(jupytext.read(NOTEBOOKS[0])).source
    wrong += [
        f"notebooks/{py.name}: its badge or its setup cell isn't everybody's: run `make sync`"
        for py in NOTEBOOKS
        if cells(jupytext.read(py)) != cells(publish.stamp(jupytext.read(py), py.stem, setup))
    ]
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    if missing := [path.stem for path in NOTEBOOKS if publish.badge(path.stem) not in page]:
        wrong.append(
            f"README.md: the Colab button of {', '.join(missing)} isn't the one that "
            "pyproject.toml says: run `make publish REPO=... TAG=...`"
        )
    print("".join(f"{line}\n" for line in wrong), end="")
    return 1 if wrong else 0


def changed_since_commit(path):
    """Whether the cells of `path` differ from the last commit's (True where there was none)."""
    command = ["git", "show", f"HEAD:{path.relative_to(ROOT).as_posix()}"]
    old = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if old.returncode or not path.exists():
        return path.exists()
    form = "py:percent" if path.suffix == ".py" else "ipynb"
    return cells(jupytext.reads(old.stdout, fmt=form)) != cells(jupytext.read(path))


def newer(py):
    """The half of a pair that was edited; different edits in both halves are refused."""
    ipynb = py.with_suffix(".ipynb")
    if not ipynb.exists() or equal(py) or not changed_since_commit(ipynb):
        return py
    if changed_since_commit(py):
        raise config.UserError(
            f"{py.name} and {ipynb.name} were both edited, differently: make one of them right, "
            "delete the other"
        )
    return ipynb


def write(notebook, path):
    with files.atomic(path) as file:
        if path.suffix == ".py":
            file.write(jupytext.writes(notebook, fmt="py:percent"))
            return
        notebook.metadata = nbformat.from_dict(METADATA)
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"
            cell.metadata.pop("execution", None)
        nbformat.write(notebook, file)


def publish_as(repository, tag):
    """Write the address wherever it stands. Executes nothing, so the outputs stay."""
    publish.record(repository, tag)
    for py in NOTEBOOKS:
        for half in (py, py.with_suffix(".ipynb")):
            notebook = jupytext.read(half)
            write(publish.stamp(notebook, py.stem, publish.first_code(notebook).source), half)
    print(
        f"notebooks get the package from {publish.published()[0]} at {tag}: "
        f"now commit, `git tag {tag}`, and push both"
    )


# Execution.


def execute(notebook, name):
    """Run all cells in the folder notebooks/, with this checkout's package."""
    started = time.monotonic()
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(ROOT / "notebooks")}},
    )
    try:
        client.execute(env=os.environ | {"PYTHONPATH": str(ROOT)})
    except CellExecutionError as error:
        kind = "" if error.ename == "UserError" else f"{error.ename}: "
        raise config.UserError(f"in {name}: {kind}{error.evalue}") from None
    except Exception:
        # at Ctrl-C nbclient only ends the kernel, and stumbles over that: a kernel that died by
        # itself has no such future
        if hasattr(client, "_async_cleanup_kernel_future"):
            raise KeyboardInterrupt from None
        raise
    print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)


def sync():
    """Write both halves of each notebook, with the outputs of a run on the sample."""
    setup = publish.first_code(jupytext.read(newer(NOTEBOOKS[0]))).source
    notebooks = {py: publish.stamp(jupytext.read(newer(py)), py.stem, setup) for py in NOTEBOOKS}
    with tempfile.TemporaryDirectory() as folder:
        for py, notebook in notebooks.items():
            # folders of its own for 00, so that 01 and on show how things are made, too
            own = f"{folder}/{'00' if py == NOTEBOOKS[0] else 'others'}"
            os.environ.update(
                DERMAI_DATA="sample", DERMAI_CACHE_DIR=f"{own}/cache", DERMAI_WORK_DIR=f"{own}/work"
            )
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
            execute(notebook, py.stem)
            write(notebook, py.with_suffix(".ipynb"))
            write(notebook, py)


def run(arguments):
    """Execute the notebooks from 01 on with these settings; leave them as HTML in work/."""
    given, _ = read_words(arguments)
    cfg = config.load(**given)
    for name, value in given.items():
        # the kernels work in notebooks/: paths become absolute
        path = Path(value).expanduser()
        if value and (
            name.endswith("_dir") or name in ("data", "test", "extra", "weights") and path.exists()
        ):
            value = path.resolve()
        os.environ[f"DERMAI_{name.upper()}"] = str(value)
    pipeline.check(cfg)  # a mistake is told now, not after the notebooks before it
    announce(cfg)
    folder = cfg.work / "html"
    for py in NOTEBOOKS[1:]:
        notebook = jupytext.read(py)
        execute(notebook, py.stem)
        with files.atomic(folder / f"{py.stem}.html") as file:
            file.write(as_html(notebook))
    print("", headline(files.read_json(cfg.report_dir / "metrics.json")), sep="\n")
    named = {"notebooks": folder, "numbers": cfg.report_dir / "metrics.json"}
    named |= {"report": cfg.report_dir / "report.html", "start here": render.index(cfg)}
    for name, path in named.items():
        if path.exists():
            print(f"{name}: {path}")


def announce(cfg):
    """Say what a run will do and how long it takes here, measured in a process of its own, which
    gives its memory back."""
    print(
        f"run: {NOTEBOOKS[1].stem} to {NOTEBOOKS[-1].stem} on data={cfg.data}: from the archives "
        "to a trained and evaluated model; what is made already is skipped",
        flush=True,
    )
    check = "from dermai_utils import config, runtime; runtime.check(config.load())"
    command = [sys.executable, "-c", check]  # where it fails, a notebook says why
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    print(said, end="", flush=True)


def headline(metrics):
    """The number on top of the report, with its interval, and two more."""
    subset = metrics["primary_subset"]
    scores, n = metrics["intervals"][subset], metrics["subsets"][subset]["n"]
    made_up = " (made-up pictures: the numbers mean nothing)" if metrics["data"] == "sample" else ""
    lines = [f"{text.subset_name(metrics, subset)}, n={n:,}{made_up}, 95 % intervals:"]
    for name in ("balanced_accuracy", "macro_f1", "macro_auc"):
        lines.append(f"  {text.pretty_name(name):18} {text.with_interval(scores[name])}")
    return "\n".join(lines)


def as_html(notebook) -> str:
    """An executed notebook as one page without a CDN, titled by its first heading."""
    exporter = HTMLExporter(raw_template=TEMPLATE.read_text(encoding="utf-8"))
    title = next(
        line[2:]
        for cell in notebook.cells
        for line in cell.source.splitlines()
        if cell.cell_type == "markdown" and line.startswith("# ")
    )
    notebook.metadata["title"] = f"DermAI-ISIC2018: {title}"
    return exporter.from_notebook_node(notebook)[0]


def main():
    command, *rest = sys.argv[1:] or ["help"]
    try:
        if command == "run":
            return run(rest)
        if command in ("sync", "check"):
            return globals()[command]()
        if command == "publish" and len(rest) == 2:
            return publish_as(*rest)
    except config.UserError as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main())
