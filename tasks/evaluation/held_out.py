"""What a layer's descriptions are judged on: held-out texts, what features do on them, and what the model writes when a
feature is held."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from interp.activations.settings import ActivationSettings
from interp.descriptions.evidence import WHOLE
from interp.descriptions.settings import EvidenceSettings, RuleSettings
from interp.fade.judge import Text
from interp.fade.judging import Material, NaturalTexts, material
from interp.fade.settings import EvaluateSettings
from interp.fade.steering import SteeredFeature, continuations
from interp.fade.texts import Active, pieces, rows_of
from interp.weightlens.settings import WordingSettings
from storage.archives import read_arrays, write_arrays
from storage.catalog.database import open_catalog
from storage.checkpoints import open_checkpoint
from storage.corpora.corpus import HELD_OUT, corpus_attributes, read_chosen_rows
from storage.store import ShardKey, Store
from tasks.describe.draw import Draw
from tasks.describe.evidence import SampledCorpus
from tasks.evaluation.reading import counted_tokens, read_activations
from tasks.ingest import tokens_part
from tasks.models import loaded_model
from tasks.shard_task import shard_task
from tasks.weightlens.propagate import read_vocabulary

VERSION = 2
"""Bump when the same features would be judged on other texts or continuations."""

ROWS_STEERED = 700
"""Continuations that are written together."""

FEATURES_STEERED = 5
"""Features a steering task."""


@dataclass(frozen=True)
class JudgeJob:
    """How a stage judges: all that its tasks have to know."""

    checkpoint_id: str
    model_path: Path
    sampled_corpus: SampledCorpus
    counted: ActivationSettings
    """Which positions count, as in the statistics."""
    material_recipe: str
    """Names what is judged on, whoever judges."""
    judged_recipe: str
    """Names what a judge said of it."""
    explainer: str
    methods: tuple[str, ...]
    controls: tuple[str, ...]
    judge: str
    model: str | None
    """Who is asked, as the answers are kept under; None for the judge by rule."""
    draw: Draw
    how: EvaluateSettings
    evidence: EvidenceSettings
    rule: RuleSettings
    wording: WordingSettings

    def folder(self, store: Store) -> Path:
        return store.root / "evaluation" / self.material_recipe

    def natural_path(self, store: Store, layer: int) -> Path:
        return self.folder(store) / "natural" / f"{layer:02d}.npz"

    def steered_path(self, store: Store, key: ShardKey) -> Path:
        return self.folder(store) / "steered" / f"{key.layer:02d}-{key.start}-{key.stop}.npz"

    def judged_path(self, store: Store, layer: int) -> Path:
        return self.folder(store) / "judged" / f"{self.judged_recipe}-{layer:02d}.parquet"

    def steered_keys(self, layer: int) -> list[ShardKey]:
        """Steering is shared out by the place of features in the layer's draw."""
        n, step = min(self.how.faithfulness.features_per_layer, self.how.features_per_layer), FEATURES_STEERED
        return [ShardKey(self.material_recipe, layer, at, min(at + step, n)) for at in range(0, n, step)]


@shard_task("read-held-out", "read held-out L{layer:02d}")
def read_layer(store: Store, task: JudgeJob, layer: int) -> int:
    """Draw a layer's features and run held-out texts through the model.

    Memory: the model, the layer's encoder, and what `read_activations` says.
    """
    path = task.natural_path(store, layer)
    if path.exists():
        return layer
    features = _drawn(store, task, layer)
    texts = _held_out_texts(store, task)
    checkpoint = open_checkpoint(store, task.checkpoint_id)
    active = read_activations(checkpoint, task.model_path, layer, features, texts, task.counted)
    counted = counted_tokens(checkpoint, task.model_path, texts, task.how.text_tokens, task.counted)
    rows = rows_of(texts, [], task.how.text_tokens)
    write_arrays(path, {"features": features, "texts": rows, "counted": counted, **active._asdict()})
    return layer


def _drawn(store: Store, task: JudgeJob, layer: int) -> np.ndarray:
    """Features that are judged, in the order of the draw."""
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
    """The explainer's own descriptions of this corpus, and the weightlens stage's."""
    return f"((explainer = {explainer} AND corpus_id = ?) OR corpus_id IS NULL)"


