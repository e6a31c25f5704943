"""Find the active features of many tokens: products a block at a time, sparse as soon as they exist."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64, Integer, UInt16, UInt32
from torch import Tensor

from interp.activation_kernels import by_feature, compress, compress_top
from interp.transcoder import ActivationName, activate

TOKENS_PER_PRODUCT = 256
FEATURES_PER_PRODUCT = 2048
"""A block of products is 2 MB: it stays in the cache until its active entries are listed."""


@dataclass(frozen=True)
class Encoder:
    """The half of a transcoder that tells how active its features are."""

    W_enc: Float32[Tensor, "d_transcoder d_model"]
    b_enc: Float32[Tensor, " d_transcoder"]
    activation: ActivationName
    threshold: Float32[Tensor, " d_transcoder"] | None = None
    k: int | None = None

    @property
    def d_transcoder(self) -> int:
        return self.W_enc.shape[0]

    def encode(self, x: Float32[Tensor, "n d_model"]) -> Float32[Tensor, "n d_transcoder"]:
        """The activations of every feature at every token, dense."""
        return activate(torch.addmm(self.b_enc, x, self.W_enc.T), self.activation, self.threshold, self.k)


class Active(NamedTuple):
    """Active features of some tokens, by feature; positions ascend within one."""

    indptr: Int64[np.ndarray, " d_transcoder_plus_1"]
    token: UInt16[np.ndarray, " n"] | UInt32[np.ndarray, " n"]
    value: Float32[np.ndarray, " n"]


Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(position, feature, activation) of active features, positions ascending within a feature."""


def find_active(encoder: Encoder, x: Float32[Tensor, "n d_model"], position: Integer[np.ndarray, " n"]) -> Entries:
    """The active features at some tokens. Memory: a block of products and what is found.

    Raises:
        ValueError: an activation is not a finite number.
    """
    if len(x) == 0:
        return np.zeros(0, position.dtype), np.zeros(0, np.int32), np.zeros(0, np.float32)
    find = _dense if x.device.type != "cpu" else _greatest if encoder.activation == "topk" else _sparse
    found = list(find(encoder, x, position))
    token, feature, value = (np.concatenate([block[i] for block in found]) for i in range(3))
    if not np.isfinite(value).all():
        raise ValueError("an activation is not a finite number: the model's or transcoder's arithmetic overflows")
    return token, feature, value


def gather_active(entries: list[Entries], d_transcoder: int) -> Active:
    """Entries of consecutive tokens, turned round by feature."""
    token, feature, value = (np.concatenate([part[i] for part in entries]) for i in range(3))
    token_out, value_out = np.empty_like(token), np.empty_like(value)
    indptr = by_feature(token, feature, value, d_transcoder, token_out, value_out)
    return Active(indptr, token_out, value_out)


def _sparse(encoder: Encoder, x: Tensor, position: np.ndarray) -> Iterator[Entries]:
    n = encoder.d_transcoder
    bias = encoder.b_enc.numpy()
    threshold = np.zeros(n, np.float32) if encoder.threshold is None else encoder.threshold.clamp(min=0).numpy()
    room = TOKENS_PER_PRODUCT * FEATURES_PER_PRODUCT
    out = torch.empty(TOKENS_PER_PRODUCT * min(n, FEATURES_PER_PRODUCT))
    token, feature = np.empty(room, position.dtype), np.empty(room, np.int32)
    value = np.empty(room, np.float32)
    for low in range(0, len(x), TOKENS_PER_PRODUCT):
        rows, at = x[low : low + TOKENS_PER_PRODUCT], position[low : low + TOKENS_PER_PRODUCT]
        for first in range(0, n, FEATURES_PER_PRODUCT):
            part = slice(first, min(first + FEATURES_PER_PRODUCT, n))
            width = part.stop - first
            products = out[: len(rows) * width].view(len(rows), width)
            torch.mm(rows, encoder.W_enc[part].T, out=products)
            found = compress(products.numpy(), bias[part], threshold[part], at, first, token, feature, value)
            yield token[:found].copy(), feature[:found].copy(), value[:found].copy()


def _greatest(encoder: Encoder, x: Tensor, position: np.ndarray) -> Iterator[Entries]:
    n, k = encoder.d_transcoder, encoder.k
    assert k is not None
    bias, room, found = encoder.b_enc.numpy(), len(x) * min(k, n) + 1, 0
    token, feature, value = np.empty(room, position.dtype), np.empty(room, np.int32), np.empty(room, np.float32)
    out = torch.empty(TOKENS_PER_PRODUCT, n)
    for low in range(0, len(x), TOKENS_PER_PRODUCT):
        rows, at = x[low : low + TOKENS_PER_PRODUCT], position[low : low + TOKENS_PER_PRODUCT]
        products = out[: len(rows)]
        torch.mm(rows, encoder.W_enc.T, out=products)
        rest = (column[found:] for column in (token, feature, value))
        found += compress_top(products.numpy(), bias, min(k, n), at, *rest)
    yield token[:found], feature[:found], value[:found]


def _dense(encoder: Encoder, x: Tensor, position: np.ndarray) -> Iterator[Entries]:
    for low in range(0, len(x), TOKENS_PER_PRODUCT):
        a = encoder.encode(x[low : low + TOKENS_PER_PRODUCT])
        token, feature = a.nonzero(as_tuple=True)
        value = a[token, feature].cpu().numpy()
        yield position[low + token.cpu().numpy()], feature.cpu().numpy().astype(np.int32), value
