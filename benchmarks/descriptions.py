"""How good are descriptions by rule, as this code would word them now?

    python -m benchmarks.descriptions CONFIG [--set store=…] [--layers 0 1 2 3] [--texts 20] [--features 400] [--json]

On a store whose `evaluate` stage has read held-out texts (of that configuration): the judged features are described
anew by rule from the catalog, and judged anew by rule on the same material, without running any other stage and without
writing into the store. Three sets of features, so that what is tuned on the first can be looked at on the others:

- `tuning`: every other judged feature (in the order of the draw) of layers 1 and 2;
- `same layers`: the other features of these layers;
- `other layers`: all others.

With --features so many features a layer are drawn, and what they do on the same held-out texts is read first and kept
in the store's evaluation folder; CircuitLens should have been run on as many. The sets are then `third` (features whose
number is divisible by 3, on which the writer of texts was tuned) and `others`.

Figures are means over the features that all methods describe; `shuffled` is the same of the descriptions given to other
features of the layer; `less_maxact` is a method's clarity less that of maxact, paired, with its standard error.
"""

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configs.load import load_config
from configs.run import RunConfig
from flows.evaluate import _job
from flows.inputs.checkpoint_plan import identify, open_inputs
from flows.recipes.evaluate import EvaluateRecipe
from interp.descriptions.evidence import WHOLE, Method
from interp.descriptions.explaining import TokensExplainer, describe
from interp.fade.judging import figures, judge_description
from interp.fade.rule import RuleJudge
from storage.catalog.database import open_catalog
from storage.checkpoints import open_checkpoint
from storage.store import Store
from storage.tokenising import token_ids
from tasks.describe.evidence import EvidenceJob, known_features
from tasks.evaluation.held_out import LayerMaterial, load_layer_material, read_layers
from tasks.evaluation.job import JudgeJob
from tasks.evaluation.judge import partners
from tasks.evaluation.text_activations import Wanted, read_peaks
from tasks.evaluation.texts import draw_texts
from tasks.loaded_models import loaded_model

METHODS: tuple[Method, ...] = ("maxact", "maxact*", "circuitlens-input", "circuitlens-full", "wl+cl")

METRICS = (
    "clarity", "responsiveness", "purity", "detection", "detection_hard", "fuzzing", "fuzzing_hard", "simulation",
    "faithfulness",
)  # fmt: skip

TUNED_LAYERS = (1, 2)

THIRD = 3
"""With more features than evaluate judges, those are tuned on whose number this divides."""


