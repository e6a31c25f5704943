"""Attribution graphs of many prompts."""

from storage.catalog.columns import CHECKPOINT, FEATURE, LAYER, Column, Table
from storage.catalog.corpus_tables import SIDES

BATCH = Column("batch", "VARCHAR", "A short hash of the file of prompts and the settings of the attribution.")
NUMBER = Column("number", "INTEGER", "Prompt of the file, from 0.")
GRAPH = (CHECKPOINT, BATCH, NUMBER)
KEY = tuple(column.name for column in GRAPH)

TABLES = (
    Table(
        "graphs",
        "One attribution graph of a file of prompts: its targets, its scores, and results of testing it in the model.",
        KEY,
        (
            *GRAPH,
            Column("prompt_set", "VARCHAR", "The name of its set of prompts in the file."),
            Column("prompt", "VARCHAR", "The prompt."),
            Column("targets", "VARCHAR[]", "The targets that are explained."),
            Column("n_tokens", "INTEGER", "Tokens of the prompt, BOS included."),
            Column("n_nodes", "INTEGER", "Nodes that were kept."),
            Column("n_edges", "INTEGER", "Edges that were kept."),
            Column("replacement", "DOUBLE", "Replacement score of the whole graph, as circuit-tracer defines it."),
            Column("completeness", "DOUBLE", "Completeness score of the whole graph, likewise."),
            Column("target_value", "DOUBLE", "The targets' value by their weights; null here and below: not tested."),
            Column(
                "explained", "DOUBLE", "Share of it that is lost when the strongest nodes are switched off together."
            ),
            Column("explained_predicted", "DOUBLE", "The share that the graph predicts."),
            Column("explained_random", "DOUBLE", "The share for as many random features of equal activation."),
            Column(
                "node_correlation", "DOUBLE", "Correlation of nodes' predicted and measured effects on the targets."
            ),
            Column("edge_correlation", "DOUBLE", "Correlation of edges' predicted and measured effects."),
            Column("edges_held", "DOUBLE", "Share of edges that do at least half of what is predicted."),
            Column("random_effect", "DOUBLE", "A random feature's effect over that of one of the strongest nodes."),
            Column(
                "nothing",
                "DOUBLE",
                "Sufficiency of no features: the share that is left with every feature at its mean.",
            ),
            Column(
                "counterfactual",
                "VARCHAR",
                "The prompt with which sufficiency is measured; null: it is measured with means.",
            ),
            Column("counterfactual_value", "DOUBLE", "The targets' value on the counterfactual prompt."),
        ),
    ),
    Table(
        "graph_nodes",
        "A kept node of a graph.",
        (*KEY, "node_id"),
        (
            *GRAPH,
            Column("node_id", "VARCHAR", "Its id, as circuit-tracer writes it."),
            Column(
                "kind",
                "VARCHAR",
                "`feature`, `error` (of the transcoder; it has no feature), `token` or `target` (it has no layer).",
            ),
            LAYER,
            FEATURE,
            Column(
                "token_id", "INTEGER", "Token id of tokens, and of targets that are a token's logit; null for others."
            ),
            Column("position", "INTEGER", "Position in the prompt, from 0."),
            Column("label", "VARCHAR", "Its label; for features their description."),
            Column("activation", "FLOAT", "Activation of a feature; null for others."),
            Column("share", "FLOAT", "Its share of all influence on the targets; null for targets."),
            Column("probability", "FLOAT", "Probability of a target that is a token's logit; null for others."),
            Column("supernode", "INTEGER", "The group it is in, from 0; null: in none, or nodes were not grouped."),
            Column(
                "predicted",
                "DOUBLE",
                "The targets' change predicted by the graph if it is switched off; null: not tested.",
            ),
            Column("measured_frozen", "DOUBLE", "The change in the model with attention patterns and norms frozen."),
            Column("measured", "DOUBLE", "The change in the model with nothing frozen."),
        ),
    ),
    Table(
        "graph_edges",
        "A kept edge of a graph.",
        (*KEY, "source", "target"),
        (
            *GRAPH,
            Column("source", "VARCHAR", "Id of the node that contributes."),
            Column("target", "VARCHAR", "Id of the node that it contributes to."),
            Column("weight", "FLOAT", "The direct contribution."),
            Column(
                "predicted",
                "DOUBLE",
                "The target's change predicted by the graph with the source switched off; null: not tested.",
            ),
            Column("measured_frozen", "DOUBLE", "The change in the model with attention patterns and norms frozen."),
            Column("measured", "DOUBLE", "The change in the model with nothing frozen."),
        ),
    ),
    Table(
        "graph_heads",
        "A head that carries an edge of a graph from one token to another (`attribute --heads`).",
        (*KEY, "source", "target", "rank"),
        (
            *GRAPH,
            Column("source", "VARCHAR", "Id of the node that contributes."),
            Column("target", "VARCHAR", "Id of the node that it contributes to."),
            Column("rank", "INTEGER", "From 0, the head of the greatest loading."),
            Column("head_layer", "SMALLINT", "Layer of the head."),
            Column("head", "INTEGER", "The head, from 0."),
            Column(
                "loading",
                "DOUBLE",
                "The part of the edge's weight on paths through the head; paths through several heads count at each.",
            ),
            Column("query_position", "INTEGER", "The token where the head writes most of it."),
            Column("key_position", "INTEGER", "The token that it reads there."),
            Column("through", "DOUBLE", "What of the loading is read and written there."),
            Column(
                "head_score",
                "DOUBLE",
                "The head's score there before the softmax, and before a soft cap where the model has one: the sum of "
                "all pairs of sources.",
            ),
        ),
    ),
    Table(
        "graph_head_pairs",
        "A pair of sources that made a head of `graph_heads` look where it did: one of the strongest.",
        (*KEY, "head_layer", "head", "query_position", "key_position", "rank"),
        (
            *GRAPH,
            Column("head_layer", "SMALLINT", "Layer of the head."),
            Column("head", "INTEGER", "The head, from 0."),
            Column("query_position", "INTEGER", "The token from which the head attends."),
            Column("key_position", "INTEGER", "The token to which the head attends."),
            Column("rank", "INTEGER", "From 0, the pair of the greatest magnitude."),
            *SIDES,
            Column("score", "DOUBLE", "What the pair adds to the head's score."),
        ),
    ),
    Table(
        "graph_supernodes",
        "A group of a graph's nodes with the same role. Necessity is the share of the targets' value that is lost when "
        "it is switched off, sufficiency the share of the difference from the counterfactual prompt that the group "
        "restores there; without such a prompt, the share that is left when all other features are held at their "
        "means.",
        (*KEY, "supernode"),
        (
            *GRAPH,
            Column("supernode", "INTEGER", "Its number, from 0 for the largest effect; −1: all tested ones together."),
            Column("name", "VARCHAR", "Terms that its members' descriptions share; null for −1."),
            Column("n_nodes", "INTEGER", "Number of its nodes."),
            Column("share", "FLOAT", "Its nodes' share of all influence on the targets."),
            Column(
                "effect",
                "DOUBLE",
                "What its nodes add to the targets' value along all paths; below 0: they lower it.",
            ),
            Column("necessity", "DOUBLE", "Its necessity. Null here and below: not tested."),
            Column("sufficiency", "DOUBLE", "Its sufficiency; compare `graphs.nothing`."),
            Column("necessity_random", "DOUBLE", "Necessity of as many random nodes of the graph, mean over draws."),
            Column("sufficiency_random", "DOUBLE", "Sufficiency of these."),
            Column(
                "necessity_layer", "DOUBLE", "Necessity of as many of the strongest nodes of its layer, then of others."
            ),
            Column("sufficiency_layer", "DOUBLE", "Sufficiency of these."),
            Column("necessity_top", "DOUBLE", "Necessity of as many nodes with the most influence in the graph."),
            Column("sufficiency_top", "DOUBLE", "Sufficiency of these."),
            Column("necessity_effect", "DOUBLE", "Necessity of as many nodes with the largest predicted effect."),
            Column("sufficiency_effect", "DOUBLE", "Sufficiency of these."),
        ),
    ),
)
