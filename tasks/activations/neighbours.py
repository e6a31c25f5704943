"""A feature's activations around its samples, if the sparse activations are kept."""

import numpy as np
import pyarrow as pa

from interp.activations.sampling import neighbours
from storage.catalog.contexts import TOKENS_AFTER, TOKENS_BEFORE
from storage.catalog.parts import write_part
from storage.corpora.corpus import corpus_attributes
from storage.samples import read_samples
from storage.store import ShardKey, Store
from tasks.activations.corpus_pass import SamplingJob, active_of_shard
from tasks.shard_task import shard_task

VERSION = 1
"""Raise it when the same activations and samples would give other rows."""

TABLE = "sample_neighbours"


@shard_task("activations-neighbours", "neighbours {key.name}")
def gather_neighbours(store: Store, job: SamplingJob, key: ShardKey, samples: str) -> ShardKey:
    """Gather, for each sample of a shard, the feature's activations at the tokens that its context shows.

    `samples` is the recipe of the samples; `key` has that of the neighbours.

    Memory: as for gathering the samples, and a few bytes for each neighbour.
    """
    if store.part(TABLE, key).exists():
        return key
    drawn = read_samples(store, key._replace(recipe=samples))
    n_pos = corpus_attributes(store, job.passes[0].corpus_id).n_pos
    offsets, activations = [], []
    for first, active in active_of_shard(store, job.passes, key):
        own = drawn.where((drawn.feature >= first) & (drawn.feature < first + active.n_features))
        position = own.sequence * n_pos + own.position
        found = neighbours(active, own.feature - first, position, n_pos, (TOKENS_BEFORE, TOKENS_AFTER))
        cuts = np.cumsum(found.counts)[:-1]
        if len(own.feature):
            offsets += np.split(found.offset.astype(np.int16), cuts)
            activations += np.split(found.activation, cuts)
    columns = {
        **job.shared,
        "layer": key.layer,
        "feature": drawn.feature,
        "sample": drawn.sample,
        "offsets": pa.array(offsets, pa.list_(pa.int16())),
        "activations": pa.array(activations, pa.list_(pa.float32())),
    }
    write_part(store.part(TABLE, key), TABLE, columns, len(drawn.feature))
    return key
