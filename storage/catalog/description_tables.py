"""What is said of features, and how good it is."""

from storage.catalog.columns import CHECKPOINT, FEATURE, LAYER, READ_CORPUS, Column, Table

_JUDGE = Column(
    "judge", "VARCHAR", "Who judged: rule, anthropic, openai, local, authors (imported); none where none is needed."
)

TABLES = (
    Table(
        "descriptions",
        "One description of one feature.",
        ("checkpoint_id", "corpus_id", "layer", "feature", "method", "explainer", "cluster"),
        (
            CHECKPOINT,
            Column("corpus_id", "VARCHAR", "The corpus read; null: by the weightlens stage, which reads none."),
            LAYER,
            FEATURE,
            Column(
                "method",
                "VARCHAR",
                "weightlens: validated input tokens; weightlens+out: with promoted output tokens; "
                "weightlens+out+llm: these as the explainer words them; maxact, maxact*: greatest activations, "
                "quantile sample; circuitlens-input: causes of sampled activations, circuitlens-full: with the "
                "tokens they promote, wl+cl: with WeightLens's tokens too; weightlens-soft: with all tokens of "
                "upstream features, validated or not (`compat: authors` and imports only).",
            ),
            Column(
                "explainer",
                "VARCHAR",
                "Who worded it: tokens (by rule), anthropic, openai, local, or authors (imported).",
            ),
            Column("cluster", "INTEGER", "A mechanism of `clusters`; −1: the whole feature."),
            Column("text", "VARCHAR", "The description."),
            Column("tokens", "VARCHAR[]", "Texts of the tokens it rests on, strongest first."),
            Column("prompt_sha256", "VARCHAR", "The prompt, for descriptions worded by a language model."),
            Column("created_at", "TIMESTAMP", "UTC."),
        ),
    ),
    Table(
        "scores",
        "One figure of how good one feature's description is.",
        ("checkpoint_id", "corpus_id", "layer", "feature", "method", "explainer", "judge", "metric"),
        (
            CHECKPOINT,
            READ_CORPUS,
            LAYER,
            FEATURE,
            Column(
                "method",
                "VARCHAR",
                "The description's method; `control:shuffled:…` that of another feature of the layer, "
                "`control:swapped:…` that of the feature that looks most alike, `control:constant` the same for all.",
            ),
            Column("explainer", "VARCHAR", "The description's explainer."),
            _JUDGE,
            Column(
                "metric",
                "VARCHAR",
                "clarity, responsiveness, purity, faithfulness, simulation, detection, detection_hard, fuzzing, "
                "fuzzing_hard, intruder, embedding, surprisal, stability, …",
            ),
            Column("value", "DOUBLE", "The figure; null where it has no value."),
            Column("low", "DOUBLE", "Lower end of its interval."),
            Column("high", "DOUBLE", "Upper end of its interval."),
            Column("n", "INTEGER", "Texts, tokens or samples that it rests on."),
            Column("reason", "VARCHAR", "Why it has no value."),
        ),
    ),
    Table(
        "judged_texts",
        "Held-out texts of a corpus, and which of them descriptions were not judged on.",
        ("checkpoint_id", "corpus_id", "explainer", "judge"),
        (
            CHECKPOINT,
            READ_CORPUS,
            Column("explainer", "VARCHAR", "Whose descriptions were judged."),
            _JUDGE,
            Column("n_texts", "INTEGER", "Texts that there were to draw from."),
            Column(
                "n_near_duplicates",
                "INTEGER",
                "Those left out because they stand, in great part, in the text that statistics are taken from.",
            ),
            Column("n_repeated", "INTEGER", "Those left out because they stand in the held-out text before."),
            Column("n_drawn", "INTEGER", "Texts that were drawn of the rest."),
        ),
    ),
    Table(
        "decoys",
        "One fake feature that went through the pipeline as a real one does: what is said of it is wrong.",
        ("checkpoint_id", "decoy_checkpoint_id", "layer", "decoy"),
        (
            CHECKPOINT,
            Column("decoy_checkpoint_id", "VARCHAR", "The checkpoint under which everything of the decoys stands."),
            LAYER,
            Column("decoy", "INTEGER", "Its number, from 0: what is `feature` under `decoy_checkpoint_id`."),
            Column(
                "kind",
                "VARCHAR",
                "random: random directions; permuted: the entries of an encoder row and a decoder row permuted; "
                "recombined: an encoder row with another feature's decoder row.",
            ),
            Column("source_feature", "INTEGER", "The real feature whose norms and density it has."),
            Column("decoder_feature", "INTEGER", "Of a recombined one, whose decoder row it has; else null."),
            Column("density", "DOUBLE", "Share of the tokens at which the real feature is active, and it about too."),
        ),
    ),
)
