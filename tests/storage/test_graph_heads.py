"""Heads that carry a graph's edges, in its file and as rows of the catalog."""

import numpy as np

from interp.circuitlens.kinds import BIAS, FEATURE, KINDS, TOKEN
from interp.circuitlens.loadings import CarriedEdges, HeadLoadings
from interp.circuitlens.qk import QKPairs, Sources
from storage.catalog.graph_tables import KEY, TABLES
from storage.exchange.attribution_graph import GraphFile
from storage.exchange.graph_heads import head_rows, heads_json, pair_rows, with_heads

IDS = ["E_5_3", "1_7_9", "4_2_9"]
FILE: GraphFile = {
    "metadata": {"slug": "small"}, "qParams": {}, "nodes": [],
    "links": [{"source": "E_5_3", "target": IDS[target], "weight": 2.0 + target} for target in (1, 2)],
}  # fmt: skip


def sources(*of: tuple[str, int, int, int]) -> Sources:
    kinds = np.array([KINDS.index(kind) for kind, *_ in of])
    return Sources(kinds, *(np.array(column) for column in list(zip(*of, strict=True))[1:]))


def carried() -> CarriedEdges:
    """One head that carries two edges, and another without any pair."""
    pairs = QKPairs(
        np.zeros(2, np.int64),
        np.full(2, 4.0),
        sources((TOKEN, -1, 5, 9), (BIAS, -1, -1, -1)),
        sources((FEATURE, 0, 7, 3), (TOKEN, -1, 2, 3)),
        np.array([3.0, -0.5]),
    )
    nothing = QKPairs(*([np.zeros(0)] * 2), *([sources((BIAS, -1, -1, -1))] * 2), np.zeros(0))
    whole = (np.array(column) for column in ([0, 0, 1], [1, 0, 1], [0, 2, 0]))
    loading, through = np.array([1.5, -0.25, 2.5]), np.array([1.25, -0.25, 2.25])
    loadings = HeadLoadings(*whole, loading, np.array([9, 9, 9]), np.array([3, 4, 3]), through)
    return CarriedEdges(((0, 1), (0, 2)), loadings, (pairs, nothing, pairs))


def test_the_file_names_heads_beside_the_edges_that_they_carry() -> None:
    edges = heads_json(FILE, IDS, carried())
    assert [(edge["source"], edge["target"], edge["weight"]) for edge in edges] == [
        ("E_5_3", "1_7_9", 3.0), ("E_5_3", "4_2_9", 4.0),
    ]  # fmt: skip
    first, second = edges[0]["heads"]
    assert (first["layer"], first["head"], first["loading"], first["score"]) == (1, 0, 1.5, 4.0)
    assert first["pairs"][0] == {
        "query": {"kind": "token", "layer": None, "index": 5, "position": 9},
        "key": {"kind": "feature", "layer": 0, "index": 7, "position": 3},
        "score": 3.0,
    }
    assert first["pairs"][1]["query"] == {"kind": "bias", "layer": None, "index": None, "position": None}
    assert (second["score"], second["pairs"]) == (None, [])
    assert with_heads(FILE, edges)["metadata"] == {"slug": "small", "heads": edges}


def test_rows_have_the_columns_of_their_tables_and_a_score_is_split_once() -> None:
    edges = heads_json(FILE, IDS, carried())
    heads, pairs = list(head_rows(edges)), list(pair_rows(edges))
    columns = {table.name: {column.name for column in table.columns} - set(KEY) for table in TABLES}
    assert all(set(row) == columns["graph_heads"] for row in heads)
    assert [(row["target"], row["rank"], row["loading"]) for row in heads] == [
        ("1_7_9", 0, 1.5), ("1_7_9", 1, -0.25), ("4_2_9", 0, 2.5),
    ]  # fmt: skip
    assert all(set(row) == columns["graph_head_pairs"] for row in pairs)
    assert [(row["head_layer"], row["rank"], row["key_kind"], row["key_index"], row["score"]) for row in pairs] == [
        (1, 0, "feature", 7, 3.0), (1, 1, "token", 2, -0.5),
    ]  # fmt: skip
