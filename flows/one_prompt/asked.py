"""Parse changes as people write them: `12/345=8`, `12/345@-1=off`, `5.3=mean`; errors are one line."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from flows.one_prompt.activations import active_at
from flows.one_prompt.opened import Opened, Prompt
from interp.interventions.changes import EVERYWHERE, Changes, FeatureChange, HeadChange
from interp.interventions.measured import head_outputs
from interp.interventions.running import SteerableModel
from storage.catalog.published import open_published

GENERATED = "generated"

FEATURE_GRAMMAR = (
    "LAYER/FEATURE=VALUE, or LAYER/FEATURE@POSITIONS=VALUE; VALUE: a number (held at it), 2x (times its greatest "
    "activation), off, LOW..HIGH (kept within), add:N, swap"
)
HEAD_GRAMMAR = "LAYER.HEAD=VALUE, or LAYER.HEAD@POSITIONS=VALUE; VALUE: off, 0.5x (scaled), mean, swap"
POSITIONS_GRAMMAR = "a position (0 is the first, -1 the last), START:STOP, or generated"

Kind = Literal["set", "add", "clamp", "swap", "scale", "mean"]


class Amount(NamedTuple):
    """A number, absolute or as a multiple of the feature's greatest activation on the corpus."""

    value: float
    of_maximum: bool = False

    def resolved(self, maximum: float | None) -> float:
        """The number as an activation."""
        if not self.of_maximum:
            return self.value
        assert maximum is not None
        return self.value * maximum


class Asked(NamedTuple):
    """A change that was parsed but not yet applied to a prompt."""

    text: str
    """The text as it was written."""
    layer: int
    number: int
    """Number of the feature, or of the head."""
    is_head: bool
    where: str | None
    kind: Kind
    low: Amount = Amount(0.0)
    high: Amount = Amount(0.0)


def asked_feature(text: str) -> Asked:
    """Parse a feature's change.

    Raises:
        ValueError: it is not written as `FEATURE_GRAMMAR` says.
    """
    found = re.fullmatch(r"(\d{1,4})/(\d{1,9})(?:@([^=]+))?=(.+)", text.strip(), re.ASCII)
    if not found:
        raise ValueError(f"feature {text!r}: expected {FEATURE_GRAMMAR}")
    layer, feature, where, how = found.groups()
    asked = Asked(text, int(layer), int(feature), False, where, "set")
    if how == "off":
        return asked
    if how == "swap":
        return asked._replace(kind="swap")
    if how.startswith("add:"):
        amount = _amount(how.removeprefix("add:"), text)
        return asked._replace(kind="add", low=amount, high=amount)
    if ".." in how:
        low, high = (_amount(part, text) for part in how.split("..", 1))
        if low.of_maximum == high.of_maximum and low.value > high.value:
            raise ValueError(f"feature {text!r}: there is no number between {low.value:g} and {high.value:g}")
        return asked._replace(kind="clamp", low=low, high=high)
    amount = _amount(how, text)
    return asked._replace(low=amount, high=amount)


def asked_head(text: str) -> Asked:
    """Parse a head's change.

    Raises:
        ValueError: it is not written as `HEAD_GRAMMAR` says.
    """
    found = re.fullmatch(r"(\d{1,4})\.(\d{1,4})(?:@([^=]+))?=(.+)", text.strip(), re.ASCII)
    if not found:
        raise ValueError(f"head {text!r}: expected {HEAD_GRAMMAR}")
    layer, head, where, how = found.groups()
    asked = Asked(text, int(layer), int(head), True, where, "scale")
    if how in ("swap", "mean"):
        return asked._replace(kind="swap" if how == "swap" else "mean")
    if how == "off":
        return asked
    amount = _amount(how, text) if how.endswith("x") else None
    if amount is None:
        raise ValueError(f"head {text!r}: expected {HEAD_GRAMMAR}")
    return asked._replace(low=amount)


