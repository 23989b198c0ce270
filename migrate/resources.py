"""Where the files that are not Python lie: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = {"templates": "templates", "demo-store": "fixtures/demo-store"}


def directory(name: str) -> Path:
    """The directory `templates` or `demo-store`."""
    packed = _PACKAGE / "_data" / name
    return packed if packed.is_dir() else _PACKAGE.parent / _CHECKOUT[name]


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(directory("templates")),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=jinja2.select_autoescape(("html.j2",)),
    )
    environment.filters["shell"] = lambda value: shlex.quote(str(value))
    environment.filters["cell"] = _cell
    return environment


def _cell(text: object) -> str:
    """Text for a cell of a Markdown table."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return re.sub(r"([\\`*\[\]|])", r"\\\1", shown).replace("<", "&lt;")


def render(template: str, **values: object) -> str:
    """Text of `templates/TEMPLATE` with the values filled in; a name that is not given is an error."""
    return _environment().get_template(template).render(**values)


def text(template: str) -> str:
    """A file of `templates/` that is emitted as it is."""
    return (directory("templates") / template).read_text(encoding="utf-8")
