"""Every format that is read: how a good file is made, how it is broken, and what of the product reads it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.fuzz.mutations import (
    Mutation,
    mutated_bytes,
    mutated_gzip,
    mutated_json,
    mutated_json_lines,
    mutated_npz,
    mutated_safetensors,
    mutated_torch,
    mutated_yaml,
)

LAYER = 3
"""Whose file of a release is broken."""


class Format(NamedTuple):
    """One kind of file."""

    write: Callable[[Path], Path]
    """Makes good files in a folder; returns the one that is broken."""
    mutate: Mutation
    read: Callable[[Path], Any]
    """Reads the file, and whatever belongs to it, as the product does."""


def _release(name: str, pattern: str, mutate: Mutation) -> Format:
    from tests.storage.releases import RELEASES

    release = RELEASES[name]

    def write(folder: Path) -> Path:
        release.write(folder / "release", release.weights())
        (file,) = (folder / "release").glob(pattern)
        return file

    def read(file: Path) -> None:
        from storage.formats import open_transcoders

        path = next(parent for parent in file.parents if parent.name == "release")
        opened = open_transcoders(path, release.model_type)
        for layer in opened.layers:
            opened.shape(layer)
        opened.read(LAYER)
        opened.read(opened.layers[-1])
        opened.below(LAYER)

    return Format(write, mutate, read)


def _model(name: str, mutate: Mutation) -> Format:
    def write(folder: Path) -> Path:
        from tests.planted import write_planted

        return write_planted(folder)[0] / name

    def read(file: Path) -> None:
        from storage.models import open_model
        from storage.token_texts import token_texts

        model = open_model(file.parent)
        token_texts(model.tokenizer, model.n_tokens)
        model.tokenizer(["word1 word2 word3", "\x9b\u202e"], add_special_tokens=False)
        if "tokenizer" not in name and "special" not in name:
            model.load()

    return Format(write, mutate, read)


def _texts(name: str, mutate: Mutation) -> Format:
    documents = [f"document {i} of a corpus, é\n" * (i % 7) for i in range(60)]

    def write(folder: Path) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder.mkdir()
        lines = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in documents).encode()
        path = folder / name
        if name.endswith(".parquet"):
            pq.write_table(pa.table({"text": documents, "n": range(60)}), path, row_group_size=20, compression="zstd")
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(lines))
        else:
            path.write_bytes(lines if name.endswith(".jsonl") else "".join(documents).encode())
        return path

    def read(file: Path) -> None:
        from storage.corpora.texts import read_texts

        for _ in read_texts(str(file)):
            pass

    return Format(write, mutate, read)


def _configuration(folder: Path) -> Path:
    folder.mkdir()
    values = {
        "name": "m", "model": {"path": "model", "bos": "auto"}, "transcoder": {"path": "t"},
        "corpus": {"source": ["a.txt", "b.jsonl"], "held_out": 0.1, "n_pos": 128}, "stages": ["weightlens"],
        "weightlens": {"z_tokens": 4.5, "upstream": "all"}, "engine": {"workers": 2}, "store": "store",
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return folder / "run.yaml"


def _read_configuration(file: Path) -> None:
    from configs.load import load_config

    load_config(file, ["shard_size=1024"])


def _analysis(folder: Path) -> Path:
    folder.mkdir()
    embedding = {
        "top_positive_tokens": ["a", "b"], "top_negative_tokens": ["c"], "positive_tokens_activation": [1.0, 0.0],
        "top_positive_token_ids": [0, 1], "top_positive_tokens_contribution": [1.0, 0.5],
        "top_negative_tokens_ids": [2], "top_negative_tokens_contribution": [-1.0],
        "top_positive_tokens_relative_contribution": [0.1, 0.1], "top_negative_tokens_relative_contribution": [0.2],
    }  # fmt: skip
    edge = {"from_layer": 0, "from_feature_idx": 1, "contribution": 1.5, "relative_contribution": 0.25}
    features = [
        {
            "feature": {"layer": 1, "feature_idx": i}, "embedding": embedding,
            "output_logits": {"top_positive_tokens": ["a", "new"], "top_negative_tokens": []},
            "feature_to_feature_contributions": [edge], "total_input_invariant_detected_contribution": 0.75,
            "total_input_invariant_contribution": 8.0, "description_soft": ["a"], "description": None,
            "validation": True, "validation_soft": 0.5,
        }
        for i in range(5)
    ]  # fmt: skip
    (folder / "feature_analysis_layer_1.json").write_text(json.dumps(features, indent=2))
    return folder / "feature_analysis_layer_1.json"


def _read_analysis(file: Path) -> None:
    from storage.exchange.weightlens_import import TokenNames, catalog_rows, see_tokens
    from storage.exchange.weightlens_json import layer_files, read_layer

    names = TokenNames([(i, text) for i, text in enumerate("abcdefgh")])
    for layer, path in layer_files(file.parent).items():
        features = read_layer(path, layer)
        see_tokens(features, names, path)
        catalog_rows(features, names)


def _graph_index(folder: Path) -> Path:
    folder.mkdir()
    (folder / "graph-metadata.json").write_text(json.dumps({"graphs": [{"slug": "a", "prompt_tokens": ["x"]}]}))
    return folder / "graph-metadata.json"


def _read_graph_index(file: Path) -> None:
    from storage.exchange.attribution_graph import write_graph

    write_graph(file.parent / "new.json", {"metadata": {"slug": "new"}})


PT = f"final_sparse_autoencoder_gpt2-small_blocks.{LAYER}.ln2.hook_normalized_24576.pt"

FORMATS: dict[str, Callable[[], Format]] = {
    "safetensors": lambda: _release("circuit-tracer", f"layer_{LAYER}.safetensors", mutated_safetensors),
    "safetensors, cross-layer": lambda: _release("CLT", f"W_dec_{LAYER}.safetensors", mutated_safetensors),
    "npz": lambda: _release("Gemma Scope", f"layer_{LAYER}/*/*/params.npz", mutated_npz),
    "pt": lambda: _release("Dunefsky", PT, mutated_torch),
    "JSON, SAELens": lambda: _release("SAELens", f"blocks.{LAYER}/cfg.json", mutated_json),
    "JSON, sparsify": lambda: _release("sparsify", f"layers.{LAYER}.mlp/cfg.json", mutated_json),
    "JSON, Gemma Scope 2": lambda: _release("Gemma Scope 2", f"*/layer_{LAYER}_*/config.json", mutated_json),
    "JSON, Llamascopium": lambda: _release("Llamascopium", f"*/layer{LAYER}_*/config.json", mutated_json),
    "safetensors, Llamascopium": lambda: _release(
        "Llamascopium, JumpReLU", f"*/layer{LAYER}_*/sae_weights.safetensors", mutated_safetensors
    ),
    "JSON, Gemma Scope 2 CLT": lambda: _release("Gemma Scope 2 CLT", "*/*/config.json", mutated_json),
    "YAML, circuit-tracer": lambda: _release("circuit-tracer, TopK", "config.yaml", mutated_yaml),
    "YAML, listed files": lambda: _release("circuit-tracer, listed", "config.yaml", mutated_yaml),
    "YAML, cross-layer": lambda: _release("CLT, JumpReLU", "config.yaml", mutated_yaml),
    "YAML, a run": lambda: Format(_configuration, mutated_yaml, _read_configuration),
    "model, config.json": lambda: _model("config.json", mutated_json),
    "model, safetensors": lambda: _model("model.safetensors", mutated_safetensors),
    "tokenizer.json": lambda: _model("tokenizer.json", mutated_json),
    "tokenizer_config.json": lambda: _model("tokenizer_config.json", mutated_json),
    "txt": lambda: _texts("a.txt", mutated_bytes),
    "JSONL": lambda: _texts("a.jsonl", mutated_json_lines),
    "gzip": lambda: _texts("a.jsonl.gz", mutated_gzip),
    "Parquet": lambda: _texts("a.parquet", mutated_bytes),
    "WeightLens JSON": lambda: Format(_analysis, mutated_json, _read_analysis),
    "graph index": lambda: Format(_graph_index, mutated_json, _read_graph_index),
}
