"""Export results to and import them from the formats of other tools."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.inputs.named import chosen_checkpoint
from storage.bucket.working_copy import hold
from storage.catalog.database import check_catalog, insert_row, mark_loaded, open_catalog, replace_rows
from storage.catalog.parts import write_part
from storage.catalog.published import open_published
from storage.catalog.runs import mark_killed, new_run_id, now, recorded
from storage.catalog.tables import TABLES
from storage.corpora.rows import CorpusRows, read_numbered_rows
from storage.exchange.delphi import export_delphi
from storage.exchange.hub_dataset import export_dataset
from storage.exchange.neuronpedia import export_neuronpedia
from storage.exchange.parquet import export_tables, write_manifest
from storage.exchange.weightlens_export import export_layer
from storage.exchange.weightlens_import import TokenNames, catalog_rows, see_tokens
from storage.exchange.weightlens_json import FeatureAnalysis, layer_files, read_layer
from storage.hashing import file_sha256, short_hash
from storage.store import Store

IMPORTED = ("token_candidates", "feature_edges", "contribution_totals", "sequence_validation", "descriptions")
"""Tables that an imported analysis fills."""


def expect_empty(folder: Path, overwrite: bool) -> None:
    """Refuse to write into a folder with files, unless that is wanted.

    Raises:
        ValueError: the folder is not empty, or not a folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"export: {folder} is a file; name a folder")
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if found and not overwrite:
        some = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        raise ValueError(
            f"export: {folder} is not empty ({some}); name a new folder, or give --overwrite to write into it, "
            "replacing files of the same name"
        )


def export_weightlens(store: Store, checkpoint: str | None, folder: Path) -> list[Path]:
    """Write a checkpoint's WeightLens results in the authors' format, one file for each layer.

    Raises:
        ValueError: there is no such checkpoint, there are several and none is named, or it has no WeightLens results.
    """
    with open_published(store.catalog) as connection:
        checkpoint_id, name = chosen_checkpoint(connection, checkpoint)[:2]
        query = "SELECT DISTINCT layer FROM contribution_totals WHERE checkpoint_id = ? ORDER BY layer"
        layers = [row[0] for row in connection.execute(query, [checkpoint_id]).fetchall()]
        if not layers:
            raise ValueError(f"{name} ({checkpoint_id}) has no WeightLens results yet; run `weightlens` first")
        folder.mkdir(parents=True, exist_ok=True)
        return [export_layer(connection, checkpoint_id, layer, folder) for layer in layers]


def export_parquet(store: Store, checkpoint: str | None, folder: Path) -> list[Path]:
    """Write every table of the catalog as a Parquet file.

    Raises:
        ValueError: a checkpoint is named.
    """
    if checkpoint is not None:
        raise ValueError("--checkpoint: --format parquet writes every table with all checkpoints")
    with open_published(store.catalog) as connection:
        exported = export_tables(connection, folder)
    return [*(one.path for one in exported), write_manifest(exported, folder)]


def export_hub_dataset(store: Store, checkpoint: str | None, folder: Path) -> list[Path]:
    """Write every table that has rows as a dataset for the Hugging Face Hub, with a card.

    Raises:
        ValueError: a checkpoint is named.
    """
    if checkpoint is not None:
        raise ValueError("--checkpoint: --format hf writes every table with all checkpoints")
    with open_published(store.catalog) as connection:
        return export_dataset(connection, folder)


def export_to_neuronpedia(store: Store, checkpoint: str | None, folder: Path) -> list[Path]:
    """Write a checkpoint in the layout of Neuronpedia's bulk exports; returns a folder for each layer.

    Raises:
        ValueError: there is no such checkpoint, or there are several and none is named.
    """
    with open_published(store.catalog) as connection:
        return export_neuronpedia(connection, chosen_checkpoint(connection, checkpoint)[0], folder)


def export_to_delphi(store: Store, checkpoint: str | None, folder: Path) -> list[Path]:
    """Write a checkpoint's samples and descriptions in delphi's format; returns the folders.

    Raises:
        ValueError: there is no such checkpoint, there are several and none is named, there are no samples, or they are
            from several corpora together.
    """
    with open_published(store.catalog) as connection:
        checkpoint_id = chosen_checkpoint(connection, checkpoint)[0]
        query = """SELECT f.corpus_id FROM (SELECT DISTINCT corpus_id FROM samples WHERE checkpoint_id = ?) f
                   ORDER BY (SELECT max(started_at) FROM runs r WHERE r.corpus_id = f.corpus_id) DESC NULLS LAST"""
        found = connection.execute(query, [checkpoint_id]).fetchone()
        if found is None:
            raise ValueError(f"export: {checkpoint_id} has no samples yet; run `activations` first")
        if not store.corpus(found[0]).exists():
            raise ValueError(f"export: the samples are of {found[0]}, several corpora together; delphi allows one")
        corpora = (CorpusRows(found[0], 0),)
        return export_delphi(
            connection, checkpoint_id, found[0], lambda numbers: read_numbered_rows(store, corpora, numbers), folder
        )


