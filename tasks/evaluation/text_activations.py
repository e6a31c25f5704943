"""Activations of features on texts that are read for a judge, each text alone after BOS."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.activations.encoding import Encoder
from interp.activations.positions import counted_in_texts
from interp.activations.settings import ActivationSettings
from interp.batches import in_batches
from interp.capture import HookedModel, read_inputs
from interp.fade.texts import Active, chosen_activations, rows_of
from interp.projection import FLOAT32, Arithmetic
from storage.checkpoints import Checkpoint
from storage.models import open_model
from tasks.loaded_models import loaded_encoder, loaded_model, threads

TOKENS_AT_ONCE = 2048
"""Tokens of texts in a batch: more are not faster, and exceed a processor's cache."""


@dataclass(frozen=True)
class Wanted:
    """The features to read, of one or several layers, and the tokens that count."""

    checkpoint: Checkpoint
    model_path: Path
    features: Mapping[int, np.ndarray]
    """The features to read, by layer."""
    counted: ActivationSettings
    arithmetic: Arithmetic = FLOAT32


class _Block(NamedTuple):
    """Some texts of similar length, and the activations of a layer's chosen features on them."""

    text: np.ndarray
    """Indices of the texts."""
    layer: int
    activation: Tensor
    """(text, token, feature), with 0 after the end of a text and at tokens that do not count."""


_Entries = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def read_activations(wanted: Wanted, texts: Sequence[Sequence[int]], n_threads: int = 1) -> dict[int, Active]:
    """For each layer, where the features are active on texts. Each text is run through the model once.

    Memory: the encoders; the active entries, 16 bytes each and 28 more while a layer's are sorted; and for each thread
    a block's streams and the activations of a layer.
    """
    found: dict[int, dict[int, _Entries]] = {layer: {} for layer in wanted.features}

    def list_active(block: _Block) -> None:
        where = torch.nonzero(block.activation, as_tuple=True)
        text, place, feature = (index.cpu().numpy().astype(np.int32) for index in where)
        entries = feature, block.text[text].astype(np.int32), place, block.activation[where].cpu().numpy()
        found[block.layer][int(block.text[0])] = entries

    _read_blocks(wanted, texts, list_active, n_threads)
    return {layer: _in_order(list(found.pop(layer).values())) for layer in wanted.features}


def _in_order(found: list[_Entries]) -> Active:
    if not found:
        return Active(*(np.zeros(0, kind) for kind in (np.int32, np.int32, np.int32, np.float32)))
    feature, text, place, value = (np.concatenate(column) for column in zip(*found, strict=True))
    found.clear()
    order = np.lexsort((place, text, feature))
    return Active(*(column[order] for column in (feature, text, place, value)))


def read_peaks(wanted: Wanted, texts: Sequence[Sequence[int]]) -> dict[int, np.ndarray]:
    """For each layer, every feature's activation on every text, its value at argmax |a| over the tokens that count, as
    (text, feature); activations are never negative. Memory: four bytes for each text and feature, and a block's
    streams and activations."""
    peaks = {layer: np.zeros((len(texts), len(features)), np.float32) for layer, features in wanted.features.items()}

    def keep(block: _Block) -> None:
        peaks[block.layer][block.text] = block.activation.amax(1).cpu().numpy()

    _read_blocks(wanted, texts, keep, 1)
    return peaks


def _read_blocks(
    wanted: Wanted, texts: Sequence[Sequence[int]], receive: Callable[[_Block], None], n_threads: int
) -> None:
    """Run all texts through the model, those of about one length together; a pass ends where the highest of the layers'
    transcoders reads. `receive` gets every layer of every block, from several threads."""
    device, dtype = wanted.arithmetic.device, wanted.arithmetic.dtype
    folder, model = loaded_model(wanted.model_path, device, dtype=dtype)
    hooked = HookedModel(model, folder.family, wanted.checkpoint.hooks)
    encoders = {
        layer: loaded_encoder(wanted.checkpoint, layer, FLOAT32._replace(device=device)) for layer in wanted.features
    }
    chosen = {layer: torch.from_numpy(features).to(device) for layer, features in wanted.features.items()}
    special = folder.tokenizer.all_special_ids
    before = [] if wanted.checkpoint.bos is None else [wanted.checkpoint.bos]

    def read(block: np.ndarray) -> None:
        rows = torch.from_numpy(rows_of([list(texts[text]) for text in block], before, len(texts[block[-1]])))
        counted = torch.from_numpy(counted_in_texts(rows.numpy(), special, wanted.counted)[:, len(before) :]).to(device)

        def at_layer(layer: int, x: Tensor) -> None:
            found = _activations(encoders[layer], chosen[layer], x[:, len(before) :], counted)
            receive(_Block(block, layer, found))

        read_inputs(hooked, rows.clamp(min=0).to(device), sorted(wanted.features), at_layer)

    def read_all(block: np.ndarray) -> None:
        width = len(before) + len(texts[block[-1]])
        at_once = max(1, TOKENS_AT_ONCE // width)
        in_batches("texts that are read", device, len(block), at_once, lambda part: read(block[part]), width)

    blocks = _blocks([len(text) for text in texts], len(before))
    if n_threads == 1:  # in this thread, since another would keep memory of its own after releasing it
        for block in blocks:
            read_all(block)
        return
    with threads(n_threads) as pool:
        list(pool.map(read_all, blocks))


def _blocks(lengths: Sequence[int], n_before: int) -> list[np.ndarray]:
    """Texts in batches of similar length; empty ones are left out."""
    length = np.array(lengths, np.int64)
    order = np.argsort(length, kind="stable")
    order = order[length[order] > 0]
    blocks = []
    while len(order):
        width = n_before + length[order[: max(1, TOKENS_AT_ONCE // (n_before + length[order[0]]))]]
        at_once = max(1, int((width * np.arange(1, len(width) + 1) <= TOKENS_AT_ONCE).sum()))
        blocks.append(order[:at_once])
        order = order[at_once:]
    return blocks


def _activations(encoder: Encoder, chosen: Tensor, x: Tensor, counted: Tensor) -> Tensor:
    a = x.new_zeros(*counted.shape, len(chosen))
    a[counted] = chosen_activations(encoder, chosen, x[counted])
    return a


def counted_tokens(
    checkpoint: Checkpoint, model_path: Path, texts: Sequence[Sequence[int]], width: int, settings: ActivationSettings
) -> np.ndarray:
    """Which tokens of texts of at most `width` count, as (text, token); padding does not."""
    before = [] if checkpoint.bos is None else [checkpoint.bos]
    rows = rows_of([list(text) for text in texts], before, width)
    special = open_model(model_path).tokenizer.all_special_ids
    return counted_in_texts(rows, special, settings)[:, len(before) :]
