"""The effects of changing features and heads on a prompt: as the frozen model predicts them, and as measured."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from flows.one_prompt.asked import Asked, Given, changes_of, check_asked, maxima_of, source_of, steerable_of
from flows.one_prompt.opened import Opened, Prompt
from flows.one_prompt.targets import Target, targets_asked
from interp.batches import each_batch
from interp.circuitlens.frozen import freeze
from interp.interventions.at_rest import AtRest, at_rest, changed_readings
from interp.interventions.changes import Changes
from interp.interventions.effects import in_rows, interventions_at_once
from interp.interventions.measured import Measured, head_outputs, measured
from interp.interventions.readings import targets_of


class Effect(NamedTuple):
    """The effect on a target: a logit minus the mean of all, a difference of logits, or a pre-activation."""

    target: str
    before: float
    """Its value in the unchanged model."""
    predicted: float
    """Its change by the frozen contributions only: attention, norms and all other features as they were."""
    predicted_paths: float
    """Its change along all paths of the attribution graph: active features respond linearly until they are inactive."""
    measured_frozen: float
    """Its change where MLPs are computed anew, with the attention patterns and norm scales of the prompt."""
    measured: float
    """Its change in the model, with nothing frozen."""


class Intervened(NamedTuple):
    """The results of some interventions that were made together on a prompt."""

    prompt: str
    tokens: list[str]
    interventions: list[str]
    effects: list[Effect]
    next_before: str
    """The most probable next token."""
    probability_before: float
    next_after: str
    probability_after: float
    kl: float
    """KL divergence of the next-token distribution from the unchanged model's, in nats."""
    said: list[str]
    """What was done to the prompt that may be unexpected."""


class Question(NamedTuple):
    """A prompt, targets, and the prompt for swaps."""

    prompt: str
    targets: tuple[str, ...] = ()
    """Targets in the form for `flows.one_prompt.targets`; none: the most probable next token."""
    swap_from: str | None = None


def intervene(
    opened: Opened, question: Question, asked: Sequence[Sequence[Asked]], *, chat: bool = False
) -> Iterator[Intervened]:
    """Make each item of `asked` on a copy of the prompt, with all the changes in the item together.

    Raises:
        ValueError: the prompt is empty or too long, a feature, head, position or target does not exist, or a swap has
            no other prompt.
    """
    every = [one for row in asked for one in row]
    if not every:
        raise ValueError("no intervention: name a feature or a head to change")
    check_asked(opened, every)
    prompt = opened.read(question.prompt, chat=chat)
    given = _given(opened, prompt, question, every, chat)
    changes = [changes_of(row, given) for row in asked]
    linear = opened.linear
    rest = at_rest(linear, freeze(linear, opened.transcoder, prompt.tokens), opened.transcoder)
    targets = targets_asked(opened, rest.frozen, question.targets)
    at_once = interventions_at_once(len(prompt.tokens), opened.folder.d_model)
    unchanged = measured(steerable_of(opened), prompt.tokens, Changes(), 1, [one.reading for one in targets])

    def run(part: slice) -> list[Intervened]:
        some = changes[part]
        effects, after = _effects(opened, rest, in_rows(some), (len(some), targets), unchanged)
        kl = after.divergence_from(unchanged).tolist()
        return [
            Intervened(
                question.prompt,
                list(prompt.texts),
                [one.text for one in own],
                effects[row],
                opened.texts[int(unchanged.next_token)],
                float(unchanged.probability),
                opened.texts[int(after.next_token[row])],
                float(after.probability[row]),
                kl[row],
                [*prompt.said, *_silent(rest, some[row], own)],
            )
            for row, own in enumerate(asked[part])
        ]

    for found in each_batch("interventions", prompt.tokens.device, len(asked), at_once, run, len(prompt.tokens)):
        yield from found


def _given(opened: Opened, prompt: Prompt, question: Question, asked: Sequence[Asked], chat: bool) -> Given:
    source = None
    if question.swap_from is not None:
        source = source_of(opened, opened.read(question.swap_from, chat=chat), asked)
    layers = sorted({one.layer for one in asked if one.kind == "mean"})
    own = head_outputs(steerable_of(opened), prompt.tokens, layers) if layers else {}
    return Given(len(prompt.tokens), maxima_of(opened, asked), source, own)


def _effects(
    opened: Opened, rest: AtRest, changes: Changes, what: tuple[int, list[Target]], unchanged: Measured
) -> tuple[list[list[Effect]], Measured]:
    """Every row's effects, and the outputs of the model."""
    n_rows, targets = what
    readings = [one.reading for one in targets]
    linear = targets_of(rest.linear, rest.frozen, rest.transcoder, readings)
    predicted, paths, frozen = (
        changed_readings(rest, changes, n_rows, linear, mlps) for mlps in ("frozen", "features", "model")
    )
    after = measured(steerable_of(opened), rest.frozen.tokens, changes, n_rows, readings)
    found = torch.stack([predicted, paths, frozen, after.readings - unchanged.readings], 2).tolist()
    before = unchanged.readings[0].tolist()
    return [
        [Effect(target.name, value, *row) for target, value, row in zip(targets, before, of_row, strict=True)]
        for of_row in found
    ], after


def _silent(rest: AtRest, changes: Changes, asked: Sequence[Asked]) -> Iterator[str]:
    """Features that are switched off although they are not active."""
    off = {(one.layer, one.number) for one in asked if not one.is_head and one.kind == "set" and not one.low.value}
    for layer, feature in sorted(off):
        active = rest.frozen.layers[layer].active
        at = active.position[active.feature == feature].tolist()
        mine = [one for one in changes.features if (one.layer, one.feature) == (layer, feature)]
        if not any(one.start <= position < one.stop for one in mine for position in at):
            yield f"{layer}/{feature} is not active there: switching it off has no effect"