def import_weightlens(store: Store, folder: Path, checkpoint: str | None, name: str) -> str:
    """Import the authors' files about an existing checkpoint as a checkpoint of its own; returns its id.

    It shares model, transcoders and quality with the existing one, so that the two can be compared in SQL.

    Raises:
        ValueError: there are no files, one does not fit the format or the checkpoint, or there is no such checkpoint.
    """
    check_catalog(store.catalog)
    with open_published(store.catalog) as connection:
        base = chosen_checkpoint(connection, checkpoint)[0]
        columns = TABLES["checkpoints"].arrow.names
        query = f"SELECT {', '.join(columns)} FROM checkpoints WHERE checkpoint_id = ?"
        row = dict(zip(columns, connection.execute(query, [base]).fetchall()[0], strict=True))
        query = "SELECT token_id, text FROM tokens WHERE checkpoint_id = ? AND token_id >= 0 ORDER BY token_id"
        names = TokenNames(connection.execute(query, [base]).fetchall())
    files = layer_files(folder)
    for layer, path in files.items():
        see_tokens(_checked(path, layer, row), names, path)
    checkpoint_id = short_hash(imported={layer: file_sha256(path) for layer, path in files.items()}, into=base)
    run = {"checkpoint_id": checkpoint_id, "corpus_id": None, "stage": "import", "recipe": checkpoint_id}
    nothing = {"flow_run_id": None, "finished_at": None, "error": None, "config": None}
    with hold(store, f"import {name}", everything=False):
        mark_killed(store.catalog)
        with recorded(store.catalog, {"run_id": new_run_id(), **run, **nothing}):
            parts = defaultdict(list)
            for layer, path in files.items():
                for table, rows in catalog_rows(read_layer(path, layer), names).items():
                    part = store.parts(table, checkpoint_id) / f"layer-{layer:02d}.parquet"
                    fixed = {"explainer": "authors", "cluster": -1, "created_at": [now()] * len(rows)}
                    more = fixed if table == "descriptions" else {}
                    _write_rows(part, table, checkpoint_id, rows, more)
                    parts[table].append(part)
            tokens = [{"token_id": token_id, "text": text} for token_id, text in names.rows()]
            part = store.parts("tokens", checkpoint_id) / "tokens.parquet"
            _write_rows(part, "tokens", checkpoint_id, tokens, {})
            where = {"checkpoint_id": checkpoint_id}
            with open_catalog(store.catalog, write=True) as connection:
                insert_row(connection, "checkpoints", {**row, **where, "name": name, "ingested_at": now()})
                replace_rows(connection, "tokens", where, [part])
                connection.execute("DELETE FROM transcoder_quality WHERE checkpoint_id = ?", [checkpoint_id])
                copy = f"SELECT * REPLACE ('{checkpoint_id}' AS checkpoint_id) FROM transcoder_quality"
                connection.execute(f"INSERT INTO transcoder_quality {copy} WHERE checkpoint_id = ?", [base])
                for table in IMPORTED:
                    replace_rows(connection, table, where, parts[table])
                mark_loaded(connection, checkpoint_id, "weightlens", checkpoint_id)
    return checkpoint_id


def _checked(path: Path, layer: int, checkpoint: Mapping[str, Any]) -> list[FeatureAnalysis]:
    features, n_layers, width = read_layer(path, layer), checkpoint["n_layers"], checkpoint["d_transcoder"]
    if layer >= n_layers:
        raise ValueError(f"{path}: layer {layer}; checkpoint {checkpoint['name']} has layers 0-{n_layers - 1}")
    for entry in features:
        edges = entry.feature_to_feature_contributions
        indices = [entry.feature.feature_idx, *(edge.from_feature_idx for edge in edges)]
        if not all(0 <= index < width for index in indices):
            raise ValueError(f"{path}: a feature of {indices[:5]}; checkpoint {checkpoint['name']} has 0-{width - 1}")
        late = [edge.from_layer for edge in edges if not 0 <= edge.from_layer < layer]
        if late:
            raise ValueError(f"{path}: feature {indices[0]} reads layer {late[0]}, which is not an earlier one")
    return features


def _write_rows(
    part: Path, table: str, checkpoint_id: str, rows: list[dict[str, object]], more: Mapping[str, object]
) -> None:
    columns = {name: [row.get(name) for row in rows] for name in {name for row in rows for name in row}}
    write_part(part, table, {"checkpoint_id": checkpoint_id, **more, **columns}, len(rows))
