"""The attribution graph of a prompt, labelled with the catalog's descriptions, and tested if wanted."""

import importlib.metadata
import time
from collections.abc import Callable, Generator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flows.one_prompt.asked import steerable_of
from flows.one_prompt.opened import Opened
from flows.one_prompt.targets import Likeliest, Target, targets_asked
from interp.circuitlens.frozen import Frozen, freeze
from interp.circuitlens.graph import Ends, Graph, GraphSettings, Pruned, Step, attribution_steps, finished, prune
from interp.circuitlens.loadings import LoadingSettings, carried_edges
from interp.circuitlens.supernodes import SupernodeSettings, supernodes
from interp.descriptions.preference import PREFERRED
from interp.display import visible
from interp.interventions.at_rest import at_rest
from interp.interventions.groups import group_tests
from interp.interventions.readings import targets_of
from interp.interventions.validation import Ablated, ValidationSettings, validated
from interp.products import fast_products
from storage.catalog.published import open_published
from storage.exchange.attribution_graph import Explained, GraphFile, Provenance, graph_json, node_ids
from storage.exchange.graph_heads import heads_json, with_heads
from storage.exchange.graph_tests import graph_shares, supernodes_json, validation_json, with_tests
from storage.exchange.slugs import slug_of
from storage.store import Store

BATCH_BYTES = 256_000_000

TELL_EVERY_S = 5.0
"""Seconds between two messages about a graph's progress."""

SLUG_LENGTH = 40
"""Characters of a prompt that form its graph's name."""


class Asked(NamedTuple):
    """A prompt, and its targets."""

    prompt: str
    targets: tuple[str, ...] = ()
    """Targets in the form for `flows.one_prompt.targets`; none: the most probable next tokens."""
    chat: bool = False
    """Whether the prompt is a user's message, for the tokenizer's chat template."""
    counterfactual: str | None = None
    """Another prompt with the same number of tokens, on which the targets have another value. The sufficiency of
    supernodes is measured with it."""


class Wanted(NamedTuple):
    """How much of a graph is computed and kept, and which tests are run."""

    graph: GraphSettings = GraphSettings()
    validation: ValidationSettings | None = None
    """None: its nodes and edges are not tested."""
    supernodes: SupernodeSettings | None = None
    """None: nodes are not grouped."""
    heads: LoadingSettings | None = None
    """None: edges are not explained by heads."""


class Attributed(NamedTuple):
    """A graph in its file format."""

    file: GraphFile
    shares: dict[str, float]
    """Each node's own share of all influence on the targets, by its id."""


class _Computed(NamedTuple):
    counterfactual: Tensor | None
    frozen: Frozen
    targets: list[Target]
    graph: Graph
    pruned: Pruned


def attribution(
    opened: Opened, asked: Asked, wanted: Wanted | None = None, tell: Callable[[str], None] = lambda _: None
) -> Attributed:
    """The attribution graph of a prompt in circuit-tracer's format; its slug is made from the prompt's beginning.

    `tell` is called with each step that begins.

    Raises:
        ValueError: the prompt has no tokens or more than the model reads, a target does not exist, or a setting is
            out of range.
    """
    wanted = wanted or Wanted()
    check_wanted(wanted)
    check_asked(asked, wanted)
    settings = wanted.graph
    found = _computed(opened, asked, settings, tell)
    explained = tuple(
        Explained(one.name, token, one.probability, one.reading.position)
        for at, one in enumerate(found.targets)
        for token in [len(opened.texts) + at if one.token is None else one.token]
    )
    made = Provenance(
        slug=slug_of(asked.prompt)[:SLUG_LENGTH] or "prompt",
        scan=slug_of(opened.checkpoint.attributes.name),
        prompt=asked.prompt,
        targets=explained,
        node_threshold=settings.node_threshold,
        edge_threshold=settings.edge_threshold,
        version=importlib.metadata.version("circuit-insights"),
    )
    said = labels(opened.store, opened.checkpoint.checkpoint_id)
    file = graph_json(found.graph, found.pruned, made, opened.texts, said)
    ids = node_ids(found.graph, explained)
    shares = graph_shares(found.graph, found.pruned, ids)
    if wanted.heads is not None:
        tell("finding the heads that carry edges")
        with fast_products(opened.checkpoint.attributes.d_model):
            carried = carried_edges(
                opened.linear, found.frozen, opened.transcoder, (found.graph, found.pruned), wanted.heads, BATCH_BYTES
            )
        file = with_heads(file, heads_json(file, ids, carried))
    if wanted.validation is None and wanted.supernodes is None:
        return Attributed(file, shares)
    rest = at_rest(opened.linear, found.frozen, opened.transcoder)
    readings = [one.reading for one in found.targets]
    of = Ablated(rest, steerable_of(opened), found.graph, found.pruned, readings)
    validation = groups = None
    if wanted.validation is not None:
        tell("testing nodes and edges in the model")
        validation = validation_json(ids, validated(of, wanted.validation))
    if wanted.supernodes is not None:
        tell("testing supernodes in the model")
        some = supernodes(found.graph, found.pruned, said, wanted.supernodes)
        others = found.counterfactual
        if others is None:
            others = mean_activations(opened).__getitem__
        tests = group_tests(of, some, others, wanted.supernodes)
        groups = supernodes_json(ids, some, found.pruned, tests, asked.counterfactual)
    return Attributed(with_tests(file, validation, groups), shares)


