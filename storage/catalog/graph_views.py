"""Views over the attribution graphs of many prompts: recurring features and edges, and differences of two sets."""

_SETS = "sizes AS (SELECT checkpoint_id, batch, prompt_set, count(*) AS n_prompts FROM graphs GROUP BY ALL)"


def _end(node: str) -> str:
    """The name of an edge's end, without its position."""
    return f"""
        CASE {node}.kind WHEN 'target' THEN 'target' WHEN 'token' THEN 'token ' || {node}.token_id
             WHEN 'error' THEN 'error ' || {node}.layer ELSE {node}.layer || '/' || {node}.feature END
    """


GRAPH_VIEWS = {
    "graph_features": (
        "One feature in the graphs of a set of prompts: in how many of them it is, at any position. `influence` "
        "is its share of all influence on the targets, the mean over all prompts of the set.",
        f"""
        WITH {_SETS}, found AS (
            SELECT g.checkpoint_id, g.batch, g.prompt_set, g.number, n.layer, n.feature, any_value(n.label) AS label,
                   max(n.activation) AS activation, sum(n.share) AS of_graph
            FROM graph_nodes n JOIN graphs g USING (checkpoint_id, batch, number)
            WHERE n.kind = 'feature' GROUP BY ALL
        )
        SELECT checkpoint_id, batch, prompt_set, layer, feature, count(*) AS n_graphs, n_prompts,
               count(*) / n_prompts AS share, sum(of_graph) / n_prompts AS influence,
               avg(activation) AS mean_activation, any_value(label) AS label
        FROM found JOIN sizes USING (checkpoint_id, batch, prompt_set)
        GROUP BY checkpoint_id, batch, prompt_set, layer, feature, n_prompts
        """,
    ),
    "recurring_edges": (
        "One edge in the graphs of a set of prompts, between features (12/345), tokens, errors and the targets, at "
        "any positions: in how many of them it is, and its weight there, summed over positions. `holds_in_all`: "
        "it is in all graphs of the set, with the same sign.",
        f"""
        WITH {_SETS}, found AS (
            SELECT g.checkpoint_id, g.batch, g.prompt_set, g.number, {_end("s")} AS source, {_end("t")} AS target,
                   sum(e.weight) AS weight
            FROM graph_edges e JOIN graphs g USING (checkpoint_id, batch, number)
            JOIN graph_nodes s ON (s.checkpoint_id, s.batch, s.number, s.node_id)
                                  = (e.checkpoint_id, e.batch, e.number, e.source)
            JOIN graph_nodes t ON (t.checkpoint_id, t.batch, t.number, t.node_id)
                                  = (e.checkpoint_id, e.batch, e.number, e.target)
            GROUP BY ALL
        )
        SELECT checkpoint_id, batch, prompt_set, source, target, count(*) AS n_graphs, n_prompts,
               count(*) / n_prompts AS share, avg(weight) AS mean_weight, min(weight) AS min_weight,
               max(weight) AS max_weight,
               count(*) = n_prompts AND (min(weight) > 0 OR max(weight) < 0) AS holds_in_all
        FROM found JOIN sizes USING (checkpoint_id, batch, prompt_set)
        GROUP BY checkpoint_id, batch, prompt_set, source, target, n_prompts
        """,
    ),
    "graph_contrasts": (
        "One feature in the graphs of two sets of prompts: the shares of graphs that it is in, and its mean influence "
        "on the targets; 0 where it is in none. Differences are second minus first.",
        f"""
        WITH {_SETS}, pairs AS (
            SELECT a.checkpoint_id, a.batch AS batch_a, a.prompt_set AS set_a, b.batch AS batch_b, b.prompt_set AS set_b
            FROM sizes a JOIN sizes b
              ON a.checkpoint_id = b.checkpoint_id AND (a.batch, a.prompt_set) < (b.batch, b.prompt_set)
        ), either AS (
            SELECT p.*, f.layer, f.feature FROM pairs p JOIN graph_features f
              ON (f.checkpoint_id, f.batch, f.prompt_set) = (p.checkpoint_id, p.batch_a, p.set_a)
            UNION
            SELECT p.*, f.layer, f.feature FROM pairs p JOIN graph_features f
              ON (f.checkpoint_id, f.batch, f.prompt_set) = (p.checkpoint_id, p.batch_b, p.set_b)
        )
        SELECT e.*, coalesce(a.share, 0) AS share_a, coalesce(b.share, 0) AS share_b,
               coalesce(b.share, 0) - coalesce(a.share, 0) AS share_difference,
               coalesce(a.influence, 0) AS influence_a, coalesce(b.influence, 0) AS influence_b,
               coalesce(b.influence, 0) - coalesce(a.influence, 0) AS influence_difference,
               coalesce(a.label, b.label) AS label
        FROM either e
        LEFT JOIN graph_features a ON (a.checkpoint_id, a.batch, a.prompt_set, a.layer, a.feature)
                                      = (e.checkpoint_id, e.batch_a, e.set_a, e.layer, e.feature)
        LEFT JOIN graph_features b ON (b.checkpoint_id, b.batch, b.prompt_set, b.layer, b.feature)
                                      = (e.checkpoint_id, e.batch_b, e.set_b, e.layer, e.feature)
        """,
    ),
}
