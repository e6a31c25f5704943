"""What features do on texts that are read for a judge, each on its own behind BOS."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.activations.encoding import Encoder
from interp.activations.positions import counted_in_texts
from interp.activations.settings import ActivationSettings
from interp.capture import read_inputs
from interp.fade.texts import Active, chosen_activations, rows_of
from storage.checkpoints import Checkpoint
from storage.models import open_model
from tasks.models import loaded_encoder, loaded_model

TOKENS_AT_ONCE = 2048
"""Tokens of texts that the model reads together: more are no faster, and no longer in a processor's cache."""


class _Block(NamedTuple):
    """Some texts of about one length, and what the chosen features do on them."""

    text: np.ndarray
    """Which texts these are."""
    activation: Tensor
    """(text, token, feature), 0 behind the end of a text and at tokens that do not count."""


def read_activations(
    checkpoint: Checkpoint,
    model_path: Path,
    layer: int,
    features: np.ndarray,
    texts: Sequence[Sequence[int]],
    settings: ActivationSettings,
) -> Active:
    """Where the features are active on texts, at the tokens that count.

    Memory: the active entries, 16 bytes each and while they are put in order 28 more, and a block's streams and
    activations.
    """
    found: list[tuple[np.ndarray, ...]] = []
    for block in _blocks(checkpoint, model_path, layer, features, texts, settings):
        where = torch.nonzero(block.activation, as_tuple=True)
        text, place, feature = (index.numpy().astype(np.int32) for index in where)
        found.append((feature, block.text[text].astype(np.int32), place, block.activation[where].numpy()))
    if not found:
        return Active(*(np.zeros(0, kind) for kind in (np.int32, np.int32, np.int32, np.float32)))
    feature, text, place, value = (np.concatenate(column) for column in zip(*found, strict=True))
    found.clear()
    order = np.lexsort((place, text, feature))
    return Active(*(column[order] for column in (feature, text, place, value)))


def read_peaks(
    checkpoint: Checkpoint,
    model_path: Path,
    layer: int,
    features: np.ndarray,
    texts: Sequence[Sequence[int]],
    settings: ActivationSettings,
) -> np.ndarray:
    """Every feature's activation on every text, its value at argmax |a| over the tokens that count, as (text, feature);
    activations are never negative. Memory: four bytes a text and feature, and a block's streams and activations."""
    peaks = np.zeros((len(texts), len(features)), np.float32)
    for block in _blocks(checkpoint, model_path, layer, features, texts, settings):
        peaks[block.text] = block.activation.amax(1).numpy()
    return peaks


def _blocks(
    checkpoint: Checkpoint,
    model_path: Path,
    layer: int,
    features: np.ndarray,
    texts: Sequence[Sequence[int]],
    settings: ActivationSettings,
) -> Iterator[_Block]:
    """All texts, those of about one length together; the model's pass ends where the layer's transcoder reads."""
    folder, model = loaded_model(model_path)
    encoder, chosen = loaded_encoder(checkpoint, layer), torch.from_numpy(features)
    special = folder.tokenizer.all_special_ids
    before = [] if checkpoint.bos is None else [checkpoint.bos]
    lengths = np.array([len(text) for text in texts], np.int64)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    inputs: list[Tensor] = []
    while len(order):
        width = len(before) + lengths[order[: max(1, TOKENS_AT_ONCE // (len(before) + lengths[order[0]]))]]
        at_once = max(1, int((width * np.arange(1, len(width) + 1) <= TOKENS_AT_ONCE).sum()))
        block, order = order[:at_once], order[at_once:]
        rows = torch.from_numpy(rows_of([list(texts[text]) for text in block], before, int(lengths[block[-1]])))
        read_inputs(model, folder.family, rows.clamp(min=0), [layer], checkpoint.hooks, lambda _, x: inputs.append(x))
        counted = torch.from_numpy(counted_in_texts(rows.numpy(), special, settings)[:, len(before) :])
        yield _Block(block, _activations(encoder, chosen, inputs.pop()[:, len(before) :], counted))


def _activations(encoder: Encoder, chosen: Tensor, x: Tensor, counted: Tensor) -> Tensor:
    a = x.new_zeros(*counted.shape, len(chosen))
    a[counted] = chosen_activations(encoder, chosen, x[counted])
    return a


def counted_tokens(
    checkpoint: Checkpoint, model_path: Path, texts: Sequence[Sequence[int]], width: int, settings: ActivationSettings
) -> np.ndarray:
    """Which tokens of texts of at most `width` count, as (text, token); what lies behind a text does not."""
    before = [] if checkpoint.bos is None else [checkpoint.bos]
    rows = rows_of([list(text) for text in texts], before, width)
    special = open_model(model_path).tokenizer.all_special_ids
    return counted_in_texts(rows, special, settings)[:, len(before) :]
