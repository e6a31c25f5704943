"""Scores computed from a judge's answers. The answers are stored, so no question is asked again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import duckdb
import numpy as np
import pyarrow.parquet as pq

from interp.descriptions.english import meaning_of
from interp.descriptions.evidence import WHOLE, Method, half
from interp.descriptions.explaining import TokensExplainer, describe
from interp.fade.judging import Compared, Judged, figures
from interp.fade.metrics import Score, share_in_common
from storage.catalog.database import (
    RunOf,
    insert_row,
    loaded_subject,
    mark_loaded,
    note_recipes,
    open_catalog,
    replace_failures,
    replace_rows,
)
from storage.catalog.parts import columns_of, read_parts, write_part
from storage.parquet import reading
from storage.store import ShardKey, Store
from tasks.describe.describe import LOOKS_AT_SAMPLES, PASSING, SEES
from tasks.describe.evidence import EvidenceJob, known_features
from tasks.evaluation.held_out import load_layer_material
from tasks.evaluation.job import JudgeJob
from tasks.evaluation.judge import CONTROL, SWAPPED, partners
from tasks.evaluation.texts import drawn_texts
from tasks.evaluation.written import WrittenPeaks
from tasks.shard_task import shard_task

VERSION = 7
"""Raise it when the same answers would give other scores."""

ROWS_AT_ONCE = 256
"""Judged descriptions in memory together."""

READS_OUTPUTS = frozenset({"simulation", "faithfulness", "faithfulness_paper", "embedding", "surprisal"})
"""Metrics for which the judge by rule considers the promoted words of a description, or its whole text."""

ADDS_OUTPUTS = {"circuitlens-full": "circuitlens-input", "weightlens+out": "weightlens"}
"""Methods that add promoted tokens to another method's descriptions. By other metrics both have the same scores."""

Row = tuple[int, str, str, Score]
"""Feature, method, metric, score."""


@shard_task("score", "score L{key.layer:02d}", interpreted=True)
def score_layer(store: Store, task: JudgeJob, key: ShardKey) -> ShardKey:
    """Compute all scores of a layer's judged descriptions.

    Memory: the layer's natural texts, `ROWS_AT_ONCE` judged descriptions, and the memory of `known_features`.
    """
    path = store.part("scores", key)
    if path.exists():
        return key
    features, _, materials = load_layer_material(store, task, key.layer)
    place = {int(feature): at for at, feature in enumerate(features)}
    described: dict[str, dict[int, str]] = {}
    rows: list[Row] = []
    written = WrittenPeaks(store, task, key.layer)
    for one in _judged(store, task, key.layer):
        feature, method = one["feature"], one["method"]
        described.setdefault(method, {})[place[feature]] = one["description"]
        synthetic = written.of(place[feature], one["synthetic"])
        found = figures(_said(one), materials[place[feature]], synthetic, task.how, _compared(one))
        rows += [(feature, method, metric, score) for metric, score in found.items()]
    rows += _stability(store, task, key.layer, features, described)
    rows = [(feature, method, metric, _own(task, method, metric, score)) for feature, method, metric, score in rows]
    _write(store, task, key, rows)
    return key


def _own(task: JudgeJob, method: str, metric: str, score: Score) -> Score:
    """A score, or the reason why it would only repeat another method's."""
    base = ADDS_OUTPUTS.get(method.removeprefix(CONTROL).removeprefix(SWAPPED))
    if task.judge != "rule" or base not in task.methods or metric in READS_OUTPUTS:
        return score
    return Score.none(f"as_of_{base}", score.n)


