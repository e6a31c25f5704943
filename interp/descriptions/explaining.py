"""The descriptions of a feature by one method: first one for each cluster, then one for the whole feature."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from interp.descriptions import explainer_prompts
from interp.descriptions.base_rates import Lift
from interp.descriptions.clauses import Clause
from interp.descriptions.english import listed, with_rest
from interp.descriptions.evidence import WHOLE, Evidence, FeatureEvidence, Method, evidence_for
from interp.descriptions.llm_questions import Answers, Instructions
from interp.descriptions.settings import RuleSettings
from interp.descriptions.wiring import wired
from interp.descriptions.wording import by_rule, clauses, coverage, joined
from interp.weightlens.description import Token, word_list
from interp.weightlens.settings import WordingSettings

N_TOKENS = 12
"""Number of tokens stored with a description."""


MIXED = 0.5
"""If the named tokens have less than this share of the activation, the description says so."""

STAND_IN = 20 * "words "
"""Placeholder for a description that a language model has yet to give."""


class Explainer(Protocol):
    """A way to put evidence into words."""

    def explain(self, evidence: Evidence) -> str | None:
        """Describe a feature or a cluster; None where the evidence gives nothing to say."""
        ...

    def join(self, parts: list[tuple[str | None, float]], whole: Evidence) -> str | None:
        """Combine the descriptions of clusters, each as (text, share of samples), with the evidence for the whole
        feature. None where one of the descriptions is missing."""
        ...

    def clauses(self, evidence: Evidence) -> list[Clause]:
        """The statements of a text about where the feature fires, as far as they can be checked against the
        evidence."""
        ...


class TokensExplainer(NamedTuple):
    """Descriptions by rule, without a language model."""

    rule: RuleSettings
    wording: WordingSettings

    def explain(self, evidence: Evidence) -> str | None:
        if evidence.wires:  # worded as in the weightlens stage, to compare with it on equal terms
            return word_list([Token(text) for text in evidence.reads], self.wording)
        return by_rule(evidence, self.rule, self.wording)

    def join(self, parts: list[tuple[str | None, float]], whole: Evidence) -> str | None:
        texts = [text for text, _ in parts if text is not None]
        return joined(texts, whole, self.rule, self.wording) if len(texts) == len(parts) else None

    def clauses(self, evidence: Evidence) -> list[Clause]:
        return clauses(evidence, self.rule, self.wording)


class ModelExplainer(NamedTuple):
    """Descriptions by a language model. Questions without an answer so far are collected in `answers.missing`."""

    answers: Answers
    instructions: Instructions
    max_tokens: int

    def explain(self, evidence: Evidence) -> str | None:
        value = self.answers.value(explainer_prompts.explain(evidence, self.instructions, self.max_tokens))
        return None if value is None else explainer_prompts.description_in(value)

    def join(self, parts: list[tuple[str | None, float]], whole: Evidence) -> str | None:
        told = [(text or STAND_IN, share) for text, share in parts]
        prompt = explainer_prompts.join(told, whole, self.instructions, self.max_tokens)
        if any(text is None for text, _ in parts):
            self.answers.later.append(prompt)
            return None
        value = self.answers.value(prompt)
        return None if value is None else explainer_prompts.description_in(value)

    def clauses(self, evidence: Evidence) -> list[Clause]:
        return []


class Measured(NamedTuple):
    """One statement of a description about where the feature fires, and how often it is true."""

    kind: str
    samples: str
    """The samples it is about: `strongest` (the greatest activations) or `range` (samples over all quantiles, or those
    of a cluster)."""
    clause: str
    """In words."""
    lift: Lift


class Described(NamedTuple):
    """One description."""

    cluster: int
    """Number of the cluster; `WHOLE` for the whole feature."""
    text: str
    tokens: list[str]
    """Texts of the tokens that the description is based on, the strongest first."""
    coverage: float | None = None
    """Share of the samples' activation that is on tokens which the description names. None without samples, or where it
    cannot be determined which tokens it names."""
    clauses: tuple[Measured, ...] = ()


def describe(method: Method, known: FeatureEvidence, explainer: Explainer) -> list[Described]:
    """All descriptions of a feature by one method, those of its clusters first."""
    whole, parted = evidence_for(method, known)
    if len(parted) == 1:
        whole, parted = replace(whole, examples=parted[0][1].examples), []
    found: list[Described] = []
    parts: list[tuple[str | None, float]] = []
    for cluster, evidence in parted:
        text = explainer.explain(evidence)
        parts.append((text, cluster.share))
        if text is not None and cluster.number >= 0:
            found.append(_described(cluster.number, text, evidence, [(evidence, explainer.clauses(evidence))]))
    text = None
    if parted:
        text = explainer.join(parts, whole)
    elif whole.has_any:
        text = explainer.explain(whole)
        if text and whole.wires:
            text = f"{text}; {wired(whole.wires)}"
    if text is not None:
        examples = tuple(example for _, evidence in parted for example in evidence.examples) or whole.examples
        spread, strongest = (replace(whole, examples=some) for some in (examples, whole.strongest))
        of_parts = [evidence for _, evidence in parted] or [spread]
        said = [(strongest, explainer.clauses(strongest))]
        said += [(spread, explainer.clauses(evidence)) for evidence in of_parts]
        found.append(_described(WHOLE, text, spread, said))
    return found


def _described(cluster: int, text: str, evidence: Evidence, said: Sequence[tuple[Evidence, list[Clause]]]) -> Described:
    """A description with the measured frequency of its statements.

    Clusters may have named different tokens of one word, say “as” and “As”; for the whole feature, the statement covers
    all of them.
    """
    base, named = evidence.base, set(evidence.reads)
    merged: dict[tuple[str, str], tuple[Clause, Evidence]] = {}
    for samples, clauses_ in said:
        of = "strongest" if samples.examples and samples.examples == evidence.strongest else "range"
        for clause in clauses_:
            named |= clause.tokens if clause.kind in ("token", "kind") else set()
            key = of, f"{clause.kind} {_names(clause)}"
            tokens = clause.tokens | merged[key][0].tokens if key in merged else clause.tokens
            merged[key] = replace(clause, tokens=tokens), samples
    measured = [
        Measured(clause.kind, of, _names(clause), clause.compared(samples.examples, base))
        for (of, _), (clause, samples) in merged.items()
        if base is not None
    ]
    can_tell = any(found for _, found in said) and evidence.examples
    covered = coverage(named, evidence.examples) if can_tell else None
    if covered is not None and covered < MIXED and "any tokens, such as" not in text:
        text = with_rest(text, 1 - covered)
    return Described(cluster, text, _tokens(evidence), covered, tuple(measured))


def _names(clause: Clause) -> str:
    return listed(clause.names, "or") if clause.names else ""


def _tokens(evidence: Evidence) -> list[str]:
    fires = (example.fires for example in evidence.examples)
    return list(dict.fromkeys([*evidence.reads, *fires, *evidence.promotes]))[:N_TOKENS]
