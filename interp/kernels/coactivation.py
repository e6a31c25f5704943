"""Compiled sums over the tokens at which two features are active at once.

Lists by feature are as in `interp.kernels.activations`. The sums of a pair lie side by side, so that adding to them
touches one place in memory: source times target activation, source activation, count.
"""

import numpy as np
from numba import njit

N_SUMS = 3
"""Σ a_i a_j, Σ 1(a_j > 0) a_i, and the number of tokens."""


@njit(nogil=True, cache=True)
def by_token(indptr, token, value, n_tokens, feature_out, value_out):
    """Turn a list by feature into one by token. Returns where each token begins."""
    starts = np.zeros(n_tokens + 1, np.int32)
    for i in range(len(token)):
        starts[token[i] + 1] += 1
    for t in range(n_tokens):
        starts[t + 1] += starts[t]
    place = starts[:-1].copy()
    for f in range(len(indptr) - 1):
        for i in range(indptr[f], indptr[f + 1]):
            at = place[token[i]]
            feature_out[at], value_out[at] = f, value[i]
            place[token[i]] = at + 1
    return starts


@njit(nogil=True, cache=True)
def add_coactive(indptr, token, value, starts, feature, target_value, sums):
    """Add a block to sums (sources, targets, N_SUMS): sources by feature, targets by token.

    A source's sums stay in the cache while its tokens are gone through; the targets of a block do all the time.
    """
    for i in range(len(indptr) - 1):
        row = sums[i]
        for e in range(indptr[i], indptr[i + 1]):
            a = np.float64(value[e])
            for g in range(starts[token[e]], starts[token[e] + 1]):
                cell = row[feature[g]]
                cell[0] += a * target_value[g]
                cell[1] += a
                cell[2] += 1.0


N_EDGE_SUMS = 5
"""Σ a_i a_j, Σ 1(a_j > 0) a_i, number of tokens, Σ X², Σ X Y: X and Y are the sums of a_i a_j and of a_j over a row."""


@njit(nogil=True, cache=True)
def add_edges(source, target, s_indptr, s_token, s_value, t_indptr, t_token, t_value, n_pos, sums):
    """Add a block to the sums (edges, N_EDGE_SUMS) of some edges; source and target index the two lists by feature."""
    for e in range(len(source)):
        at, end = s_indptr[source[e]], s_indptr[source[e] + 1]
        cell = sums[e]
        row, x, y = -1, 0.0, 0.0
        for g in range(t_indptr[target[e]], t_indptr[target[e] + 1]):
            t, b = t_token[g], np.float64(t_value[g])
            if t // n_pos != row:
                cell[3] += x * x
                cell[4] += x * y
                row, x, y = t // n_pos, 0.0, 0.0
            y += b
            while at < end and s_token[at] < t:
                at += 1
            if at < end and s_token[at] == t:
                a = np.float64(s_value[at])
                x += a * b
                cell[0] += a * b
                cell[1] += a
                cell[2] += 1.0
        cell[3] += x * x
        cell[4] += x * y


@njit(nogil=True, cache=True)
def add_rows(indptr, token, value, n_pos, sums):
    """Add a block to every feature's sums (features, 3): Σ Y, Σ Y², and the number of rows in which it is active."""
    for f in range(len(indptr) - 1):
        row, y = -1, 0.0
        for g in range(indptr[f], indptr[f + 1]):
            if token[g] // n_pos != row:
                sums[f, 0] += y
                sums[f, 1] += y * y
                sums[f, 2] += 1.0
                row, y = token[g] // n_pos, 0.0
            y += np.float64(value[g])
        sums[f, 0] += y
        sums[f, 1] += y * y
