"""Compiled loops of training: what a token's few active features write, and their gradients.

Entries are active features (token, feature, value), token by token. All arrays are float32 except for the indices.
"""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def add_decoded(token, feature, value, W_dec, residual, into_value):
    """Add what the features write to the residuals (token, d_model), then each decoder row's product with the residual
    of its token to `into_value` (one for each entry). Returns the sum of squares of the residuals."""
    at, n, d = 0, len(token), residual.shape[1]
    total = 0.0
    for t in range(len(residual)):
        row, first = residual[t], at
        while at < n and token[at] == t:
            decoder, a = W_dec[feature[at]], value[at]
            for c in range(d):
                row[c] += a * decoder[c]
            at += 1
        square = np.float32(0)
        for c in range(d):
            square += row[c] * row[c]
        total += square
        for i in range(first, at):
            decoder, product = W_dec[feature[i]], np.float32(0)
            for c in range(d):
                product += row[c] * decoder[c]
            into_value[i] = product
    return total


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def sum_by_feature(indptr, token, weight, rows, out):
    """Row f of `out` becomes the sum of the rows at the feature's tokens, each times its weight.

    Two tokens at a time, so that the sum is read and written half as often.
    """
    d = rows.shape[1]
    for f in range(len(indptr) - 1):
        line, i, stop = out[f], indptr[f], indptr[f + 1]
        line[:] = 0
        while i + 1 < stop:
            one, other, p, q = rows[token[i]], rows[token[i + 1]], weight[i], weight[i + 1]
            for c in range(d):
                line[c] += p * one[c] + q * other[c]
            i += 2
        if i < stop:
            one, p = rows[token[i]], weight[i]
            for c in range(d):
                line[c] += p * one[c]
