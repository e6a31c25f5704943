"""How near each part of a sweep comes to what this processor can do.

    python -m benchmarks.rooflines STORE [--checkpoint NAME] [--sequences 10] [--targets 10] [--json]

STORE is one whose samples have been drawn (`circuit-insights activations`), with its model and transcoders; samples are
drawn from it as by `benchmarks.modes`. A line of each part of a sweep, in float32 and in bfloat16
(`circuitlens.precision`), and one of the whole:

- `ms`: of one core, a sample, the best of seven times of each sequence; `share` of the whole sweep;
- `gemm`: the rate of its operations (10⁹ a sample: `operations`), as a share of that of products of 1,024 x d_model x
  4,096 in its precision, measured here before and after;
- `floor`: its least time, as a share of the time that it took. The least time of an operation is the greater of its
  operations at that rate, and its bytes at the rates measured here at which a compiled loop reads rows of d_model
  numbers in an order of chance: weights, patterns and decoder rows once a layer from memory, and what passes between
  the parts, decoder rows each time that they are read, from the processor's cache; `by_bytes`: the share of the least
  time where bytes decide.

Only operations that are needed count: pairs of a source and a query before it, tokens that a target can read.
One thread.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numba import njit
from torch import Tensor

from benchmarks.modes import MAX_BYTES, Drawn, draw, gemm
from flows.one_prompt.opened import Opened, open_named
from interp.circuitlens import attribution
from interp.circuitlens.attribution import Targets, contributions, feature_targets, read_until
from interp.circuitlens.frozen import Frozen, freeze
from interp.circuitlens.linear import LinearModel, rounded
from interp.circuitlens.rows import Rows
from interp.circuitlens.written import Active, Written
from interp.kernels.attribution import AHEAD, LINE, prefetch
from interp.products import fast_products

REPEATS = 7

WHOLE, REST = "whole sweep", "everything else"

T = TypeVar("T")


class Work(NamedTuple):
    """What one call has to do."""

    operations: float
    memory_bytes: float
    """Of weights, patterns and distinct decoder rows."""
    cache_bytes: float
    """Of gradients, and of decoder rows and patterns however often they are read."""
    precision: torch.dtype = torch.float32

    def least(self, machine: "Machine") -> tuple[float, float]:
        """Least seconds for its operations, and for its bytes."""
        by_bytes = self.memory_bytes / machine.memory + self.cache_bytes / machine.cache
        return self.operations / machine.products[self.precision], by_bytes


class Machine(NamedTuple):
    """Rates of one core, a second."""

    products: dict[torch.dtype, float]
    memory: float
    cache: float


def of_product(a: Tensor, W: Tensor) -> Work:
    return Work(2 * a.numel() * W.shape[1], W.nbytes, 4 * (a.numel() + len(a) * W.shape[1]), W.dtype)


def of_sum(out: Tensor, a: Tensor, W: Tensor) -> Work:
    return Work(2 * a.numel() * W.shape[1], W.nbytes, 4 * (a.numel() + 2 * out.numel()), W.dtype)


def of_mixing(pattern: Tensor, u: Tensor, rows: Rows, n_kv_heads: int) -> Work:
    n, passed = np.diff(rows.first).astype(float), u.numel() * (1 + n_kv_heads / len(pattern))
    weights = 4 * len(pattern) * (n * (n + 1)) / 2
    return Work(float((n * (n + 1)).sum()) * u.shape[1], float(weights.max()), 4 * passed + float(weights.sum()))


def of_features(written: Written, active: Active, rows: Rows, out: Tensor) -> Work:
    n, d_model = np.diff(rows.first), rows.g.shape[1]
    targets = (active.position.numpy()[:, None] < n).sum(1)
    n_distinct = len(np.unique(written.place.numpy()[targets > 0]))
    cached = d_model * (int((targets > 0).sum()) + len(rows.g))
    return Work(2.0 * d_model * int(targets.sum()), 4.0 * d_model * n_distinct, 4.0 * cached)


def of_tokens(vectors: Tensor, rows: Rows, out: Tensor) -> Work:
    return Work(2 * rows.g.numel(), 0, 4 * (rows.g.numel() + int(np.diff(rows.first).max()) * vectors.shape[1]))


PARTS: dict[str, tuple[str, Callable[..., Work]]] = {
    "product": ("gradients x W_O", of_product),
    "mixed": ("patterns x queries", of_mixing),
    "add_product": ("values x W_V, added", of_sum),
    "read_written": ("decoder rows x gradients", of_features),
    "read_tokens": ("errors and tokens", of_tokens),
    "add_tokens": ("biases", of_tokens),
}
"""Of functions that a sweep calls, the name and the work of a call."""


@contextmanager
def watched(into: dict[str, float], did: dict[str, list[Work]] | None) -> Iterator[None]:
    """Add up the seconds of each part, and note its work if asked to."""
    before = {name: getattr(attribution, name) for name in PARTS}

    def timed(called: Callable[..., T], part: str, work: Callable[..., Work]) -> Callable[..., T]:
        def call(*given: object) -> T:
            began = time.thread_time()
            found = called(*given)
            into[part] = into.get(part, 0.0) + time.thread_time() - began
            if did is not None:
                did.setdefault(part, []).append(work(*given))
            return found

        return call

    for name, (part, work) in PARTS.items():
        setattr(attribution, name, timed(before[name], part, work))
    try:
        yield
    finally:
        for name, called in before.items():
            setattr(attribution, name, called)


@njit(nogil=True, fastmath={"contract", "nsz", "reassoc"})
def total(rows, order):
    found, n = np.float32(0), rows.shape[1]
    for i in range(len(order)):
        if i + AHEAD < len(order):
            address = rows[order[i + AHEAD]].ctypes.data
            for line in range(0, 4 * n, LINE):
                prefetch(address + line)
        row = rows[order[i]]
        for d in range(n):
            found += row[d]
    return found


def bandwidth(n_bytes: int, width: int) -> float:
    """Bytes a second of reading rows of an array again and again, in an order of chance."""
    rows, took = np.ones((n_bytes // 4 // width, width), np.float32), list[float]()
    order = np.random.default_rng(0).permutation(len(rows))
    n_times = max(1, (1 << 27) // rows.nbytes)
    for _ in range(9):
        began = time.thread_time()
        for _ in range(n_times):
            total(rows, order)
        took.append(time.thread_time() - began)
    return rows.nbytes * n_times / min(took)


def machine(d_model: int) -> Machine:
    precisions = (torch.float32, torch.bfloat16)
    return Machine(
        {one: gemm(d_model, one) for one in precisions}, bandwidth(1 << 28, d_model), bandwidth(3 << 20, d_model)
    )


def sweep(linear: LinearModel, frozen: Frozen, targets: Targets) -> tuple[dict[str, float], dict[str, list[Work]]]:
    """Seconds of each part, and what it had to do."""
    work, took = dict[str, list[Work]](), list[dict[str, float]]()
    for at in range(1 + REPEATS):
        parts = dict[str, float]()
        if at == 0:
            with watched(parts, work):
                list(contributions(linear, frozen, targets, max_bytes=MAX_BYTES))
            continue
        began = time.thread_time()
        with watched(parts, None):
            list(contributions(linear, frozen, targets, max_bytes=MAX_BYTES))
        parts[WHOLE] = time.thread_time() - began
        took.append(parts)
    best = {part: min(one[part] for one in took) for part in took[0]}
    rest = min(one[WHOLE] - sum(s for part, s in one.items() if part != WHOLE) for one in took)
    return {**best, REST: rest}, work


def lines(seconds: dict[str, float], work: dict[str, list[Work]], rates: Machine) -> Iterator[dict[str, float | str]]:
    """A line of each part, and of all."""
    work = {**work, WHOLE: [one for own in work.values() for one in own], REST: []}
    for part, took in seconds.items():
        least = [one.least(rates) for one in work[part]]
        floor, by_bytes = sum(map(max, least)), sum(by_bytes for ops, by_bytes in least if by_bytes > ops)
        yield {
            "part": part,
            "ms": 1e3 * took,
            "share": took / seconds[WHOLE],
            "operations": sum(one.operations for one in work[part]) / 1e9,
            "gemm": sum(ops for ops, _ in least) / took,
            "floor": floor / took,
            "by_bytes": by_bytes / floor if floor else 0.0,
        }


def targets_of(opened: Opened, frozen: Frozen, sample: Drawn) -> Targets:
    each = [
        feature_targets(opened.linear, frozen, at, opened.transcoder(at), *map(torch.from_numpy, (feature, position)))
        for at, feature, position in zip(
            sample.layer.tolist(), sample.feature[:, None], sample.position[:, None], strict=True
        )
    ]
    return Targets(*(torch.cat(columns) for columns in zip(*each, strict=True)))


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--sequences", type=int, default=10)
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    opened = open_named(arguments.store, arguments.checkpoint)
    linear, d_model = opened.linear, opened.checkpoint.attributes.d_model
    models = {"float32": linear, "bfloat16": rounded(linear)}
    seconds: dict[str, dict[str, float]] = {name: {} for name in models}
    work: dict[str, dict[str, list[Work]]] = {name: {} for name in models}
    n = 0
    with fast_products(d_model):
        before = machine(d_model)
        for sample in draw(opened, arguments.sequences, arguments.targets):
            until = read_until(sample.layer, sample.position, linear.n_layers)
            frozen = freeze(linear, opened.transcoder, sample.tokens, until, keep_decoders=True)
            targets = targets_of(opened, frozen, sample)
            n += len(targets)
            for name, model in models.items():
                found, did = sweep(model, frozen, targets)
                for part, took in found.items():
                    seconds[name][part] = seconds[name].get(part, 0.0) + took
                    work[name].setdefault(part, []).extend(did.get(part, []))
        after = machine(d_model)
    products = {one: max(before.products[one], after.products[one]) for one in before.products}
    rates = Machine(products, max(before.memory, after.memory), max(before.cache, after.cache))
    about = {"float32": products[torch.float32], "bfloat16": products[torch.bfloat16]}
    about = {**about, "memory": rates.memory, "cache": rates.cache}
    print({"benchmark": "rooflines", "samples": n, **{name: round(rate / 1e9, 1) for name, rate in about.items()}})
    for name in models:
        for line in lines(seconds[name], work[name], rates):
            for figure in ("ms", "operations"):
                line[figure] = float(line[figure]) / n
            short = {key: float(f"{x:.3g}") if isinstance(x, float) else x for key, x in line.items()}
            row = {"benchmark": "rooflines", "precision": name, **short}
            print(json.dumps(row) if arguments.json else row, flush=True)


if __name__ == "__main__":
    main()
