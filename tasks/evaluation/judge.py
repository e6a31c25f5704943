"""Judge a layer's descriptions together with wrong ones, and store all answers."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from interp.descriptions.evidence import WHOLE
from interp.descriptions.llm_questions import Answer, Answers, Questions
from interp.fade.judge import Judge
from interp.fade.judging import Compared, Judged, Material, judge_description
from interp.fade.model_judge import ModelJudge
from interp.fade.rule import RuleJudge
from storage.answers import AnswerStore, look_up
from storage.catalog.database import open_catalog
from storage.catalog.parts import Failure, read_parts, write_failures
from storage.checkpoints import open_checkpoint
from storage.parquet import write_table
from storage.store import ShardKey, Store
from tasks.describe.describe import PASSING
from tasks.evaluation.comparison import Comparison
from tasks.evaluation.held_out import load_layer_material, worded_by
from tasks.evaluation.job import JudgeJob
from tasks.shard_task import shard_task

VERSION = 7
"""Bump when a judge would say otherwise of the same descriptions."""

CONSTANT = "the token ‘the’"
"""The description that the control `constant` gives every feature."""

CONTROL = "control:shuffled:"
"""Prefix of a method whose descriptions are given to other features."""

SWAPPED = "control:swapped:"
"""Prefix of a method whose descriptions are given to the most similar feature."""


@shard_task("judge", "judge L{key.layer:02d}", interpreted=True)
def judge_layer(store: Store, task: JudgeJob, key: ShardKey, unanswered: dict[str, Answer]) -> Questions:
    """Judge a layer's descriptions. Returns the questions that have to be answered first; if there are any, nothing is
    written.

    Memory: the layer's natural texts and 60 bytes for each active entry of the drawn features on them, four bytes for
    each pair of a drawn feature and a text, and all stored answers; a model that texts are compared by.
    """
    if is_judged(store, task, key):
        return Questions()
    answers = None
    if task.model is not None:
        answers = Answers(partial(look_up, AnswerStore(store), task.model, unanswered=unanswered))
    judge: Judge = RuleJudge() if answers is None else _asking(answers, task)
    features, texts, materials = load_layer_material(store, task, key.layer)
    checkpoint = open_checkpoint(store, task.checkpoint_id)
    decoders = checkpoint.rows(key.layer, "W_dec", 0, checkpoint.d_transcoder)[features].float().numpy()
    described = _descriptions(store, task, key.layer, features)
    claims = _claims(task, described, decoders)
    places = _places(claims)
    written = {text: judge.synthesise(text, task.how.n_synthetic) for text in sorted(places)}
    judged = {}
    for text, of in places.items():
        said = judge_description(judge, text, [materials[at] for at in of], texts)
        judged |= {(text, at): one for at, one in zip(of, said, strict=True)}
    if answers is not None and answers.missing:
        return Questions(answers.missing)
    compare = Comparison(task, [text.whole for text in texts])
    kept: list[dict[str, Any]] = []
    for method, by_place in claims.items():
        for at, text in by_place.items():
            said = _kept(materials[at], judged[text, at], written[text], compare(text, materials[at]))
            kept.append({"feature": int(features[at]), "method": method, "description": text, **said})
    _write_kept(task.judged_path(store, key.layer), kept)
    problems = [] if answers is None else answers.problems
    passing = sorted({problem.problem or "" for problem in problems} & PASSING)
    failed = [Failure(-1, reason, "questions of this layer without an answer") for reason in passing[:1]]
    write_failures(store.part("failures", key), "evaluate", key.layer, failed)
    return Questions()


def _asking(answers: Answers, task: JudgeJob) -> ModelJudge:
    return ModelJudge(answers, task.instructions, task.how.texts_per_question)


def is_judged(store: Store, task: JudgeJob, key: ShardKey) -> bool:
    """Whether a layer is completely judged and none of its questions is worth asking again."""
    failures = store.part("failures", key)
    if not failures.exists() or not task.judged_path(store, key.layer).exists():
        return False
    return not PASSING.intersection(read_parts([failures], ["reason"])["reason"].to_pylist())


def forget_unjudged(store: Store, task: JudgeJob, key: ShardKey, scores: ShardKey) -> None:
    """Remove the judgement and scores of a layer if an earlier run left questions unanswered, so that both are made
    again."""
    if not is_judged(store, task, key):
        judged = task.judged_path(store, key.layer), task.written_path(store, key.layer)
        for path in (*judged, store.part("failures", key), store.part("scores", scores)):
            path.unlink(missing_ok=True)


def _descriptions(store: Store, task: JudgeJob, layer: int, features: np.ndarray) -> dict[str, dict[int, str]]:
    """For each method, the descriptions of the drawn features by their index in the draw."""
    query = f"""
        SELECT method, feature, text FROM descriptions
        WHERE checkpoint_id = ? AND layer = ? AND cluster = {WHOLE} AND {worded_by("?")}
          AND feature IN (SELECT unnest(?)) ORDER BY method, feature"""
    place = {int(feature): at for at, feature in enumerate(features)}
    found: dict[str, dict[int, str]] = {}
    with open_catalog(store.catalog) as connection:
        parameters = [task.checkpoint_id, layer, task.explainer, task.sampled_corpus.corpus_id, features.tolist()]
        for method, feature, text in connection.execute(query, parameters).fetchall():
            found.setdefault(method, {})[place[feature]] = text
    return {method: dict(sorted(by_place.items())) for method, by_place in found.items()}


def _claims(task: JudgeJob, described: dict[str, dict[int, str]], decoders: np.ndarray) -> dict[str, dict[int, str]]:
    """The descriptions claimed for features by index: every method's own, each followed by the same shuffled and
    swapped; finally that of the control `constant`. `decoders` are the features' decoder rows."""
    claims = {}
    for method in task.methods:
        by_place = claims[method] = described.get(method, {})
        if "shuffled" in task.controls:
            given = partners(by_place, task.how.seed)
            claims[CONTROL + method] = {at: by_place[other] for at, other in given.items()}
        if "swapped" in task.controls:
            claims[SWAPPED + method] = {at: by_place[other] for at, other in twins(by_place, decoders).items()}
    if "constant" in task.controls:
        claims["control:constant"] = dict.fromkeys(range(len(decoders)), CONSTANT)
    return claims


