"""Text from the templates of this folder. An unknown name in one is an error, never a blank."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from dermai_utils.basics import CLASS_NAMES, DISCLAIMER
from dermai_utils.study.text import percent

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=select_autoescape(["html.j2"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.globals |= {"CLASS_NAMES": CLASS_NAMES, "DISCLAIMER": DISCLAIMER}
TEMPLATES.filters |= {"percent": percent}


def fill(template: str, **values) -> str:
    """The text of one of the templates."""
    return TEMPLATES.get_template(template).render(values)
