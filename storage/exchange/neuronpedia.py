"""Features, activations and explanations in the layout of Neuronpedia's bulk exports, which its importer reads.

A folder a layer (a source), with four files of one line about model, release, set and source, and three folders of
batches of 1,024 features each, gzipped JSON lines; a batch of which there is nothing has no file. Beside the models,
`config/` has the methods and explainers that explanations refer to. Columns and their names are those of its database,
as its own exporter writes them; what this catalog does not have (histograms, neuron alignment, vectors) is left empty.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from storage.exchange.slugs import slug_of
from storage.store import whole_file

BATCH = 1024
"""Features in a file."""

ACTIVATIONS, TOKENS = 20, 10
"""Number of a feature's greatest samples, and of the tokens it promotes or suppresses, that are written."""

MAX_DESCRIPTION = 512
"""Longest explanation that Neuronpedia accepts, in characters."""

CREATOR = "clkht01d40000jv08hvalcvly"
"""The author that its importer assumes if none is named."""

EMPTY = (
    "freq_hist_data_bar_heights", "freq_hist_data_bar_values", "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values", "neuron_alignment_indices", "neuron_alignment_l1", "neuron_alignment_values",
    "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson", "topkCosSimIndices",
    "topkCosSimValues", "vector",
)  # fmt: skip
"""Columns of a feature that this catalog does not have."""


class Named(NamedTuple):
    """The names of a checkpoint in Neuronpedia."""

    checkpoint_id: str
    model: str
    set_name: str
    hook: str | None

    def source(self, layer: int) -> str:
        """The name of a layer as a source."""
        return f"{layer}-{self.set_name}"


def export_neuronpedia(connection: duckdb.DuckDBPyConnection, checkpoint_id: str, folder: Path) -> list[Path]:
    """Write a checkpoint's layers; returns the folders, one for each ingested layer.

    Memory: a batch of features with their samples' texts.
    """
    query = "SELECT name, model_name, n_layers, d_transcoder, feature_output_hook, ingested_at, layers FROM checkpoints"
    row = connection.execute(f"{query} WHERE checkpoint_id = ?", [checkpoint_id]).fetchall()[0]
    name, model_name, n_layers, width, hook, at, layers = row
    model = slug_of(Path(model_name).name)
    named, created = Named(checkpoint_id, model, slug_of(name), hook), at.replace(tzinfo=UTC).isoformat()
    _describe_methods(connection, checkpoint_id, folder / "config")
    folders = []
    for layer in range(n_layers) if layers is None else layers:
        place = folder / model / named.source(layer)
        _describe(named, layer, n_layers, created, place)
        for number, start in enumerate(range(0, width, BATCH)):
            chosen = [checkpoint_id, layer, start, min(start + BATCH, width)]
            for kind, rows in (
                ("features", _features(connection, named, layer, chosen)),
                ("explanations", _explanations(connection, named, layer, chosen)),
                ("activations", _activations(connection, named, layer, chosen, created)),
            ):
                _write_batch(place / kind / f"batch-{number}.jsonl.gz", rows)
        folders.append(place)
    return folders


def _describe(named: Named, layer: int, n_layers: int, created: str, place: Path) -> None:
    common = {"creatorId": CREATOR, "createdAt": created, "visibility": "PRIVATE"}
    model = {"id": named.model, "displayName": named.model, "displayNameShort": named.model, "layers": n_layers}
    neurons = {"neuronsPerLayer": 0, "owner": "", "instruct": False}
    release = {"name": named.set_name, "description": named.set_name, "descriptionShort": named.set_name}
    of_set = {"modelId": named.model, "name": named.set_name, "type": named.hook or "", "description": named.set_name}
    of_set["creatorName"] = ""
    source = {"id": named.source(layer), "modelId": named.model, "setName": named.set_name, "hasDashboards": True}
    for file, line in (
        ("model", {**model, **neurons, **common}),
        ("release", {**release, "urls": [], "creatorName": "", **common}),
        ("sourceset", {**of_set, "releaseName": named.set_name, "hasDashboards": True, "urls": [], **common}),
        ("source", {**source, "inferenceEnabled": False, **common}),
    ):
        _write(place / f"{file}.jsonl", [line])


def _describe_methods(connection: duckdb.DuckDBPyConnection, checkpoint_id: str, place: Path) -> None:
    """Write the rows that its database has to have of each method and explainer before it takes an explanation."""
    query = "SELECT DISTINCT method, explainer FROM descriptions WHERE checkpoint_id = ? AND cluster = -1"
    pairs = connection.execute(query, [checkpoint_id]).fetchall()
    methods, explainers = ({one[at]: None for one in sorted(pairs)} for at in (0, 1))
    common = {"creatorName": "Circuit Insights", "url": None}
    _write(
        place / "explanation_type.jsonl",
        (
            {"name": type_name(one), "displayName": one, "description": one, "creatorId": CREATOR, **common}
            for one in methods
        ),
    )
    rows = ({"name": one, "displayName": one, "description": one, **common} for one in explainers)
    _write(place / "explanation_model_type.jsonl", rows)


