"""Evidence as questions to a language model: what it is told, and the fenced material it is shown."""

from collections.abc import Sequence
from typing import Any

from interp.descriptions.evidence import ActivationExample, Evidence, pattern
from interp.descriptions.llm_questions import FENCE_NOTE, Prompt, fenced, record

MAX_DESCRIPTION = 300
"""Characters kept of a description."""

DESCRIPTION = record(description={"type": "string"})

_TASK = (
    "You explain what one feature inside a language model stands for. A feature is a number that is positive at the "
    "tokens it has learned to notice, and that makes some next tokens more likely."
)

_FORM = (
    "Answer with one description of at most 25 words: name the tokens, words, grammar or topic that the feature "
    "notices, then, if it is shown, what it promotes. Be specific; quote decisive tokens in ‘single quotation marks’. "
    "Say only what the material supports. No introduction, no mention of features, models or data."
)

EXPLAIN = (
    f"{_TASK}\n\nThe material may hold: `reads`: tokens that activate it when read alone, the strongest first. "
    "`moments`: places in a corpus at which it was active; `fires` is the token it is active at, `activation` how "
    "strongly; `before` and `after` the text around it; or, where the causes were traced, `pattern`: only the tokens "
    "that cause the activation, in order, the firing one marked «so», the rest left out as …. `promotes`: next tokens "
    f"it makes more likely, the strongest first.\n\n{FENCE_NOTE}\n\n{_FORM}"
)

JOIN = (
    f"{_TASK}\n\nThe feature fires by several mechanisms, each described already. The material holds `mechanisms`: "
    "these descriptions with the share of the feature's activity each has; it may hold `reads` and `promotes`: tokens "
    "that activate the whole feature when read alone, and next tokens it makes more likely. Join them: name what they "
    f"have in common if they do, otherwise each in order of share.\n\n{FENCE_NOTE}\n\n{_FORM}"
)


def explain(evidence: Evidence, max_tokens: int) -> Prompt:
    """Ask for a description of a feature, or of one of its clusters."""
    return Prompt("explain", EXPLAIN, fenced(_shown(evidence)), DESCRIPTION, max_tokens)


def join(parts: Sequence[tuple[str, float]], whole: Evidence, max_tokens: int) -> Prompt:
    """Ask for one description of a feature from those of its clusters, (text, share) each."""
    mechanisms = [{"description": text, "share": round(share, 2)} for text, share in parts]
    tokens = {name: value for name, value in _shown(whole).items() if name != "moments"}
    return Prompt("join", JOIN, fenced({"mechanisms": mechanisms, **tokens}), DESCRIPTION, max_tokens)


def _shown(evidence: Evidence) -> dict[str, Any]:
    parts = {
        "reads": list(evidence.reads),
        "moments": [_moment(moment) for moment in evidence.moments],
        "promotes": list(evidence.promotes),
    }
    return {name: part for name, part in parts.items() if part}


def _moment(moment: ActivationExample) -> dict[str, Any]:
    shared = {"fires": moment.fires, "activation": float(f"{moment.activation:.3g}")}
    if moment.causes is not None:
        return {**shared, "pattern": pattern(moment)}
    return {**shared, "before": "".join(moment.tokens[: moment.at]), "after": "".join(moment.tokens[moment.at + 1 :])}


def description_in(value: dict[str, Any]) -> str | None:
    """The description that an answer holds, on one line; None if it is empty."""
    text = " ".join("".join(c if c.isprintable() else " " for c in value["description"]).split())
    return text[:MAX_DESCRIPTION] or None
