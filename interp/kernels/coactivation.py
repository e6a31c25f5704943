"""Compiled sums over the tokens at which two features are active at once.

Lists by feature are as in `interp.kernels.activations`. The sums of a pair are adjacent in memory, so that adding to
them touches one place: source times target activation, source activation, count.
"""

import numpy as np
from numba import njit

N_SUMS = 3
"""Σ a_i a_j, Σ 1(a_j > 0) a_i, and the number of tokens."""


@njit(nogil=True, cache=True)
def by_token(indptr, token, value, n_tokens, feature_out, value_out):
    """Turn a list by feature into one by token. Returns the index at which each token begins."""
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

    A source's sums stay in the cache while its tokens are processed; the targets of a block stay there throughout.
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
"""Σ a_i a_j, Σ 1(a_j > 0) a_i, number of tokens, Σ X², Σ X Y: X and Y are the sums of a_i a_j and of a_j over a
document."""

N_TARGET_SUMS = 3
"""Σ Y, Σ Y², and the number of documents in which a feature is active."""


@njit(nogil=True, cache=True)
def add_edges(source, target, s_indptr, s_token, s_value, t_indptr, t_token, t_value, document, running, sums):
    """Add a block to the sums (edges, N_EDGE_SUMS) of some edges; source and target index the two lists by feature.

    document: of every token of the block. running (edges, 3): the unfinished document of each edge, −1 for none, and
    its X and Y so far, since it may go on in the next block; `end_edges` adds the last.
    """
    for e in range(len(source)):
        at, end = s_indptr[source[e]], s_indptr[source[e] + 1]
        cell, now = sums[e], running[e]
        for g in range(t_indptr[target[e]], t_indptr[target[e] + 1]):
            t, b = t_token[g], np.float64(t_value[g])
            if document[t] != now[0]:
                cell[3] += now[1] * now[1]
                cell[4] += now[1] * now[2]
                now[0], now[1], now[2] = document[t], 0.0, 0.0
            now[2] += b
            while at < end and s_token[at] < t:
                at += 1
            if at < end and s_token[at] == t:
                a = np.float64(s_value[at])
                now[1] += a * b
                cell[0] += a * b
                cell[1] += a
                cell[2] += 1.0


@njit(nogil=True, cache=True)
def end_edges(running, sums):
    """Add the documents that are still unfinished."""
    for e in range(len(running)):
        sums[e, 3] += running[e, 1] * running[e, 1]
        sums[e, 4] += running[e, 1] * running[e, 2]


@njit(nogil=True, cache=True)
def add_targets(indptr, token, value, document, running, sums):
    """Add a block to every feature's sums (features, N_TARGET_SUMS).

    document and running (features, 2) are as for `add_edges`, with Y alone; `end_targets` adds the last.
    """
    for f in range(len(indptr) - 1):
        cell, now = sums[f], running[f]
        for g in range(indptr[f], indptr[f + 1]):
            if document[token[g]] != now[0]:
                cell[0] += now[1]
                cell[1] += now[1] * now[1]
                cell[2] += 1.0
                now[0], now[1] = document[token[g]], 0.0
            now[1] += np.float64(value[g])


@njit(nogil=True, cache=True)
def end_targets(running, sums):
    """Add the documents that are still unfinished."""
    for f in range(len(running)):
        sums[f, 0] += running[f, 1]
        sums[f, 1] += running[f, 1] * running[f, 1]
