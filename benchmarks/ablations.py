"""What do the parts of the methods do, and how much text do they need?

    python -m benchmarks.ablations STORE [OTHER …] [--features 100] [--tokens 65536] [--json]

STORE is a described store with its model (`circuit-insights run configs/demo.yaml`). Descriptions are made by rule of
`--features` features a layer, drawn at random from those that are active on STORE's held-out text:

- WeightLens without validation (candidates by their scores, and those of upstream features), without propagation
  (direct tokens alone), without grouping (each token named by itself), and with the wiring in use (`weightlens+twera`):
  that with as many tokens as WeightLens has, and beside it as many tokens that fire a feature alone most;
- CircuitLens's input side, with what is promoted, and with its clusters merged; with WeightLens's tokens; and
  `maxact` on the same features. These are drawn among the features that were attributed.

OTHER are stores of the same checkpoint described from other text: a part of the tokens (`corpus.max_tokens`), or text
of another kind (`corpus.source`). Their descriptions are measured on STORE's held-out text too, and compared with its
own: the share of words in common, and clusters a feature.

Measured on every description: `simulation`, the AUROC of the activity that the rule judge expects against where the
feature is active, token by token (0.5: chance); `precision`, the share of the activity expected that is at active
tokens; `recall`, the share of the feature's activation at tokens where activity is expected. Figures are means over the
features that a variant describes; `difference` is that of simulation to the variant's base on the features that both
describe, with half the width of its 95% interval by Student's t.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np

from configs.run import RunConfig
from flows.one_prompt.opened import Opened, last_config, open_named
from interp.descriptions.evidence import WHOLE, Cluster, FeatureEvidence, Method
from interp.descriptions.explaining import TokensExplainer, describe
from interp.descriptions.kinds import Kind
from interp.descriptions.wording import meaning_of
from interp.fade.judge import Text
from interp.fade.rule import RuleJudge
from interp.intervals import t_quantile
from interp.known_answers.following import auroc
from interp.sparse import FeatureTokens
from interp.weightlens.description import Token, word_list
from storage.catalog.published import open_published
from storage.store import Store
from tasks.describe.evidence import EvidenceJob, SampledCorpus, known_features
from tasks.known_answers import Read, read_features, read_text

LEAST_ACTIVE = 20
"""Tokens of the held-out text at which a feature is active that is measured."""

Feature = tuple[int, int]
"""Layer and number."""

Described = dict[Feature, str]
"""What a variant says."""


class Corpus(NamedTuple):
    """What a store's last run read."""

    corpus_id: str
    corpora: tuple[str, ...]

    @staticmethod
    def of(connection: duckdb.DuckDBPyConnection) -> "Corpus":
        query = """SELECT corpus_id, any_value(corpora) FROM runs JOIN corpora USING (corpus_id)
                   GROUP BY corpus_id ORDER BY max(started_at) DESC LIMIT 1"""
        row = connection.execute(query).fetchone()
        if row is None:
            raise ValueError("the catalog holds no corpus; run the pipeline first")
        return Corpus(row[0], tuple(row[1] or [row[0]]))


class Measured(NamedTuple):
    """One description on held-out text."""

    simulation: float
    precision: float
    recall: float


class Measure:
    """Measures descriptions on held-out text."""

    def __init__(self, read: Read, active: Mapping[Feature, FeatureTokens]) -> None:
        texts, bounds = read.stream.texts(), np.flatnonzero(read.stream.starts).tolist()
        ends = [*bounds[1:], len(texts)]
        self._texts = [Text(tuple(texts[start:stop])) for start, stop in zip(bounds, ends, strict=True)]
        self._judge, self._counted, self._active = RuleJudge(), read.counted, active
        self._expected: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, feature: Feature, text: str) -> Measured:
        if text not in self._expected:
            expected = np.concatenate(self._judge.simulate(text, self._texts)) * self._counted
            self._expected[text] = np.flatnonzero(expected), expected[expected > 0].astype(np.float32)
        token, expected = self._expected[text]
        own = self._active[feature]
        value = np.zeros(len(self._counted), np.float32)
        value[own.token] = own.value
        is_active = (value > 0).astype(np.float32)
        area = auroc(token, expected, is_active, self._counted)
        precision = float(expected @ is_active[token]) / max(float(expected.sum()), 1e-9)
        return Measured(area, precision, float(value[token].sum() / value.sum()))


