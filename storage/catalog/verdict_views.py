"""Which descriptions pass, and how often wrong ones do: the views `verdicts` and `pass_rates`."""

CHANCE = 0.5
"""Of the three scores that decide."""

FAILED = 0.6
"""A description fails that is, whatever the sampling error, no better than this by one of the scores that decide."""

DECIDING = ("detection", "detection_hard", "fuzzing_hard")
"""Balanced accuracies: its texts against others, its texts and its marks against those of look-alike features."""

RULE = (
    f"pass: the lower ends of {', '.join(DECIDING)} are all above {CHANCE}; fail: the upper end of one is at most "
    f"{FAILED}; undecided: neither, or one has no value"
)

_NAMES = ", ".join(f"'{name}'" for name in DECIDING)

_JUDGED = f"""
    SELECT checkpoint_id, corpus_id, layer, feature, method, explainer, judge,
           CASE WHEN count(high) < {len(DECIDING)} THEN 'undecided' WHEN min(high) <= {FAILED} THEN 'fail'
                WHEN min(low) > {CHANCE} THEN 'pass' ELSE 'undecided' END AS verdict,
           {", ".join(f"max(value) FILTER (metric = '{name}') AS {name}" for name in DECIDING)},
           CASE WHEN count(high) = {len(DECIDING)} THEN arg_min(metric, low) END AS weakest,
           min(low) FILTER (metric IN ({_NAMES})) AS weakest_low,
           string_agg(metric || ': ' || reason, ', ' ORDER BY metric) AS reason
    FROM scores WHERE metric IN ({_NAMES})
    GROUP BY checkpoint_id, corpus_id, layer, feature, method, explainer, judge"""
"""A verdict on every description that was judged, wrong ones included."""

_OF_ITS_OWN = "coalesce(reason, '') NOT LIKE '%: as\\_of\\_%' ESCAPE '\\'"
"""Whether a description has figures that are not those of another method."""

_KINDS = f"""
    judged AS ({_JUDGED}
    ), told AS (
        SELECT checkpoint_id, corpus_id, layer, explainer, judge, verdict,
               CASE WHEN method LIKE 'control:shuffled:%' THEN method[18:]
                    WHEN method LIKE 'control:swapped:%' THEN method[17:]
                    WHEN method LIKE 'control:%' THEN NULL ELSE method END AS method,
               CASE WHEN method LIKE 'control:%' THEN string_split(method, ':')[2] ELSE 'real' END AS kind
        FROM judged WHERE checkpoint_id NOT IN (SELECT decoy_checkpoint_id FROM decoys) AND {_OF_ITS_OWN}
        UNION ALL
        SELECT d.checkpoint_id, j.corpus_id, j.layer, j.explainer, j.judge, j.verdict, j.method, 'decoy: ' || d.kind
        FROM judged j JOIN decoys d
          ON (d.decoy_checkpoint_id, d.layer, d.decoy) = (j.checkpoint_id, j.layer, j.feature)
        WHERE j.method NOT LIKE 'control:%' AND {_OF_ITS_OWN}
    )"""
"""The same by kind: of real features, of decoys, or a wrong description of a real feature."""

WRONG = ("decoy: random", "decoy: permuted", "shuffled", "swapped")
"""Kinds that have no business to pass. A decoy `recombined` reads as a real feature does, so that what is said of its
input may be right."""

_Z = 1.959964


def _wilson(passed: str, n: str, sign: str) -> str:
    """SQL for an end of Wilson's 95% interval of `passed` of `n`."""
    share = f"({passed}) / ({n})"
    spread = f"{_Z} * sqrt({share} * (1 - {share}) / ({n}) + {_Z**2} / (4 * ({n}) * ({n})))"
    return f"least(1, greatest(0, ({share} + {_Z**2} / (2 * ({n})) {sign} {spread}) / (1 + {_Z**2} / ({n}))))"


VERDICT_VIEWS = {
    "verdicts": (
        f"One judged description: {RULE}. Beside it, how often wrong descriptions of the same method pass by this rule "
        "with this judge.",
        f"""
        WITH {_KINDS}, wrong AS (
            SELECT checkpoint_id, corpus_id, explainer, judge, method, count(*) AS n,
                   count(*) FILTER (verdict = 'pass') AS n_pass,
                   string_agg(DISTINCT kind, ', ' ORDER BY kind) AS kinds
            FROM told WHERE kind IN ({", ".join(f"'{kind}'" for kind in WRONG)}) GROUP BY ALL
        )
        SELECT j.*, w.n_pass / w.n AS false_positive_rate,
               {_wilson("w.n_pass", "w.n", "-")} AS false_positive_low,
               {_wilson("w.n_pass", "w.n", "+")} AS false_positive_high,
               w.n AS n_wrong, w.kinds AS wrong_kinds
        FROM judged j LEFT JOIN wrong w USING (checkpoint_id, corpus_id, explainer, judge, method)
        WHERE j.method NOT LIKE 'control:%'
        """,
    ),
    "pass_rates": (
        "One method of description, and one kind of what it was said of: how many of its descriptions pass (see "
        "`verdicts`). Those of decoys and wrong descriptions that pass are the false positives of the judge.",
        f"""
        WITH {_KINDS}
        SELECT checkpoint_id, corpus_id, explainer, judge, method, kind, count(*) AS n_judged,
               count(*) FILTER (verdict = 'pass') AS n_pass, count(*) FILTER (verdict = 'fail') AS n_fail,
               count(*) FILTER (verdict = 'undecided') AS n_undecided,
               count(*) FILTER (verdict = 'pass') / count(*) AS share,
               {_wilson("count(*) FILTER (verdict = 'pass')", "count(*)", "-")} AS low,
               {_wilson("count(*) FILTER (verdict = 'pass')", "count(*)", "+")} AS high
        FROM told GROUP BY checkpoint_id, corpus_id, explainer, judge, method, kind
        """,
    ),
    "method_agreement": (
        "One method of description in one layer beside one that was imported (`import`), over the features that both "
        "describe: what their validated tokens and their words have in common, and whether their scores go together.",
        """
        WITH pairs AS (
            SELECT a.checkpoint_id, b.checkpoint_id AS imported_checkpoint_id
            FROM checkpoints a JOIN checkpoints b USING (weights_sha256)
            WHERE a.checkpoint_id <> b.checkpoint_id
              AND b.checkpoint_id IN (SELECT checkpoint_id FROM descriptions WHERE explainer = 'authors')
              AND a.checkpoint_id NOT IN (SELECT checkpoint_id FROM descriptions WHERE explainer = 'authors')
        ), worded AS (
            SELECT checkpoint_id, layer, feature, method, explainer,
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
        ), both_say AS (
            SELECT p.*, a.layer, a.feature, a.method, a.explainer, b.method AS imported_method,
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
        )
        SELECT checkpoint_id, imported_checkpoint_id, layer, method, explainer, imported_method,
               count(*) AS n_features, avg(word_overlap) AS word_overlap, avg(validated_overlap) AS validated_overlap,
               corr(clarity, their_clarity) AS clarity_correlation,
               corr(responsiveness, their_responsiveness) AS responsiveness_correlation,
               corr(purity, their_purity) AS purity_correlation,
               corr(faithfulness, their_faithfulness) AS faithfulness_correlation,
               count(clarity + their_clarity) AS n_scored
        FROM both_say GROUP BY checkpoint_id, imported_checkpoint_id, layer, method, explainer, imported_method
        """,
    ),
}
