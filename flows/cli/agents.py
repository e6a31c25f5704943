"""`mcp`: the store for agents, by the Model Context Protocol on standard input and output."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import StoreOption, app, report_errors, store_root
from flows.cli.serve import attribute_apart


@app.command("mcp")
def mcp_(
    store: StoreOption = None,
    allow_compute: Annotated[
        bool,
        typer.Option("--allow-compute", help="Also let agents attribute prompts, which takes minutes each."),
    ] = False,
    graphs: Annotated[
        Path | None, typer.Option(help="Folder for the graphs of prompts; default: a temporary one.")
    ] = None,
) -> None:
    """Answer agents by the Model Context Protocol on standard input and output. They can only read: checkpoints,
    search, features, contexts, edges, SQL."""
    with report_errors():
        if graphs is not None and not allow_compute:
            raise ValueError("--graphs has no effect without --allow-compute")
        from explorer.agents import agents_server
        from explorer.catalog import Catalog

        root = store_root(store)
        catalog = Catalog(root / "catalog.duckdb")
        catalog.index_words()
        with tempfile.TemporaryDirectory(prefix="circuit-insights-graphs-") as passing:
            folder = Path(passing) if graphs is None else graphs
            folder.mkdir(parents=True, exist_ok=True)
            attribute = partial(attribute_apart, root) if allow_compute else None
            agents_server(catalog, attribute, folder).run("stdio")
