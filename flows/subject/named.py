"""A checkpoint of the catalog by its id or name."""

import duckdb


def chosen_checkpoint(connection: duckdb.DuckDBPyConnection, wanted: str | None) -> tuple[str, str, int, int]:
    """(checkpoint_id, name, n_layers, d_transcoder) of the checkpoint of that id or name, or of the only one that holds
    real features.

    Raises:
        ValueError: none or several fit.
    """
    query = "SELECT checkpoint_id, name, n_layers, d_transcoder FROM checkpoints"
    known = connection.execute(query).fetchall()
    fake = {row[0] for row in connection.execute("SELECT DISTINCT decoy_checkpoint_id FROM decoys").fetchall()}
    rows = [row for row in known if (row[0] not in fake if wanted is None else wanted in row[:2])]
    if len(rows) != 1:
        names = ", ".join(f"{row[0]} ({row[1]})" for row in known) or "none"
        raise ValueError(f"--checkpoint: name one of {names}; found {len(rows)} that fit '{wanted or ''}'")
    return rows[0]
