"""Which features of a layer a token's embedding points at, so that different tokens of one kind are similar.

Below the lowest layer with features there are none to say what tokens have in common. Two tokens are similar there as
far as they score high for the same features of that layer; the feature that is explained must be left out, since all
its sources point at it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

HIGH = 1.0
"""A token points at a feature if its score is this many standard deviations above the mean over the vocabulary."""


class TokenProfiles(NamedTuple):
    """Profiles of some tokens."""

    token: Int64[np.ndarray, " n"]
    """Token ids, ascending."""
    feature: Int64[np.ndarray, " k"]
    """Features of the layer, ascending."""
    vector: Float32[np.ndarray, "n k"]
    """Of each token: its scores for the features that it points at, and 0 for others; length 1, or 0 if it points at
    none."""

    def of(self, tokens: Int64[np.ndarray, " m"]) -> "TokenProfiles":
        """The profiles of some of the tokens alone."""
        kept = np.isin(self.token, tokens)
        return TokenProfiles(self.token[kept], self.feature, self.vector[kept])

    def without(self, features: Sequence[int] | Int64[np.ndarray, " m"]) -> "TokenProfiles":
        """The profiles without some features."""
        kept = ~np.isin(self.feature, features)
        return TokenProfiles(self.token, self.feature[kept], _unit(self.vector[:, kept]))


class Probes(NamedTuple):
    """Features of a layer, and how a token's embedding scores for each of them in general."""

    feature: Int64[np.ndarray, " k"]
    """Ascending."""
    read: Float64[np.ndarray, "d_model k"]
    """Encoder directions, in float64, so that a score does not depend on which tokens are computed with it."""
    mean: Float64[np.ndarray, " k"]
    spread: Float64[np.ndarray, " k"]
    """Standard deviation."""


def probes_of(
    feature: Int64[np.ndarray, " k"],
    directions: Float32[np.ndarray, "k d_model"],
    vocabulary: Float32[np.ndarray, "m d_model"],
) -> Probes:
    """Features by their encoder directions. `vocabulary` are the embeddings over which scores have a mean and a
    standard deviation."""
    read = directions.T.astype(np.float64)
    usual = vocabulary @ read
    return Probes(feature, read, usual.mean(0), np.maximum(usual.std(0), np.finfo(np.float32).tiny))


def token_profiles(
    token: Int64[np.ndarray, " n"], embedding: Float32[np.ndarray, "n d_model"], probes: Probes
) -> TokenProfiles:
    """Profiles of tokens by the products of their embeddings with the features' encoder directions. Memory: two numbers
    of 8 bytes for each token and feature."""
    score = (embedding @ probes.read - probes.mean) / probes.spread
    return TokenProfiles(token, probes.feature, _unit(np.where(score > HIGH, score, 0).astype(np.float32)))


def _unit(vector: Float32[np.ndarray, "n k"]) -> Float32[np.ndarray, "n k"]:
    return vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), np.finfo(np.float32).tiny)
