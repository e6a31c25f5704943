"""Find the active features of many tokens: matrix products a block at a time, made sparse at once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import BFloat16, Float32, Int32, Int64, Integer, UInt16, UInt32
from torch import Tensor

from interp.batches import each_batch
from interp.kernels.activations import compress, compress_top, rescore
from interp.kernels.entries import by_feature
from interp.transcoder import ActivationName, activate

TOKENS_PER_PRODUCT = 256
FEATURES_PER_PRODUCT = 2048
"""Memory of a block of products: 2 MB, so that it stays in the cache until its active entries are listed."""

NUMBERS_ON_GPU = 1 << 26
"""Pre-activations of a block on a GPU: 256 MB. Smaller blocks would be finished before the next one is asked for."""

ROUNDING = 0.012
"""Largest difference of a product in bfloat16, for vectors of norm 1: both vectors and the product are rounded by 2^-8
each."""


class Screen(NamedTuple):
    """A bfloat16 copy of an encoder, used to find the features that may be active."""

    W_enc: BFloat16[Tensor, "d_transcoder d_model"]
    reach: Float32[np.ndarray, " d_transcoder"]
    """Largest difference of a feature's product from the float32 one, for a token of norm 1."""


def encoder_bytes(d_transcoder: int, d_model: int, *, screened: bool) -> int:
    """Memory of an encoder in bytes: its float32 arrays, and the bfloat16 copy if it has one."""
    return d_transcoder * d_model * (6 if screened else 4)


@dataclass(frozen=True)
class Encoder:
    """The encoder of a transcoder."""

    W_enc: Float32[Tensor, "d_transcoder d_model"]
    b_enc: Float32[Tensor, " d_transcoder"]
    activation: ActivationName
    threshold: Float32[Tensor, " d_transcoder"] | None = None
    k: int | None = None
    screen: Screen | None = None
    """If set, candidates are found with it in bfloat16 and scored again in float32."""

    def screened(self) -> "Encoder":
        """This encoder with a bfloat16 screen, on the CPU. TopK encoders get none, since a TopK activation depends on
        all other features."""
        if self.activation == "topk" or self.W_enc.device.type != "cpu":
            return self
        reach = ROUNDING * self.W_enc.norm(dim=1).numpy()
        return replace(self, screen=Screen(self.W_enc.bfloat16(), reach))

    @property
    def n_bytes(self) -> int:
        """Memory of the encoder in bytes."""
        return encoder_bytes(*self.W_enc.shape, screened=self.screen is not None)

    @property
    def d_transcoder(self) -> int:
        """Number of features of the layer."""
        return self.W_enc.shape[0]

    def encode(self, x: Float32[Tensor, "n d_model"]) -> Float32[Tensor, "n d_transcoder"]:
        """The activations of every feature at every token, as a dense array."""
        return activate(torch.addmm(self.b_enc, x, self.W_enc.T), self.activation, self.threshold, self.k)


class Active(NamedTuple):
    """Active features of some tokens, by feature, with positions ascending within a feature."""

    indptr: Int64[np.ndarray, " d_transcoder_plus_1"]
    token: UInt16[np.ndarray, " n"] | UInt32[np.ndarray, " n"]
    value: Float32[np.ndarray, " n"]


Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(position, feature, activation) of active features, positions ascending within a feature."""


def find_active(encoder: Encoder, x: Float32[Tensor, "n d_model"], position: Integer[np.ndarray, " n"]) -> Entries:
    """The active features at some tokens. Memory: a block of products and the result.

    Raises:
        ValueError: an activation is not a finite number.
    """
    if len(x) == 0 or not encoder.d_transcoder:
        return no_entries(position.dtype)
    find = _dense if x.device.type != "cpu" else _greatest if encoder.activation == "topk" else _sparse
    found = list(find(encoder, x, position))
    token, feature, value = (np.concatenate([block[i] for block in found]) for i in range(3))
    if not np.isfinite(value).all():
        raise ValueError("an activation is not a finite number: the model's or transcoder's arithmetic overflows")
    return token, feature, value


def no_entries(dtype: npt.DTypeLike) -> Entries:
    """The entries of a layer in which no feature is active, with positions of the given type."""
    return np.zeros(0, dtype), np.zeros(0, np.int32), np.zeros(0, np.float32)


def gather_active(entries: list[Entries], d_transcoder: int) -> Active:
    """The entries of consecutive tokens, sorted by feature."""
    token, feature, value = (np.concatenate([part[i] for part in entries]) for i in range(3))
    token_out, value_out = np.empty_like(token), np.empty_like(value)
    indptr = by_feature(token, feature, value, d_transcoder, token_out, value_out)
    return Active(indptr, token_out, value_out)


def _sparse(encoder: Encoder, x: Tensor, position: np.ndarray) -> Iterator[Entries]:
    n, screen = encoder.d_transcoder, encoder.screen
    bias, W_enc = encoder.b_enc.numpy(), encoder.W_enc.numpy()
    threshold = np.zeros(n, np.float32) if encoder.threshold is None else encoder.threshold.clamp(min=0).numpy()
    room = TOKENS_PER_PRODUCT * FEATURES_PER_PRODUCT
    out = torch.empty(TOKENS_PER_PRODUCT * min(n, FEATURES_PER_PRODUCT))
    left, right = (x, encoder.W_enc) if screen is None else (x.bfloat16(), screen.W_enc)
    token, feature = np.empty(room, position.dtype), np.empty(room, np.int32)
    value = np.empty(room, np.float32)
    for low in range(0, len(x), TOKENS_PER_PRODUCT):
        tokens = slice(low, min(low + TOKENS_PER_PRODUCT, len(x)))
        at, limit = position[tokens], threshold
        if screen is not None:
            at = np.arange(len(at), dtype=at.dtype)
            limit = threshold - screen.reach * x[tokens].norm(dim=1).max().item()
        for first in range(0, n, FEATURES_PER_PRODUCT):
            part = slice(first, min(first + FEATURES_PER_PRODUCT, n))
            width = part.stop - first
            products = out[: len(at) * width].view(len(at), width)
            if screen is None:
                torch.mm(left[tokens], right[part].T, out=products)
            else:
                products.copy_(torch.mm(left[tokens], right[part].T))
            found = compress(products.numpy(), bias[part], limit[part], at, first, token, feature, value)
            if screen is not None:
                rows = x[tokens].numpy()
                found = rescore(rows, W_enc, bias, threshold, position[tokens], found, token, feature, value)
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
    """The entries are listed on the device and copied to the host together."""

    def listed(part: slice) -> Int32[Tensor, "3 n_active"]:
        a = encoder.encode(x[part])
        token, feature = a.nonzero(as_tuple=True)
        return torch.stack([(token + part.start).int(), feature.int(), a[token, feature].view(torch.int32)])

    at_once = max(1, NUMBERS_ON_GPU // encoder.d_transcoder)
    token, feature, bits = torch.cat(list(each_batch("active features", x.device, len(x), at_once, listed)), 1).cpu()
    yield position[token.numpy()], feature.numpy(), bits.view(torch.float32).numpy()
