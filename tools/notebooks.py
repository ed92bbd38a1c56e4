"""The notebooks from a terminal.

    python tools/notebooks.py run [--setting value ...]  execute 01 and on in order, as HTML
    python tools/notebooks.py sync                       make each pair equal; outputs: the sample's
    python tools/notebooks.py check                      say which pairs differ (exit 1)
    python tools/notebooks.py publish owner/name v1      where Colab gets the package

00_run_all does in one notebook what the others do together: `run` leaves it out. All have one setup
cell, SETUP. A pair is compared by content, cell types and sources, never by file time.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from colab import REPO, ROOT, code_cells, executed
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

sys.path.insert(0, str(ROOT))
from dermai_utils import cli, files, reports, settings  # noqa: E402
from dermai_utils.basics import UserError  # noqa: E402

TEMPLATE = Path(__file__).with_name("notebook.html.j2")
TEXTS = (".md", ".txt", ".py")
CLONE = r"^(git clone )\S+ (DermAI-ISIC2018).*"  # with the comment that says what to fill in
SETUP = """\
# @title Setup: get the package where it is missing, print the versions { display-mode: "form" }
REPO = ""  # `make publish` fills in the address of this project
if not __import__("importlib.util").util.find_spec("dermai_utils"):
    if not REPO: raise SystemExit("Fill in REPO: https://github.com/OWNER/NAME@TAG, this project")
    get_ipython().run_line_magic("pip", f"install -q --no-deps git+{REPO}")
import dermai_utils as dermai; dermai.setup()"""
UNSET = "<!-- button of {} -->"  # nothing is shown until then
COLAB = "https://colab.research.google.com"
# Colab's runtime with Python 3.12 and torch 2.11; the list of those that can be pinned:
# github.com/googlecolab/backend-info
RUNTIME = {"runtime_version": "2026.07"}
# what changes from run to run and says nothing (times, the Python version) is left out
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "jupytext": {"formats": "ipynb,py:percent"},
    "language_info": {"name": "python"},
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": [], "runtime_attributes": RUNTIME},
}


def notebooks(root=ROOT):
    """The .py half of each."""
    return sorted((root / "notebooks").glob("[0-9]*.py"))


# The pairs.


def cells(notebook):
    """What must be equal in both halves: [(cell type, source, tags)]."""
    return [(c.cell_type, c.source.strip(), c.metadata.get("tags", [])) for c in notebook.cells]


def setup_of(root):
    """The setup cell of all, with the address that the first notebook has."""
    repo = REPO.search(code_cells(jupytext.read(newer(notebooks(root)[0])))[0].source)
    return SETUP.replace('REPO = ""', f'REPO = "{repo[1] if repo else ""}"')


def badge(name, repo):
    """Markdown: the button that opens notebook `name` in Colab (GitHub only), or its place."""
    address, _, tag = repo.rpartition("@")
    if not address.startswith("https://github.com/"):
        return UNSET.format(name)
    target = f"{COLAB}/github/{address[19:]}/blob/{tag}/notebooks/{name}.ipynb"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({target})"


def stamp(notebook, name, setup):
    """`notebook` with its badge as the first cell, and `setup` as its setup cell."""
    if "badge" not in notebook.cells[0].metadata.get("tags", []):
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(metadata={"tags": ["badge"]}))
    notebook.cells[0].source = badge(name, REPO.search(setup)[1])
    first = code_cells(notebook)[0]
    first.metadata["jupyter"] = {"source_hidden": True}  # JupyterLab folds it, as Colab does
    first.source = setup
    return notebook


def check(root=ROOT) -> int:
    """Print which pairs, setup cells and badges are wrong; exit status 1 where there is one."""
    wrong, page = [], (root / "README.md").read_text(encoding="utf-8")
    setup = setup_of(root)
    for path in sorted({path.with_suffix(".py") for path in (root / "notebooks").glob("[0-9]*.*")}):
        halves = path, path.with_suffix(".ipynb")
        if not all(half.exists() and equal(path, half) for half in halves):
            wrong.append(f"notebooks/{path.name} and its .ipynb differ: run `make sync`")
            continue
        if cells(jupytext.read(path)) != cells(stamp(jupytext.read(path), path.stem, setup)):
            wrong.append(f"notebooks/{path.name}: badge or setup cell differ: run `make sync`")
        if badge(path.stem, REPO.search(setup)[1]) not in page:
            wrong.append(f"README.md: another Colab button of {path.stem}: run `make publish`")
    print("".join(f"{line}\n" for line in wrong), end="")
    return 1 if wrong else 0


def equal(one, other):
    return cells(jupytext.read(one)) == cells(jupytext.read(other))


def edited(path):
    """Whether the cells of `path` differ from the last commit's (True where there was none)."""
    command = ["git", "show", f"HEAD:./{path.name}"]
    old = subprocess.run(command, cwd=path.parent, capture_output=True, text=True)
    form = "py:percent" if path.suffix == ".py" else "ipynb"
    now = cells(jupytext.read(path))
    return old.returncode or cells(jupytext.reads(old.stdout, fmt=form)) != now


def newer(py):
    """The half of a pair that was edited. UserError where both were, differently."""
    halves = [half for half in (py, py.with_suffix(".ipynb")) if half.exists() and edited(half)]
    if len(halves) > 1 and not equal(*halves):
        raise UserError(f"{py.name} and its .ipynb were both edited: delete the wrong one")
    return halves[0] if halves else py


def write(notebook, path):
    """One half, by its suffix."""
    if path.suffix == ".py":
        jupytext.write(notebook, path, fmt="py:percent")
        return
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, path)


