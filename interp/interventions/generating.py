"""The text that a changed model writes, and its likelihood with and without the changes."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from interp.capture import last_position_alone
from interp.interventions.changes import Changes
from interp.interventions.equal_prefixes import EqualPrefixes
from interp.interventions.running import Progress, SteerableModel, changing


class Sampling(NamedTuple):
    """How the next token is chosen."""

    temperature: float = 0.0
    """Temperature; 0: always the most probable token."""
    top_p: float = 1.0
    """Nucleus sampling: only the most probable tokens that together have this probability."""
    seed: int = 0
    """Seed of the draw. A row is drawn by (seed, its number) whatever the batch, so that a changed and an unchanged run
    draw the same token where they give the same probabilities."""
    rows: tuple[int, ...] = ()
    """The numbers of the rows; if none are given: 0, 1, …"""


GREEDY = Sampling()


@torch.no_grad()
def continuations(
    steerable: SteerableModel,
    changes: Changes,
    prompts: Integer[Tensor, "batch n_prompt"],
    new_tokens: int,
    sampling: Sampling = GREEDY,
    stop: Sequence[int] = (),
) -> Int64[Tensor, "batch n_new"]:
    """The model's continuations of prompts of equal length under changes: `new_tokens` tokens, or fewer once every row
    has one of the tokens `stop`.

    Memory: the batch's keys and values, and what `changing` takes.
    """
    progress = Progress()
    draws = None if sampling.temperature == 0 else _Draws(len(prompts), sampling, steerable.device)
    tokens, past, written = prompts.long(), None, []
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=steerable.device)
    with ExitStack() as stack:
        stack.enter_context(last_position_alone(steerable.model, steerable.family))
        prefixes = None
        if min(changes.layers, default=0) > 0:
            prefixes = EqualPrefixes(steerable.family.block_modules(steerable.model), min(changes.layers))
            stack.enter_context(prefixes.spread())
        stack.enter_context(changing(steerable, changes, progress))
        for _ in range(new_tokens):
            read = tokens if prefixes is None else prefixes.read(tokens, past)
            result = steerable.model(input_ids=read, past_key_values=past, use_cache=True)
            progress.first += tokens.shape[1]
            logits, past = result.logits, result.past_key_values
            tokens = (logits.argmax(-1) if draws is None else draws.next(logits)).unsqueeze(1)
            written.append(tokens)
            if stop:
                ended |= torch.isin(tokens[:, 0], torch.tensor(stop, device=tokens.device))
                if ended.all():
                    break
    return torch.cat(written, 1)


class _Draws:
    """Draws tokens by adding Gumbel noise to logits, with a generator for each row."""

    def __init__(self, n: int, sampling: Sampling, device: torch.device) -> None:
        self.sampling, self.device = sampling, device
        rows = sampling.rows or range(n)
        seeds = [np.random.SeedSequence([sampling.seed, row]).generate_state(1)[0] for row in rows]
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def next(self, logits: Float[Tensor, "batch d_vocab"]) -> Int64[Tensor, " batch"]:
        scaled = logits.float() / self.sampling.temperature
        if self.sampling.top_p < 1:
            probability, order = scaled.softmax(-1).sort(-1, descending=True)
            beyond = probability.cumsum(-1) - probability >= self.sampling.top_p
            scaled = scaled.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
        uniform = torch.stack([torch.rand(logits.shape[1], generator=one) for one in self.generators])
        return (scaled - (-uniform.clamp(min=1e-20).log()).log().to(self.device)).argmax(-1)


class Likelihoods(NamedTuple):
    """The likelihood of each token of some texts, from the second on (the first has none before it)."""

    plain: Float[Tensor, "batch n_next"]
    """Probabilities of tokens 1, 2, … without changes."""
    changed: Float[Tensor, "batch n_next"]
    """The same with changes."""
    kl: Float[Tensor, "batch n_next"]
    """KL divergence of the next-token distribution with changes from that without, in nats."""


@torch.no_grad()
def likelihoods(steerable: SteerableModel, changes: Changes, texts: Integer[Tensor, "batch n_pos"]) -> Likelihoods:
    """Compute the likelihoods of texts with and without changes. Memory: twice batch · n_pos · d_vocab numbers."""
    texts = texts.long()
    plain = steerable.model(input_ids=texts, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    with changing(steerable, changes):
        changed = steerable.model(input_ids=texts, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    kl = divergence(changed, plain)
    next_ = texts[:, 1:, None]
    return Likelihoods(plain.gather(2, next_).squeeze(2).exp(), changed.gather(2, next_).squeeze(2).exp(), kl)


def divergence(p: Float[Tensor, "*n d_vocab"], q: Float[Tensor, "*n d_vocab"]) -> Float[Tensor, "*n"]:
    """KL(p ‖ q) of log probabilities, in nats; clipped at 0 against rounding."""
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)
