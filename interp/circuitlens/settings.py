"""What CircuitLens's results depend on, besides model, transcoders and samples."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

Share = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class CircuitLensSettings:
    """Attribution of sampled activations, and their clusters."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    features_per_layer: Annotated[int, Gt(0)] | None = None
    """Attribute the samples of so many features of each layer, drawn at random among those that fired; null: of all."""
    samples_per_feature: Annotated[int, Gt(0)] | None = None
    """Attribute so many of a feature's quantile sample, those drawn first, or all that it has; null: all of it."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the draw of features, and of what is ablated at random."""
    heads: Literal["direct", "jacobian"] = "direct"
    """Scores of heads. direct: what a head writes at the firing token, read by the feature directly (the paper).
    jacobian: what it writes at any token, by whatever frozen path."""
    min_share: Share = 0.02
    """A contributor is kept if it has at least this share of all positive contributions of its kind (features, heads by
    source token, tokens) to the activation."""
    max_contributors: Annotated[int, Gt(0)] = 16
    """The strongest so many of each kind, at most."""
    signature_share: Share = 0.05
    """Features and heads by source token with at least this share are a sample's signature."""
    min_frequency: Annotated[float, Ge(0), Le(1)] = 0.1
    """A contributor that is in fewer of a feature's signatures than this share has no part in any."""
    clustering: Literal["ncut", "dbscan", "hdbscan"] = "ncut"
    """How samples are grouped. ncut: cut apart where their sources, or else the heads that bring them, have least in
    common, every sample in a cluster. dbscan (the paper) and hdbscan: by the Jaccard distance of their signatures."""
    max_cut: Annotated[float, Gt(0), Le(2)] = 0.25
    """ncut: a normalised cut of at most this value parts two clusters; 0: they have nothing in common."""
    eps: Share = 0.5
    """DBSCAN: samples at most so far apart are neighbours."""
    min_samples: Annotated[int, Gt(1)] = 5
    """A cluster has so many samples (DBSCAN: within reach of its core); a feature with fewer is not clustered."""
    resamples: Annotated[int, Ge(0)] = 10
    """Times that part of a feature's samples are clustered again to see whether its clusters hold; 0: not at all."""
    qk_samples: Annotated[int, Ge(0)] = 2
    """Of so many of a feature's samples, those drawn first, also say why the heads that brought most looked where they
    looked: the pairs of sources that their scores are sums of (table qk_contributions); 0: of none."""
    qk_heads: Annotated[int, Gt(0)] = 1
    """Significant heads of such a sample, each with its source token, the strongest first."""
    qk_keys: Annotated[int, Gt(0)] = 4
    """Features and tokens at a head's key that are told apart, those that add most to its score; each costs a sweep
    beneath the head."""
    qk_pairs: Annotated[int, Gt(0)] = 8
    """Pairs that are kept of each score, the strongest first."""
    effect_tokens: Annotated[int, Ge(0)] = 10
    """Next tokens kept that a feature promotes most, and as many that it suppresses most; 0: no output effects."""
    continuation_tokens: Annotated[int, Ge(0)] = 0
    """Follow output effects along so many tokens that the model goes on with (greedily) after the firing one. Costs a
    forward pass a token for each sample that is continued."""
    continued_samples: Annotated[int, Gt(0)] = 4
    """Samples of a feature that are continued, the strongest first."""
    ablated_features: Annotated[int, Ge(0)] = 16
    """Features of each layer whose attributions are put to the causal check; 0: none."""
    ablated_samples: Annotated[int, Gt(0)] = 8
    """Samples of such a feature that are checked, spread over its quantiles."""
    ablated_sources: Annotated[int, Gt(0)] = 3
    """Source tokens, and heads, that are ablated at once."""
