"""Test descriptions against known answers: find features that follow a concept which a program decides, and whether
their descriptions select it. Reads a store and writes nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import duckdb
import numpy as np

from flows.one_prompt.opened import Opened
from interp.activations.settings import ActivationSettings
from interp.fade.judge import Text
from interp.known_answers import contexts, words
from interp.known_answers.claims import (
    BASELINE,
    Confusion,
    MethodFigures,
    Reader,
    Tried,
    confusions,
    figures,
)
from interp.known_answers.following import LEAST_PRECISION, Follower, Halves, Labels, followers, label, share_on
from interp.known_answers.sources import (
    DistanceFigures,
    NamedDistance,
    distance_figures,
    halves_of,
    is_common,
    predicted,
)
from interp.sparse import FeatureTokens
from storage.catalog.published import open_published
from tasks.known_answers import Read, read_features, read_text

CONCEPTS = (*words.CONCEPTS, *contexts.CONCEPTS)


class Sizes(NamedTuple):
    """How much is read and tested."""

    n_tokens: int = 65_536
    """Largest number of tokens of text."""
    n_claims: int = 500
    """For each method, the number of descriptions of random features that are tested."""
    seed: int = 0
    """Seed of their draw."""


class Said(NamedTuple):
    """One description in the catalog."""

    layer: int
    feature: int
    text: str


class Misread(NamedTuple):
    """A feature with known meaning whose description selects something else."""

    layer: int
    feature: int
    concept: str
    taken_for: str
    recall: float
    precision: float
    text: str


@dataclass
class KnownAnswers:
    """Results of the benchmark."""

    n_tokens: int
    is_held_out: bool
    concepts: tuple[str, ...]
    """Concepts that are frequent enough in the text."""
    n_features: int
    """Number of features that were active on it."""
    known: list[Follower]
    methods: list[MethodFigures] = field(default_factory=list)
    confusions: list[Confusion] = field(default_factory=list)
    misread: dict[str, list[Misread]] = field(default_factory=dict)
    """Misread descriptions, by method."""
    distances: DistanceFigures = field(default_factory=lambda: distance_figures([]))


@dataclass(frozen=True)
class _Catalog:
    """The catalog's data about a checkpoint."""

    corpora: tuple[str, ...]
    said: dict[str, list[Said]]
    """Descriptions of whole features, by method."""
    distances: list[NamedDistance]


def known_answers(opened: Opened, settings: ActivationSettings, sizes: Sizes) -> KnownAnswers:
    """Find the features with known meaning on one half of held-out text, and test their descriptions on the other.

    Raises:
        ValueError: the catalog has no corpus or no descriptions of the checkpoint. If there are several corpora, that
            of the last run is read.
    """
    checkpoint, path = opened.checkpoint, opened.folder.path
    with open_published(opened.store.catalog) as connection:
        catalog = _catalog(connection, checkpoint.checkpoint_id)
    read = read_text(opened.store, catalog.corpora, path, opened.texts, sizes.n_tokens, settings)
    halves = halves_of(read.documents, read.counted)
    labels = label(read.stream, halves, CONCEPTS)
    drawn = _drawn(catalog.said, sizes)
    known: list[Follower] = []
    on_concepts: dict[tuple[int, int], np.ndarray] = {}
    by_distance: list[tuple[float, list[float]]] = []
    n_active = 0
    wanted = {(one.layer, one.feature) for many in drawn.values() for one in many}
    for layer, active in read_features(checkpoint, path, read, checkpoint.layers, opened.device):
        n_active += int((np.diff(active.indptr) > 0).sum())
        known += followers(layer, active, labels, halves)
        here = [feature for at, feature in wanted if at == layer]
        on_concepts |= {(layer, feature): _on_concepts(active, feature, labels, halves) for feature in here}
        by_distance += _by_distance(read, layer, active, halves, catalog.distances)
    found = KnownAnswers(int(read.counted.sum()), read.is_held_out, labels.names, n_active, known)
    found.distances = distance_figures(by_distance)
    reader = _reader(read, halves, labels)
    _try(found, catalog.said, reader)
    _add_figures(found, catalog.said, reader, _claims(drawn, reader, on_concepts))
    return found


