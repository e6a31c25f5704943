"""Whether two stores hold the same results: one query a table over both catalogs.

    python -m benchmarks.same_numbers STORE OTHER

For two runs of the same configuration on the same inputs, such as before and after a change of the code. Rows are
paired by their table's key without the checkpoint's and the corpus's id, which a change may alter. Prints a line of
JSON for each table that has rows in both stores: the rows of each and how many were paired; for each column of
decimal numbers the largest difference, divided by the larger of the two and 1 (`largest`: the column where it is
greatest, and the difference); and the columns of other values that differ somewhere, or of numbers that only one of
the stores has, with in how many rows.

Catalogs of different versions of the program are compared in the tables and columns that both have; columns whose
meaning a version changed, and identifiers drawn at random, have to be known. Each store has one checkpoint and one
corpus.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import duckdb

from storage.catalog.database import quoted
from storage.catalog.published import published_path
from storage.catalog.tables import TABLES

IDS = {"checkpoint_id", "corpus_id"}
NO_RESULTS = {"checkpoints", "corpora", "runs", "loaded", "loaded_parts", "schema_version", "watched"}
DECIMAL = ("FLOAT", "DOUBLE")


def columns(connection: duckdb.DuckDBPyConnection, catalog: str, table: str) -> dict[str, str]:
    """Names and types of a table's columns; none where there is no such table."""
    query = "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = ? AND table_name = ?"
    return dict(connection.execute(query, [catalog, table]).fetchall())


def compared(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, object] | None:
    """A table of both catalogs; None where one of them has no rows of it."""
    here, there = (columns(connection, catalog, table) for catalog in ("a", "b"))
    if not here or not there:
        return None
    key = [name for name in TABLES[table].key if name not in IDS and name in here and name in there]
    n, other = (connection.execute(f"SELECT count(*) FROM {catalog}.{table}").fetchone() for catalog in ("a", "b"))
    if not n or not other or not n[0] or not other[0]:
        return None
    values = [name for name in here if name in there and name not in IDS and name not in key]
    decimal = [name for name in values if here[name] in DECIMAL and there[name] in DECIMAL]
    apart = [
        f"max(abs(x.{name} - y.{name}) / greatest(1, abs(x.{name}), abs(y.{name}))) "
        f"FILTER (isfinite(x.{name} - y.{name}))"
        for name in decimal
    ]
    others = [name for name in values if name not in decimal]
    differ = [f"count(*) FILTER (x.{name} IS DISTINCT FROM y.{name})" for name in others]
    differ += [f"count(*) FILTER (isfinite(x.{name}) IS DISTINCT FROM isfinite(y.{name}))" for name in decimal]
    same = [f"x.{name} IS NOT DISTINCT FROM y.{name}" for name in key]
    same += ["(x.corpus_id IS NULL) = (y.corpus_id IS NULL)"] if "corpus_id" in TABLES[table].key else []
    paired = " AND ".join(same) or "true"
    query = f"SELECT {', '.join(['count(*)', *apart, *differ])} FROM a.{table} x JOIN b.{table} y ON {paired}"
    (both, *found) = connection.execute(query).fetchall()[0]
    differences = {name: value for name, value in zip(decimal, found, strict=False) if value is not None}
    unequal = {name: count for name, count in zip(others + decimal, found[len(decimal) :], strict=True) if count}
    largest = max(differences.items(), key=lambda one: one[1], default=None)
    return {"table": table, "rows": [n[0], other[0]], "paired": both, "largest": largest, "unequal": unequal}


def lines(store: Path, other: Path) -> Iterator[dict[str, object]]:
    """A line a table."""
    with duckdb.connect() as connection:
        for name, root in (("a", store), ("b", other)):
            connection.execute(f"ATTACH {quoted(published_path(root / 'catalog.duckdb'))} AS {name} (READ_ONLY)")
        for name, root in (("a", store), ("b", other)):
            for table in ("checkpoints", "corpora"):
                n = connection.execute(f"SELECT count(*) FROM {name}.{table}").fetchall()[0][0]
                if n > 1:
                    raise ValueError(f"{root} has {n} {table}; expected one, so that rows can be paired")
        for table in sorted(TABLES.keys() - NO_RESULTS):
            if (line := compared(connection, table)) is not None:
                yield line


def main() -> None:
    """Compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("other", type=Path)
    asked = parser.parse_args()
    for line in lines(asked.store, asked.other):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
