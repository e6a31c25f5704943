"""Settings of the corpus pass."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

Keep = Literal["none", "all"]


@dataclass(frozen=True)
class ActivationSettings:
    """Which tokens count, and how many of a feature's activations are drawn."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    special_tokens: Literal["leave_out", "count"] = "leave_out"
    """Whether positions of BOS and of the tokenizer's other special tokens count. In many releases their activations
    are a hundred times those of text. Padding never counts."""
    skip_row_start: Annotated[int, Ge(0)] = 1
    """Positions at the start of every row, and of every text that is read on its own, that do not count: a model
    without BOS treats the first token as others treat BOS. Where rows begin with BOS, 1 is BOS itself."""
    skip_document_start: Annotated[int, Ge(0)] = 0
    """Tokens at the start of every document that do not count, BOS included. A text that is read on its own is a
    document."""
    n_samples: Annotated[int, Ge(0)] = 100
    """Size of a feature's quantile sample. The paper: 100."""
    n_bins: Annotated[int, Gt(0)] = 20
    """Quantile bins of a feature's activations. The paper: 20."""
    alpha: Annotated[float, Ge(0)] = 0.9
    """An activation in a bin of n is drawn with weight 1 / n^alpha. The paper: 0.9."""
    n_top: Annotated[int, Ge(0)] = 20
    """Greatest activations of a feature that are kept in addition."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the draw; equal seeds draw equal samples."""
    keep: Keep = "none"
    """Which sparse activations stay in the store, at about 5 bytes each: none, or all. With all, the catalog also has
    the feature's activations at the tokens around its samples, and is some 40% larger."""

    @property
    def counted(self) -> dict[str, object]:
        """The settings that decide which tokens count."""
        names = ("special_tokens", "skip_row_start", "skip_document_start")
        return {name: getattr(self, name) for name in names}

    @property
    def drawn(self) -> dict[str, object]:
        """The settings that decide what is drawn."""
        return {name: getattr(self, name) for name in ("n_samples", "n_bins", "alpha", "n_top", "seed")}
