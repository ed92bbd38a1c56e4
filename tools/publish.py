"""Where a notebook that was opened alone gets the package: pyproject.toml says it, setup cells and badges repeat it."""

import re
import tomllib
from pathlib import Path

import nbformat

from dermai_utils import config, files

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r'^REPOSITORY, TAG = "[^"]*", "[^"]*"', re.M)  # in the setup cell
UNSET = "*No Colab button here yet: `make publish REPO=owner/name TAG=v1` makes it, once the repository is on GitHub.*"
BUTTON = "https://colab.research.google.com/assets/colab-badge.svg"


def published() -> tuple[str, str]:
    """(address of the repository, tag)."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["published"]
    return about["repository"], about["tag"]


def badge(name: str) -> str:
    """Markdown: the button that opens notebook `name` in Colab, or how to get it. Colab opens only what is on GitHub."""
    repository, tag = published()
    if not repository.startswith("https://github.com/"):
        return UNSET
    address = f"https://colab.research.google.com/github/{repository[19:]}/blob/{tag}/notebooks/{name}.ipynb"
    return f"[![Open in Colab]({BUTTON})]({address})"


def first_code(notebook):
    """The setup cell."""
    return next(cell for cell in notebook.cells if cell.cell_type == "code")


def stamp(notebook, name: str, setup: str):
    """`notebook` with its badge, as the first cell, and with the setup cell's source, where the address is filled in."""
    if "badge" not in notebook.cells[0].metadata.get("tags", []):
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(metadata={"tags": ["badge"]}))
    notebook.cells[0].source = badge(name)
    first_code(notebook).metadata["jupyter"] = {"source_hidden": True}  # JupyterLab folds it, as Colab does
    first_code(notebook).source = ADDRESS.sub('REPOSITORY, TAG = "{}", "{}"'.format(*published()), setup)
    return notebook


def record(repository: str, tag: str) -> None:
    """Write `owner/name` on GitHub (or any address that git can clone) and `tag` into pyproject.toml and the README."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        repository = f"https://github.com/{repository}"
    if not re.fullmatch(r"[\w.-]+", tag) or not re.fullmatch(r'[^\s"\\]+', repository):
        raise config.UserError("publish: expected REPO=owner/name (or an address) and TAG=v1, a tag without blanks or slashes")
    old = badge("00_run_all")
    values = {"repository": repository, "tag": tag}
    _rewrite(
        "pyproject.toml",
        lambda text: re.sub(r"^(repository|tag) = .*$", lambda m: f'{m[1]} = "{values[m[1]]}"', text, flags=re.M),
    )
    _rewrite("README.md", lambda text: text.replace(old, badge("00_run_all")))


def _rewrite(name, change):
    text = change((ROOT / name).read_text(encoding="utf-8"))
    with files.atomic(ROOT / name) as file:
        file.write(text)
