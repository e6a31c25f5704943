"""Natural texts: pieces of held-out rows, the features' activations on them, and the choice of those that are rated."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64, Integer
from torch import Tensor

from interp.activations.encoding import Encoder, find_active
from interp.transcoder import activate

PERCENTILES = (0, 50, 75, 95, 100)
"""Rated texts are taken in equal numbers from between these percentiles of a feature's activation."""

TOP_SHARE = 0.1
"""Share of the rated texts that are those with the greatest activations."""

MIN_TOKENS = 4
"""Shortest piece of a document that is used as a text, in tokens."""


class Active(NamedTuple):
    """The activations of some features on some texts: one entry for each (feature, text, token), in that order."""

    feature: Int32[np.ndarray, " n"]
    """Index among the given features."""
    text: Int32[np.ndarray, " n"]
    place: Int32[np.ndarray, " n"]
    """Index of the token in the text, without the tokens added before it."""
    value: Float[np.ndarray, " n"]

    def of(self, feature: int) -> "Active":
        """The entries of one feature."""
        start, stop = np.searchsorted(self.feature, [feature, feature + 1])
        return Active(*(column[start:stop] for column in self))

    def peaks(self, n_texts: int) -> Float[np.ndarray, " n_texts"]:
        """One feature's activation on every text: its value at argmax |a| over the tokens."""
        peaks = np.zeros(n_texts, np.float32)
        np.maximum.at(peaks, self.text, self.value.astype(np.float32))  # activations are never negative
        return peaks


def pieces(
    tokens: Int32[np.ndarray, "rows n_pos"],
    documents: Int32[np.ndarray, "rows n_pos"],
    bos: int | None,
    text_tokens: int,
) -> Iterator[list[int]]:
    """Cut rows into texts of at most `text_tokens` tokens, none across documents, without BOS and padding."""
    for row, owner in zip(tokens, documents, strict=True):
        real = row >= 0 if bos is None else (row >= 0) & (row != bos)
        ends = np.flatnonzero(np.diff(owner)) + 1
        for piece, kept in zip(np.split(row, ends), np.split(real, ends), strict=True):
            content = piece[kept].tolist()
            for start in range(0, len(content), text_tokens):
                text = content[start : start + text_tokens]
                if len(text) >= min(MIN_TOKENS, text_tokens):
                    yield text


def chosen_activations(
    encoder: Encoder, features: Int64[Tensor, " chosen"], x: Float[Tensor, "n d_model"]
) -> Float[Tensor, "n chosen"]:
    """The activations of some features. For TopK, the encoder is evaluated for all features."""
    if encoder.activation == "topk" and x.device.type != "cpu":
        return encoder.encode(x)[:, features]
    if encoder.activation != "topk":
        pre = torch.addmm(encoder.b_enc[features], x, encoder.W_enc[features].T)
        threshold = None if encoder.threshold is None else encoder.threshold[features]
        return activate(pre, encoder.activation, threshold, None)
    token, feature, value = find_active(encoder, x, np.arange(len(x), dtype=np.uint32))
    place = np.full(encoder.d_transcoder, -1)
    place[features.numpy()] = np.arange(len(features))
    column = place[feature]
    mine = column >= 0
    a = np.zeros((len(x), len(features)), np.float32)
    a[token[mine], column[mine]] = value[mine]
    return torch.from_numpy(a)


def stratified(peaks: Float[np.ndarray, " n"], n: int, seed: int) -> Int64[np.ndarray, " m"]:
    """At most `n` texts: equal numbers from between the `PERCENTILES` of the activation, and a tenth from the top."""
    if len(peaks) <= n:
        return np.arange(len(peaks))
    random = np.random.default_rng(seed)
    order = np.lexsort((random.permutation(len(peaks)), peaks))
    bounds = [percent * len(order) // 100 for percent in PERCENTILES]
    each = int(n * (1 - TOP_SHARE)) // (len(PERCENTILES) - 1)
    taken = np.zeros(len(peaks), bool)
    for start, stop in pairwise(bounds):
        layer = order[start:stop]
        taken[random.choice(layer, min(each, len(layer)), replace=False)] = True
    rest = order[~taken[order]]
    taken[rest[len(rest) - (n - int(taken.sum())) :]] = True
    return np.flatnonzero(taken)


def rows_of(texts: list[list[int]], before: list[int], width: int) -> Integer[np.ndarray, "n n_pos"]:
    """Texts as rows for the model: the tokens that come before each text, the text, and −1 as padding."""
    rows = np.full((len(texts), len(before) + width), -1, np.int64)
    for row, text in zip(rows, texts, strict=True):
        row[: len(before)] = before
        row[len(before) : len(before) + len(text)] = text
    return rows
