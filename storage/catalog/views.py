"""The catalog's views: the meaning of a row, and the query."""

from storage.catalog.agreement_views import AGREEMENT_VIEWS
from storage.catalog.contexts import CONTEXTS
from storage.catalog.graph_views import GRAPH_VIEWS
from storage.catalog.heads import head_features, head_offsets, head_reasons
from storage.catalog.student import t_quantile
from storage.catalog.verdict_views import VERDICT_VIEWS

VIEWS = {
    "contexts": CONTEXTS,
    "feature_card": (
        "One described feature: its descriptions, validated tokens, promoted tokens and strongest upstream features.",
        """
        SELECT d.checkpoint_id, d.layer, d.feature,
               max(d.text) FILTER (d.method = 'weightlens') AS weightlens,
               max(d.text) FILTER (d.method = 'weightlens+out') AS weightlens_out,
               any_value(i.tokens) AS input_tokens,
               any_value(o.tokens) AS output_tokens,
               any_value(e.upstream) AS upstream
        FROM descriptions d
        LEFT JOIN (
            SELECT c.checkpoint_id, layer, feature, list(t.text ORDER BY c.rank) AS tokens
            FROM token_candidates c JOIN tokens t USING (checkpoint_id, token_id)
            WHERE side = 'input' AND validated GROUP BY ALL
        ) i USING (checkpoint_id, layer, feature)
        LEFT JOIN (
            SELECT c.checkpoint_id, layer, feature, list(t.text ORDER BY c.rank) AS tokens
            FROM token_candidates c JOIN tokens t USING (checkpoint_id, token_id)
            WHERE side = 'output' AND sign = 1 GROUP BY ALL
        ) o USING (checkpoint_id, layer, feature)
        LEFT JOIN (
            SELECT checkpoint_id, target_layer AS layer, target_feature AS feature,
                   list({'layer': source_layer, 'feature': source_feature, 'virtual_weight': virtual_weight}
                        ORDER BY virtual_weight DESC) AS upstream
            FROM feature_edges WHERE corpus_id IS NULL GROUP BY ALL
        ) e USING (checkpoint_id, layer, feature)
        GROUP BY ALL
        """,
    ),
    "drift": (
        "One feature between two checkpoints, with its WeightLens description before and after. `agreement` is the "
        "share of the descriptions' tokens that both have, 0 where only one is described, null where neither is. "
        "`surprise` is `description changed` where the weights were kept and fewer than half agree, "
        "`description stayed` where they moved and at least half do.",
        """
        WITH described AS (
            SELECT checkpoint_id, layer, feature, text, tokens FROM descriptions
            WHERE method = 'weightlens' AND explainer = 'tokens' AND cluster = -1 AND corpus_id IS NULL
        ), compared AS (
            SELECT m.*, a.text AS text_a, b.text AS text_b,
                   CASE WHEN a.tokens IS NOT NULL OR b.tokens IS NOT NULL
                        THEN coalesce(len(list_intersect(a.tokens, b.tokens)), 0)
                             / len(list_distinct(list_concat(a.tokens, b.tokens))) END AS agreement
            FROM feature_matches m
            LEFT JOIN described a ON (a.checkpoint_id, a.layer, a.feature) = (m.checkpoint_a, m.layer, m.feature_a)
            LEFT JOIN described b ON (b.checkpoint_id, b.layer, b.feature) = (m.checkpoint_b, m.layer, m.feature_b)
        )
        SELECT *, CASE WHEN fate = 'kept' AND agreement < 0.5 THEN 'description changed'
                       WHEN fate = 'moved' AND agreement >= 0.5 THEN 'description stayed' END AS surprise
        FROM compared
        """,
    ),
    "feature_origins": (
        "One feature of a compared checkpoint, and the checkpoint of its series in which it appeared: followed back "
        "from each checkpoint to the latest earlier one (by step, then by time of ingestion) that it was compared "
        "with. `n_comparisons` is the number of comparisons it was followed through; 0: it appeared here.",
        """
        WITH RECURSIVE earlier AS (
            SELECT m.checkpoint_b, arg_max(m.checkpoint_a, (coalesce(a.step, 0), a.ingested_at)) AS checkpoint_a
            FROM (SELECT DISTINCT checkpoint_a, checkpoint_b FROM feature_matches) m
            JOIN checkpoints a ON a.checkpoint_id = m.checkpoint_a
            JOIN checkpoints b ON b.checkpoint_id = m.checkpoint_b
            WHERE (coalesce(a.step, 0), a.ingested_at) < (coalesce(b.step, 0), b.ingested_at)
            GROUP BY m.checkpoint_b
        ), steps AS (
            SELECT m.* FROM feature_matches m JOIN earlier USING (checkpoint_a, checkpoint_b)
            WHERE feature_b IS NOT NULL
        ), followed AS (
            SELECT checkpoint_b AS checkpoint_id, layer, feature_b AS feature,
                   checkpoint_b AS at_checkpoint, feature_b AS at_feature, 0 AS n_comparisons
            FROM steps
            UNION ALL
            SELECT f.checkpoint_id, f.layer, f.feature, s.checkpoint_a, s.feature_a, f.n_comparisons + 1
            FROM followed f JOIN steps s
              ON (s.checkpoint_b, s.layer, s.feature_b) = (f.at_checkpoint, f.layer, f.at_feature)
            WHERE s.feature_a IS NOT NULL
        ), first AS (
            SELECT checkpoint_id, layer, feature, arg_max(at_checkpoint, n_comparisons) AS first_checkpoint,
                   arg_max(at_feature, n_comparisons) AS first_feature, max(n_comparisons) AS n_comparisons
            FROM followed GROUP BY ALL
        )
        SELECT first.*, c.name AS first_name, c.step AS first_step
        FROM first LEFT JOIN checkpoints c ON c.checkpoint_id = first.first_checkpoint
        """,
    ),
    "relative_contributions": (
        "One token or upstream feature that is an outlier for a feature's encoder, and its share of all contributions.",
        """
        SELECT c.checkpoint_id, c.layer, c.feature, 'token' AS kind, c.token_id,
               NULL::SMALLINT AS source_layer, NULL::INTEGER AS source_feature, c.score AS contribution,
               abs(c.score) / t.absolute_contribution AS relative_contribution
        FROM token_candidates c JOIN contribution_totals t USING (checkpoint_id, layer, feature)
        WHERE c.side = 'input' AND c.source_layer IS NULL
        UNION ALL
        SELECT e.checkpoint_id, e.target_layer, e.target_feature, 'feature', NULL,
               e.source_layer, e.source_feature, e.virtual_weight,
               abs(e.virtual_weight) / t.absolute_contribution
        FROM feature_edges e JOIN contribution_totals t
          ON (t.checkpoint_id, t.layer, t.feature) = (e.checkpoint_id, e.target_layer, e.target_feature)
        WHERE e.corpus_id IS NULL
        """,
    ),
    "head_features": (
        "One feature to some of whose attributed samples a head is a significant contributor, and how much more often "
        "than to samples of other features.",
        head_features("TRUE"),
    ),
    "head_offsets": (
        "How far back a head reads for the attributed samples to which it is a significant contributor.",
        head_offsets("TRUE"),
    ),
    "head_reasons": (
        "One pair of sources that made a head attend from tokens to others, over all samples that were analysed.",
        head_reasons("TRUE"),
    ),
    "layer_summary": (
        "One layer: how many features are described, the tokens and edges behind this, and the transcoder's quality.",
        """
        SELECT c.checkpoint_id, q.layer, c.d_transcoder AS n_features,
               coalesce(d.n_described, 0) AS n_described,
               coalesce(d.n_described, 0) / c.d_transcoder AS share_described,
               coalesce(t.n_direct_tokens, 0) AS n_direct_tokens,
               coalesce(t.n_inherited_tokens, 0) AS n_inherited_tokens, coalesce(e.n_edges, 0) AS n_edges,
               q.explained_variance, q.l0, q.dead_share, q.loss_replaced - q.loss AS loss_increase
        FROM checkpoints c
        JOIN transcoder_quality q USING (checkpoint_id)
        LEFT JOIN (
            SELECT checkpoint_id, layer, count(*) AS n_described FROM descriptions
            WHERE method = 'weightlens' GROUP BY ALL
        ) d USING (checkpoint_id, layer)
        LEFT JOIN (
            SELECT checkpoint_id, layer, count(*) FILTER (source_layer IS NULL) AS n_direct_tokens,
                   count(*) FILTER (source_layer IS NOT NULL) AS n_inherited_tokens
            FROM token_candidates WHERE validated GROUP BY ALL
        ) t USING (checkpoint_id, layer)
        LEFT JOIN (
            SELECT checkpoint_id, target_layer AS layer, count(*) AS n_edges FROM feature_edges
            WHERE corpus_id IS NULL GROUP BY ALL
        ) e USING (checkpoint_id, layer)
        """,
    ),
    "method_comparison": (
        "One method of description in one layer by one metric: its mean over the features that it describes with a 95% "
        "interval, its mean over those that every method describes (`common_mean`, for comparing several methods; "
        "for two, see `method_differences`), and the difference to its own descriptions shuffled among the features "
        "(`lift`, over the features that have both). Intervals by Student's t; there is none for a single feature.",
        f"""
        WITH real AS (
            SELECT checkpoint_id, corpus_id, layer, explainer, judge, metric, feature, method FROM scores
            WHERE value IS NOT NULL AND method NOT LIKE 'control:%'
        ), judged AS (
            SELECT * EXCLUDE (feature, method), count(DISTINCT method) AS n_methods,
                   count(DISTINCT feature) AS n_judged FROM real GROUP BY ALL
        ), of_feature AS (
            SELECT * EXCLUDE (method), count(DISTINCT method) AS n_methods FROM real GROUP BY ALL
        ), common AS (
            SELECT f.*, true AS is_common FROM of_feature f
            JOIN judged USING (checkpoint_id, corpus_id, layer, explainer, judge, metric, n_methods)
        ), figures AS (
            SELECT o.checkpoint_id, o.corpus_id, o.layer, o.explainer, o.judge, o.metric, o.method,
                   count(o.value) AS n_features, count(*) - count(o.value) AS n_without_value, avg(o.value) AS mean,
                   stddev_samp(o.value) / sqrt(count(o.value)) AS error, count(o.value - c.value) AS n_paired,
                   avg(o.value - c.value) AS lift,
                   stddev_samp(o.value - c.value) / sqrt(count(o.value - c.value)) AS lift_error,
                   count(o.value) FILTER (is_common) AS n_common, avg(o.value) FILTER (is_common) AS common_mean
            FROM scores o LEFT JOIN scores c
              ON (c.checkpoint_id, c.corpus_id, c.layer, c.feature, c.explainer, c.judge, c.metric)
                 = (o.checkpoint_id, o.corpus_id, o.layer, o.feature, o.explainer, o.judge, o.metric)
                 AND c.method = 'control:shuffled:' || o.method
            LEFT JOIN common b
              ON (b.checkpoint_id, b.corpus_id, b.layer, b.feature, b.explainer, b.judge, b.metric)
                 = (o.checkpoint_id, o.corpus_id, o.layer, o.feature, o.explainer, o.judge, o.metric)
            GROUP BY ALL
        ), reaches AS (
            SELECT *, error * {t_quantile("n_features")} AS reach, lift_error * {t_quantile("n_paired")} AS lift_reach
            FROM figures
        )
        SELECT checkpoint_id, corpus_id, layer, explainer, judge, metric, method, n_features, n_without_value, mean,
               mean - reach AS low, mean + reach AS high, n_features / n_judged AS coverage, n_common, common_mean,
               n_paired, lift, lift - lift_reach AS lift_low, lift + lift_reach AS lift_high, lift_error
        FROM reaches LEFT JOIN judged USING (checkpoint_id, corpus_id, layer, explainer, judge, metric)
        """,
    ),
    "method_differences": (
        "Two methods of description in one layer by one metric, over the features that both have: the mean difference "
        "(the first minus the second) with a 95% interval by Student's t.",
        f"""
        WITH figures AS (
            SELECT a.checkpoint_id, a.corpus_id, a.layer, a.explainer, a.judge, a.metric, a.method,
                   b.method AS against, count(*) AS n_features, avg(a.value - b.value) AS difference,
                   stddev_samp(a.value - b.value) / sqrt(count(*)) AS error
            FROM scores a JOIN scores b
              ON (a.checkpoint_id, a.corpus_id, a.layer, a.feature, a.explainer, a.judge, a.metric)
                 = (b.checkpoint_id, b.corpus_id, b.layer, b.feature, b.explainer, b.judge, b.metric)
                 AND a.method <> b.method
            WHERE a.value IS NOT NULL AND b.value IS NOT NULL
              AND a.method NOT LIKE 'control:%' AND b.method NOT LIKE 'control:%'
            GROUP BY ALL
        ), reaches AS (SELECT *, error * {t_quantile("n_features")} AS reach FROM figures)
        SELECT checkpoint_id, corpus_id, layer, explainer, judge, metric, method, against, n_features, difference,
               difference - reach AS low, difference + reach AS high
        FROM reaches
        """,
    ),
    "judge_usefulness": (
        "One judge in one layer by one metric: whether it can tell any method's descriptions from shuffled ones, at "
        "the 5% level for all methods together. `lift_low` is the lower end of the interval of the method with the "
        "greatest lift. If the judge is not useful, ignore its scores in that layer.",
        f"""
        WITH compared AS (
            SELECT *, count(*) OVER (PARTITION BY checkpoint_id, corpus_id, layer, explainer, judge, metric)
                      AS n_methods
            FROM method_comparison WHERE method NOT LIKE 'control:%' AND n_paired > 0
        ), bounds AS (
            SELECT * EXCLUDE (lift_low), lift - lift_error * {t_quantile("n_paired", "n_methods")} AS lift_low
            FROM compared
        )
        SELECT checkpoint_id, corpus_id, layer, explainer, judge, metric, any_value(n_methods) AS n_methods,
               -- if all lifts are equal, there is no standard error, and the signs decide
               coalesce(bool_or(lift_low > 0 AND (lift_error > 0 OR n_paired >= log2(40 * n_methods))), false)
                   AS is_useful,
               arg_max(method, lift) AS method, max(lift) AS lift, arg_max(lift_low, lift) AS lift_low
        FROM bounds GROUP BY ALL
        """,
    ),
    **VERDICT_VIEWS,
    **GRAPH_VIEWS,
    **AGREEMENT_VIEWS,
    "llm_spend": (
        "The questions of one run to one language model for one purpose, and their cost.",
        """
        SELECT run_id, model, purpose, count(*) FILTER (NOT cached) AS n_calls,
               count(*) FILTER (cached) AS n_from_store, count(*) FILTER (status <> 'ok') AS n_without_use,
               sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(cost_usd) AS cost_usd,
               sum(set_aside_usd) AS set_aside_usd,
               avg(latency_s) FILTER (NOT cached) AS mean_latency_s
        FROM llm_calls GROUP BY ALL
        """,
    ),
}
