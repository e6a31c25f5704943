"""Settings that the results of CircuitLens depend on, besides model, transcoders and samples."""

from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

Share = Annotated[float, Gt(0), Le(1)]

ADDED: dict[str, object] = {"sources": "jacobian", "precision": "float32"}
"""Settings that recipes of earlier versions do not have, with the values that give the same results as those
versions."""


@dataclass(frozen=True)
class CircuitLensSettings:
    """Attribution of sampled activations, and their clusters."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    features_per_layer: Annotated[int, Gt(0)] | None = None
    """Features of each layer whose samples are attributed, drawn at random among those that fired; null: all."""
    samples_per_feature: Annotated[int, Gt(0)] | None = None
    """Samples attributed of each feature, the first ones of its quantile sample; null: all."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the draw of features and of random ablations."""
    sources: Literal["jacobian", "direct"] = "jacobian"
    """How features, tokens, errors and biases are scored. jacobian: along all frozen paths, so that contributions sum
    to the activation. direct: a survey of what arrives through one head at most, without a sweep of gradients; it
    misses causes and does not sum. The pairs of heads' scores (`qk_samples`) take sweeps in any case."""
    heads: Literal["direct", "jacobian"] = "direct"
    """How heads are scored. direct: what a head writes at the firing token, read by the feature directly (the paper).
    jacobian: what it writes at any token, along any frozen path."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the factors of a sweep's products. bfloat16 is up to twice as fast where the processor or GPU has
    units for it, and changes about one contributor in a hundred; sums and contributions stay in float32."""
    min_share: Share = 0.02
    """A contributor is kept if it has at least this share of all positive contributions of its kind (features, heads by
    source token, tokens) to the activation, or `share_of_strongest`."""
    share_of_strongest: Share = 0.2
    """A contributor is also kept if it contributes at least this share of what the strongest of its kind contributes.
    In models with many layers, contributions are spread so thinly that even the strongest may have less than
    `min_share`. At 1, only the strongest is kept beside those of `min_share`."""
    max_contributors: Annotated[int, Gt(0)] = 16
    """Largest number of contributors of each kind that are kept, the strongest first."""
    signature_share: Share = 0.05
    """Features and heads (by source token) with at least this share form a sample's signature."""
    min_frequency: Annotated[float, Ge(0), Le(1)] = 0.1
    """A contributor is left out of all signatures of a feature if fewer than this share of them have it."""
    clustering: Literal["ncut", "dbscan", "hdbscan"] = "ncut"
    """How samples are grouped. ncut: split by normalised cuts where their sources, or else the heads that move them,
    have least in common; every sample is in a cluster. dbscan (the paper) and hdbscan: by the Jaccard distance of
    signatures."""
    max_cut: Annotated[float, Gt(0), Le(2)] = 0.35
    """ncut: two clusters are separated only if their normalised cut is at most this; near 0: only if they have nothing
    in common."""
    max_token_cut: Annotated[float, Gt(0), Le(2)] = 0.8
    """ncut: the same in the lowest layer, where sources are tokens alone and similar as far as they point at the same
    features."""
    eps: Share = 0.5
    """dbscan: samples at most this far apart are neighbours."""
    min_samples: Annotated[int, Gt(1)] = 5
    """Smallest number of samples in a cluster (dbscan: in reach of its core); a feature with fewer is not clustered."""
    resamples: Annotated[int, Ge(0)] = 10
    """How many times a part of a feature's samples is clustered again to measure the stability of its clusters; 0:
    never."""
    qk_samples: Annotated[int, Ge(0)] = 2
    """Samples of a feature (the first ones) for which it is also stored why the heads that contributed most attended
    where they did: the pairs of sources that their scores are sums of (table qk_contributions); 0: none."""
    qk_heads: Annotated[int, Gt(0)] = 1
    """Significant heads of such a sample that are explained, each with its source token, the strongest first."""
    qk_keys: Annotated[int, Gt(0)] = 4
    """Features and tokens at a head's key that are listed one by one, those that add most to its score. Each costs a
    backward sweep over the layers below the head."""
    qk_pairs: Annotated[int, Gt(0)] = 8
    """Pairs of sources stored for each score, the strongest first."""
    effect_tokens: Annotated[int, Ge(0)] = 10
    """Next tokens stored that a feature promotes most, and as many that it suppresses most; 0: no output effects."""
    continuation_tokens: Annotated[int, Ge(0)] = 0
    """Tokens that the model writes greedily after the firing one, along which output effects are followed. Costs a
    forward pass for each token of each sample that is continued."""
    continued_samples: Annotated[int, Gt(0)] = 4
    """Samples of a feature that are continued, the strongest first."""
    ablated_features: Annotated[int, Ge(0)] = 16
    """Features of each layer whose attributions are checked by ablation; 0: none."""
    ablated_samples: Annotated[int, Gt(0)] = 8
    """Samples of such a feature that are checked, spread over its quantiles."""
    ablated_sources: Annotated[int, Gt(0)] = 3
    """Source tokens, and heads, that are ablated together."""

    def __post_init__(self) -> None:
        if self.sources == "direct" and self.heads == "jacobian":
            raise ValueError(
                "heads: jacobian follows the gradients of a sweep, which sources: direct does without; "
                "set heads: direct, or sources: jacobian"
            )
        if self.sources == "direct" and self.precision == "bfloat16":
            raise ValueError("precision: bfloat16 is that of a sweep, which sources: direct does without")

    def named(self) -> dict[str, object]:
        """The settings as they are in recipes. Newer settings are left out at the value in `ADDED`, so that results of
        earlier versions are found."""
        settings = asdict(self)
        for name, before in ADDED.items():
            if settings[name] == before:
                del settings[name]
        return settings
