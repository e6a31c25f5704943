"""Attribution graphs: those of a folder, one of them, and those that are being computed."""

from typing import Annotated

from fastapi import Path

from explorer.catalog import Reader, Row
from explorer.graphs import ReadGraph, listed, read_graph, summary
from explorer.page import Page
from explorer.views.parameters import Checkpoint
from storage.exchange.slugs import slug_of

N_LISTED = 60

Name = Annotated[str, Path(max_length=100, description="Name of the graph's file, without .json.")]


def graphs_page(reader: Reader, checkpoint: Checkpoint) -> Page:
    """The attribution graphs in the explorer's folder."""
    row = reader.checkpoint(checkpoint)
    return Page("Attribution graphs", row, {"graphs": listed(reader.graphs)})


def graph_page(reader: Reader, checkpoint: Checkpoint, name: Name) -> Page:
    """One attribution graph in tables: its strongest nodes and links."""
    row = reader.checkpoint(checkpoint)
    graph = read_graph(reader.graphs, name)
    facts = {"name": name, **graph["metadata"], **summary(graph, N_LISTED), "is_own": is_own(graph, row)}
    return Page(f"Graph {name}", row, facts)


def graph_file(reader: Reader, checkpoint: Checkpoint, name: Name) -> ReadGraph:
    """One attribution graph in circuit-tracer's format."""
    reader.checkpoint(checkpoint)
    return read_graph(reader.graphs, name)


def is_own(graph: ReadGraph, checkpoint: Row) -> bool:
    """Whether the graph's features are the checkpoint's, that is, whether its `scan` is the checkpoint's name."""
    return graph["metadata"]["scan"].lower() == slug_of(checkpoint["name"])
