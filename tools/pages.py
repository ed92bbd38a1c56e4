"""Text that a tool writes into a page, between two marks."""

from pathlib import Path

from dermai_utils import files
from dermai_utils.basics import UserError


def fill(path: Path, marks, text: str) -> None:
    """Put `text` between the two lines `marks` of a Markdown file. UserError without the first."""
    before, mark, rest = path.read_text("utf-8").partition(marks[0])
    if not mark:
        raise UserError(f"{path} has no line {marks[0]}: put it and {marks[1]} where the text goes")
    with files.atomic(path) as page:
        page.write(f"{before}{mark}\n{text}\n{marks[1]}{rest.partition(marks[1])[2]}")
