"""Sparse lists of tokens for each feature."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Integer


@dataclass(frozen=True)
class FeatureTokens:
    """For a range of features, tokens with a value each: CSR by feature, tokens in ascending order."""

    indptr: Integer[np.ndarray, " n_features_plus_1"]
    token: Integer[np.ndarray, " n"]
    value: Float32[np.ndarray, " n"]

    @property
    def n_features(self) -> int:
        """Number of features of the layer, those without tokens included."""
        return len(self.indptr) - 1

    def features(self, start: int, stop: int) -> "FeatureTokens":
        """The entries of the features from `start` to `stop`; in the result, features are counted from `start`."""
        low, high = self.indptr[start], self.indptr[stop]
        return FeatureTokens(self.indptr[start : stop + 1] - low, self.token[low:high], self.value[low:high])

    def look_up(
        self, feature: Integer[np.ndarray, " m"], token: Integer[np.ndarray, " m"]
    ) -> Float32[np.ndarray, " m"]:
        """The values at (feature, token) pairs; 0 where there is none."""
        if len(self.token) == 0:
            return np.zeros(len(feature), np.float32)
        width = max(int(self.token.max(initial=0)), int(np.max(token, initial=0))) + 1
        owner = np.repeat(np.arange(self.n_features), np.diff(self.indptr))
        known = owner * width + self.token
        wanted = feature.astype(np.int64) * width + token
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[place] == wanted, self.value[place], 0).astype(np.float32)

    def expand(self, feature: Integer[np.ndarray, " m"]) -> tuple[np.ndarray, np.ndarray]:
        """All tokens of each of the features: (which of the m, token), in order."""
        counts = np.diff(self.indptr)[feature]
        owner = np.repeat(np.arange(len(feature)), counts)
        offset = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owner, self.token[self.indptr[feature][owner] + offset]


def feature_tokens(
    feature: Integer[np.ndarray, " n"],
    token: Integer[np.ndarray, " n"],
    value: Float32[np.ndarray, " n"],
    n_features: int,
) -> FeatureTokens:
    """Sort (feature, token, value) triples, each pair given once, into a `FeatureTokens`."""
    order = np.lexsort((token, feature))
    indptr = np.searchsorted(feature[order], np.arange(n_features + 1))
    return FeatureTokens(indptr, token[order].astype(np.int32), value[order].astype(np.float32))


def ranks(row: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " n"]:
    """The index of each entry within its run of equal, adjacent `row`s, counted from 0."""
    places = np.arange(len(row))
    first = np.r_[True, row[1:] != row[:-1]] if len(row) else np.zeros(0, bool)
    return places - np.maximum.accumulate(np.where(first, places, 0))
