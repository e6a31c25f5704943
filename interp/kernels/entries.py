"""Compiled loops over lists of active features: sorted by feature, coded as differences, appended.

Entries are (token, feature, value): int32 or int64, int32, float32, of equal length. In a list by feature, entries
indptr[f] to indptr[f + 1] are those of feature f, with tokens ascending; indptr has n_features + 1 values, int64.
"""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def by_feature(token, feature, value, n_features, token_out, value_out):
    """Sort entries by feature, in a stable order. Returns the index at which each feature begins."""
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
    """Positions as differences within each feature, the first from 0. `out` may be `token`."""
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
    """Append every feature's entries of a block to those of the blocks before, at `place`, which is advanced.

    first: the position at which the block begins.
    """
    for f in range(len(indptr) - 1):
        at = place[f]
        for i in range(indptr[f], indptr[f + 1]):
            token_out[at], value_out[at] = first + np.int64(token[i]), value[i]
            at += 1
        place[f] = at