def _features(
    connection: duckdb.DuckDBPyConnection, named: Named, layer: int, chosen: list[object]
) -> Iterator[dict[str, Any]]:
    query = f"""
        WITH chosen AS (SELECT unnest(range(?3::INTEGER, ?4::INTEGER)) AS feature),
        activity AS (
            SELECT feature, arg_max(max_activation, n_active) AS greatest, arg_max(density, n_active) AS density
            FROM features WHERE checkpoint_id = ?1 AND layer = ?2 GROUP BY feature),
        written AS (
            SELECT c.feature, c.sign, list(t.text ORDER BY c.rank)[:{TOKENS}] AS texts,
                   list(c.score ORDER BY c.rank)[:{TOKENS}] AS scores
            FROM token_candidates c JOIN tokens t USING (checkpoint_id, token_id)
            WHERE c.checkpoint_id = ?1 AND c.layer = ?2 AND c.side = 'output' AND c.source_layer IS NULL
            GROUP BY c.feature, c.sign)
        SELECT c.feature, a.greatest, a.density, up.texts, up.scores, down.texts, down.scores
        FROM chosen c LEFT JOIN activity a USING (feature)
        LEFT JOIN (SELECT * FROM written WHERE sign > 0) up USING (feature)
        LEFT JOIN (SELECT * FROM written WHERE sign < 0) down USING (feature) ORDER BY c.feature"""
    for feature, greatest, density, up, up_scores, down, down_scores in _rows(connection, query, chosen):
        yield {
            "modelId": named.model,
            "layer": named.source(layer),
            "index": str(feature),
            "creatorId": CREATOR,
            "maxActApprox": greatest or 0.0,
            "frac_nonzero": density or 0.0,
            "pos_str": up or [],
            "pos_values": up_scores or [],
            "neg_str": down or [],
            "neg_values": down_scores or [],
            "sourceSetName": named.set_name,
            "hookName": named.hook,
            "hasVector": False,
            "vectorLabel": None,
            "vectorDefaultSteerStrength": None,
            "decoder_weights_dist": [],
            **{name: [] for name in EMPTY},
        }


def _explanations(
    connection: duckdb.DuckDBPyConnection, named: Named, layer: int, chosen: list[object]
) -> Iterator[dict[str, Any]]:
    query = """
        SELECT feature, method, explainer, text FROM descriptions
        WHERE checkpoint_id = ?1 AND layer = ?2 AND feature >= ?3 AND feature < ?4 AND cluster = -1
        ORDER BY feature, method, explainer"""
    for feature, method, explainer, text in _rows(connection, query, chosen):
        yield {
            "id": f"{named.checkpoint_id}-{layer}-{feature}-{method_name(method)}-{explainer}",
            "modelId": named.model,
            "layer": named.source(layer),
            "index": str(feature),
            "authorId": CREATOR,
            "description": text if len(text) <= MAX_DESCRIPTION else text[: MAX_DESCRIPTION - 1] + "…",
            "embedding": None,
            "typeName": type_name(method),
            "explanationModelName": explainer,
            "umap_x": 0,
            "umap_y": 0,
            "umap_cluster": 0,
            "umap_log_feature_sparsity": 0,
        }


def method_name(method: str) -> str:
    """A method's name in the allowed letters: `wl+cl` becomes wl_and_cl, `maxact*` maxact_sample."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", method.replace("+", "_and_").replace("*", "_sample"))


def type_name(method: str) -> str:
    """The name of a method as a type of explanation there."""
    return f"circuit-insights_{method_name(method)}"


def _activations(
    connection: duckdb.DuckDBPyConnection, named: Named, layer: int, chosen: list[object], created: str
) -> Iterator[dict[str, Any]]:
    query = f"""
        SELECT feature, sample, activation, tokens, activations, "position" - first_position, corpus_id FROM contexts
        WHERE checkpoint_id = ?1 AND layer = ?2 AND feature >= ?3 AND feature < ?4
        QUALIFY row_number() OVER (PARTITION BY feature ORDER BY activation DESC, sample) <= {ACTIVATIONS}
        ORDER BY feature, activation DESC, sample"""
    for feature, sample, activation, tokens, known, at, corpus_id in _rows(connection, query, chosen):
        values = known or [activation if place == at else 0.0 for place in range(len(tokens))]
        values = [value or 0.0 for value in values]
        top = max(range(len(values)), key=values.__getitem__)
        yield {
            "id": f"{named.checkpoint_id}-{layer}-{feature}-{sample}",
            "tokens": tokens,
            "modelId": named.model,
            "layer": named.source(layer),
            "index": str(feature),
            "maxValue": values[top],
            "maxValueTokenIndex": top,
            "minValue": min(values),
            "values": values,
            "creatorId": CREATOR,
            "createdAt": created,
            "dataSource": corpus_id,
            "dataIndex": str(sample),
            "dfaValues": [],
            "dfaTargetIndex": None,
            "dfaMaxValue": None,
            "lossValues": [],
            "logitContributions": None,
            "binMin": None,
            "binMax": None,
            "binContains": None,
            "qualifyingTokenIndex": at,
        }


def _rows(connection: duckdb.DuckDBPyConnection, query: str, chosen: list[object]) -> list[tuple[Any, ...]]:
    return connection.execute(query, {str(number): value for number, value in enumerate(chosen, 1)}).fetchall()


def _write_batch(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a batch unless it is empty: its importer takes the columns from the first line."""
    batch = list(rows)
    if batch:
        _write(path, batch)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        data = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
        partial.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
