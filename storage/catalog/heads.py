"""Attention heads over a whole model, from attributed samples.

Queries of views, and of pages about one head. `of` is a condition on rows of `contributions` (or `qk_contributions`),
which DuckDB would not push down through the aggregates.
"""


def head_features(of: str) -> str:
    """Query for the features that heads contribute most to."""
    return f"""
        WITH attributed AS (
            SELECT checkpoint_id, corpus_id, layer, feature, n FROM scores
            WHERE method = 'circuitlens' AND metric = 'completeness_error'
        ), reached AS (
            SELECT checkpoint_id, corpus_id, layer, sum(sum(n)) OVER (
                PARTITION BY checkpoint_id, corpus_id ORDER BY layer DESC
            ) AS n FROM attributed GROUP BY checkpoint_id, corpus_id, layer
        ), of_sample AS (
            SELECT checkpoint_id, corpus_id, source_layer AS head_layer, source_index AS head, layer, feature, sample,
                   sum(score) AS score, sum(share) AS share, arg_max(relative_position, share) AS strongest
            FROM contributions WHERE kind = 'head' AND {of}
            GROUP BY checkpoint_id, corpus_id, source_layer, source_index, layer, feature, sample
        ), carried AS (
            SELECT checkpoint_id, corpus_id, head_layer, head, layer, feature, count(*) AS n_samples,
                   avg(score) AS mean_score, avg(share) AS mean_share, mode(strongest) AS usual_offset
            FROM of_sample GROUP BY checkpoint_id, corpus_id, head_layer, head, layer, feature
        ), rated AS (
            SELECT c.checkpoint_id, c.corpus_id, head_layer, head, c.layer, c.feature, n_samples,
                   n_samples / a.n AS rate,
                   sum(n_samples) OVER (PARTITION BY c.checkpoint_id, c.corpus_id, head_layer, head) / r.n AS base_rate,
                   mean_score, mean_share, usual_offset
            FROM carried c
            JOIN attributed a USING (checkpoint_id, corpus_id, layer, feature)
            ASOF JOIN reached r ON (r.checkpoint_id, r.corpus_id) = (c.checkpoint_id, c.corpus_id)
                AND c.head_layer <= r.layer
        )
        SELECT *, rate / base_rate AS lift FROM rated
    """


def head_offsets(of: str) -> str:
    """Query for the distances from which heads read."""
    return f"""
        SELECT checkpoint_id, corpus_id, source_layer AS head_layer, source_index AS head,
               relative_position AS "offset", count(*) AS n, sum(score) AS score,
               count(*) / sum(count(*)) OVER (
                   PARTITION BY checkpoint_id, corpus_id, source_layer, source_index
               ) AS share
        FROM contributions WHERE kind = 'head' AND {of}
        GROUP BY checkpoint_id, corpus_id, source_layer, source_index, relative_position
    """


def head_reasons(of: str) -> str:
    """Query for the pairs of sources that make heads attend where they do."""
    return f"""
        WITH pairs AS (
            SELECT checkpoint_id, corpus_id, head_layer, head, query_kind, query_layer, query_index, key_kind,
                   key_layer, key_index, count(*) AS n, avg(score) AS mean_score,
                   mode(query_source_position - query_position) AS query_offset,
                   mode(key_source_position - key_position) AS key_offset
            FROM qk_contributions WHERE {of} GROUP BY ALL
        )
        SELECT p.*, q.text AS query_token, k.text AS key_token FROM pairs p
        LEFT JOIN tokens q ON q.checkpoint_id = p.checkpoint_id AND query_kind = 'token' AND q.token_id = query_index
        LEFT JOIN tokens k ON k.checkpoint_id = p.checkpoint_id AND key_kind = 'token' AND k.token_id = key_index
    """
