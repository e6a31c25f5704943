"""Tables of what was read, and of runs: checkpoints, corpora, vocabularies, runs and their failures."""

from storage.catalog.columns import CHECKPOINT, CORPUS, FEATURE, LAYER, Column, Table

TABLES = (
    Table(
        "checkpoints",
        "One ingested checkpoint.",
        ("checkpoint_id",),
        (
            CHECKPOINT,
            Column("name", "VARCHAR", "Its name in the configuration."),
            Column("model_name", "VARCHAR", "Model folder or repository."),
            Column("model_revision", "VARCHAR", "Its revision, null for a local folder."),
            Column("transcoder_name", "VARCHAR", "Transcoder folder or repository."),
            Column("transcoder_revision", "VARCHAR", "Its revision, null for a local folder."),
            Column("step", "BIGINT", "Training step, where the model is one of a series."),
            Column("family", "VARCHAR", "Model family, transformers' model_type."),
            Column("activation", "VARCHAR", "relu, jumprelu or topk."),
            Column("n_layers", "SMALLINT", "Layers of the model."),
            Column(
                "layers",
                "SMALLINT[]",
                "Layers whose transcoders were ingested. Null: all (earlier versions).",
            ),
            Column("d_model", "INTEGER", "Width of the residual stream."),
            Column("d_transcoder", "INTEGER", "Features in each layer."),
            Column("d_vocab", "INTEGER", "Rows of the embedding."),
            Column(
                "feature_input_hook",
                "VARCHAR",
                "Where features read: transcoders at resid_mid, mlp_in_normalized or mlp_in, autoencoders at "
                "resid_pre, resid_post, attn_out, mlp_out or mlp_out_normed.",
            ),
            Column(
                "feature_output_hook",
                "VARCHAR",
                "What their sum stands for: of transcoders mlp_out or mlp_out_normed, of autoencoders what they read.",
            ),
            Column("weights_sha256", "VARCHAR", "Hash over the SHA-256 of every weight file."),
            Column("ingested_at", "TIMESTAMP", "When ingestion ended, UTC."),
        ),
    ),
    Table(
        "corpora",
        "One tokenised corpus.",
        ("corpus_id",),
        (
            Column("corpus_id", "VARCHAR", "The corpus: a short hash of text, tokenizer and packing."),
            Column("name", "VARCHAR", "Its source."),
            Column("n_sequences", "BIGINT", "Rows that statistics and samples are computed from."),
            Column("n_pos", "INTEGER", "Tokens in a row."),
            Column("n_tokens", "BIGINT", "Tokens in them, without padding."),
            Column("n_held_out_sequences", "BIGINT", "Rows of the held-out documents."),
            Column("n_held_out_tokens", "BIGINT", "Tokens in them, without padding."),
            Column("sha256", "VARCHAR", "Hash of the source; for a Hub dataset, of its commit and path."),
            Column(
                "corpora",
                "VARCHAR[]",
                "The ids of several corpora that were read one after the other, in order; null for a single corpus.",
            ),
            Column(
                "has_text",
                "BOOLEAN",
                "Whether the catalog has the text around samples; false: `corpus.keep_text` keeps it private; "
                "null: no samples, or loaded by an earlier version.",
            ),
        ),
    ),
    Table(
        "tokens",
        "One vocabulary entry of a checkpoint's tokenizer.",
        ("checkpoint_id", "token_id"),
        (
            CHECKPOINT,
            Column(
                "token_id", "INTEGER", "Token id; negative: a text in an imported file that does not identify a token."
            ),
            Column(
                "text",
                "VARCHAR",
                "Its text, with a leading space if it has one; bytes that are not a character as <0xE2>.",
            ),
        ),
    ),
    Table(
        "runs",
        "One stage of one run.",
        ("run_id", "stage"),
        (
            Column("run_id", "VARCHAR", "The run."),
            Column("flow_run_id", "VARCHAR", "Prefect's flow run."),
            CHECKPOINT,
            CORPUS,
            Column(
                "stage",
                "VARCHAR",
                "train-transcoders, ingest, a stage's name, compare-checkpoints or import.",
            ),
            Column("recipe", "VARCHAR", "The recipe of the stage's output in the catalog."),
            Column("status", "VARCHAR", "running, completed, failed or killed."),
            Column("started_at", "TIMESTAMP", "UTC."),
            Column("finished_at", "TIMESTAMP", "UTC; null while running."),
            Column("predicted_s", "DOUBLE", "Seconds by the plan; null where none was made."),
            Column("uncorrected_s", "DOUBLE", "Seconds by the plan without the correction by earlier runs."),
            Column("actual_s", "DOUBLE", "Seconds that it took."),
            Column("n_shards", "INTEGER", "Shards that can be copied from another checkpoint if they are equal."),
            Column("n_reused", "INTEGER", "Shards that were copied."),
            Column("config", "VARCHAR", "The configuration, as JSON."),
            Column("code_version", "VARCHAR", "Version of Circuit Insights."),
            Column("host", "VARCHAR", "Machine."),
            Column("error", "VARCHAR", "What ended a failed stage."),
        ),
    ),
    Table(
        "transcoder_quality",
        "How well one layer's transcoder reproduces its MLP, measured at ingestion.",
        ("checkpoint_id", "layer"),
        (
            CHECKPOINT,
            LAYER,
            Column("explained_variance", "DOUBLE", "1 − Σ‖y − ŷ‖² / Σ‖y − mean(y)‖²."),
            Column("l0", "DOUBLE", "Mean number of active features of a token."),
            Column("dead_share", "DOUBLE", "Share of features that were never active in the text."),
            Column("loss", "DOUBLE", "The model's next-token loss on a quarter of the text's rows, nats."),
            Column("loss_replaced", "DOUBLE", "This loss with the layer's MLP replaced by its transcoder."),
            Column(
                "loss_all_replaced", "DOUBLE", "This loss with the MLPs of all layers replaced; null: not measured."
            ),
            Column("n_tokens", "BIGINT", "Number of tokens for variance and active features."),
            Column("text", "VARCHAR", "The text that was used."),
        ),
    ),
    Table(
        "failures",
        "One feature for which a stage has no result, and why; feature −1: a layer.",
        ("run_id", "stage", "layer", "feature"),
        (
            Column("run_id", "VARCHAR", "The run that loaded it; `runs` names its checkpoint."),
            Column("stage", "VARCHAR", "The stage."),
            LAYER,
            FEATURE,
            Column("reason", "VARCHAR", "A short code: no_candidates, none_validated."),
            Column("detail", "VARCHAR", "The reason in a sentence, with numbers."),
        ),
    ),
    Table(
        "watched",
        "One checkpoint of a watched series that was described.",
        ("place", "name"),
        (
            Column("place", "VARCHAR", "The watched folder, or hf:// and the repository."),
            Column("name", "VARCHAR", "The folder in it, or the branch or tag and its commit."),
            Column("step", "BIGINT", "The number in its name."),
            CHECKPOINT,
            Column("seen_at", "TIMESTAMP", "When it had been described, UTC."),
        ),
    ),
    Table(
        "llm_calls",
        "One question to a language model.",
        ("call_id",),
        (
            Column("call_id", "VARCHAR", "The call."),
            Column("run_id", "VARCHAR", "The run that asked."),
            Column("purpose", "VARCHAR", "The purpose: explain, synthesise, rate, …"),
            Column("model", "VARCHAR", "The model that was asked."),
            Column("prompt_sha256", "VARCHAR", "Hash of all that was sent."),
            Column("characters", "BIGINT", "Length of the question, instructions included; 0 where it is not known."),
            Column("input_tokens", "BIGINT", "Tokens read, cached ones included."),
            Column("output_tokens", "BIGINT", "Tokens written."),
            Column("cost_usd", "DOUBLE", "Its cost by the configuration's prices."),
            Column(
                "set_aside_usd",
                "DOUBLE",
                "The amount still reserved for it: its answer was lost, and it may have been charged for.",
            ),
            Column("latency_s", "DOUBLE", "Seconds until the answer."),
            Column("cached", "BOOLEAN", "Whether it was answered from the store, free of charge."),
            Column("status", "VARCHAR", "ok, unknown (see set_aside_usd), or what went wrong."),
            Column("error", "VARCHAR", "The error, in full."),
        ),
    ),
)
