"""Which features of a layer are described or judged, if not all are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """How many features are drawn, and how."""

    per_layer: int | None
    """Number for each layer; features that most methods can describe come first, ties are broken at random (seeded).
    None: all."""
    sample: int | None
    """Number for the whole model, each feature of a layer with equal probability; overrides `per_layer`."""
    layers: tuple[int, ...]
    """The ingested layers."""
    only: dict[int, tuple[int, ...]] | None = None
    """By layer, the features that may be drawn; None: all."""

    @property
    def is_all(self) -> bool:
        """Whether no feature is left out."""
        return self.per_layer is None and self.sample is None and self.only is None

    def of_layer(self, features: Sequence[int], n_methods: Sequence[int], layer: int, seed: int) -> list[int]:
        """The features of a layer that are drawn, in the order of the draw.

        `n_methods[i]` is the number of methods that can describe `features[i]`. Equal seeds give equal draws, and a
        larger number extends the same list.
        """
        if self.only is not None:
            wanted = np.isin(features, self.only.get(layer, ()))
            features, n_methods = np.asarray(features)[wanted].tolist(), np.asarray(n_methods)[wanted].tolist()
        chance = np.random.default_rng([seed, layer]).permutation(len(features))
        if self.sample is not None:
            order = np.argsort(chance)
            whole, rest = divmod(self.sample, len(self.layers))
            at = int(np.random.default_rng(seed).permutation(len(self.layers))[self.layers.index(layer)])
            most = whole + (at < rest)
        else:
            order = np.lexsort((chance, -np.asarray(n_methods, np.int64)))
            most = len(features) if self.per_layer is None else self.per_layer
        return [int(features[i]) for i in order[:most]]
