"""What a feature contributes to, summed over samples."""

from pathlib import Path

import duckdb
import pytest

from storage.catalog.contribution_edges import replace_contribution_edges
from storage.catalog.database import open_catalog

# layer, feature, sample, kind, source_layer, source_index, source_position, score, share
CAUSES = [
    (2, 7, 0, "feature", 0, 3, 4, 1.0, 0.25),
    (2, 7, 0, "feature", 0, 3, 5, 2.0, 0.5),  # of the same sample, from another token
    (2, 7, 1, "feature", 0, 3, 4, 5.0, 0.25),
    (1, 9, 0, "feature", 0, 3, 4, 4.0, 0.125),
    (2, 7, 1, "feature", 1, 9, 4, 1.0, 0.75),
    (2, 7, 1, "head", 0, 3, 4, 9.0, 1.0),
    (2, 7, 1, "token", None, 3, 4, 9.0, 1.0),
]
EDGES = [(0, 3, 1, 9, 1, 4.0, 0.125, "jacobian"), (0, 3, 2, 7, 2, 4.0, 0.5, "jacobian"),
         (1, 9, 2, 7, 1, 1.0, 0.75, "jacobian")]  # fmt: skip


def put(connection: duckdb.DuckDBPyConnection, checkpoint: str, causes: list[tuple[object, ...]]) -> None:
    columns = "layer, feature, sample, kind, source_layer, source_index, source_position, score, share"
    connection.executemany(
        f"INSERT INTO contributions (checkpoint_id, corpus_id, mode, {columns}) "
        f"VALUES ('{checkpoint}', 'corpus', 'jacobian', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        causes,
    )


def edges(connection: duckdb.DuckDBPyConnection, checkpoint: str) -> list[tuple[object, ...]]:
    """In the order in which they are stored."""
    query = "SELECT * EXCLUDE (checkpoint_id, corpus_id) FROM contribution_edges WHERE checkpoint_id = ?"
    return connection.execute(query, [checkpoint]).fetchall()


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.duckdb"
    with open_catalog(path, write=True) as connection:
        put(connection, "a", CAUSES)
        put(connection, "b", CAUSES[:1])
    return path


def test_samples_are_counted_and_averaged_and_sources_come_first(catalog: Path) -> None:
    with open_catalog(catalog, write=True) as connection:
        replace_contribution_edges(connection, "a", "corpus")
        replace_contribution_edges(connection, "a", "corpus")  # twice is once
        assert edges(connection, "a") == EDGES
        assert edges(connection, "b") == []
        connection.execute("DELETE FROM contributions WHERE checkpoint_id = 'a' AND source_layer = 0")
        replace_contribution_edges(connection, "a", "corpus")
        assert edges(connection, "a") == EDGES[2:]


def test_a_catalog_of_an_earlier_version_gains_them(catalog: Path) -> None:
    with duckdb.connect(catalog) as connection:
        connection.execute("DROP TABLE contribution_edges; UPDATE schema_version SET version = 19")
    with open_catalog(catalog, write=True) as connection:
        assert edges(connection, "a") == EDGES
        assert [row[:5] for row in edges(connection, "b")] == [(0, 3, 2, 7, 1)]
