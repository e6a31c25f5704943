"""Describe a shard as the authors' code would: upstream descriptions validated as sequences (`compat: authors`)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float32

from interp.transcoder import Transcoder
from interp.weightlens.authors import firing, sequence_inputs
from interp.weightlens.description import Token
from interp.weightlens.propagation import Inherited
from storage.catalog.parts import read_parts, write_part
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.store import ShardKey, Store, shards
from tasks.ingest import tokens_part
from tasks.loaded_models import loaded_model
from tasks.shard_task import shard_task
from tasks.weightlens.propagate import (
    PROPAGATED_TABLES,
    Candidates,
    PropagationJob,
    read_candidates,
    read_vocabulary,
    write_inherited,
    write_words,
)

SOURCES_PER_BLOCK = 512
"""Upstream descriptions in a batch."""


@shard_task("describe-as-authors", "describe as authors {key.name}")
def describe_shard_as_authors(store: Store, job: PropagationJob, key: ShardKey) -> ShardKey:
    """Combine the tokens that survive when upstream descriptions are read as sequences, and validate all as one
    sequence.

    The soft description has every token of the upstream descriptions, whether it fires the feature or not.
    """
    tables = (*PROPAGATED_TABLES, "sequence_validation")
    if all(store.part(table, key).exists() for table in tables):
        return key
    checkpoint_id = job.checkpoint_id
    checkpoint = open_checkpoint(store, checkpoint_id)
    reader = _Reader(checkpoint, job.model_path, key.layer)
    candidates = read_candidates(store, job.projected(key))
    vocabulary = read_vocabulary(tokens_part(store, checkpoint_id))
    kept = [[vocabulary[token].text for token in _own(candidates, at)] for at in range(key.stop - key.start)]
    soft = [list(texts) for texts in kept]
    taken: list[tuple[int, int, float, int, int, float]] = []
    edges = candidates.edges
    for layer in np.unique(edges.source_layer).tolist():
        texts_of = _described(store, job, layer, checkpoint.d_transcoder)
        of_layer = np.nonzero(edges.source_layer == layer)[0]
        sources = [source for source in np.unique(edges.source_feature[of_layer]).tolist() if source in texts_of]
        for start in range(0, len(sources), SOURCES_PER_BLOCK):
            block = sources[start : start + SOURCES_PER_BLOCK]
            ids = [reader.ids(texts_of[source]) for source in block]
            for source, tokens, activations in zip(block, ids, reader.run(ids), strict=True):
                here = of_layer[edges.source_feature[of_layer] == source]
                a = activations(edges.target[here] + key.start)
                for at, column, weight in zip(edges.target[here], a.T, edges.weight[here], strict=True):
                    soft[at].extend(texts_of[source])
                    kept[at].extend(text for text, value in zip(texts_of[source], column, strict=True) if value > 0)
                    taken += [
                        (int(at), token, float(value), layer, source, float(weight))
                        for token, value in zip(tokens, column, strict=True)
                        if value > 0
                    ]
    write_inherited(store, key, checkpoint_id, _inherited(taken, candidates), candidates)
    described = [sorted(set(texts)) for texts in kept]
    soft = [sorted(set(texts)) if described[at] else texts for at, texts in enumerate(soft)]
    as_tokens = [[Token(text) for text in texts] for texts in described]
    write_words(store, job, key, candidates, as_tokens, [[Token(text) for text in texts] for texts in soft])
    validation, validation_soft = reader.fired(key, described), reader.fired(key, soft)
    columns = {
        "checkpoint_id": checkpoint_id,
        "layer": key.layer,
        "feature": np.arange(key.start, key.stop),
        "validation": [bool(a.sum() > 0) for a in validation],
        "validation_soft": [float((a > 0).mean()) if len(a) else 0.0 for a in validation_soft],
    }
    write_part(store.part("sequence_validation", key), "sequence_validation", columns, key.stop - key.start)
    return key


class _Reader:
    """Runs descriptions as sequences and finds what fires in one layer."""

    def __init__(self, checkpoint: Checkpoint, model_path: Path, layer: int) -> None:
        self.folder, self.model = loaded_model(model_path)
        self.checkpoint, self.layer = checkpoint, layer
        self.transcoder: Transcoder = checkpoint.transcoder(layer).without_subtraction()
        self.known_ids: dict[str, int] = {}

    def ids(self, texts: Sequence[str]) -> list[int]:
        """The last token of each text, as the tokenizer splits it: not always the token that the text came from."""
        for text in texts:
            if text not in self.known_ids:
                ids = self.folder.tokenizer(text, add_special_tokens=False).input_ids
                self.known_ids[text] = ids[-1] if ids else 0
        return [self.known_ids[text] for text in texts]

    def run(self, sequences: Sequence[Sequence[int]]) -> list[Callable[[np.ndarray], np.ndarray]]:
        """For each sequence, a function from features to their activations at its tokens."""
        xs = sequence_inputs(
            self.model, self.folder.family, self.checkpoint.hooks, self.layer, sequences, self.checkpoint.bos
        )
        return [lambda features, x=x: firing(self.transcoder, x, features.tolist()).numpy() for x in xs]

    def fired(self, key: ShardKey, texts: Sequence[Sequence[str]]) -> list[Float32[np.ndarray, " n"]]:
        """Each feature's activations along its own description; none if that is empty."""
        found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(texts)
        features = [at for at, words in enumerate(texts) if words]
        for start in range(0, len(features), SOURCES_PER_BLOCK):
            block = features[start : start + SOURCES_PER_BLOCK]
            for at, activations in zip(block, self.run([self.ids(texts[at]) for at in block]), strict=True):
                found[at] = activations(np.array([key.start + at]))[:, 0]
        return found


def _own(candidates: Candidates, at: int) -> list[int]:
    direct = candidates.direct
    return direct.token[direct.indptr[at] : direct.indptr[at + 1]].tolist()


def _described(store: Store, job: PropagationJob, layer: int, d_transcoder: int) -> dict[int, list[str]]:
    """The descriptions of an earlier layer, by feature."""
    parts = [store.part("descriptions", key) for key in shards(job.recipe, layer, d_transcoder, job.shard_size)]
    table = read_parts(parts, ["feature", "method", "tokens"])
    table = table.filter(pc.field("method") == "weightlens")
    return dict(zip(table["feature"].to_pylist(), table["tokens"].to_pylist(), strict=True))


def _inherited(taken: list[tuple[int, int, float, int, int, float]], candidates: Candidates) -> Inherited:
    """One entry for each feature and token, that of the strongest edge; a feature's own tokens are not inherited."""
    best: dict[tuple[int, int], tuple[int, int, float, int, int, float]] = {}
    for entry in sorted(taken, key=lambda entry: (-entry[5], entry[3], entry[4])):
        if entry[1] not in _own(candidates, entry[0]):
            best.setdefault(entry[:2], entry)
    ordered = sorted(best.values(), key=lambda entry: (entry[0], -entry[5], entry[3], entry[4], -entry[2], entry[1]))
    target, token, activation, layer, feature, weight = zip(*ordered, strict=True) if ordered else [()] * 6
    return Inherited(
        np.array(target, np.int64),
        np.array(token, np.int64),
        np.array(activation, np.float32),
        np.array(layer, np.int64),
        np.array(feature, np.int64),
        np.array(weight, np.float32),
    )
