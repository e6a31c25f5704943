"""The evidence for a description: for each method exactly what its paper lets it see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from interp.descriptions.base_rates import BaseRates
from interp.descriptions.wiring import Wire

Method = Literal[
    "weightlens+out+llm", "weightlens+twera", "maxact", "maxact*", "circuitlens-input", "circuitlens-full", "wl+cl"
]  # fmt: skip
"""The methods of this stage. The descriptions `weightlens` and `weightlens+out` come from the weightlens stage."""

WHOLE = -1
"""The value of `cluster` for a description of the whole feature."""


@dataclass(frozen=True)
class ActivationExample:
    """One sampled activation with the text around it, as tokens."""

    tokens: tuple[str, ...]
    at: int
    """Index of the firing token in `tokens`."""
    activation: float
    causes: tuple[int, ...] | None = None
    """Indices of the tokens that cause the activation by CircuitLens, the strongest first. None: the sample was not
    attributed, and the whole text may be looked at."""
    document: int = 0
    """Number of the document that the text is from, counted through all corpora."""

    @property
    def fires(self) -> str:
        """The text of the token at which the feature fires."""
        return self.tokens[self.at]


@dataclass(frozen=True)
class Evidence:
    """The evidence for the description of a feature, or of one of its clusters."""

    reads: tuple[str, ...] = ()
    """Tokens that alone make the feature fire (WeightLens), the strongest first."""
    examples: tuple[ActivationExample, ...] = ()
    """Sampled activations, the strongest first."""
    promotes: tuple[str, ...] = ()
    """Next tokens that the feature makes more likely, the strongest first."""
    strongest: tuple[ActivationExample, ...] = ()
    """The feature's greatest activations, beside `examples` over the whole range; what causes these is said first."""
    strong: float = 0.0
    """The mean of the feature's strong activations. Words are called weak or strong in comparison with it."""
    base: BaseRates | None = None
    """How often tokens occur elsewhere in the corpus; None: descriptions are not compared with it."""
    wires: tuple[Wire, ...] = ()
    """Earlier features that drive this one on the corpus, the strongest first. Tokens in `reads` were inherited from
    them."""

    @property
    def has_any(self) -> bool:
        """Whether there is anything to describe the feature by."""
        return bool(self.reads or self.examples or self.promotes)


def pattern(example: ActivationExample) -> str:
    """A sample as a person reads it: the firing token is marked, attributed samples show only their causes, and `…`
    marks gaps."""
    shown = set(range(len(example.tokens))) if example.causes is None else {*example.causes, example.at}
    pieces: list[str] = []
    for at, token in enumerate(example.tokens):
        if at in shown:
            pieces.append(f"«{token}»" if at == example.at else token)
        elif not pieces or pieces[-1] != " …":
            pieces.append(" …")
    return "".join(pieces)


@dataclass(frozen=True)
class Cluster:
    """A cluster of samples (one mechanism, by CircuitLens) that gets a description of its own."""

    number: int
    """Its number; -1: the samples in no cluster; `JOINED`: those of all clusters that are not stable."""
    share: float
    """Its share of the feature's attributed samples."""
    examples: tuple[ActivationExample, ...]


@dataclass(frozen=True)
class FeatureEvidence:
    """All that the catalog has about one feature."""

    reads: tuple[str, ...] = ()
    """Input tokens validated by a forward pass (WeightLens)."""
    promotes: tuple[str, ...] = ()
    """Output tokens (WeightLens)."""
    top: tuple[ActivationExample, ...] = ()
    """The samples with its greatest activations."""
    spread: tuple[ActivationExample, ...] = ()
    """The samples drawn by quantiles of its activations."""
    clusters: tuple[Cluster, ...] = ()
    effects: tuple[str, ...] = ()
    """Tokens whose logits the sampled activations raise (CircuitLens)."""
    base: BaseRates | None = None
    """How often tokens stand elsewhere in the corpus."""
    reads_in_use: tuple[str, ...] = ()
    """Validated input tokens, with those inherited over edges that are used on the corpus (TWERA)."""
    wires: tuple[Wire, ...] = ()
    """These edges, the strongest first."""


JOINED = -2
"""The number for all clusters that resampling does not reproduce: they get one description together, and are not
listed."""


def described(sizes: Mapping[int, int], most: int) -> list[int]:
    """The clusters that are described, the largest first.

    The samples in no cluster (-1) are described like a cluster if they are more than half of all: otherwise the
    description would cover only the smaller part of what fires the feature.
    """
    kept = {number: n for number, n in sizes.items() if number != WHOLE or 2 * n > sum(sizes.values())}
    return sorted(kept, key=lambda number: (-kept[number], number))[:most]


def half(known: FeatureEvidence, parity: int) -> FeatureEvidence:
    """The same evidence from every other document of the corpus alone (even or odd numbers). Clusters, promoted tokens
    and the evidence from weights stay those of the whole corpus."""

    def kept(examples: tuple[ActivationExample, ...]) -> tuple[ActivationExample, ...]:
        return tuple(example for example in examples if example.document % 2 == parity)

    clusters = (replace(cluster, examples=kept(cluster.examples)) for cluster in known.clusters)
    left = tuple(cluster for cluster in clusters if cluster.examples)
    return replace(known, top=kept(known.top), spread=kept(known.spread), clusters=left)


STRONG_SHARE = 0.25
"""Share of the activations, the greatest ones, whose mean counts as strong."""


def strong(examples: Sequence[ActivationExample]) -> float:
    """The mean of the greatest quarter of some activations; 0 for none."""
    largest = sorted((example.activation for example in examples), reverse=True)
    largest = largest[: max(1, round(STRONG_SHARE * len(largest)))]
    return sum(largest) / len(largest) if largest else 0.0


def evidence_for(method: Method, known: FeatureEvidence) -> tuple[Evidence, list[tuple[Cluster, Evidence]]]:
    """The evidence that a method may see: for the whole feature, and for each cluster where the method has clusters."""
    if method == "weightlens+out+llm":
        return Evidence(reads=known.reads, promotes=known.promotes), []
    if method == "weightlens+twera":
        return Evidence(reads=known.reads_in_use, wires=known.wires), []
    if method in ("maxact", "maxact*"):
        examples = known.top if method == "maxact" else known.spread
        return Evidence(examples=examples, strong=strong(examples), base=known.base), []
    level = strong(known.top or [example for cluster in known.clusters for example in cluster.examples])
    whole = Evidence(strong=level, base=known.base)
    parts = [(cluster, replace(whole, examples=cluster.examples)) for cluster in known.clusters]
    whole = replace(whole, strongest=known.top if parts else ())
    if method == "circuitlens-input" or not parts:
        return whole, parts
    if method == "circuitlens-full":
        return replace(whole, promotes=known.effects), parts
    promotes = tuple(dict.fromkeys([*known.effects, *known.promotes]))
    return replace(whole, reads=known.reads, promotes=promotes), parts
