"""Do clusters separate causes, and would they come out of other samples too?

    python -m benchmarks.clusters STORE [--layers 1 2 3] [--pairs 40] [--settings clustering=dbscan …] [--json]

On the attributed samples of a store's catalog (the newest checkpoint that has some), for each layer and each of
`--settings` (`clustering=dbscan,eps=0.5`; the defaults are always measured):

- `two`, `three`: samples of two (three) features of the layer, equally many, mixed and clustered as if they were one
  feature's; adjusted Rand index with which feature a sample is of;
- `learned`: how well the two features of a mixture are told apart by a linear classifier that has seen as many other
  samples of both, with their names; from the vectors that the default clusters. What clustering, which is told nothing,
  can hardly pass;
- `halves`: two halves of one feature's samples, clustered together; the same index, which should be 0: one feature's
  samples differ no more between halves than within;
- `stability`: 60% of a feature's samples clustered alone against their clusters among all; adjusted Rand index;
  `stability_of_several`: the same of features with more than one cluster by all their samples, where it is not easy;
- `noise`: share of samples in no cluster; `clusters`: clusters a feature; `one`: share of features with one alone.

Token profiles are without the features that are mixed. Noise counts as a cluster for each sample. A mixture's index has
a ceiling below 1, since a feature may have several causes itself and two features one in common. Figures are means over
features or mixtures; `two_reach` is how far the 95% interval of that mean reaches to each side. Draws are seeded by the
layer.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from jaxtyping import Int64
from pydantic import TypeAdapter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from interp.circuitlens.clusters import clustered
from interp.circuitlens.contributors import Contributors
from interp.circuitlens.cuts import of_tokens_alone, source_vectors
from interp.circuitlens.kinds import KINDS, TOKEN
from interp.circuitlens.settings import CircuitLensSettings
from interp.circuitlens.token_profiles import TokenProfiles
from interp.intervals import t_quantile
from storage.checkpoints import open_checkpoint
from storage.store import Store
from tasks.circuitlens.token_profiles import read_token_profiles

MIXED = {2: 20, 3: 14}
"""Samples of each feature in a mixture of two and of three."""

LOOSE = 30.0
"""Inverse strength of the classifier's regularisation, for vectors of length 1."""

RESAMPLED = 0.6
"""Of a feature's samples, those that are clustered alone."""

SAMPLES = """
    SELECT feature, sample, position FROM samples
    WHERE checkpoint_id = ? AND corpus_id = ? AND layer = ? AND cluster IS NOT NULL ORDER BY feature, sample"""

CONTRIBUTIONS = """
    SELECT feature, sample, kind, coalesce(source_layer, -1) AS layer, coalesce(source_index, -1) AS unit,
           coalesce(source_position, -1) AS position, score, share
    FROM contributions WHERE checkpoint_id = ? AND corpus_id = ? AND layer = ? ORDER BY feature, sample"""


class Layer(NamedTuple):
    """The attributed samples of a layer's features."""

    feature: Int64[np.ndarray, " n"]
    position: Int64[np.ndarray, " n"]
    contributors: Contributors
    """`target` counts the samples."""
    profiles: TokenProfiles | None
    """Of the contributing tokens, in the lowest layer."""

    def members(self, least: int) -> dict[int, Int64[np.ndarray, " m"]]:
        """Of features with so many samples at least, where they are."""
        features, counts = np.unique(self.feature, return_counts=True)
        return {int(feature): np.flatnonzero(self.feature == feature) for feature in features[counts >= least]}

    def some(self, index: Int64[np.ndarray, " m"]) -> tuple[Contributors, Int64[np.ndarray, " m"]]:
        """The contributors of some samples, counted anew, and their positions."""
        place = np.full(len(self.feature), -1)
        place[index] = np.arange(len(index))
        own = place[self.contributors.target] >= 0
        kept = Contributors(*(column[own] for column in self.contributors))
        return Contributors.joined([kept._replace(target=place[kept.target])]), self.position[index]


def read_layers(store: Path, layers: list[int] | None) -> Iterator[tuple[int, Layer]]:
    """The attributed samples of the store's newest attributed checkpoint."""
    with duckdb.connect(store / "catalog.duckdb", read_only=True) as connection:
        newest = "SELECT checkpoint_id, corpus_id FROM contributions JOIN checkpoints USING (checkpoint_id)"
        subject = connection.execute(f"{newest} ORDER BY ingested_at DESC LIMIT 1").fetchone()
        if subject is None:
            raise ValueError(f"{store}: no attributed samples; has `circuit-insights circuitlens` run?")
        query = "SELECT DISTINCT layer FROM contributions WHERE checkpoint_id = ? AND corpus_id = ? ORDER BY 1"
        known = [layer for (layer,) in connection.execute(query, subject).fetchall()]
        for layer in known if layers is None else layers:
            samples = connection.execute(SAMPLES, [*subject, layer]).fetchnumpy()
            found = connection.execute(CONTRIBUTIONS, [*subject, layer]).fetchnumpy()
            ids, wanted = (
                table["feature"].astype(np.int64) << 32 | table["sample"].astype(np.int64) for table in (samples, found)
            )
            target = np.searchsorted(ids, wanted)
            kind = np.array([KINDS.index(one) for one in found["kind"]])
            place, unit, position = (np.asarray(found[name], np.int64) for name in ("layer", "unit", "position"))
            share = np.ma.filled(np.ma.asarray(found["share"]), np.nan)
            contributors = Contributors(target, kind, place, unit, position, np.asarray(found["score"]), share)
            checkpoint = open_checkpoint(Store(store), subject[0])
            profiles = read_token_profiles(checkpoint, layer, unit[kind == KINDS.index(TOKEN)])
            feature, at = (samples[name].astype(np.int64) for name in ("feature", "position"))
            yield layer, Layer(feature, at, contributors, profiles)


