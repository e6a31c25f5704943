"""The gradients of several targets of one sequence, in rows: one for each token that a target can read.

A processor gets the rows of each target up to its own token, those of one target after those of the other: nothing is
computed for tokens after it, and products have the rows of all targets at once. Other devices get as many rows for each
target as the last one has, so that one operation serves them all.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from interp.kernels import attribution as kernels
from interp.kernels.attribution import SOURCES


def loops(device: torch.device) -> bool:
    """Whether compiled loops read gradients there, for which targets may have different numbers of rows."""
    return device.type == "cpu"


class Rows(NamedTuple):
    """Gradients of the first targets of a batch with respect to the residual stream at each of their tokens."""

    g: Float[Tensor, "n_rows d_model"]
    first: Int64[np.ndarray, " n_firsts"]
    """Index of the first row of each target, with one more entry at the end."""

    @property
    def n_targets(self) -> int:
        """Number of targets with rows."""
        return len(self.first) - 1

    def of(self, stop: int, start: int = 0) -> "Rows":
        """Those of some of the targets; the same memory."""
        begin, end = self.first[start], self.first[stop]
        return Rows(self.g[begin:end], self.first[start : stop + 1] - begin)

    def token(self) -> Int64[Tensor, " n_rows"]:
        """The token of each row."""
        n = np.diff(self.first)
        return torch.from_numpy(np.arange(len(self.g)) - np.repeat(self.first[:-1], n)).to(self.g.device)

    def target(self) -> Int64[Tensor, " n_rows"]:
        """The target of each row."""
        return torch.from_numpy(np.repeat(np.arange(self.n_targets), np.diff(self.first))).to(self.g.device)

    def cube(self) -> Float[Tensor, "n_targets n_pos d_model"]:
        """The same, where all targets have equally many rows."""
        return self.g.view(self.n_targets, len(self.g) // max(1, self.n_targets), self.g.shape[1])

    def dense(self, n_pos: int) -> Float[Tensor, "n_pos n_targets d_model"]:
        """A copy by token and target, with zeros after each target's token."""
        out = self.g.new_zeros(n_pos, self.n_targets, self.g.shape[1])
        out[self.token(), self.target()] = self.g
        return out


def n_rows(position: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Number of rows of the first one, two, … targets at these tokens, which ascend."""
    if loops(position.device):
        return (position + 1).cumsum(0)
    return (position + 1) * torch.arange(1, len(position) + 1, device=position.device)


def zero_rows(position: Int64[Tensor, " n"], like: Float[Tensor, "n d_model"]) -> Rows:
    """Rows of zeros for targets at these tokens."""
    n_pos = position.cpu().numpy() + 1
    if not loops(position.device):
        n_pos = np.full_like(n_pos, n_pos.max())
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_pos)])
    return Rows(like.new_zeros(int(first[-1]), like.shape[1]), first)


def read_tokens(
    vectors: Float[Tensor, "n_pos d_model"], rows: Rows, out: Float[Tensor, "n_read n_targets_or_more"]
) -> None:
    """Write to `out` the product of a vector of each token with each target's gradient there."""
    if loops(rows.g.device):
        kernels.read_tokens(vectors.numpy(), rows.g.numpy(), rows.first, out.numpy())
        return
    out[:, : rows.n_targets] = torch.einsum("ksd,sd->sk", rows.cube(), vectors[: len(out)])


def add_tokens(vectors: Float[Tensor, "n_pos d_model"], rows: Rows, out: Float[Tensor, " n_targets_or_more"]) -> None:
    """Add to `out` the same products, summed over tokens."""
    if loops(rows.g.device):
        kernels.add_tokens(vectors.numpy(), rows.g.numpy(), rows.first, out.numpy())
        return
    g = rows.cube()
    out[: rows.n_targets] += torch.einsum("ksd,sd->k", g, vectors[: g.shape[1]])


def mixed(
    pattern: Float[Tensor, "n_heads n_pos n_pos"], u: Float[Tensor, "n_rows d_mixed"], rows: Rows, n_kv_heads: int
) -> Float[Tensor, "n_rows d_values"]:
    """The gradient at each source token: what targets read from every head's output at each query, carried through the
    frozen patterns. Heads that share values are summed."""
    n_heads = len(pattern)
    if not loops(rows.g.device):
        return mixed_by_products(pattern.to(u.dtype), u.view(*rows.cube().shape[:2], u.shape[1]), n_kv_heads)
    z = torch.empty(len(u) + SOURCES, u.shape[1] // n_heads * n_kv_heads)
    kernels.mix(pattern.numpy(), u.float().numpy(), rows.first, z.numpy())
    return z[: len(u)]


def mixed_by_products(
    pattern: Float[Tensor, "n_heads n_pos n_pos"], u: Float[Tensor, "n_targets n_read d_mixed"], n_kv_heads: int
) -> Float[Tensor, "n_rows d_values"]:
    """The same by one product a head, of as many queries for each target."""
    k, n_pos, width = u.shape
    n_heads, d_head = len(pattern), width // len(pattern)
    by_head = u.view(k, n_pos, n_heads, d_head).permute(2, 1, 0, 3).reshape(n_heads, n_pos, k * d_head)
    z = torch.bmm(pattern[:, :n_pos, :n_pos].transpose(1, 2), by_head).view(n_heads, n_pos, k, d_head)
    if n_kv_heads < n_heads:
        z = z.unflatten(0, (n_kv_heads, -1)).sum(1)
    return z.permute(2, 1, 0, 3).reshape(k * n_pos, n_kv_heads * d_head)


def add_heads(
    pattern: Float[Tensor, "n_heads n_pos n_pos"],
    v: Float[Tensor, "n_targets n_heads d_model"],
    position: Int64[Tensor, " n_targets"],
    rows: Rows,
) -> None:
    """Add to the gradients at every token what each head brings of it to the target's own token."""
    if loops(rows.g.device):
        kernels.add_heads(pattern.numpy(), v.contiguous().numpy(), position.numpy(), rows.g.numpy(), rows.first)
        return
    g = rows.cube()
    g.baddbmm_(pattern[:, position, : g.shape[1]].permute(1, 2, 0), v)
