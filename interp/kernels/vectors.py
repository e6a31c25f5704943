"""Vector instructions that compiled loops use where the compiler does not find them itself.

They are written in LLVM's language, which makes instructions of whatever width the processor has.
"""

from collections.abc import Callable
from typing import cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

SOURCES, WIDE, NARROW = 6, 64, 8
"""Sources, and numbers of each, that `add_wide` sums at once: 24 registers of 16 numbers, as many as a processor with
AVX-512 can hold beside the factors; `add_narrow` is for what is left of a vector."""


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
