"""Necessity and sufficiency of groups of features, measured in the model, and compared with groups of equal size.

Necessity is the share of the target that is lost when a group is switched off, sufficiency the share that is left when
all other features of all layers are held at their means over a corpus, at every position.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.capture import on_feature_input, on_feature_output, removing
from interp.circuitlens.supernodes import Supernode, SupernodeSettings
from interp.interventions.changes import Changes
from interp.interventions.effects import in_rows, interventions_at_once, switched_off
from interp.interventions.measured import measured
from interp.interventions.running import Subject
from interp.interventions.validation import Ablated
from interp.transcoder import Transcoder

Means = Callable[[int], Float[Tensor, " d_transcoder"]]
"""Means of a layer's features over all tokens of a corpus."""


class Shares(NamedTuple):
    """Necessity and sufficiency of a group, or their means over some groups."""

    necessity: float
    """The share of the target that is lost when the group is switched off."""
    sufficiency: float
    """The share that is left when all other features are held at their means."""


class Tested(NamedTuple):
    """A supernode, and groups with the same number of nodes for comparison."""

    group: Shares
    random: Shares
    """Groups drawn from the nodes that the graph keeps, the mean over draws."""
    layer: Shares
    """The strongest nodes of the layer with most of its members, then of neighbouring layers."""
    top: Shares
    """The strongest nodes of the graph."""


class GroupTests(NamedTuple):
    """Results of testing supernodes."""

    each: tuple[Tested, ...]
    """The tested groups in the order of the supernodes."""
    together: Tested | None
    """All of these as one group; None: there are none."""
    target: float
    """The targets' value in the unchanged model, by their weights."""
    nothing: float
    """The share of it that is left when every feature is held at its mean."""


def group_tests(
    of: Ablated, groups: Sequence[Supernode], means: Means, settings: SupernodeSettings
) -> GroupTests | None:
    """Test the first groups; None where the target's value is 0, so that shares of it are undefined.

    Memory: what `keeping` takes for the rows that are computed together.
    """
    chosen = groups[: settings.tested]
    sets = [list(group.nodes) for group in chosen]
    everything = [node for members in sets for node in members]
    kept = of.strongest(of.graph.n_features).tolist()
    generator = np.random.default_rng(settings.seed)
    every: list[list[int]] = []
    for members in [*sets, everything]:
        n = len(members)
        every += [members, _of_layer(of, members, kept), kept[:n]]
        every += [generator.choice(kept, n, replace=False).tolist() for _ in range(settings.draws)]
    value, off, stay = _values(of, [*every, []], means)
    if not value:
        return None
    shares = [Shares(1 - gone / value, left / value) for gone, left in zip(off, stay, strict=True)]
    step = 3 + settings.draws
    found = [_tested(shares[at : at + step]) for at in range(0, len(every), step)]
    return GroupTests(tuple(found[:-1]), found[-1] if sets else None, value, shares[-1].sufficiency)


def _tested(shares: Sequence[Shares]) -> Tested:
    group, layer, top, *random = shares
    return Tested(group, Shares(*np.mean(random, axis=0).tolist()), layer, top)


def _of_layer(of: Ablated, members: Sequence[int], kept: Sequence[int]) -> list[int]:
    layers, counts = np.unique(of.graph.layer[list(members)], return_counts=True) if members else ([0], [1])
    most = int(layers[int(np.argmax(counts))])
    return sorted(kept, key=lambda node: abs(int(of.graph.layer[node]) - most))[: len(members)]


def _values(of: Ablated, groups: Sequence[Sequence[int]], means: Means) -> tuple[float, list[float], list[float]]:
    """The targets' value in the unchanged model, with each group switched off, and with all but the group at their
    means."""
    tokens, readings = of.rest.frozen.tokens, of.readings
    value = float(measured(of.subject, tokens, Changes(), 1, readings).readings[0] @ of.weight)
    places = [[of.place(node) for node in group] for group in groups]
    off: list[float] = []
    stay: list[float] = []
    n_pos, d_model = of.rest.frozen.embedding.shape
    d_widest = max(d_model, of.rest.transcoder(0).W_enc.shape[0])
    at_once = interventions_at_once(n_pos, d_widest)
    for start in range(0, len(places), at_once):
        some = places[start : start + at_once]
        rows = in_rows([switched_off(group) for group in some])
        off += (measured(of.subject, tokens, rows, len(some), readings).readings @ of.weight).tolist()
        with keeping(of.subject, some, means):
            stay += (measured(of.subject, tokens, Changes(), len(some), readings).readings @ of.weight).tolist()
    return value, off, stay


@contextmanager
def keeping(subject: Subject, kept: Sequence[Sequence[tuple[int, int, int]]], means: Means) -> Iterator[None]:
    """A context in which every feature is held at its mean, except for those kept in a row: (layer, feature, position).

    Memory: twice n_rows · n_pos · d_transcoder numbers of one layer, of all layers where transcoders are cross-layer.
    """
    blocks = subject.family.block_modules(subject.model)
    handles: list[RemovableHandle] = []
    for layer in range(len(blocks)):
        mine = [
            (row, position, feature) for row, group in enumerate(kept) for at, feature, position in group if at == layer
        ]
        handles += _held(subject, blocks[layer:], subject.transcoder(layer), means(layer), mine)
    with removing(handles):
        yield


def _held(
    subject: Subject,
    blocks: list[nn.Module],
    coder: Transcoder,
    mean: Float[Tensor, " d_transcoder"],
    kept: Sequence[tuple[int, int, int]],
) -> Iterator[RemovableHandle]:
    moved: list[Tensor] = []
    rows, positions, features = torch.tensor(kept, dtype=torch.long).reshape(-1, 3).unbind(1)

    def measure(x: Tensor) -> None:
        change = mean - coder.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        change[rows, positions, features] = 0
        moved[:] = [change]

    def adding(W_dec: Float[Tensor, "d_transcoder d_model"]) -> Callable[[Tensor], Tensor]:
        return lambda output: output + (moved[0] @ W_dec).to(output.dtype)

    yield on_feature_input(subject.family, blocks[0], subject.hooks, measure)
    later = [] if coder.W_dec_later is None else list(coder.W_dec_later.unbind(1))
    for block, W_dec in zip(blocks, [coder.W_dec, *later], strict=False):
        yield on_feature_output(subject.family, block, subject.hooks, adding(W_dec))