def weightlens_variants(
    connection: duckdb.DuckDBPyConnection, config: RunConfig, features: Sequence[Feature]
) -> dict[str, Described]:
    """WeightLens's descriptions, and those with a part left out."""
    query = """SELECT layer, feature, text, activation, score, validated, source_layer IS NULL
               FROM token_candidates JOIN tokens USING (checkpoint_id, token_id)
               WHERE side = 'input' AND sign = 1 ORDER BY layer, feature, rank"""
    direct: dict[Feature, list[str]] = defaultdict(list)
    valid: dict[Feature, list[tuple[float, str]]] = defaultdict(list)
    own: dict[Feature, list[tuple[float, str]]] = defaultdict(list)
    for layer, feature, text, activation, _, validated, is_direct in connection.execute(query).fetchall():
        if is_direct:
            direct[layer, feature].append(text)
        if validated:
            valid[layer, feature].append((-activation, text))
            own[layer, feature] += [(-activation, text)] if is_direct else []
    unchecked = _propagated_unchecked(connection, direct, config.wording.max_words)
    wording = config.wording
    strongest = {at: [text for _, text in sorted(valid[at])] for at in features if at in valid}
    alone = {at: [text for _, text in sorted(own[at])] for at in features if own.get(at)}
    return {
        "weightlens": {at: _worded(tokens, config) for at, tokens in strongest.items()},
        "without validation": {at: _worded(unchecked[at], config) for at in features if unchecked.get(at)},
        "without propagation": {at: _worded(tokens, config) for at, tokens in alone.items()},
        "without grouping": {
            at: ", ".join(word_list([Token(text)], wording) for text in tokens[: wording.max_words])
            for at, tokens in strongest.items()
        },
    }


def use_variants(
    connection: duckdb.DuckDBPyConnection,
    opened: Opened,
    config: RunConfig,
    corpus: Corpus,
    features: Sequence[Feature],
) -> dict[str, Described]:
    """Descriptions along the wiring in use; the same with as many tokens as WeightLens has; and as many of the tokens
    that fire the feature alone most, whatever weights say."""
    described = _of(said(connection, corpus).get("weightlens+twera", {}), features)
    query = """SELECT layer, feature, list(text ORDER BY activation DESC, token_id) FROM (
                   SELECT layer, feature, token_id, activation FROM token_candidates
                   WHERE side = 'input' AND validated AND source_layer IS NULL
                   UNION ALL SELECT layer, feature, token_id, activation FROM inherited_tokens WHERE corpus_id = ?)
               JOIN tokens USING (token_id) GROUP BY ALL"""
    tokens = {
        (layer, feature): many for layer, feature, many in connection.execute(query, [corpus.corpus_id]).fetchall()
    }
    query = """SELECT layer, feature, count(*) FROM token_candidates WHERE side = 'input' AND validated GROUP BY ALL"""
    n = {(layer, feature): many for layer, feature, many in connection.execute(query).fetchall()}
    few = {at: _worded(tokens[at][: n[at]], config) for at in described if at in n}
    alone: Described = {}
    for layer, feature in described:
        fired = opened.checkpoint.single_token(layer, feature, feature + 1)
        most = min(config.describe.evidence.n_tokens, len(tokens[layer, feature]))
        order = np.argsort(-fired.value, kind="stable")[:most]
        alone[layer, feature] = _worded([opened.texts[token] for token in fired.token[order].tolist()], config)
    return {
        "weightlens+twera": described,
        "weightlens+twera, as many tokens as weightlens": few,
        "strongest alone, as many tokens as weightlens+twera": alone,
    }


def _worded(tokens: Sequence[str], config: RunConfig) -> str:
    return word_list([Token(text) for text in tokens], config.wording)


