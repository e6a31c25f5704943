"""A part of a corpus that no descriptions were made from, as a stream of tokens, and features' activations on it."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from interp.activations.encoding import Entries, find_active, gather_active
from interp.activations.positions import counted_in_rows
from interp.activations.settings import ActivationSettings
from interp.capture import HookedModel, read_inputs
from interp.known_answers.stream import Stream
from interp.projection import FLOAT32
from interp.sparse import FeatureTokens
from storage.checkpoints import Checkpoint
from storage.corpora.corpus import corpus_attributes, read_chosen_rows
from storage.corpora.packing import PADDING, Rows
from storage.models import open_model
from storage.store import Store
from tasks.loaded_models import loaded_encoder, loaded_model

TOKENS_AT_ONCE = 2048
"""Tokens in a batch."""

LAYERS_AT_ONCE = 16
"""Layers whose active entries are in memory together; the text is read once for each group."""


class Read(NamedTuple):
    """Rows of a corpus, and the same as a stream of tokens without padding."""

    rows: Rows
    place: Int64[np.ndarray, "rows n_pos"]
    """For each position, the index of its token in the stream; -1 for padding."""
    stream: Stream
    documents: Int64[np.ndarray, " n"]
    """The document of each token, counted through the corpora."""
    counted: Bool[np.ndarray, " n"]
    is_held_out: bool
    """Whether the rows are of held-out documents."""


def read_text(
    store: Store, corpora: Sequence[str], model_path: Path, vocabulary: list[str], n_tokens: int,
    settings: ActivationSettings,
) -> Read:  # fmt: skip
    """Rows spread evenly over the held-out documents of corpora, with about this many tokens; for corpora without
    held-out documents, rows that descriptions were made from."""
    sizes = [corpus_attributes(store, corpus_id) for corpus_id in corpora]
    is_held_out = any(one.n_held_out_sequences for one in sizes)
    side = "held_out_" if is_held_out else ""
    n_rows = [one.n_held_out_sequences if is_held_out else one.n_sequences for one in sizes]
    n_pos = sizes[0].n_pos
    chosen = np.unique(np.linspace(0, sum(n_rows) - 1, min(sum(n_rows), max(1, n_tokens // n_pos))).astype(np.int64))
    tokens, documents, first_row, first_document = [], [], 0, 0
    for corpus_id, size, n in zip(corpora, sizes, n_rows, strict=True):
        own = chosen[(chosen >= first_row) & (chosen < first_row + n)] - first_row
        if len(own):
            rows = read_chosen_rows(store, corpus_id, own, side)
            tokens.append(rows.tokens)
            documents.append(np.where(rows.tokens == PADDING, PADDING, rows.documents + first_document))
        first_row, first_document = first_row + n, first_document + size.n_documents
    rows = Rows(np.concatenate(tokens), np.concatenate(documents).astype(np.int32))
    special = open_model(model_path).tokenizer.all_special_ids
    counted = counted_in_rows(rows.tokens, rows.documents, rows.documents[:0], special, settings)
    real = rows.tokens != PADDING
    place = np.where(real, np.cumsum(real).reshape(real.shape) - 1, -1)
    starts = np.ones(real.shape, bool)
    starts[:, 1:] = rows.documents[:, 1:] != rows.documents[:, :-1]
    stream = Stream(rows.tokens[real].astype(np.int64), starts[real], vocabulary)
    return Read(rows, place, stream, rows.documents[real].astype(np.int64), counted[real], is_held_out)


def read_features(
    checkpoint: Checkpoint, model_path: Path, read: Read, layers: Sequence[int], device: str
) -> Iterator[tuple[int, FeatureTokens]]:
    """Each layer with its features' activations at the tokens of a stream that count.

    Memory: the model, encoders as far as they are cached, and the active entries of `LAYERS_AT_ONCE` layers, 12 bytes
    each.
    """
    folder, model = loaded_model(model_path, device, open_attention=True)
    hooked = HookedModel(model, folder.family, checkpoint.hooks)
    encoder_of = partial(loaded_encoder, checkpoint, arithmetic=FLOAT32._replace(device=device))
    counts = np.zeros(read.place.shape, bool)
    counts[read.place >= 0] = read.counted
    step = max(1, TOKENS_AT_ONCE // read.place.shape[1])
    for first in range(0, len(layers), LAYERS_AT_ONCE):
        group = list(layers[first : first + LAYERS_AT_ONCE])
        found: dict[int, list[Entries]] = {layer: [] for layer in group}
        for at in range(0, len(read.place), step):
            rows = slice(at, at + step)
            chosen, position = torch.from_numpy(counts[rows]), read.place[rows][counts[rows]].astype(np.uint32)

            def receive(
                layer: int, x: Tensor, chosen: Tensor = chosen, position: np.ndarray = position,
                found: dict[int, list[Entries]] = found,
            ) -> None:  # fmt: skip
                found[layer].append(find_active(encoder_of(layer=layer), x[chosen.to(device)], position))

            tokens = torch.from_numpy(np.where(read.rows.tokens[rows] == PADDING, 0, read.rows.tokens[rows]))
            read_inputs(hooked, tokens.to(device), group, receive)
        for layer in group:
            active = gather_active(found.pop(layer), checkpoint.d_transcoder)
            yield layer, FeatureTokens(active.indptr, active.token.astype(np.int64), active.value)
