"""Addresses of pages: all links are made by one function, which a static site replaces by its own."""

from typing import Protocol
from urllib.parse import quote, urlencode

PAGES = {
    "home": "/",
    "overview": "/c/{checkpoint}",
    "features": "/c/{checkpoint}/features",
    "feature": "/c/{checkpoint}/feature/{layer}/{feature}",
    "neighbours": "/c/{checkpoint}/feature/{layer}/{feature}/neighbours",
    "download": "/c/{checkpoint}/features.{format}",
    "search": "/c/{checkpoint}/search",
    "token": "/c/{checkpoint}/token/{token}",
    "tokens": "/c/{checkpoint}/tokens",
    "head": "/c/{checkpoint}/head/{layer}/{head}",
    "compare": "/c/{checkpoint}/compare",
    "pair": "/c/{checkpoint}/pair",
    "graphs": "/c/{checkpoint}/graphs",
    "graph": "/c/{checkpoint}/graph/{name}",
    "attribute": "/c/{checkpoint}/attribute",
    "note": "/c/{checkpoint}/feature/{layer}/{feature}/note",
    "runs": "/runs",
    "drifts": "/drift",
    "drift": "/drift/{a}/{b}",
    "notes": "/notes",
    "notes_jsonl": "/notes.jsonl",
    "api": "/api",
    "graph_file": "/c/{checkpoint}/graphs/{name}.json",
    "static": "/static/{file}",
}
"""The path of each page; other parameters of a link become its query."""


class Url(Protocol):
    """Makes the address of a page from its parameters; those that are None are left out."""

    def __call__(self, page: str, /, **shown: object) -> str: ...


def url(page: str, /, **shown: object) -> str:
    """The address of a page on the server."""
    pattern = PAGES[page]
    path = pattern.format_map({name: quote(str(value), safe="") for name, value in shown.items()})
    rest = {name: value for name, value in shown.items() if f"{{{name}}}" not in pattern and value is not None}
    return f"{path}?{urlencode(rest, doseq=True)}" if rest else path