def _judged(store: Store, task: JudgeJob, layer: int) -> Iterator[dict[str, Any]]:
    path = task.judged_path(store, layer)
    with reading(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _said(one: dict[str, Any]) -> Judged:
    """A judge's stored answers about one description."""
    expected = [np.array(activity, np.float32) / 100 for activity in one["expected"]]
    ratings = (np.array(many, np.int8) for many in one["continuation_rating"])
    return Judged(
        ratings=np.array(one["rating"], np.int8),
        marks=np.array(one["mark"], np.int8),
        expected=expected or None,
        continuations=dict(zip(one["factor"], ratings, strict=True)),
        hard_ratings=np.array(one["hard_rating"], np.int8),
        hard_marks=np.array(one["hard_mark"], np.int8),
        odd=np.array(one["odd"], np.int8),
    )


def _compared(one: dict[str, Any]) -> Compared:
    return Compared(*(None if one[name] is None else np.array(one[name], np.float32) for name in ("likeness", "gain")))


def _stability(
    store: Store, task: JudgeJob, layer: int, features: np.ndarray, described: dict[str, dict[int, str]]
) -> Iterator[Row]:
    """Agreement of descriptions by rule from every other document with those from the remaining documents.

    Defined for methods that use samples. The control compares with the other half of another feature.
    """
    methods = [method for method in get_args(Method) if method in described and SEES[method] in LOOKS_AT_SAMPLES]
    if task.explainer != "tokens" or not methods or not len(features):
        return
    words = _words_of_halves(store, task, layer, features.tolist(), methods)
    for method in methods:
        pairs = {method: {at: at for at in described[method]}}
        if "shuffled" in task.controls:
            pairs[CONTROL + method] = partners(described[method], task.how.seed)
        for name, other_half in pairs.items():
            for at, other in other_half.items():
                first, second = words[method, int(features[at])][0], words[method, int(features[other])][1]
                yield int(features[at]), name, "stability", share_in_common(first, second)


def _words_of_halves(
    store: Store, task: JudgeJob, layer: int, features: list[int], methods: Sequence[Method]
) -> dict[tuple[Method, int], list[frozenset[str]]]:
    """By method and feature, the firing tokens named by a description from each half of the documents."""
    explainer = TokensExplainer(task.rule, task.wording)
    settings = replace(task.evidence, n_examples=2 * task.evidence.n_examples)
    evidence = EvidenceJob(task.checkpoint_id, task.sampled_corpus, layer, settings)
    with open_catalog(store.catalog) as connection:
        everything = known_features(store, connection, evidence, features)
        return {
            (method, feature): [
                frozenset(
                    (word if isinstance(word, str) else word.name).casefold()
                    for one in describe(method, half(known, parity), explainer)
                    for mechanism in meaning_of(one.text).mechanisms
                    for word in mechanism.words
                    if one.cluster == WHOLE
                )
                for parity in (0, 1)
            ]
            for feature, known in everything
            for method in methods
        }


def _write(store: Store, task: JudgeJob, key: ShardKey, rows: Sequence[Row]) -> None:
    names = ("feature", "method", "metric", *Score._fields)
    columns = columns_of(names, [(feature, method, metric, *score) for feature, method, metric, score in rows])
    shared = {"checkpoint_id": task.checkpoint_id, "corpus_id": task.sampled_corpus.corpus_id, "layer": key.layer}
    who = {"explainer": task.explainer, "judge": task.judge}
    write_part(store.part("scores", key), "scores", {**shared, **who, **columns}, len(rows))


@shard_task("load-scores", "load scores")
def load_scores(
    store: Store, task: JudgeJob, run_id: str, scored: Sequence[ShardKey], judged: Sequence[ShardKey]
) -> bool:
    """Load all parts in one transaction, replacing this judge's earlier scores of these descriptions. Returns whether
    no question is left for another run."""
    scores = [store.part("scores", key) for key in scored]
    failures = [store.part("failures", key) for key in judged]
    is_whole = not set(read_parts(failures, ["reason"])["reason"].to_pylist()) & PASSING
    where = {"checkpoint_id": task.checkpoint_id, "corpus_id": task.sampled_corpus.corpus_id}
    with open_catalog(store.catalog, write=True) as connection:
        replace_rows(connection, "scores", {**where, "explainer": task.explainer, "judge": task.judge}, scores)
        replace_failures(connection, "evaluate", RunOf(run_id, task.checkpoint_id), failures)
        said = {**where, "explainer": task.explainer, "judge": task.judge}
        _note_texts(store, task, connection, said)
        note_recipes(connection, "evaluation", said, [task.material_recipe])
        recipe = scored[0].recipe if is_whole else ""
        subject = loaded_subject(task.checkpoint_id, task.sampled_corpus.corpus_id)
        mark_loaded(connection, subject, loaded_name(task.explainer, task.judge), recipe)
    return is_whole


def _note_texts(store: Store, task: JudgeJob, connection: duckdb.DuckDBPyConnection, said: dict[str, str]) -> None:
    texts, left_out = drawn_texts(store, task)
    insert_row(connection, "judged_texts", {**said, **left_out._asdict(), "n_drawn": len(texts)})


def loaded_name(explainer: str, judge: str) -> str:
    """The name of what is loaded, for the catalog's records, since scores of several judges and explainers coexist."""
    return f"evaluate {explainer} {judge}"
