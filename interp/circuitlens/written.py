"""The features active on a sequence and what they write, as indices into decoder rows, so that no row is copied for a
token."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from interp.activations.encoding import Encoder, find_active
from interp.circuitlens.rows import Rows, loops
from interp.kernels import attribution as kernels
from interp.transcoder import Transcoder

TOKENS_ENCODED = 256
"""Dense rows of activations in memory at a time."""


class Active(NamedTuple):
    """The active features of one layer on a sequence, by position, then feature."""

    feature: Int64[Tensor, " n_active"]
    position: Int64[Tensor, " n_active"]
    activation: Float[Tensor, " n_active"]
    first: list[int]
    """Index at which each position's features begin, with one more entry at the end."""


class Written(NamedTuple):
    """What the features of an `Active` write to one layer's MLP output, in the same order."""

    rows: Float[Tensor, "n_rows d_model"]
    """Decoder rows, of some features or of all."""
    place: Int64[Tensor, " n_active"]
    """The index of each feature's row."""
    scale: Float[Tensor, " n_active"]
    """The factor of each row: the activation, times 1 over the scale of the norm through which it is written."""
    weight: Float[Tensor, " d_model"] | None
    """The weight of that norm, which each row is multiplied by; None where there is no norm."""

    def at(self, index: Int64[Tensor, " n"] | slice) -> Float[Tensor, "n d_model"]:
        """What some of the features write."""
        written = self.rows[self.place[index]] * self.scale[index, None]
        return written if self.weight is None else written * self.weight


def active_features(coder: Transcoder, x: Float[Tensor, "n_pos d_model"]) -> Active:
    """The active features of a layer at each position of its input. Memory: some hundred dense rows."""
    if x.device.type == "cpu":
        encoder = Encoder(coder.W_enc, coder.b_enc, coder.activation, coder.threshold, coder.k)
        position, feature, value = find_active(encoder, x, np.arange(len(x), dtype=np.uint32))
        order = np.lexsort((feature, position))
        columns = (column[order] for column in (feature.astype(np.int64), position.astype(np.int64), value))
        feature, position, value = (torch.from_numpy(column) for column in columns)
    else:
        found, values = [], []
        for start in range(0, max(1, len(x)), TOKENS_ENCODED):  # of no positions too, for their shapes
            a = coder.encode(x[start : start + TOKENS_ENCODED])
            at = a.nonzero()
            values.append(a[at[:, 0], at[:, 1]])
            found.append(at + torch.tensor([start, 0], device=x.device))
        where = torch.cat(found)
        feature, position, value = where[:, 1].contiguous(), where[:, 0].contiguous(), torch.cat(values)
    first = torch.searchsorted(position, torch.arange(len(x) + 1, device=x.device))
    return Active(feature, position, value, first.tolist())


def decoders(
    active: Active, W: Float[Tensor, "d_transcoder d_model"], *, whole: bool
) -> tuple[Float[Tensor, "n_rows d_model"], Int64[Tensor, " n_active"]]:
    """Decoder rows in float32, and the row of each active feature. `whole` refers to all of W without a copy."""
    if whole and W.dtype == torch.float32 and W.is_contiguous():
        return W, active.feature
    feature, place = torch.unique(active.feature, return_inverse=True)
    return W[feature].float(), place


def add_written(written: Written, position: Int64[Tensor, " n_active"], out: Float[Tensor, "n_pos d_model"]) -> None:
    """Add to `out` what all features write, without the norm's weight."""
    if out.device.type == "cpu":
        columns = (written.rows, written.place, written.scale, position, out)
        kernels.write(*(column.numpy() for column in columns))
        return
    out.index_add_(0, position, written.rows[written.place] * written.scale[:, None])


def read_written(
    written: Written, active: Active, rows: Rows, out: Float[Tensor, "n_active n_targets_or_more"]
) -> None:
    """Add to `out` what each feature writes, without the norm's weight, times the targets' gradients at its token."""
    if loops(rows.g.device):
        place, scale, position = written.place.numpy(), written.scale.numpy(), active.position.numpy()
        kernels.read(written.rows.numpy(), place, scale, position, rows.g.numpy(), rows.first, out.numpy())
        return
    g, k = rows.cube(), rows.n_targets
    for position in range(g.shape[1]):
        here = slice(active.first[position], active.first[position + 1])
        out[here, :k] += (written.rows[written.place[here]] @ g[:, position].T) * written.scale[here, None]