def _places(claims: dict[str, dict[int, str]]) -> dict[str, list[int]]:
    """For each description, the indices of the features for which any method claims it."""
    places: dict[str, dict[int, None]] = {}
    for by_place in claims.values():
        for at, text in by_place.items():
            places.setdefault(text, {})[at] = None
    return {text: list(of) for text, of in places.items()}


def partners(by_place: dict[int, str], seed: int) -> dict[int, int]:
    """For each feature, the one whose description the control `shuffled` gives it: the next in a random circle that has
    a different description."""
    order = np.random.default_rng([seed, 2]).permutation(list(by_place)).tolist()
    given = {}
    for turn, at in enumerate(order):
        other = next((one for one in order[turn + 1 :] + order[:turn] if by_place[one] != by_place[at]), None)
        given |= {at: other} if other is not None else {}
    return dict(sorted(given.items()))


def twins(by_place: dict[int, str], decoders: np.ndarray) -> dict[int, int]:
    """For each feature, the one whose description the control `swapped` gives it: among those with a different
    description, the one whose decoder row has the greatest cosine similarity."""
    places = list(by_place)
    rows = decoders[places] / np.maximum(np.linalg.norm(decoders[places], axis=1, keepdims=True), 1e-12)
    order = np.argsort(-(rows @ rows.T), axis=1, kind="stable")
    given = {}
    for at, nearest in zip(places, order.tolist(), strict=True):
        other = next((places[one] for one in nearest if by_place[places[one]] != by_place[at]), None)
        given |= {at: other} if other is not None else {}
    return given


def _kept(source: Material, judged: Judged, written: list[str], compared: Compared) -> dict[str, Any]:
    """All answers that the scores are computed from, so that they can be computed again without asking."""
    factors = list(judged.continuations)
    return {
        "synthetic": written,
        "rated": source.rated,
        "rated_activation": source.peaks[source.rated],
        "rating": judged.ratings,
        "hard": source.hard.texts,
        "hard_rating": judged.hard_ratings,
        "hard_mark": judged.hard_marks,
        "odd": judged.odd,
        "likeness": compared.likeness,
        "compared": source.compared,
        "gain": compared.gain,
        "marked_right": source.marked_right,
        "mark": judged.marks,
        "simulated": source.simulated,
        "expected": [(100 * activity).astype(np.int8) for activity in judged.expected or ()],
        "factor": factors,
        "continuation_rating": [judged.continuations[factor] for factor in factors],
    }


KEPT = pa.schema(
    [
        ("feature", pa.int32()), ("method", pa.string()), ("description", pa.string()),
        ("synthetic", pa.list_(pa.string())),
        ("rated", pa.list_(pa.int64())), ("rated_activation", pa.list_(pa.float32())), ("rating", pa.list_(pa.int8())),
        ("hard", pa.list_(pa.int64())), ("hard_rating", pa.list_(pa.int8())), ("hard_mark", pa.list_(pa.int8())),
        ("odd", pa.list_(pa.int8())), ("likeness", pa.list_(pa.float32())),
        ("compared", pa.list_(pa.int64())), ("gain", pa.list_(pa.float32())),
        ("marked_right", pa.list_(pa.bool_())), ("mark", pa.list_(pa.int8())),
        ("simulated", pa.list_(pa.int64())), ("expected", pa.list_(pa.list_(pa.int8()))),
        ("factor", pa.list_(pa.float64())), ("continuation_rating", pa.list_(pa.list_(pa.int8()))),
    ]
)  # fmt: skip


def _write_kept(path: Path, kept: list[dict[str, Any]]) -> None:
    write_table(path, pa.Table.from_pylist(kept, schema=KEPT))
