"""What a description may rest on: for each method exactly what the paper lets it see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from interp.descriptions.base_rates import BaseRates
from interp.descriptions.wiring import Wire

Method = Literal[
    "weightlens+out+llm", "weightlens+twera", "maxact", "maxact*", "circuitlens-input", "circuitlens-full", "wl+cl"
]  # fmt: skip
"""The methods of this stage; `weightlens` and `weightlens+out` are worded by the weightlens stage."""

WHOLE = -1
"""The `cluster` of a description of the whole feature."""


@dataclass(frozen=True)
class ActivationExample:
    """One sampled activation: the text around it, as tokens."""

    tokens: tuple[str, ...]
    at: int
    """The firing token."""
    activation: float
    causes: tuple[int, ...] | None = None
    """Tokens that drive the activation by CircuitLens, the strongest first; None: not attributed, the whole text may be
    looked at."""
    document: int = 0
    """That it is from, counted through the corpora."""

    @property
    def fires(self) -> str:
        return self.tokens[self.at]


@dataclass(frozen=True)
class Evidence:
    """What is known of a feature, or of one of its clusters."""

    reads: tuple[str, ...] = ()
    """Tokens that fire the feature alone, the strongest first (WeightLens)."""
    moments: tuple[ActivationExample, ...] = ()
    """Sampled activations, the strongest first."""
    promotes: tuple[str, ...] = ()
    """Next tokens that the feature makes more likely, the strongest first."""
    strongest: tuple[ActivationExample, ...] = ()
    """Of samples over the whole range, the feature's greatest activations beside them: what drives it, said first."""
    strong: float = 0.0
    """The feature's strong activations, on average: what words are called weak or strong by."""
    base: BaseRates | None = None
    """How often tokens stand elsewhere in the corpus; None: nothing is compared with."""
    wires: tuple[Wire, ...] = ()
    """Earlier features that drive it on the corpus, the strongest first: along their wiring `reads` were inherited."""

    @property
    def tells_something(self) -> bool:
        return bool(self.reads or self.moments or self.promotes)


def pattern(moment: ActivationExample) -> str:
    """A moment as a person reads it: the firing token marked, of attributed ones only the causes, gaps as `…`."""
    shown = set(range(len(moment.tokens))) if moment.causes is None else {*moment.causes, moment.at}
    pieces: list[str] = []
    for at, token in enumerate(moment.tokens):
        if at in shown:
            pieces.append(f"«{token}»" if at == moment.at else token)
        elif not pieces or pieces[-1] != " …":
            pieces.append(" …")
    return "".join(pieces)


@dataclass(frozen=True)
class Cluster:
    """One mechanism that CircuitLens described apart."""

    number: int
    """-1: the samples that belong to none; `JOINED`: those of clusters that do not hold."""
    share: float
    """Of the feature's attributed samples."""
    moments: tuple[ActivationExample, ...]


@dataclass(frozen=True)
class FeatureEvidence:
    """All that the catalog knows of one feature."""

    reads: tuple[str, ...] = ()
    """Validated tokens (WeightLens)."""
    promotes: tuple[str, ...] = ()
    """Output tokens (WeightLens)."""
    top: tuple[ActivationExample, ...] = ()
    """Its greatest activations."""
    spread: tuple[ActivationExample, ...] = ()
    """The quantile sample."""
    clusters: tuple[Cluster, ...] = ()
    effects: tuple[str, ...] = ()
    """Tokens whose logits its sampled activations raise (CircuitLens)."""
    base: BaseRates | None = None
    """How often tokens stand elsewhere in the corpus."""
    reads_in_use: tuple[str, ...] = ()
    """Validated tokens, those inherited along the wiring that the corpus uses."""
    wires: tuple[Wire, ...] = ()
    """That wiring."""


JOINED = -2
"""Number of the samples of all clusters that do not hold under resampling: described as one, and not listed."""


def described(sizes: Mapping[int, int], most: int) -> list[int]:
    """Of clusters by number, those that are described, the largest first.

    The samples of no cluster (-1) are described like one where they are more than half: clusters alone would speak of
    the smaller part of what fires the feature.
    """
    kept = {number: n for number, n in sizes.items() if number != WHOLE or 2 * n > sum(sizes.values())}
    return sorted(kept, key=lambda number: (-kept[number], number))[:most]


def half(known: FeatureEvidence, parity: int) -> FeatureEvidence:
    """What would be known of a feature from every other document of the corpus alone; clusters, promoted tokens and
    what weights tell stay those of the whole."""

    def kept(moments: tuple[ActivationExample, ...]) -> tuple[ActivationExample, ...]:
        return tuple(moment for moment in moments if moment.document % 2 == parity)

    clusters = (replace(cluster, moments=kept(cluster.moments)) for cluster in known.clusters)
    left = tuple(cluster for cluster in clusters if cluster.moments)
    return replace(known, top=kept(known.top), spread=kept(known.spread), clusters=left)


STRONG_SHARE = 0.25
"""Of the activations that are looked at, those that say what is strong."""


def strong(moments: Sequence[ActivationExample]) -> float:
    """The mean of the strongest quarter of some activations; 0 of none."""
    largest = sorted((moment.activation for moment in moments), reverse=True)
    largest = largest[: max(1, round(STRONG_SHARE * len(largest)))]
    return sum(largest) / len(largest) if largest else 0.0


def evidence_for(method: Method, known: FeatureEvidence) -> tuple[Evidence, list[tuple[Cluster, Evidence]]]:
    """What a method may look at: of the whole feature, and of each cluster where the method tells them apart."""
    if method == "weightlens+out+llm":
        return Evidence(reads=known.reads, promotes=known.promotes), []
    if method == "weightlens+twera":
        return Evidence(reads=known.reads_in_use, wires=known.wires), []
    if method in ("maxact", "maxact*"):
        moments = known.top if method == "maxact" else known.spread
        return Evidence(moments=moments, strong=strong(moments), base=known.base), []
    level = strong(known.top or [moment for cluster in known.clusters for moment in cluster.moments])
    whole = Evidence(strong=level, base=known.base)
    parts = [(cluster, replace(whole, moments=cluster.moments)) for cluster in known.clusters]
    whole = replace(whole, strongest=known.top if parts else ())
    if method == "circuitlens-input" or not parts:
        return whole, parts
    if method == "circuitlens-full":
        return replace(whole, promotes=known.effects), parts
    promotes = tuple(dict.fromkeys([*known.effects, *known.promotes]))
    return replace(whole, reads=known.reads, promotes=promotes), parts
