"""Pass a shard the validated tokens of its upstream features, put its tokens into words, and load the catalog."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Int64

from interp.sparse import FeatureTokens, feature_tokens, ranks
from interp.weightlens.description import Token, word_list
from interp.weightlens.propagation import Edges, Inherited, inherit
from interp.weightlens.settings import WordingSettings
from storage.catalog.database import RunOf, mark_loaded, open_catalog, replace_failures, replace_rows
from storage.catalog.parts import Failure, columns_of, read_parts, write_failures, write_part
from storage.catalog.runs import now
from storage.checkpoints import open_checkpoint
from storage.store import ShardKey, Store, shards
from tasks.ingest import tokens_part
from tasks.shard_task import shard_task
from tasks.weightlens.project import COLUMN_BLOCKS

PROPAGATED_TABLES = ("token_candidates", "descriptions", "failures")
"""The tables that propagating into a shard writes, in this order."""

OTHER_INPUT = ("no_input_side", "the feature reads what attention or an MLP wrote, which no token's embedding enters")
"""Why a feature that does not read the residual stream has no input tokens."""

WORDING_VERSION = 2
"""Raise it when the same tokens would be put into other words."""


@dataclass(frozen=True)
class PropagationJob:
    """The inputs of propagation and wording."""

    checkpoint_id: str
    model_path: Path
    projections: str
    """The recipe of the candidates and edges that are used."""
    recipe: str
    """The recipe of this step."""
    shard_size: int
    wording: WordingSettings
    reads_stream: bool = True
    """Whether features read the residual stream, so that there are tokens which they read."""

    def projected(self, key: ShardKey) -> ShardKey:
        """The key of the same shard among the projections."""
        return key._replace(recipe=self.projections)


@shard_task("propagate", "propagate {key.name}")
def propagate_shard(store: Store, job: PropagationJob, key: ShardKey) -> ShardKey:
    """Pass a shard's features the tokens they inherit, and put all their tokens into words."""
    if all(store.part(table, key).exists() for table in PROPAGATED_TABLES):
        return key
    checkpoint = open_checkpoint(store, job.checkpoint_id)
    candidates = read_candidates(store, job.projected(key))

    def validated(layer: int) -> FeatureTokens:
        recipes = (job.projections, job.recipe)
        keys = (k for r in recipes for k in shards(r, layer, checkpoint.d_transcoder, job.shard_size))
        return _validated(store, tuple(keys), checkpoint.d_transcoder)

    single_token = checkpoint.single_token(key.layer, key.start, key.stop)
    inherited = inherit(candidates.edges, validated, single_token, candidates.direct)
    write_inherited(store, key, job.checkpoint_id, inherited, candidates)
    vocabulary = read_vocabulary(tokens_part(store, job.checkpoint_id))
    described = [[vocabulary[token] for token in tokens] for tokens in _by_strength(candidates.direct, inherited)]
    write_words(store, job, key, candidates, described)
    return key


class Candidates(NamedTuple):
    """The candidates of a shard, with features counted from the shard's start."""

    direct: FeatureTokens
    """Validated input tokens."""
    n_input: Int64[np.ndarray, " shard"]
    """Input candidates, validated or not."""
    outputs: list[Int64[np.ndarray, " n"]]
    """For each feature, the tokens that it promotes, the strongest first."""
    edges: Edges


def read_candidates(store: Store, projected: ShardKey) -> Candidates:
    """A shard's candidates and edges."""
    columns = ["feature", "side", "sign", "token_id", "activation", "validated"]
    parts = read_parts([store.part("token_candidates", projected)], columns)
    parts = parts.filter(pc.field("sign") == 1)
    n = projected.stop - projected.start
    inputs = parts.filter(pc.field("side") == "input")
    promoted = parts.filter(pc.field("side") == "output")
    valid = inputs.filter(inputs["validated"])
    feature, token, activation = (valid[name].to_numpy() for name in ("feature", "token_id", "activation"))
    promoting = promoted["feature"].to_numpy() - projected.start
    return Candidates(
        direct=feature_tokens(feature - projected.start, token, activation.astype(np.float32), n),
        n_input=np.bincount(inputs["feature"].to_numpy() - projected.start, minlength=n),
        outputs=np.split(promoted["token_id"].to_numpy(), np.searchsorted(promoting, np.arange(1, n))),
        edges=_edges(store, projected),
    )


def _edges(store: Store, projected: ShardKey) -> Edges:
    names = ["target_feature", "source_layer", "source_feature", "virtual_weight"]
    table = read_parts([store.part("feature_edges", projected)], names)
    target, layer, feature, weight = (table[name].to_numpy() for name in names)
    return Edges(target.astype(np.int64) - projected.start, layer.astype(np.int64), feature.astype(np.int64), weight)


@lru_cache(maxsize=32)
def _validated(store: Store, keys: tuple[ShardKey, ...], d_transcoder: int) -> FeatureTokens:
    """All validated tokens of an earlier layer, direct and inherited; cached, since every shard of the layers above
    needs them."""
    parts = [store.part("token_candidates", key) for key in keys]
    table = read_parts(parts, ["feature", "token_id", "activation", "validated"])
    table = table.filter(table["validated"])
    feature, token, activation = (table[name].to_numpy() for name in ("feature", "token_id", "activation"))
    return feature_tokens(feature, token, activation, d_transcoder)


