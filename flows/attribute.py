"""Write the attribution graph of a prompt to a file for viewers."""

from collections.abc import Callable
from pathlib import Path

from flows.one_prompt.graphs import Asked, Attributed, Wanted, attribution
from flows.one_prompt.opened import Opened
from storage.exchange.attribution_graph import GraphFile, GraphLink, GraphNode, whole_scores, write_graph
from storage.exchange.graph_tests import SupernodesJson, ValidationJson
from storage.exchange.slugs import slug_of

__all__ = [
    "Asked", "Attributed", "GraphFile", "GraphLink", "GraphNode", "SupernodesJson", "ValidationJson", "Wanted",
    "attribute", "attribution", "save_graph", "whole_scores",
]  # fmt: skip


def attribute(
    opened: Opened,
    asked: Asked,
    output: Path,
    wanted: Wanted | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> GraphFile:
    """Write the attribution graph of a prompt to a file named as its slug; returns the content of the file.

    `tell` is called with each step that begins.

    Raises:
        ValueError: the prompt has no tokens or more than the model reads, a target does not exist, or a setting is
            out of range.
    """
    check_output(output)
    written = attribution(opened, asked, wanted, tell).file
    save_graph(output, written)
    return written


def save_graph(output: Path, graph: GraphFile) -> None:
    """Write a graph to NAME.json, with NAME as its slug, and add it to the index of its folder.

    Raises:
        ValueError: viewers do not accept the name, or the file in the index's place is not an index.
    """
    check_output(output)
    write_graph(output, {**graph, "metadata": {**graph["metadata"], "slug": output.stem}})


def check_output(output: Path) -> None:
    """Refuse a file name that viewers would not accept.

    Raises:
        ValueError: says what is expected.
    """
    if output.suffix != ".json" or slug_of(output.stem) != output.stem.lower():
        raise ValueError(
            f"--output: {output.name}; expected NAME.json, NAME of letters, digits, '_', '.' and '-' for the viewers"
        )
