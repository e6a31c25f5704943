"""A catalog of GPT-2's size (12 layers of 24,576 features), for measuring what reads one.

    python -m benchmarks.large_catalog FOLDER [--layers 12] [--width 24576] [--sequences 8000] [--samples 60]

Writes FOLDER/catalog.duckdb and the published copy beside it: all tables that pages, `show` and searches read, of about
the lengths that a run on GPT-2 leaves. Words are English ones by Zipf's law; which feature has which is drawn by hash,
so that equal arguments write equal rows. Texts of descriptions do not fit their contexts. Prints a JSON line.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from simplemma.strategies.dictionaries.dictionary_factory import DefaultDictionaryFactory

from storage.catalog.database import bring_forward
from storage.catalog.published import publish
from storage.store import open_store, whole_file

D_VOCAB, N_POS = 50_257, 128

ATTRIBUTED = 24
"""One in so many features has attributed samples and clusters."""

JUDGED = 96
"""One in so many has scores."""

DESCRIBED = 0.6
"""Share of features whose weights say something."""

METHODS = ("weightlens", "weightlens+out", "weightlens+out+llm", "maxact", "maxact*")

METRICS = ("clarity", "responsiveness", "purity", "detection", "fuzzing", "simulation")

RARE_BIGRAMS = 7
"""Tokens of a document follow one another by fixed pairs this often: one time in so many, so that phrases recur."""


class Size(NamedTuple):
    layers: int
    width: int
    sequences: int
    samples: int
    """Of each feature; two thirds are its quantile sample, the others its greatest activations."""


def drawn(salt: str, *columns: str) -> str:
    """An SQL number from 0 to 1 that these columns decide."""
    return f"(hash({', '.join([repr(salt), *columns])}) / 18446744073709551616.0)"


def token(salt: str, *columns: str) -> str:
    """An SQL token id, the frequent ones more often."""
    return f"CAST(floor({D_VOCAB} * pow({drawn(salt, *columns)}, 3)) AS INTEGER)"


def vocabulary() -> list[str]:
    """English words with a space before them, the short ones first, as frequent words are."""
    known = DefaultDictionaryFactory().get_dictionary("en")
    words = {word.decode() if isinstance(word, bytes) else word for word in known}
    plain = sorted((word for word in words if word.isalpha() and word.islower()), key=lambda word: (len(word), word))
    step = max(1, len(plain) // D_VOCAB)
    return [",", ".", "\n", *(f" {word}" for word in plain[::step])][:D_VOCAB]


def sequences(texts: list[str], n: int) -> pa.Table:
    """Rows of words by Zipf's law; a document is about 300 of them."""
    random = np.random.default_rng(0)
    chosen = np.minimum((random.pareto(0.7, n * N_POS) * 3).astype(np.int64), len(texts) - 1)
    follows = random.permutation(len(texts))
    paired = random.random(len(chosen)) < 1 / RARE_BIGRAMS
    chosen[1:] = np.where(paired[1:], follows[chosen[:-1]], chosen[1:])
    documents = np.cumsum(random.random(n * N_POS) < 1 / 300)
    offsets = pa.array(np.arange(0, n * N_POS + 1, N_POS), pa.int32())
    words = pa.array(texts).take(pa.array(chosen))
    return pa.table(
        {
            "corpus_id": pa.repeat("corpus", n),
            "sequence": pa.array(np.arange(n)),
            "tokens": pa.ListArray.from_arrays(offsets, words),
            "documents": pa.ListArray.from_arrays(offsets, pa.array(documents, pa.int32())),
        }
    )


def fill(connection: duckdb.DuckDBPyConnection, size: Size) -> None:
    texts = vocabulary()
    tables = {
        "tokens": pa.table({"token_id": np.arange(len(texts)), "text": texts, "checkpoint_id": ["large"] * len(texts)}),
        "sequences": sequences(texts, size.sequences),
    }
    for name, table in tables.items():
        connection.register("rows", table)
        connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM rows")
        connection.unregister("rows")
    for name, query in fixed_rows(size).items():
        connection.execute(f"INSERT INTO {name} BY NAME {query}")
    for layer in range(size.layers):
        key = f"'large' AS checkpoint_id, {layer}::SMALLINT AS layer, feature"
        source = f"(SELECT range::INTEGER AS feature, {layer} AS l FROM range({size.width}))"
        for name, query in layer_rows(size, layer, key, source):
            connection.execute(f"INSERT INTO {name} BY NAME {query}")


