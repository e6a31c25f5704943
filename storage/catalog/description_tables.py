"""Tables of descriptions and of their scores."""

from storage.catalog.columns import CHECKPOINT, FEATURE, LAYER, READ_CORPUS, Column, Table

_JUDGE = Column(
    "judge",
    "VARCHAR",
    "The judge: rule, anthropic, openai, local, authors (imported); none for metrics without a judge.",
)

TABLES = (
    Table(
        "descriptions",
        "One description of one feature.",
        ("checkpoint_id", "corpus_id", "layer", "feature", "method", "explainer", "cluster"),
        (
            CHECKPOINT,
            Column(
                "corpus_id",
                "VARCHAR",
                "The corpus that was read; null: written by the weightlens stage, which reads none.",
            ),
            LAYER,
            FEATURE,
            Column(
                "method",
                "VARCHAR",
                "weightlens: validated input tokens; weightlens+out: with promoted output tokens; "
                "weightlens+out+llm: the same, worded by a language model; weightlens+twera: validated tokens, "
                "those inherited along the edges of greatest TWERA, and these edges; maxact, maxact*: greatest "
                "activations, quantile sample; circuitlens-input: causes of sampled activations, circuitlens-full: "
                "with the tokens they promote, wl+cl: with WeightLens's tokens too; weightlens-soft: with all tokens "
                "of upstream features, validated or not (`compat: authors` and imports only).",
            ),
            Column(
                "explainer",
                "VARCHAR",
                "Who wrote it: tokens (by rule), anthropic, openai, local, or authors (imported).",
            ),
            Column("cluster", "INTEGER", "The cluster (table `clusters`) that it describes; −1: the whole feature."),
            Column("text", "VARCHAR", "The description."),
            Column("tokens", "VARCHAR[]", "Texts of the tokens it is based on, strongest first."),
            Column(
                "coverage",
                "DOUBLE",
                "Share of the activation of the feature's (or cluster's) samples that is on tokens it names; null "
                "if it is not written by rule from samples.",
            ),
            Column("prompt_sha256", "VARCHAR", "Hash of the prompt, for descriptions by a language model."),
            Column("created_at", "TIMESTAMP", "UTC."),
        ),
    ),
    Table(
        "description_clauses",
        "One statement of a description by rule about where the feature fires, and how often it is true.",
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
            Column("cluster", "INTEGER", "The cluster (table `clusters`) that it describes; −1: the whole feature."),
            Column(
                "samples",
                "VARCHAR",
                "The samples it is about: strongest (the greatest activations), or range (those that the method uses).",
            ),
            Column(
                "kind",
                "VARCHAR",
                "token, kind: the firing token is this one, or of this kind; in: it is part of one of these words; "
                "at the start of a line: only blanks before it on its line; right after, right before: one of these "
                "comes immediately before or after; after: among the causes before it, or, where the method knows "
                "none, among the three tokens before it; in texts with: anywhere in the text shown.",
            ),
            Column("clause", "VARCHAR", "The tokens, as the description shows them; empty for the start of a line."),
            Column("share", "DOUBLE", "Share of the samples for which it is true."),
            Column(
                "base_rate",
                "DOUBLE",
                "Share of the corpus' tokens for which it is true, from at most 512 rows; for `after`, for which one "
                "of the tokens is anywhere in the text shown before (for `in texts with`: before or after).",
            ),
            Column("lift", "DOUBLE", "Share over base rate, with half a case added to every count."),
            Column("low", "DOUBLE", "Lower end of its 95% interval."),
            Column("high", "DOUBLE", "Upper end of its 95% interval."),
        ),
    ),
    Table(
        "scores",
        "One metric of one feature's description.",
        ("checkpoint_id", "corpus_id", "layer", "feature", "method", "explainer", "judge", "metric"),
        (
            CHECKPOINT,
            READ_CORPUS,
            LAYER,
            FEATURE,
            Column(
                "method",
                "VARCHAR",
                "The description's method; `control:shuffled:…`: the description of another feature of the layer, "
                "`control:swapped:…`: that of the most similar feature, `control:constant`: the same text for all.",
            ),
            Column("explainer", "VARCHAR", "The description's explainer."),
            _JUDGE,
            Column(
                "metric",
                "VARCHAR",
                "clarity, responsiveness, purity, faithfulness, simulation, detection, detection_hard, fuzzing, "
                "fuzzing_hard, intruder, embedding, surprisal, stability, …",
            ),
            Column("value", "DOUBLE", "The value; null if there is none."),
            Column("low", "DOUBLE", "Lower end of its interval."),
            Column("high", "DOUBLE", "Upper end of its interval."),
            Column("n", "INTEGER", "Number of texts, tokens or samples that it is computed from."),
            Column("reason", "VARCHAR", "Why there is no value."),
        ),
    ),
    Table(
        "judged_texts",
        "Number of held-out texts of a corpus, and of those left out as near-duplicates.",
        ("checkpoint_id", "corpus_id", "explainer", "judge"),
        (
            CHECKPOINT,
            READ_CORPUS,
            Column("explainer", "VARCHAR", "Whose descriptions were judged."),
            _JUDGE,
            Column("n_texts", "INTEGER", "Number of texts before any was left out."),
            Column(
                "n_near_duplicates",
                "INTEGER",
                "Number left out because most of them occurs in the text that statistics are computed from.",
            ),
            Column("n_repeated", "INTEGER", "Number left out because they occur in earlier held-out text."),
            Column("n_drawn", "INTEGER", "Number of texts drawn from the rest."),
        ),
    ),
    Table(
        "decoys",
        "One fake feature that was treated like a real one; every description of it is wrong.",
        ("checkpoint_id", "decoy_checkpoint_id", "layer", "decoy"),
        (
            CHECKPOINT,
            Column("decoy_checkpoint_id", "VARCHAR", "The checkpoint with all results of the decoys."),
            LAYER,
            Column("decoy", "INTEGER", "Its number, from 0: the column `feature` of rows with `decoy_checkpoint_id`."),
            Column(
                "kind",
                "VARCHAR",
                "random: random directions; permuted: the entries of an encoder row and a decoder row permuted; "
                "recombined: an encoder row with another feature's decoder row.",
            ),
            Column("source_feature", "INTEGER", "The real feature whose norms and density it has."),
            Column(
                "decoder_feature", "INTEGER", "For a recombined one, the feature whose decoder row it has; else null."
            ),
            Column(
                "density",
                "DOUBLE",
                "Share of the tokens at which the real feature is active, and approximately the fake one.",
            ),
        ),
    ),
)