def asked_change(text: str) -> Asked:
    """Parse a feature's or a head's change.

    Raises:
        ValueError: it is neither.
    """
    name = text.split("=", 1)[0].split("@", 1)[0]
    return asked_head(text) if "." in name and "/" not in name else asked_feature(text)


def _amount(text: str, whole: str) -> Amount:
    of_maximum = text.endswith("x")
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{whole!r}: {text!r} is not a number; expected {FEATURE_GRAMMAR}")
    return Amount(value, of_maximum)


def positions_of(where: str | None, n_prompt: int, text: str) -> tuple[int, int]:
    """(first position, one past the last) of a change on a prompt with this many tokens; None: everywhere.

    Raises:
        ValueError: it cannot be parsed, or is not in the prompt.
    """
    if where is None:
        return 0, EVERYWHERE
    if where == GENERATED:
        return n_prompt - 1, EVERYWHERE  # the first generated token is computed at the prompt's last token
    found = re.fullmatch(r"(-?\d{1,6})|(-?\d{1,6})?:(-?\d{1,6})?", where, re.ASCII)
    if not found:
        raise ValueError(f"{text!r}: positions {where!r}; expected {POSITIONS_GRAMMAR}")
    if found[1] is not None:
        at = int(found[1])
        if not -n_prompt <= at < n_prompt:
            raise ValueError(f"{text!r}: no position {at}; the prompt has {n_prompt} tokens, 0-{n_prompt - 1}")
        return at % n_prompt, at % n_prompt + 1
    start, stop, _ = slice(*(None if part is None else int(part) for part in found.groups()[1:])).indices(n_prompt)
    if start >= stop:
        raise ValueError(f"{text!r}: positions {where!r} are not in the prompt, which has {n_prompt} tokens")
    return start, stop


class Source(NamedTuple):
    """Another prompt, from which activations are taken."""

    prompt: Prompt
    activations: Mapping[tuple[int, int, int], float]
    """Activations by layer, feature and position."""
    heads: Mapping[int, torch.Tensor]
    """Mixed values of heads by layer, each (n_pos, n_heads, d_head)."""

    def place(self, position: int, n_prompt: int, text: str) -> int:
        """The position in it that corresponds to one of a prompt; both prompts are aligned at their ends.

        Raises:
            ValueError: it has too few tokens.
        """
        at = position + len(self.prompt.tokens) - n_prompt
        if at < 0:
            raise ValueError(
                f"{text!r}: position {position} has no counterpart in the other prompt, which has "
                f"{len(self.prompt.tokens)} tokens while this one has {n_prompt} (they are aligned at the end)"
            )
        return at


def steerable_of(opened: Opened) -> SteerableModel:
    """The model in the form that interventions need."""
    return SteerableModel(opened.model, opened.folder.family, opened.checkpoint.hooks, opened.transcoder)


def check_asked(opened: Opened, asked: Sequence[Asked]) -> None:
    """Refuse features and heads that do not exist.

    Raises:
        ValueError: says which exist.
    """
    n_heads, n_layers = opened.folder.family.n_heads(opened.model), opened.checkpoint.n_layers
    for one in asked:
        if not one.is_head:
            opened.check_feature(one.layer, one.number)
        elif not (one.layer < n_layers and one.number < n_heads):
            raise ValueError(
                f"no head {one.number} in layer {one.layer}: the model has layers 0-{n_layers - 1}, "
                f"heads 0-{n_heads - 1}"
            )


def source_of(opened: Opened, prompt: Prompt, asked: Sequence[Asked]) -> Source:
    """The values of another prompt for changes that swap."""
    swapped = [one for one in asked if one.kind == "swap"]
    layers = sorted({one.layer for one in swapped if not one.is_head})
    found = active_at(opened, prompt, layers) if layers else []
    heads = head_outputs(steerable_of(opened), prompt.tokens, sorted({one.layer for one in swapped if one.is_head}))
    return Source(prompt, {(one.layer, one.feature, one.position): one.activation for one in found}, heads)


