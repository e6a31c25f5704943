"""Samples and descriptions in the format of EleutherAI's delphi: `latents/<hookpoint>/` and `explanations/`.

    latents/layers.5.mlp/0_8191.safetensors   locations (row, position, feature less the first), activations, tokens
    latents/layers.5.mlp/config.json          which model and text they are of
    explanations/<method>/layers.5.mlp_latent94.txt   a description, as a JSON string

delphi has every activation on its text, while a catalog has samples. So the rows written are those with samples, and
the activations of a feature are those of its samples and, if stored (`activations.keep: all`), of the tokens around
them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from jaxtyping import Int32, Int64
from safetensors.numpy import save_file

from interp.families import family_of
from storage.exchange.neuronpedia import method_name
from storage.store import whole_file

FEATURES_PER_FILE = 8192

MAX_FLOAT16 = 65504.0

ReadRows = Callable[[Int64[np.ndarray, " n"]], dict[int, Int32[np.ndarray, " n_pos"]]]
"""Reads the tokens of rows by number, −1 where a row is padded."""


class Exported(NamedTuple):
    """What is exported, in the form that queries and files need."""

    checkpoint_id: str
    corpus_id: str
    corpus: str
    model: str
    hookpoint: str
    """The module path of an MLP, with `{}` for the layer."""
    layers: list[int]
    width: int

    @property
    def key(self) -> list[str]:
        """Parameters of the queries: the checkpoint and the corpus."""
        return [self.checkpoint_id, self.corpus_id]


def export_delphi(
    connection: duckdb.DuckDBPyConnection, checkpoint_id: str, corpus_id: str, read: ReadRows, folder: Path
) -> list[Path]:
    """Write a checkpoint's samples on a corpus, and the descriptions of every method; returns the folders.

    Memory: the rows with samples, and one layer's samples.

    Raises:
        ValueError: there are no samples.
    """
    exported = _exported(connection, checkpoint_id, corpus_id)
    query = "SELECT DISTINCT sequence FROM samples WHERE checkpoint_id = ? AND corpus_id = ? ORDER BY sequence"
    sequences = connection.execute(query, exported.key).fetchnumpy()["sequence"].astype(np.int64)
    if not len(sequences):
        raise ValueError(f"export: {checkpoint_id} has no samples yet; run `activations` first")
    by_number = read(sequences)
    rows = np.stack([by_number[number] for number in sequences.tolist()])
    tokens = np.where(rows < 0, 0, rows).astype(np.uint32)  # delphi has no padding
    folders = []
    for layer in exported.layers:
        place = folder / "latents" / exported.hookpoint.format(layer)
        place.mkdir(parents=True, exist_ok=True)
        _write_activations(place, exported, layer, sequences, tokens, connection)
        _write_config(place, exported, tokens)
        folders.append(place)
    return [*folders, *_write_explanations(folder / "explanations", connection, exported)]


def _exported(connection: duckdb.DuckDBPyConnection, checkpoint_id: str, corpus_id: str) -> Exported:
    query = "SELECT family, model_name, n_layers, layers, d_transcoder FROM checkpoints WHERE checkpoint_id = ?"
    model_type, model, n_layers, layers, width = connection.execute(query, [checkpoint_id]).fetchall()[0]
    name = connection.execute("SELECT name FROM corpora WHERE corpus_id = ?", [corpus_id]).fetchall()[0][0]
    family = family_of(model_type)
    hookpoint = f"{family.blocks.partition('.')[2]}.{{}}.{family.mlp}"  # module path from the model without its head
    every = list(range(n_layers)) if layers is None else list(layers)
    return Exported(checkpoint_id, corpus_id, name, model, hookpoint, every, width)


def _write_activations(
    place: Path,
    exported: Exported,
    layer: int,
    sequences: Int64[np.ndarray, " n"],
    tokens: np.ndarray,
    connection: duckdb.DuckDBPyConnection,
) -> None:
    query = """
        WITH firing AS (
            SELECT feature, sequence, position, activation FROM samples
            WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND layer = $layer
            UNION ALL
            SELECT s.feature, s.sequence, s.position + unnest(n.offsets), unnest(n.activations)
            FROM samples s JOIN sample_neighbours n USING (checkpoint_id, corpus_id, layer, feature, sample)
            WHERE s.checkpoint_id = $checkpoint AND s.corpus_id = $corpus AND s.layer = $layer
        )
        SELECT feature, sequence, position, max(activation) AS activation FROM firing GROUP BY ALL
        ORDER BY feature, sequence, position
    """
    values = {"checkpoint": exported.checkpoint_id, "corpus": exported.corpus_id, "layer": layer}
    found = connection.execute(query, values).fetchnumpy()
    feature, row = found["feature"].astype(np.int64), np.searchsorted(sequences, found["sequence"])
    activation = np.minimum(found["activation"], MAX_FLOAT16).astype(np.float16)
    for start in range(0, exported.width, FEATURES_PER_FILE):
        stop = min(start + FEATURES_PER_FILE, exported.width)
        own = (feature >= start) & (feature < stop)
        columns = (row[own], found["position"][own], feature[own] - start)
        locations = np.stack([np.asarray(column, np.uint32) for column in columns], axis=1)
        with whole_file(place / f"{start}_{stop - 1}.safetensors") as partial:
            save_file({"locations": locations, "activations": activation[own], "tokens": tokens}, partial)


def _write_config(place: Path, exported: Exported, tokens: np.ndarray) -> None:
    """delphi's settings of a cache. `dataset_repo` names the corpus, which is not read, since the tokens are here."""
    n_rows, n_pos = tokens.shape
    config = {
        "dataset_repo": exported.corpus,
        "dataset_split": "",
        "dataset_name": "",
        "dataset_column": "text",
        "batch_size": 32,
        "cache_ctx_len": n_pos,
        "ctx_len": n_pos,
        "n_tokens": n_rows * n_pos,
        "n_splits": -(-exported.width // FEATURES_PER_FILE),
        "model_name": exported.model,
        "activations": "of sampled tokens, and of those around them where they are kept",
    }
    with whole_file(place / "config.json") as partial:
        partial.write_text(json.dumps(config, indent=4), encoding="utf-8")


def _write_explanations(folder: Path, connection: duckdb.DuckDBPyConnection, exported: Exported) -> list[Path]:
    query = """
        SELECT method, layer, feature, any_value(text ORDER BY corpus_id NULLS LAST, explainer) FROM descriptions
        WHERE checkpoint_id = ? AND (corpus_id = ? OR corpus_id IS NULL) AND cluster = -1 AND text IS NOT NULL
        GROUP BY ALL ORDER BY method, layer, feature
    """
    folders: dict[str, Path] = {}
    for method, layer, feature, text in connection.execute(query, exported.key).fetchall():
        place = folders.setdefault(method, folder / method_name(method))
        place.mkdir(parents=True, exist_ok=True)
        name = f"{exported.hookpoint.format(layer)}_latent{feature}.txt"
        (place / name).write_text(json.dumps(text, ensure_ascii=False), encoding="utf-8")
    return list(folders.values())