def _held_out_texts(store: Store, task: JudgeJob) -> list[list[int]]:
    """Texts of documents that no statistic or sample was taken from, an even share of each corpus.

    Raises:
        ValueError: nothing of a corpus is held out.
    """
    found: list[list[int]] = []
    bos = open_checkpoint(store, task.checkpoint_id).bos
    share = -(-task.how.n_texts // len(task.sampled_corpus.corpora))
    for at, corpus_id in enumerate(task.sampled_corpus.corpora):
        attributes = corpus_attributes(store, corpus_id)
        n_held_out = attributes.n_held_out_sequences
        if not n_held_out:
            why = f"found nothing to keep apart in {attributes.source}" if attributes.held_out else "is 0"
            raise ValueError(f"corpus.held_out {why}; descriptions are judged on held-out text only")
        random = np.random.default_rng([task.how.seed, at])
        n_rows = min(n_held_out, 2 * (-(-share * task.how.text_tokens // attributes.n_pos)) + 1)
        rows = np.sort(random.choice(n_held_out, n_rows, replace=False))
        read = read_chosen_rows(store, corpus_id, rows, HELD_OUT)
        texts = list(pieces(read.tokens, read.documents, bos, task.how.text_tokens))
        kept = np.sort(random.permutation(len(texts))[:share])
        found += [texts[place] for place in kept]
    return found


@shard_task("steer", "steer {key.name}")
def steer_features(store: Store, task: JudgeJob, key: ShardKey) -> ShardKey:
    """Have the model write prompts on with features held at multiples of their greatest natural activation.

    Memory: the model, the layer's transcoder, and keys and values of `ROWS_STEERED` continuations.
    """
    path = task.steered_path(store, key)
    if path.exists():
        return key
    how, checkpoint = task.how.faithfulness, open_checkpoint(store, task.checkpoint_id)
    features, texts, active, _ = natural(store, task, key.layer)
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
            held = SteeredFeature(torch.from_numpy(features[np.array(places)[a]]), torch.from_numpy(value).float())
            rows = torch.from_numpy(prompts[c])
            tokens = continuations(model, folder.family, checkpoint.hooks, key.layer, coder, held, rows, how.new_tokens)
            written[a, b, c] = tokens.numpy()
    write_arrays(path, {"places": np.array(places, np.int64), "written": written})
    return key


class Natural(NamedTuple):
    """A layer's held-out texts and what its drawn features do on them."""

    features: np.ndarray
    texts: list[list[int]]
    active: Active
    counted: list[np.ndarray]
    """Which tokens of each text count."""


def natural(store: Store, task: JudgeJob, layer: int) -> Natural:
    """What `read_layer` left of a layer."""
    arrays = read_arrays(task.natural_path(store, layer))
    texts = [row[row >= 0].tolist() for row in arrays["texts"]]
    counted = [mask[: len(text)] for mask, text in zip(arrays["counted"], texts, strict=True)]
    active = Active(*(arrays[name] for name in Active._fields))
    return Natural(arrays["features"], texts, active, counted)


def _prompts(texts: list[list[int]], task: JudgeJob, before: list[int]) -> np.ndarray:
    """Beginnings of natural texts, all of one length."""
    how = task.how.faithfulness
    long_enough = [text[: how.prompt_tokens] for text in texts if len(text) >= how.prompt_tokens]
    random = np.random.default_rng([task.how.seed, 1])
    chosen = random.permutation(len(long_enough))[: how.n_prompts]
    return rows_of([long_enough[at] for at in chosen], before, how.prompt_tokens)


class LayerMaterial(NamedTuple):
    """What a layer's descriptions are judged on."""

    features: np.ndarray
    """In the order of the draw."""
    texts: list[Text]
    materials: list[Material]
    """By feature."""


def load_layer_material(store: Store, task: JudgeJob, layer: int) -> LayerMaterial:
    """What was read and written of a layer, and every feature's draw of it: the same at every call."""
    features, token_texts, active, counted = natural(store, task, layer)
    vocabulary = [token.text for token in read_vocabulary(tokens_part(store, task.checkpoint_id))]

    def as_text(tokens: Sequence[int]) -> Text:
        return Text(tuple(vocabulary[token] if token < len(vocabulary) else "" for token in tokens))

    texts = NaturalTexts([as_text(tokens) for tokens in token_texts], counted)
    steered = _steered(store, task, layer, as_text)
    materials = [
        material(active.of(at), texts, steered.get(at, {}), task.how, task.how.seed + int(feature))
        for at, feature in enumerate(features)
    ]
    return LayerMaterial(features, texts.texts, materials)


def _steered(
    store: Store, task: JudgeJob, layer: int, as_text: Callable[[Sequence[int]], Text]
) -> dict[int, dict[float, list[Text]]]:
    """Continuations by the feature's place in the draw, then by factor."""
    found: dict[int, dict[float, list[Text]]] = {}
    for key in task.steered_keys(layer):
        arrays = read_arrays(task.steered_path(store, key))
        for place, by_factor in zip(arrays["places"].tolist(), arrays["written"].tolist(), strict=True):
            factors = zip(task.how.faithfulness.factors, by_factor, strict=True)
            found[place] = {factor: [as_text(tokens) for tokens in many] for factor, many in factors}
    return found
