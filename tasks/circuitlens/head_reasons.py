"""Why the heads that contributed most to a sample attended where they did."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from interp.circuitlens.contributors import NONE, Contributors
from interp.circuitlens.frozen import Frozen
from interp.circuitlens.kinds import HEAD, KINDS
from interp.circuitlens.linear import LinearModel
from interp.circuitlens.qk import AttendedPairs, QKPairs, Sources, score_parts, sources_beneath, strongest_pairs
from interp.circuitlens.settings import CircuitLensSettings
from interp.sparse import ranks
from storage.attributions import QK_SCHEMA, Attributed, read_qk
from storage.catalog.parts import write_part
from storage.store import ShardKey, Store
from tasks.circuitlens.job import BATCH_BYTES, CircuitLensJob, as_tensor


def head_scores(
    linear: LinearModel, frozen: Frozen, found: Attributed, settings: CircuitLensSettings
) -> Iterator[pa.Table]:
    """The strongest pairs of the scores of the strongest heads, for those samples of one sequence that are
    explained."""
    device, every = str(frozen.tokens.device), found.contributors
    asked = (every.kind == KINDS.index(HEAD)) & (found.sample[every.target] < settings.qk_samples)
    heads = Contributors(*(column[asked] for column in every))
    strongest = ranks(heads.target) < settings.qk_heads
    heads = Contributors(*(column[strongest] for column in heads))
    for head_layer in np.unique(heads.layer).tolist():
        own = Contributors(*(column[heads.layer == head_layer] for column in heads))
        columns = (own.unit, found.position[own.target], own.position)
        attended = AttendedPairs(*(as_tensor(column, device) for column in columns))
        parts = score_parts(linear, frozen, head_layer, attended, n_keys=settings.qk_keys, max_bytes=BATCH_BYTES)
        yield _table(strongest_pairs(parts, sources_beneath(frozen, head_layer), settings.qk_pairs), own, found)


def _table(pairs: QKPairs, heads: Contributors, found: Attributed) -> pa.Table:
    target = heads.target[pairs.look]
    columns = {
        "layer": found.layer[target],
        "feature": found.feature[target],
        "sample": found.sample[target],
        "head_layer": heads.layer[pairs.look],
        "head": heads.unit[pairs.look],
        "query_position": found.position[target],
        "key_position": heads.position[pairs.look],
        "head_score": pairs.head_score,
        **_side("query", pairs.query),
        **_side("key", pairs.key),
        "score": pairs.score,
    }
    return pa.table([pa.array(columns[field.name]).cast(field.type) for field in QK_SCHEMA], QK_SCHEMA)


def _side(name: str, of: Sources) -> dict[str, np.ndarray]:
    values = (of.kind, of.layer, of.unit, of.position)
    return {
        f"{name}_{what}": value
        for what, value in zip(("kind", "layer", "index", "source_position"), values, strict=True)
    }


def write_head_scores(store: Store, job: CircuitLensJob, key: ShardKey) -> Path:
    """Gather a shard's pairs from the blocks into its part of `qk_contributions`."""
    found, path = read_qk(job.qk_paths(store), key), store.part("qk_contributions", key)
    columns: dict[str, pa.Array | np.ndarray] = {}
    for name in found.column_names[1:]:
        values = found[name].to_numpy()
        if name.endswith("_kind"):
            columns[name] = np.array(KINDS, object)[values]
        elif name.endswith(("_layer", "_index", "_source_position")):
            columns[name] = pa.array(values, mask=values == NONE)
        else:
            columns[name] = values
    write_part(path, "qk_contributions", {**job.shared, "layer": key.layer, **columns}, found.num_rows)
    return path
