"""The files that the authors' WeightLens writes: `feature_analysis_layer_N.json`, an array of features.

Output tokens stand there as texts alone, and where a text belongs to no token, or to several, their ids cannot
be known. On import such a text becomes a token of its own with a negative id, so that nothing is guessed and
exporting again gives the same file.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from storage.foreign import MAX_DIGITS, check_path
from storage.store import whole_file

FILE = re.compile(r"feature_analysis_layer_([0-9]{1,4})\.json")

FEATURES_PER_BLOCK = 1024
"""Features whose rows are in memory at once while exporting."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class FeatureKey(_Part):
    layer: int
    feature_idx: int


class Embedding(_Part):
    """Input tokens; only the upper tail has activations."""

    top_positive_tokens: list[str]
    top_negative_tokens: list[str]
    positive_tokens_activation: list[float]
    top_positive_token_ids: list[int]
    top_positive_tokens_contribution: list[float]
    top_negative_tokens_ids: list[int]
    top_negative_tokens_contribution: list[float]
    top_positive_tokens_relative_contribution: list[float]
    top_negative_tokens_relative_contribution: list[float]


class OutputLogits(_Part):
    top_positive_tokens: list[str]
    top_negative_tokens: list[str]


class Contribution(_Part):
    from_layer: int
    from_feature_idx: int
    contribution: float
    relative_contribution: float


class FeatureAnalysis(_Part):
    """One feature as the authors write it; the order of the fields is theirs."""

    feature: FeatureKey
    embedding: Embedding
    output_logits: OutputLogits
    feature_to_feature_contributions: list[Contribution]
    total_input_invariant_detected_contribution: float
    total_input_invariant_contribution: float
    description_soft: list[str] | None
    description: list[str] | None
    validation: bool
    validation_soft: float


ENTRY_CHARACTERS = 2**23
"""So much of a file is in memory at once, or twice as much. An entry may be as long: tens of thousands of edges."""

_BLANK = re.compile(r"[ \t\r\n]*")


def layer_files(folder: Path) -> dict[int, Path]:
    """The files of a folder by layer.

    Raises:
        ValueError: there is none.
    """
    if not check_path(folder).is_dir():
        raise ValueError(f"{folder} is no folder; expected one with feature_analysis_layer_N.json")
    found = {int(match[1]): path for path in folder.glob("*.json") if (match := FILE.fullmatch(path.name))}
    if not found:
        raise ValueError(f"{folder}: no feature_analysis_layer_N.json")
    return dict(sorted(found.items()))


