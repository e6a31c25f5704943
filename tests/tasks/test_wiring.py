"""Tokens inherited along the edges that a corpus uses, on the planted circuit: (0, 3) reads words 5 and 7 and drives
(1, 2), which fires on them too."""

import numpy as np
import pytest

from interp.descriptions.wiring import Wire
from interp.sparse import feature_tokens
from storage.catalog.database import insert_row, open_catalog
from storage.catalog.parts import read_parts
from storage.checkpoints import write_single_token
from storage.store import ShardKey, Store
from tasks.describe.wiring import TABLE, InUse, WiringJob, in_use, wire_shard
from tests.planted import WORDS
from tests.planted_store import planted_store

ALONE = {0: [(1, 12, 1.0), (3, 5, 2.0), (3, 7, 1.0)], 1: [(2, 5, 0.5), (2, 7, 3.0), (2, 9, 0.25), (4, 7, 1.0)]}
"""By layer, (feature, token, activation) of tokens read alone."""

EDGES = [
    (0, 3, 1, 2, 0.5, 0.25, 12),
    (0, 1, 1, 2, 0.25, 0.125, 900),
    (0, 3, 1, 3, 0.5, 0.25, 900),  # which fires on none of the tokens
    (0, 3, 1, 4, 0.5, -0.25, 900),  # not surely above 0
    (0, 3, 1, 5, -0.5, -0.75, 900),
]
"""Source and target, TWERA, the lower end of its interval, support."""


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, WiringJob]:
    """A store in which both layers are wired, in shards of five features."""
    plan = planted_store(tmp_path_factory.mktemp("planted"))
    store, checkpoint_id = plan.store, plan.checkpoint_id
    n_features = plan.attributes.d_transcoder
    for layer, alone in ALONE.items():
        feature, token, value = (np.array(column) for column in zip(*alone, strict=True))
        found = feature_tokens(feature, token, value.astype(np.float32), n_features)
        write_single_token(store, checkpoint_id, layer, found, None)
    with open_catalog(store.catalog, write=True) as connection:
        for layer, feature, token in ((0, 1, 12), (0, 3, 5), (0, 3, 7), (1, 2, 9)):
            activation = next(value for one, at, value in ALONE[layer] if (one, at) == (feature, token))
            row = {"checkpoint_id": checkpoint_id, "layer": layer, "feature": feature, "token_id": token}
            row |= {"side": "input", "sign": 1, "validated": True, "activation": activation}
            insert_row(connection, "token_candidates", row)
        for source_layer, source, layer, target, twera, low, n in EDGES:
            row = {"checkpoint_id": checkpoint_id, "source_layer": source_layer, "source_feature": source}
            row |= {"target_layer": layer, "target_feature": target, "virtual_weight": 1.0}
            insert_row(connection, "feature_edges", {**row, "corpus_id": None})
            figures = {"twera": twera, "twera_low": low, "twera_high": 1.0, "n_coactive": n}
            insert_row(connection, "feature_edges", {**row, "corpus_id": "text", **figures})
    job = WiringJob(checkpoint_id, "text", "recipe", 5, None)
    for layer in plan.layers:
        for key in plan.shards(job.recipe, layer):
            wire_shard.fn(store, job, key)
    return store, job


def test_tokens_come_by_edges_that_surely_drive_and_validate_on_the_target(wired: tuple[Store, WiringJob]) -> None:
    store, job = wired
    keys = [ShardKey(job.recipe, layer, start, min(start + 5, 16)) for layer in (0, 1) for start in (0, 5, 10, 15)]
    names = ["layer", "feature", "rank", "token_id", "activation", "source_layer", "source_feature", "twera"]
    rows = read_parts([store.part(TABLE, key) for key in keys], [*names, "n_coactive"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (1, 2, 0, 7, 3.0, 0, 3, 0.5, 12),
        (1, 2, 1, 5, 0.5, 0, 3, 0.5, 12),
    ]


def test_a_feature_has_its_own_tokens_too_and_its_strongest_edges(wired: tuple[Store, WiringJob]) -> None:
    store, job = wired
    with open_catalog(store.catalog) as connection:
        found = in_use(store, connection, job, ShardKey(job.recipe, 1, 0, 5), range(5), 12)
        few = in_use(store, connection, job, ShardKey(job.recipe, 1, 0, 5), [2], 2)
    wires = (Wire(0, 3, 12), Wire(0, 1, 900))
    assert found == {
        2: InUse((f" {WORDS[7]}", f" {WORDS[5]}", f" {WORDS[9]}"), wires),
        3: InUse((), (Wire(0, 3, 900),)),
    }
    assert few[2].tokens == (f" {WORDS[7]}", f" {WORDS[5]}")
