"""Compiled loops over sparse activations: find them in a block of pre-activations, turn them round, draw from them.

Positions are counted through a block of rows or through a corpus, row after row. CSR arrays have one row a feature
(`by feature`) or one row a position (`by token`).
"""

import numpy as np
from numba import njit

GROUP = 16
"""Features compared at once by the greatest of them, in vector code."""

FEW = 64
"""Values among which the k greatest are sought by counting."""

FEW_GROUP = 8
"""Likewise, where the k greatest of all are sought, so that there are more groups than k."""

HALVINGS = 6
"""Of an interval in which a limit is sought."""


@njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def compress(pre, bias, threshold, position, first, token, feature, value):
    """Add biases to a block of products (tokens, features) and list what is above the threshold, token by token.

    position: of each token; first: the block's first feature. Entries are written to token, feature and value, which
    have room for all of the block. Returns how many there are.
    """
    n_tokens, n = pre.shape
    n_groups = n // GROUP
    high = np.empty(n_groups, np.float32)
    found = 0
    for t in range(n_tokens):
        line = pre[t]
        for g in range(n_groups):
            most, odd = line[g] + bias[g] - threshold[g], False
            for at in range(GROUP):  # as many as the compiler knows, or this is not vector code
                c = g + at * n_groups
                x = line[c] + bias[c] - threshold[c]
                most, odd = max(most, x), odd | (x != x)
            high[g] = np.float32(0) if odd else most
        for g in range(n_groups):
            if not high[g] < 0:
                for c in range(g, n_groups * GROUP, n_groups):
                    x = line[c] + bias[c]
                    if not x <= threshold[c]:
                        token[found], feature[found], value[found] = position[t], first + c, x
                        found += 1
        for c in range(n_groups * GROUP, n):
            x = line[c] + bias[c]
            if not x <= threshold[c]:
                token[found], feature[found], value[found] = position[t], first + c, x
                found += 1
    return found


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def rescore(x, W_enc, bias, threshold, position, n_found, token, feature, value):
    """Keep of the first entries, whose tokens are rows of x, what is above the threshold by their own products.

    Afterwards they have positions for tokens. Returns how many there are.
    """
    kept = 0
    for i in range(n_found):
        row, f = token[i], feature[i]
        a, w = x[row], W_enc[f]
        product = np.float32(0)
        for at in range(len(a)):
            product += a[at] * w[at]
        active = product + bias[f]
        if not active <= threshold[f]:
            token[kept], feature[kept], value[kept] = position[row], f, active
            kept += 1
    return kept


@njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def compress_top(pre, bias, k, position, token, feature, value):
    """Likewise with the `k` greatest of every token that are above zero; of equals, those of the smaller features.

    The output has room for `k` entries a token and one more.
    """
    n_tokens, n = pre.shape
    n_groups = n // FEW_GROUP
    line, high, groups = np.empty(n, np.float32), np.empty(n_groups, np.float32), np.empty(n_groups + 1, np.uint32)
    hits, few = np.empty(n + 1, np.uint32), np.empty(FEW, np.float32)
    found = np.uint64(0)
    for t in range(n_tokens):
        products = pre[t]
        for c in range(n):
            line[c] = products[c] + bias[c]
        _greatest_of_groups(line, high)
        n_hits = _above(line, high, _that_k_are_above(high, k), groups, hits)
        limit = np.float32(0)
        if n_hits > k:
            limit = np.float32(np.nan)
            if n_hits <= FEW:
                for i in range(n_hits):
                    few[i] = line[hits[i]]
                for i in range(n_hits, FEW):
                    few[i] = 0
                limit = _between(few, k)
        if limit == limit:
            for i in range(n_hits):
                token[found], feature[found], value[found] = position[t], hits[i], line[hits[i]]
                found += np.uint64(not line[hits[i]] <= limit)
        else:
            own = np.sort(hits[:n_hits])
            limit = _greatest(line[own], k)
            if limit != limit:
                limit = np.float32(np.inf)  # so that what is no number is listed, and refused
            n_equal = k
            for c in own:
                n_equal -= not line[c] <= limit
            room = found + np.uint64(k)
            for c in own:
                x = line[c]
                if found < room and (not x <= limit or (x == limit and n_equal > 0)):
                    n_equal -= x == limit
                    token[found], feature[found], value[found] = position[t], c, x
                    found += np.uint64(1)
    return found


