"""The table `contribution_edges`: contributions of features, summed over samples and ordered by the contributing one.

`contributions` is ordered by the feature that fired, so the opposite question, what a feature contributes to, would
read all of it.
"""

import duckdb

_OF_SOURCE_LAYER = """
    INSERT INTO contribution_edges BY NAME
    WITH of_sample AS (
        SELECT source_index, layer, feature, sample, sum(score) AS score, sum(share) AS share, any_value(mode) AS mode
        FROM contributions
        WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND kind = 'feature' AND source_layer = $layer
        GROUP BY source_index, layer, feature, sample
    )
    SELECT $checkpoint AS checkpoint_id, $corpus AS corpus_id, $layer::SMALLINT AS source_layer,
           source_index AS source_feature, layer AS target_layer, feature AS target_feature, count(*) AS n_samples,
           avg(score) AS mean_score, avg(share) AS mean_share, any_value(mode) AS mode
    FROM of_sample GROUP BY source_index, layer, feature ORDER BY source_index, layer, feature
"""


def replace_contribution_edges(connection: duckdb.DuckDBPyConnection, checkpoint_id: str, corpus_id: str) -> None:
    """Compute a checkpoint's rows on a corpus anew from its contributions, one source layer at a time, by which the
    memory is bounded: one layer's contributions."""
    whose = {"checkpoint": checkpoint_id, "corpus": corpus_id}
    of = "checkpoint_id = $checkpoint AND corpus_id = $corpus"
    connection.execute(f"DELETE FROM contribution_edges WHERE {of}", whose)
    query = f"SELECT DISTINCT source_layer FROM contributions WHERE {of} AND kind = 'feature' ORDER BY source_layer"
    for (layer,) in connection.execute(query, whose).fetchall():
        connection.execute(_OF_SOURCE_LAYER, {**whose, "layer": layer})


def add_contribution_edges(connection: duckdb.DuckDBPyConnection) -> None:
    """Compute the rows of all contributions that have none, because an earlier version loaded them."""
    loaded, summed = "SELECT checkpoint_id, corpus_id FROM contributions", "SELECT DISTINCT checkpoint_id, corpus_id"
    query = f"{loaded} WHERE kind = 'feature' GROUP BY ALL EXCEPT {summed} FROM contribution_edges ORDER BY ALL"
    for checkpoint_id, corpus_id in connection.execute(query).fetchall():
        replace_contribution_edges(connection, checkpoint_id, corpus_id)
