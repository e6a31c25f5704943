"""Import descriptions and scores published by other people."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.inputs.named import chosen_checkpoint
from storage.bucket.working_copy import hold
from storage.catalog.database import check_catalog, insert_row, mark_loaded, open_catalog, replace_rows
from storage.catalog.parts import write_part
from storage.catalog.published import open_published, publish
from storage.catalog.runs import mark_killed, new_run_id, now, recorded
from storage.catalog.tables import TABLES
from storage.exchange.description_tables import Published, read_table, table_files
from storage.hashing import file_sha256, short_hash
from storage.hub import fetch_dataset
from storage.store import Store

AUTHORS = "authors"
"""The explainer and judge of what is imported, in the columns `explainer` and `judge`."""

HUB = "hub:"

PATTERNS = ("**/*.parquet", "**/*.jsonl", "**/*.json")


def local_folder(place: str) -> Path:
    """The folder with the files to import; `hub:OWNER/NAME[@REVISION]`, a data set of the Hub, is downloaded.

    Raises:
        ValueError: the Hub does not have it, or cannot be reached.
    """
    if not place.startswith(HUB):
        return Path(place)
    repo, _, revision = place.removeprefix(HUB).partition("@")
    return fetch_dataset(repo, revision or "main", PATTERNS)


def import_descriptions(store: Store, folder: Path, checkpoint: str | None, name: str) -> str:
    """Import tables of descriptions and scores about an existing checkpoint as a checkpoint of its own; returns its id.

    It shares the model and the transcoders of the existing one, so that `method_agreement` compares the two. If a table
    has no method, it is `name`.

    Raises:
        ValueError: there are no tables, one does not fit, or there is no such checkpoint.
    """
    check_catalog(store.catalog)
    with open_published(store.catalog) as connection:
        base = chosen_checkpoint(connection, checkpoint)[0]
        columns = TABLES["checkpoints"].arrow.names
        query = f"SELECT {', '.join(columns)} FROM checkpoints WHERE checkpoint_id = ?"
        row = dict(zip(columns, connection.execute(query, [base]).fetchall()[0], strict=True))
    files = table_files(folder)
    content = {str(path.relative_to(folder)): file_sha256(path) for path in files}
    checkpoint_id = short_hash(published=content, into=base, name=name)
    found = _found(files, row, name)
    run = {"checkpoint_id": checkpoint_id, "corpus_id": None, "stage": "import", "recipe": checkpoint_id}
    nothing = {"flow_run_id": None, "finished_at": None, "error": None, "config": None}
    with hold(store, f"import {name}", everything=False):
        mark_killed(store.catalog)
        with recorded(store.catalog, {"run_id": new_run_id(), **run, **nothing}):
            parts = {table: store.parts(table, checkpoint_id) / "imported.parquet" for table in found}
            for table, rows in found.items():
                names = {column for one in rows for column in one}
                values: dict[str, Any] = {column: [one.get(column) for one in rows] for column in names}
                write_part(parts[table], table, {"checkpoint_id": checkpoint_id, **values}, len(rows))
            with open_catalog(store.catalog, write=True) as connection:
                changed = {"checkpoint_id": checkpoint_id, "name": name, "ingested_at": now()}
                insert_row(connection, "checkpoints", {**row, **changed})
                for table, part in parts.items():
                    replace_rows(connection, table, {"checkpoint_id": checkpoint_id}, [part])
                mark_loaded(connection, checkpoint_id, "import", checkpoint_id)
        publish(store.catalog)
    return checkpoint_id


def _found(files: Sequence[Path], checkpoint: dict[str, Any], name: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of the tables `descriptions` and `scores`.

    Raises:
        ValueError: a table does not fit, or no table describes a feature.
    """
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    seen: set[tuple[int, int, str]] = set()
    for path in files:
        for one in read_table(path):
            key = (one.layer, one.feature, one.method or name)
            _expect_feature(path, one, checkpoint)
            if key in seen:
                raise ValueError(f"{path}: layer {key[0]}, feature {key[1]}, method {key[2]} is described twice")
            seen.add(key)
            fixed = {"layer": one.layer, "feature": one.feature, "method": key[2], "explainer": AUTHORS}
            rows["descriptions"].append(
                {**fixed, "cluster": -1, "text": one.text, "tokens": one.tokens, "created_at": now()}
            )
            for metric, value in one.scores.items():
                reason = None if value is not None else "not_published"
                score = {"corpus_id": "published", "judge": AUTHORS, "metric": metric, "value": value, "n": None}
                rows["scores"].append({**fixed, **score, "low": None, "high": None, "reason": reason})
    if not rows:
        raise ValueError(f"{files[0].parent}: no table describes a feature")
    return rows


def _expect_feature(path: Path, one: Published, checkpoint: dict[str, Any]) -> None:
    n_layers, width = checkpoint["n_layers"], checkpoint["d_transcoder"]
    if one.layer >= n_layers or one.feature >= width:
        raise ValueError(
            f"{path}: feature {one.feature} of layer {one.layer}; checkpoint {checkpoint['name']} has layers "
            f"0-{n_layers - 1}, features 0-{width - 1}"
        )
