"""What is said of features, and how good it is."""

from storage.catalog.columns import CHECKPOINT, FEATURE, LAYER, READ_CORPUS, Column, Table

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
                "`control:constant` the same text for all.",
            ),
            Column("explainer", "VARCHAR", "The description's explainer."),
            Column("judge", "VARCHAR", "Who judged: rule, anthropic, openai, local; none where none is needed."),
            Column(
                "metric",
                "VARCHAR",
                "clarity, responsiveness, purity, faithfulness, simulation, detection, fuzzing, …",
            ),
            Column("value", "DOUBLE", "The figure; null where it has no value."),
            Column("low", "DOUBLE", "Lower end of its interval."),
            Column("high", "DOUBLE", "Upper end of its interval."),
            Column("n", "INTEGER", "Texts, tokens or samples that it rests on."),
            Column("reason", "VARCHAR", "Why it has no value."),
        ),
    ),
)
