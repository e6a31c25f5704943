"""The catalog's tables and views: the one place that knows their columns.

`docs/schema.md` is written from here (`make schema`), and so are the Parquet parts.
"""

from typing import NamedTuple

import pyarrow as pa

from storage.catalog.contexts import CONTEXTS
from storage.catalog.student import t_quantile

ARROW = {
    "VARCHAR": pa.string(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR[]": pa.list_(pa.string()),
    "INTEGER[]": pa.list_(pa.int32()),
    "FLOAT[]": pa.list_(pa.float32()),
}


class Column(NamedTuple):
    name: str
    type: str
    meaning: str


class Table(NamedTuple):
    """A table: what a row is, its key and its columns."""

    name: str
    row: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([(column.name, ARROW[column.type]) for column in self.columns])

    @property
    def ddl(self) -> str:
        columns = ", ".join(f"{column.name} {column.type}" for column in self.columns)
        return f"CREATE TABLE IF NOT EXISTS {self.name} ({columns})"


CHECKPOINT = Column(
    "checkpoint_id", "VARCHAR", "The checkpoint: a short hash of model, transcoders and how they are read."
)
CORPUS = Column("corpus_id", "VARCHAR", "The corpus; null where the row depends on weights alone.")
READ_CORPUS = Column("corpus_id", "VARCHAR", "The corpus that was read; of several, a hash of them all.")
LAYER = Column("layer", "SMALLINT", "Layer, from 0.")
FEATURE = Column("feature", "INTEGER", "Feature of the layer's transcoder, from 0.")

TABLES = {
    table.name: table
    for table in (
        Table(
            "checkpoints",
            "One ingested checkpoint.",
            ("checkpoint_id",),
            (
                CHECKPOINT,
                Column("name", "VARCHAR", "The configuration's name for it."),
                Column("model_name", "VARCHAR", "Model folder or repository."),
                Column("model_revision", "VARCHAR", "Its revision, null for a local folder."),
                Column("transcoder_name", "VARCHAR", "Transcoder folder or repository."),
                Column("transcoder_revision", "VARCHAR", "Its revision, null for a local folder."),
                Column("step", "BIGINT", "Training step, where the model is one of a series."),
                Column("family", "VARCHAR", "Model family, transformers' model_type."),
                Column("activation", "VARCHAR", "relu, jumprelu or topk."),
                Column("n_layers", "SMALLINT", "Layers, each with a transcoder."),
                Column("d_model", "INTEGER", "Width of the residual stream."),
                Column("d_transcoder", "INTEGER", "Features a layer."),
                Column("d_vocab", "INTEGER", "Rows of the embedding."),
                Column(
                    "feature_input_hook",
                    "VARCHAR",
                    "Where the transcoders read: resid_mid, mlp_in_normalized or mlp_in.",
                ),
                Column("feature_output_hook", "VARCHAR", "What they stand for: mlp_out or mlp_out_normed."),
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
                Column("n_sequences", "BIGINT", "Rows from which statistics and samples are taken."),
                Column("n_pos", "INTEGER", "Tokens a row."),
                Column("n_tokens", "BIGINT", "Tokens in them, padding left out."),
                Column("n_held_out_sequences", "BIGINT", "Rows of the documents that are held out."),
                Column("n_held_out_tokens", "BIGINT", "Tokens in them, padding left out."),
                Column("sha256", "VARCHAR", "Hash of the source; of a Hub dataset, its commit and path."),
                Column(
                    "corpora",
                    "VARCHAR[]",
                    "Of several corpora that were read one after the other, their ids in order; null of a single one.",
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
                    "token_id", "INTEGER", "Token id; negative: a text of an imported file that names no one token."
                ),
                Column("text", "VARCHAR", "Its text, leading space kept; bytes that are no character as <0xE2>."),
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
                Column("recipe", "VARCHAR", "The recipe whose output the stage left in the catalog."),
                Column("status", "VARCHAR", "running, completed, failed or killed."),
                Column("started_at", "TIMESTAMP", "UTC."),
                Column("finished_at", "TIMESTAMP", "UTC; null while running."),
                Column("n_shards", "INTEGER", "Shards that can be taken over from another checkpoint, where equal."),
                Column("n_reused", "INTEGER", "Those that were."),
                Column("config", "VARCHAR", "The configuration, as JSON."),
                Column("code_version", "VARCHAR", "Version of Circuit Insights."),
                Column("host", "VARCHAR", "Machine."),
                Column("error", "VARCHAR", "What ended a failed stage."),
            ),
        ),
        Table(
            "transcoder_quality",
            "How well one layer's transcoder stands for its MLP, measured at ingestion.",
            ("checkpoint_id", "layer"),
            (
                CHECKPOINT,
                LAYER,
                Column("explained_variance", "DOUBLE", "1 − Σ‖y − ŷ‖² / Σ‖y − mean(y)‖²."),
                Column("l0", "DOUBLE", "Mean active features a token."),
                Column("dead_share", "DOUBLE", "Share of features that fired nowhere in the text."),
                Column("loss", "DOUBLE", "The model's next-token loss on the text, nats."),
                Column("loss_replaced", "DOUBLE", "The same with the layer's MLP replaced by its transcoder."),
                Column("n_tokens", "BIGINT", "Tokens measured on."),
                Column("text", "VARCHAR", "The text they are from."),
            ),
        ),
        Table(
            "token_candidates",
            "One token that a feature's weights single out, or that it inherits from upstream.",
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
                    "Projection score; for an inherited token the virtual weight of the edge it came by; null where an "
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
            "One earlier feature that a feature is wired to.",
            ("checkpoint_id", "corpus_id", "source_layer", "source_feature", "target_layer", "target_feature"),
            (
                CHECKPOINT,
                Column("corpus_id", "VARCHAR", "The corpus of the co-activation figures; null: weights alone."),
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
                Column("twera_low", "DOUBLE", "Lower end of its 95% interval, documents of the corpus being drawn."),
                Column("twera_high", "DOUBLE", "Upper end; both null where the target is active in one document only."),
                Column("n_coactive", "BIGINT", "Its support: tokens at which both are active."),
            ),
        ),
        Table(
            "features",
            "What one feature did on a corpus.",
            ("checkpoint_id", "corpus_id", "layer", "feature"),
            (
                CHECKPOINT,
                READ_CORPUS,
                LAYER,
                FEATURE,
                Column("n_active", "BIGINT", "Tokens at which it was active."),
                Column("density", "DOUBLE", "Their share of all tokens counted."),
                Column("mean_activation", "DOUBLE", "Mean over the tokens at which it was active; null if none."),
                Column("std_activation", "DOUBLE", "Standard deviation over them (n); null if none."),
                Column("max_activation", "FLOAT", "Greatest activation; null if none."),
                Column(
                    "quantiles",
                    "FLOAT[]",
                    "Edges of the quantile bins over the tokens at which it was active, from the least to the greatest "
                    "activation; null if none.",
                ),
                Column("is_dead", "BOOLEAN", "Never active on the corpus."),
            ),
        ),
        Table(
            "samples",
            "One token of a corpus at which a feature was active, drawn for a closer look.",
            ("checkpoint_id", "corpus_id", "layer", "feature", "sample"),
            (
                CHECKPOINT,
                READ_CORPUS,
                LAYER,
                FEATURE,
                Column(
                    "sample", "INTEGER", "From 0: first the quantile sample, then the greatest activations, downwards."
                ),
                Column("sequence", "BIGINT", "Row of the corpus; of several, counted through all of them."),
                Column("position", "INTEGER", "Token in the row, from 0."),
                Column("activation", "FLOAT", "The feature's activation there."),
                Column(
                    "quantile_bin",
                    "SMALLINT",
                    "Bin of the quantile sample, 0 for the weakest; null: not in that sample, but among the feature's "
                    "greatest activations. Those in both stand once, so the greatest are ORDER BY activation DESC over "
                    "all its samples.",
                ),
                Column("cluster", "SMALLINT", "Cluster by mechanism, −1 noise; null where not attributed."),
            ),
        ),
        Table(
            "sequences",
            "One row of a corpus from which a sample was drawn, as text.",
            ("corpus_id", "sequence"),
            (
                READ_CORPUS,
                Column("sequence", "BIGINT", "Row of the corpus; of several, counted through all of them."),
                Column(
                    "tokens",
                    "VARCHAR[]",
                    "The texts of its tokens, padding left out. A character that several tokens make up is on the "
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
                Column("kind", "VARCHAR", "feature, head, token, error or bias."),
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
                Column("effect", "DOUBLE", "What the activation adds to its logit."),
            ),
        ),
        Table(
            "clusters",
            "One mechanism by which a feature fires.",
            ("checkpoint_id", "corpus_id", "layer", "feature", "cluster"),
            (
                CHECKPOINT,
                READ_CORPUS,
                LAYER,
                FEATURE,
                Column("cluster", "SMALLINT", "From 0, the largest first; −1: samples that belong to none."),
                Column("n_samples", "INTEGER", "Samples in it."),
                Column("share", "DOUBLE", "Their share of the feature's attributed samples."),
                Column("signature", "VARCHAR[]", "Contributors that most of its samples share: L3 #17, L2 H1 −1, …"),
            ),
        ),
        Table(
            "contribution_totals",
            "How much of what a feature could read its candidates and edges account for.",
            ("checkpoint_id", "layer", "feature"),
            (
                CHECKPOINT,
                LAYER,
                FEATURE,
                Column(
                    "absolute_contribution",
                    "DOUBLE",
                    "Σ|score| over the whole vocabulary and over every feature of the upstream layers; to within 1e-3 "
                    "where the run was screened in bfloat16.",
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
            "How a description fared when its tokens were read as one sequence; of `compat: authors` and imports only.",
            ("checkpoint_id", "layer", "feature"),
            (
                CHECKPOINT,
                LAYER,
                FEATURE,
                Column("validation", "BOOLEAN", "Whether the description's tokens, read as one sequence, fire it."),
                Column("validation_soft", "DOUBLE", "Share of the soft description's tokens that fire it so."),
            ),
        ),
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
        Table(
            "llm_calls",
            "One question to a language model.",
            ("call_id",),
            (
                Column("call_id", "VARCHAR", "The call."),
                Column("run_id", "VARCHAR", "The run that asked."),
                Column("purpose", "VARCHAR", "What for: explain, synthesise, rate, …"),
                Column("model", "VARCHAR", "The model asked."),
                Column("prompt_sha256", "VARCHAR", "Hash of all that was sent."),
                Column("input_tokens", "BIGINT", "Tokens read, cached ones included."),
                Column("output_tokens", "BIGINT", "Tokens written."),
                Column("cost_usd", "DOUBLE", "What it cost by the configuration's prices."),
                Column(
                    "set_aside_usd",
                    "DOUBLE",
                    "What stays set aside for it: its answer got lost, and it may have been charged for.",
                ),
                Column("latency_s", "DOUBLE", "Seconds until the answer."),
                Column("cached", "BOOLEAN", "Answered from the store, for nothing."),
                Column("status", "VARCHAR", "ok, unknown (see set_aside_usd), or what went wrong."),
                Column("error", "VARCHAR", "The error, in full."),
            ),
        ),
        Table(
            "feature_matches",
            "One feature of a checkpoint and its like in another.",
            ("checkpoint_a", "checkpoint_b", "layer", "feature_a", "feature_b"),
            (
                Column("checkpoint_a", "VARCHAR", "The earlier checkpoint."),
                Column("checkpoint_b", "VARCHAR", "The later checkpoint."),
                LAYER,
                Column("feature_a", "INTEGER", "Feature of the earlier; null: born."),
                Column("feature_b", "INTEGER", "Feature of the later; null: died."),
                Column("fate", "VARCHAR", "kept, moved, born or died."),
                Column("cosine_enc", "DOUBLE", "Cosine of the encoders; null without a like."),
                Column("cosine_dec", "DOUBLE", "Cosine of the decoders; null without a like."),
                Column(
                    "activation_correlation",
                    "DOUBLE",
                    "Of their activations at the same tokens; null: not run, or one was never active.",
                ),
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
            "failures",
            "One feature for which a stage found nothing, and why; feature −1: a layer.",
            ("run_id", "stage", "layer", "feature"),
            (
                Column("run_id", "VARCHAR", "The run that loaded it; `runs` names its checkpoint."),
                Column("stage", "VARCHAR", "The stage."),
                LAYER,
                FEATURE,
                Column("reason", "VARCHAR", "A short code: no_candidates, none_validated."),
                Column("detail", "VARCHAR", "The same in a sentence, with numbers."),
            ),
        ),
    )
}

VIEWS = {
    "contexts": CONTEXTS,
    "feature_card": (
        "One described feature: its descriptions, validated tokens, promoted tokens and strongest upstream features.",
        """
        SELECT d.checkpoint_id, d.layer, d.feature,
               max(d.text) FILTER (d.method = 'weightlens') AS weightlens,
               max(d.text) FILTER (d.method = 'weightlens+out') AS weightlens_out,
               any_value(i.tokens) AS input_tokens,
               any_value(o.tokens) AS output_tokens,
               any_value(e.upstream) AS upstream
        FROM descriptions d
        LEFT JOIN (
            SELECT c.checkpoint_id, layer, feature, list(t.text ORDER BY c.rank) AS tokens
            FROM token_candidates c JOIN tokens t USING (checkpoint_id, token_id)
            WHERE side = 'input' AND validated GROUP BY ALL
        ) i USING (checkpoint_id, layer, feature)
        LEFT JOIN (
            SELECT c.checkpoint_id, layer, feature, list(t.text ORDER BY c.rank) AS tokens
            FROM token_candidates c JOIN tokens t USING (checkpoint_id, token_id)
            WHERE side = 'output' AND sign = 1 GROUP BY ALL
        ) o USING (checkpoint_id, layer, feature)
        LEFT JOIN (
            SELECT checkpoint_id, target_layer AS layer, target_feature AS feature,
                   list({'layer': source_layer, 'feature': source_feature, 'virtual_weight': virtual_weight}
                        ORDER BY virtual_weight DESC) AS upstream
            FROM feature_edges WHERE corpus_id IS NULL GROUP BY ALL
        ) e USING (checkpoint_id, layer, feature)
        GROUP BY ALL
        """,
    ),
    "drift": (
        "One feature between two checkpoints, with its WeightLens description before and after. `agreement` is the "
        "share of the descriptions' tokens that both have, 0 where only one is described, null where neither is. "
        "`surprise` is `description changed` where the weights were kept and fewer than half agree, "
        "`description stayed` where they moved and at least half do.",
        """
        WITH described AS (
            SELECT checkpoint_id, layer, feature, text, tokens FROM descriptions
            WHERE method = 'weightlens' AND explainer = 'tokens' AND cluster = -1 AND corpus_id IS NULL
        ), compared AS (
            SELECT m.*, a.text AS text_a, b.text AS text_b,
                   CASE WHEN a.tokens IS NOT NULL OR b.tokens IS NOT NULL
                        THEN coalesce(len(list_intersect(a.tokens, b.tokens)), 0)
                             / len(list_distinct(list_concat(a.tokens, b.tokens))) END AS agreement
            FROM feature_matches m
            LEFT JOIN described a ON (a.checkpoint_id, a.layer, a.feature) = (m.checkpoint_a, m.layer, m.feature_a)
            LEFT JOIN described b ON (b.checkpoint_id, b.layer, b.feature) = (m.checkpoint_b, m.layer, m.feature_b)
        )
        SELECT *, CASE WHEN fate = 'kept' AND agreement < 0.5 THEN 'description changed'
                       WHEN fate = 'moved' AND agreement >= 0.5 THEN 'description stayed' END AS surprise
        FROM compared
        """,
    ),
    "feature_origins": (
        "One feature of a compared checkpoint, and the checkpoint of its series in which it appeared: followed back "
        "from each checkpoint to the latest earlier one, by step, then by when they came in, that it was compared "
        "with. `n_comparisons` is how many it was followed through; 0: born here.",
        """
        WITH RECURSIVE earlier AS (
            SELECT m.checkpoint_b, arg_max(m.checkpoint_a, (coalesce(a.step, 0), a.ingested_at)) AS checkpoint_a
            FROM (SELECT DISTINCT checkpoint_a, checkpoint_b FROM feature_matches) m
            JOIN checkpoints a ON a.checkpoint_id = m.checkpoint_a
            JOIN checkpoints b ON b.checkpoint_id = m.checkpoint_b
            WHERE (coalesce(a.step, 0), a.ingested_at) < (coalesce(b.step, 0), b.ingested_at)
            GROUP BY m.checkpoint_b
        ), steps AS (
            SELECT m.* FROM feature_matches m JOIN earlier USING (checkpoint_a, checkpoint_b)
            WHERE feature_b IS NOT NULL
        ), followed AS (
            SELECT checkpoint_b AS checkpoint_id, layer, feature_b AS feature,
                   checkpoint_b AS at_checkpoint, feature_b AS at_feature, 0 AS n_comparisons
            FROM steps
            UNION ALL
            SELECT f.checkpoint_id, f.layer, f.feature, s.checkpoint_a, s.feature_a, f.n_comparisons + 1
            FROM followed f JOIN steps s
              ON (s.checkpoint_b, s.layer, s.feature_b) = (f.at_checkpoint, f.layer, f.at_feature)
            WHERE s.feature_a IS NOT NULL
        ), first AS (
            SELECT checkpoint_id, layer, feature, arg_max(at_checkpoint, n_comparisons) AS first_checkpoint,
                   arg_max(at_feature, n_comparisons) AS first_feature, max(n_comparisons) AS n_comparisons
            FROM followed GROUP BY ALL
        )
        SELECT first.*, c.name AS first_name, c.step AS first_step
        FROM first LEFT JOIN checkpoints c ON c.checkpoint_id = first.first_checkpoint
        """,
    ),
    "relative_contributions": (
        "One token or upstream feature that a feature's encoder singles out, with its share of all it could read.",
        """
        SELECT c.checkpoint_id, c.layer, c.feature, 'token' AS kind, c.token_id,
               NULL::SMALLINT AS source_layer, NULL::INTEGER AS source_feature, c.score AS contribution,
               abs(c.score) / t.absolute_contribution AS relative_contribution
        FROM token_candidates c JOIN contribution_totals t USING (checkpoint_id, layer, feature)
        WHERE c.side = 'input' AND c.source_layer IS NULL
        UNION ALL
        SELECT e.checkpoint_id, e.target_layer, e.target_feature, 'feature', NULL,
               e.source_layer, e.source_feature, e.virtual_weight,
               abs(e.virtual_weight) / t.absolute_contribution
        FROM feature_edges e JOIN contribution_totals t
          ON (t.checkpoint_id, t.layer, t.feature) = (e.checkpoint_id, e.target_layer, e.target_feature)
        WHERE e.corpus_id IS NULL
        """,
    ),
    "layer_summary": (
        "One layer: how many features are described, by what, and the transcoder's quality.",
        """
        SELECT c.checkpoint_id, q.layer, c.d_transcoder AS n_features,
               coalesce(d.n_described, 0) AS n_described,
               coalesce(d.n_described, 0) / c.d_transcoder AS share_described,
               coalesce(t.n_direct_tokens, 0) AS n_direct_tokens,
               coalesce(t.n_inherited_tokens, 0) AS n_inherited_tokens, coalesce(e.n_edges, 0) AS n_edges,
               q.explained_variance, q.l0, q.dead_share, q.loss_replaced - q.loss AS loss_increase
        FROM checkpoints c
        JOIN transcoder_quality q USING (checkpoint_id)
        LEFT JOIN (
            SELECT checkpoint_id, layer, count(*) AS n_described FROM descriptions
            WHERE method = 'weightlens' GROUP BY ALL
        ) d USING (checkpoint_id, layer)
        LEFT JOIN (
            SELECT checkpoint_id, layer, count(*) FILTER (source_layer IS NULL) AS n_direct_tokens,
                   count(*) FILTER (source_layer IS NOT NULL) AS n_inherited_tokens
            FROM token_candidates WHERE validated GROUP BY ALL
        ) t USING (checkpoint_id, layer)
        LEFT JOIN (
            SELECT checkpoint_id, target_layer AS layer, count(*) AS n_edges FROM feature_edges
            WHERE corpus_id IS NULL GROUP BY ALL
        ) e USING (checkpoint_id, layer)
        """,
    ),
    "method_comparison": (
        "One method of description in one layer by one metric: its mean over features with a 95% interval, and what it "
        "has over its own descriptions shuffled among the features (`lift`, over the features that have both). "
        "Intervals by Student's t; none of one feature alone.",
        f"""
        WITH figures AS (
            SELECT o.checkpoint_id, o.corpus_id, o.layer, o.explainer, o.judge, o.metric, o.method,
                   count(o.value) AS n_features, count(*) - count(o.value) AS n_without_value, avg(o.value) AS mean,
                   stddev_samp(o.value) / sqrt(count(o.value)) AS error, count(o.value - c.value) AS n_paired,
                   avg(o.value - c.value) AS lift,
                   stddev_samp(o.value - c.value) / sqrt(count(o.value - c.value)) AS lift_error
            FROM scores o LEFT JOIN scores c
              ON (c.checkpoint_id, c.corpus_id, c.layer, c.feature, c.explainer, c.judge, c.metric)
                 = (o.checkpoint_id, o.corpus_id, o.layer, o.feature, o.explainer, o.judge, o.metric)
                 AND c.method = 'control:shuffled:' || o.method
            GROUP BY ALL
        ), reaches AS (
            SELECT *, error * {t_quantile("n_features")} AS reach, lift_error * {t_quantile("n_paired")} AS lift_reach
            FROM figures
        )
        SELECT checkpoint_id, corpus_id, layer, explainer, judge, metric, method, n_features, n_without_value, mean,
               mean - reach AS low, mean + reach AS high, n_paired, lift, lift - lift_reach AS lift_low,
               lift + lift_reach AS lift_high, lift_error
        FROM reaches
        """,
    ),
    "method_differences": (
        "Two methods of description in one layer by one metric, over the features that both have: the mean difference "
        "(the first less the second) with a 95% interval by Student's t.",
        f"""
        WITH figures AS (
            SELECT a.checkpoint_id, a.corpus_id, a.layer, a.explainer, a.judge, a.metric, a.method,
                   b.method AS against, count(*) AS n_features, avg(a.value - b.value) AS difference,
                   stddev_samp(a.value - b.value) / sqrt(count(*)) AS error
            FROM scores a JOIN scores b
              ON (a.checkpoint_id, a.corpus_id, a.layer, a.feature, a.explainer, a.judge, a.metric)
                 = (b.checkpoint_id, b.corpus_id, b.layer, b.feature, b.explainer, b.judge, b.metric)
                 AND a.method <> b.method
            WHERE a.value IS NOT NULL AND b.value IS NOT NULL
              AND a.method NOT LIKE 'control:%' AND b.method NOT LIKE 'control:%'
            GROUP BY ALL
        ), reaches AS (SELECT *, error * {t_quantile("n_features")} AS reach FROM figures)
        SELECT checkpoint_id, corpus_id, layer, explainer, judge, metric, method, against, n_features, difference,
               difference - reach AS low, difference + reach AS high
        FROM reaches
        """,
    ),
    "judge_usefulness": (
        "One judge in one layer by one metric: whether it tells any method's descriptions from the same shuffled, at "
        "5% for all methods together. `lift_low` is the lower end of such an interval of the method of greatest lift. "
        "Where the judge is not useful, its figures say nothing there.",
        f"""
        WITH compared AS (
            SELECT *, count(*) OVER (PARTITION BY checkpoint_id, corpus_id, layer, explainer, judge, metric)
                      AS n_methods
            FROM method_comparison WHERE method NOT LIKE 'control:%' AND n_paired > 0
        ), bounds AS (
            SELECT * EXCLUDE (lift_low), lift - lift_error * {t_quantile("n_paired", "n_methods")} AS lift_low
            FROM compared
        )
        SELECT checkpoint_id, corpus_id, layer, explainer, judge, metric, any_value(n_methods) AS n_methods,
               -- where all lifts are equal there is no error to go by: then by the signs
               coalesce(bool_or(lift_low > 0 AND (lift_error > 0 OR n_paired >= log2(40 * n_methods))), false)
                   AS is_useful,
               arg_max(method, lift) AS method, max(lift) AS lift, arg_max(lift_low, lift) AS lift_low
        FROM bounds GROUP BY ALL
        """,
    ),
    "llm_spend": (
        "What one run asked one language model for one purpose, and what it cost.",
        """
        SELECT run_id, model, purpose, count(*) FILTER (NOT cached) AS n_calls,
               count(*) FILTER (cached) AS n_from_store, count(*) FILTER (status <> 'ok') AS n_without_use,
               sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(cost_usd) AS cost_usd,
               sum(set_aside_usd) AS set_aside_usd,
               avg(latency_s) FILTER (NOT cached) AS mean_latency_s
        FROM llm_calls GROUP BY ALL
        """,
    ),
}
