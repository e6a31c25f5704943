"""Write the files of the authors' WeightLens (see `weightlens_json`) from a catalog."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import duckdb
import numpy as np

from storage.exchange.weightlens_json import Contribution, Embedding, FeatureAnalysis, FeatureKey, OutputLogits
from storage.store import whole_file

T = TypeVar("T")

FEATURES_PER_BLOCK = 1024
"""Features whose rows are in memory at a time during export."""


class Candidate(NamedTuple):
    """A token that a feature reads or promotes."""

    side: str
    sign: int
    text: str
    token_id: int
    score: float
    activation: float


class Edge(NamedTuple):
    """An earlier feature with an edge to a feature."""

    layer: int
    feature: int
    virtual_weight: float


class Words(NamedTuple):
    """The tokens of a description."""

    method: str
    tokens: list[str]


class Validation(NamedTuple):
    """Whether, and by which share, a feature's own tokens fire it in the sequence that the authors validate with."""

    passed: bool
    share: float


class Soft(NamedTuple):
    """The tokens of a feature's soft description, and the share of them that alone fires it."""

    tokens: list[str] | None
    share: float


class Described(NamedTuple):
    """What a file says about one feature in words, and how much of that was validated."""

    soft: list[str] | None
    tokens: list[str] | None
    validation: Validation


def export_layer(connection: duckdb.DuckDBPyConnection, checkpoint_id: str, layer: int, folder: Path) -> Path:
    """Write one layer's file from the catalog. Memory: the rows of `FEATURES_PER_BLOCK` features."""
    path = folder / f"feature_analysis_layer_{layer}.json"
    query = "SELECT feature FROM contribution_totals WHERE checkpoint_id = ? AND layer = ? ORDER BY feature"
    features = [row[0] for row in connection.execute(query, [checkpoint_id, layer]).fetchall()]
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write("[")
        for start in range(0, len(features), FEATURES_PER_BLOCK):
            block = features[start : start + FEATURES_PER_BLOCK]
            for place, entry in enumerate(_entries(connection, checkpoint_id, layer, block), start):
                text = json.dumps(entry.model_dump(), indent=2)
                file.write((",\n  " if place else "\n  ") + text.replace("\n", "\n  "))
        file.write("\n]" if features else "]")
    return path


def _entries(
    connection: duckdb.DuckDBPyConnection, checkpoint_id: str, layer: int, features: Sequence[int]
) -> Iterator[FeatureAnalysis]:
    key = [checkpoint_id, layer, features[0], features[-1]]

    def grouped(query: str, kind: Callable[..., T]) -> dict[int, list[T]]:
        rows: dict[int, list[T]] = defaultdict(list)
        for feature, *row in connection.execute(query, key).fetchall():
            rows[feature].append(kind(*row))
        return rows

    candidates = grouped(
        """
        SELECT feature, side, sign, text, token_id, score, activation
        FROM token_candidates JOIN tokens USING (checkpoint_id, token_id)
        WHERE checkpoint_id = ? AND layer = ? AND feature BETWEEN ? AND ? AND source_layer IS NULL
        ORDER BY feature, side, sign, rank""",
        Candidate,
    )
    edges = grouped(
        """
        SELECT target_feature, source_layer, source_feature, virtual_weight FROM feature_edges
        WHERE checkpoint_id = ? AND target_layer = ? AND target_feature BETWEEN ? AND ? AND corpus_id IS NULL
        ORDER BY abs(virtual_weight) DESC, source_layer, source_feature""",
        Edge,
    )
    totals = grouped(
        """
        SELECT feature, absolute_contribution FROM contribution_totals
        WHERE checkpoint_id = ? AND layer = ? AND feature BETWEEN ? AND ?""",
        float,
    )
    words = grouped(
        """
        SELECT feature, method, tokens FROM descriptions
        WHERE checkpoint_id = ? AND layer = ? AND feature BETWEEN ? AND ? AND method LIKE 'weightlens%'""",
        Words,
    )
    validations = grouped(
        """
        SELECT feature, validation, validation_soft FROM sequence_validation
        WHERE checkpoint_id = ? AND layer = ? AND feature BETWEEN ? AND ?""",
        Validation,
    )
    soft = grouped(_SOFT, Soft)
    for feature in features:
        lists = {method: tokens for method, tokens in words[feature]}
        description = lists.get("weightlens")
        if validations[feature]:
            described = Described(lists.get("weightlens-soft"), description, validations[feature][0])
        else:
            [(tokens, share)] = soft[feature] or [Soft(None, 0.0)]
            passed = Validation(description is not None, share)
            described = Described(tokens, description and sorted(set(description)), passed)
        [total] = totals[feature]
        key_of_feature = FeatureKey(layer=layer, feature_idx=feature)
        yield _entry(key_of_feature, candidates[feature], edges[feature], total, described)