def maxima_of(opened: Opened, asked: Sequence[Asked]) -> dict[tuple[int, int], float]:
    """The greatest activations on the corpus of those features whose changes are multiples of it.

    Raises:
        ValueError: one is not known, or is 0.
    """
    wanted = {
        (one.layer, one.number): one.text
        for one in asked
        if not one.is_head and (one.low.of_maximum or one.high.of_maximum)
    }
    found = {}
    query = "SELECT max(max_activation) FROM features WHERE checkpoint_id = ? AND layer = ? AND feature = ?"
    if wanted:
        with open_published(opened.store.catalog) as connection:
            for (layer, feature), text in wanted.items():
                row = connection.execute(query, [opened.checkpoint.checkpoint_id, layer, feature]).fetchone()
                if row is None or not row[0]:
                    raise ValueError(
                        f"{text!r}: the greatest activation of {layer}/{feature} is not known: it fires on no "
                        "corpus; give an activation instead"
                    )
                found[layer, feature] = float(row[0])
    return found


class Given(NamedTuple):
    """The values that changes are resolved with."""

    n_prompt: int
    maxima: Mapping[tuple[int, int], float]
    source: Source | None = None
    own_heads: Mapping[int, torch.Tensor] = {}
    """By layer, for changes to a mean: the heads' mixed values on the prompt itself."""


def changes_of(asked: Sequence[Asked], given: Given, row: int = 0) -> Changes:
    """The changes of one row.

    Raises:
        ValueError: a position is not in the prompt, a swap has no other prompt, or a feature is changed
            twice at one position.
    """
    features: list[FeatureChange] = []
    heads: list[HeadChange] = []
    seen: dict[tuple[bool, int, int], list[tuple[int, int, str]]] = {}
    for one in asked:
        start, stop = positions_of(one.where, given.n_prompt, one.text)
        others = seen.setdefault((one.is_head, one.layer, one.number), [])
        for other_start, other_stop, text in others:
            if start < other_stop and other_start < stop:
                raise ValueError(
                    f"{one.text!r} and {text!r} change the same thing at the same position; give one of them"
                )
        others.append((start, stop, one.text))
        if one.is_head:
            heads += _head_changes(one, given, row, start, stop)
        else:
            features += _feature_changes(one, given, row, start, stop)
    return Changes(features, heads)


def _feature_changes(one: Asked, given: Given, row: int, start: int, stop: int) -> list[FeatureChange]:
    change = FeatureChange(row, one.layer, one.number, start=start, stop=stop)
    if one.kind == "swap":
        source = _source(one, given)
        swapped = []
        for position in range(start, min(stop, given.n_prompt)):
            value = source.activations.get(
                (one.layer, one.number, source.place(position, given.n_prompt, one.text)), 0.0
            )
            swapped.append(change.held_at(value)._replace(start=position, stop=position + 1))
        return swapped
    maximum = given.maxima.get((one.layer, one.number))
    low, high = one.low.resolved(maximum), one.high.resolved(maximum)
    if low > high:
        raise ValueError(f"{one.text!r}: there is no number between {low:g} and {high:g}")
    return [change._replace(add=low) if one.kind == "add" else change._replace(low=low, high=high)]


def _head_changes(one: Asked, given: Given, row: int, start: int, stop: int) -> list[HeadChange]:
    change = HeadChange(row, one.layer, one.number, one.low.value, None, start, stop)
    if one.kind == "scale":
        return [change]
    if one.kind == "mean":
        own = given.own_heads[one.layer][:, one.number]
        return [change._replace(scale=0.0, offset=own[1:].mean(0) if len(own) > 1 else own[0])]
    source = _source(one, given)
    return [
        change._replace(
            scale=0.0, offset=source.heads[one.layer][source.place(at, given.n_prompt, one.text), one.number],
            start=at, stop=at + 1,
        )
        for at in range(start, min(stop, given.n_prompt))
    ]  # fmt: skip


def _source(one: Asked, given: Given) -> Source:
    if given.source is None:
        raise ValueError(f"{one.text!r}: swap takes activations from another prompt; give it with --swap-from")
    return given.source
