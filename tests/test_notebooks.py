"""Notebooks are run, those on the demo's store where `make demo` left one; their conclusions are asserted in them."""

from pathlib import Path

import pytest

from docs.notebooks.cells import run
from tests.conftest import ROOT

DEMO = ROOT / "store" / "demo"


@pytest.mark.whole
@pytest.mark.usefixtures("prefect_here")
@pytest.mark.parametrize("notebook", sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebooks_conclusions_hold(notebook: Path) -> None:
    if "store/demo" in notebook.read_text(encoding="utf-8") and not (DEMO / "catalog.duckdb").is_file():
        pytest.skip("`make demo` first")
    done = run(notebook, str(DEMO))
    cells = [cell for cell in done["cells"] if cell["cell_type"] == "code"]
    assert sum("assert" in "".join(cell["source"]) for cell in cells) >= 4
    assert any("text/html" in one.get("data", {}) for cell in cells for one in cell["outputs"])
