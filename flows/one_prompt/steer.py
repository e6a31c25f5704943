"""Continuations of prompts by a model with features changed, and without."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flows.one_prompt.asked import Asked, Given, changes_of, check_asked, maxima_of, steerable_of
from flows.one_prompt.opened import Opened, Prompt
from interp.interventions.changes import Changes
from interp.interventions.generating import Sampling, continuations, likelihoods

ROWS = 16
"""Prompts of equal length in a batch."""


class Generation(NamedTuple):
    """The length of the continuation, and how the next token is chosen."""

    new_tokens: int = 40
    temperature: float = 0.0
    """Temperature; 0: always the most probable token."""
    top_p: float = 1.0
    """Nucleus sampling: only the most probable tokens that together have this probability."""
    seed: int = 0
    """Seed of the draw; the result does not depend on which prompts are given together."""


class WrittenToken(NamedTuple):
    """A generated token, with its probability in the unchanged and in the steered model."""

    token: str
    probability: float
    steered_probability: float


class Written(NamedTuple):
    """The continuation of a prompt."""

    text: str
    tokens: list[WrittenToken]


class Steered(NamedTuple):
    """A prompt with its continuations by the unchanged and by the steered model."""

    prompt: str
    tokens: list[str]
    """The prompt as the model reads it."""
    original: Written
    steered: Written
    kl_next: float
    """KL divergence of the steered model's next-token distribution after the prompt from the unchanged model's, in
    nats."""
    kl_mean: float
    """The mean of this divergence over the tokens of the unchanged model's text."""
    said: list[str]
    """What was done to the prompt that may be unexpected."""


def steer(
    opened: Opened, prompts: Sequence[str], asked: Sequence[Asked], how: Generation | None = None, *, chat: bool = False
) -> list[Steered]:
    """Continue prompts with features changed and without.

    Raises:
        ValueError: a prompt is empty or too long, a feature, layer or position does not exist, or a setting is
            out of range.
    """
    how = how or Generation()
    read = _read(opened, prompts, asked, how, chat)
    maxima = maxima_of(opened, asked)
    found: dict[int, Steered] = {}
    for places in _batches(read):
        rows = [read[at] for at in places]
        sampling = Sampling(how.temperature, how.top_p, how.seed, tuple(places))
        for at, steered in zip(places, _steered(opened, rows, asked, maxima, (how, sampling)), strict=True):
            found[at] = steered._replace(prompt=prompts[at])
    return [found[at] for at in range(len(prompts))]


def generate(
    opened: Opened, prompts: Sequence[str], asked: Sequence[Asked], how: Generation | None = None, *, chat: bool = False
) -> list[str]:
    """Continuations of prompts by the model with features changed, or with no change.

    Raises:
        ValueError: as for `steer`.
    """
    how = how or Generation()
    read = _read(opened, prompts, asked, how, chat)
    maxima, stop = maxima_of(opened, asked), _stops(opened)
    found: dict[int, str] = {}
    for places in _batches(read):
        tokens = torch.stack([read[at].tokens for at in places])
        changes = _in_all_rows(asked, tokens, maxima)
        sampling = Sampling(how.temperature, how.top_p, how.seed, tuple(places))
        written = continuations(steerable_of(opened), changes, tokens, how.new_tokens, sampling, stop).tolist()
        for at, ids in zip(places, written, strict=True):
            found[at] = str(opened.folder.tokenizer.decode(_cut(ids, stop)))
    return [found[at] for at in range(len(prompts))]


def _read(opened: Opened, prompts: Sequence[str], asked: Sequence[Asked], how: Generation, chat: bool) -> list[Prompt]:
    """The prompts' tokens, after all settings have been checked."""
    _check(prompts, asked, how)
    check_asked(opened, asked)
    read = [opened.read(prompt, chat=chat) for prompt in prompts]
    n_most = opened.folder.config.max_position_embeddings
    for one in read:
        if len(one.tokens) + how.new_tokens > n_most:
            raise ValueError(
                f"the prompt has {len(one.tokens)} tokens and {how.new_tokens} more are asked for; "
                f"the model reads {n_most} at most"
            )
    return read


def _in_all_rows(asked: Sequence[Asked], tokens: Tensor, maxima: Mapping[tuple[int, int], float]) -> Changes:
    given = Given(tokens.shape[1], maxima)
    return Changes([one for row in range(len(tokens)) for one in changes_of(asked, given, row).features])


def _check(prompts: Sequence[str], asked: Sequence[Asked], how: Generation) -> None:
    if not prompts:
        raise ValueError("no prompt; give some text")
    if how.new_tokens < 1:
        raise ValueError(f"new tokens are {how.new_tokens}; expected at least 1")
    if how.temperature < 0 or not 0 < how.top_p <= 1:
        raise ValueError(
            f"temperature {how.temperature:g}, top-p {how.top_p:g}; expected at least 0, and more than 0 and at most 1"
        )
    swapped = [one.text for one in asked if one.kind == "swap"]
    if swapped:
        raise ValueError(f"{swapped[0]!r}: swap needs another prompt, which only intervene has")


def _batches(read: Sequence[Prompt]) -> Iterator[list[int]]:
    """Indices of prompts in batches of equal length."""
    by_length: dict[int, list[int]] = {}
    for at, one in enumerate(read):
        by_length.setdefault(len(one.tokens), []).append(at)
    for places in by_length.values():
        yield from (places[at : at + ROWS] for at in range(0, len(places), ROWS))


def _steered(
    opened: Opened,
    rows: Sequence[Prompt],
    asked: Sequence[Asked],
    maxima: Mapping[tuple[int, int], float],
    how: tuple[Generation, Sampling],
) -> Iterator[Steered]:
    generation, sampling = how
    steerable, n_prompt = steerable_of(opened), len(rows[0].tokens)
    tokens = torch.stack([row.tokens for row in rows])
    changes = _in_all_rows(asked, tokens, maxima)
    stop = _stops(opened)
    texts = [
        continuations(steerable, each, tokens, generation.new_tokens, sampling, stop).tolist()
        for each in (Changes(), changes)
    ]
    for at, row in enumerate(rows):
        mine = changes.rows(at, at + 1)
        written, kls = [], []
        for of_all in texts:
            ids = _cut(of_all[at], stop)
            found = likelihoods(steerable, mine, torch.cat([row.tokens, row.tokens.new_tensor(ids)])[None])
            kls.append(found.kl[0, n_prompt - 1 :])
            pairs = zip(found.plain[0, n_prompt - 1 :].tolist(), found.changed[0, n_prompt - 1 :].tolist(), strict=True)
            each = [WrittenToken(opened.texts[token], *pair) for token, pair in zip(ids, pairs, strict=True)]
            written.append(Written(str(opened.folder.tokenizer.decode(ids)), each))
        kl_next, kl_mean = float(kls[0][0]), float(kls[0].mean())
        yield Steered("", list(row.texts), written[0], written[1], kl_next, kl_mean, list(row.said))


def _stops(opened: Opened) -> tuple[int, ...]:
    """Tokens that end a text."""
    settings = getattr(opened.model, "generation_config", None)
    ends = getattr(settings, "eos_token_id", None)
    known = [*(ends if isinstance(ends, list) else [ends]), opened.folder.tokenizer.eos_token_id]
    return tuple(sorted({token for token in known if isinstance(token, int)} - {opened.checkpoint.bos}))


def _cut(ids: list[int], stop: Sequence[int]) -> list[int]:
    """The tokens up to and including the first one that ends the text."""
    for at, token in enumerate(ids):
        if token in stop:
            return ids[: at + 1]
    return ids
