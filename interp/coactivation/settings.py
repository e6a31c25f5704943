"""Settings of co-activation."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

Layer = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class CoactivationSettings:
    """Which layers' features are compared, and which edges are reported."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    pairs: Literal["all", "edges"] | list[tuple[Layer, Layer]] = "all"
    """all: every feature with every feature of a later layer, kept as matrices. [[source, target], …]: those layers
    alone. edges: only the pairs of features that WeightLens found, without matrices: about a thousandth of the disk."""
    top_k: Annotated[int, Gt(0)] = 20
    """Sources that are reported of a feature, by |TWERA|."""
    min_support: Annotated[int, Gt(0)] = 10
    """An edge is reported if both its features are active at so many tokens at least."""
    report_targets: Annotated[int, Gt(0)] = 64
    """Features a layer by which the report tells how far the edges depend on the text."""

    def layer_pairs(self, n_layers: int) -> list[tuple[int, int]]:
        """(source layer, target layer) of all pairs of layers that are compared.

        Raises:
            ValueError: a pair of layers that the model does not have, or whose source is not the earlier one.
        """
        if isinstance(self.pairs, str):
            return [(source, target) for target in range(n_layers) for source in range(target)]
        for source, target in self.pairs:
            if not source < target < n_layers:
                raise ValueError(
                    f"coactivation.pairs: [{source}, {target}] is not an earlier and a later one of the layers "
                    f"0 to {n_layers - 1}"
                )
        return sorted({(source, target) for source, target in self.pairs}, key=lambda pair: pair[::-1])
