"""Compiled loops over what active features write: decoder rows are read in place, by index.

An active feature i writes scale[i] · rows[place[i]] at token position[i].
"""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def write(rows, place, scale, position, out):
    """Add to out (n_pos, d_model) what active features write."""
    n = out.shape[1]
    for i in range(len(place)):
        row, line, a = rows[place[i]], out[position[i]], scale[i]
        for d in range(n):
            line[d] += a * row[d]


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def read(rows, place, scale, position, g, out):
    """Add to out (n_active, k) the product of what each feature writes with the gradients there, g (n_pos, k, d_model).

    Features at tokens after those of g are not changed; they come last.
    """
    n_pos, k, n = g.shape
    for i in range(len(place)):
        p = position[i]
        if p >= n_pos:
            break
        row, a = rows[place[i]], scale[i]
        j = 0
        while j + 4 <= k:  # four at a time, so that a row is loaded once for them
            g0, g1, g2, g3 = g[p, j], g[p, j + 1], g[p, j + 2], g[p, j + 3]
            s0 = s1 = s2 = s3 = np.float32(0)
            for d in range(n):
                x = row[d]
                s0 += x * g0[d]
                s1 += x * g1[d]
                s2 += x * g2[d]
                s3 += x * g3[d]
            out[i, j] += a * s0
            out[i, j + 1] += a * s1
            out[i, j + 2] += a * s2
            out[i, j + 3] += a * s3
            j += 4
        while j < k:
            g0, s0 = g[p, j], np.float32(0)
            for d in range(n):
                s0 += row[d] * g0[d]
            out[i, j] += a * s0
            j += 1
