"""Activations of features on the texts that a judge wrote from descriptions."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from interp.products import fast_products
from storage.archives import read_arrays
from storage.checkpoints import open_checkpoint
from storage.models import open_model
from storage.parquet import read_table, write_table
from storage.store import Store
from storage.tokenising import token_ids
from tasks.device_memory import turn_on
from tasks.evaluation.job import JudgeJob
from tasks.evaluation.text_activations import Wanted, read_peaks
from tasks.shard_task import shard_task

WRITTEN = pa.schema([("text", pa.string()), ("activation", pa.list_(pa.float32()))])
"""A text, and the activation on it of every drawn feature of the layer, in the order of the draw."""

TEXTS_AT_ONCE = 1024
"""Number of texts that are tokenised, run and written to the file together."""


@shard_task("read-written", "read written L{layer:02d}")
def read_written(store: Store, task: JudgeJob, layer: int) -> int:
    """Run the texts written from a layer's descriptions through the model, each once, up to that layer.

    Few texts occur in several layers, so each layer has a pass of its own, which ends where the layer reads. Memory:
    the model, the layer's encoder, the inputs of a batch of texts, and four bytes for each text and drawn feature,
    twenty-four while they are written.
    """
    path = task.written_path(store, layer)
    if path.exists():
        return layer
    texts = _distinct_texts(task.judged_path(store, layer))
    features = read_arrays(task.natural_path(store, layer))["features"]
    checkpoint, tokenizer = open_checkpoint(store, task.checkpoint_id), open_model(task.model_path).tokenizer
    wanted = Wanted(checkpoint, task.model_path, {layer: features}, task.counted, task.arithmetic)
    peaks, longest = np.zeros((len(texts), len(features)), np.float32), 2 * task.how.text_tokens
    with turn_on(task.arithmetic.device), fast_products(checkpoint.attributes.d_model):
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            encoded = token_ids(tokenizer, texts[start : start + TEXTS_AT_ONCE])
            tokens = [[token for token in text[:longest] if token < checkpoint.n_tokens] for text in encoded]
            peaks[start : start + TEXTS_AT_ONCE] = read_peaks(wanted, tokens)[layer]
    offsets = np.arange(0, peaks.size + 1, max(1, len(features)), dtype=np.int32)[: len(texts) + 1]
    activations = pa.ListArray.from_arrays(offsets, peaks.ravel())
    write_table(path, pa.Table.from_arrays([pa.array(texts, pa.string()), activations], schema=WRITTEN), TEXTS_AT_ONCE)
    return layer


def _distinct_texts(judged: Path) -> list[str]:
    """The different texts, in order of first appearance."""
    seen: dict[str, None] = {}
    for texts in read_table(judged, ["synthetic"])["synthetic"].to_pylist():
        seen |= dict.fromkeys(texts)
    return list(seen)


class WrittenPeaks:
    """The activations of a layer's drawn features on the texts that were written from its descriptions."""

    def __init__(self, store: Store, task: JudgeJob, layer: int) -> None:
        table = read_table(task.written_path(store, layer))
        self._row = {text: at for at, text in enumerate(table["text"].to_pylist())}
        flat = table["activation"].combine_chunks().flatten().to_numpy()
        self._peaks = flat.reshape(len(self._row), -1) if self._row else flat.reshape(0, 0)

    def of(self, place: int, texts: list[str]) -> np.ndarray:
        """The activations, float32, on the given texts of the feature at this place of the draw."""
        return self._peaks[[self._row[text] for text in texts], place]
