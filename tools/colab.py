"""Every notebook alone, as on Colab, in the environment that runs this.

    .venv-colab/bin/python tools/colab.py [--keep FOLDER] [NOTEBOOK ...]     exit 1 where one fails

Each starts in an empty folder that has only the .ipynb in it, with a stand-in for google.colab, and gets the package from a
git URL: a copy of this repository as it was last committed, under a tag. What the setup cell installs goes into a layer on top
of the environment, made for that one notebook and thrown away. The setup cell runs twice. A notebook passes where no cell
raises, no package that was there (torch, numpy, pandas ...) has another version after the setup, the second run of that cell
installs and changes nothing, and what is not tagged nbval-ignore-output says what it says in the repository.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
TAG = "v-now"
WHERE = re.compile(r"^REPOSITORY, TAG = .*$", re.M)  # the setup cell's line that `make publish` writes
PROBE = """print(__import__("json").dumps({d.name: d.version for d in reversed(list(
    __import__("importlib.metadata").metadata.distributions()))}))"""  # names nothing that a notebook could lean on


def publish(folder):
    """A bare copy of the last commit under a tag; returns its URL."""
    bare = Path(folder, "repository.git")
    subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, bare], check=True)
    subprocess.run(["git", "-C", bare, "tag", "--force", TAG, "HEAD"], check=True)
    return bare.as_uri()


def layer(folder):
    """An empty environment on top of this one, with a kernel; what pip installs there leaves this one as it is."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = "import site; print(site.getsitepackages()[0])"
    inner, base = (subprocess.run([p, "-c", site], check=True, capture_output=True, text=True).stdout.strip()
                   for p in (python, sys.executable))  # fmt: skip
    Path(inner, "base.pth").write_text(f"import site; site.addsitedir({base!r})\n")
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = folder / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True, exist_ok=True)
    kernel.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    return folder / "share" / "jupyter"


def surroundings(jupyter):
    """The kernel's environment: no setting of ours, the layer's kernel first, google.colab importable."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DERMAI_", "PYTHON", "JUPYTER"))}
    return kept | {
        "JUPYTER_PATH": str(jupyter),
        "PYTHONPATH": str(ROOT / "tools" / "stand_in"),
        "COLAB_RELEASE_TAG": "stand-in",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else ipykernel's debugger warns about Python's frozen modules
    }


def prepared(path, url):
    """The notebook as published, with its setup cell twice and a look at the installed packages before, between and after."""
    notebook = nbformat.read(path, as_version=4)
    number = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    setup, before = notebook.cells[number], compared(notebook)
    setup.source, found = WHERE.subn(f"REPOSITORY, TAG = {url!r}, {TAG!r}", setup.source)
    if found != 1:
        sys.exit(f"error: {path.name}: the setup cell has no line `REPOSITORY, TAG = ...`")
    again = nbformat.v4.new_code_cell(setup.source)
    look = [nbformat.v4.new_code_cell(PROBE) for _ in range(3)]
    notebook.cells[number : number + 1] = [look[0], setup, look[1], again, look[2]]
    return notebook, setup, again, look, before


def said(cell):
    """What nbval compares of a cell, pictures and HTML left out: (printed, results)."""
    return text(cell), [output["data"].get("text/plain") for output in cell.outputs if "data" in output]


def compared(notebook):
    """[(cell, what it said)] of the cells that are not tagged."""
    untagged = [c for c in notebook.cells if c.cell_type == "code" and "nbval-ignore-output" not in c.metadata.get("tags", [])]
    return [(cell, said(cell)) for cell in untagged]


def text(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def seconds(cell):
    started, ended = (cell.metadata.execution[key] for key in ("iopub.execute_input", "shell.execute_reply"))
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()


def judge(setup, again, look):
    """What the setup cell did wrong, in words, and the names of what it installed."""
    before, between, after = (json.loads(text(cell)) for cell in look)
    changed = [f"{name} {before[name]} -> {between.get(name)}" for name in before if before[name] != between.get(name)]
    wrong = [f"the setup cell changed {', '.join(changed)}"] if changed else []
    if between != after or "installing" in text(again) or len(text(again).splitlines()) > len(text(setup).splitlines()):
        wrong.append(f"the setup cell is no no-op the second time: {text(again).strip()}")
    return wrong, sorted(set(between) - set(before))


def alone(path, url, keep):
    """Run one notebook; returns what went wrong as lines."""
    with tempfile.TemporaryDirectory() as folder:
        jupyter, empty = layer(Path(folder, "layer")), Path(folder, "content")
        empty.mkdir()
        notebook, setup, again, look, before = prepared(path, url)
        nbformat.write(notebook, empty / path.name)
        os.environ |= (inside := surroundings(jupyter))
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            resources={"metadata": {"path": str(empty)}},
            extra_arguments=["--IPKernelApp.log_level=ERROR", "--IPKernelApp.exec_lines=import google.colab"],
        )
        started = time.monotonic()
        try:
            client.execute(env=inside)
        except (CellExecutionError, DeadKernelError) as error:  # dead: out of memory, as a rule
            return str(error).splitlines()[-30:]
        finally:
            if keep:
                nbformat.write(notebook, keep / path.name)
        wrong, installed = judge(setup, again, look)
        wrong += [f"said {said(cell)} where the repository has {old}" for cell, old in before if said(cell) != old]
        print(f"{path.stem}: {time.monotonic() - started:.0f} s, setup {seconds(setup):.0f} s ({' '.join(installed)}), "
              f"again {seconds(again):.1f} s", flush=True)  # fmt: skip
        return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the executed notebooks here")
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")))
    given = parser.parse_args()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        url = publish(folder)
        for path in given.notebooks:
            wrong = alone(path, url, given.keep)
            failed += bool(wrong)
            print(*[f"{path.stem}: {line}" for line in wrong], sep="\n", end="\n" if wrong else "", flush=True)
    print(f"{len(given.notebooks) - failed} of {len(given.notebooks)} notebooks run alone")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