def fixed_rows(size: Size) -> dict[str, str]:
    """Tables with a row a checkpoint, a corpus or a layer."""
    n_tokens = size.sequences * N_POS
    return {
        "checkpoints": f"""
            SELECT 'large' AS checkpoint_id, 'large' AS name, 'generated' AS model_name, 'gpt2' AS family,
                   'relu' AS activation, {size.layers} AS n_layers, 768 AS d_model, {size.width} AS d_transcoder,
                   {D_VOCAB} AS d_vocab, TIMESTAMP '2026-01-01' AS ingested_at""",
        "corpora": f"""
            SELECT 'corpus' AS corpus_id, 'generated' AS name, {size.sequences} AS n_sequences, {N_POS} AS n_pos,
                   {n_tokens} AS n_tokens, true AS has_text""",
        "runs": """
            SELECT 'run' AS run_id, 'large' AS checkpoint_id, 'corpus' AS corpus_id, unnest(['ingest', 'weightlens',
                   'activations', 'coactivation', 'circuitlens', 'describe', 'evaluate']) AS stage,
                   'completed' AS status, TIMESTAMP '2026-01-01' AS started_at,
                   TIMESTAMP '2026-01-02' AS finished_at""",
        "transcoder_quality": f"""
            SELECT 'large' AS checkpoint_id, range AS layer, 0.8 AS explained_variance, 60 AS l0, 0.02 AS dead_share,
                   3.1 AS loss, 3.2 AS loss_replaced, 5.0 AS loss_all_replaced, 8192 AS n_tokens, 'generated' AS text
            FROM range({size.layers})""",
    }


def layer_rows(size: Size, layer: int, key: str, source: str) -> list[tuple[str, str]]:
    """(table, query) of one layer."""
    on_corpus, n_tokens = f"{key}, 'corpus' AS corpus_id", size.sequences * N_POS
    is_described = f"{drawn('described', 'l', 'feature')} < {DESCRIBED}"
    words = ", ".join(token(f"word{i}", "l", "feature") for i in range(5))
    named = f"""SELECT l, feature, list_transform([{words}], lambda i: vocabulary.texts[i + 1]) AS words
                FROM {source}, (SELECT list(text ORDER BY token_id) AS texts FROM tokens) vocabulary"""
    say = "'‘' || array_to_string(list_transform(words, lambda w: trim(w)), '’, ‘') || '’'"
    n_quantile = size.samples * 2 // 3
    found = [
        (
            "features",
            f"""SELECT *, n_active / {n_tokens} AS density, n_active = 0 AS is_dead FROM (
                SELECT {on_corpus}, CAST({n_tokens} / 8 * pow({drawn("n", "l", "feature")}, 4) AS BIGINT) AS n_active,
                       {drawn("mean", "l", "feature")} AS mean_activation, 0.4 AS std_activation,
                       1 + 9 * {drawn("max", "l", "feature")} AS max_activation, list_transform(range(21),
                       lambda i: i / 4) AS quantiles FROM {source})""",
        ),
        (
            "samples",
            f"""SELECT {on_corpus}, sample::INTEGER AS sample,
                       CAST(floor({size.sequences} * {drawn("row", "l", "feature", "sample")}) AS BIGINT) AS sequence,
                       CAST(floor({N_POS} * {drawn("place", "l", "feature", "sample")}) AS INTEGER) AS position,
                       CASE WHEN sample < {n_quantile} THEN 5 * {drawn("a", "l", "feature", "sample")}
                            ELSE 10 - sample / 20 END AS activation,
                       CASE WHEN sample < {n_quantile} THEN sample % 20 END AS quantile_bin,
                       CASE WHEN sample < {n_quantile} AND feature % {ATTRIBUTED} = 0 THEN sample % 4 - 1 END AS cluster
                FROM {source}, (SELECT range AS sample FROM range({size.samples})) ORDER BY feature, sample""",
        ),
        (
            "clusters",
            f"""SELECT {on_corpus}, cluster::SMALLINT AS cluster, {n_quantile // 4} AS n_samples, 0.25 AS share,
                       CASE WHEN cluster >= 0 THEN ['L0 #' || feature, 'L1 H' || cluster || ' −1'] ELSE [] END
                           AS signature
                FROM {source}, (SELECT range - 1 AS cluster FROM range(4)) WHERE feature % {ATTRIBUTED} = 0
                ORDER BY feature, cluster""",
        ),
        (
            "contributions",
            f"""SELECT {on_corpus}, sample::INTEGER AS sample, kind, {max(0, layer - 1)} AS source_layer,
                       CAST(floor({size.width} * {drawn("source", "l", "feature", "sample", "i")}) AS INTEGER)
                           AS source_index,
                       greatest(0, s.position - i) AS source_position, -i AS relative_position,
                       1 / (1 + i) AS score, 1 / (1 + i) / 3 AS share
                FROM (SELECT layer AS l, feature, sample, position FROM samples
                      WHERE layer = {layer} AND feature % {ATTRIBUTED} = 0 AND sample < {n_quantile}) s,
                     (SELECT range AS i FROM range(7)), (SELECT unnest(['feature', 'head', 'token']) AS kind)
                ORDER BY feature, sample, kind, i""",
        ),
        (
            "logit_effects",
            f"""SELECT {on_corpus}, -1 AS sample, 0 AS position, {token("effect", "l", "feature", "i")} + i AS token_id,
                       (i % 2 * 2 - 1) / (1 + i) AS effect
                FROM {source}, (SELECT range::INTEGER AS i FROM range(20)) WHERE feature % {ATTRIBUTED} = 0""",
        ),
        (
            "token_candidates",
            f"""SELECT {key}, CASE WHEN i < 12 THEN 'input' ELSE 'output' END AS side,
                       CASE WHEN i % 6 < 4 THEN 1 ELSE -1 END AS sign, i % 12 AS rank,
                       {token("candidate", "l", "feature", "i")} AS token_id, 1 / (1 + i) AS score,
                       9 - i / 4 AS z_score,
                       CASE WHEN i < 12 AND i % 6 < 4 THEN 2 - i / 6 END AS activation,
                       CASE WHEN i < 12 AND i % 6 < 4 THEN i < 3 END AS validated
                FROM {source}, (SELECT range::INTEGER AS i FROM range(24)) ORDER BY feature, i""",
        ),
        (
            "contribution_totals",
            f"SELECT {key}, 100.0 AS absolute_contribution, 0.1 AS detected_share FROM {source}",
        ),
        ("descriptions", descriptions(key, named, say, is_described)),
        (
            "scores",
            f"""SELECT {on_corpus}, control || method AS method, 'tokens' AS explainer, 'rule' AS judge, metric,
                       least(1, {drawn("value", "l", "feature", "method", "metric", "control")}
                             + CASE control WHEN '' THEN 0.2 ELSE 0 END) AS value, 0.1 AS low, 0.9 AS high, 100 AS n
                FROM {source}, (SELECT unnest({list(METHODS)}) AS method), (SELECT unnest({list(METRICS)}) AS metric),
                     (SELECT unnest(['', 'control:shuffled:']) AS control)
                WHERE feature % {JUDGED} = 0 ORDER BY feature""",
        ),
        (
            "failures",
            f"""SELECT 'run' AS run_id, 'weightlens' AS stage, {layer}::SMALLINT AS layer, feature,
                       'no_candidates' AS reason, 'no token stands out among the projections' AS detail
                FROM {source} WHERE NOT {is_described}""",
        ),
    ]
    return found if layer == 0 else [*found, ("feature_edges", edges(size, layer, source))]