def _propagated_unchecked(
    connection: duckdb.DuckDBPyConnection, direct: Mapping[Feature, list[str]], most: int
) -> dict[Feature, list[str]]:
    """Candidates by their scores, then those of upstream features, the strongest edges first; nothing is checked. No
    more than can be named are handed on."""
    query = """SELECT target_layer, target_feature, source_layer, source_feature FROM feature_edges
               WHERE corpus_id IS NULL ORDER BY target_layer, target_feature, virtual_weight DESC"""
    found = {at: list(dict.fromkeys(tokens))[: 4 * most] for at, tokens in direct.items()}
    for layer, feature, source_layer, source in connection.execute(query).fetchall():
        mine = found.setdefault((layer, feature), [])
        room = 4 * most - len(mine)
        mine += [text for text in found.get((source_layer, source), []) if text not in mine][:room]
    return found


def circuit_variants(
    store: Store, connection: duckdb.DuckDBPyConnection, corpus: Corpus, config: RunConfig, features: Sequence[Feature]
) -> dict[str, Described]:
    """Descriptions from samples, and those of attributed ones with clusters merged."""
    checkpoint_id = connection.execute("SELECT DISTINCT checkpoint_id FROM samples").fetchone()
    assert checkpoint_id is not None
    explainer = TokensExplainer(config.describe.rule, config.wording)
    found: dict[str, Described] = defaultdict(dict)
    for layer in sorted({at for at, _ in features}):
        evidence = EvidenceJob(checkpoint_id[0], SampledCorpus(*corpus), layer, config.describe.evidence)
        mine = [feature for at, feature in features if at == layer]
        for feature, known in known_features(store, connection, evidence, mine):
            for name, method, shown in _variants(known, config.describe.evidence.n_examples):
                for one in describe(method, shown, explainer):
                    if one.cluster == WHOLE:
                        found[name][layer, feature] = one.text
    return found


def _variants(known: FeatureEvidence, n_examples: int) -> Iterator[tuple[str, Method, FeatureEvidence]]:
    """Name, method and evidence of each variant that a feature has something for."""
    yield "maxact", "maxact", known
    yield "maxact*", "maxact*", known
    if known.clusters:
        together = sorted(
            (example for cluster in known.clusters for example in cluster.examples), key=lambda one: -one.activation
        )
        one = Cluster(0, 1.0, tuple(together[:n_examples]))
        yield "circuitlens-input", "circuitlens-input", known
        yield "clusters merged", "circuitlens-input", replace(known, clusters=(one,))
        yield "circuitlens-full", "circuitlens-full", known
        yield "wl+cl", "wl+cl", known


def said(connection: duckdb.DuckDBPyConnection, corpus: Corpus) -> dict[str, Described]:
    """What a catalog has, by method."""
    query = """SELECT method, layer, feature, text FROM descriptions
               WHERE explainer = 'tokens' AND cluster = -1 AND corpus_id = ?"""
    found: dict[str, Described] = defaultdict(dict)
    for method, layer, feature, text in connection.execute(query, [corpus.corpus_id]).fetchall():
        found[method][layer, feature] = text
    return found


def n_clusters(connection: duckdb.DuckDBPyConnection, corpus: Corpus) -> dict[Feature, int]:
    """Clusters of every attributed feature."""
    query = """SELECT layer, feature, count(*) FILTER (cluster >= 0) FROM clusters WHERE corpus_id = ? GROUP BY ALL"""
    rows = connection.execute(query, [corpus.corpus_id]).fetchall()
    return {(layer, feature): n for layer, feature, n in rows}


def row(name: str, described: Described, base: tuple[str, Described] | None, measure: Measure) -> dict[str, object]:
    """The figures of one variant."""
    own = {at: measure(at, text) for at, text in described.items()}
    means = {name: _mean([one[i] for one in own.values()]) for i, name in enumerate(Measured._fields)}
    found: dict[str, object] = {"variant": name, "features": len(own), **means}
    if base is not None:
        both = [at for at in own if at in base[1]]
        drops = np.array([own[at].simulation - measure(at, base[1][at]).simulation for at in both])
        reach = (
            float(t_quantile(len(drops) - 1.0)) * drops.std(ddof=1) / np.sqrt(len(drops)) if len(drops) > 1 else None
        )
        found |= {"base": base[0], "paired": len(both), "difference": _mean(drops)}
        found["reach"] = None if reach is None else round(float(reach), 3)
        found["words_in_common"] = _mean([_in_common(described[at], base[1][at]) for at in both])
    return found