class Row(NamedTuple):
    """The figures of one description of one feature."""

    features: str
    """The set that the feature is of."""
    place: tuple[int, int]
    """Layer and feature."""
    method: str
    shuffled: bool
    text: str
    values: dict[str, float | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", nargs="*", default=[], help="settings, as in circuit-insights run --set")
    parser.add_argument("--layers", type=int, nargs="*")
    parser.add_argument("--texts", type=int, default=20, help="texts written from a description")
    parser.add_argument("--features", type=int, help="features a layer; default: those that evaluate has read")
    parser.add_argument("--json", action="store_true", help="every description with its figures, one a line")
    arguments = parser.parse_args()
    drawn = [] if arguments.features is None else drawing(arguments.features)
    config = load_config(arguments.config, [*arguments.set, *drawn])
    job, store, layers = job_of(config, read=bool(drawn))
    job = replace(job, how=replace(job.how, n_synthetic=arguments.texts))
    rows = [row for layer in arguments.layers or layers for row in judged(store, job, layer, by_third=bool(drawn))]
    if arguments.json:
        for row in rows:
            print(json.dumps(row._asdict(), ensure_ascii=False))
        return
    for line in table(rows):
        print(line)


def drawing(n: int) -> list[str]:
    """The settings with which `n` features a layer are drawn, none of which is steered."""
    return [f"evaluate.how.features_per_layer={n}", "evaluate.how.faithfulness.features_per_layer=0"]


def job_of(config: RunConfig, *, read: bool = False) -> tuple[JudgeJob, Store, list[int]]:
    """How the configuration's `evaluate` stage judges, on the material that its store has; with `read`, on that of its
    own draw, which is read if it is not there."""
    plan = identify(open_inputs(config))
    job = _job(EvaluateRecipe(plan))
    if read:
        draw_texts.fn(plan.store, job)
        for layer in plan.layers:
            read_layers.fn(plan.store, job, (layer,))
        return job, plan.store, list(plan.layers)
    folders = sorted((plan.store.root / "evaluation").glob("*/natural"), key=lambda folder: folder.stat().st_mtime)
    if not folders:
        raise ValueError(f"{plan.store.root}: evaluate has read no held-out texts; run it first")
    return replace(job, material_recipe=folders[-1].parent.name), plan.store, list(plan.layers)


def judged(store: Store, job: JudgeJob, layer: int, *, by_third: bool = False) -> list[Row]:
    """A layer's judged features, described and judged anew."""
    material = load_layer_material(store, job, layer)
    began = time.process_time()
    described = describe_anew(store, job, layer, material.features.tolist())
    took = time.process_time() - began
    common = set.intersection(*(set(by_place) for by_place in described.values()))
    claims: dict[tuple[str, bool], dict[int, str]] = {}
    for method, by_place in described.items():
        claims[method, False] = by_place
        claims[method, True] = {at: by_place[other] for at, other in partners(by_place, job.how.seed).items()}
    judge = RuleJudge()
    texts = sorted({text for by_place in claims.values() for text in by_place.values()})
    written = {text: judge.synthesise(text, job.how.n_synthetic) for text in texts}
    peaks = peaks_of(store, job, layer, material, [one for many in written.values() for one in many])
    rows = []
    for (method, shuffled), by_place in claims.items():
        for at, text in by_place.items():
            if at not in common:
                continue
            said = judge_description(judge, text, [material.materials[at]], material.texts)[0]
            synthetic = np.array([peaks[one][at] for one in written[text]], np.float32)
            found = figures(said, material.materials[at], synthetic, job.how)
            values = {metric: found[metric].value for metric in METRICS if metric in found}
            place = layer, int(material.features[at])
            features = third_of(place[1]) if by_third else set_of(layer, at)
            rows.append(Row(features, place, method, shuffled, text, values))
    print(f"layer {layer}: describing {took:.2f} s, all {time.process_time() - began:.2f} s of CPU", flush=True)
    return rows


def set_of(layer: int, at: int) -> str:
    """To which set a feature belongs, by its place in the draw."""
    if layer not in TUNED_LAYERS:
        return "other layers"
    return "same layers" if at % 2 else "tuning"


def third_of(feature: int) -> str:
    """The same with more features than evaluate judges, by the feature's number."""
    return "others" if feature % THIRD else "third"


def describe_anew(store: Store, job: JudgeJob, layer: int, features: list[int]) -> dict[str, dict[int, str]]:
    """By method, descriptions of the whole features by their places in the draw."""
    explainer = TokensExplainer(job.rule, job.wording)
    evidence = EvidenceJob(job.checkpoint_id, job.sampled_corpus, layer, job.evidence)
    place = {feature: at for at, feature in enumerate(features)}
    found: dict[str, dict[int, str]] = {method: {} for method in METHODS}
    with open_catalog(store.catalog) as connection:
        for feature, known in known_features(store, connection, evidence, features):
            for method in METHODS:
                if method.startswith(("circuitlens", "wl")) and not known.clusters:
                    continue
                for one in describe(method, known, explainer):
                    if one.cluster == WHOLE:
                        found[method][place[feature]] = one.text
    return {method: dict(sorted(by_place.items())) for method, by_place in found.items()}


def peaks_of(
    store: Store, job: JudgeJob, layer: int, material: LayerMaterial, texts: list[str]
) -> dict[str, np.ndarray]:
    """The drawn features' activations on written texts, by text."""
    texts = list(dict.fromkeys(texts))
    checkpoint = open_checkpoint(store, job.checkpoint_id)
    encoded = token_ids(loaded_model(job.model_path)[0].tokenizer, texts)
    tokens = [[token for token in text[: 2 * job.how.text_tokens] if token < checkpoint.n_tokens] for text in encoded]
    wanted = Wanted(checkpoint, job.model_path, {layer: material.features}, job.counted)
    return dict(zip(texts, read_peaks(wanted, tokens)[layer], strict=True))


def table(rows: list[Row]) -> list[str]:
    """A row a set and method: means, and those of shuffled descriptions in brackets."""
    grouped: dict[tuple[str, str, bool], list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.features, row.method, row.shuffled].append(row)
    metrics = [metric for metric in METRICS if any(row.values.get(metric) is not None for row in rows)]
    lines = [f"| features | n | method | {' | '.join(metrics)} | less_maxact |", "|---" * (len(metrics) + 4) + "|"]
    for features, method, shuffled in grouped:
        if shuffled:
            continue
        own, wrong = grouped[features, method, False], grouped[features, method, True]
        cells = [f"{_mean(own, metric)} ({_mean(wrong, metric)})" for metric in metrics]
        paired = _paired(own, grouped[features, "maxact", False])
        lines.append(f"| {features} | {len(own)} | `{method}` | {' | '.join(cells)} | {paired} |")
    return lines


def _mean(rows: list[Row], metric: str) -> str:
    values = [value for row in rows if (value := row.values.get(metric)) is not None]
    return f"{np.mean(values):.3f}" if values else "–"


def _paired(rows: list[Row], others: list[Row]) -> str:
    by_place = {row.place: row.values["clarity"] for row in others}
    both = [(row.values["clarity"], by_place.get(row.place)) for row in rows]
    gaps = np.array([mine - other for mine, other in both if mine is not None and other is not None])
    return f"{gaps.mean():+.3f} ± {gaps.std(ddof=1) / len(gaps) ** 0.5:.3f}" if len(gaps) > 1 else "–"


if __name__ == "__main__":
    main()
