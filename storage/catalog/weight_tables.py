"""Tables of results from weights, and of edges between features by weights or on a corpus."""

from storage.catalog.columns import CHECKPOINT, FEATURE, LAYER, Column, Table

TABLES = (
    Table(
        "token_candidates",
        "One token that is an outlier for a feature's weights, or that it inherits from upstream.",
        ("checkpoint_id", "layer", "feature", "side", "sign", "token_id"),
        (
            CHECKPOINT,
            LAYER,
            FEATURE,
            Column("side", "VARCHAR", "input: what the encoder responds to; output: what the decoder promotes."),
            Column("sign", "TINYINT", "1 for the upper tail of the scores, −1 for the lower."),
            Column(
                "rank",
                "INTEGER",
                "0 for the strongest of its side and sign; inherited tokens follow the direct ones.",
            ),
            Column("token_id", "INTEGER", "The token."),
            Column(
                "score",
                "FLOAT",
                "Projection score; for an inherited token, the virtual weight of its edge; null where an "
                "imported file has none.",
            ),
            Column("z_score", "DOUBLE", "The score's z-score; null for inherited tokens."),
            Column(
                "activation",
                "FLOAT",
                "The feature's activation when the model reads the token alone; null on the output side.",
            ),
            Column("validated", "BOOLEAN", "Upper-tail input tokens: activation above 0; null elsewhere."),
            Column("source_layer", "SMALLINT", "Inherited: the upstream feature's layer; null when direct."),
            Column("source_feature", "INTEGER", "Inherited: the upstream feature; null when direct."),
        ),
    ),
    Table(
        "feature_edges",
        "One edge to a feature from an earlier one.",
        ("checkpoint_id", "corpus_id", "source_layer", "source_feature", "target_layer", "target_feature"),
        (
            CHECKPOINT,
            Column("corpus_id", "VARCHAR", "The corpus of the co-activation; null: by weights only."),
            Column("source_layer", "SMALLINT", "Layer of the upstream feature."),
            Column("source_feature", "INTEGER", "The upstream feature."),
            Column("target_layer", "SMALLINT", "Layer of the downstream feature."),
            Column("target_feature", "INTEGER", "The downstream feature."),
            Column("virtual_weight", "FLOAT", "Decoder of the source times encoder of the target."),
            Column(
                "z_score",
                "DOUBLE",
                "Its z-score among the source layer's features; null where imported, or not an outlier by weights.",
            ),
            Column("era", "DOUBLE", "E[1(target active) · source activation] · virtual weight."),
            Column("twera", "DOUBLE", "E[source · target activation] / E[target activation] · virtual weight."),
            Column("twera_low", "DOUBLE", "Lower end of its 95% interval, with documents as the units of sampling."),
            Column("twera_high", "DOUBLE", "Upper end; both are null if the target is active in one document only."),
            Column("n_coactive", "BIGINT", "Its support: the number of tokens at which both are active."),
        ),
    ),
    Table(
        "inherited_tokens",
        "One token that a feature inherits from an earlier feature that drives it on a corpus.",
        ("checkpoint_id", "corpus_id", "layer", "feature", "token_id"),
        (
            CHECKPOINT,
            Column("corpus_id", "VARCHAR", "The corpus of the co-activation."),
            LAYER,
            FEATURE,
            Column("rank", "INTEGER", "0 for the strongest: by TWERA of the edge, then by activation."),
            Column("token_id", "INTEGER", "The token: validated on the earlier feature and on this one."),
            Column("activation", "FLOAT", "The feature's activation when the model reads the token alone."),
            Column(
                "source_layer",
                "SMALLINT",
                "Layer of the earlier feature; if there are several, of the one with the greatest TWERA.",
            ),
            Column("source_feature", "INTEGER", "The earlier feature."),
            Column("twera", "DOUBLE", "TWERA of the edge, see feature_edges."),
            Column("twera_low", "DOUBLE", "Lower end of its 95% interval, above 0."),
            Column("twera_high", "DOUBLE", "Upper end of its 95% interval."),
            Column("n_coactive", "BIGINT", "Its support: the number of tokens at which both are active."),
        ),
    ),
    Table(
        "contribution_totals",
        "How much of a feature's possible contributions its candidates and edges account for.",
        ("checkpoint_id", "layer", "feature"),
        (
            CHECKPOINT,
            LAYER,
            FEATURE,
            Column(
                "absolute_contribution",
                "DOUBLE",
                "Σ|score| over the whole vocabulary and over every feature of the upstream layers; with bfloat16 "
                "rounding (up to about 1%) if the run found outliers in bfloat16.",
            ),
            Column(
                "detected_share",
                "DOUBLE",
                "Share of it in upper-tail input tokens (validated or not) and in edges.",
            ),
        ),
    ),
    Table(
        "sequence_validation",
        "Validation of a description whose tokens are read as one sequence; for `compat: authors` and imports only.",
        ("checkpoint_id", "layer", "feature"),
        (
            CHECKPOINT,
            LAYER,
            FEATURE,
            Column("validation", "BOOLEAN", "Whether the description's tokens, read as one sequence, fire it."),
            Column("validation_soft", "DOUBLE", "Share of the soft description's tokens that fire it in this way."),
        ),
    ),
    Table(
        "feature_matches",
        "One feature of a checkpoint and its match in another.",
        ("checkpoint_a", "checkpoint_b", "layer", "feature_a", "feature_b"),
        (
            Column("checkpoint_a", "VARCHAR", "The earlier checkpoint."),
            Column("checkpoint_b", "VARCHAR", "The later checkpoint."),
            LAYER,
            Column("feature_a", "INTEGER", "Feature of the earlier one; null: born."),
            Column("feature_b", "INTEGER", "Feature of the later one; null: died."),
            Column("fate", "VARCHAR", "kept, moved, born or died."),
            Column("cosine_enc", "DOUBLE", "Cosine of the encoders; null without a match."),
            Column("cosine_dec", "DOUBLE", "Cosine of the decoders; null without a match."),
            Column(
                "activation_correlation",
                "DOUBLE",
                "Correlation of their activations at the same tokens; null: not computed, or one was never active.",
            ),
        ),
    ),
)
