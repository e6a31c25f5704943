"""What Neuronpedia's importer does with an export, as far as it can be told without its database.

Written from its schema (apps/webapp/prisma/schema.prisma, November 2026) and its import route
(apps/webapp/app/api/admin/import/route.ts, apps/webapp/lib/db/import.ts): files about a model, its release, set and
source are created field by field, so that an unknown field is an error; batches become rows of tables by the columns of
their first line; a reference to a row that is not there is an error.
"""

import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

TEXT, WHOLE, NUMBER, YES, TIME = "text", "whole number", "number", "yes or no", "time"
TEXTS, WHOLES, NUMBERS = "texts", "whole numbers", "numbers"

COLUMNS = {
    "ExplanationType": "name! displayName! description! creatorName! creatorId! url? featured:yes",
    "ExplanationModelType": "name! displayName! description! creatorName! url? featured:yes",
    "SourceRelease": """name! description! descriptionShort? urls!:texts creatorName! creatorNameShort? creatorId!
        visibility createdAt:time featured:yes""",
    "Model": """id! creatorId! layers!:whole neuronsPerLayer!:whole owner! displayName displayNameShort instruct:yes
        visibility createdAt:time inferenceEnabled:yes dimension?:whole""",
    "SourceSet": """modelId! name! description! creatorName! creatorId! urls:texts type releaseName? visibility
        hasDashboards:yes createdAt:time""",
    "Source": "id! modelId! setName! creatorId! hasDashboards:yes inferenceEnabled:yes visibility createdAt:time",
    "Neuron": """modelId! layer! index! sourceSetName? creatorId? createdAt:time maxActApprox?:number hasVector:yes
        vector:numbers vectorLabel? vectorDefaultSteerStrength?:number hookName? topkCosSimIndices:wholes
        topkCosSimValues:numbers neuron_alignment_indices:wholes neuron_alignment_values:numbers
        neuron_alignment_l1:numbers correlated_neurons_indices:wholes correlated_neurons_pearson:numbers
        correlated_neurons_l1:numbers neg_str:texts neg_values:numbers pos_str:texts pos_values:numbers
        frac_nonzero!:number freq_hist_data_bar_heights:numbers freq_hist_data_bar_values:numbers
        logits_hist_data_bar_heights:numbers logits_hist_data_bar_values:numbers decoder_weights_dist:numbers""",
    "Activation": """id! tokens!:texts dataIndex? index! layer! modelId! dataSource? maxValue!:number
        maxValueTokenIndex!:whole minValue!:number values!:numbers dfaValues:numbers dfaTargetIndex?:whole
        dfaMaxValue?:number creatorId! createdAt:time lossValues:numbers logitContributions? binMin?:number
        binMax?:number binContains?:number qualifyingTokenIndex?:whole""",
    "Explanation": """id! modelId! layer! index! embedding?:numbers description! authorId! typeName?
        explanationModelName? umap_x?:number umap_y?:number umap_cluster?:whole umap_log_feature_sparsity?:number
        createdAt:time""",
}
"""By table: `!` a value is needed, `?` it may be null; text unless said otherwise."""

KINDS = {
    "yes": (YES, bool), "whole": (WHOLE, int), "number": (NUMBER, (int, float)), "time": (TIME, str),
    "texts": (TEXTS, str), "wholes": (WHOLES, int), "numbers": (NUMBERS, (int, float)), "": (TEXT, str),
}  # fmt: skip


class Imported(NamedTuple):
    """The rows of a source that its database would have."""

    features: list[dict[str, Any]]
    activations: list[dict[str, Any]]
    explanations: list[dict[str, Any]]


def import_source(root: Path, model: str, source: str) -> Imported:
    """Read one source of an export as the importer would.

    Raises:
        ValueError: its database would refuse something.
    """
    place, config = root / model / source, root / "config"
    types = {row["name"] for row in _rows("ExplanationType", config / "explanation_type.jsonl")}
    explainers = {row["name"] for row in _rows("ExplanationModelType", config / "explanation_model_type.jsonl")}
    releases = {row["name"] for row in _rows("SourceRelease", place / "release.jsonl")}
    models = {row["id"] for row in _rows("Model", place / "model.jsonl")}
    sets = _rows("SourceSet", place / "sourceset.jsonl")
    _refer(sets, "modelId", models)
    _refer(sets, "releaseName", releases)
    sources = _rows("Source", place / "source.jsonl")
    _refer(sources, "modelId", models)
    _refer(sources, "setName", {row["name"] for row in sets})
    names = {row["id"] for row in sources}
    found = Imported(*(_batches(table, place / kind) for table, kind in _KINDS_OF_BATCHES.items()))
    for rows in found:
        _refer(rows, "modelId", models)
        _refer(rows, "layer", names)
    _refer(found.features, "sourceSetName", {row["name"] for row in sets})
    features = {row["index"] for row in found.features}
    _refer(found.activations, "index", features)
    _refer(found.explanations, "index", features)
    _refer(found.explanations, "typeName", types)
    _refer(found.explanations, "explanationModelName", explainers)
    return found


_KINDS_OF_BATCHES = {"Neuron": "features", "Activation": "activations", "Explanation": "explanations"}


def _batches(table: str, folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        batch = _rows(table, path)
        if not batch:
            raise ValueError(f"{path} is empty: its first line is no JSON")
        if any(set(row) != set(batch[0]) for row in batch):
            raise ValueError(f"{path}: not all rows have the columns of the first")
        rows += batch
    return rows


def _rows(table: str, path: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in data.decode().splitlines()]
    columns = {one.split(":")[0].rstrip("!?"): one for one in COLUMNS[table].split()}
    for row in rows:
        unknown, left_out = set(row) - set(columns), {name for name in columns if "!" in columns[name]} - set(row)
        if unknown or left_out:
            raise ValueError(f"{table} in {path}: unknown {sorted(unknown)}, left out {sorted(left_out)}")
        for name, value in row.items():
            if not _fits(columns[name], value):
                raise ValueError(f"{table}.{name} in {path} is {value!r}")
    return rows


def _fits(column: str, value: object) -> bool:
    kind, types = KINDS[column.partition(":")[2]]
    if value is None:
        return "?" in column
    if kind in (TEXTS, WHOLES, NUMBERS):
        return isinstance(value, list) and all(isinstance(one, types) and not isinstance(one, bool) for one in value)
    if kind == TIME:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    return isinstance(value, types) and isinstance(value, bool) == (kind == YES)


def _refer(rows: list[dict[str, Any]], column: str, known: set[str]) -> None:
    unknown = {row[column] for row in rows if row[column] is not None} - known
    if unknown:
        raise ValueError(f"{column} {sorted(unknown)[0]!r} refers to nothing that is there")
