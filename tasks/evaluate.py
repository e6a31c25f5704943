"""Judge a layer's descriptions on held-out text: read it, steer the model, have everything rated, work out figures."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from interp.capture import capture
from interp.descriptions.asking import Answer, Answers, Prompt
from interp.descriptions.evidence import WHOLE
from interp.fade.judge import Judge, Text
from interp.fade.judging import Judged, Material, figures, judge_description, material
from interp.fade.metrics import Score
from interp.fade.model_judge import ModelJudge
from interp.fade.rule import RuleJudge
from interp.fade.settings import EvaluateSettings
from interp.fade.steering import Held, continuations
from interp.fade.texts import Active, chosen_activations, pieces, rows_of
from storage.answers import AnswerStore, look_up
from storage.catalog import mark_loaded, open_catalog, replace_rows
from storage.checkpoints import open_checkpoint
from storage.corpora import corpus_attributes, held_out_rows, read_chosen_rows
from storage.parts import read_parts, write_part
from storage.store import ShardKey, Store, whole_file
from tasks.describe import PASSING
from tasks.evidence import Reading
from tasks.ingest import tokens_part
from tasks.models import loaded_model
from tasks.propagate import read_vocabulary
from tasks.shard_task import shard_task

VERSION = 1
"""Bump when the same descriptions would get other figures."""

TOKENS_AT_ONCE = 16_384
"""Tokens of texts that the model reads together."""

ROWS_STEERED = 700
"""Continuations that are written together."""

FEATURES_STEERED = 5
"""Features a steering task."""

CONSTANT = "the token ‘the’ and its forms"
"""The description that the control `constant` gives to every feature."""


@dataclass(frozen=True)
class Task:
    """How a stage judges: all that its tasks have to know."""

    checkpoint_id: str
    model_path: Path
    reading: Reading
    held_out: float
    material_recipe: str
    """Names what is judged on, whoever judges."""
    explainer: str
    methods: tuple[str, ...]
    controls: tuple[str, ...]
    judge: str
    model: str | None
    """Who is asked, as the answers are kept under; None for the judge by rule."""
    how: EvaluateSettings

    def folder(self, store: Store) -> Path:
        return store.root / "evaluation" / self.material_recipe

    def natural_path(self, store: Store, layer: int) -> Path:
        return self.folder(store) / "natural" / f"{layer:02d}.npz"

    def steered_path(self, store: Store, key: ShardKey) -> Path:
        return self.folder(store) / "steered" / f"{key.layer:02d}-{key.start}-{key.stop}.npz"

    def steered_keys(self, layer: int) -> list[ShardKey]:
        """Steering is shared out by the place of features in the layer's draw."""
        n, step = min(self.how.faithfulness.features_per_layer, self.how.features_per_layer), FEATURES_STEERED
        return [ShardKey(self.material_recipe, layer, at, min(at + step, n)) for at in range(0, n, step)]


@shard_task("read-held-out", "read held-out L{layer:02d}")
def read_layer(store: Store, task: Task, layer: int) -> int:
    """Draw a layer's features and run held-out texts through the model.

    Memory: the model, the layer's transcoder, the streams of `TOKENS_AT_ONCE` tokens, and the active entries of the
    drawn features on all texts.
    """
    path = task.natural_path(store, layer)
    if path.exists():
        return layer
    features = _drawn(store, task, layer)
    texts = _held_out_texts(store, task)
    active = _read(store, task, layer, features, texts)
    arrays = {"features": features, "texts": rows_of(texts, [], task.how.text_tokens), **active._asdict()}
    _save(path, arrays)
    return layer


def _save(path: Path, arrays: dict[str, Any]) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _drawn(store: Store, task: Task, layer: int) -> np.ndarray:
    """Features that are judged, in the order of the draw: those that most methods describe come first."""
    query = f"""
        SELECT feature, count(DISTINCT method) FROM descriptions
        WHERE checkpoint_id = ? AND layer = ? AND cluster = {WHOLE} AND method IN (SELECT unnest(?))
          AND {_worded_by("?")} GROUP BY feature ORDER BY feature"""
    with open_catalog(store.catalog) as connection:
        rows = connection.execute(
            query, [task.checkpoint_id, layer, list(task.methods), task.explainer, task.reading.corpus_id]
        ).fetchall()
    features, n_methods = (np.array(column, np.int64) for column in (zip(*rows, strict=True) if rows else ((), ())))
    chance = np.random.default_rng([task.how.seed, layer]).permutation(len(features))
    return features[np.lexsort((chance, -n_methods))][: task.how.features_per_layer]


