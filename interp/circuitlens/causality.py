"""Check by ablation whether the sources of an activation cause it: does it drop without them?"""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from interp.batches import each_batch
from interp.capture import EndOfPass, in_this_thread, on_feature_input, removing
from interp.circuitlens.contributors import Contributors
from interp.circuitlens.kinds import HEAD, KINDS, TOKEN
from interp.circuitlens.linear import LinearModel
from interp.transcoder import Transcoder

N_DRAWS = 4
"""How many times random sources are ablated for comparison."""


class Firing(NamedTuple):
    """One activation: of a feature at the last token of a sequence."""

    layer: int
    feature: int
    tokens: Integer[Tensor, " n_pos"]
    counted: Bool[np.ndarray, " n_pos"]
    """Which positions count (`interp.activations.positions`). Other positions are neither ablated nor part of means:
    attention goes to BOS and to a sequence's first token by default, and ablating these changes everything."""


class Ablations(NamedTuple):
    """Variants of one sequence, each with some tokens or heads ablated."""

    tokens: Bool[Tensor, "variants n_pos"]
    """Source tokens whose values are replaced by the mean value of the sequence, in the attention of all layers."""
    heads: Bool[Tensor, "variants n_layers n_heads"]
    """Heads whose output at the firing token is replaced by their mean over the sequence."""


