"""Fake features: directions without a meaning, judged among real features to measure false positives.

A judge that accepts descriptions of fake features accepts too much. After the fake neurons of ModelMapper.
"""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Kind = Literal["random", "permuted", "recombined"]
"""random: random directions; permuted: the entries of an encoder row and of a decoder row in a random order;
recombined: an encoder row with another feature's decoder row."""

KINDS: tuple[Kind, ...] = get_args(Kind)


class Decoys(NamedTuple):
    """Some fake features, each with the norms of a real one."""

    W_enc: Float[Tensor, "n d_model"]
    W_dec: Float[Tensor, "n d_model"]
    kind: list[Kind]
    source: Int64[Tensor, " n"]
    """The real feature whose encoder row, norms and density each fake feature has."""
    decoder: Int64[Tensor, " n"]
    """The real feature whose decoder row it has; the same as `source` except for `recombined`."""


def make_decoys(
    W_enc: Float[Tensor, "d_transcoder d_model"],
    W_dec: Float[Tensor, "d_transcoder d_model"],
    among: Int64[Tensor, " alive"],
    n: int,
    seed: int,
) -> Decoys:
    """Fake features modelled on some of `among`, with the three kinds in turn.

    Raises:
        ValueError: there is no feature to model them on, or no other in its layer.
    """
    if not len(among) or len(W_dec) < 2:
        raise ValueError(f"decoys: expected two features or more in a layer, found {len(W_dec)}")
    random = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(among), generator=random) for _ in range(n // len(among) + 2)])
    source, decoder = among[order[:n]], among[order[:n]].clone()
    kind: list[Kind] = [KINDS[at % len(KINDS)] for at in range(n)]
    encoders, decoders = W_enc[source].clone(), W_dec[source].clone()
    for at, of in enumerate(kind):
        if of == "random":
            for rows in (encoders, decoders):
                direction = torch.randn(rows.shape[1], generator=random)
                rows[at] = direction / direction.norm() * rows[at].norm()
        elif of == "permuted":
            for rows in (encoders, decoders):
                rows[at] = rows[at, torch.randperm(rows.shape[1], generator=random)]
        else:
            step = 1 + int(torch.randint(len(W_dec) - 1, (1,), generator=random))
            decoder[at] = (source[at] + step) % len(W_dec)
            decoders[at] = W_dec[decoder[at]]
    return Decoys(encoders, decoders, kind, source, decoder)


def biases_for(pre: Float[Tensor, "tokens n"], density: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Biases with which each fake feature is active at the given share of tokens, and at least at one. `pre` are the
    products of its encoder row with the inputs."""
    n_active = (density * len(pre)).round().long().clamp(1, len(pre) - 1)
    ordered = pre.sort(0, descending=True).values
    columns = torch.arange(pre.shape[1])
    between = (ordered[n_active - 1, columns] + ordered[n_active, columns]) / 2
    return -between