def _in_common(one: str, other: str) -> float:
    first, second = (
        {_name(word) for part in meaning_of(text).mechanisms for word in part.words} for text in (one, other)
    )
    return len(first & second) / max(1, len(first | second))


def _name(word: str | Kind) -> str:
    return (word if isinstance(word, str) else word.name).casefold()


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    return round(float(np.mean(values)), 3) if len(values) else None


BASES = {
    "without validation": "weightlens", "without propagation": "weightlens", "without grouping": "weightlens",
    "weightlens+twera": "weightlens", "weightlens+twera, as many tokens as weightlens": "weightlens",
    "strongest alone, as many tokens as weightlens+twera": "weightlens+twera",
    "maxact*": "maxact", "circuitlens-input": "maxact", "clusters merged": "circuitlens-input",
    "circuitlens-full": "circuitlens-input", "wl+cl": "circuitlens-input",
}  # fmt: skip
"""What each variant is compared with."""


def measured(arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """All rows."""
    stores = [Store(path) for path in (arguments.store, *arguments.others)]
    opened, config = open_named(arguments.store, None), last_config(arguments.store, None)
    with open_published(stores[0].catalog) as connection:
        corpus = Corpus.of(connection)
        attributed = set(n_clusters(connection, corpus))
    read = read_text(stores[0], corpus.corpora, opened.folder.path, opened.texts, arguments.tokens, config.activations)
    checkpoint, active = opened.checkpoint, dict[Feature, FeatureTokens]()
    layers = checkpoint.layers
    drawn: list[Feature] = []
    attributed_drawn: list[Feature] = []
    for layer, found in read_features(checkpoint, opened.folder.path, read, layers, opened.device):
        often = np.flatnonzero(np.diff(found.indptr) >= LEAST_ACTIVE)
        order = np.random.default_rng(layer).permutation(often).tolist()
        drawn += [(layer, feature) for feature in order[: arguments.features]]
        chosen = [feature for feature in order if (layer, feature) in attributed][: arguments.features]
        attributed_drawn += [(layer, feature) for feature in chosen]
        for feature in {*order[: arguments.features], *chosen}:
            active[layer, feature] = found.features(feature, feature + 1)
    measure = Measure(read, active)
    with open_published(stores[0].catalog) as connection:
        variants = weightlens_variants(connection, config, drawn)
        own = said(connection, corpus)
        variants |= use_variants(connection, opened, config, corpus, drawn)
        circuits = circuit_variants(stores[0], connection, corpus, config, attributed_drawn)
        clusters = n_clusters(connection, corpus)
    for name, described in {**variants, **circuits}.items():
        base = BASES.get(name)
        known = {**variants, **circuits}
        yield {"store": arguments.store.name, **row(name, described, (base, known[base]) if base else None, measure)}
    for other in stores[1:]:
        with open_published(other.catalog) as connection:
            read_there = Corpus.of(connection)
            there, clusters_there = said(connection, read_there), n_clusters(connection, read_there)
        for method, described in sorted(there.items()):
            chosen = _of(described, attributed_drawn if method in circuits else drawn)
            base = method, _of(own.get(method, {}), list(active))
            yield {"store": other.root.name, **row(method, chosen, base, measure)}
        both = [at for at in clusters if at in clusters_there]
        figures = {"features": len(both), "clusters": _mean([clusters[at] for at in both])}
        figures |= {"clusters_there": _mean([clusters_there[at] for at in both])}
        figures |= {"as_many": _mean([clusters[at] == clusters_there[at] for at in both])}
        yield {"store": other.root.name, "variant": "clusters a feature", **figures}


def _of(described: Described, features: Sequence[Feature]) -> Described:
    return {at: described[at] for at in features if at in described}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("others", type=Path, nargs="*", help="of the same checkpoint, described from other text")
    parser.add_argument("--features", type=int, default=100, help="a layer")
    parser.add_argument("--tokens", type=int, default=65_536, help="of held-out text, at most")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    for found in measured(arguments):
        print(json.dumps({"benchmark": "ablations", **found}) if arguments.json else found, flush=True)


if __name__ == "__main__":
    main()
