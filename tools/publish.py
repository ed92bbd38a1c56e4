"""Where a notebook that was opened alone gets the package: pyproject.toml says it; setup cells and
badges repeat it."""

import re
import tomllib
from pathlib import Path

import nbformat

from dermai_utils import config, files

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r'git\+[^"]*')  # in the setup cell
UNSET = "<!-- make publish puts the Colab button of {} here -->"  # nothing is shown until then
COLAB = "https://colab.research.google.com"


def published() -> tuple[str, str]:
    """(address of the repository, tag)."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)["tool"]["published"]
    return table["repository"], table["tag"]


def badge(name: str) -> str:
    """Markdown: the button that opens notebook `name` in Colab (GitHub only), or its place."""
    repository, tag = published()
    if not repository.startswith("https://github.com/"):
        return UNSET.format(name)
    address = f"{COLAB}/github/{repository[19:]}/blob/{tag}/notebooks/{name}.ipynb"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({address})"


def first_code(notebook):
    """The setup cell."""
    return next(cell for cell in notebook.cells if cell.cell_type == "code")


def stamp(notebook, name: str, setup: str):
    """`notebook` with its badge as the first cell, and `setup`, with the address, as setup cell."""
    if "badge" not in notebook.cells[0].metadata.get("tags", []):
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(metadata={"tags": ["badge"]}))
    notebook.cells[0].source = badge(name)
    # JupyterLab folds it, as Colab does
    first_code(notebook).metadata["jupyter"] = {"source_hidden": True}
    first_code(notebook).source = ADDRESS.sub("git+{}@{}".format(*published()), setup)
    return notebook


def record(repository: str, tag: str) -> None:
    """Write the address and `tag` into pyproject.toml and the README's badge.

    repository: `owner/name` on GitHub, or a URL that `pip install git+URL@TAG` understands.
    """
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        repository = f"https://github.com/{repository}"
    # the setup cell hands both to a shell
    if not re.fullmatch(r"[\w.-]+", tag) or not re.fullmatch(r"\w+://[\w.:/@~%+-]+", repository):
        raise config.UserError(
            "publish: expected REPO=owner/name (or a URL) and TAG=v1, a tag without blanks "
            "or slashes"
        )
    names = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9]*.py"))]
    old = {name: badge(name) for name in names}
    values = {"repository": repository, "tag": tag}
    setting = re.compile(r"^(repository|tag) = .*$", re.M)
    _rewrite(
        "pyproject.toml", lambda text: setting.sub(lambda m: f'{m[1]} = "{values[m[1]]}"', text)
    )
    for name in names:
        _rewrite("README.md", lambda text, name=name: text.replace(old[name], badge(name)))


def _rewrite(name, change):
    text = change((ROOT / name).read_text(encoding="utf-8"))
    with files.atomic(ROOT / name) as file:
        file.write(text)
