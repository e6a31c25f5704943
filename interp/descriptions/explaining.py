"""A feature by one method: each cluster first, then one text for the whole."""

from dataclasses import replace
from typing import NamedTuple, Protocol

from interp.descriptions import prompts
from interp.descriptions.evidence import WHOLE, Evidence, FeatureEvidence, Method, evidence_for
from interp.descriptions.llm_questions import Answers, Instructions
from interp.descriptions.settings import RuleSettings
from interp.descriptions.wording import by_rule, joined
from interp.weightlens.settings import WordingSettings

N_TOKENS = 12
"""Tokens kept beside a description."""


STAND_IN = 20 * "words "
"""In the place of a description that is still to be asked for."""


class Explainer(Protocol):
    """Puts evidence into words."""

    def explain(self, evidence: Evidence) -> str | None:
        """A feature or a cluster in words; None where there are none."""
        ...

    def join(self, parts: list[tuple[str | None, float]], whole: Evidence) -> str | None:
        """One text from those of clusters, (text, share) each, and what is known of the whole feature; None where a
        text is lacking."""
        ...


class TokensExplainer(NamedTuple):
    """By rule, offline."""

    rule: RuleSettings
    wording: WordingSettings

    def explain(self, evidence: Evidence) -> str | None:
        return by_rule(evidence, self.rule, self.wording)

    def join(self, parts: list[tuple[str | None, float]], whole: Evidence) -> str | None:
        texts = [text for text, _ in parts if text is not None]
        return joined(texts, whole, self.rule, self.wording) if len(texts) == len(parts) else None


class ModelExplainer(NamedTuple):
    """By a language model; what is not answered yet is left in `answers.missing`."""

    answers: Answers
    instructions: Instructions
    max_tokens: int

    def explain(self, evidence: Evidence) -> str | None:
        value = self.answers.value(prompts.explain(evidence, self.instructions, self.max_tokens))
        return None if value is None else prompts.description_in(value)

    def join(self, parts: list[tuple[str | None, float]], whole: Evidence) -> str | None:
        told = [(text or STAND_IN, share) for text, share in parts]
        prompt = prompts.join(told, whole, self.instructions, self.max_tokens)
        if any(text is None for text, _ in parts):
            self.answers.later.append(prompt)
            return None
        value = self.answers.value(prompt)
        return None if value is None else prompts.description_in(value)


class Described(NamedTuple):
    """One description."""

    cluster: int
    """`WHOLE` for the whole feature."""
    text: str
    tokens: list[str]
    """Texts of the tokens that it rests on, the strongest first."""


def describe(method: Method, known: FeatureEvidence, explainer: Explainer) -> list[Described]:
    """All descriptions of a feature by a method, those of its clusters first."""
    whole, clusters = evidence_for(method, known)
    if len(clusters) == 1:
        whole, clusters = replace(whole, moments=clusters[0][1].moments), []
    found: list[Described] = []
    parts: list[tuple[str | None, float]] = []
    for cluster, evidence in clusters:
        text = explainer.explain(evidence)
        parts.append((text, cluster.share))
        if text is not None and cluster.number >= 0:
            found.append(Described(cluster.number, text, _tokens(evidence)))
    text = None
    if clusters:
        text = explainer.join(parts, whole)
    elif whole.tells_something:
        text = explainer.explain(whole)
    if text is not None:
        moments = tuple(moment for _, evidence in clusters for moment in evidence.moments)
        found.append(Described(WHOLE, text, _tokens(replace(whole, moments=whole.moments + moments))))
    return found


def _tokens(evidence: Evidence) -> list[str]:
    fires = (moment.fires for moment in evidence.moments)
    return list(dict.fromkeys([*evidence.reads, *fires, *evidence.promotes]))[:N_TOKENS]
