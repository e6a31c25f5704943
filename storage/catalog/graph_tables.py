"""Attribution graphs of many prompts."""

from storage.catalog.columns import CHECKPOINT, FEATURE, LAYER, Column, Table
from storage.catalog.corpus_tables import SIDES

BATCH = Column("batch", "VARCHAR", "The file of prompts and how it was attributed, as a short hash.")
NUMBER = Column("number", "INTEGER", "Prompt of the file, from 0.")
GRAPH = (CHECKPOINT, BATCH, NUMBER)
KEY = tuple(column.name for column in GRAPH)

TABLES = (
    Table(
        "graphs",
        "One attribution graph of a file of prompts: its targets, its scores, and what testing it on the model found.",
        KEY,
        (
            *GRAPH,
            Column("prompt_set", "VARCHAR", "The set of prompts that it is of, as the file names it."),
            Column("prompt", "VARCHAR", "The prompt."),
            Column("targets", "VARCHAR[]", "What is explained."),
            Column("n_tokens", "INTEGER", "Tokens of the prompt, BOS included."),
            Column("n_nodes", "INTEGER", "Nodes that were kept."),
            Column("n_edges", "INTEGER", "Edges that were kept."),
            Column("replacement", "DOUBLE", "Replacement score of the whole graph, as circuit-tracer defines it."),
            Column("completeness", "DOUBLE", "Completeness score of the whole graph, likewise."),
            Column("target_value", "DOUBLE", "The targets' value by their weights; null here and below: not tested."),
            Column("explained", "DOUBLE", "Share of it that goes when the strongest nodes are switched off together."),
            Column("explained_predicted", "DOUBLE", "The same, as the graph predicts it."),
            Column("explained_random", "DOUBLE", "The same of as many random features of equal activation."),
            Column("node_correlation", "DOUBLE", "Of nodes' predicted and measured effects on the targets."),
            Column("edge_correlation", "DOUBLE", "Of edges' predicted and measured effects."),
            Column("edges_held", "DOUBLE", "Share of edges that do at least half of what is predicted."),
            Column("random_effect", "DOUBLE", "A random feature's effect over that of one of the strongest nodes."),
            Column("nothing", "DOUBLE", "Share of the target that stays with every feature at its mean."),
        ),
    ),
    Table(
        "graph_nodes",
        "A node that was kept of a graph.",
        (*KEY, "node_id"),
        (
            *GRAPH,
            Column("node_id", "VARCHAR", "Its id, as circuit-tracer writes it."),
            Column(
                "kind",
                "VARCHAR",
                "`feature`, `error` (left out by the transcoder; no feature), `token` or `target` (without a layer).",
            ),
            LAYER,
            FEATURE,
            Column("token_id", "INTEGER", "Of tokens, and of targets that are a token's logit; null of others."),
            Column("position", "INTEGER", "Of the prompt, from 0."),
            Column("label", "VARCHAR", "What it is: of features their description."),
            Column("activation", "FLOAT", "Of features; null of others."),
            Column("share", "FLOAT", "Its share of all influence on the targets; null of targets."),
            Column("probability", "FLOAT", "Of targets that are a token's logit; null of others."),
            Column("supernode", "INTEGER", "The group it is in, from 0; null: in none, or nodes were not grouped."),
            Column("predicted", "DOUBLE", "The targets' change by the graph if it is switched off; null: not tested."),
            Column("measured_frozen", "DOUBLE", "In the model with attention patterns and norms frozen."),
            Column("measured", "DOUBLE", "In the model, nothing frozen."),
        ),
    ),
    Table(
        "graph_edges",
        "An edge that was kept of a graph.",
        (*KEY, "source", "target"),
        (
            *GRAPH,
            Column("source", "VARCHAR", "Id of the node that contributes."),
            Column("target", "VARCHAR", "Id of the node that it contributes to."),
            Column("weight", "FLOAT", "What it contributes directly."),
            Column("predicted", "DOUBLE", "The target's change by the graph, its source switched off; null: untested."),
            Column("measured_frozen", "DOUBLE", "In the model with attention patterns and norms frozen."),
            Column("measured", "DOUBLE", "In the model, nothing frozen."),
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
            Column("query_position", "INTEGER", "The token from which it looked."),
            Column("key_position", "INTEGER", "The token at which it looked."),
            Column("rank", "INTEGER", "From 0, the pair of the greatest magnitude."),
            *SIDES,
            Column("score", "DOUBLE", "What the pair adds to the head's score."),
        ),
    ),
    Table(
        "graph_supernodes",
        "A group of a graph's nodes that do the same. Necessity is the share of the targets' value that goes when it "
        "is switched off, sufficiency the share that stays when all other features are held at their means.",
        (*KEY, "supernode"),
        (
            *GRAPH,
            Column("supernode", "INTEGER", "From 0, by influence; −1: all tested ones together."),
            Column("name", "VARCHAR", "What its members' descriptions share; null of −1."),
            Column("n_nodes", "INTEGER", "Its nodes; null of −1."),
            Column("share", "FLOAT", "Their share of all influence on the targets; null of −1."),
            Column("necessity", "DOUBLE", "Null here and below: not tested."),
            Column("sufficiency", "DOUBLE", "Compare `graphs.nothing`."),
            Column("necessity_random", "DOUBLE", "Of as many random nodes of the graph, the mean over draws."),
            Column("sufficiency_random", "DOUBLE", "The same."),
            Column("necessity_layer", "DOUBLE", "Of as many of the strongest nodes of its layer, then of others."),
            Column("sufficiency_layer", "DOUBLE", "The same."),
            Column("necessity_top", "DOUBLE", "Of as many of the strongest nodes of the graph."),
            Column("sufficiency_top", "DOUBLE", "The same."),
        ),
    ),
)
