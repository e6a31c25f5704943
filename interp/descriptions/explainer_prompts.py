"""Prompts for descriptions: instructions, and the evidence as fenced material."""

from collections.abc import Sequence

from interp.descriptions.evidence import ActivationExample, Evidence, pattern
from interp.descriptions.llm_questions import AnswerValue, Instructions, Prompt, fenced, record

MAX_DESCRIPTION = 300
"""A description is cut off after this many characters."""

DESCRIPTION = record(description={"type": "string"})


def explain(evidence: Evidence, instructions: Instructions, max_tokens: int) -> Prompt:
    """The prompt for a description of a feature, or of one of its clusters."""
    return Prompt("explain", instructions["explain"], fenced(_shown(evidence)), DESCRIPTION, max_tokens)


def join(parts: Sequence[tuple[str, float]], whole: Evidence, instructions: Instructions, max_tokens: int) -> Prompt:
    """The prompt for one description of a feature, made of those of its clusters, each as (text, share of samples)."""
    mechanisms = [{"description": text, "share": round(share, 2)} for text, share in parts]
    tokens = {name: value for name, value in _shown(whole).items() if name != "moments"}
    return Prompt("join", instructions["join"], fenced({"mechanisms": mechanisms, **tokens}), DESCRIPTION, max_tokens)


def _shown(evidence: Evidence) -> dict[str, object]:
    parts = {
        "reads": list(evidence.reads),
        "moments": [_example(example) for example in evidence.examples],
        "promotes": list(evidence.promotes),
    }
    return {name: part for name, part in parts.items() if part}


def _example(example: ActivationExample) -> dict[str, object]:
    shared = {"fires": example.fires, "activation": float(f"{example.activation:.3g}")}
    if example.causes is not None:
        return {**shared, "pattern": pattern(example)}
    return {
        **shared,
        "before": "".join(example.tokens[: example.at]),
        "after": "".join(example.tokens[example.at + 1 :]),
    }


def description_in(value: AnswerValue) -> str | None:
    """The description in an answer, on one line; None if it is empty."""
    text = " ".join("".join(c if c.isprintable() else " " for c in value["description"]).split())
    return text[:MAX_DESCRIPTION] or None
