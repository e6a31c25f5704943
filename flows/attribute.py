"""The attribution graph of a prompt, labelled with the catalog's descriptions."""

import importlib.metadata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb
import torch
from pydantic import ValidationError

from configs.run import RunConfig
from flows.subject.machine import arithmetic
from flows.subject.named import chosen_checkpoint
from flows.subject.subject import identify, open_source
from interp.circuitlens.frozen import freeze, linear_model
from interp.circuitlens.graph import attribution_graph, prune
from interp.descriptions.preference import PREFERRED
from interp.display import visible
from storage.catalog.database import first_line
from storage.catalog.published import open_published
from storage.checkpoints import open_checkpoint
from storage.exchange.attribution_graph import graph_json, write_graph
from storage.exchange.slugs import slug_of
from storage.store import Store
from storage.token_texts import token_texts
from tasks.models import loaded_model

BATCH_BYTES = 256_000_000


class GraphSettings(NamedTuple):
    """What of a graph is computed and kept."""

    max_logits: int = 10
    """Next tokens, at most."""
    logit_share: float = 0.95
    """Of the probability that they have together."""
    max_features: int | None = 7500
    """Active features that are attributed, those of greatest influence first; None: all."""
    node_threshold: float = 0.8
    """Share of all influence on the logits that the nodes kept have."""
    edge_threshold: float = 0.98
    """And of the edges between them."""


def attribute(
    config: RunConfig, prompt: str, output: Path, settings: GraphSettings, tell: Callable[[str], None] = lambda _: None
) -> tuple[int, int]:
    """Write the attribution graph of a prompt to a file named as its slug; returns how many (nodes, edges) it has.

    `tell` hears what is being done.

    Raises:
        ValueError: the prompt has no tokens or more than the model reads, or a setting is out of range.
    """
    _check(settings, output)
    if not prompt.strip():
        raise ValueError("the prompt is empty; give some text")
    tell("opening the model")
    subject = identify(open_source(config))
    checkpoint = open_checkpoint(subject.store, subject.checkpoint_id)
    device = arithmetic(config.engine).device
    folder, model = loaded_model(subject.source.model.path, device, open_attention=True)
    ids = folder.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    n_most = folder.config.max_position_embeddings
    tokens = torch.tensor(ids if subject.source.bos is None else [subject.source.bos, *ids], device=device)
    if len(tokens) > n_most:
        raise ValueError(f"the prompt has {len(tokens)} tokens; the model reads {n_most} at most")
    tell(f"reading {len(tokens)} tokens")
    linear = linear_model(model, folder.family, checkpoint.hooks)
    frozen = freeze(linear, lambda layer: checkpoint.transcoder(layer, later=True).on(device), tokens)
    tell("attributing")
    graph = attribution_graph(
        linear,
        frozen,
        partial(checkpoint.encoder, device=device),
        max_logits=settings.max_logits,
        logit_share=settings.logit_share,
        max_features=settings.max_features,
        max_bytes=BATCH_BYTES,
    )
    tell("pruning")
    pruned = prune(graph, settings.node_threshold, settings.edge_threshold)
    texts = token_texts(folder.tokenizer, folder.n_tokens)
    texts += [f"[unused {token}]" for token in range(len(texts), folder.d_vocab)]
    written = graph_json(
        graph,
        pruned,
        slug=output.stem,
        scan=slug_of(config.name),
        prompt=prompt,
        texts=texts,
        labels=_labels(subject.store, subject.checkpoint_id),
        node_threshold=settings.node_threshold,
        edge_threshold=settings.edge_threshold,
        version=importlib.metadata.version("circuit-insights"),
    )
    write_graph(output, written)
    return len(written["nodes"]), len(written["links"])


def _check(settings: GraphSettings, output: Path) -> None:
    for name in ("logit_share", "node_threshold", "edge_threshold"):
        value = getattr(settings, name)
        if not 0 < value <= 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected more than 0 and at most 1")
    for name in ("max_logits", "max_features"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected at least 1")
    if output.suffix != ".json" or slug_of(output.stem) != output.stem.lower():
        raise ValueError(
            f"--output: {output.name}; expected NAME.json, NAME of letters, digits, '_', '.' and '-' for the viewers"
        )


def _labels(store: Store, checkpoint_id: str) -> dict[tuple[int, int], str]:
    """The preferred description of every feature that has one."""
    query = """
        SELECT layer, feature, first(
            text ORDER BY coalesce(list_position(?::VARCHAR[], method), 99), explainer, corpus_id
        ) FROM descriptions WHERE checkpoint_id = ? AND cluster = -1 GROUP BY layer, feature
    """
    with open_published(store.catalog) as connection:
        rows = connection.execute(query, [list(PREFERRED), checkpoint_id]).fetchall()
    return {(layer, feature): visible(text) for layer, feature, text in rows}


def last_config(store: Path, checkpoint: str | None) -> RunConfig:
    """The configuration of the last run on a checkpoint of a store.

    Raises:
        ValueError: no such checkpoint, or this version does not understand its configuration.
    """
    with open_published(store / "catalog.duckdb") as connection:
        checkpoint_id, name, *_ = chosen_checkpoint(connection, checkpoint)
        query = (
            "SELECT config FROM runs WHERE checkpoint_id = ? AND config IS NOT NULL ORDER BY started_at DESC LIMIT 1"
        )
        try:
            row = connection.execute(query, [checkpoint_id]).fetchone()
        except duckdb.Error as error:
            raise ValueError(f"{store}: {first_line(error)}") from None
    if row is None:
        raise ValueError(f"checkpoint {checkpoint_id} ({name}) was not made by a run here; name one with --config")
    try:
        return RunConfig.model_validate_json(row[0]).model_copy(update={"store": store})
    except ValidationError as error:
        raise ValueError(
            f"checkpoint {checkpoint_id} ({name}): its last run's configuration is not understood "
            f"({first_line(error)}); name one with --config"
        ) from None