@torch.no_grad()
def ablated_activations(
    linear: LinearModel,
    transcoder: Transcoder,
    firing: Firing,
    ablations: Ablations,
) -> Float[Tensor, " variants"]:
    """A feature's activation at the last token in each variant, with nothing frozen; a TopK feature is read like
    ReLU."""
    family, n_variants = linear.family, len(ablations.tokens)
    counted = torch.from_numpy(np.flatnonzero(firing.counted)).to(firing.tokens.device)
    seen: list[Tensor] = []

    def with_mean_values(_m: nn.Module, _a: object, output: Tensor) -> Tensor:
        values = _values(linear, output.clone())
        mean = values[0][:, counted].mean(1, keepdim=True)
        silent = ablations.tokens.view(*ablations.tokens.shape, *[1] * (values[0].ndim - 2))
        values[0].copy_(torch.where(silent, mean, values[0]))
        return values[1]

    def with_mean_heads(at: int) -> Callable[..., tuple[Tensor, ...]]:
        def hook(_m: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            mixed = args[0].unflatten(2, (linear.n_heads, -1)).clone()
            mean = mixed[:, counted].mean(1)
            mixed[:, -1] = torch.where(ablations.heads[:, at, :, None], mean, mixed[:, -1])
            return (mixed.flatten(2), *args[1:])

        return hook

    def read(x: Tensor) -> None:
        seen.append(x)
        raise EndOfPass

    handles = []
    for at, block in enumerate(family.block_modules(linear.model)):
        attention = family.module(block, family.attention)
        value, output = family.module(attention, family.value), family.module(attention, family.output)
        handles.append(value.register_forward_hook(in_this_thread(with_mean_values)))
        handles.append(output.register_forward_pre_hook(in_this_thread(with_mean_heads(at))))
        if at == firing.layer:
            handles.append(on_feature_input(family, block, linear.hooks, read))
    with removing(handles), suppress(EndOfPass):
        linear.model(input_ids=firing.tokens.long().expand(n_variants, -1), use_cache=False)
    pre = seen[0][:, -1] @ transcoder.W_enc[firing.feature] + transcoder.b_enc[firing.feature]
    threshold = 0.0 if transcoder.threshold is None else max(0.0, float(transcoder.threshold[firing.feature]))
    return torch.where(pre > threshold, pre, 0)


def _values(linear: LinearModel, output: Tensor) -> tuple[Tensor, Tensor]:
    """The part of a projection's output with the values (variants, n_pos, …), and the whole output, of which it is a
    view."""
    layout = linear.family.layout
    if layout == "qkv":
        n_kv_heads, d_head, _ = linear.attention[0].W_V.shape
        return output[..., -n_kv_heads * d_head :], output
    if layout == "qkv of each head":
        return output.view(*output.shape[:2], linear.n_heads, 3, -1)[:, :, :, 2], output
    return output, output


def attributed_tokens(found: Contributors, others: Bool[np.ndarray, " n_pos"], n: int) -> list[int]:
    """The `n` source tokens that contribute most to one activation, among those that may be ablated."""
    of_token = np.isin(found.kind, [KINDS.index(HEAD), KINDS.index(TOKEN)]) & (found.score > 0)
    totals = np.bincount(found.position[of_token], found.score[of_token], minlength=len(others)) * others
    return [int(at) for at in np.argsort(-totals, kind="stable")[:n] if totals[at] > 0]


def attributed_heads(found: Contributors, n: int) -> list[tuple[int, int]]:
    """The `n` heads, as (layer, head), that contribute most to one activation."""
    of_head = (found.kind == KINDS.index(HEAD)) & (found.score > 0)
    which, place = np.unique(np.stack([found.layer[of_head], found.unit[of_head]], 1), axis=0, return_inverse=True)
    totals = np.bincount(place.ravel(), found.score[of_head], minlength=len(which))
    return [tuple(which[at].tolist()) for at in np.argsort(-totals, kind="stable")[:n]]


class Drops(NamedTuple):
    """The share by which one activation drops when its sources are ablated, and when as many random ones are."""

    tokens: float
    random_tokens: float
    heads: float
    random_heads: float


def causal_drops(
    linear: LinearModel,
    transcoder: Transcoder,
    firing: Firing,
    found: Contributors,
    n: int,
    draw: np.random.Generator,
) -> Drops:
    """Ablate the `n` strongest source tokens and heads of an activation; NaN where there are none.

    The firing token itself is not a source token. As many random sources, other than those found, are drawn `N_DRAWS`
    times.
    """
    layer, tokens = firing.layer, firing.tokens
    others = firing.counted & (np.arange(len(tokens)) < len(tokens) - 1)
    n_layers, n_draws = layer + linear.reads_above + (linear.reads != "block"), N_DRAWS
    sources, heads = attributed_tokens(found, others, n), attributed_heads(found, n)
    other_tokens = np.setdiff1d(np.flatnonzero(others), sources)
    every_head = [(at, head) for at in range(n_layers) for head in range(linear.n_heads)]
    other_heads = np.array([head for head in every_head if head not in heads], dtype=np.int64).reshape(-1, 2)
    if len(other_tokens) < len(sources):
        sources = []
    if len(other_heads) < len(heads):
        heads = []
    n_variants = 3 + 2 * n_draws
    silent_tokens = torch.zeros(n_variants, len(tokens), dtype=torch.bool, device=tokens.device)
    silent_heads = torch.zeros(n_variants, linear.n_layers, linear.n_heads, dtype=torch.bool, device=tokens.device)
    silent_tokens[1, sources] = True
    for at, head in heads:
        silent_heads[2, at, head] = True
    for drawn in range(n_draws):
        silent_tokens[3 + drawn, draw.choice(other_tokens, len(sources), replace=False)] = True
        chosen = other_heads[draw.choice(len(other_heads), len(heads), replace=False)] if heads else other_heads[:0]
        silent_heads[3 + n_draws + drawn, chosen[:, 0], chosen[:, 1]] = True

    def run(part: slice) -> Tensor:
        return ablated_activations(linear, transcoder, firing, Ablations(silent_tokens[part], silent_heads[part]))

    a = torch.cat(list(each_batch("ablations", tokens.device, n_variants, n_variants, run, len(tokens))))
    drop = ((a[0] - a) / a[0]).cpu().double().numpy() if a[0] > 0 else np.full(n_variants, np.nan)
    return Drops(
        tokens=drop[1] if sources else np.nan,
        random_tokens=drop[3 : 3 + n_draws].mean() if sources else np.nan,
        heads=drop[2] if heads else np.nan,
        random_heads=drop[3 + n_draws :].mean() if heads else np.nan,
    )
