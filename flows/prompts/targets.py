"""What a prompt is asked about: a token's logit, the difference of two, a feature, a direction, at a position."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flows.prompts.asked import positions_of
from flows.prompts.opened import Opened, Prompt
from interp.interventions.readings import FeatureReading, LogitReading, Reading

TARGET_GRAMMAR = (
    'a token ("␣Paris" with a blank for ␣, or #ID), two tokens A|B for the difference of their logits, '
    "feature:LAYER/FEATURE, or direction:FILE.npy; then @POSITION for another than the last"
)


class Target(NamedTuple):
    """What is looked at, and its name."""

    name: str
    reading: Reading


def targets_asked(opened: Opened, prompt: Prompt, asked: Sequence[str]) -> list[Target]:
    """Targets as they were written; none: the likeliest next token.

    Raises:
        ValueError: one is not written as `TARGET_GRAMMAR` says, or names what there is not.
    """
    if not asked:
        last = len(prompt.tokens) - 1
        with torch.no_grad():
            logits = opened.model(input_ids=prompt.tokens[None], use_cache=False, logits_to_keep=1).logits[0, -1]
        token = int(logits.argmax())
        return [Target(repr(opened.texts[token]), LogitReading(_logit(opened, token), last))]
    return [_target(opened, len(prompt.tokens), text) for text in asked]


def _target(opened: Opened, n_prompt: int, text: str) -> Target:
    body, where = text, "-1"
    placed = re.fullmatch(r"(.+)@(-?\d{1,6})", text, re.ASCII | re.DOTALL)
    if placed:
        body, where = placed[1], placed[2]
    position, _ = positions_of(where, n_prompt, text)
    suffix = f" @{position}" if placed else ""
    if body.startswith("feature:"):
        found = re.fullmatch(r"feature:(\d{1,4})/(\d{1,9})", body, re.ASCII)
        if not found:
            raise ValueError(f"target {text!r}: expected {TARGET_GRAMMAR}")
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
    token = _token(opened, body)
    return Target(f"{opened.texts[token]!r}{suffix}", LogitReading(_logit(opened, token), position))


def _token(opened: Opened, text: str) -> int:
    if not re.fullmatch(r"#\d{1,7}", text, re.ASCII):
        return opened.token(text)
    token = int(text[1:])
    if token >= opened.folder.d_vocab:
        raise ValueError(f"target {text!r}: no such token; the vocabulary has {opened.folder.d_vocab}")
    return token


def _W_U(opened: Opened) -> Tensor:
    return opened.folder.family.W_U(opened.model)


def _logit(opened: Opened, token: int) -> Tensor:
    """A logit less the mean of all: what its probability depends on."""
    W_U = _W_U(opened)
    return W_U[token].float() - W_U.float().mean(0)


def _direction(opened: Opened, file: Path) -> Tensor:
    """A vector of NumPy's format, read at the unembedding: the final norm's output times it.

    Raises:
        ValueError: it is none of the model's width.
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
