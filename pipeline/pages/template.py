"""Pages by Jinja2. Every value is escaped; templates name each other by their place in the tree, `pages/base.html`."""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup


def render_page(template: str, **values: Any) -> str:
    """The page of a template, such as "jobs/batch/report.html", with `values` as its variables."""
    return _environment().get_template(template).render(**values)


def text_of(place: str) -> str:
    """The text of a file of longtake, such as "pipeline/pages/base.css"."""
    folder, _, name = place.rpartition("/")
    return files(f"longtake.{folder.replace('/', '.')}").joinpath(name).read_text("utf-8")


def inline(place: str) -> Markup:
    """The text of a file of longtake, for a page that holds it as it is."""
    return Markup(text_of(place))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(text_of),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["inline"] = inline
    return environment