def write_inherited(
    store: Store, key: ShardKey, checkpoint_id: str, inherited: Inherited, candidates: Candidates
) -> None:
    """Write a shard's inherited tokens, which follow its direct ones in rank."""
    columns = {
        "checkpoint_id": checkpoint_id,
        "layer": key.layer,
        "feature": inherited.target + key.start,
        "side": "input",
        "sign": 1,
        "rank": candidates.n_input[inherited.target] + ranks(inherited.target),
        "token_id": inherited.token,
        "score": inherited.weight,
        "activation": inherited.activation,
        "validated": np.ones(len(inherited.target), bool),
        "source_layer": inherited.source_layer.astype(np.int16),
        "source_feature": inherited.source_feature.astype(np.int32),
    }
    write_part(store.part("token_candidates", key), "token_candidates", columns, len(inherited.target))


@cache
def read_vocabulary(path: Path) -> list[Token]:
    """Every token of a checkpoint, by id."""
    return [Token(text) for text in read_parts([path], ["text"])["text"].to_pylist()]


def write_words(
    store: Store,
    job: PropagationJob,
    key: ShardKey,
    candidates: Candidates,
    inputs: Sequence[Sequence[Token]],
    soft: Sequence[Sequence[Token]] | None = None,
) -> None:
    """Describe the features that have tokens, and record why the others have no description.

    `inputs` are each feature's validated tokens, the strongest first; `soft`, if given, those of `weightlens-soft`.
    """
    vocabulary, wording = read_vocabulary(tokens_part(store, job.checkpoint_id)), job.wording
    described: list[tuple[int, str, str, list[str]]] = []
    failed: list[Failure] = []
    for at, read in enumerate(inputs):
        feature = key.start + at
        written = [vocabulary[token] for token in candidates.outputs[at][: wording.max_words]]
        text = word_list(read, wording)
        if read:
            described.append((feature, "weightlens", text, [token.text for token in read]))
        else:
            n_edges = int((candidates.edges.target == at).sum())
            reason = _reason(candidates.n_input[at], n_edges) if job.reads_stream else OTHER_INPUT
            failed.append(Failure(feature, *reason))
        if read or written:
            promotes = f"promotes {word_list(written, wording)}" if written else ""
            both = [token.text for token in (*read, *written)]
            described.append((feature, "weightlens+out", "; ".join(filter(None, (text, promotes))), both))
        if soft is not None and soft[at]:
            described.append((feature, "weightlens-soft", word_list(soft[at], wording), [t.text for t in soft[at]]))
    shared = {"checkpoint_id": job.checkpoint_id, "layer": key.layer}
    columns = columns_of(("feature", "method", "text", "tokens"), described)
    fixed = {"explainer": "tokens", "cluster": -1, "created_at": [now()] * len(described)}
    write_part(store.part("descriptions", key), "descriptions", {**shared, **fixed, **columns}, len(described))
    write_failures(store.part("failures", key), "weightlens", key.layer, failed)


def _by_strength(direct: FeatureTokens, inherited: Inherited) -> Iterator[list[int]]:
    """Each feature's validated tokens, those with the greatest activation first."""
    starts = np.searchsorted(inherited.target, np.arange(direct.n_features + 1))
    for at in range(direct.n_features):
        own = slice(direct.indptr[at], direct.indptr[at + 1])
        taken = slice(starts[at], starts[at + 1])
        token = np.concatenate([direct.token[own], inherited.token[taken]])
        value = np.concatenate([direct.value[own], inherited.activation[taken]])
        yield token[np.lexsort((token, -value))].tolist()


def _reason(n_candidates: int, n_edges: int) -> tuple[str, str]:
    if n_candidates == 0 and n_edges == 0:
        return "no_candidates", "no token and no earlier feature stands out among the encoder's projections"
    return (
        "none_validated",
        f"{n_candidates} candidate tokens and {n_edges} upstream features, but no token fires the feature alone",
    )


@shard_task("load-weightlens", "load weightlens")
def load_weightlens(
    store: Store, checkpoint_id: str, run_id: str, projected: Sequence[ShardKey], propagated: Sequence[ShardKey]
) -> str:
    """Load all parts into the catalog in one transaction, replacing those of an earlier recipe."""
    COLUMN_BLOCKS.clear()  # projections are finished, and the catalog needs the memory
    recipe = propagated[0].recipe
    where = {"checkpoint_id": checkpoint_id}
    with open_catalog(store.catalog, write=True) as connection:
        candidates = [store.part("token_candidates", key) for key in (*projected, *propagated)]
        replace_rows(connection, "token_candidates", where, candidates)
        by_weights = {**where, "corpus_id": None}
        for table, rows, keys in (
            ("feature_edges", by_weights, projected),
            ("contribution_totals", where, projected),
            ("descriptions", by_weights, propagated),
        ):
            replace_rows(connection, table, rows, [store.part(table, key) for key in keys])
        validations = [store.part("sequence_validation", key) for key in propagated]
        replace_rows(connection, "sequence_validation", where, [path for path in validations if path.exists()])
        failures = [store.part("failures", key) for key in propagated]
        replace_failures(connection, "weightlens", RunOf(run_id, checkpoint_id), failures)
        mark_loaded(connection, checkpoint_id, "weightlens", recipe)
    return recipe
