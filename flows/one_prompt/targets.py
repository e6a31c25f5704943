"""Targets on a prompt: a token's logit, the difference of two, a feature, a direction, at a position."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flows.one_prompt.asked import positions_of
from flows.one_prompt.opened import Opened
from interp.circuitlens.frozen import Frozen
from interp.circuitlens.graph import likeliest, next_probability
from interp.interventions.readings import FeatureReading, LogitReading, Reading

TARGET_GRAMMAR = (
    'a token ("␣Paris" with a blank for ␣, or #ID), two tokens A|B for the difference of their logits, '
    "feature:LAYER/FEATURE, or direction:FILE.npy, then @POSITIONS for others than the last; @POSITIONS alone for the "
    "most probable tokens there. POSITIONS: 3, -1, 2:5, or several with commas"
)

_PLACED = re.compile(
    r"(.*)@((?:-?\d{1,6}|-?\d{0,6}:-?\d{0,6})(?:,(?:-?\d{1,6}|-?\d{0,6}:-?\d{0,6}))*)", re.ASCII | re.DOTALL
)


class Target(NamedTuple):
    """A reading, and its name."""

    name: str
    reading: Reading
    token: int | None = None
    """The token whose logit it is; None for other targets."""
    probability: float = 1.0
    """Probability of that token; 1 for other targets."""
    weight: float = 1.0
    """Its weight if several targets are explained together: named targets have equal weights, probable tokens are
    weighted by their probability."""


class Likeliest(NamedTuple):
    """Which of the most probable tokens are meant if no token is named: until they have `share` of the probability
    together, at most `n`."""

    n: int = 1
    share: float = 1.0


class _On(NamedTuple):
    """The model and prompt on which targets are read."""

    opened: Opened
    frozen: Frozen
    top: Likeliest


def targets_asked(opened: Opened, frozen: Frozen, asked: Sequence[str], top: Likeliest | None = None) -> list[Target]:
    """Parse targets and resolve them on a prompt for which the model is frozen; none: the most probable next token.

    A target at several positions becomes one at each. Duplicates are removed.

    Raises:
        ValueError: one is not written as `TARGET_GRAMMAR` says, or names something that does not exist.
    """
    on = _On(opened, frozen, top or Likeliest())
    found = [target for text in asked or ["@-1"] for target in _targets(on, text, bool(asked))]
    return list({target.name: target for target in found}.values())


def _targets(on: _On, text: str, say_position: bool) -> Iterator[Target]:
    placed = _PLACED.fullmatch(text)
    body, where = (placed[1], placed[2]) if placed else (text, "-1")
    for part in where.split(","):
        for position in range(*positions_of(part, on.frozen.n_pos, text)):
            suffix = f" @{position}" if placed and say_position else ""
            if body:
                yield _target(on.opened, on.frozen, body, position, suffix)
                continue
            probability = next_probability(on.opened.linear, on.frozen, position)
            for token in likeliest(probability, *on.top).token.tolist():
                target = _logit(on.opened, probability, token, position, suffix)
                yield target._replace(weight=target.probability)


def _target(opened: Opened, frozen: Frozen, body: str, position: int, suffix: str) -> Target:
    if body.startswith("feature:"):
        found = re.fullmatch(r"feature:(\d{1,4})/(\d{1,9})", body, re.ASCII)
        if not found:
            raise ValueError(f"target {body!r}: expected {TARGET_GRAMMAR}")
        layer, feature = int(found[1]), int(found[2])
        opened.check_feature(layer, feature)
        return Target(f"feature {layer}/{feature} @{position}", FeatureReading(layer, feature, position))
    if body.startswith("direction:"):
        direction = _direction(opened, Path(body.removeprefix("direction:")))
        return Target(f"{body}{suffix}", LogitReading(direction, position))
    parts = body.split("|")
    if len(parts) == 2 and all(parts):
        first, second = (_token(opened, part) for part in parts)
        W_U = _W_U(opened)
        name = f"{opened.texts[first]!r} − {opened.texts[second]!r}{suffix}"
        return Target(name, LogitReading(W_U[first].float() - W_U[second].float(), position))
    return _logit(opened, next_probability(opened.linear, frozen, position), _token(opened, body), position, suffix)


def _token(opened: Opened, text: str) -> int:
    if not re.fullmatch(r"#\d{1,7}", text, re.ASCII):
        return opened.token(text)
    token = int(text[1:])
    if token >= opened.folder.d_vocab:
        raise ValueError(f"target {text!r}: no such token; the vocabulary has {opened.folder.d_vocab}")
    return token


def _W_U(opened: Opened) -> Tensor:
    return opened.folder.family.W_U(opened.model)


def _logit(opened: Opened, probability: Tensor, token: int, position: int, suffix: str) -> Target:
    """A logit minus the mean of all, which is the part that its probability depends on."""
    W_U = _W_U(opened)
    direction = W_U[token].float() - W_U.float().mean(0)
    return Target(
        f"{opened.texts[token]!r}{suffix}", LogitReading(direction, position), token, float(probability[token])
    )


def _direction(opened: Opened, file: Path) -> Tensor:
    """A vector in NumPy's format, read at the unembedding: the final norm's output times it.

    Raises:
        ValueError: the file has no vector of the model's width.
    """
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"direction: {file} cannot be read ({error}); expected NumPy's .npy") from None
    d_model = opened.folder.d_model
    is_vector = isinstance(found, np.ndarray) and found.shape == (d_model,) and found.dtype.kind in "fiu"
    if not is_vector or not np.isfinite(found).all():
        shape = getattr(found, "shape", "several arrays")
        raise ValueError(f"direction: {file} holds {shape}; expected {d_model} finite numbers")
    return torch.from_numpy(found.astype(np.float32)).to(opened.device)
