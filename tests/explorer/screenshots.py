"""Pictures of the explorer for the documentation: `python -m tests.explorer.screenshots STORE FOLDER`.

Always of the same pages of the demo, at three widths, so that they are as the code is now.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from explorer.app import Settings
from explorer.catalog import Catalog
from tests.explorer.browser import browser, served

DESK, TABLET, PHONE = (1360, 900), (820, 1100), (390, 844)

CLEAREST = """
    SELECT s.layer, s.feature FROM scores s
    JOIN clusters c USING (checkpoint_id, corpus_id, layer, feature)
    WHERE s.checkpoint_id = $checkpoint AND s.metric = 'clarity' AND s.method = 'circuitlens-input' AND c.cluster >= 0
      AND s.layer > 0
    GROUP BY ALL HAVING count(DISTINCT c.cluster) > 1
    ORDER BY max(s.value) DESC, s.layer DESC, s.feature LIMIT 1
"""
"""A feature of a later layer that is well described and fires by several mechanisms."""


def main(store: Path, folder: Path) -> None:
    """Write all pictures."""
    catalog = Catalog(store / "catalog.duckdb")
    checkpoint = catalog.checkpoints[0]["checkpoint_id"]
    with catalog.reading() as reader:
        (feature,) = reader.panel("", CLEAREST, {"checkpoint": checkpoint}).rows
    page = f"/c/{checkpoint}"
    place = f"{page}/feature/{feature['layer']}/{feature['feature']}"
    with (
        tempfile.TemporaryDirectory() as graphs,
        served(Settings(store / "catalog.duckdb", graphs=Path(graphs))) as address,
        browser() as chrome,
    ):
        for graph in (store.parent / "graphs").glob("*.json"):
            shutil.copy(graph, graphs)
        for name, path, size, scheme in (
            ("explorer-feature", place, DESK, "light"),
            ("explorer-feature-dark", place, TABLET, "dark"),
            ("explorer-feature-phone", place, PHONE, "light"),
            ("explorer-overview", page, DESK, "light"),
            ("explorer-features", f"{page}/features?judged=judged&sort=score&order=down", DESK, "light"),
            ("explorer-search", f"{page}/search?q=float", DESK, "light"),
        ):
            _take(chrome, address + path, folder / f"{name}.png", size, scheme)


def _take(chrome: Any, address: str, path: Path, size: tuple[int, int], scheme: str) -> None:
    context = chrome.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    shown = context.new_page()
    shown.goto(address)
    while "being made" in shown.content():  # the index of words
        shown.wait_for_timeout(500)
        shown.reload()
    shown.screenshot(path=path)
    context.close()
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
