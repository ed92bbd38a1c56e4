"""Text from the templates of this folder, with the filters of the report's."""

from pathlib import Path

from jinja2 import FileSystemLoader

from dermai_utils.reports import page

_FOLDER = Path(__file__).with_name("templates")
TEMPLATES = page.TEMPLATES.overlay(loader=FileSystemLoader(_FOLDER))


def fill(template: str, **values) -> str:
    """The text of one of the templates. An unknown name in it is an error, never a blank."""
    return TEMPLATES.get_template(template).render(values)