Labels = Int64[np.ndarray, " m"]


def alone(labels: Labels) -> Labels:
    """Noise as clusters of one sample each."""
    return np.where(labels < 0, len(labels) + np.arange(len(labels)), labels)


def agreement(first: Labels, second: Labels) -> float:
    return float(adjusted_rand_score(alone(first), alone(second)))


def mixtures(layer: Layer, cluster: Callable[[Labels], Labels], n_mixed: int, n: int, seed: int) -> list[float]:
    """How well features that are mixed are told apart."""
    random, members, each = np.random.default_rng([seed, n_mixed]), layer.members(MIXED[n_mixed]), MIXED[n_mixed]
    found = []
    for _ in range(n if len(members) >= n_mixed else 0):
        features = random.choice(list(members), n_mixed, replace=False)
        index = np.concatenate([random.choice(members[feature], each, replace=False) for feature in features.tolist()])
        found.append(agreement(np.repeat(np.arange(n_mixed), each), cluster(index)))
    return found


def learned(layer: Layer, n: int, seed: int) -> list[float]:
    """How well mixtures of two features are told apart by what other samples of theirs teach."""
    random, each = np.random.default_rng([seed, 2]), MIXED[2]
    members, found = layer.members(2 * each), []
    truth = np.repeat([0, 1, 0, 1], each)
    for _ in range(n if len(members) > 1 else 0):
        features = random.choice(list(members), 2, replace=False)
        drawn = [random.permutation(members[feature])[: 2 * each] for feature in features.tolist()]
        index = np.concatenate([one[part] for part in (slice(each), slice(each, None)) for one in drawn])
        contributors, position = layer.some(index)
        profiles = layer.profiles if of_tokens_alone(contributors) else None
        known = None if profiles is None else profiles.without(features)
        vectors = normalize(source_vectors(contributors, len(position), known))
        classifier = LogisticRegression(C=LOOSE, max_iter=1000).fit(vectors[2 * each :], truth[2 * each :])
        found.append(float(adjusted_rand_score(truth[: 2 * each], classifier.predict(vectors[: 2 * each]))))
    return found


class OfFeatures(NamedTuple):
    """Figures of single features, one each."""

    halves: list[float]
    stability: list[float]
    noise: list[float]
    n_clusters: list[int]


def single_features(layer: Layer, cluster: Callable[[Labels], Labels], seed: int) -> OfFeatures:
    """What clustering does to features that are not mixed."""
    random, result = np.random.default_rng([seed, 1]), OfFeatures([], [], [], [])
    for index in layer.members(2 * MIXED[2]).values():
        labels = cluster(index)
        drawn = np.sort(random.permutation(len(index))[: round(RESAMPLED * len(index))])
        half = np.zeros(len(index), np.int64)
        half[random.permutation(len(index))[: len(index) // 2]] = 1
        result.halves.append(agreement(half, labels))
        result.stability.append(agreement(labels[drawn], cluster(index[drawn])))
        result.noise.append(float((labels < 0).mean()))
        result.n_clusters.append(len(np.unique(labels[labels >= 0])))
    return result


def figures(layer: Layer, settings: CircuitLensSettings, n: int, seed: int) -> dict[str, float | None]:
    """All figures of one layer by one way to cluster."""

    def cluster(index: Labels) -> Labels:
        profiles = None if layer.profiles is None else layer.profiles.without(layer.feature[index])
        return clustered(*layer.some(index), settings, [0], profiles).labels

    two, three = (mixtures(layer, cluster, n_mixed, n, seed) for n_mixed in MIXED)
    found = single_features(layer, cluster, seed)
    several = [one for one, many in zip(found.stability, found.n_clusters, strict=True) if many > 1]
    reach = float(t_quantile(len(two) - 1.0) * np.std(two, ddof=1) / np.sqrt(len(two))) if len(two) > 1 else None
    values = {
        "two": two, "learned": learned(layer, n, seed), "three": three, "halves": found.halves,
        "stability": found.stability, "stability_of_several": several, "noise": found.noise,
        "clusters": found.n_clusters, "one": [float(n == 1) for n in found.n_clusters],
    }  # fmt: skip
    means = {name: round(float(np.mean(value)), 3) if value else None for name, value in values.items()}
    return {**means, "two_reach": None if reach is None else round(reach, 3), "features": len(found.noise)}


def settings_of(text: str) -> CircuitLensSettings:
    """`clustering=dbscan,eps=0.5`; nothing is resampled, since nobody asks a cluster for its stability here."""
    given = dict(part.split("=", 1) for part in text.split(",") if part)
    return TypeAdapter(CircuitLensSettings).validate_python({**given, "resamples": "0"})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--layers", type=int, nargs="+")
    parser.add_argument("--pairs", type=int, default=40, help="mixtures a layer, of two and of three features each")
    parser.add_argument("--settings", nargs="*", default=[], help="such as clustering=dbscan,eps=0.5")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    for number, layer in read_layers(arguments.store, arguments.layers):
        for text in ["", *arguments.settings]:
            measured = figures(layer, settings_of(text), arguments.pairs, number)
            row = {"benchmark": "clusters", "layer": number, "settings": text or "defaults", **measured}
            print(json.dumps(row) if arguments.json else row, flush=True)


if __name__ == "__main__":
    main()