def _worded_by(explainer: str) -> str:
    """The explainer's own descriptions of this corpus, and the weightlens stage's."""
    return f"((explainer = {explainer} AND corpus_id = ?) OR corpus_id IS NULL)"


def _held_out_texts(store: Store, task: Task) -> list[list[int]]:
    """Texts from rows that no statistic or sample was taken from, an even share of each corpus."""
    found: list[list[int]] = []
    bos = open_checkpoint(store, task.checkpoint_id).bos
    share = -(-task.how.n_texts // len(task.reading.corpora))
    for at, corpus_id in enumerate(task.reading.corpora):
        attributes = corpus_attributes(store, corpus_id)
        held_out = held_out_rows(attributes["n_sequences"], task.held_out)
        if not len(held_out):
            raise ValueError("corpus.held_out keeps no rows apart; descriptions are judged on held-out text only")
        random = np.random.default_rng([task.how.seed, at])
        n_rows = min(len(held_out), 2 * (-(-share * task.how.text_tokens // attributes["n_pos"])) + 1)
        rows = held_out.start + np.sort(random.choice(len(held_out), n_rows, replace=False))
        read = read_chosen_rows(store, corpus_id, rows)
        texts = list(pieces(read.tokens, read.documents, bos, task.how.text_tokens))
        kept = np.sort(random.permutation(len(texts))[:share])
        found += [texts[place] for place in kept]
    return found


def _read(store: Store, task: Task, layer: int, features: np.ndarray, texts: Sequence[Sequence[int]]) -> Active:
    """Where the features are active on texts, each read on its own behind BOS."""
    checkpoint = open_checkpoint(store, task.checkpoint_id)
    folder, model = loaded_model(task.model_path)
    coder, chosen = checkpoint.transcoder(layer), torch.from_numpy(features)
    before = [] if checkpoint.bos is None else [checkpoint.bos]
    order = np.argsort([len(text) for text in texts], kind="stable")
    at_once = max(1, TOKENS_AT_ONCE // (len(before) + max(map(len, texts), default=1)))
    found: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(order), at_once):
        block = order[start : start + at_once]
        width = max(1, *(len(texts[text]) for text in block))
        rows = torch.from_numpy(rows_of([list(texts[text]) for text in block], before, width))
        x = capture(model, folder.family, rows.clamp(min=0), [layer], checkpoint.hooks)[layer].x[:, len(before) :]
        a = chosen_activations(coder, chosen, x.flatten(0, 1)).unflatten(0, x.shape[:2])
        a[rows[:, len(before) :] < 0] = 0
        text, place, feature = (index.numpy() for index in torch.nonzero(a, as_tuple=True))
        found.append((feature, block[text], place, a[text, place, feature].numpy()))
    if not found:
        return Active(*(np.zeros(0, kind) for kind in (np.int32, np.int32, np.int32, np.float32)))
    feature, text, place, value = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((place, text, feature))
    feature, text, place = (column[order].astype(np.int32) for column in (feature, text, place))
    return Active(feature, text, place, value[order])


@shard_task("steer", "steer {key.name}")
def steer_features(store: Store, task: Task, key: ShardKey) -> ShardKey:
    """Have the model write prompts on with features held at multiples of their greatest natural activation.

    Memory: the model, the layer's transcoder, and keys and values of `ROWS_STEERED` continuations.
    """
    path = task.steered_path(store, key)
    if path.exists():
        return key
    how, checkpoint = task.how.faithfulness, open_checkpoint(store, task.checkpoint_id)
    features, texts, active = _natural(store, task, key.layer)
    places = [at for at in range(key.start, min(key.stop, len(features))) if len(active.of(at).value)]
    prompts = _prompts(texts, task, [] if checkpoint.bos is None else [checkpoint.bos])
    written = np.zeros((len(places), len(how.factors), len(prompts), how.new_tokens), np.int32)
    if places and len(prompts):
        folder, model = loaded_model(task.model_path)
        coder = checkpoint.transcoder(key.layer, later=checkpoint.cross_layer)
        peaks = [float(active.of(at).value.max()) for at in places]
        grid = [(a, b, c) for a in range(len(places)) for b in range(len(how.factors)) for c in range(len(prompts))]
        for start in range(0, len(grid), ROWS_STEERED):
            a, b, c = (np.array(column) for column in zip(*grid[start : start + ROWS_STEERED], strict=True))
            value = np.array(how.factors)[b] * np.array(peaks)[a]
            held = Held(torch.from_numpy(features[np.array(places)[a]]), torch.from_numpy(value).float())
            rows = torch.from_numpy(prompts[c])
            tokens = continuations(model, folder.family, checkpoint.hooks, key.layer, coder, held, rows, how.new_tokens)
            written[a, b, c] = tokens.numpy()
    _save(path, {"places": np.array(places, np.int64), "written": written})
    return key


def _natural(store: Store, task: Task, layer: int) -> tuple[np.ndarray, list[list[int]], Active]:
    with np.load(task.natural_path(store, layer)) as file:
        texts = [row[row >= 0].tolist() for row in file["texts"]]
        return file["features"], texts, Active(*(file[name] for name in Active._fields))


def _prompts(texts: list[list[int]], task: Task, before: list[int]) -> np.ndarray:
    """Beginnings of natural texts, all of one length."""
    how = task.how.faithfulness
    long_enough = [text[: how.prompt_tokens] for text in texts if len(text) >= how.prompt_tokens]
    random = np.random.default_rng([task.how.seed, 1])
    chosen = random.permutation(len(long_enough))[: how.n_prompts]
    return rows_of([long_enough[at] for at in chosen], before, how.prompt_tokens)


@shard_task("judge", "judge L{key.layer:02d}")
def judge_layer(store: Store, task: Task, key: ShardKey, unanswered: dict[str, Answer]) -> list[Prompt]:
    """Judge a layer's descriptions; returns the questions that have to be answered first, and then writes nothing.

    Memory: the layer's natural texts, the model, and the activations of all drawn features on the texts written for one
    method.
    """
    path = store.part("scores", key)
    if is_judged(store, key):
        return []
    answers = None
    if task.model is not None:
        answers = Answers(partial(look_up, AnswerStore(store), task.model, unanswered=unanswered))
    judge: Judge = RuleJudge() if answers is None else ModelJudge(answers, task.how.texts_per_question)
    features, token_texts, active = _natural(store, task, key.layer)
    vocabulary = [token.text for token in read_vocabulary(tokens_part(store, task.checkpoint_id))]

    def as_text(tokens: Sequence[int]) -> Text:
        return Text(tuple(vocabulary[token] if token < len(vocabulary) else "" for token in tokens))

    texts = [as_text(tokens) for tokens in token_texts]
    steered = _steered(store, task, key.layer, as_text)
    materials = [
        material(active.of(at), texts, steered.get(at, {}), task.how, task.how.seed + int(feature))
        for at, feature in enumerate(features)
    ]
    rows: list[tuple[int, str, str, Score]] = []
    kept: list[dict[str, Any]] = []
    for claims in _claims(task, _descriptions(store, task, key.layer, features), len(features)):
        said = {text for by_place in claims.values() for text in by_place.values()}
        written = {text: judge.synthesise(text, task.how.n_synthetic) for text in sorted(said)}
        peaks = _Peaks(store, task, key.layer, features, written.values())
        for method, by_place in claims.items():
            for at, text in by_place.items():
                judged = judge_description(judge, text, materials[at], texts)
                synthetic = peaks.of(at, written[text])
                found = figures(judged, materials[at], synthetic, task.how)
                rows += [(int(features[at]), method, metric, score) for metric, score in found.items()]
                kept.append(_kept(int(features[at]), method, text, materials[at], judged, written[text], synthetic))
    if answers is not None and answers.missing:
        return answers.missing
    _write_kept(task.folder(store) / "judged" / f"{key.recipe}-{key.layer:02d}.parquet", kept)
    _write(path, task, key, rows)
    problems = [] if answers is None else answers.problems
    passing = sorted({problem.problem or "" for problem in problems} & PASSING)
    failed = [(-1, reason, "questions of this layer without an answer") for reason in passing[:1]]
    columns = dict(zip(("feature", "reason", "detail"), zip(*failed, strict=True), strict=False))
    write_part(
        store.part("failures", key), "failures", {"stage": "evaluate", "layer": key.layer, **columns}, len(failed)
    )
    return []


def is_judged(store: Store, key: ShardKey) -> bool:
    """Whether a layer's parts are there and no question of theirs is worth asking again."""
    paths = [store.part(table, key) for table in ("scores", "failures")]
    if not all(path.exists() for path in paths):
        return False
    return not PASSING.intersection(read_parts([paths[1]], ["reason"])["reason"].to_pylist())


def forget_unjudged(store: Store, key: ShardKey) -> None:
    """Have a layer judged anew that an earlier run left with unanswered questions."""
    if not is_judged(store, key):
        for table in ("scores", "failures"):
            store.part(table, key).unlink(missing_ok=True)


def _steered(store: Store, task: Task, layer: int, as_text: Any) -> dict[int, dict[float, list[Text]]]:
    """Continuations by the feature's place in the draw, then by factor."""
    found: dict[int, dict[float, list[Text]]] = {}
    for key in task.steered_keys(layer):
        with np.load(task.steered_path(store, key)) as file:
            for place, by_factor in zip(file["places"].tolist(), file["written"].tolist(), strict=True):
                factors = zip(task.how.faithfulness.factors, by_factor, strict=True)
                found[place] = {factor: [as_text(tokens) for tokens in many] for factor, many in factors}
    return found


def _descriptions(store: Store, task: Task, layer: int, features: np.ndarray) -> dict[str, dict[int, str]]:
    """By method, the descriptions of the drawn features by their places in the draw."""
    query = f"""
        SELECT method, feature, text FROM descriptions
        WHERE checkpoint_id = ? AND layer = ? AND cluster = {WHOLE} AND {_worded_by("?")}
          AND feature IN (SELECT unnest(?)) ORDER BY method, feature"""
    place = {int(feature): at for at, feature in enumerate(features)}
    found: dict[str, dict[int, str]] = {}
    with open_catalog(store.catalog) as connection:
        parameters = [task.checkpoint_id, layer, task.explainer, task.reading.corpus_id, features.tolist()]
        for method, feature, text in connection.execute(query, parameters).fetchall():
            found.setdefault(method, {})[place[feature]] = text
    return {method: dict(sorted(by_place.items())) for method, by_place in found.items()}


def _claims(task: Task, described: dict[str, dict[int, str]], n_features: int) -> Iterator[dict[str, dict[int, str]]]:
    """What is claimed of features by their places: a method's descriptions together with the same shuffled, one method
    after the other; then what the control `constant` says."""
    for method in task.methods:
        by_place = described.get(method, {})
        claims = {method: by_place}
        if "shuffled" in task.controls:
            claims[f"control:shuffled:{method}"] = _shuffled(by_place, task.how.seed)
        yield claims
    if "constant" in task.controls:
        yield {"control:constant": dict.fromkeys(range(n_features), CONSTANT)}


def _shuffled(by_place: dict[int, str], seed: int) -> dict[int, str]:
    """To each feature the description of the next one in a random circle that says something else."""
    order = np.random.default_rng([seed, 2]).permutation(list(by_place)).tolist()
    given = {}
    for turn, at in enumerate(order):
        others = (by_place[other] for other in order[turn + 1 :] + order[:turn])
        text = next((text for text in others if text != by_place[at]), None)
        given |= {at: text} if text is not None else {}
    return dict(sorted(given.items()))


class _Peaks:
    """The activations of all drawn features on the texts that were written for one method."""

    def __init__(
        self, store: Store, task: Task, layer: int, features: np.ndarray, written: Iterable[list[str]]
    ) -> None:
        self._row = {text: at for at, text in enumerate(dict.fromkeys(text for many in written for text in many))}
        tokenizer = loaded_model(task.model_path)[0].tokenizer
        longest = 2 * task.how.text_tokens
        encoded = tokenizer(list(self._row), add_special_tokens=False)["input_ids"] if self._row else []
        n_tokens = open_checkpoint(store, task.checkpoint_id).n_tokens
        tokens = [[token for token in text[:longest] if token < n_tokens] for text in encoded]
        self._active = _read(store, task, layer, features, tokens)

    def of(self, feature: int, texts: list[str]) -> np.ndarray:
        return self._active.of(feature).peaks(len(self._row))[[self._row[text] for text in texts]]


def _write(path: Path, task: Task, key: ShardKey, rows: Sequence[tuple[int, str, str, Score]]) -> None:
    names = ("feature", "method", "metric", "score")
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=False))
    scores: Sequence[Score] = columns.pop("score", ())
    columns |= {name: [getattr(score, name) for score in scores] for name in Score._fields}
    shared = {"checkpoint_id": task.checkpoint_id, "corpus_id": task.reading.corpus_id, "layer": key.layer}
    who = {"explainer": task.explainer, "judge": task.judge}
    write_part(path, "scores", {**shared, **who, **columns}, len(rows))


def _kept(
    feature: int, method: str, text: str, source: Material, judged: Judged, written: list[str], peaks: np.ndarray
) -> dict[str, Any]:
    """All that the figures follow from, so that they can be worked out anew without asking anyone."""
    factors = list(judged.continuations)
    return {
        "feature": feature,
        "method": method,
        "description": text,
        "synthetic": written,
        "synthetic_activation": peaks,
        "rated": source.rated,
        "rated_activation": source.peaks[source.rated],
        "rating": judged.ratings,
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
        ("synthetic", pa.list_(pa.string())), ("synthetic_activation", pa.list_(pa.float32())),
        ("rated", pa.list_(pa.int64())), ("rated_activation", pa.list_(pa.float32())), ("rating", pa.list_(pa.int8())),
        ("marked_right", pa.list_(pa.bool_())), ("mark", pa.list_(pa.int8())),
        ("simulated", pa.list_(pa.int64())), ("expected", pa.list_(pa.list_(pa.int8()))),
        ("factor", pa.list_(pa.float64())), ("continuation_rating", pa.list_(pa.list_(pa.int8()))),
    ]
)  # fmt: skip


def _write_kept(path: Path, kept: list[dict[str, Any]]) -> None:
    with whole_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(kept, schema=KEPT), partial, compression="zstd")


