"""How much a description raises the likelihood of a text under a language model.

After the surprisal score of Paulo et al. (2024, arXiv 2410.13928).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from interp.batches import each_batch

TEXTS_AT_ONCE = 32

BEFORE = "The following text is about {}:\n\n"
"""The sentence before a text, with the description in it."""

NOTHING = "something"
"""The text in place of the description, for comparison."""

MAX_DESCRIPTION_TOKENS = 96


def gains(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, description: str, texts: Sequence[str]
) -> Float[np.ndarray, " n"]:
    """By how much a description before each text raises its likelihood, compared with `NOTHING`, in nats a token.

    Memory: the logits of `TEXTS_AT_ONCE` texts; fewer on a GPU without room for them.
    """
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    longest = MAX_DESCRIPTION_TOKENS + max(map(len, rows), default=0)

    def gained(part: slice) -> Float[np.ndarray, " n"]:
        with_it, without = (
            _log_likelihoods(model, _before(tokenizer, about), rows[part]) for about in (description, NOTHING)
        )
        return (with_it - without).numpy()

    device = next(model.parameters()).device
    found = each_batch("texts and descriptions", device, len(rows), TEXTS_AT_ONCE, gained, longest)
    return np.concatenate([np.zeros(0, np.float32), *found])


def _before(tokenizer: PreTrainedTokenizerBase, about: str) -> list[int]:
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    cut = tokenizer(about, add_special_tokens=False)["input_ids"][:MAX_DESCRIPTION_TOKENS]
    return bos + tokenizer(BEFORE.format(tokenizer.decode(cut)), add_special_tokens=False)["input_ids"]


@torch.no_grad()
def _log_likelihoods(model: nn.Module, before: list[int], rows: Sequence[list[int]]) -> Float[Tensor, " n"]:
    """Mean log-likelihood of the tokens of each row after the same beginning; 0 for an empty row."""
    width = max((len(row) for row in rows), default=0)
    if not width:
        return torch.zeros(len(rows))
    device = next(model.parameters()).device
    tokens = torch.tensor([before + row + [0] * (width - len(row)) for row in rows], device=device)
    logits = model(input_ids=tokens, use_cache=False).logits[:, len(before) - 1 : -1].float()
    said = logits.log_softmax(-1).gather(2, tokens[:, len(before) :, None])[..., 0]
    real = torch.tensor([[at < len(row) for at in range(width)] for row in rows], device=device)
    return ((said * real).sum(1) / real.sum(1).clamp(min=1)).cpu()
