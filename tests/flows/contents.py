"""What a catalog says, in a form that two runs can be compared by."""

from pathlib import Path
from typing import Any

from storage.catalog.database import open_catalog
from storage.catalog.tables import TABLES

VOLATILE = {"run_id", "created_at", "ingested_at"}


def contents(catalog: Path) -> dict[str, list[Any]]:
    """Every table's rows, sorted, without what names a run or a time."""
    found = {}
    with open_catalog(catalog) as connection:
        for table in TABLES.values():
            if table.name != "runs":
                paths = {"text"} if table.name == "transcoder_quality" else set()
                names = ", ".join(name for name in table.arrow.names if name not in VOLATILE | paths)
                found[table.name] = sorted(connection.execute(f"SELECT {names} FROM {table.name}").fetchall(), key=repr)
    return found
