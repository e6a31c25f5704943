"""Which descriptions pass, and how often wrong ones do: the views `verdicts` and `pass_rates`."""

CHANCE = 0.5
"""The value by chance of the three scores that decide."""

FAILED = 0.6
"""A description fails if, for one of the scores that decide, its whole interval is at or below this value."""

DECIDING = ("detection", "detection_hard", "fuzzing_hard")
"""Balanced accuracies: its texts against others, its texts and its marks against those of similar features."""

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
"""Whether a description has scores of its own rather than copies of another method's."""

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
"""The verdicts by kind: of real features, of decoys, or of wrong descriptions of real features."""

WRONG = ("decoy: random", "decoy: permuted", "shuffled", "swapped")
"""Kinds that should not pass. `recombined` decoys are not among them: their encoder is a real feature's, so that a
description of their input may be right."""

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
        "One method of description and one kind of feature or description: how many of the descriptions pass (see "
        "`verdicts`). Passing descriptions of decoys and passing wrong descriptions are the judge's false positives.",
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
}