def _counterfactual(opened: Opened, asked: Asked, tokens: Tensor) -> Tensor | None:
    """The tokens of the counterfactual prompt, which must differ from the prompt and have the same length."""
    if asked.counterfactual is None:
        return None
    other = opened.read(asked.counterfactual, chat=asked.chat).tokens
    if len(other) != len(tokens):
        raise ValueError(
            f"the counterfactual prompt has {len(other)} tokens, the prompt {len(tokens)}; expected the same number, "
            "because features are moved from position to position"
        )
    if torch.equal(other, tokens):
        raise ValueError("the counterfactual prompt is the prompt itself; give one with another answer")
    return other


def _computed(opened: Opened, asked: Asked, settings: GraphSettings, tell: Callable[[str], None]) -> _Computed:
    checkpoint, device, linear = opened.checkpoint, opened.device, opened.linear
    read = opened.read(asked.prompt, chat=asked.chat)
    for sentence in read.said:
        tell(sentence)
    counterfactual = _counterfactual(opened, asked, read.tokens)
    tell(f"reading {len(read.tokens)} tokens")
    with fast_products(checkpoint.attributes.d_model):
        frozen = freeze(linear, lambda layer: checkpoint.transcoder(layer, later=True).on(device), read.tokens)
        targets = targets_asked(opened, frozen, asked.targets, Likeliest(settings.max_logits, settings.logit_share))
        tell("attributing")
        readings = targets_of(linear, frozen, opened.transcoder, [one.reading for one in targets])
        ends = Ends(readings, np.array([one.weight for one in targets], np.float32))
        encoder = partial(checkpoint.encoder, device=device)
        graph = _attributed(attribution_steps(linear, frozen, encoder, ends, settings, BATCH_BYTES), tell)
    tell("pruning")
    pruned = prune(graph, settings.node_threshold, settings.edge_threshold)
    return _Computed(counterfactual, frozen, targets, graph, pruned)


def _attributed(steps: Generator[Step, None, Graph], tell: Callable[[str], None]) -> Graph:
    """Run a graph's steps to the end. Every few seconds, `tell` is called with the progress and an estimate of the time
    left."""
    began = said = time.monotonic()

    def hear(step: Step) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= TELL_EVERY_S:
            left = (now - began) * (step.n_wanted - step.n_attributed) / step.n_attributed
            tell(f"attributing: {step.n_attributed:,} of {step.n_wanted:,} features, about {left:,.0f} s left")
            said = now

    graph = finished(steps, hear)
    if graph.cut is not None:
        tell(
            f"--max-memory: {graph.cut.n_features:,} features were left out, and only the {graph.cut.n_strongest:,} "
            f"strongest edges of each node were kept, {graph.cut.held:.1%} of all input to nodes"
        )
    return graph


def mean_activations(opened: Opened) -> Tensor:
    """The mean of each feature, (layer, feature), over all tokens of a corpus that was read; 0 if there is none, and
    for features that were never active."""
    query = """
        SELECT layer, feature, mean_activation * density FROM features
        WHERE checkpoint_id = ? AND mean_activation IS NOT NULL AND corpus_id = (
            SELECT max(corpus_id) FROM features WHERE checkpoint_id = ?
        )
    """
    attributes = opened.checkpoint.attributes
    with open_published(opened.store.catalog) as connection:
        rows = connection.execute(query, [attributes.checkpoint_id, attributes.checkpoint_id]).fetchnumpy()
    means = torch.zeros(attributes.n_layers, attributes.d_transcoder)
    layer, feature, mean = (torch.from_numpy(np.array(column)) for column in rows.values())
    means[layer.long(), feature.long()] = mean.float()
    return means.to(opened.device)


def check_asked(asked: Asked, wanted: Wanted) -> None:
    """Refuse a counterfactual prompt that is empty, or that no test would use.

    Raises:
        ValueError: names the reason.
    """
    if asked.counterfactual is None:
        return
    if not asked.counterfactual.strip():
        raise ValueError("the counterfactual prompt is empty; give some text")
    if wanted.supernodes is None:
        raise ValueError("a counterfactual prompt is for the test of supernodes; ask for that (--supernodes) as well")


def check_wanted(wanted: Wanted) -> None:
    """Refuse settings that are out of range.

    Raises:
        ValueError: one is out of range.
    """
    settings = wanted.graph
    for name in ("logit_share", "node_threshold", "edge_threshold"):
        value = getattr(settings, name)
        if not 0 < value <= 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected more than 0 and at most 1")
    if not settings.max_memory_gb > 0:
        raise ValueError(f"--max-memory is {settings.max_memory_gb}; expected more than 0 GB")
    for name in ("max_logits", "max_features"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected at least 1")


def labels(store: Store, checkpoint_id: str) -> Mapping[tuple[int, int], str]:
    """The preferred description of every feature that has one, cached until the catalog changes."""
    stamp = store.catalog.stat().st_mtime_ns if store.catalog.is_file() else 0
    return _labels(store.catalog, stamp, checkpoint_id)


@lru_cache(maxsize=2)
def _labels(catalog: Path, _stamp: int, checkpoint_id: str) -> Mapping[tuple[int, int], str]:
    query = """
        SELECT layer, feature, first(
            text ORDER BY coalesce(list_position(?::VARCHAR[], method), 99), explainer, corpus_id
        ) FROM descriptions WHERE checkpoint_id = ? AND cluster = -1 GROUP BY layer, feature
    """
    with open_published(catalog) as connection:
        rows = connection.execute(query, [list(PREFERRED), checkpoint_id]).fetchall()
    return {(layer, feature): visible(text) for layer, feature, text in rows}
