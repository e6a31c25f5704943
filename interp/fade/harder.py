"""Tests that a vague description fails: texts of similar features, and the odd one out among a feature's own texts.

Hard negatives and intruders after Paulo et al. (2024, arXiv 2410.13928) and Paulo and Belrose (2025, arXiv 2507.08473).
"""

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.sparse import csr_array

from interp.fade.judge import Marked, NaturalTexts
from interp.fade.texts import Active

T = TypeVar("T")

LOOK_ALIKES = 3
"""Number of nearest other features, of each kind of nearness, whose texts are a feature's hard negatives."""

IN_GROUP = 5
"""Texts in a group with one intruder; chance is one in five."""


class LookAlikes(NamedTuple):
    """The nearest other features of one feature, nearest first, as indices into the features whose activations were
    read."""

    by_decoder: Sequence[int] = ()
    by_tokens: Sequence[int] = ()


class HardNegatives(NamedTuple):
    """Texts in which a similar feature is active and the feature itself is not."""

    texts: Int64[np.ndarray, " n"] = np.zeros(0, np.int64)
    """Indices of the natural texts."""
    marked: Sequence[Marked] = ()
    """The same texts, with the tokens marked at which the similar feature is active."""


class OddOneOut(NamedTuple):
    """Texts with marked tokens: in all but one of them, the tokens at which the feature is active."""

    texts: tuple[Marked, ...]
    odd: int
    """Index of the intruder: a text in which the feature is silent, with random tokens marked."""


def nearest_by_decoder(
    W_dec: Float[np.ndarray, "d_transcoder d_model"],
    features: Int64[np.ndarray, " n"],
    among: Bool[np.ndarray, " d_transcoder"],
    most: int = LOOK_ALIKES,
) -> Int64[np.ndarray, "n most"]:
    """For each of some features, the others whose decoder rows have the greatest cosine similarity with its own; −1
    where there are fewer. Memory: four bytes for each pair of a feature and another of the layer, and a copy of the
    decoder."""
    rows = W_dec / np.maximum(np.linalg.norm(W_dec, axis=1, keepdims=True), 1e-12)
    return _nearest(rows[features] @ rows.T, features, among, most, least=-2.0)


def nearest_by_tokens(
    candidates: Int64[np.ndarray, "pairs 2"],
    features: Int64[np.ndarray, " n"],
    among: Bool[np.ndarray, " d_transcoder"],
    most: int = LOOK_ALIKES,
) -> Int64[np.ndarray, "n most"]:
    """The nearest features by the input tokens that their weights suggest: cosine similarity of the sets of (feature,
    token) pairs.

    −1 where no other feature shares a token.
    """
    feature, token = candidates.T if len(candidates) else np.zeros((2, 0), np.int64)
    shape = (len(among), int(token.max(initial=0)) + 1)
    sets = csr_array((np.ones(len(feature), np.float32), (feature, token)), shape)
    sets.data[:] = 1  # a pair that occurs twice counts once
    size = np.maximum(np.sqrt(np.asarray(sets.sum(1)).ravel()), 1e-12)
    shared = (sets[features] @ sets.T).toarray() / size[features, None] / size
    return _nearest(shared, features, among, most, least=0.0)


def _nearest(
    likeness: Float[np.ndarray, "n d_transcoder"],
    features: Int64[np.ndarray, " n"],
    among: Bool[np.ndarray, " d_transcoder"],
    most: int,
    *,
    least: float,
) -> Int64[np.ndarray, "n most"]:
    likeness[:, ~among] = -np.inf
    likeness[np.arange(len(features)), features] = -np.inf
    most = min(most, likeness.shape[1])
    best = np.argsort(-likeness, axis=1, kind="stable")[:, :most]
    return np.where(np.take_along_axis(likeness, best, 1) > least, best, -1)


def hard_negatives(active: Active, feature: int, alike: LookAlikes, natural: NaturalTexts, n: int) -> HardNegatives:
    """At most `n` texts: half from the nearest by decoder and half from the nearest by tokens, if there are enough,
    taken in turn, the most active first. `active` are the activations of all features that were read."""
    silent = active.of(feature).peaks(len(natural.texts)) == 0
    kinds = [
        _in_turn([_strongest(active.of(other), silent, n) for other in others])
        for others in (alike.by_decoder, alike.by_tokens)
    ]
    chosen: dict[int, tuple[int, ...]] = {}
    for text, places in _in_turn(kinds):
        if len(chosen) == n:
            break
        chosen.setdefault(text, places)
    marked = [Marked(natural.texts[text], places) for text, places in chosen.items()]
    return HardNegatives(np.array(list(chosen), np.int64), marked)


def _strongest(of: Active, silent: np.ndarray, n: int) -> list[tuple[int, tuple[int, ...]]]:
    """The texts in which one feature is most active while another is silent, with the tokens at which it is active."""
    peaks = np.where(silent, of.peaks(len(silent)), 0)
    best = np.argsort(-peaks, kind="stable")[:n]
    return [(int(text), tuple(of.place[of.text == text].tolist())) for text in best[peaks[best] > 0]]


def _in_turn(lists: Sequence[Sequence[T]]) -> list[T]:
    """Take one item of each list in turn until all are used up."""
    return [one for one in chain.from_iterable(zip_longest(*lists)) if one is not None]


def odd_ones_out(
    where: Mapping[int, np.ndarray], natural: NaturalTexts, n: int, random: np.random.Generator
) -> list[OddOneOut]:
    """At most `n` groups of `IN_GROUP` texts. No text is in two groups, so that groups are independent.

    `where` has, for each text, the tokens at which the feature is active.
    """
    firing = random.permutation(list(where)).astype(np.int64)
    quiet = random.permutation(np.setdiff1d(np.arange(len(natural.texts)), firing))
    groups = []
    for at in range(min(n, len(firing) // (IN_GROUP - 1), len(quiet))):
        own = firing[at * (IN_GROUP - 1) : (at + 1) * (IN_GROUP - 1)].tolist()
        texts = [Marked(natural.texts[text], tuple(where[text].tolist())) for text in own]
        n_marked, intruder = len(where[own[0]]), int(quiet[at])
        counted = random.permutation(np.flatnonzero(natural.counted[intruder]))[:n_marked]
        odd = int(random.integers(IN_GROUP))
        texts.insert(odd, Marked(natural.texts[intruder], tuple(sorted(counted.tolist()))))
        groups.append(OddOneOut(tuple(texts), odd))
    return groups
