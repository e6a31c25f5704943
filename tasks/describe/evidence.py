"""The evidence for descriptions, read from the catalog."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import duckdb
import numpy as np

from interp.circuitlens.input_patterns import strongest_sources
from interp.descriptions.evidence import JOINED, ActivationExample, Cluster, FeatureEvidence, described
from interp.descriptions.settings import EvidenceSettings
from interp.descriptions.window import text_around
from storage.checkpoints import open_checkpoint
from storage.corpora.rows import numbered, read_numbered_documents, read_numbered_rows
from storage.samples import sample_ids
from storage.store import Store
from tasks.describe.base_rates import corpus_base_rates
from tasks.ingest import tokens_part
from tasks.weightlens.propagate import read_vocabulary

FEATURES_AT_ONCE = 128
"""Features whose samples are in memory together."""


_AMONG = "feature BETWEEN ? AND ? AND feature IN (SELECT unnest(?))"


class SampledCorpus(NamedTuple):
    """The corpora from which the samples were drawn, one after the other."""

    corpus_id: str
    """The corpus id in the tables."""
    corpora: tuple[str, ...]


class EvidenceJob(NamedTuple):
    """The features whose evidence is gathered, and how much of it."""

    checkpoint_id: str
    sampled_corpus: SampledCorpus | None
    """None: no samples are used."""
    layer: int
    settings: EvidenceSettings


class _Sample(NamedTuple):
    feature: int
    sample: int
    sequence: int
    position: int
    activation: float
    quantile_bin: int | None
    cluster: int | None


def known_features(
    store: Store, connection: duckdb.DuckDBPyConnection, job: EvidenceJob, features: Sequence[int]
) -> Iterator[tuple[int, FeatureEvidence]]:
    """The catalog's evidence for some features, one by one.

    Memory: the samples of `FEATURES_AT_ONCE` features, their contributors, and the rows of the corpus with these
    samples.
    """
    for start in range(0, len(features), FEATURES_AT_ONCE):
        block = list(features[start : start + FEATURES_AT_ONCE])
        key: list[object] = [job.checkpoint_id, job.layer, min(block), max(block), block]
        reads = _tokens(connection, "side = 'input' AND validated", "activation DESC, token_id", key, job.settings)
        promotes = _tokens(connection, "side = 'output' AND sign = 1", "rank", key, job.settings)
        samples = None if job.sampled_corpus is None else _Examples(store, connection, job, job.sampled_corpus, key)
        for feature in block:
            weights = FeatureEvidence(tuple(reads[feature]), tuple(promotes[feature]))
            yield feature, weights if samples is None else samples.add_to(weights, feature)


def _tokens(
    connection: duckdb.DuckDBPyConnection, which: str, order: str, key: list[object], settings: EvidenceSettings
) -> dict[int, list[str]]:
    query = f"""
        SELECT feature, t.text FROM token_candidates c JOIN tokens t USING (checkpoint_id, token_id)
        WHERE checkpoint_id = ? AND layer = ? AND {_AMONG} AND {which}
        QUALIFY row_number() OVER (PARTITION BY feature ORDER BY {order}) <= ?
        ORDER BY feature, {order}"""
    found = defaultdict(list)
    for feature, text in connection.execute(query, [*key, settings.n_tokens]).fetchall():
        found[feature].append(text)
    return found


class _Examples:
    """The samples of some features, with the text around them and their causes."""

    def __init__(
        self,
        store: Store,
        connection: duckdb.DuckDBPyConnection,
        job: EvidenceJob,
        sampled_corpus: SampledCorpus,
        key: list[object],
    ) -> None:
        self._settings = settings = job.settings
        key = [key[0], sampled_corpus.corpus_id, *key[1:]]
        here = f"checkpoint_id = ? AND corpus_id = ? AND layer = ? AND {_AMONG}"
        query = f"""SELECT feature, sample, sequence, position, activation, quantile_bin, cluster FROM samples
                    WHERE {here} ORDER BY feature, activation DESC, sequence, position"""
        self._samples: dict[int, list[_Sample]] = defaultdict(list)
        for row in connection.execute(query, key).fetchall():
            self._samples[row[0]].append(_Sample(*row))
        self._causes = _Causes(connection, here, key, settings)
        self._effects = _effects(connection, here, key, settings)
        self._unstable = _unstable(connection, here, key, settings)
        self._bos = open_checkpoint(store, job.checkpoint_id).bos
        self._vocabulary = read_vocabulary(tokens_part(store, job.checkpoint_id))
        sequences = np.array([one.sequence for many in self._samples.values() for one in many], np.int64)
        corpora = numbered(store, sampled_corpus.corpora)
        self._rows = read_numbered_rows(store, corpora, sequences)
        self._documents = read_numbered_documents(store, corpora, sequences)
        shown = settings.before, settings.after
        self._base = corpus_base_rates(store, job.checkpoint_id, sampled_corpus.corpora, shown)

    def add_to(self, known: FeatureEvidence, feature: int) -> FeatureEvidence:
        """The evidence for a feature with its samples added."""
        samples, n = self._samples[feature], self._settings.n_examples
        quantile = [one for one in samples if one.quantile_bin is not None]
        places = sorted({round(at) for at in np.linspace(0, len(quantile) - 1, n)}) if quantile else []
        return FeatureEvidence(
            known.reads,
            known.promotes,
            top=tuple(self._example(one, None) for one in samples[:n]),
            spread=tuple(self._example(quantile[at], None) for at in places),
            clusters=tuple(self._clusters(feature, quantile)),
            effects=tuple(self._effects[feature]),
            base=self._base,
        )

    def _clusters(self, feature: int, quantile: Sequence[_Sample]) -> Iterator[Cluster]:
        """The clusters that are described, the largest first, each with its strongest samples."""
        members: dict[int, list[_Sample]] = defaultdict(list)
        for one in quantile:
            if one.cluster is not None:
                members[JOINED if (feature, one.cluster) in self._unstable else one.cluster].append(one)
        n_attributed = sum(map(len, members.values()))
        for number in described({number: len(many) for number, many in members.items()}, self._settings.n_clusters):
            chosen = members[number][: self._settings.n_examples]
            examples = tuple(self._example(one, self._causes.of(feature, one.sample)) for one in chosen)
            yield Cluster(number, len(members[number]) / n_attributed, examples)

    def _example(self, one: _Sample, causes: list[int] | None) -> ActivationExample:
        """A sample with the text of its document around it."""
        row, documents = self._rows[one.sequence], self._documents[one.sequence]
        sides = self._settings.before, self._settings.after
        first, last = text_around(row, documents, one.position, sides, self._bos)
        tokens = tuple(self._vocabulary[token].text for token in row[first:last].tolist())
        shown = None if causes is None else tuple(at - first for at in causes if first <= at < one.position)
        return ActivationExample(tokens, one.position - first, one.activation, shown, int(documents[one.position]))


class _Causes:
    """The positions that caused attributed samples."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, here: str, key: list[object], settings: EvidenceSettings
    ) -> None:
        self._settings = settings
        query = f"""SELECT feature, sample, kind, source_position, score FROM contributions
                    WHERE {here} AND kind IN ('head', 'token') AND source_position IS NOT NULL
                    ORDER BY feature, sample"""
        found = connection.execute(query, key).fetchnumpy()
        self._ids = sample_ids(found["feature"].astype(np.int64), found["sample"].astype(np.int64))
        self._kind, self._score = np.asarray(found["kind"], object), np.asarray(found["score"], np.float64)
        self._source = np.asarray(found["source_position"], np.int64)

    def of(self, feature: int, sample: int) -> list[int]:
        """The causes of one sample, the strongest first."""
        wanted = (feature << 32) + sample
        own = slice(*np.searchsorted(self._ids, [wanted, wanted + 1]).tolist())
        return strongest_sources(
            self._kind[own].tolist(),
            self._source[own],
            self._score[own],
            min_share=self._settings.min_cause_share,
            most=self._settings.n_causes,
        )


def _effects(
    connection: duckdb.DuckDBPyConnection, here: str, key: list[object], settings: EvidenceSettings
) -> dict[int, list[str]]:
    query = f"""
        SELECT feature, t.text FROM logit_effects e JOIN tokens t USING (checkpoint_id, token_id)
        WHERE {here} AND sample = -1 AND position = 0 AND effect > 0
        QUALIFY row_number() OVER (PARTITION BY feature ORDER BY effect DESC, token_id) <= ?
        ORDER BY feature, effect DESC, token_id"""
    found = defaultdict(list)
    for feature, text in connection.execute(query, [*key, settings.n_tokens]).fetchall():
        found[feature].append(text)
    return found


def _unstable(
    connection: duckdb.DuckDBPyConnection, here: str, key: list[object], settings: EvidenceSettings
) -> set[tuple[int, int]]:
    """(feature, cluster) of clusters that resampling does not reproduce."""
    query = f"SELECT feature, cluster FROM clusters WHERE {here} AND stability < ?"
    return {
        (feature, cluster) for feature, cluster in connection.execute(query, [*key, settings.min_stability]).fetchall()
    }
