"""Query several stores together: their tables combined, and views that compare their models."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flows.reports.query import MEMORY, Format, ask_of

if TYPE_CHECKING:
    import duckdb

MODELS = """
    CREATE TEMP VIEW models AS
    SELECT c.store, c.name, c.family, c.activation, c.n_layers, c.d_model, c.d_transcoder,
           round(q.explained_variance, 3) AS explained_variance, round(q.l0, 1) AS l0,
           f.n_features, round(f.dead_share, 4) AS dead_share, f.median_density, d.n_described,
           round(s.clarity, 3) AS clarity, c.checkpoint_id
    FROM checkpoints c
    LEFT JOIN (SELECT store, checkpoint_id, avg(explained_variance) AS explained_variance, avg(l0) AS l0
               FROM transcoder_quality GROUP BY ALL) q USING (store, checkpoint_id)
    LEFT JOIN (SELECT store, checkpoint_id, count(*) AS n_features, avg(is_dead::INTEGER) AS dead_share,
                      median(density) AS median_density FROM features GROUP BY ALL) f USING (store, checkpoint_id)
    LEFT JOIN (SELECT store, checkpoint_id, count(DISTINCT (layer, feature)) AS n_described
               FROM descriptions WHERE cluster = -1 GROUP BY ALL) d USING (store, checkpoint_id)
    LEFT JOIN (SELECT store, checkpoint_id, avg(value) AS clarity FROM scores
               WHERE metric = 'clarity' AND method NOT LIKE 'control:%' GROUP BY ALL) s USING (store, checkpoint_id)
    ORDER BY c.store, c.name"""

BY_DEPTH = """
    CREATE TEMP VIEW by_depth AS
    SELECT c.store, c.name, f.layer, round(f.layer / greatest(c.n_layers - 1, 1), 3) AS depth, f.n_features,
           round(f.dead_share, 4) AS dead_share, f.median_density, s.method, round(s.clarity, 3) AS clarity, s.n_judged
    FROM checkpoints c
    JOIN (SELECT store, checkpoint_id, layer, count(*) AS n_features, avg(is_dead::INTEGER) AS dead_share,
                 median(density) AS median_density FROM features GROUP BY ALL) f USING (store, checkpoint_id)
    LEFT JOIN (SELECT store, checkpoint_id, layer, method, avg(value) AS clarity, count(value) AS n_judged FROM scores
               WHERE metric = 'clarity' AND method NOT LIKE 'control:%' GROUP BY ALL) s
        USING (store, checkpoint_id, layer)
    ORDER BY c.store, c.name, f.layer, s.method"""


def ask_several(stores: Sequence[Path], sql: str, format: Format, output: Path | None, timeout_s: float) -> None:
    """Query the published catalogs of several stores, read-only and without access to other files.

    Raises:
        ValueError: fewer than two stores are given, one has no catalog, or as for one store.
    """
    if format is Format.parquet and output is None:
        raise ValueError("attach: --format parquet needs --output FILE")
    with attached(stores) as connection:
        ask_of(connection, sql, format, output, timeout_s)


@contextmanager
def attached(stores: Sequence[Path]) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A connection with every table of several stores as a view, with the column `store` first, and the views above.

    Raises:
        ValueError: fewer than two stores are given, one is given twice, or one has no catalog, or one of an earlier
            version in a folder that cannot be written.
    """
    import duckdb

    from storage.catalog.database import quoted
    from storage.catalog.published import current_version, newest
    from storage.catalog.tables import TABLES

    places = [store.resolve() for store in stores]
    if len(places) < 2 or len(set(places)) < len(places):
        raise ValueError("attach: name two stores or more, each once")
    with ExitStack() as to_end:
        connection = duckdb.connect(config={"autoinstall_known_extensions": "false", "memory_limit": MEMORY})
        to_end.callback(connection.close)
        for number, place in enumerate(places):
            catalog = place / "catalog.duckdb"
            if not catalog.is_file():
                raise ValueError(f"no catalog at {catalog}; has a run finished in this store?")
            connection.execute(f"ATTACH {quoted(newest(catalog))} AS store_{number} (READ_ONLY)")
            connection.execute(f"USE store_{number}")
            current_version(connection, catalog)
        connection.execute("USE memory")
        for table in TABLES:
            parts = [f"SELECT ? AS store, * FROM store_{number}.{table}" for number in range(len(places))]
            query = " UNION ALL BY NAME ".join(parts)
            for name in _names(places):
                query = query.replace("?", f"'{name}'", 1)
            connection.execute(f"CREATE TEMP VIEW {table} AS {query}")
        connection.execute(MODELS)
        connection.execute(BY_DEPTH)
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        yield connection


def _names(places: Sequence[Path]) -> list[str]:
    """The names of the stores: their folders' names, or whole paths if two are equal."""
    names = [place.name for place in places]
    shown = names if len(set(names)) == len(names) else [str(place) for place in places]
    return [name.replace("'", "''") for name in shown]
