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
                "weightlens+out+llm: these as the explainer words them; weightlens+twera: validated tokens, those "
                "inherited along the edges of greatest TWERA, and these edges; maxact, maxact*: greatest activations, "
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
            Column(
                "coverage",
                "DOUBLE",
                "Of the activation of the feature's (or cluster's) samples, the share on tokens that it names; null "
                "where it is not worded by rule from samples.",
            ),
            Column("prompt_sha256", "VARCHAR", "The prompt, for descriptions worded by a language model."),
            Column("created_at", "TIMESTAMP", "UTC."),
        ),
    ),
    Table(
        "description_clauses",
        "One thing that a description by rule says of where the feature fires, and how often that is so.",
        (
            "checkpoint_id",
            "corpus_id",
            "layer",
            "feature",
            "method",
            "explainer",
            "cluster",
            "samples",
            "kind",
            "clause",
        ),
        (
            CHECKPOINT,
            READ_CORPUS,
            LAYER,
            FEATURE,
            Column("method", "VARCHAR", "The description's method."),
            Column("explainer", "VARCHAR", "The description's explainer."),
            Column("cluster", "INTEGER", "A mechanism of `clusters`; −1: the whole feature."),
            Column(
                "samples",
                "VARCHAR",
                "Of which it is said: strongest (the greatest activations), or range (those that the method looks at).",
            ),
            Column(
                "kind",
                "VARCHAR",
                "token, kind: the firing token is this one, or of this kind; in: it is part of one of these words; "
                "at the start of a line: only blanks before it on its line; right after, right before: one of these "
                "comes immediately before or after; after: among the causes before it, or, where the method knows "
                "none, among the three tokens before it; in texts with: anywhere in the text that is shown.",
            ),
            Column("clause", "VARCHAR", "The tokens, as the description shows them; empty of the start of a line."),
            Column("share", "DOUBLE", "Share of the samples of which it is true."),
            Column(
                "base_rate",
                "DOUBLE",
                "Share of the tokens of the corpus of which it is true, by 512 rows at most; of after, of which one of "
                "the tokens stands anywhere in the text that is shown before (in texts with: before or after).",
            ),
            Column("lift", "DOUBLE", "Share over base rate, half a case added to every count."),
            Column("low", "DOUBLE", "Lower end of its 95% interval."),
            Column("high", "DOUBLE", "Upper end of its 95% interval."),
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
