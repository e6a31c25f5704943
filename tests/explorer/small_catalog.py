"""A catalog of two small checkpoints, written by hand: every table has rows, and every text of it can be replaced."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from storage.catalog.contribution_edges import replace_contribution_edges
from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import publish

CHECKPOINT, LATER, CORPUS = "c0ffee000001", "c0ffee000002", "feed00000001"
N_LAYERS, N_FEATURES = 3, 60
WORDS = ["<|bos|>", " cat", " dog", " sat", " on", " the", " mat", "\n", ".", "s"]
QUANTILES = [0.1, 0.5, 1.0, 2.0, 4.0]

Text = Callable[[str], str]


def write_small_catalog(folder: Path, text: Text = str) -> Path:
    """The catalog of a store in a folder; `text` makes of every word or sentence what the catalog has in its place."""
    path = folder / "catalog.duckdb"
    with open_catalog(path, write=True) as connection:
        for checkpoint, step in ((CHECKPOINT, 1000), (LATER, 2000)):
            _checkpoint(connection, checkpoint, step, text)
        _sequences(connection, text)
        _wiring(connection, text)
        _samples(connection)
        _drift(connection)
    publish(path)
    return path


def _put(connection: duckdb.DuckDBPyConnection, table: str, *rows: dict[str, Any]) -> None:
    for row in rows:
        insert_row(connection, table, row)


def _checkpoint(connection: duckdb.DuckDBPyConnection, checkpoint: str, step: int, text: Text) -> None:
    name = text("small" if checkpoint == CHECKPOINT else "later")
    _put(connection, "checkpoints", {
        "checkpoint_id": checkpoint, "name": name, "model_name": text("model"), "step": step, "family": "gpt2",
        "activation": "relu", "n_layers": N_LAYERS, "d_model": 16, "d_transcoder": N_FEATURES, "d_vocab": len(WORDS),
        "ingested_at": datetime(2026, 1, 1 if checkpoint == LATER else 2),
    })  # fmt: skip
    _put(connection, "corpora", {
        "corpus_id": CORPUS, "name": text("tales"), "n_sequences": 4, "n_pos": 10, "n_tokens": 40,
        "has_text": True,
    })  # fmt: skip
    for at, word in enumerate(WORDS):
        _put(connection, "tokens", {"checkpoint_id": checkpoint, "token_id": at, "text": text(word)})
    for layer in range(N_LAYERS):
        _put(connection, "transcoder_quality", {
            "checkpoint_id": checkpoint, "layer": layer, "explained_variance": 0.9, "l0": 4.0, "dead_share": 0.1,
            "loss": 2.0, "loss_replaced": 2.1, "loss_all_replaced": 2.6, "n_tokens": 40, "text": text("tales"),
        })  # fmt: skip
        connection.execute(
            "INSERT INTO features SELECT ?, ?, ?, range, 40 - range // 2, (40 - range // 2) / 40, 1.0, 0.5, 4.0, "
            "?::FLOAT[], false FROM range(?)",
            [checkpoint, CORPUS, layer, QUANTILES, N_FEATURES - 1],
        )
        connection.execute(
            "INSERT INTO features SELECT ?, ?, ?, ?, 0, 0, NULL, NULL, NULL, NULL, true",
            [checkpoint, CORPUS, layer, N_FEATURES - 1],
        )
    run = {"run_id": f"run-{checkpoint}", "checkpoint_id": checkpoint, "corpus_id": CORPUS, "code_version": "1"}
    began, ended = datetime(2026, 1, 2, 10), datetime(2026, 1, 2, 10, 5)
    for stage in ("ingest", "weightlens", "activations", "circuitlens", "describe"):
        _put(connection, "runs", {
            **run, "stage": stage, "status": "completed", "started_at": began, "finished_at": ended, "config": "{}",
            "predicted_s": 240.0, "actual_s": 300.0,
        })  # fmt: skip
    _put(connection, "runs", {
        **run, "stage": "evaluate", "status": "failed", "started_at": ended, "error": text("it went wrong"),
        "flow_run_id": "bd2cc9f6-2886-418d-9c48-7f0c72c31151",
    })  # fmt: skip


def _wiring(connection: duckdb.DuckDBPyConnection, text: Text) -> None:
    """Descriptions, scores, tokens and edges of the first features of the first checkpoint."""
    mine = {"checkpoint_id": CHECKPOINT}
    for layer in range(N_LAYERS):
        for feature in range(3):
            of = {**mine, "layer": layer, "feature": feature}
            for method, corpus in (("weightlens", None), ("maxact", CORPUS), ("wl+cl", CORPUS)):
                _put(connection, "descriptions", {
                    **of, "corpus_id": corpus, "method": method, "explainer": "tokens", "cluster": -1,
                    "text": text(f"the token cat by {method}"), "tokens": [text(" cat")],
                })  # fmt: skip
                for of_method, value in ((method, 0.2 + 0.3 * feature), (f"control:shuffled:{method}", 0.15)):
                    _put(connection, "scores", {
                        **of, "corpus_id": CORPUS, "method": of_method, "explainer": "tokens", "judge": "rule",
                        "metric": "clarity", "value": value, "low": value - 0.1, "high": value + 0.1, "n": 20,
                    })  # fmt: skip
            for side, sign, token, validated in (("input", 1, 1, True), ("input", 1, 2, False), ("output", 1, 3, None),
                                                 ("output", -1, 4, None)):  # fmt: skip
                _put(connection, "token_candidates", {
                    **of, "side": side, "sign": sign, "rank": 0, "token_id": token, "score": 1.0, "z_score": 5.0,
                    "activation": 2.0 if side == "input" else None, "validated": validated,
                })  # fmt: skip
            for source in range(layer):
                for corpus in (None, CORPUS):
                    twera = {"twera": 0.4, "twera_low": 0.3, "twera_high": 0.5, "n_coactive": 9} if corpus else {}
                    _put(connection, "feature_edges", {
                        **mine, "corpus_id": corpus, "source_layer": source, "source_feature": 0,
                        "target_layer": layer, "target_feature": feature, "virtual_weight": 0.7,
                        "z_score": None if corpus else 6.0, **twera,
                    })  # fmt: skip
    _put(connection, "failures", {
        "run_id": f"run-{CHECKPOINT}", "stage": "weightlens", "layer": 1, "feature": 7, "reason": "no_candidates",
        "detail": text("no token stands out"),
    })  # fmt: skip


def _sequences(connection: duckdb.DuckDBPyConnection, text: Text) -> None:
    """The corpus: four rows of a document each."""
    for sequence in range(4):
        _put(connection, "sequences", {
            "corpus_id": CORPUS, "sequence": sequence, "tokens": [text(word) for word in WORDS],
            "documents": [sequence] * len(WORDS),
        })  # fmt: skip


def _samples(connection: duckdb.DuckDBPyConnection) -> None:
    """Samples of feature 2/1 in two clusters, what caused them and what they do."""
    of = {"checkpoint_id": CHECKPOINT, "corpus_id": CORPUS, "layer": 2, "feature": 1}
    for sample in range(6):
        _put(connection, "samples", {
            **of, "sample": sample, "sequence": sample % 4, "position": 1 + sample, "activation": 4.0 - sample / 2,
            "quantile_bin": sample if sample < 4 else None, "cluster": sample % 2,
        })  # fmt: skip
        for kind, layer, index, at in (
            ("head", 1, 2, sample),
            ("token", None, 1, 1 + sample),
            ("feature", 0, 0, sample),
        ):
            _put(connection, "contributions", {
                **of, "sample": sample, "kind": kind, "source_layer": layer, "source_index": index,
                "source_position": at, "relative_position": at - 1 - sample, "score": 1.0, "share": 0.5,
            })  # fmt: skip
    _put(connection, "scores", {
        **of, "method": "circuitlens", "explainer": "none", "judge": "none", "metric": "completeness_error",
        "value": 1e-6, "n": 6,
    })  # fmt: skip
    for query, key in (("token", "feature"), ("feature", "token"), ("error", "bias")):
        sides = {
            f"{side}_{what}": value
            for side, kind in (("query", query), ("key", key))
            for what, value in (
                ("kind", kind), ("layer", 0 if kind == "feature" else None),
                ("index", 1 if kind in ("feature", "token") else None),
                ("source_position", 2 if kind in ("feature", "token") else None),
            )
        }  # fmt: skip
        _put(connection, "qk_contributions", {
            **of, "sample": 1, "head_layer": 1, "head": 2, "query_position": 2, "key_position": 1, "head_score": 3.0,
            **sides, "score": 1.5,
        })  # fmt: skip
    for cluster in (0, 1):
        signature = ["L1 H2 −1", "L0 #0"] if cluster == 0 else []
        _put(connection, "clusters", {**of, "cluster": cluster, "n_samples": 3, "share": 0.5, "signature": signature})
    for token, effect in ((3, 0.8), (4, -0.3)):
        _put(connection, "logit_effects", {**of, "sample": -1, "position": 0, "token_id": token, "effect": effect})
    replace_contribution_edges(connection, CHECKPOINT, CORPUS)


def _drift(connection: duckdb.DuckDBPyConnection) -> None:
    """What became of the first features between the two checkpoints."""
    for feature, fate, later in ((0, "kept", 0), (1, "moved", 2), (2, "died", None)):
        found = later is not None
        _put(connection, "feature_matches", {
            "checkpoint_a": CHECKPOINT, "checkpoint_b": LATER, "layer": 1, "feature_a": feature, "feature_b": later,
            "fate": fate, "cosine_enc": 0.9 if found else None, "cosine_dec": 0.8 if found else None,
            "activation_correlation": 0.7 if found else None,
        })  # fmt: skip