def publish(repository, tag, root=ROOT):
    """Write the address into every setup cell and badge, into CITATION.cff, and in README, docs/
    and spaces/ into `git clone URL` and `git+URL`. Executes nothing: the outputs stay.

    repository: `owner/name` on GitHub, or a URL that `pip install git+URL@TAG` understands.
    """
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        repository = f"https://github.com/{repository}"
    # the setup cell hands both to a shell
    if not re.fullmatch(r"[\w.-]+", tag) or not re.fullmatch(r"\w+://[\w.:/~%+-]+", repository):
        raise UserError("publish: expected REPO=owner/name (or a URL) and TAG=v1, without slashes")
    setup, address = setup_of(root), f"{repository}@{tag}"
    old = REPO.search(setup)[1]
    folders = (root / name for name in ("docs", "spaces"))
    pages = [path for folder in folders for path in folder.rglob("*.*") if path.suffix in TEXTS]
    for page in [root / "README.md", *pages]:
        text = re.sub(CLONE, rf"\1{repository} \2", page.read_text(encoding="utf-8"), flags=re.M)
        text = text.replace(f"git+{old or 'URL'}", f"git+{address}")
        for py in notebooks(root):
            text = text.replace(badge(py.stem, old), badge(py.stem, address))
        page.write_text(text, encoding="utf-8")
    citation = root / "CITATION.cff"
    text = re.sub("^repository-code: .*\n", "", citation.read_text(encoding="utf-8"), flags=re.M)
    line = f'repository-code: "{repository}"'
    text = re.sub("^(license: .*)", rf"\1\n{line}", text, flags=re.M)
    citation.write_text(text, encoding="utf-8")
    for py in notebooks(root):
        for half in (py, py.with_suffix(".ipynb")):
            fresh = REPO.sub(f'REPO = "{address}"', setup)
            write(stamp(jupytext.read(half), py.stem, fresh), half)
    print(f"notebooks get the package from {address}: now commit, `git tag {tag}`, and push both")


# Execution.


def describe(notebook):
    """Give each picture without words the section it stands in and the sentence before it."""
    section, sentence = "", ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = (re.findall("^#+ (.*)", cell.source, re.M) or [section])[-1]
            prose = " ".join(line for line in cell.source.splitlines() if line[:1] not in "#|>")
            sentence = re.split(r"(?<=[.?!:]) ", prose.strip())[-1] or sentence
        for output in cell.get("outputs", []):
            for kind in {"image/png", "image/jpeg"} & set(output.get("data", {})):
                words = output.metadata.setdefault(kind, nbformat.NotebookNode())
                words["alt"] = words.get("alt") or f"A figure in the section {section}. {sentence}"


def in_one_piece(outputs):
    """The outputs of a cell; neighbouring pieces of one stream, whose number depends on the
    machine's speed, become one."""
    merged = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output["output_type"] == "stream" and output["name"] == last.get("name"):
            last["text"] += output["text"]
        else:
            merged.append(output)
    return merged


def execute(notebook, name):
    """Run all cells in the current folder, with this checkout's package."""
    # without bars: they come on slow machines only, and a page that is not live cannot show them
    ours = {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    print(f"{name}: running", flush=True)
    try:
        seconds = executed(notebook, Path.cwd(), os.environ | ours)
    except CellExecutionError as error:
        kind = "" if error.ename == "UserError" else f"{error.ename}: "
        raise UserError(f"in {name}: {kind}{error.evalue}") from None
    describe(notebook)
    for cell in code_cells(notebook):
        cell.outputs = in_one_piece(cell.outputs)
    print(f"{name}: {seconds:.1f} s", flush=True)


def sync():
    """Write both halves of each notebook, with the outputs of a run on the sample."""
    setup = setup_of(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        for number, py in enumerate(notebooks()):
            notebook = stamp(jupytext.read(newer(py)), py.stem, setup)
            # folders of its own for 00, so that 01 and on show how things are made, too
            own = f"{folder}/{'others' if number else '00'}"
            folders = {"DERMAI_CACHE_DIR": f"{own}/cache", "DERMAI_WORK_DIR": f"{own}/work"}
            os.environ.update(folders, DERMAI_DATA="sample")
            for cell in code_cells(notebook):
                cell.outputs, cell.execution_count = [], None
            execute(notebook, py.stem)
            write(notebook, py.with_suffix(".ipynb"))
            write(notebook, py)


def run(words):
    """Execute the notebooks from 01 on with these settings; leave them as HTML in work/html."""
    given, _ = cli.split_words(cli.parser("run"), words)
    chosen = settings.read(**given)
    for name, value in given.items():
        several = isinstance(value, list)
        os.environ[f"DERMAI_{name.upper()}"] = os.pathsep.join(value) if several else value
    for py in notebooks()[1:]:
        notebook = jupytext.read(py)
        execute(notebook, py.stem)
        with files.atomic(chosen.work / "html" / f"{py.stem}.html") as file:
            file.write(as_html(notebook))
    print(f"start here: {reports.index(chosen.work)}")


def as_html(notebook) -> str:
    """An executed notebook as one page without a CDN, titled by its first heading."""
    lines = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    title = re.search("^# (.*)", lines, re.M)[1]
    notebook.metadata["title"] = f"DermAI-ISIC2018: {title}"
    exporter = HTMLExporter(raw_template=TEMPLATE.read_text(encoding="utf-8"))
    return exporter.from_notebook_node(notebook)[0]


def main(words):
    """Do what the first of `words` says."""
    commands = {"run": lambda *rest: run(rest), "sync": sync, "check": check, "publish": publish}
    if not words or words[0] not in commands:
        print(__doc__)
        return 2
    return commands[words[0]](*words[1:])


if __name__ == "__main__":
    sys.exit(cli.exit_status(main, sys.argv[1:]))
