"""Readings that measure the effect of an intervention: features and logits at positions of one prompt."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuitlens.attribution import Targets, feature_targets, logit_targets
from interp.circuitlens.frozen import Frozen
from interp.circuitlens.linear import LinearModel
from interp.transcoder import Transcoder


class FeatureReading(NamedTuple):
    """A feature's pre-activation at a position."""

    layer: int
    feature: int
    position: int


class LogitReading(NamedTuple):
    """The output of the final norm at a position, times a direction; a soft cap on logits is left out.

    A row of the unembedding as the direction gives a logit; minus the mean of all rows, it gives the part that
    probabilities depend on; the difference of two rows gives the difference of two logits.
    """

    direction: Float[Tensor, " d_model"]
    position: int


Reading = FeatureReading | LogitReading


def targets_of(
    linear: LinearModel, frozen: Frozen, transcoder: Callable[[int], Transcoder], readings: Sequence[Reading]
) -> Targets:
    """The same readings as targets in a frozen model, in their order."""
    parts = []
    for one in readings:
        position = torch.tensor([one.position], device=frozen.embedding.device)
        if isinstance(one, FeatureReading):
            feature = torch.tensor([one.feature], device=position.device)
            parts.append(feature_targets(linear, frozen, one.layer, transcoder(one.layer), feature, position))
        else:
            parts.append(logit_targets(linear, frozen, one.direction[None], position))
    return Targets(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
