"""The catalog as a dataset for the Hugging Face Hub: a folder of Parquet tables with a card that lists them."""

from pathlib import Path

import duckdb
import yaml

from storage.catalog.tables import TABLES
from storage.exchange.parquet import Exported, export_tables
from storage.store import whole_file

SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
"""The Hub's categories of dataset size, by rows."""


def export_dataset(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[Path]:
    """Write the tables that have rows to FOLDER/data, and a README.md with which `datasets.load_dataset(FOLDER, TABLE)`
    finds them."""
    exported = [one for one in export_tables(connection, folder / "data") if one.n_rows]
    for empty in set(TABLES) - {one.table for one in exported}:
        (folder / "data" / f"{empty}.parquet").unlink()
    card = folder / "README.md"
    with whole_file(card) as partial:
        partial.write_text(_card(connection, exported), encoding="utf-8")
    return [card, *(one.path for one in exported)]


def _card(connection: duckdb.DuckDBPyConnection, exported: list[Exported]) -> str:
    n_rows = sum(one.n_rows for one in exported)
    head = {
        "pretty_name": "Circuit Insights catalog",
        "license": "unknown",
        "tags": ["interpretability", "transcoders", "circuit-insights"],
        "size_categories": [next((name for name, bound in SIZES if n_rows < bound), "10M<n<100M")],
        "configs": [
            {
                "config_name": one.table,
                "data_files": f"data/{one.table}.parquet",
                "default": one.table == "descriptions",
            }
            for one in exported
        ],
    }
    query = (
        "SELECT name, model_name, model_revision, transcoder_name, transcoder_revision, checkpoint_id FROM checkpoints"
    )
    lines = ["---", yaml.safe_dump(head, sort_keys=False).rstrip(), "---", "", "# Circuit Insights catalog", ""]
    lines += ["| checkpoint | model | transcoders | id |", "|---|---|---|---|"]
    for name, model, revision, transcoders, of_transcoders, checkpoint_id in connection.execute(query).fetchall():
        cells = (name, _at(model, revision), _at(transcoders, of_transcoders), checkpoint_id)
        lines.append(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |")
    lines += [
        "",
        "Texts of the corpus and descriptions have the licences of what they were made from: name it, in the field",
    ]
    lines += ["`license` above, before this is shared.", "", "| table | rows |", "|---|---|"]
    lines += [f"| {one.table} | {one.n_rows} |" for one in exported]
    return "\n".join(lines) + "\n"


def _at(name: str, revision: str | None) -> str:
    return name if revision is None else f"{name} at {revision[:12]}"
