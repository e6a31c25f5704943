"""Tables of features' activations on a corpus and of their causes."""

from storage.catalog.columns import CHECKPOINT, FEATURE, LAYER, READ_CORPUS, Column, Table

SIDES = (
    Column("query_kind", "VARCHAR", "feature, token, error or bias: what the query's part comes from."),
    Column(
        "query_layer",
        "SMALLINT",
        "Layer of the feature; null for the others, of which errors and biases are sums.",
    ),
    Column("query_index", "INTEGER", "The feature or the token id; null for errors and biases."),
    Column("query_source_position", "INTEGER", "Token in the row where it was written; null likewise."),
    Column("key_kind", "VARCHAR", "What the key's part comes from."),
    Column("key_layer", "SMALLINT", "As query_layer."),
    Column("key_index", "INTEGER", "As query_index."),
    Column("key_source_position", "INTEGER", "As query_source_position."),
)
"""Columns for the sources of a head's score, one on the query's side and one on the key's."""

TABLES = (
    Table(
        "features",
        "Statistics of one feature's activations on a corpus.",
        ("checkpoint_id", "corpus_id", "layer", "feature"),
        (
            CHECKPOINT,
            READ_CORPUS,
            LAYER,
            FEATURE,
            Column("n_active", "BIGINT", "Number of tokens at which it was active."),
            Column("density", "DOUBLE", "Their share of all tokens that count."),
            Column("mean_activation", "DOUBLE", "Mean over the tokens at which it was active; null if none."),
            Column("std_activation", "DOUBLE", "Standard deviation over them (n); null if none."),
            Column("max_activation", "FLOAT", "Greatest activation; null if none."),
            Column(
                "quantiles",
                "FLOAT[]",
                "Edges of the quantile bins over the tokens at which it was active, from the least to the greatest "
                "activation; null if none.",
            ),
            Column("is_dead", "BOOLEAN", "Whether it was never active on the corpus."),
        ),
    ),
    Table(
        "samples",
        "One token of a corpus at which a feature was active, drawn as a sample.",
        ("checkpoint_id", "corpus_id", "layer", "feature", "sample"),
        (
            CHECKPOINT,
            READ_CORPUS,
            LAYER,
            FEATURE,
            Column(
                "sample",
                "INTEGER",
                "From 0: first the quantile sample, then the greatest activations in descending order.",
            ),
            Column("sequence", "BIGINT", "Row of the corpus; for several corpora, counted through all of them."),
            Column("position", "INTEGER", "Token in the row, from 0."),
            Column("activation", "FLOAT", "The feature's activation there."),
            Column(
                "quantile_bin",
                "SMALLINT",
                "Bin of the quantile sample, 0 for the weakest; null: not in that sample, but among the feature's "
                "greatest activations. A sample in both has one row, so the greatest are ORDER BY activation DESC over "
                "all its samples.",
            ),
            Column("cluster", "SMALLINT", "Cluster by mechanism, −1 noise; null where not attributed."),
        ),
    ),
    Table(
        "sample_neighbours",
        "Where a feature is active around one of its samples; only with `activations.keep: all`.",
        ("checkpoint_id", "corpus_id", "layer", "feature", "sample"),
        (
            CHECKPOINT,
            READ_CORPUS,
            LAYER,
            FEATURE,
            Column("sample", "INTEGER", "The sample."),
            Column(
                "offsets", "SMALLINT[]", "Distances to the sample in tokens: 0 for itself, −1 for the token before it."
            ),
            Column("activations", "FLOAT[]", "The feature's activation at each."),
        ),
    ),
    Table(
        "sequences",
        "One row of a corpus from which a sample was drawn, as text.",
        ("corpus_id", "sequence"),
        (
            READ_CORPUS,
            Column("sequence", "BIGINT", "Row of the corpus; for several corpora, counted through all of them."),
            Column(
                "tokens",
                "VARCHAR[]",
                "The texts of its tokens, without padding. A character made of several tokens is on the "
                "first of them, and the others are empty.",
            ),
            Column("documents", "INTEGER[]", "The document that each token is from, from 0."),
        ),
    ),
    Table(
        "contributions",
        "One cause of one sampled activation.",
        (
            "checkpoint_id",
            "corpus_id",
            "layer",
            "feature",
            "sample",
            "kind",
            "source_layer",
            "source_index",
            "source_position",
        ),
        (
            CHECKPOINT,
            READ_CORPUS,
            LAYER,
            FEATURE,
            Column("sample", "INTEGER", "The sample."),
            Column(
                "kind",
                "VARCHAR",
                "feature, head, token, error or bias; of autoencoders mlp (a whole MLP) in place of error.",
            ),
            Column(
                "source_layer",
                "SMALLINT",
                "Layer of a feature or head; null for tokens, and for errors and biases, which are sums.",
            ),
            Column("source_index", "INTEGER", "The feature, the head, or the token id; null otherwise."),
            Column(
                "source_position", "INTEGER", "The token in the row that it comes from; null for errors and biases."
            ),
            Column("relative_position", "INTEGER", "Counted from the firing token: 0, −1, …"),
            Column("score", "DOUBLE", "What it adds to the feature's pre-activation."),
            Column(
                "share",
                "DOUBLE",
                "Its share of the positive contributions of its kind; null for errors and biases.",
            ),
            Column(
                "mode",
                "VARCHAR",
                "By which paths it was found. jacobian: all frozen ones; direct: through one head at most, a survey. "
                "Null in rows of versions that did not say: jacobian, but for heads, which had either.",
            ),
        ),
    ),
    Table(
        "contribution_edges",
        "One feature that contributed to sampled activations of another, over all its samples. Computed from "
        "contributions, and ordered by the contributing feature.",
        ("checkpoint_id", "corpus_id", "source_layer", "source_feature", "target_layer", "target_feature"),
        (
            CHECKPOINT,
            READ_CORPUS,
            Column("source_layer", "SMALLINT", "Layer of the contributing feature."),
            Column("source_feature", "INTEGER", "The contributing feature."),
            Column("target_layer", "SMALLINT", "Layer of the feature that fired."),
            Column("target_feature", "INTEGER", "The feature that fired."),
            Column("n_samples", "INTEGER", "Samples of that feature to which it contributed enough to be stored."),
            Column(
                "mean_score", "FLOAT", "What it adds to the pre-activation, over its tokens; mean of these samples."
            ),
            Column("mean_share", "FLOAT", "Its share of the features' positive contributions; mean of these samples."),
            Column("mode", "VARCHAR", "By which paths they were found, as in contributions."),
        ),
    ),
    Table(
        "qk_contributions",
        "One pair of sources that made a head attend from one token to another, where it contributed much to a sampled "
        "activation.",
        (
            "checkpoint_id",
            "corpus_id",
            "layer",
            "feature",
            "sample",
            "head_layer",
            "head",
            "query_position",
            "key_position",
            "query_kind",
            "query_layer",
            "query_index",
            "query_source_position",
            "key_kind",
            "key_layer",
            "key_index",
            "key_source_position",
        ),
        (
            CHECKPOINT,
            READ_CORPUS,
            LAYER,
            FEATURE,
            Column("sample", "INTEGER", "The sample."),
            Column("head_layer", "SMALLINT", "Layer of the head."),
            Column("head", "INTEGER", "The head, from 0."),
            Column("query_position", "INTEGER", "Position of the query in the row: the firing token."),
            Column("key_position", "INTEGER", "Position of the key in the row."),
            Column(
                "head_score",
                "DOUBLE",
                "The head's score before the softmax, and before a soft cap where the model has one: the sum of "
                "all pairs.",
            ),
            *SIDES,
            Column("score", "DOUBLE", "What the pair adds to the head's score."),
        ),
    ),
    Table(
        "logit_effects",
        "One next token that a sampled activation makes more or less likely.",
        ("checkpoint_id", "corpus_id", "layer", "feature", "sample", "position", "token_id"),
        (
            CHECKPOINT,
            READ_CORPUS,
            LAYER,
            FEATURE,
            Column("sample", "INTEGER", "The sample; −1: the mean over all samples of the feature."),
            Column("position", "INTEGER", "Tokens after the firing one: 0 for the next-token prediction there."),
            Column("token_id", "INTEGER", "The token."),
            Column("effect", "DOUBLE", "The effect of the activation on its logit."),
        ),
    ),
    Table(
        "clusters",
        "One mechanism that makes a feature fire.",
        ("checkpoint_id", "corpus_id", "layer", "feature", "cluster"),
        (
            CHECKPOINT,
            READ_CORPUS,
            LAYER,
            FEATURE,
            Column("cluster", "SMALLINT", "From 0, the largest first; −1: samples in no cluster."),
            Column("n_samples", "INTEGER", "Number of samples in it."),
            Column("share", "DOUBLE", "Their share of the feature's attributed samples."),
            Column("signature", "VARCHAR[]", "Contributors that most of its samples share: L3 #17, L2 H1 −1, …"),
            Column(
                "stability",
                "DOUBLE",
                "Its stability when a part of the samples is clustered again: of the pairs of its samples with "
                "others that share a cluster in one of both clusterings, the share that do so in both; null for noise.",
            ),
        ),
    ),
)
