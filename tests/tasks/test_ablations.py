"""Ablations: what a description is worth on held-out text, and what is handed on unchecked."""

import duckdb
import numpy as np
import pytest

from benchmarks.ablations import Measure, _propagated_unchecked, row
from interp.known_answers.stream import Stream
from interp.sparse import FeatureTokens
from storage.corpora.packing import Rows
from tasks.known_answers import Read

IDS = np.tile([0, 1, 2, 1], 25)
STREAM = Stream(IDS, np.arange(100) % 20 == 0, [" cat", " dog", " cow"])
COUNTED = np.arange(100) < 80
ROWS = Rows(IDS.reshape(5, 20).astype(np.int32), np.repeat(np.arange(5, dtype=np.int32), 20).reshape(5, 20))
READ = Read(ROWS, np.arange(100).reshape(5, 20), STREAM, np.repeat(np.arange(5), 20), COUNTED, True)


def active(token: int, every: int = 1) -> FeatureTokens:
    at = np.flatnonzero((token == IDS) & COUNTED)[::every]
    return FeatureTokens(np.array([0, len(at)]), at, np.ones(len(at), np.float32))


def test_a_description_is_measured_where_tokens_count() -> None:
    measure = Measure(READ, {(0, 0): active(1), (0, 1): active(1, every=2)})
    assert measure((0, 0), "the token ‘dog’") == (1, 1, 1)
    assert measure((0, 0), "the token ‘cat’") == (pytest.approx(0.25), 0, 0)
    assert measure((0, 1), "the token ‘dog’")[1:] == (0.5, 1)
    assert measure((0, 1), "the tokens ‘dog’, ‘cow’").precision == pytest.approx(1 / 3)


def test_variants_are_compared_on_features_that_both_describe() -> None:
    measure = Measure(READ, {(0, at): active(1) for at in range(3)})
    base = {(0, 0): "the token ‘dog’", (0, 2): "the token ‘dog’"}
    found = row("other", {(0, 0): "the token ‘dog’", (0, 1): "the token ‘cat’"}, ("base", base), measure)
    assert (found["features"], found["paired"], found["difference"]) == (2, 1, 0)
    assert (found["words_in_common"], found["reach"]) == (1, None)
    assert found["simulation"] == pytest.approx(0.625)


def test_candidates_are_handed_up_without_being_checked() -> None:
    with duckdb.connect() as connection:
        connection.execute("""CREATE TABLE feature_edges AS SELECT * FROM (VALUES
            (NULL, 1, 0, 0, 5, 2.0), (NULL, 1, 0, 0, 6, 1.0), (NULL, 2, 9, 1, 0, 1.0), ('corpus', 1, 0, 0, 7, 9.0))
            t(corpus_id, target_layer, target_feature, source_layer, source_feature, virtual_weight)""")
        direct = {(1, 0): ["a"], (0, 5): ["b", "a"], (0, 6): ["c", "d", "e"], (0, 7): ["z"]}
        found = _propagated_unchecked(connection, direct, 1)
    assert found[1, 0] == ["a", "b", "c", "d"]  # four at most
    assert found[2, 9] == ["a", "b", "c", "d"]
