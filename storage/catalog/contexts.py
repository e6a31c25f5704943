"""The view `contexts`: every sampled activation with the text around it and the tokens that caused it."""

TOKENS_BEFORE, TOKENS_AFTER = 48, 24
"""Largest number of tokens of the document shown on either side of the firing token."""

LEAST_SHARE = 0.1
"""A token counts as a cause if it has this share of all contributions of heads and embeddings, as in input patterns."""

MOST_CAUSES = 8

_SAMPLE = "checkpoint_id, corpus_id, layer, feature, sample"

# The same rule as `interp.circuitlens.input_patterns.strongest_sources`; a test compares the two.
_CAUSES = f"""
    SELECT {_SAMPLE}, list({{'position': source_position, 'relative_position': relative_position, 'share': share}}
                           ORDER BY share DESC, source_position DESC) AS causes
    FROM (
        SELECT *, row_number() OVER (PARTITION BY {_SAMPLE} ORDER BY share DESC, source_position DESC) AS rank
        FROM (
            SELECT *, score / sum(score) OVER (PARTITION BY {_SAMPLE}) AS share
            FROM (
                SELECT {_SAMPLE}, source_position, relative_position, sum(score) AS score FROM contributions
                WHERE kind IN ('head', 'token') AND source_position IS NOT NULL GROUP BY ALL HAVING sum(score) > 0
            )
        ) WHERE share >= {LEAST_SHARE}
    ) WHERE rank <= {MOST_CAUSES} GROUP BY ALL"""

# The same windows as `interp.descriptions.window.text_around`, which shows no BOS; a test compares the two.
# Lists are counted from 1, positions from 0. A character made of several tokens is on the first of them, and the
# others are empty: so a firing token's text begins at the last one up to it that is not.
_PLACED = f"""
    SELECT *, greatest(document_first, position + 1 - {TOKENS_BEFORE}) AS first,
           least(document_last, position + 1 + {TOKENS_AFTER}) AS last
    FROM (
        SELECT s.*, q.tokens AS row, q.documents[position + 1] AS document,
               list_position(q.documents, q.documents[position + 1]) AS document_first,
               len(q.documents) + 1 - list_position(list_reverse(q.documents), q.documents[position + 1])
                   AS document_last,
               position + 2 - list_position(
                   list_transform(list_reverse(q.tokens[greatest(1, position - 6):position + 1]), lambda t: t <> ''),
                   true) AS start
        FROM samples s LEFT JOIN sequences q USING (corpus_id, sequence)
    )"""

_ACTIVATIONS = """
    CASE WHEN row IS NOT NULL AND n.offsets IS NOT NULL THEN list_transform(
        range(first, last + 1),
        lambda i: coalesce(n.activations[list_position(n.offsets, i - 1 - position)], 0)::FLOAT
    ) END"""

CONTEXTS = (
    "One sampled activation in its text: `before`, `token` and `after` follow one another, at most "
    f"{TOKENS_BEFORE} tokens before the firing one and {TOKENS_AFTER} after it, all of its document, whose number in "
    "the corpus is `document`. `tokens` is the same, token by token from the row's position `first_position` on; the "
    "firing one is at `position` of the row `sequence`. `causes` are the tokens that the activation came from by heads "
    f"and embeddings, those with {LEAST_SHARE:.0%} of that or more, the strongest first: `token`, `position`, "
    "`relative_position` and `share`; null where not attributed. `activations` are the feature's at `tokens`; null "
    "unless `activations.keep` is all. Texts are null where `corpora.has_text` is not true.",
    f"""
        SELECT w.checkpoint_id, w.corpus_id, w.layer, w.feature, w.sample, cluster, quantile_bin, activation, document,
               array_to_string(row[first:start - 1], '') AS before,
               array_to_string(row[start:position + 1], '') AS token,
               array_to_string(row[position + 2:last], '') AS after,
               row[first:last] AS tokens, {_ACTIVATIONS} AS activations,
               list_transform(causes, lambda c: {{'token': row[c.position + 1], 'position': c.position,
                   'relative_position': c.relative_position, 'share': c.share}}) AS causes,
               sequence, position, CAST(first - 1 AS INTEGER) AS first_position
        FROM ({_PLACED}) w LEFT JOIN ({_CAUSES}) USING ({_SAMPLE})
        LEFT JOIN sample_neighbours n USING ({_SAMPLE})
        """,
)
"""The view's description and its query."""