@shard_task("load-scores", "load scores")
def load_scores(store: Store, task: Task, run_id: str, keys: Sequence[ShardKey]) -> bool:
    """Load all parts in one transaction, in the place of this judge's earlier scores of these descriptions; returns
    whether no question is left for another run."""
    scores, failures = ([store.part(table, key) for key in keys] for table in ("scores", "failures"))
    is_whole = not set(read_parts(failures, ["reason"])["reason"].to_pylist()) & PASSING
    where = {"checkpoint_id": task.checkpoint_id, "corpus_id": task.reading.corpus_id}
    with open_catalog(store.catalog, write=True) as connection:
        replace_rows(connection, "scores", {**where, "explainer": task.explainer, "judge": task.judge}, scores)
        of_checkpoint = "run_id IN (SELECT run_id FROM runs WHERE checkpoint_id = ?)"
        connection.execute(f"DELETE FROM failures WHERE stage = 'evaluate' AND {of_checkpoint}", [task.checkpoint_id])
        replace_rows(connection, "failures", {"run_id": run_id, "stage": "evaluate"}, failures, run_id)
        recipe = keys[0].recipe if is_whole else ""
        subject = f"{task.checkpoint_id} {task.reading.corpus_id}"
        mark_loaded(connection, subject, loaded_name(task.explainer, task.judge), recipe)
    return is_whole


def loaded_name(explainer: str, judge: str) -> str:
    """The catalog holds what each judge said of each explainer's descriptions, side by side."""
    return f"evaluate {explainer} {judge}"
