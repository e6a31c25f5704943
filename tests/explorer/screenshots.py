"""Pictures of the explorer for the documentation: `python -m tests.explorer.screenshots STORE FOLDER`.

Always of the same pages of the demo, at three widths, so that they are as the code is now.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from explorer.app import Settings
from explorer.catalog import Catalog
from tests.explorer.browser import browser, served

DESK, TABLET, PHONE = (1360, 900), (820, 1100), (390, 844)

FEATURE = (2, 760)
"""Of the demo: fires on participles after forms of the verb be."""

PROMPT = "Return a list of"


def main(store: Path, folder: Path) -> None:
    """Write all pictures."""
    catalog = Catalog(store / "catalog.duckdb")
    checkpoint = catalog.checkpoints[0]["checkpoint_id"]
    page = f"/c/{checkpoint}"
    place = f"{page}/feature/{FEATURE[0]}/{FEATURE[1]}"
    with (
        tempfile.TemporaryDirectory() as graphs,
        served(Settings(store / "catalog.duckdb", graphs=Path(graphs))) as address,
        browser() as chrome,
    ):
        _attribute(store, Path(graphs) / "list.json")
        for name, path, size, scheme in (
            ("explorer-feature", place, DESK, "light"),
            ("explorer-feature-dark", place, TABLET, "dark"),
            ("explorer-feature-phone", place, PHONE, "light"),
            ("explorer-overview", page, DESK, "light"),
            ("explorer-graph", f"{page}/graph/list", DESK, "light"),
        ):
            _take(chrome, address + path, folder / f"{name}.png", size, scheme)


def _attribute(store: Path, graph: Path) -> None:
    command = [sys.executable, "-m", "flows.cli", "attribute", PROMPT, "--store", str(store)]
    subprocess.run([*command, "--config", "configs/demo.yaml", "--output", str(graph)], check=True)


def _take(chrome: Any, address: str, path: Path, size: tuple[int, int], scheme: str) -> None:
    context = chrome.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    shown = context.new_page()
    shown.goto(address)
    if "/graph/" in address:
        shown.wait_for_selector(".g-node")
        shown.locator(".g-node.feature circle").nth(-6).click()
        shown.wait_for_selector(".graph-card li")
    shown.wait_for_load_state("networkidle")  # neighbours come after the page
    shown.screenshot(path=path)
    context.close()
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
