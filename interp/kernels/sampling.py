"""Compiled loops over one feature's activations: moments, quantiles, and samples drawn from them."""

import numpy as np
from numba import njit

from interp.kernels.activations import kth_greatest


@njit(nogil=True, cache=True)
def moments(indptr, value):
    """Every feature's Σ value and Σ value², in float64, added up in order, and its greatest value."""
    n = len(indptr) - 1
    total, squares, greatest = np.zeros(n), np.zeros(n), np.zeros(n, np.float32)
    for f in range(n):
        for i in range(indptr[f], indptr[f + 1]):
            x = np.float64(value[i])
            total[f] += x
            squares[f] += x * x
            greatest[f] = max(greatest[f], value[i])
    return total, squares, greatest


@njit(nogil=True, cache=True, inline="always")
def _mix(x):
    """SplitMix64's finaliser: every bit of the output depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, cache=True)
def uniform(seed, layer, feature, position):
    """A pseudo-random number in (0, 1) that is a hash of the arguments, so that it does not depend on the order of
    draws."""
    x = _mix(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15))
    x = _mix(x ^ (np.uint64(layer) << np.uint64(32)) ^ np.uint64(feature))
    x = _mix(x ^ np.uint64(position))
    return (np.float64(x >> np.uint64(11)) + 0.5) / 9007199254740992.0


@njit(nogil=True, cache=True)
def quantiles(ordered, n_bins, out):
    """Quantiles at 0, 1/n_bins, … 1 of ascending values, by linear interpolation."""
    n = len(ordered)
    for b in range(n_bins + 1):
        rank = b * (n - 1) / n_bins
        low = int(np.floor(rank))
        high = min(low + 1, n - 1)
        a, z = np.float64(ordered[low]), np.float64(ordered[high])
        out[b] = a + (z - a) * (rank - low)


@njit(nogil=True, cache=True, inline="always")
def _not_above(x):
    """The greatest float32 that is at most a float64."""
    y = np.float32(x)
    return y if np.float64(y) <= x else np.nextafter(y, np.float32(-np.inf))


@njit(nogil=True, cache=True)
def _bins(values, edges, out):
    """The bin of each value: the number of inner edges that it is above. One edge at a time, which is vector code."""
    out[:] = 0
    for e in range(1, len(edges) - 1):
        limit = _not_above(edges[e])
        for i in range(len(values)):
            out[i] += values[i] > limit


@njit(nogil=True, cache=True)
def _limit(in_bin, slowness, wanted):
    """The time before which `wanted` of the entries are expected to be drawn: n (1 − e^(−t/slowness)) of a bin."""
    low, high = 0.0, 1.0
    while (in_bin * -np.expm1(-high / slowness)).sum() < wanted:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        if (in_bin * -np.expm1(-middle / slowness)).sum() < wanted:
            low = middle
        else:
            high = middle
    return high


@njit(nogil=True, cache=True)
def _first_drawn(position, bins, in_bin, alpha, n_samples, seed, layer, feature, hits, keys):
    """Draw entries with weights 1 / n^alpha, n being the size of their bin, without replacement, in order of drawing.

    The earliest of exponential times with rates w is a draw with weights w. Times are computed only for entries whose
    random number makes them early; if these are too few, for more. hits, keys: room for all entries.
    """
    n = len(position)
    if n_samples == 0:
        return np.zeros(0, np.int64)
    slowness = in_bin**alpha
    wanted = n_samples + 6 * np.sqrt(n_samples) + 10
    limit = _limit(in_bin, slowness, wanted) if n > 2 * wanted else np.inf
    while True:
        least = np.exp(-limit / slowness)
        n_hits = np.uint64(0)
        for i in range(n):
            u = uniform(seed, layer, feature, position[i])
            hits[n_hits], keys[n_hits] = i, u
            n_hits += np.uint64(u > least[bins[i]])
        for h in range(n_hits):
            keys[h] = -np.log(keys[h]) * slowness[bins[hits[h]]]
        early = _least(keys[:n_hits], n_samples)
        if limit == np.inf or (len(early) == n_samples and keys[early[-1]] < limit * (1 - 1e-9)):
            return hits[early]
        limit = 2 * limit if limit < 1e300 else np.inf


@njit(nogil=True, cache=True)
def _least(keys, k):
    """The indices of the `k` least keys, in ascending order; among equals, the earlier ones first."""
    if k == 0:
        return np.zeros(0, np.int64)
    candidates = np.arange(len(keys))
    if len(keys) > k:
        limit = -kth_greatest(-keys, k)
        candidates = np.flatnonzero(keys <= limit)
    return candidates[np.argsort(keys[candidates], kind="mergesort")[:k]]


@njit(nogil=True, cache=True)
def _top(values, ordered, k, hits):
    """The indices of the `k` greatest values, in descending order; among equals, the earlier ones first."""
    k = min(k, len(values))
    if k == 0:
        return np.zeros(0, np.int64)
    limit, n_hits = ordered[len(ordered) - k], np.uint64(0)
    for i in range(len(values)):
        hits[n_hits] = i
        n_hits += np.uint64(values[i] >= limit)
    found = hits[:n_hits]
    return found[np.argsort(-values[found], kind="mergesort")[:k]]


@njit(nogil=True, cache=True)
def draw(indptr, position, value, ordered, layer, first, n_bins, alpha, n_samples, n_top, seed):
    """Draw every feature's samples; see `interp.activations.sampling.draw_samples`.

    ordered: the values of each feature, ascending. Returns the number of samples of each feature, the entries drawn,
    their bins (−1: kept as one of the greatest), and the edges of the bins (features, n_bins + 1), NaN where a feature
    has no entries.
    """
    n_features = len(indptr) - 1
    edges = np.full((n_features, n_bins + 1), np.nan)
    room, most = 0, 0
    for f in range(n_features):
        n = indptr[f + 1] - indptr[f]
        room += min(n, n_samples) + min(n, n_top)
        most = max(most, n)
    counts = np.zeros(n_features, np.int64)
    entry, bin_of = np.empty(room, np.int64), np.empty(room, np.int64)
    bins, hits, keys = np.empty(most, np.int32), np.empty(most + 1, np.int64), np.empty(most + 1, np.float64)
    taken = np.zeros(most, np.bool_)
    at = 0
    for f in range(n_features):
        begin, n = indptr[f], indptr[f + 1] - indptr[f]
        if n == 0:
            continue
        own = slice(begin, begin + n)
        quantiles(ordered[own], n_bins, edges[f])
        _bins(value[own], edges[f], bins[:n])
        in_bin = np.zeros(n_bins, np.float64)
        for i in range(n):
            in_bin[bins[i]] += 1
        taken[:n] = False
        for i in _first_drawn(position[own], bins[:n], in_bin, alpha, n_samples, seed, layer, first + f, hits, keys):
            entry[at], bin_of[at] = begin + i, bins[i]
            taken[i] = True
            at += 1
            counts[f] += 1
        for i in _top(value[own], ordered[own], n_top, hits):
            if not taken[i]:
                entry[at], bin_of[at] = begin + i, -1
                at += 1
                counts[f] += 1
    return counts, entry[:at], bin_of[:at], edges
