"""Co-activation: sums over tiles of two shards, and the edges that result from them and the virtual weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from interp.coactivation.settings import CoactivationSettings
from interp.coactivation.sums import (
    N_SUMS,
    Edges,
    EdgeSums,
    Strongest,
    TargetSums,
    add_coactive,
    by_token,
    strength,
    twera,
)
from interp.kernels.coactivation import (
    N_EDGE_SUMS,
    N_TARGET_SUMS,
    add_edges,
    add_targets,
    end_edges,
    end_targets,
)
from storage.activations import Block, joined, open_block
from storage.catalog.database import loaded_subject, mark_loaded, note_recipes, open_catalog, replace_rows
from storage.catalog.parts import read_parts, write_part
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.coactivation import matrices
from storage.corpora.corpus import corpus_attributes, read_rows
from storage.store import ShardKey, Store, shards
from tasks.activations.corpus_pass import CorpusPass, n_counted
from tasks.shard_task import shard_task
from tasks.weightlens.project import encoder_directions, reading_source

VERSION = 3
"""Raise it when the same activations would give other sums or edges."""

NO_DOCUMENT = -1

POSITIONS_AT_ONCE = 1 << 15
"""Positions over which a source's sums stay in the cache. With more, the tile is read from memory less often; but the
lists of active targets have to fit into the cache too."""


class Summed(NamedTuple):
    """A corpus's matrices: the pass over the corpus that they are from, and their recipe."""

    corpus_pass: CorpusPass
    recipe: str


