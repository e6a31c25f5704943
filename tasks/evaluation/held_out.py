"""The material that a layer's descriptions are judged on: held-out texts, the features' activations on them, and
continuations by the model with a feature held."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from interp.batches import in_batches
from interp.descriptions.evidence import WHOLE
from interp.fade.harder import LookAlikes, hard_negatives
from interp.fade.judge import NaturalTexts, Text
from interp.fade.judging import Material, material
from interp.fade.texts import Active, rows_of
from interp.interventions.changes import Changes, FeatureChange
from interp.interventions.generating import continuations
from interp.interventions.running import SteerableModel
from interp.products import fast_products
from storage.archives import read_arrays, write_arrays
from storage.catalog.database import open_catalog
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.store import ShardKey, Store
from tasks.device_memory import turn_on
from tasks.evaluation.job import JudgeJob
from tasks.evaluation.look_alikes import NearestFeatures, nearest_features
from tasks.evaluation.text_activations import Wanted, counted_tokens, read_activations
from tasks.evaluation.texts import drawn_texts
from tasks.ingest import tokens_part
from tasks.loaded_models import loaded_model
from tasks.shard_task import shard_task
from tasks.weightlens.propagate import read_vocabulary

VERSION = 3
"""Raise it when the same features would be judged on other texts or continuations."""

ROWS_STEERED = 700
"""Continuations in a batch."""


@shard_task("read-held-out", "read held-out L{layers}")
def read_layers(store: Store, task: JudgeJob, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Draw the features of some layers, find similar features, and run the held-out texts through the model, once for
    all.

    Memory: the model, the layers' encoders and one decoder, four bytes for each pair of a drawn feature and another of
    its layer, and what `read_activations` takes.
    """
    left = [layer for layer in layers if not task.natural_path(store, layer).exists()]
    if not left:
        return layers
    texts, checkpoint = drawn_texts(store, task).texts, open_checkpoint(store, task.checkpoint_id)
    drawn = {layer: _drawn_and_alike(store, task, layer) for layer in left}
    wanted = {layer: np.concatenate([one["features"], one["others"]]) for layer, one in drawn.items()}
    with turn_on(task.arithmetic.device), fast_products(checkpoint.attributes.d_model):
        active = read_activations(
            Wanted(checkpoint, task.model_path, wanted, task.counted, task.arithmetic), texts, task.n_threads
        )
    counted = counted_tokens(checkpoint, task.model_path, texts, task.how.text_tokens, task.counted)
    for layer in left:
        kept = {**drawn[layer], "counted": counted, **active.pop(layer)._asdict()}
        write_arrays(task.natural_path(store, layer), kept)
    return layers


def _drawn_and_alike(store: Store, task: JudgeJob, layer: int) -> dict[str, np.ndarray]:
    """The features of a layer that are judged, the features similar to them, and which of these belong to which."""
    features = _drawn(store, task, layer)
    nearest = nearest_features(store, task, layer, features) if task.how.n_hard else NearestFeatures.none(len(features))
    others = np.setdiff1d(np.concatenate([kind.ravel() for kind in nearest]), [-1, *features])
    return {"features": features, "others": others, **nearest._asdict()}


def _drawn(store: Store, task: JudgeJob, layer: int) -> np.ndarray:
    """The features that are judged, in the order of the draw."""
    query = f"""
        SELECT feature, count(DISTINCT method) FROM descriptions
        WHERE checkpoint_id = ? AND layer = ? AND cluster = {WHOLE} AND method IN (SELECT unnest(?))
          AND {worded_by("?")} GROUP BY feature ORDER BY feature"""
    with open_catalog(store.catalog) as connection:
        rows = connection.execute(
            query, [task.checkpoint_id, layer, list(task.methods), task.explainer, task.sampled_corpus.corpus_id]
        ).fetchall()
    drawn = task.draw.of_layer([row[0] for row in rows], [row[1] for row in rows], layer, task.how.seed)
    return np.array(drawn, np.int64)


def worded_by(explainer: str) -> str:
    """Condition for the explainer's own descriptions on this corpus, and those of the weightlens stage."""
    return f"((explainer = {explainer} AND corpus_id = ?) OR corpus_id IS NULL)"


@shard_task("steer", "steer {key.name}")
def steer_features(store: Store, task: JudgeJob, key: ShardKey) -> ShardKey:
    """Let the model continue prompts with features held at multiples of their greatest natural activation.

    Memory: the model, the layer's transcoder, and keys and values of `ROWS_STEERED` continuations.
    """
    path = task.steered_path(store, key)
    if path.exists():
        return key
    how, checkpoint = task.how.faithfulness, open_checkpoint(store, task.checkpoint_id)
    features, _, active, texts, _ = natural(store, task, key.layer)
    places = [at for at in range(key.start, min(key.stop, len(features))) if len(active.of(at).value)]
    prompts = _prompts(texts, task, [] if checkpoint.bos is None else [checkpoint.bos])
    peaks = {int(features[at]): float(active.of(at).value.max()) for at in places}
    written = np.zeros((len(places), len(how.factors), len(prompts), how.new_tokens), np.int32)
    if written.size:
        with turn_on(task.arithmetic.device), fast_products(checkpoint.attributes.d_model):
            _continue(task, checkpoint, key.layer, peaks, prompts, written)
    write_arrays(path, {"places": np.array(places, np.int64), "written": written})
    return key


