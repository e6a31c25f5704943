"""Descriptions compared with published ones (`import`): the views `imported_pairs` and `method_agreement`."""

AGREEMENT_VIEWS = {
    "imported_pairs": (
        "One feature's description by one method and an imported one (`import`): the overlap of their words and "
        "validated tokens, and the scores of both.",
        """
        WITH pairs AS (
            SELECT a.checkpoint_id, b.checkpoint_id AS imported_checkpoint_id
            FROM checkpoints a JOIN checkpoints b USING (weights_sha256)
            WHERE a.checkpoint_id <> b.checkpoint_id
              AND b.checkpoint_id IN (SELECT checkpoint_id FROM descriptions WHERE explainer = 'authors')
              AND a.checkpoint_id NOT IN (SELECT checkpoint_id FROM descriptions WHERE explainer = 'authors')
        ), worded AS (
            SELECT checkpoint_id, layer, feature, method, explainer, text,
                   list_distinct(regexp_extract_all(lower(text), '[\\pL\\pN]+')) AS words
            FROM descriptions WHERE cluster = -1
        ), validated AS (
            SELECT checkpoint_id, layer, feature, list(DISTINCT token_id) AS tokens
            FROM token_candidates WHERE side = 'input' AND validated AND source_layer IS NULL GROUP BY ALL
        ), scored AS (
            SELECT checkpoint_id, layer, feature, method, explainer,
                   avg(value) FILTER (metric = 'clarity') AS clarity,
                   avg(value) FILTER (metric = 'responsiveness') AS responsiveness,
                   avg(value) FILTER (metric = 'purity') AS purity,
                   avg(value) FILTER (metric = 'faithfulness') AS faithfulness
            FROM scores GROUP BY ALL
        )
        SELECT p.*, a.layer, a.feature, a.method, a.explainer, b.method AS imported_method, a.text,
               b.text AS imported_text,
               len(list_intersect(a.words, b.words))
               / nullif(len(list_distinct(list_concat(a.words, b.words))), 0) AS word_overlap,
               CASE WHEN own.checkpoint_id IS NOT NULL AND theirs.checkpoint_id IS NOT NULL
                    THEN coalesce(len(list_intersect(v.tokens, w.tokens)), 0)
                         / nullif(len(list_distinct(list_concat(v.tokens, w.tokens))), 0) END AS validated_overlap,
               s.clarity, s.responsiveness, s.purity, s.faithfulness, t.clarity AS their_clarity,
               t.responsiveness AS their_responsiveness, t.purity AS their_purity,
               t.faithfulness AS their_faithfulness
        FROM pairs p JOIN worded a ON a.checkpoint_id = p.checkpoint_id
        JOIN worded b ON (b.checkpoint_id, b.layer, b.feature) = (p.imported_checkpoint_id, a.layer, a.feature)
        LEFT JOIN (SELECT DISTINCT checkpoint_id FROM validated) own ON own.checkpoint_id = a.checkpoint_id
        LEFT JOIN (SELECT DISTINCT checkpoint_id FROM validated) theirs
          ON theirs.checkpoint_id = b.checkpoint_id
        LEFT JOIN validated v ON (v.checkpoint_id, v.layer, v.feature) = (a.checkpoint_id, a.layer, a.feature)
        LEFT JOIN validated w ON (w.checkpoint_id, w.layer, w.feature) = (b.checkpoint_id, b.layer, b.feature)
        LEFT JOIN scored s ON (s.checkpoint_id, s.layer, s.feature, s.method, s.explainer)
           = (a.checkpoint_id, a.layer, a.feature, a.method, a.explainer)
        LEFT JOIN scored t ON (t.checkpoint_id, t.layer, t.feature, t.method, t.explainer)
           = (b.checkpoint_id, b.layer, b.feature, b.method, b.explainer)
        """,
    ),
    "method_agreement": (
        "One method of description in one layer and an imported one (`import`), over the features that both "
        "describe: the overlap of their validated tokens and of their words, and the correlation of their scores. "
        "`circuit-insights agreement` adds the similarity of the texts' embeddings.",
        """
        SELECT checkpoint_id, imported_checkpoint_id, layer, method, explainer, imported_method,
               count(*) AS n_features, avg(word_overlap) AS word_overlap, avg(validated_overlap) AS validated_overlap,
               corr(clarity, their_clarity) AS clarity_correlation,
               corr(responsiveness, their_responsiveness) AS responsiveness_correlation,
               corr(purity, their_purity) AS purity_correlation,
               corr(faithfulness, their_faithfulness) AS faithfulness_correlation,
               count(clarity + their_clarity) AS n_scored
        FROM imported_pairs GROUP BY checkpoint_id, imported_checkpoint_id, layer, method, explainer, imported_method
        """,
    ),
}
