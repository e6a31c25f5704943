"""The result of a view: the content of a page, which templates render and the API returns as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel

from explorer import texts
from explorer.catalog import Panel, Row
from explorer.contexts import line
from explorer.drawing import dots, histogram, strip
from explorer.links import Url

HERE = Path(__file__).parent
STATIC = HERE / "static"

Facts = dict[str, Any]
"""Content of a page that is not a table, by the names in its template."""


@dataclass(frozen=True)
class Page:
    """One page, independent of its rendering."""

    title: str
    checkpoint: Row | None = None
    """The row of the page's checkpoint."""
    facts: Facts = field(default_factory=dict)
    """Content that is not a table."""
    panels: dict[str, Panel] = field(default_factory=dict)
    elsewhere: str | None = None
    """Address of another page to redirect to."""


class PanelModel(BaseModel):
    """One table of a page."""

    title: str
    sql: str
    """The query that made it, for querying the catalog again."""
    cut: bool
    """Whether there are more rows."""
    rows: list[Row]


class PageModel(BaseModel):
    """A page as data."""

    title: str
    checkpoint: Row | None
    facts: Facts
    panels: dict[str, PanelModel]


def as_json(page: Page) -> dict[str, object]:
    """A page in the form of the API."""
    return {
        "title": page.title,
        "checkpoint": page.checkpoint,
        "facts": page.facts,
        "panels": {name: panel._asdict() for name, panel in page.panels.items()},
    }


@lru_cache
def version_of(file: str) -> str:
    """A few digits of a static file's hash, so that browsers may cache it permanently."""
    return sha256((STATIC / file).read_bytes()).hexdigest()[:10]


def script_json(value: object) -> Markup:
    """JSON for a script element of the type application/json, in which nothing can end the element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def environment(url: Url) -> Environment:
    """Templates whose links are made by `url`: for the server, or for a static site."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "prose": texts.prose,
        "token": texts.token,
        "running": texts.running,
        "figure": texts.figure,
        "percent": texts.percent,
        "script_json": script_json,
    }
    made.globals |= {
        "url": url,
        "line": line,
        "histogram": histogram,
        "strip": strip,
        "dots": dots,
        "version_of": version_of,
    }
    return made


PAGES_OF_CHECKPOINT = (
    ("overview", "Overview"), ("features", "Features"), ("compare", "Methods"), ("graphs", "Graphs")
)  # fmt: skip
PAGES_OF_STORE = (("drifts", "Drift"), ("runs", "Runs"), ("notes", "Notes"))


def shell(store: str, checkpoints: list[Row], served: set[str]) -> dict[str, object]:
    """The frame of every page with its navigation; `served` are the existing pages."""
    return {
        "store": store,
        "checkpoints": checkpoints,
        "served": served,
        "pages_of_checkpoint": [page for page in PAGES_OF_CHECKPOINT if page[0] in served],
        "pages_of_store": [page for page in PAGES_OF_STORE if page[0] in served],
        "can_attribute": False,
        "jobs": [],
        "notes": None,
    }


def render(
    templates: Environment, page: Page, name: str, around: Mapping[str, object], address: str | None = None
) -> str:
    """Render a page with the template of its name; `address` is its own on a server, where it also exists as JSON.

    `around` is the result of `shell`, and content that only a server has.
    """
    return templates.get_template(f"{name}.html").render(around, page=page, page_name=name, address=address)
