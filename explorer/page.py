"""What a view returns: all that a page shows, which templates render and the API gives as JSON."""

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
"""What a page shows that is no table, by the names that its template reads."""


@dataclass(frozen=True)
class Page:
    """One page, whatever it is rendered to."""

    title: str
    checkpoint: Row | None = None
    """The row of the checkpoint that the page is about."""
    facts: Facts = field(default_factory=dict)
    """What is no table."""
    panels: dict[str, Panel] = field(default_factory=dict)
    elsewhere: str | None = None
    """Address of the page that is meant, if it is another."""


class PanelModel(BaseModel):
    """One table of a page."""

    title: str
    sql: str
    """The query that made it, to ask the catalog again."""
    cut: bool
    """Whether there are more rows than these."""
    rows: list[Row]


class PageModel(BaseModel):
    """A page as data."""

    title: str
    checkpoint: Row | None
    facts: Facts
    panels: dict[str, PanelModel]


def as_json(page: Page) -> dict[str, object]:
    """A page as the API gives it."""
    return {
        "title": page.title,
        "checkpoint": page.checkpoint,
        "facts": page.facts,
        "panels": {name: panel._asdict() for name, panel in page.panels.items()},
    }


@lru_cache
def version_of(file: str) -> str:
    """A few digits of a static file's hash, so that browsers may keep it for ever."""
    return sha256((STATIC / file).read_bytes()).hexdigest()[:10]


def script_json(value: object) -> Markup:
    """JSON inside a script element of the type application/json: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def environment(url: Url) -> Environment:
    """Templates whose links are made by `url`: of the server, or of a static site."""
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
    """What stands around every page: where one can go; `served` are the pages that there are."""
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
    """A page as HTML by the template of its name; `address` is its own on a server, where it is there as JSON too.

    `around` is what `shell` returns, and what only a server has.
    """
    return templates.get_template(f"{name}.html").render(around, page=page, page_name=name, address=address)
