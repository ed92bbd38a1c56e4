"""Every notebook alone, as on Colab, in the environment that runs this.

    .venv-colab/bin/python tools/colab.py [NOTEBOOK ...]     exit 1 where one fails

Each starts in an empty folder that has only the .ipynb in it, with a stand-in for google.colab, and
gets the package with pip from a git URL: this repository as it was last committed, under a tag.
What the setup cell installs goes into a layer on top of the environment, made for that one notebook
and thrown away. The setup cell runs twice. A notebook passes where no cell raises, the package came
from that URL, no package that was there (torch, numpy, pandas ...) has another version after the
setup, the second run of that cell installs and changes nothing, and what is not tagged
nbval-ignore-output prints what it prints in the repository.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parents[1]
REPO = re.compile(r'^REPO = "(.*?)"', re.M)  # in the setup cell; Colab has no jupytext
TAG, PACKAGE = "v-now", "dermai-isic2018"
# prints {package: version}; defines no name that a notebook could lean on
PROBE = """print(__import__("json").dumps({d.name: d.version for d in reversed(list(
    __import__("importlib.metadata").metadata.distributions()))}))"""


def serve(folder):
    """Make a bare copy of the last commit under a tag; return the address for pip."""
    bare = Path(folder, "repository.git")
    subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, bare], check=True)
    subprocess.run(["git", "-C", bare, "tag", "--force", TAG, "HEAD"], check=True)
    return f"{bare.as_uri()}@{TAG}"


def layer(folder):
    """Make an empty environment on top of this one, with a kernel; return its Jupyter folder.

    What pip installs there leaves this environment as it is.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code = "import site; print(site.getsitepackages()[0])"
    inner, base = (
        subprocess.check_output([each, "-c", code], text=True).strip()
        for each in (python, sys.executable)
    )
    Path(inner, "base.pth").write_text(f"import site; site.addsitedir({base!r})\n")
    kernel = folder / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True, exist_ok=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": command, "display_name": "Python 3", "language": "python"}
    kernel.write_text(json.dumps(about))
    return folder / "share" / "jupyter"


def surroundings(jupyter):
    """The kernel's environment: no setting of ours, the layer's kernel, google.colab importable."""
    ours = ("DERMAI_", "PYTHON", "JUPYTER")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)} | {
        "JUPYTER_PATH": str(jupyter),
        "PYTHONPATH": str(ROOT / "tools" / "stand_in"),
        "COLAB_RELEASE_TAG": "stand-in",
        # else ipykernel's debugger warns about Python's frozen modules
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def executed(notebook, folder, environment, *arguments):
    """Run all cells in `folder`, by a new kernel; returns the seconds."""
    started = time.monotonic()
    where = {"resources": {"metadata": {"path": str(folder)}}, "kernel_name": "python3"}
    quiet = ["--IPKernelApp.log_level=ERROR", *arguments]
    client = NotebookClient(notebook, timeout=None, extra_arguments=quiet, **where)
    client.execute(env=environment)
    return time.monotonic() - started


def prepared(notebook, address):
    """Put `address` into the setup cell, which then stands twice, with a look at the installed
    packages before, between and after: code cells 0 to 4."""
    setup = code_cells(notebook)[0]
    setup.source = REPO.sub(f'REPO = "{address}"', setup.source)
    look = [new_code_cell(PROBE) for _ in range(3)]
    number = notebook.cells.index(setup)
    five = [look[0], setup, look[1], new_code_cell(setup.source), look[2]]
    notebook.cells[number : number + 1] = five


def text(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def output_of(cell):
    """What nbval compares of a cell, pictures and HTML left out: (printed, results)."""
    return text(cell), [o["data"].get("text/plain") for o in cell.outputs if "data" in o]


def judge(first_cells):
    """What the setup cell did wrong, in words, by the five cells that `prepared` makes."""
    before, between, after = (json.loads(text(cell)) for cell in first_cells[::2])
    first, again = (text(cell) for cell in first_cells[1::2])
    wrong = []
    if PACKAGE in before or PACKAGE not in between:
        wrong.append(f"{PACKAGE} did not come from the setup cell")
    for name, version in before.items():
        if version != between.get(name):
            wrong.append(f"the setup cell changed {name} {version} -> {between.get(name)}")
    longer = len(again.splitlines()) > len(first.splitlines())
    if between != after or "installing" in again or longer:
        wrong.append(f"the setup cell is no no-op the second time: {again.strip()}")
    return wrong


def alone(path, address):
    """Run one notebook; returns what went wrong as lines."""
    notebook = nbformat.read(path, as_version=4)
    tagged = [cell.metadata.get("tags", []) for cell in code_cells(notebook)]
    before = [output_of(cell) for cell in code_cells(notebook)]
    prepared(notebook, address)
    with tempfile.TemporaryDirectory() as folder:
        environment, empty = surroundings(layer(Path(folder, "layer"))), Path(folder, "content")
        empty.mkdir()
        os.environ |= environment
        imported = "--IPKernelApp.exec_lines=import google.colab"
        try:
            seconds = executed(notebook, empty, environment, imported)
        except (CellExecutionError, DeadKernelError) as error:  # dead: out of memory, as a rule
            return str(error).splitlines()[-30:]
    print(f"{path.stem}: {seconds:.0f} s", flush=True)
    cells = code_cells(notebook)
    after = map(output_of, [cells[1], *cells[5:]])
    return judge(cells[:5]) + [
        f"output {new} where the repository has {old}"
        for new, old, tags in zip(after, before, tagged, strict=True)
        if new != old and "nbval-ignore-output" not in tags
    ]


def main():
    every, failed = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), 0
    paths = [Path(name) for name in sys.argv[1:]] or every
    with tempfile.TemporaryDirectory() as folder:
        address = serve(folder)
        for path in paths:
            wrong = alone(path, address)
            failed += bool(wrong)
            print("".join(f"{path.stem}: {line}\n" for line in wrong), end="", flush=True)
    print(f"{len(paths) - failed} of {len(paths)} notebooks run alone")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
