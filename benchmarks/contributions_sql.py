"""How long SQL over the contributions of every feature takes, on a table as large as the disk allows.

    python -m benchmarks.contributions_sql FOLDER [--layers 8] [--width 16384] [--samples 40] [--json]

Writes FOLDER/catalog.duckdb: the table `contributions`, loaded layer by layer and within a layer by feature, as
runs load it, with 21 features, heads and tokens and two sums for each sample; and `contribution_edges`, which is
computed from it (`edges`: its rows, its processor seconds and what it adds to the file; nearly every contribution is
drawn as an edge of its own, more than in a real table). Of each query, for features drawn at
random: milliseconds in a new connection with nothing of the file in memory (`cold`: the system is asked to forget it
before each), and again in that connection (`warm`), the median and the slowest of so many; and `read`, the rows of the
table's row groups that it scanned (DuckDB's profile), of `rows`. Milliseconds are wall time: best on a quiet machine.
"""

import argparse
import json
import os
import time
from pathlib import Path

import duckdb
import numpy as np

from storage.catalog.contribution_edges import replace_contribution_edges
from storage.catalog.database import bring_forward, connect
from storage.store import whole_file

N_KINDS, N_EACH = 3, 7

QUERIES = {
    "of one feature": "SELECT * FROM contributions WHERE checkpoint_id = 'large' AND layer = ? AND feature = ?",
    "its causes over all samples": """
        SELECT source_layer, source_index, count(*) AS n, avg(share) AS mean_share FROM contributions
        WHERE checkpoint_id = 'large' AND layer = ? AND feature = ? AND kind = 'feature'
        GROUP BY ALL ORDER BY sum(share) DESC LIMIT 20""",
    "what it causes": """
        SELECT target_layer, target_feature, n_samples, mean_share FROM contribution_edges
        WHERE checkpoint_id = 'large' AND source_layer = ? AND source_feature = ?
        ORDER BY n_samples * mean_share DESC LIMIT 20""",
}


def fill(connection: duckdb.DuckDBPyConnection, layer: int, width: int, n_samples: int) -> None:
    """All rows of one layer's features, in order."""
    drawn, n_rows = f"hash({layer}, n)", N_KINDS * N_EACH + 2
    connection.execute(f"""
        INSERT INTO contributions BY NAME
        SELECT 'large' AS checkpoint_id, 'corpus' AS corpus_id, {layer}::SMALLINT AS layer,
               (n // {n_samples * n_rows})::INTEGER AS feature, (n // {n_rows} % {n_samples})::INTEGER AS sample,
               CASE WHEN i < 7 THEN 'feature' WHEN i < 14 THEN 'head' WHEN i < 21 THEN 'token' WHEN i = 21 THEN 'error'
                    ELSE 'bias' END AS kind,
               CASE WHEN i < 14 THEN {drawn} % {max(1, layer)} END::SMALLINT AS source_layer,
               CASE WHEN i < 21 THEN {drawn} // 64 % {width} END::INTEGER AS source_index,
               CASE WHEN i < 21 THEN {drawn} // 4096 % 128 END::INTEGER AS source_position,
               CASE WHEN i < 21 THEN -({drawn} // 4096 % 64)::INTEGER END AS relative_position,
               {drawn}::DOUBLE / 1e19 AS score, CASE WHEN i < 21 THEN {drawn} % 1000003 / 3e6 END AS share,
               CASE WHEN kind = 'head' THEN 'direct' ELSE 'jacobian' END AS mode
        FROM (SELECT range AS n, range % {n_rows} AS i FROM range({width * n_samples * n_rows}))""")


def add_edges(connection: duckdb.DuckDBPyConnection, path: Path) -> dict[str, object]:
    """Compute `contribution_edges`, and what that costs."""
    before, began = path.stat().st_size, time.process_time()
    replace_contribution_edges(connection, "large", "corpus")
    connection.execute("CHECKPOINT")
    took, added = time.process_time() - began, path.stat().st_size - before
    row = connection.execute("SELECT count(*) FROM contribution_edges").fetchone()
    assert row is not None
    return {"benchmark": "contributions_sql", "edges": row[0], "s": round(took, 1), "gb": round(added / 1e9, 3)}


def forget(path: Path) -> None:
    """Ask the system to drop what it has of a file in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def scanned(connection: duckdb.DuckDBPyConnection, query: str, values: list[int]) -> int:
    """Rows of the row groups that a query reads."""
    row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT json) {query}", values).fetchone()
    assert row is not None

    def rows(node: dict[str, object]) -> int:
        children = node.get("children", [])
        assert isinstance(children, list)
        return int(str(node.get("rows_scanned", 0))) + sum(rows(child) for child in children)

    return sum(rows(node) for node in json.loads(row[1])["operator"])


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, value in (("layers", 8), ("width", 16_384), ("samples", 40), ("features", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse_args()
    catalog: Path = given.folder / "catalog.duckdb"
    if not catalog.exists():
        given.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(catalog) as partial, duckdb.connect(partial) as connection:
            connection.execute("SET memory_limit = '2GB'; SET threads = 1")
            bring_forward(connection)
            for layer in range(given.layers):
                fill(connection, layer, given.width, given.samples)
            connection.execute("CHECKPOINT")
            figures = add_edges(connection, partial)
        print(json.dumps(figures) if given.json else figures, flush=True)
    with connect(catalog, write=False) as connection:
        row = connection.execute("SELECT count(*) FROM contributions").fetchone()
    assert row is not None
    random = np.random.default_rng(0)
    for name, query in QUERIES.items():
        cold, warm, read = [], [], []
        for _ in range(given.features):
            values = [int(random.integers(given.layers)), int(random.integers(given.width))]
            forget(catalog)
            began = time.perf_counter()
            with connect(catalog, write=False) as connection:
                connection.execute(query, values).fetchall()
                cold.append(1e3 * (time.perf_counter() - began))
                began = time.perf_counter()
                connection.execute(query, values).fetchall()
                warm.append(1e3 * (time.perf_counter() - began))
                read.append(scanned(connection, query, values))
        figures = {
            "benchmark": "contributions_sql", "query": name, "rows": row[0],
            "gb": round(catalog.stat().st_size / 1e9, 2),
            "cold": round(float(np.median(cold)), 1), "cold_most": round(max(cold), 1),
            "warm": round(float(np.median(warm)), 1), "warm_most": round(max(warm), 1), "read": int(np.median(read)),
        }  # fmt: skip
        print(json.dumps(figures) if given.json else figures, flush=True)


if __name__ == "__main__":
    main()
