"""Settings of co-activation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

Layer = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class CoactivationSettings:
    """Which layers' features are compared, and which edges are reported."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    pairs: Literal["all", "edges"] | list[tuple[Layer, Layer]] = "all"
    """all: every feature with every feature of a later layer, stored as matrices. [[source, target], …]: these pairs of
    layers only. edges: only the pairs of features that WeightLens found, without matrices: about a thousandth of the
    disk space."""
    top_k: Annotated[int, Gt(0)] = 20
    """Strongest sources reported for a feature, by |TWERA|."""
    min_support: Annotated[int, Gt(0)] = 10
    """Smallest number of tokens at which both features of a reported edge are active."""
    report_targets: Annotated[int, Gt(0)] = 64
    """Features of each layer from which the report estimates how much the edges depend on the choice of text."""

    def layer_pairs(self, layers: Sequence[int]) -> list[tuple[int, int]]:
        """(source layer, target layer) of all pairs of the layers that are compared.

        Raises:
            ValueError: a pair with another layer, or whose source is not the earlier one.
        """
        if isinstance(self.pairs, str):
            return [(source, target) for target in layers for source in layers if source < target]
        for source, target in self.pairs:
            if not (source < target and source in layers and target in layers):
                whole = list(layers) == list(range(len(layers)))
                named = f"0 to {len(layers) - 1}" if whole else ", ".join(map(str, layers))
                raise ValueError(
                    f"coactivation.pairs: [{source}, {target}] is not an earlier and a later one of the layers {named}"
                )
        return sorted({(source, target) for source, target in self.pairs}, key=lambda pair: pair[::-1])
