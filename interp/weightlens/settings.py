"""Settings of WeightLens."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, MinLen

from interp.projection import ZScoreMode

Compat = Literal["authors"]

AUTHORS_BOS = 2
"""The token that the authors' code puts before every single token, for any model."""


@dataclass(frozen=True)
class WeightLensSettings:
    """Thresholds and pools of the projections."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    mode: ZScoreMode = "paper"
    """paper: z-scores against the pool of the strongest scores of a tail, as the authors compute them; full: against
    the whole vocabulary or layer."""
    z_tokens: Annotated[float, Gt(0)] = 4.0
    """A token is a candidate if its |z-score| is above this. The paper: 4.5 for Gemma-2-2B and Llama-3.2-1B, 4 for
    GPT-2."""
    z_features: Annotated[float, Gt(0)] = 3.0
    """An earlier feature is upstream if its z-score is above this. The paper: 3."""
    token_pool: Annotated[int, Gt(1)] = 1000
    """Strongest tokens of each tail that are considered."""
    feature_pool: Annotated[int, Gt(1)] = 100
    """Strongest features of each earlier layer that are considered."""
    upstream: Literal["all"] | list[Annotated[int, Ge(0)]] = "all"
    """Layers whose features may be upstream: all earlier ones, or a list of layers (the paper for GPT-2: [0])."""
    fold_norms: bool = True
    """Whether the weights (and centring) of norms between weights and the residual stream are folded into the
    weights."""
    compat: Compat | None = None
    """authors: reproduce the known faults of the authors' code, to compare with their results: token 2 as BOS in every
    model, upstream tokens validated as one sequence, nothing subtracted from the input."""

    def upstream_layers(self, layer: int) -> list[int]:
        """The layers whose features may be upstream of a feature of `layer`."""
        return [at for at in range(layer) if self.upstream == "all" or at in self.upstream]


@dataclass(frozen=True)
class WordingSettings:
    """How validated tokens are put into words."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    languages: Annotated[tuple[str, ...], MinLen(0)] = ("en",)
    """Languages whose word forms are grouped, as simplemma codes, tried in order; none: no lemmas."""
    max_words: Annotated[int, Gt(0)] = 12
    """Words named in a description; its list of tokens has all of them."""
    near_duplicate: Annotated[float, Gt(0)] = 90.0
    """Words of six or more letters count as one if they are at least this similar (rapidfuzz ratio, 0 to 100)."""