@njit(nogil=True, cache=True, inline="always")
def _greatest_of_groups(line, high):
    """The greatest of every group of `FEW_GROUP` values; infinite where one is no number."""
    n_groups = len(high)
    for g in range(n_groups):
        most, odd = line[g], False
        for at in range(FEW_GROUP):
            x = line[g + at * n_groups]
            most, odd = max(most, x), odd | (x != x)
        high[g] = np.float32(np.inf) if odd else most


@njit(nogil=True, cache=True, inline="always")
def _that_k_are_above(high, k):
    """A limit, not below zero, that at least `k` values are above, or zero; near the greatest such limit.

    Where these are the greatest of groups, as many of all values are above it, and not many more.
    """
    low, top = np.float32(0), np.float32(0)
    for g in range(len(high)):
        top = max(top, high[g])
    for _ in range(HALVINGS):
        middle, n = low + (top - low) * np.float32(0.5), 0
        for g in range(len(high)):
            n += np.int32(high[g] > middle)
        if n >= k:
            low = middle
        else:
            top = middle
    return low


@njit(nogil=True, cache=True, inline="always")
def _above(line, high, limit, groups, hits):
    """List what is above a limit, and what is no number: of groups whose greatest is, without branches."""
    n, n_groups = len(line), len(high)
    n_found, n_hits = np.uint64(0), np.uint64(0)
    for g in range(n_groups):
        groups[n_found] = g
        n_found += np.uint64(high[g] > limit)
    for i in range(n_found):
        for at in range(FEW_GROUP):
            c = groups[i] + at * n_groups
            hits[n_hits] = c
            n_hits += np.uint64(not line[c] <= limit)
    for c in range(n_groups * FEW_GROUP, n):
        hits[n_hits] = c
        n_hits += np.uint64(not line[c] <= limit)
    return np.int64(n_hits)


@njit(nogil=True, cache=True, inline="always")
def _between(few, k):
    """A limit that `k` of `FEW` values are above; NaN where there is none for equals, or values are no numbers.

    By halving, each time counting all of them: vector code, faster than sorting out what branches cannot foresee.
    """
    high = np.float32(0)
    for i in range(FEW):
        high = max(high, few[i])
    low, middle, n = np.float32(0), high * np.float32(0.5), 0
    while low < middle < high:
        n = 0
        for i in range(FEW):
            n += np.int32(not few[i] <= middle)
        if n == k:
            return middle
        if n > k:
            low = middle
        else:
            high = middle
        middle = low + (high - low) * np.float32(0.5)
    return np.float32(np.nan)


@njit(nogil=True, cache=True)
def _greatest(values, k):
    """The k-th greatest of some values, which are put into another order."""
    low, high, place = 0, len(values) - 1, k - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break
    return values[place]


@njit(nogil=True, cache=True)
def by_feature(token, feature, value, n_features, token_out, value_out):
    """Sort entries by feature, those of one feature kept in order. Returns where each feature begins."""
    indptr = np.zeros(n_features + 1, np.int64)
    for i in range(len(feature)):
        indptr[feature[i] + 1] += 1
    for f in range(n_features):
        indptr[f + 1] += indptr[f]
    place = indptr[:-1].copy()
    for i in range(len(feature)):
        at = place[feature[i]]
        token_out[at], value_out[at] = token[i], value[i]
        place[feature[i]] = at + 1
    return indptr