def descriptions(key: str, named: str, say: str, is_described: str) -> str:
    """Every method's; the first two say something of described features only."""
    return f"""
        SELECT {key}, CASE WHEN method LIKE 'weightlens%' THEN NULL ELSE 'corpus' END AS corpus_id, method,
               'tokens' AS explainer, -1 AS cluster,
               CASE WHEN method LIKE 'maxact%' THEN 'the tokens ' || {say} ELSE {say} END AS text, words AS tokens,
               TIMESTAMP '2026-01-01' AS created_at
        FROM ({named}), (SELECT unnest({list(METHODS)}) AS method)
        WHERE method NOT LIKE 'weightlens%' OR {is_described} ORDER BY feature, method"""


def edges(size: Size, layer: int, source: str) -> str:
    """Twelve a feature, half of them by what fires together."""
    of = f"CAST(floor({size.width} * {drawn('edge', 'l', 'feature', 'i')}) AS INTEGER)"
    return f"""
        SELECT 'large' AS checkpoint_id, CASE WHEN i % 2 = 1 THEN 'corpus' END AS corpus_id,
               CAST(i % {layer} AS SMALLINT) AS source_layer, {of} AS source_feature, {layer}::SMALLINT AS target_layer,
               feature AS target_feature, 1 / (1 + i) AS virtual_weight, 6 - i / 3 AS z_score,
               0.5 * together AS twera, 0.4 * together AS twera_low, 0.6 * together AS twera_high,
               CAST(100 * together AS BIGINT) AS n_coactive
        FROM {source}, (SELECT range AS i, CASE WHEN range % 2 = 1 THEN 1 / (1 + range) END AS together FROM range(12))
        ORDER BY feature, i"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, value in (("layers", 12), ("width", 24_576), ("sequences", 8000), ("samples", 60)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    size = Size(given.layers, given.width, given.sequences, given.samples)
    began, store = time.monotonic(), open_store(given.folder)
    with whole_file(store.catalog) as partial, duckdb.connect(partial) as connection:
        connection.execute("SET memory_limit = '4GB'")
        bring_forward(connection)
        fill(connection, size)
        connection.execute("CHECKPOINT")
        query = "SELECT table_name, estimated_size FROM duckdb_tables() WHERE estimated_size > 1 ORDER BY 2 DESC"
        rows = dict(connection.execute(query).fetchall())
    publish(store.catalog)
    figures = {"features": size.layers * size.width, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps({**figures, "mib": round(store.catalog.stat().st_size / 2**20), "rows": rows}))


if __name__ == "__main__":
    main()