def _continue(
    task: JudgeJob,
    checkpoint: Checkpoint,
    layer: int,
    peaks: dict[int, float],
    prompts: np.ndarray,
    written: np.ndarray,
) -> None:
    """Write the continuations of prompts with each feature of `peaks`, times each factor, into `written`."""
    how, device = task.how.faithfulness, task.arithmetic.device
    folder, model = loaded_model(task.model_path, device, dtype=task.arithmetic.dtype)
    coder = checkpoint.transcoder(layer, later=checkpoint.cross_layer).on(device)
    steerable = SteerableModel(model, folder.family, checkpoint.hooks, lambda _: coder)
    features, peak = list(peaks), np.array(list(peaks.values()))
    grid = [(a, b, c) for a in range(len(peaks)) for b in range(len(how.factors)) for c in range(len(prompts))]

    def write(part: slice) -> None:
        a, b, c = (np.array(column) for column in zip(*grid[part], strict=True))
        value = np.array(how.factors)[b] * peak[a]
        held = [FeatureChange(row, layer, features[at]).held_at(float(value[row])) for row, at in enumerate(a.tolist())]
        rows = torch.from_numpy(prompts[c]).to(device)
        written[a, b, c] = continuations(steerable, Changes(held), rows, how.new_tokens).cpu().numpy()

    width = prompts.shape[1] + how.new_tokens
    in_batches("continuations", device, len(grid), ROWS_STEERED, write, width)


class Natural(NamedTuple):
    """A layer's held-out texts and the features' activations on them."""

    features: np.ndarray
    """The features that were drawn."""
    alike: list[LookAlikes]
    """The similar features of each of them."""
    active: Active
    """Activations of the drawn features, then of the similar ones."""
    texts: list[list[int]]
    counted: list[np.ndarray]
    """Which tokens of each text count."""


def natural(store: Store, task: JudgeJob, layer: int) -> Natural:
    """Load what `read_layers` stored for a layer."""
    arrays = read_arrays(task.natural_path(store, layer))
    texts = drawn_texts(store, task).texts
    counted = [mask[: len(text)] for mask, text in zip(arrays["counted"], texts, strict=True)]
    active = Active(*(arrays[name] for name in Active._fields))
    known = np.concatenate([arrays["features"], arrays["others"]]).tolist()
    place = {feature: at for at, feature in enumerate(known)}
    rows = zip(*(arrays[kind].tolist() for kind in NearestFeatures._fields), strict=True)
    alike = [LookAlikes(*([place[one] for one in many if one >= 0] for many in kinds)) for kinds in rows]
    return Natural(arrays["features"], alike, active, texts, counted)


def _prompts(texts: list[list[int]], task: JudgeJob, before: list[int]) -> np.ndarray:
    """Beginnings of natural texts, all of the same length."""
    how = task.how.faithfulness
    long_enough = [text[: how.prompt_tokens] for text in texts if len(text) >= how.prompt_tokens]
    random = np.random.default_rng([task.how.seed, 1])
    chosen = random.permutation(len(long_enough))[: how.n_prompts]
    return rows_of([long_enough[at] for at in chosen], before, how.prompt_tokens)


class LayerMaterial(NamedTuple):
    """The material that a layer's descriptions are judged on."""

    features: np.ndarray
    """The features in the order of the draw."""
    texts: list[Text]
    materials: list[Material]
    """The texts and activations for each feature, in the order of `features`."""


def load_layer_material(store: Store, task: JudgeJob, layer: int) -> LayerMaterial:
    """Load the material of a layer and draw each feature's part of it; the result is the same at every call."""
    features, alike, active, token_texts, counted = natural(store, task, layer)
    vocabulary = [token.text for token in read_vocabulary(tokens_part(store, task.checkpoint_id))]

    def as_text(tokens: Sequence[int]) -> Text:
        return Text(tuple(vocabulary[token] if token < len(vocabulary) else "" for token in tokens))

    texts = NaturalTexts([as_text(tokens) for tokens in token_texts], counted)
    steered = _steered(store, task, layer, as_text)
    materials = []
    for at, feature in enumerate(features.tolist()):
        hard = hard_negatives(active, at, alike[at], texts, task.how.n_hard)
        of_feature = material(active.of(at), texts, hard, steered.get(at, {}), task.how, task.how.seed + feature)
        materials.append(of_feature)
    return LayerMaterial(features, texts.texts, materials)


def _steered(
    store: Store, task: JudgeJob, layer: int, as_text: Callable[[Sequence[int]], Text]
) -> dict[int, dict[float, list[Text]]]:
    """Continuations by the feature's index in the draw, then by factor."""
    found: dict[int, dict[float, list[Text]]] = {}
    for key in task.steered_keys(layer):
        arrays = read_arrays(task.steered_path(store, key))
        for place, by_factor in zip(arrays["places"].tolist(), arrays["written"].tolist(), strict=True):
            factors = zip(task.how.faithfulness.factors, by_factor, strict=True)
            found[place] = {factor: [as_text(tokens) for tokens in many] for factor, many in factors}
    return found