def read_layer(path: Path, layer: int) -> list[FeatureAnalysis]:
    """One file, checked. Memory: its features, and the text of some.

    Raises:
        ValueError: names the file, the entry and what does not fit.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    features = []
    try:
        for entry in array_entries(path):
            features.append(FeatureAnalysis.model_validate(entry))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, (len(features), *first["loc"])))
        raise ValueError(f"{path}: {where[:200]}: {first['msg'][:500]}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no array of features ({str(error)[:200]}, after {len(features)} features)") from None
    seen = set()
    for entry in features:
        where = f"{path}: feature {entry.feature.feature_idx}"
        if entry.feature.layer != layer:
            raise ValueError(f"{where} says layer {entry.feature.layer}, the file's name {layer}")
        if entry.feature.feature_idx in seen:
            raise ValueError(f"{where} is there twice")
        seen.add(entry.feature.feature_idx)
        of = entry.embedding
        for names in (
            ("top_positive_tokens", "top_positive_token_ids", "top_positive_tokens_contribution"),
            ("top_positive_tokens", "positive_tokens_activation"),
            ("top_negative_tokens", "top_negative_tokens_ids", "top_negative_tokens_contribution"),
        ):
            sizes = {name: len(getattr(of, name)) for name in names}
            if len(set(sizes.values())) != 1:
                raise ValueError(f"{where}: lists of unequal length: {sizes}")
    return features


def array_entries(path: Path) -> Iterator[Any]:
    """The entries of a JSON array, one after the other: text that is none is refused before much is made of it."""
    decoder = json.JSONDecoder(parse_int=_bounded_int)
    with path.open(encoding="utf-8-sig") as file:
        text, at, is_first = file.read(ENTRY_CHARACTERS), 0, True
        at = _after(text, at, "[")
        while not text.startswith("]", at):
            at = at if is_first else _after(text, at, ",")
            if len(text) - at < ENTRY_CHARACTERS:
                text, at = text[at:] + file.read(ENTRY_CHARACTERS), 0
            value, at = decoder.raw_decode(text, at)
            yield value
            at, is_first = _after(text, at, ""), False
        if text[at + 1 :].strip() or file.read(1).strip():
            raise ValueError("something after the end of the array")


def _after(text: str, at: int, expected: str) -> int:
    """The place behind a character, which blanks may surround.

    Raises:
        ValueError: another character is there.
    """
    at = _blanks(text, at)
    if not text.startswith(expected, at):
        raise ValueError(f"expected {expected!r}, found {text[at : at + 20]!r}")
    return _blanks(text, at + len(expected))


def _blanks(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


# Export.


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

    def grouped(query: str) -> dict[Any, list[tuple[Any, ...]]]:
        rows = defaultdict(list)
        for feature, *row in connection.execute(query, key).fetchall():
            rows[feature].append(tuple(row))
        return rows

    candidates = grouped("""
        SELECT feature, side, sign, text, token_id, score, activation
        FROM token_candidates JOIN tokens USING (checkpoint_id, token_id)
        WHERE checkpoint_id = ? AND layer = ? AND feature BETWEEN ? AND ? AND source_layer IS NULL
        ORDER BY feature, side, sign, rank""")
    edges = grouped("""
        SELECT target_feature, source_layer, source_feature, virtual_weight FROM feature_edges
        WHERE checkpoint_id = ? AND target_layer = ? AND target_feature BETWEEN ? AND ? AND corpus_id IS NULL
        ORDER BY abs(virtual_weight) DESC, source_layer, source_feature""")
    totals = grouped("""
        SELECT feature, absolute_contribution FROM contribution_totals
        WHERE checkpoint_id = ? AND layer = ? AND feature BETWEEN ? AND ?""")
    words = grouped("""
        SELECT feature, method, tokens FROM descriptions
        WHERE checkpoint_id = ? AND layer = ? AND feature BETWEEN ? AND ? AND method LIKE 'weightlens%'""")
    validations = grouped("""
        SELECT feature, validation, validation_soft FROM sequence_validation
        WHERE checkpoint_id = ? AND layer = ? AND feature BETWEEN ? AND ?""")
    soft = grouped(_SOFT)
    for feature in features:
        lists = {method: tokens for method, tokens in words[feature]}
        description, validation, soft_share = lists.get("weightlens"), False, 0.0
        if validations[feature]:
            description_soft = lists.get("weightlens-soft")
            validation, soft_share = validations[feature][0]
        else:
            ((description_soft, soft_share),) = soft[feature] or [(None, 0.0)]
            description, validation = description and sorted(set(description)), description is not None
        [[total]] = totals[feature]
        yield _entry(
            FeatureKey(layer=layer, feature_idx=feature), candidates[feature], edges[feature], total,
            {"description_soft": description_soft, "description": description,
             "validation": validation, "validation_soft": soft_share},
        )  # fmt: skip


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
"""What upstream features and the feature itself offer, and the share of it that fires the feature alone."""


def _entry(
    feature: FeatureKey,
    candidates: list[tuple[Any, ...]],
    edges: list[tuple[Any, ...]],
    total: float,
    described: dict[str, Any],
) -> FeatureAnalysis:
    def of(side: str, sign: int) -> list[tuple[Any, ...]]:
        return [row[2:] for row in candidates if row[:2] == (side, sign)]

    def relative(rows: list[tuple[Any, ...]]) -> list[float]:
        shares = np.abs(np.array([row[2] for row in rows], np.float32)) / np.float32(total)  # theirs are float32 too
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
            top_positive_tokens=[row[0] for row in up],
            top_negative_tokens=[row[0] for row in down],
            positive_tokens_activation=[row[3] for row in up],
            top_positive_token_ids=[row[1] for row in up],
            top_positive_tokens_contribution=[row[2] for row in up],
            top_negative_tokens_ids=[row[1] for row in down],
            top_negative_tokens_contribution=[row[2] for row in down],
            top_positive_tokens_relative_contribution=relative(up),
            top_negative_tokens_relative_contribution=relative(down),
        ),
        output_logits=OutputLogits(
            top_positive_tokens=[row[0] for row in of("output", 1)],
            top_negative_tokens=[row[0] for row in of("output", -1)],
        ),
        feature_to_feature_contributions=wired,
        total_input_invariant_detected_contribution=sum(relative(up)) + sum(c.relative_contribution for c in wired),
        total_input_invariant_contribution=total,
        **described,
    )


# Import.


class TokenNames:
    """Token ids by text: the vocabulary's, as far as it is unambiguous, and new negative ones for the rest."""

    def __init__(self, vocabulary: Sequence[tuple[int, str]]) -> None:
        self.texts: dict[int, str] = dict(vocabulary)
        self.ids: dict[str, list[int]] = defaultdict(list)
        for token_id, text in vocabulary:
            self.ids[text].append(token_id)
        self.named: dict[tuple[str, int], int] = {}

    def see(self, token_id: int, text: str, where: str) -> None:
        """Take a text that a file gives for an id; decoders differ in blanks and in pieces of characters.

        Raises:
            ValueError: the vocabulary has no such id.
        """
        if token_id not in self.texts:
            raise ValueError(f"{where}: token id {token_id} is not in the vocabulary of {len(self.texts)}")
        if self.texts[token_id] != text:
            self.texts[token_id] = text
            self.ids[text].append(token_id)

    def id_of(self, text: str, occurrence: int) -> int:
        """The id for the `occurrence`-th time (from 0) that a text stands in one list."""
        known = self.ids.get(text, [])
        if len(known) == 1 and occurrence == 0:
            return known[0]
        return self.named.setdefault((text, occurrence), -1 - len(self.named))

    def rows(self) -> Iterator[tuple[int, str]]:
        """All tokens, the new ones too."""
        yield from self.texts.items()
        yield from ((token_id, text) for (text, _), token_id in self.named.items())


