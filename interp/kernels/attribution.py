"""Compiled loops of attribution over what active features write and over the gradients of several targets.

An active feature i writes scale[i] · rows[place[i]] at token position[i]; decoder rows are read in place, by index.
Gradients g (n_rows, d_model) have a row for each token of each target: those of target t are first[t] to first[t + 1],
from the first token on.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

QUERIES = 128
"""Query tokens whose vectors of one head are read for all sources, while they are in the cache."""

AHEAD, LINE = 2, 64
"""So many features ahead the next decoder row is brought from memory, which comes in lines of so many bytes."""

# Vector instructions where the compiler does not find them itself, in LLVM's language, which makes instructions of
# whatever width the processor has. They are in this file because numba compiles a loop anew only if the file that the
# loop is in has changed.

SOURCES, WIDE, NARROW = 6, 64, 8
"""Sources, and numbers of each, that `add_wide` sums at once: 24 registers of 16 numbers, as many as a processor with
AVX-512 can hold beside the factors. Others hold a part of the sums in memory, and are three to six times as slow.
`add_narrow` is for what is left of a vector."""


@intrinsic
def _prefetch(typingctx, address):
    """Begin to bring the cache line at an address into the processor's cache."""

    def generate(context, builder, _, args):
        number, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        read, keep, data = (ir.Constant(number, n) for n in (0, 3, 1))
        builder.call(function, [builder.inttoptr(args[0], pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(types.intp), generate


Weighted = Callable[[int, int, int, int, int, int, int], None]


def _weighted(width: int) -> Weighted:
    """Add to `SOURCES` vectors of so many float32 numbers at `out` the sum of n vectors (at least one), each times its
    weight for each of the sources. Addresses and steps between rows are in bytes; the sums stay in registers."""

    @intrinsic
    def add_weighted(typingctx, weights, weight_step, vectors, vector_step, n, out, out_step):
        def generate(context, builder, _, args):
            weights, weight_step, vectors, vector_step, n, out, out_step = args
            number, index = ir.FloatType(), n.type
            vector, may_fuse = ir.VectorType(number, width), ("contract",)
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), width), None)
            unset, zero = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)

            def load(address, kind):
                return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)

            rows = [builder.add(out, builder.mul(out_step, ir.Constant(index, s))) for s in range(SOURCES)]
            before, first = builder.block, [load(row, vector) for row in rows]
            loop, after = builder.append_basic_block("vectors"), builder.append_basic_block("summed")
            builder.branch(loop)
            builder.position_at_end(loop)
            i, weight, at = (builder.phi(index) for _ in range(3))
            sums = [builder.phi(vector) for _ in range(SOURCES)]
            x, longer = load(at, vector), []
            for s, so_far in enumerate(sums):
                w = load(builder.add(weight, ir.Constant(index, 4 * s)), number)
                w = builder.shuffle_vector(builder.insert_element(unset, w, zero), unset, everywhere)
                longer.append(builder.fadd(so_far, builder.fmul(w, x, flags=may_fuse), flags=may_fuse))
            following = [
                builder.add(i, ir.Constant(index, 1)),
                builder.add(weight, weight_step),
                builder.add(at, vector_step),
            ]
            starts = [ir.Constant(index, 0), weights, vectors, *first]
            for phi, start, end in zip([i, weight, at, *sums], starts, [*following, *longer], strict=True):
                phi.add_incoming(start, before)
                phi.add_incoming(end, loop)
            builder.cbranch(builder.icmp_signed("<", following[0], n), loop, after)
            builder.position_at_end(after)
            for row, whole in zip(rows, longer, strict=True):
                builder.store(whole, builder.inttoptr(row, vector.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), generate

    return cast(Weighted, add_weighted)


prefetch = cast(Callable[[int], None], _prefetch)
add_wide, add_narrow = _weighted(WIDE), _weighted(NARROW)


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def write(rows, place, scale, position, out):
    """Add to out (n_pos, d_model) what active features write."""
    n = out.shape[1]
    for i in range(len(place)):
        row, line, a = rows[place[i]], out[position[i]], scale[i]
        for d in range(n):
            line[d] += a * row[d]


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def read(rows, place, scale, position, g, first, out):
    """Add to out (n_active, n_targets or more) the product of what each feature writes with the gradients at its token.

    Targets that do not have the token are not changed.
    """
    n, here, k, seen = g.shape[1], np.empty((len(first), 2), np.int64), 0, -1
    for i in range(len(place)):
        p = position[i]
        if p != seen:  # the targets that have this token, and their rows
            k, seen = 0, p
            for t in range(len(first) - 1):
                if first[t] + p < first[t + 1]:
                    here[k, 0], here[k, 1] = t, first[t] + p
                    k += 1
        if k == 0:
            break
        if i + AHEAD < len(place):
            address = rows[place[i + AHEAD]].ctypes.data
            for line in range(0, 4 * n, LINE):
                prefetch(address + line)
        row, a = rows[place[i]], scale[i]
        j = 0
        while j + 4 <= k:  # four at a time, so that a row is loaded once for them
            g0, g1, g2, g3 = g[here[j, 1]], g[here[j + 1, 1]], g[here[j + 2, 1]], g[here[j + 3, 1]]
            s0 = s1 = s2 = s3 = np.float32(0)
            for d in range(n):
                x = row[d]
                s0 += x * g0[d]
                s1 += x * g1[d]
                s2 += x * g2[d]
                s3 += x * g3[d]
            out[i, here[j, 0]] += a * s0
            out[i, here[j + 1, 0]] += a * s1
            out[i, here[j + 2, 0]] += a * s2
            out[i, here[j + 3, 0]] += a * s3
            j += 4
        while j < k:
            g0, s0 = g[here[j, 1]], np.float32(0)
            for d in range(n):
                s0 += row[d] * g0[d]
            out[i, here[j, 0]] += a * s0
            j += 1


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def read_tokens(vectors, g, first, out):
    """Write to out (n_pos, n_targets or more) the product of each token's vector with the gradients there."""
    n = g.shape[1]
    for t in range(len(first) - 1):
        for i in range(first[t], first[t + 1]):
            vector, row, total = vectors[i - first[t]], g[i], np.float32(0)
            for d in range(n):
                total += vector[d] * row[d]
            out[i - first[t], t] = total


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def add_tokens(vectors, g, first, out):
    """Add to out (n_targets or more) the same products, summed over tokens."""
    n = g.shape[1]
    for t in range(len(first) - 1):
        for i in range(first[t], first[t + 1]):
            vector, row, total = vectors[i - first[t]], g[i], np.float32(0)
            for d in range(n):
                total += vector[d] * row[d]
            out[t] += total


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def mix(pattern, u, first, z):
    """Write to z (n_rows and `SOURCES` more, n_kv_heads · d_head) what reaches each source token of u (n_rows,
    n_heads · d_head) through frozen patterns (head, query, source), summed over the heads that share values.

    Queries before a source have no weight and are left out. What the last block of a target's sources adds beyond them
    falls into rows that are not begun yet.
    """
    d_head = u.shape[1] // len(pattern)
    n_each = u.shape[1] // z.shape[1]
    for t in range(len(first) - 1):
        begin, n = first[t], first[t + 1] - first[t]
        z[begin : begin + n] = 0
        for h in range(len(pattern)):
            own, into = u[begin : begin + n, h * d_head :], z[begin:, h // n_each * d_head :]
            for q in range(0, n, QUERIES):
                for s in range(0, min(n, q + QUERIES), SOURCES):
                    start, stop = max(q, s), min(n, q + QUERIES)
                    d, p, of = 0, pattern[h, start, s:].ctypes.data, own[start].ctypes.data
                    sums, steps = into[s].ctypes.data, (pattern.strides[1], u.strides[0], z.strides[0])
                    if s + SOURCES <= pattern.shape[2]:
                        while d + WIDE <= d_head:
                            add_wide(p, steps[0], of + 4 * d, steps[1], stop - start, sums + 4 * d, steps[2])
                            d += WIDE
                        while d + NARROW <= d_head:
                            add_narrow(p, steps[0], of + 4 * d, steps[1], stop - start, sums + 4 * d, steps[2])
                            d += NARROW
                    for one in range(s, min(n, s + SOURCES)):  # what is left of the sources, or of the head's numbers
                        for at in range(max(start, one), stop if d < d_head else 0):
                            a = pattern[h, at, one]
                            for c in range(d, d_head):
                                into[one, c] += a * own[at, c]


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})
def add_heads(pattern, v, position, g, first):
    """Add to g v (n_targets, n_heads, d_model), times each head's weight from a target's own position to each token."""
    n_heads, n = v.shape[1], g.shape[1]
    for t in range(len(first) - 1):
        q = position[t]
        for i in range(first[t], first[t + 1]):
            s, row, h = i - first[t], g[i], 0
            while h + 4 <= n_heads:
                a0, a1, a2, a3 = pattern[h, q, s], pattern[h + 1, q, s], pattern[h + 2, q, s], pattern[h + 3, q, s]
                v0, v1, v2, v3 = v[t, h], v[t, h + 1], v[t, h + 2], v[t, h + 3]
                for d in range(n):
                    row[d] += a0 * v0[d] + a1 * v1[d] + a2 * v2[d] + a3 * v3[d]
                h += 4
            while h < n_heads:
                a0, v0 = pattern[h, q, s], v[t, h]
                for d in range(n):
                    row[d] += a0 * v0[d]
                h += 1
