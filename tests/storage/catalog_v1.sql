-- The schema of version 1 of the catalog, as it is on users' disks.
CREATE TABLE schema_version (version INTEGER);
INSERT INTO schema_version VALUES (1);
CREATE TABLE loaded (subject VARCHAR, stage VARCHAR, recipe VARCHAR);
CREATE TABLE checkpoints (checkpoint_id VARCHAR, name VARCHAR, model_name VARCHAR, model_revision VARCHAR,
  transcoder_name VARCHAR, transcoder_revision VARCHAR, step BIGINT, family VARCHAR, activation VARCHAR, n_layers
  SMALLINT, d_model INTEGER, d_transcoder INTEGER, d_vocab INTEGER, feature_input_hook VARCHAR, feature_output_hook
  VARCHAR, weights_sha256 VARCHAR, ingested_at TIMESTAMP);
CREATE TABLE corpora (corpus_id VARCHAR, name VARCHAR, n_sequences BIGINT, n_pos INTEGER, n_tokens BIGINT, sha256
  VARCHAR);
CREATE TABLE tokens (checkpoint_id VARCHAR, token_id INTEGER, text VARCHAR);
CREATE TABLE runs (run_id VARCHAR, flow_run_id VARCHAR, checkpoint_id VARCHAR, corpus_id VARCHAR, stage VARCHAR,
  recipe VARCHAR, status VARCHAR, started_at TIMESTAMP, finished_at TIMESTAMP, config VARCHAR, code_version VARCHAR,
  host VARCHAR, error VARCHAR);
CREATE TABLE transcoder_quality (checkpoint_id VARCHAR, layer SMALLINT, explained_variance DOUBLE, l0 DOUBLE,
  dead_share DOUBLE, loss DOUBLE, loss_replaced DOUBLE, n_tokens BIGINT, text VARCHAR);
CREATE TABLE token_candidates (checkpoint_id VARCHAR, layer SMALLINT, feature INTEGER, side VARCHAR, sign TINYINT,
  rank INTEGER, token_id INTEGER, score FLOAT, z_score DOUBLE, activation FLOAT, validated BOOLEAN, source_layer
  SMALLINT, source_feature INTEGER);
CREATE TABLE feature_edges (checkpoint_id VARCHAR, corpus_id VARCHAR, source_layer SMALLINT, source_feature INTEGER,
  target_layer SMALLINT, target_feature INTEGER, virtual_weight FLOAT, z_score DOUBLE);
CREATE TABLE contribution_totals (checkpoint_id VARCHAR, layer SMALLINT, feature INTEGER, absolute_contribution
  DOUBLE, detected_share DOUBLE);
CREATE TABLE sequence_validation (checkpoint_id VARCHAR, layer SMALLINT, feature INTEGER, validation BOOLEAN,
  validation_soft DOUBLE);
CREATE TABLE descriptions (checkpoint_id VARCHAR, corpus_id VARCHAR, layer SMALLINT, feature INTEGER, method VARCHAR,
  explainer VARCHAR, cluster INTEGER, text VARCHAR, tokens VARCHAR[], prompt_sha256 VARCHAR, created_at TIMESTAMP);
CREATE TABLE failures (run_id VARCHAR, stage VARCHAR, layer SMALLINT, feature INTEGER, reason VARCHAR, detail VARCHAR);
CREATE VIEW layer_summary AS SELECT c.checkpoint_id, q.layer, c.d_transcoder AS n_features,
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
            SELECT checkpoint_id, target_layer AS layer, count(*) AS n_edges FROM feature_edges GROUP BY ALL
        ) e USING (checkpoint_id, layer);