def see_tokens(features: Sequence[FeatureAnalysis], names: TokenNames, path: Path) -> None:
    """Take the texts of every id in a layer's file. All layers are seen before any text is looked up."""
    for entry in features:
        of, where = entry.embedding, f"{path}: layer {entry.feature.layer} feature {entry.feature.feature_idx}"
        for ids, texts in (
            (of.top_positive_token_ids, of.top_positive_tokens),
            (of.top_negative_tokens_ids, of.top_negative_tokens),
        ):
            for token_id, text in zip(ids, texts, strict=True):
                names.see(token_id, text, where)


def catalog_rows(features: Sequence[FeatureAnalysis], names: TokenNames) -> dict[str, list[dict[str, Any]]]:
    """The rows of one layer, by table, without the checkpoint."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in features:
        layer, feature = entry.feature.layer, entry.feature.feature_idx
        here = {"layer": layer, "feature": feature}
        rows["token_candidates"] += [{**here, **row} for row in _token_rows(entry, names)]
        rows["feature_edges"] += [
            {
                "source_layer": edge.from_layer,
                "source_feature": edge.from_feature_idx,
                "target_layer": layer,
                "target_feature": feature,
                "virtual_weight": edge.contribution,
            }
            for edge in entry.feature_to_feature_contributions
        ]
        rows["contribution_totals"].append(
            {
                **here,
                "absolute_contribution": entry.total_input_invariant_contribution,
                "detected_share": entry.total_input_invariant_detected_contribution,
            }
        )
        rows["sequence_validation"].append(
            {**here, "validation": entry.validation, "validation_soft": entry.validation_soft}
        )
        for method, tokens in (("weightlens", entry.description), ("weightlens-soft", entry.description_soft)):
            if tokens is not None:
                text = ", ".join(f"‘{token}’" for token in tokens)
                rows["descriptions"].append({**here, "method": method, "text": text, "tokens": tokens})
    return rows


def _token_rows(entry: FeatureAnalysis, names: TokenNames) -> Iterator[dict[str, Any]]:
    of = entry.embedding
    up = zip(of.top_positive_token_ids, of.top_positive_tokens_contribution, of.positive_tokens_activation, strict=True)
    for rank, (token_id, score, activation) in enumerate(up):
        validated = {"activation": activation, "validated": activation > 0}
        yield {"side": "input", "sign": 1, "rank": rank, "token_id": token_id, "score": score, **validated}
    down = zip(of.top_negative_tokens_ids, of.top_negative_tokens_contribution, strict=True)
    for rank, (token_id, score) in enumerate(down):
        yield {"side": "input", "sign": -1, "rank": rank, "token_id": token_id, "score": score}
    outputs = ((1, entry.output_logits.top_positive_tokens), (-1, entry.output_logits.top_negative_tokens))
    for sign, texts in outputs:
        for rank, text in enumerate(texts):
            token_id = names.id_of(text, texts[:rank].count(text))
            yield {"side": "output", "sign": sign, "rank": rank, "token_id": token_id}