@njit(nogil=True, cache=True)
def gaps(indptr, token, out):
    """Positions as steps from one to the next within each feature, the first from 0. `out` may be `token`."""
    for f in range(len(indptr) - 1):
        before = 0
        for i in range(indptr[f], indptr[f + 1]):
            at = np.int64(token[i])
            out[i] = at - before
            before = at


@njit(nogil=True, cache=True)
def from_gaps(indptr, step, start, out):
    """The inverse of `gaps`, positions counted from `start`."""
    for f in range(len(indptr) - 1):
        at = np.int64(start)
        for i in range(indptr[f], indptr[f + 1]):
            at += step[i]
            out[i] = at


@njit(nogil=True, cache=True)
def append(place, indptr, token, first, value, token_out, value_out):
    """Put every feature's entries of a block behind those of the blocks before, at `place`, which moves on.

    first: what the block's positions are counted from.
    """
    for f in range(len(indptr) - 1):
        at = place[f]
        for i in range(indptr[f], indptr[f + 1]):
            token_out[at], value_out[at] = first + np.int64(token[i]), value[i]
            at += 1
        place[f] = at


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
    """SplitMix64's finaliser: 64 bits in which every bit of x tells."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, cache=True)
def uniform(seed, layer, feature, position):
    """A number in (0, 1) that depends on its arguments alone: chance that is the same wherever it is asked."""
    x = _mix(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15))
    x = _mix(x ^ (np.uint64(layer) << np.uint64(32)) ^ np.uint64(feature))
    x = _mix(x ^ np.uint64(position))
    return (np.float64(x >> np.uint64(11)) + 0.5) / 9007199254740992.0


@njit(nogil=True, cache=True)
def quantiles(ordered, n_bins, out):
    """Values at 0, 1/n_bins, … 1 of ascending values, between neighbours by proportion."""
    n = len(ordered)
    for b in range(n_bins + 1):
        rank = b * (n - 1) / n_bins
        low = int(np.floor(rank))
        high = min(low + 1, n - 1)
        a, z = np.float64(ordered[low]), np.float64(ordered[high])
        out[b] = a + (z - a) * (rank - low)


@njit(nogil=True, cache=True, inline="always")
def _not_above(x):
    """The greatest float32 that is not above a float64."""
    y = np.float32(x)
    return y if np.float64(y) <= x else np.nextafter(y, np.float32(-np.inf))


@njit(nogil=True, cache=True)
def _bins(values, edges, out):
    """The bin of each value: how many of the inner edges it is above. An edge at a time, which is vector code."""
    out[:] = 0
    for e in range(1, len(edges) - 1):
        limit = _not_above(edges[e])
        for i in range(len(values)):
            out[i] += values[i] > limit


@njit(nogil=True, cache=True)
def _limit(in_bin, slowness, wanted):
    """The time before which `wanted` of the entries are expected to be drawn; n (1 − e^(−t/slowness)) of a bin."""
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
    """Draw entries with weights 1 / n^alpha, n being the size of their bin, without replacement; in order of drawing.

    The least of exponential times with rates w is a draw with weights w. Times are computed only of entries that the
    chance behind them makes early; where these turn out too few, of more. hits, keys: room for all entries.
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
    """Where the `k` least keys are, the least first; of equals, the earlier ones."""
    if k == 0:
        return np.zeros(0, np.int64)
    candidates = np.arange(len(keys))
    if len(keys) > k:
        limit = -_greatest(-keys, k)
        candidates = np.flatnonzero(keys <= limit)
    return candidates[np.argsort(keys[candidates], kind="mergesort")[:k]]


@njit(nogil=True, cache=True)
def _top(values, ordered, k, hits):
    """Where the `k` greatest values are, the greatest first; of equals, the earlier ones."""
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

    ordered: the values of each feature, ascending. Returns how many each feature has, the entries drawn, their bins
    (−1: drawn for greatness alone), and the edges of the bins (features, n_bins + 1), NaN where a feature has no
    entries.
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
