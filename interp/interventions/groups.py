"""Necessity and sufficiency of groups of features, measured in the model, and compared with groups of equal size.

Necessity is the share of the target that is lost when a group is switched off. Sufficiency is measured with a
counterfactual prompt of equal length, on which the target has another value: on that prompt, the group's features are
given the activations that they have on the graph's prompt, and sufficiency is the share of the difference that this
restores. Without a counterfactual prompt, it is the share of the target that is left when all other features of all
layers are held at their means over a corpus, at every position.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.batches import each_batch
from interp.capture import on_feature_input, on_feature_output, removing
from interp.circuitlens.supernodes import Supernode, SupernodeSettings, effects_on_targets
from interp.interventions.changes import Changes, FeatureChange
from interp.interventions.effects import in_rows, interventions_at_once, switched_off
from interp.interventions.measured import measured
from interp.interventions.running import SteerableModel
from interp.interventions.validation import Ablated
from interp.transcoder import Transcoder

Means = Callable[[int], Float[Tensor, " d_transcoder"]]
"""Means of a layer's features over all tokens of a corpus."""

Others = Means | Int64[Tensor, " n_pos"]
"""What a group's sufficiency is measured with: the means of all other features, or the tokens of a counterfactual
prompt."""


class Shares(NamedTuple):
    """Necessity and sufficiency of a group, or their means over some groups."""

    necessity: float
    """The share of the target that is lost when the group is switched off."""
    sufficiency: float
    """The share of the difference from the counterfactual prompt that its features restore there; without such a
    prompt, the share of the target that is left when all other features are held at their means."""


class Tested(NamedTuple):
    """A supernode, and groups with the same number of nodes for comparison."""

    group: Shares
    random: Shares
    """Groups drawn from the nodes that the graph keeps, the mean over draws."""
    layer: Shares
    """The strongest nodes of the layer with most of its members, then of neighbouring layers."""
    top: Shares
    """The strongest nodes of the graph, by their influence."""
    effect: Shares
    """The nodes that raise the targets' value most, as the graph predicts it."""


class GroupTests(NamedTuple):
    """Results of testing supernodes."""

    each: Mapping[int, Tested]
    """The tested groups by their number among the supernodes."""
    together: Tested | None
    """All of these as one group; None: there are none."""
    target: float
    """The targets' value in the unchanged model, by their weights."""
    nothing: float
    """The sufficiency of no features at all: 0 if it is measured with a counterfactual prompt."""
    counterfactual: float | None
    """The targets' value on the counterfactual prompt; None: there is none."""


def group_tests(
    of: Ablated, groups: Sequence[Supernode], others: Others, settings: SupernodeSettings
) -> GroupTests | None:
    """Test the groups with the largest effect among those that raise the targets' value.

    None where shares are undefined: the targets' value is 0, or the same on the counterfactual prompt. Memory: what
    `keeping` takes for the rows that are computed together.
    """
    value = _value(of, of.rest.frozen.tokens)
    base = _value(of, others) if isinstance(others, Tensor) else 0.0
    if not value or value == base:
        return None
    sign = 1 if value > 0 else -1
    chosen = [at for at, group in enumerate(groups) if group.effect * sign > 0][: settings.tested]
    sets = [list(groups[at].nodes) for at in chosen]
    everything = [node for members in sets for node in members]
    kept = of.strongest(of.graph.n_features).tolist()
    effect = effects_on_targets(of.graph) * sign
    by_effect = sorted(kept, key=lambda node: -float(effect[node]))
    generator = np.random.default_rng(settings.seed)
    every: list[list[int]] = []
    for members in [*sets, everything]:
        n = len(members)
        every += [members, _of_layer(of, members, kept), kept[:n], by_effect[:n]]
        every += [generator.choice(kept, n, replace=False).tolist() for _ in range(settings.draws)]
    off, alone = _values(of, [*every, []], others)
    shares = [Shares(1 - gone / value, (left - base) / (value - base)) for gone, left in zip(off, alone, strict=True)]
    step = 4 + settings.draws
    found = [_tested(shares[at : at + step]) for at in range(0, len(every), step)]
    return GroupTests(
        each=dict(zip(chosen, found[:-1], strict=True)),
        together=found[-1] if sets else None,
        target=value,
        nothing=shares[-1].sufficiency,
        counterfactual=base if isinstance(others, Tensor) else None,
    )