@shard_task("coactivation", "coactivation L{source:02d} {target.name}")
def coactivate(
    store: Store, summed: Summed, source: int, target: ShardKey, n_features: int, shard_size: int
) -> ShardKey:
    """Sum up the co-activation of every feature of an earlier layer with those of a shard, tile by tile.

    Memory: a tile, with 24 bytes for each pair of features and 12 more while it is written, and the activations of two
    shards at `POSITIONS_AT_ONCE` positions, 20 bytes each. Positions are processed in order, so that the sums do not
    depend on the number of workers.
    """
    found = matrices(store, summed.recipe, source, target.layer, shard_size)
    n_pos = corpus_attributes(store, summed.corpus_pass.corpus_id).n_pos
    for key in shards(summed.recipe, source, n_features, shard_size):
        if found.has(key.start, target.start):
            continue
        sums = np.zeros((key.stop - key.start, target.stop - target.start, N_SUMS))
        for blocks in _groups(summed.corpus_pass.blocks(store), max(1, POSITIONS_AT_ONCE // n_pos)):
            opened = [open_block(store, summed.corpus_pass.recipe, block) for block in blocks]
            firsts = [(block.start - blocks[0].start) * n_pos for block in blocks]
            targets = joined([one.features(target.layer, target.start, target.stop) for one in opened], firsts)
            sources = joined([one.features(source, key.start, key.stop) for one in opened], firsts)
            add_coactive(sources, by_token(targets, (blocks[-1].stop - blocks[0].start) * n_pos), sums)
        found.write(key.start, target.start, sums)
    return target


def _groups(blocks: Sequence[Block], n_rows: int) -> Iterator[list[Block]]:
    """Consecutive blocks with at most this many rows together, or a single larger block."""
    group: list[Block] = []
    for block in blocks:
        if group and block.stop - group[0].start > n_rows:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


@dataclass(frozen=True)
class EdgesJob:
    """The inputs and settings from which edges are computed."""

    checkpoint_id: str
    corpus_id: str
    """The corpus id in the tables; for several corpora, a hash of them all."""
    summed: tuple[Summed, ...]
    settings: CoactivationSettings
    shard_size: int
    fold_norms: bool
    """Whether norms are folded into the directions, as in WeightLens."""
    projections: str | None
    """The recipe of WeightLens's edges, if that stage has run."""

    @property
    def passes(self) -> list[CorpusPass]:
        """The passes over the corpora whose sums are added up."""
        return [each.corpus_pass for each in self.summed]

    def layer_pairs(self, target: int, layers: Sequence[int]) -> list[int]:
        """The ingested source layers from which edges to a target layer are computed."""
        return [source for source, other in self.settings.layer_pairs(layers) if other == target]


@shard_task("twera", "twera {key.name}")
def twera_shard(store: Store, job: EdgesJob, key: ShardKey) -> ShardKey:
    """Find a shard's strongest edges by TWERA, and read the corpus once more for their statistics.

    If WeightLens has run, z-scores are those of its edges, and with `pairs: edges` the edges themselves. Memory: tiles
    of two shards, 40 bytes for each pair of features; and 100 bytes for each candidate edge.
    """
    path = store.part("feature_edges", key)
    if path.exists():
        return key
    passes, settings = job.passes, job.settings
    targets, n_tokens = _target_sums(store, key, passes), n_counted(store, passes)
    known = None if job.projections is None else _weightlens_edges(store, key._replace(recipe=job.projections))
    if settings.pairs == "edges":
        assert known is not None
        edges = known[0]
    else:
        edges = _strongest(store, job, key, targets)
    sums = _edge_sums(store, key, edges, passes)
    figures = twera(sums, targets.of(edges.target), edges.weight, n_tokens)
    enough = np.flatnonzero(sums.n_coactive >= settings.min_support)
    order = enough[np.lexsort((-np.abs(figures.twera[enough]), edges.target[enough]))]
    place = np.arange(len(order)) - np.searchsorted(edges.target[order], edges.target[order])
    order = order[place < settings.top_k]
    chosen = edges.where(order)
    columns = {
        "checkpoint_id": job.checkpoint_id,
        "corpus_id": job.corpus_id,
        "source_layer": chosen.source_layer.astype(np.int16),
        "source_feature": chosen.source_feature.astype(np.int32),
        "target_layer": key.layer,
        "target_feature": (chosen.target + key.start).astype(np.int32),
        "virtual_weight": chosen.weight.astype(np.float32),
        "z_score": None if known is None else _z_scores(chosen, *known),
        "era": figures.era[order],
        "twera": figures.twera[order],
        "twera_low": _nulls(figures.low[order]),
        "twera_high": _nulls(figures.high[order]),
        "n_coactive": sums.n_coactive[order],
    }
    write_part(path, "feature_edges", columns, len(order))
    return key


def _target_sums(store: Store, key: ShardKey, passes: Sequence[CorpusPass]) -> TargetSums:
    sums, running = np.zeros((key.stop - key.start, N_TARGET_SUMS)), np.zeros((key.stop - key.start, 2))
    running[:, 0] = NO_DOCUMENT
    for corpus_pass, block, document in _read(store, passes):
        active = open_block(store, corpus_pass.recipe, block).features(key.layer, key.start, key.stop)
        add_targets(active.indptr, active.token, active.value, document, running, sums)
    end_targets(running, sums)
    return TargetSums(*sums.T.copy())


def _read(
    store: Store, passes: Sequence[CorpusPass]
) -> Iterator[tuple[CorpusPass, Block, Int64[np.ndarray, " n_positions"]]]:
    """All blocks in order, each with the document of every position, counted through all corpora."""
    first = 0
    for corpus_pass in passes:
        for block in corpus_pass.blocks(store):
            documents = read_rows(store, corpus_pass.corpus_id, block.start, block.stop).documents
            yield corpus_pass, block, documents.ravel().astype(np.int64) + first
        first += corpus_attributes(store, corpus_pass.corpus_id).n_documents


def _strongest(store: Store, job: EdgesJob, key: ShardKey, targets: TargetSums) -> Edges:
    """The edges of greatest |TWERA| by the matrices of all corpora."""
    checkpoint, settings, size = open_checkpoint(store, job.checkpoint_id), job.settings, job.shard_size
    found, columns = Strongest(key.stop - key.start, settings.top_k), slice(key.start, key.stop)
    encoder = encoder_directions(checkpoint, key, job.fold_norms)
    for source in job.layer_pairs(key.layer, checkpoint.layers):
        rows = reading_source(checkpoint, encoder, source, job.fold_norms)
        for part in shards(key.recipe, source, checkpoint.d_transcoder, size):
            sources = slice(part.start, part.stop)
            tiles = [matrices(store, each.recipe, source, key.layer, size) for each in job.summed]
            product, n = (
                np.sum([tile.read(name, sources, columns) for tile in tiles], axis=0)
                for name in ("sum_product", "n_coactive")
            )
            weight = virtual_weights(checkpoint, rows, part, key.layer).numpy()
            found.offer(strength(product, n, targets.total, weight, settings.min_support), weight, source, part.start)
    return found.edges()


def virtual_weights(
    checkpoint: Checkpoint, rows: Float32[Tensor, "targets d_model"], source: ShardKey, below: int
) -> Float32[Tensor, "targets sources"]:
    """Virtual weights from a shard of an earlier layer to features of layer `below`; `rows` is what these features read
    of that layer."""
    return torch.mm(rows, checkpoint.written(source.layer, source.start, source.stop, below).float().T)


def _edge_sums(store: Store, key: ShardKey, edges: Edges, passes: Sequence[CorpusPass]) -> EdgeSums:
    sums, running = np.zeros((len(edges.target), N_EDGE_SUMS)), np.zeros((len(edges.target), 3))
    running[:, 0] = NO_DOCUMENT
    for corpus_pass, block, document in _read(store, passes):
        opened = open_block(store, corpus_pass.recipe, block)
        targets = opened.features(key.layer, key.start, key.stop)
        for layer in np.unique(edges.source_layer).tolist():
            mine = np.flatnonzero(edges.source_layer == layer)
            first, last = edges.source_feature[mine].min(), edges.source_feature[mine].max()
            sources = opened.features(layer, int(first), int(last) + 1)
            part, now = sums[mine], running[mine]
            add_edges(
                edges.source_feature[mine] - first, edges.target[mine],
                sources.indptr, sources.token, sources.value, targets.indptr, targets.token, targets.value,
                document, now, part,
            )  # fmt: skip
            sums[mine], running[mine] = part, now
    end_edges(running, sums)
    product, source_active, n_coactive, squares, cross = sums.T
    return EdgeSums(product, source_active, n_coactive.astype(np.int64), squares, cross)


def _weightlens_edges(store: Store, projected: ShardKey) -> tuple[Edges, np.ndarray]:
    """WeightLens's edges to a shard, with their z-scores."""
    names = ["target_feature", "source_layer", "source_feature", "virtual_weight", "z_score"]
    table = read_parts([store.part("feature_edges", projected)], names)
    target, layer, feature, weight, z = (table[name].to_numpy() for name in names)
    target, layer, feature = (column.astype(np.int64) for column in (target - projected.start, layer, feature))
    return Edges(target, layer, feature, weight.astype(np.float64)), z


def _z_scores(chosen: Edges, known: Edges, z_score: np.ndarray) -> list[float | None]:
    found = dict(zip(zip(*(column.tolist() for column in known[:3]), strict=True), z_score.tolist(), strict=True))
    return [found.get(edge) for edge in zip(*(column.tolist() for column in chosen[:3]), strict=True)]


def _nulls(values: np.ndarray) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


@shard_task("load-coactivation", "load coactivation")
def load_coactivation(store: Store, job: EdgesJob, keys: Sequence[ShardKey]) -> str:
    """Load the edges into the catalog in one transaction, replacing those of an earlier recipe."""
    where = {"checkpoint_id": job.checkpoint_id, "corpus_id": job.corpus_id}
    with open_catalog(store.catalog, write=True) as connection:
        replace_rows(connection, "feature_edges", where, [store.part("feature_edges", key) for key in keys])
        note_recipes(connection, "coactivation", where, [each.recipe for each in job.summed])
        loaded = loaded_subject(job.checkpoint_id, job.corpus_id)
        mark_loaded(connection, loaded, "coactivation", keys[0].recipe)
    return keys[0].recipe