def _catalog(connection: duckdb.DuckDBPyConnection, checkpoint_id: str) -> _Catalog:
    query = """SELECT corpus_id, any_value(corpora) FROM runs JOIN corpora USING (corpus_id)
               WHERE checkpoint_id = ? GROUP BY corpus_id ORDER BY max(started_at) DESC LIMIT 1"""
    row = connection.execute(query, [checkpoint_id]).fetchone()
    if row is None:
        raise ValueError(f"checkpoint {checkpoint_id} has not been run on a corpus; run activations and describe first")
    query = """SELECT CASE explainer WHEN 'tokens' THEN method ELSE method || ' by ' || explainer END AS name,
                      layer, feature, text
               FROM descriptions WHERE checkpoint_id = ? AND cluster = -1 AND (corpus_id = ? OR corpus_id IS NULL)
               ORDER BY name, layer, feature"""
    said: dict[str, list[Said]] = {}
    for name, *one in connection.execute(query, [checkpoint_id, row[0]]).fetchall():
        said.setdefault(name, []).append(Said(*one))
    if not said:
        raise ValueError(f"checkpoint {checkpoint_id} has no descriptions; run weightlens or describe first")
    query = """SELECT DISTINCT layer, feature, -CAST(regexp_extract(one, '−(\\d+)$', 1) AS INTEGER) AS distance
               FROM (SELECT layer, feature, unnest(signature) AS one FROM clusters
                     WHERE checkpoint_id = ? AND corpus_id = ?)
               WHERE regexp_matches(one, ' H\\d+ −\\d+$') ORDER BY ALL"""
    distances = [NamedDistance(*one) for one in connection.execute(query, [checkpoint_id, row[0]]).fetchall()]
    return _Catalog(tuple(row[1] or [row[0]]), said, distances)


def _drawn(said: dict[str, list[Said]], sizes: Sizes) -> dict[str, list[Said]]:
    """Some descriptions of each method, of any features."""
    rng = np.random.default_rng(sizes.seed)
    return {name: [many[at] for at in rng.permutation(len(many))[: sizes.n_claims]] for name, many in said.items()}


def _on_concepts(active: FeatureTokens, feature: int, labels: Labels, halves: Halves) -> np.ndarray:
    """The share of a feature's activation on each concept's tokens, on the half where descriptions are tested."""
    own = active.features(feature, feature + 1)
    tested = halves.test[own.token]
    token, value = own.token[tested].astype(np.int64), own.value[tested]
    return np.array([share_on(token, value, mask) for mask in labels.masks.T])


def _by_distance(
    read: Read, layer: int, active: FeatureTokens, halves: Halves, named: Sequence[NamedDistance]
) -> Iterator[tuple[float, list[float]]]:
    """AUROC of the token at each distance named for a feature of a layer, and at those named only for others."""
    distances = sorted({one.distance for one in named})
    for feature in sorted({one.feature for one in named if one.layer == layer}):
        token = active.features(feature, feature + 1).token.astype(np.int64)
        own = {one.distance for one in named if (one.layer, one.feature) == (layer, feature)}
        others = [distance for distance in distances if distance not in own]
        if others and is_common(token, halves):
            rest = [predicted(read.stream, token, halves, distance) for distance in others]
            for distance in sorted(own):
                yield predicted(read.stream, token, halves, distance), rest


def _reader(read: Read, halves: Halves, labels: Labels) -> Reader:
    """Descriptions applied to the test documents; each document's part of a row is a text."""
    tested = read.documents % 2 == 1
    tokens = [text for text, is_tested in zip(read.stream.texts(), tested.tolist(), strict=True) if is_tested]
    bounds = np.flatnonzero(read.stream.starts[tested]).tolist()
    texts = [Text(tuple(tokens[start:stop])) for start, stop in zip(bounds, [*bounds[1:], len(tokens)], strict=True)]
    return Reader(texts, halves.test[tested], labels.masks[halves.test])


def _claims(
    drawn: dict[str, list[Said]], reader: Reader, on_concepts: dict[tuple[int, int], np.ndarray]
) -> dict[str, list[bool]]:
    """For each method's descriptions that select a concept, whether the concept is true of the feature."""
    found: dict[str, list[bool]] = {}
    for name, many in drawn.items():
        said = [(one, reader.select(one.text).best) for one in many]
        found[name] = [
            bool(on_concepts[one.layer, one.feature][best] >= LEAST_PRECISION) for one, best in said if best is not None
        ]
    return found


def _try(found: KnownAnswers, said: dict[str, list[Said]], reader: Reader) -> None:
    """List the wrong descriptions of features with known meaning."""
    for name in said:
        wrong = [one for one in _tried(found, said[name], reader) if not one.is_right]
        misread = [_misread(found, one) for one in wrong]
        found.confusions += confusions(name, [(one.concept, one.taken_for) for one in misread])
        found.misread[name] = misread


def _misread(found: KnownAnswers, one: Tried) -> Misread:
    recall, precision = (float(figure[one.concept]) for figure in one.selection)
    taken_for = one.selection.taken_for(one.concept, found.concepts)
    return Misread(*one.feature, found.concepts[one.concept], taken_for, recall, precision, one.text)


def _tried(found: KnownAnswers, said: Sequence[Said], reader: Reader) -> list[Tried]:
    texts = {(one.layer, one.feature): one.text for one in said}
    place = {name: at for at, name in enumerate(found.concepts)}
    return [
        Tried(feature, place[one.concept], reader.select(texts[feature]), texts[feature])
        for one in found.known
        if (feature := (one.layer, one.feature)) in texts
    ]


def _add_figures(
    found: KnownAnswers, said: dict[str, list[Said]], reader: Reader, claims: dict[str, list[bool]]
) -> None:
    baseline = _tried(found, said.get(BASELINE, []), reader)
    found.methods = [figures(name, _tried(found, said[name], reader), baseline, claims[name]) for name in said]
