"""What leaves the catalog for other tools, read back by their own rules."""

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file

from storage.catalog.database import SCHEMA_VERSION
from storage.catalog.published import open_published
from storage.catalog.tables import TABLES
from storage.exchange.delphi import export_delphi
from storage.exchange.hub_dataset import export_dataset
from storage.exchange.neuronpedia import ACTIVATIONS, MAX_DESCRIPTION, export_neuronpedia, method_name
from storage.exchange.parquet import export_tables, write_manifest
from storage.hashing import file_sha256
from tests.explorer.small_catalog import CHECKPOINT, CORPUS, N_FEATURES, N_LAYERS, write_small_catalog
from tests.storage.neuronpedia_tables import import_source


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_catalog(tmp_path_factory.mktemp("exports"), lambda text: text + " ‘\u202e|" * 90)


@pytest.fixture(scope="module")
def neuronpedia(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    with open_published(catalog) as connection:
        return export_neuronpedia(connection, CHECKPOINT, tmp_path_factory.mktemp("neuronpedia"))


def lines(path: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode().splitlines()]


def test_a_folder_a_layer(neuronpedia: list[Path]) -> None:
    assert len(neuronpedia) == N_LAYERS
    for layer, folder in enumerate(neuronpedia):
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        described = {"model.jsonl", "release.jsonl", "sourceset.jsonl", "source.jsonl"}
        kinds = ("features", "explanations", "activations") if layer == 2 else ("features", "explanations")
        assert names == described | {f"{kind}/batch-0.jsonl.gz" for kind in kinds}  # samples are of one layer
        (source,) = lines(folder / "source.jsonl")
        assert source["id"] == folder.name == f"{layer}-{source['setName']}"
        assert all(character.isalnum() or character in "_.-" for character in folder.name)


def test_their_importer_takes_every_layer(neuronpedia: list[Path]) -> None:
    for folder in neuronpedia:
        found = import_source(folder.parents[1], folder.parent.name, folder.name)
        assert [int(row["index"]) for row in found.features] == list(range(N_FEATURES))
        assert found.explanations
        assert bool(found.activations) == (folder == neuronpedia[2])


def test_features_explanations_and_activations(neuronpedia: list[Path], catalog: Path) -> None:
    features = lines(neuronpedia[2] / "features" / "batch-0.jsonl.gz")
    assert [int(row["index"]) for row in features] == list(range(N_FEATURES))
    explanations = lines(neuronpedia[2] / "explanations" / "batch-0.jsonl.gz")
    assert len({row["id"] for row in explanations}) == len(explanations)
    assert all(0 < len(row["description"]) <= MAX_DESCRIPTION for row in explanations)
    activations = lines(neuronpedia[2] / "activations" / "batch-0.jsonl.gz")
    assert len({row["id"] for row in activations}) == len(activations)
    for row in activations:
        assert len(row["values"]) == len(row["tokens"])
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
        assert row["minValue"] == min(row["values"])
    of_each = [row["index"] for row in activations]
    assert max(of_each.count(index) for index in set(of_each)) <= ACTIVATIONS
    with open_published(catalog) as connection:
        query = "SELECT count(*) FROM descriptions WHERE checkpoint_id = ? AND layer = 2 AND cluster = -1"
        assert len(explanations) == connection.execute(query, [CHECKPOINT]).fetchall()[0][0]


def test_names_of_methods_are_told_apart_in_plain_letters() -> None:
    methods = ("weightlens", "weightlens+out", "wl+cl", "maxact", "maxact*", "circuitlens-full")
    names = [method_name(method) for method in methods]
    assert len(set(names)) == len(methods)
    assert all(character.isalnum() or character in "_.-" for name in names for character in name)


def test_the_manifest_says_what_each_file_is(catalog: Path, tmp_path: Path) -> None:
    with open_published(catalog) as connection:
        exported = export_tables(connection, tmp_path)
    manifest = json.loads(write_manifest(exported, tmp_path).read_text())
    assert manifest["schema_version"] == SCHEMA_VERSION
    assert set(manifest["tables"]) == set(TABLES)
    for told in manifest["tables"].values():
        file = pq.ParquetFile(tmp_path / told["file"])
        assert file.metadata.num_rows == told["n_rows"]
        assert set(file.schema_arrow.names) == set(told["columns"])
        assert told["sha256"] == file_sha256(tmp_path / told["file"])


def test_a_dataset_with_a_card(catalog: Path, tmp_path: Path) -> None:
    with open_published(catalog) as connection:
        paths = export_dataset(connection, tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---\n")[1])
    files = {config["config_name"]: tmp_path / config["data_files"] for config in head["configs"]}
    assert {*files.values(), tmp_path / "README.md"} == set(paths)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(paths)
    assert [config["config_name"] for config in head["configs"] if config["default"]] == ["descriptions"]
    connection = duckdb.connect()
    for file in files.values():
        assert connection.execute("SELECT count(*) FROM read_parquet(?)", [str(file)]).fetchall()[0][0] > 0
    assert CHECKPOINT in card


def test_delphis_folders(catalog: Path, tmp_path: Path) -> None:
    with open_published(catalog) as connection:
        layer = connection.execute("SELECT max(layer) FROM samples WHERE checkpoint_id = ?", [CHECKPOINT]).fetchall()[
            0
        ][0]
        query = "SELECT feature, sequence, position, activation FROM samples WHERE layer = ? AND checkpoint_id = ?"
        samples = connection.execute(query, [layer, CHECKPOINT]).fetchall()
        sequences = sorted({row[0] for row in connection.execute("SELECT DISTINCT sequence FROM samples").fetchall()})

        def read(numbers: np.ndarray) -> dict[int, np.ndarray]:
            return {number: np.array([number, 7, 8, -1], np.int32) for number in numbers.tolist()}

        folders = export_delphi(connection, CHECKPOINT, CORPUS, read, tmp_path)
    assert samples
    assert {folder.relative_to(tmp_path).parts[0] for folder in folders} == {"latents", "explanations"}
    (place,) = [folder for folder in folders if folder.parent.name == "latents" and f".{layer}." in folder.name]
    config = json.loads((place / "config.json").read_text())
    assert (config["cache_ctx_len"], config["n_tokens"]) == (4, 4 * len(sequences))
    stored = load_file(place / f"0_{N_FEATURES - 1}.safetensors")
    assert stored["tokens"].tolist() == [[number, 7, 8, 0] for number in sequences]
    assert stored["activations"].dtype == np.float16
    there = {
        (feature, sequences[row], position): float(value)
        for (row, position, feature), value in zip(stored["locations"].tolist(), stored["activations"], strict=True)
    }
    for feature, sequence, position, activation in samples:
        assert there[feature, sequence, position] == pytest.approx(activation, rel=1e-3)
    written = [path for path in tmp_path.glob("explanations/*/*.txt")]
    assert written
    assert all(isinstance(json.loads(path.read_text(encoding="utf-8")), str) for path in written)
