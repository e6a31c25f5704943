"""Validation as in the authors' code, which reads a description as one sequence (`compat: authors`).

A token that fires a feature alone may not do so among others, and the other way round. These results are only meant for
comparison with results of that code.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.capture import HookedModel, Hooks, capture
from interp.families import Family
from interp.transcoder import Transcoder

TOKENS_PER_FORWARD = 4096


@torch.no_grad()
def sequence_inputs(
    model: nn.Module, family: Family, hooks: Hooks, layer: int, sequences: Sequence[Sequence[int]], bos: int | None
) -> list[Float[Tensor, "n_tokens d_model"]]:
    """The transcoder input of `layer` at every token of each sequence, without BOS.

    Sequences are padded on the right to batches of `TOKENS_PER_FORWARD` tokens; causal attention does not see the
    padding.

    Raises:
        ValueError: a sequence is longer than the model's context.
    """
    head = [] if bos is None else [bos]
    n_pos = getattr(model.config, "max_position_embeddings", None)
    longest = max((len(sequence) + len(head) for sequence in sequences), default=0)
    if n_pos is not None and longest > n_pos:
        raise ValueError(
            f"compat authors: a description has {longest} tokens, which the model's context of {n_pos} cannot hold; "
            "raise weightlens.z_tokens, or leave compat out"
        )
    found: list[Tensor] = [torch.empty(0)] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda at: len(sequences[at]))
    for batch in _batches(order, [len(sequence) + len(head) for sequence in sequences]):
        ids = torch.zeros(len(batch), max(len(sequences[at]) for at in batch) + len(head), dtype=torch.long)
        for row, at in enumerate(batch):
            ids[row, : len(sequences[at]) + len(head)] = torch.tensor([*head, *sequences[at]])
        x = capture(HookedModel(model, family, hooks), ids, [layer])[layer].x
        for row, at in enumerate(batch):
            found[at] = x[row, len(head) : len(head) + len(sequences[at])].clone()
    return found


def _batches(order: list[int], lengths: list[int]) -> list[list[int]]:
    """Sequences, shortest first, in batches of at most `TOKENS_PER_FORWARD` tokens with padding."""
    batches: list[list[int]] = []
    for at in order:
        if not batches or (len(batches[-1]) + 1) * lengths[at] > TOKENS_PER_FORWARD:
            batches.append([])
        batches[-1].append(at)
    return batches


def firing(
    transcoder: Transcoder, x: Float[Tensor, "n_tokens d_model"], features: Sequence[int]
) -> Float[Tensor, "n_tokens features"]:
    """Activations of some features at every token of a sequence."""
    return transcoder.encode(x)[:, list(features)]