_SOFT = """
    WITH mine AS (
        SELECT feature, token_id FROM token_candidates
        WHERE checkpoint_id = $1 AND layer = $2 AND feature BETWEEN $3 AND $4 AND validated
    ), offered AS (
        SELECT e.target_feature AS feature, c.token_id FROM feature_edges e JOIN token_candidates c
          ON (c.checkpoint_id, c.layer, c.feature) = (e.checkpoint_id, e.source_layer, e.source_feature)
        WHERE e.checkpoint_id = $1 AND e.target_layer = $2 AND e.target_feature BETWEEN $3 AND $4
          AND e.corpus_id IS NULL AND c.validated
    ), every AS (SELECT * FROM mine UNION SELECT * FROM offered)
    SELECT feature, list_sort(list(DISTINCT text)), count(m.token_id) / count(*)
    FROM every LEFT JOIN mine m USING (feature, token_id)
    JOIN tokens t ON (t.checkpoint_id, t.token_id) = ($1, every.token_id)
    GROUP BY feature"""
"""The tokens that upstream features and the feature itself offer, and the share of them that alone fires the
feature."""


def _entry(
    feature: FeatureKey,
    candidates: list[Candidate],
    edges: list[Edge],
    total: float,
    described: Described,
) -> FeatureAnalysis:
    def of(side: str, sign: int) -> list[Candidate]:
        return [row for row in candidates if row[:2] == (side, sign)]

    def relative(rows: list[Candidate]) -> list[float]:
        shares = np.abs(np.array([row.score for row in rows], np.float32)) / np.float32(total)  # float32 as theirs
        return shares.tolist()

    up, down = of("input", 1), of("input", -1)
    wired = [
        Contribution(
            from_layer=layer, from_feature_idx=index, contribution=weight, relative_contribution=abs(weight) / total
        )
        for layer, index, weight in edges
    ]
    return FeatureAnalysis(
        feature=feature,
        embedding=Embedding(
            top_positive_tokens=[row.text for row in up],
            top_negative_tokens=[row.text for row in down],
            positive_tokens_activation=[row.activation for row in up],
            top_positive_token_ids=[row.token_id for row in up],
            top_positive_tokens_contribution=[row.score for row in up],
            top_negative_tokens_ids=[row.token_id for row in down],
            top_negative_tokens_contribution=[row.score for row in down],
            top_positive_tokens_relative_contribution=relative(up),
            top_negative_tokens_relative_contribution=relative(down),
        ),
        output_logits=OutputLogits(
            top_positive_tokens=[row.text for row in of("output", 1)],
            top_negative_tokens=[row.text for row in of("output", -1)],
        ),
        feature_to_feature_contributions=wired,
        total_input_invariant_detected_contribution=sum(relative(up)) + sum(c.relative_contribution for c in wired),
        total_input_invariant_contribution=total,
        description_soft=described.soft,
        description=described.tokens,
        validation=described.validation.passed,
        validation_soft=described.validation.share,
    )
