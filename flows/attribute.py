"""The attribution graph of a prompt, labelled with the catalog's descriptions."""

import importlib.metadata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flows.prompts.opened import Opened
from flows.prompts.targets import Likeliest, targets_asked
from interp.circuitlens.frozen import freeze
from interp.circuitlens.graph import Ends, GraphSettings, attribution_graph, prune
from interp.descriptions.preference import PREFERRED
from interp.display import visible
from interp.interventions.readings import targets_of
from interp.products import fast_products
from storage.catalog.published import open_published
from storage.exchange.attribution_graph import (
    Explained,
    GraphFile,
    GraphLink,
    GraphNode,
    Provenance,
    graph_json,
    whole_scores,
    write_graph,
)
from storage.exchange.slugs import slug_of
from storage.store import Store

BATCH_BYTES = 256_000_000

__all__ = ["Asked", "GraphFile", "GraphLink", "GraphNode", "attribute", "attribution", "save_graph", "whole_scores"]

SLUG_LENGTH = 40
"""Characters of a prompt that name its graph."""


class Asked(NamedTuple):
    """A prompt, and what of it is explained."""

    prompt: str
    targets: tuple[str, ...] = ()
    """As `flows.prompts.targets` reads them; none: the likeliest next tokens."""
    chat: bool = False
    """The prompt is a user's message, in the tokenizer's chat template."""


def attribute(
    opened: Opened,
    asked: Asked,
    output: Path,
    settings: GraphSettings,
    tell: Callable[[str], None] = lambda _: None,
) -> GraphFile:
    """Write the attribution graph of a prompt to a file named as its slug; returns what the file holds.

    `tell` hears what is being done.

    Raises:
        ValueError: the prompt has no tokens or more than the model reads, a target that there is not, or a setting is
            out of range.
    """
    check_output(output)
    written = attribution(opened, asked, settings, tell)
    save_graph(output, written)
    return written


def attribution(
    opened: Opened, asked: Asked, settings: GraphSettings, tell: Callable[[str], None] = lambda _: None
) -> GraphFile:
    """The attribution graph of a prompt in circuit-tracer's format; its slug is made of the prompt's beginning.

    Raises:
        ValueError: as `attribute` does.
    """
    _check(settings)
    checkpoint, device = opened.checkpoint, opened.device
    read = opened.read(asked.prompt, chat=asked.chat)
    for sentence in read.said:
        tell(sentence)
    tell(f"reading {len(read.tokens)} tokens")
    linear = opened.linear
    with fast_products(checkpoint.attributes.d_model):
        frozen = freeze(linear, lambda layer: checkpoint.transcoder(layer, later=True).on(device), read.tokens)
        targets = targets_asked(opened, frozen, asked.targets, Likeliest(settings.max_logits, settings.logit_share))
        tell("attributing")
        encoder = partial(checkpoint.encoder, device=device)
        readings = targets_of(linear, frozen, opened.transcoder, [one.reading for one in targets])
        ends = Ends(readings, np.array([one.weight for one in targets], np.float32))
        graph = attribution_graph(linear, frozen, encoder, ends, settings, BATCH_BYTES)
    tell("pruning")
    pruned = prune(graph, settings.node_threshold, settings.edge_threshold)
    made = Provenance(
        slug=slug_of(asked.prompt)[:SLUG_LENGTH] or "prompt",
        scan=slug_of(checkpoint.attributes.name),
        prompt=asked.prompt,
        targets=tuple(Explained(one.name, one.token, one.probability, one.reading.position) for one in targets),
        node_threshold=settings.node_threshold,
        edge_threshold=settings.edge_threshold,
        version=importlib.metadata.version("circuit-insights"),
    )
    return graph_json(graph, pruned, made, opened.texts, labels(opened.store, checkpoint.checkpoint_id))


def save_graph(output: Path, graph: GraphFile) -> None:
    """Write a graph to NAME.json, which becomes its slug, and enter it in the index of its folder.

    Raises:
        ValueError: the name is none that viewers take, or the index there is not one.
    """
    check_output(output)
    write_graph(output, {**graph, "metadata": {**graph["metadata"], "slug": output.stem}})


def _check(settings: GraphSettings) -> None:
    for name in ("logit_share", "node_threshold", "edge_threshold"):
        value = getattr(settings, name)
        if not 0 < value <= 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected more than 0 and at most 1")
    for name in ("max_logits", "max_features"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected at least 1")


def check_output(output: Path) -> None:
    """Refuse a file name that viewers would not take.

    Raises:
        ValueError: says what is expected.
    """
    if output.suffix != ".json" or slug_of(output.stem) != output.stem.lower():
        raise ValueError(
            f"--output: {output.name}; expected NAME.json, NAME of letters, digits, '_', '.' and '-' for the viewers"
        )


def labels(store: Store, checkpoint_id: str) -> dict[tuple[int, int], str]:
    """The preferred description of every feature that has one."""
    query = """
        SELECT layer, feature, first(
            text ORDER BY coalesce(list_position(?::VARCHAR[], method), 99), explainer, corpus_id
        ) FROM descriptions WHERE checkpoint_id = ? AND cluster = -1 GROUP BY layer, feature
    """
    with open_published(store.catalog) as connection:
        rows = connection.execute(query, [list(PREFERRED), checkpoint_id]).fetchall()
    return {(layer, feature): visible(text) for layer, feature, text in rows}
