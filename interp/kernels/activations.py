"""Compiled loops that find active features in a block of pre-activations.

Positions are counted through a block of rows or through a corpus, row after row. CSR arrays have one row a feature
(`by feature`) or one row a position (`by token`).
"""

import numpy as np
from numba import njit

GROUP = 16
"""Features compared at a time by their greatest value, in vector code."""

FEW = 64
"""Number of values among which the k greatest are found by counting."""

FEW_GROUP = 8
"""Size of groups when the k greatest of all features are sought: small enough for more groups than k."""

HALVINGS = 6
"""Number of bisection steps in the search for a limit."""


@njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def compress(pre, bias, threshold, position, first, token, feature, value):
    """Add biases to a block of products (tokens, features) and list what is above the threshold, token by token.

    position: of each token; first: the block's first feature. Entries are written to token, feature and value, which
    have room for the whole block. Returns their number.
    """
    n_tokens, n = pre.shape
    n_groups = n // GROUP
    high = np.empty(n_groups, np.float32)
    found = 0
    for t in range(n_tokens):
        line = pre[t]
        for g in range(n_groups):
            most, odd = line[g] + bias[g] - threshold[g], False
            for at in range(GROUP):  # a constant number, or the loop is not vectorised
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
    """Keep those of the first entries whose own products are above the threshold. Their tokens are rows of x.

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
    """List the `k` greatest positive values of every token; among equals, those of lower feature indices.

    The output has room for `k` entries for each token and one more.
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
            limit = kth_greatest(line[own], k)
            if limit != limit:
                limit = np.float32(np.inf)  # so that NaN is listed, and refused later
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
    """The greatest of every group of `FEW_GROUP` values; infinity where one is NaN."""
    n_groups = len(high)
    for g in range(n_groups):
        most, odd = line[g], False
        for at in range(FEW_GROUP):
            x = line[g + at * n_groups]
            most, odd = max(most, x), odd | (x != x)
        high[g] = np.float32(np.inf) if odd else most


@njit(nogil=True, cache=True, inline="always")
def _that_k_are_above(high, k):
    """A limit of at least zero that at least `k` values are above, close to the greatest such limit; zero if there is
    none.

    If the values are the maxima of groups, at least `k` of all values are above the limit, and not many more.
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
    """List what is above a limit, and NaN, in groups whose greatest is; without branches."""
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
    """A limit that exactly `k` of `FEW` values are above; NaN if there is none because of ties or NaN.

    By bisection, counting all values at each step: this is vector code, and faster than a selection with branches that
    the processor mispredicts.
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
def kth_greatest(values, k):
    """The k-th greatest of some values, which are reordered."""
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