def _tested(shares: Sequence[Shares]) -> Tested:
    group, layer, top, effect, *random = shares
    return Tested(group, Shares(*np.mean(random, axis=0).tolist()), layer, top, effect)


def _of_layer(of: Ablated, members: Sequence[int], kept: Sequence[int]) -> list[int]:
    layers, counts = np.unique(of.graph.layer[list(members)], return_counts=True) if members else ([0], [1])
    most = int(layers[int(np.argmax(counts))])
    return sorted(kept, key=lambda node: abs(int(of.graph.layer[node]) - most))[: len(members)]


def _value(of: Ablated, tokens: Int64[Tensor, " n_pos"]) -> float:
    return float(measured(of.steerable, tokens, Changes(), 1, of.readings).readings[0] @ of.weight)


def _values(of: Ablated, groups: Sequence[Sequence[int]], others: Others) -> tuple[list[float], list[float]]:
    """The targets' value with each group switched off, and with each group alone."""
    tokens = of.rest.frozen.tokens
    places = [[of.place(node) for node in group] for group in groups]
    off: list[float] = []
    alone: list[float] = []
    n_pos, d_model = of.rest.frozen.embedding.shape
    d_widest = max(d_model, of.rest.transcoder(0).W_enc.shape[0])

    def run(part: slice) -> tuple[list[float], list[float]]:
        gone = _in_rows(of, tokens, [switched_off(group) for group in places[part]])
        if isinstance(others, Tensor):
            return gone, _in_rows(of, others, [_as_in_graph(of, group) for group in groups[part]])
        with keeping(of.steerable, places[part], others):
            return gone, _in_rows(of, tokens, [Changes() for _ in places[part]])

    at_once = interventions_at_once(n_pos, d_widest)
    for gone, left in each_batch("supernodes", tokens.device, len(places), at_once, run, n_pos):
        off += gone
        alone += left
    return off, alone


def _in_rows(of: Ablated, tokens: Int64[Tensor, " n_pos"], changes: Sequence[Changes]) -> list[float]:
    found = measured(of.steerable, tokens, in_rows(changes), len(changes), of.readings)
    return (found.readings @ of.weight).tolist()


def _as_in_graph(of: Ablated, nodes: Sequence[int]) -> Changes:
    """Features held at the activations that they have in the graph."""
    changes: list[FeatureChange] = []
    for node in nodes:
        layer, feature, position = of.place(node)
        here = FeatureChange(0, layer, feature, start=position, stop=position + 1)
        changes.append(here.held_at(float(of.graph.activation[node])))
    return Changes(changes)


@contextmanager
def keeping(steerable: SteerableModel, kept: Sequence[Sequence[tuple[int, int, int]]], means: Means) -> Iterator[None]:
    """A context in which every feature is held at its mean, except for those kept in a row: (layer, feature, position).

    Memory: twice n_rows · n_pos · d_transcoder numbers of one layer, of all layers where transcoders are cross-layer.
    """
    blocks = steerable.family.block_modules(steerable.model)
    handles: list[RemovableHandle] = []
    for layer in range(len(blocks)):
        mine = [
            (row, position, feature) for row, group in enumerate(kept) for at, feature, position in group if at == layer
        ]
        handles += _held(steerable, blocks[layer:], steerable.transcoder(layer), means(layer), mine)
    with removing(handles):
        yield


def _held(
    steerable: SteerableModel,
    blocks: list[nn.Module],
    coder: Transcoder,
    mean: Float[Tensor, " d_transcoder"],
    kept: Sequence[tuple[int, int, int]],
) -> Iterator[RemovableHandle]:
    moved: list[Tensor] = []
    where = torch.tensor(kept, dtype=torch.long, device=steerable.device).reshape(-1, 3).unbind(1)

    def measure(x: Tensor) -> None:
        change = mean - coder.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        change[where] = 0
        moved[:] = [change]

    def adding(W_dec: Float[Tensor, "d_transcoder d_model"]) -> Callable[[Tensor], Tensor]:
        return lambda output: output + (moved[0] @ W_dec).to(output.dtype)

    yield on_feature_input(steerable.family, blocks[0], steerable.hooks, measure)
    later = [] if coder.W_dec_later is None else list(coder.W_dec_later.unbind(1))
    for block, W_dec in zip(blocks, [coder.W_dec, *later], strict=False):
        yield on_feature_output(steerable.family, block, steerable.hooks, adding(W_dec))
