"""The heads that carry a graph's edges, read from its file and checked."""

import math
from collections.abc import Iterator
from typing import TypeGuard

from storage.exchange.graph_heads import CarriedEdge, CarryingHead, Pair, Side

MAX_EDGES, MAX_HEADS, MAX_PAIRS = 100, 16, 16
MOST = 1 << 31

KINDS = ("feature", "token", "error", "bias")


def carried(raw: list[object], known: set[str]) -> Iterator[CarriedEdge]:
    """Edges between nodes that are known, field by field; what is not as expected is left out."""
    for edge in raw[:MAX_EDGES]:
        if not isinstance(edge, dict):
            continue
        source, target, weight, heads = (edge.get(name) for name in ("source", "target", "weight", "heads"))
        if isinstance(source, str) and isinstance(target, str) and {source, target} <= known and _is_figure(weight):
            kept = list(_heads(heads if isinstance(heads, list) else []))
            yield {"source": source, "target": target, "weight": weight, "heads": kept}


def _heads(raw: list[object]) -> Iterator[CarryingHead]:
    for head in raw[:MAX_HEADS]:
        if not isinstance(head, dict):
            continue
        layer, number, query, key = (head.get(name) for name in ("layer", "head", "query_position", "key_position"))
        loading, through, score, pairs = (head.get(name) for name in ("loading", "through", "score", "pairs"))
        if not (_is_number(layer) and _is_number(number) and _is_number(query) and _is_number(key)):
            continue
        if _is_figure(loading) and _is_figure(through) and (score is None or _is_figure(score)):
            kept = list(_pairs(pairs if isinstance(pairs, list) else []))
            yield {
                "layer": layer, "head": number, "loading": loading, "query_position": query, "key_position": key,
                "through": through, "score": score, "pairs": kept,
            }  # fmt: skip


def _pairs(raw: list[object]) -> Iterator[Pair]:
    for pair in raw[:MAX_PAIRS]:
        if isinstance(pair, dict):
            query, key, score = _side(pair.get("query")), _side(pair.get("key")), pair.get("score")
            if query and key and _is_figure(score):
                yield {"query": query, "key": key, "score": score}


def _side(raw: object) -> Side | None:
    if not isinstance(raw, dict) or raw.get("kind") not in KINDS:
        return None
    layer, index, position = (raw.get(name) for name in ("layer", "index", "position"))
    return {
        "kind": str(raw["kind"]),
        "layer": layer if _is_number(layer) else None,
        "index": index if _is_number(index) else None,
        "position": position if _is_number(position) else None,
    }


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST


def _is_figure(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
