"""How well cheaper ways to attribute agree with the full sweep in float32, and what they cost.

    python -m benchmarks.modes STORE [--checkpoint NAME] [--sequences 40] [--targets 10] [--json]

STORE is one whose samples have been drawn (`circuit-insights activations`), with its model and transcoders. So many
sequences are drawn, and of each so many of the samples that it has, of any layer. Each is attributed by a full sweep in
float32, by one in bfloat16 (`circuitlens.precision`), and directly (`circuitlens.sources: direct`). Of each way, beside
the sweep in float32:

- `agreement`: of the features that stand out in one or both (share ≥ 0.02, at most 16), the share that do in both;
  `tokens`: the same of source tokens; means over samples that have any;
- `missed`: of what the sweep's features that stand out bring, the share of those that do not stand out here;
- `completeness`: how far contributions are from summing to the activation, as a share of it: median and 99th
  percentile;
- `operations`: of all products, 10⁹ a sample; `ms`: of one core, a sample: the better of two times; `rate`: 10⁹
  operations a second; `gemm`: what products of this precision reach here at 1,024 x d_model x 4,096; `roofline`: the
  first as a share of the second.

One thread. The sequence's own cost, shared by all its samples and the same for all ways, is apart (`sequence`, ms).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from flows.one_prompt.opened import Opened, open_named
from interp.circuitlens.attribution import (
    Contributions,
    Targets,
    contributions,
    feature_targets,
    read_until,
)
from interp.circuitlens.contributors import Contributors, significant
from interp.circuitlens.direct import direct_contributions, direct_heads
from interp.circuitlens.frozen import Frozen, freeze
from interp.circuitlens.kinds import FEATURE, KINDS, TOKEN
from interp.circuitlens.linear import LinearModel, rounded
from interp.circuitlens.settings import CircuitLensSettings
from interp.products import fast_products
from storage.catalog.published import open_published
from storage.corpora.rows import numbered, read_numbered_rows

MAX_BYTES = 256_000_000

SETTINGS = CircuitLensSettings(share_of_strongest=1.0)

SAMPLES = """
    SELECT s.sequence, s.layer, s.feature, s.position, s.activation FROM samples s
    WHERE s.checkpoint_id = ? AND s.corpus_id = ? AND s.quantile_bin IS NOT NULL
    ORDER BY s.sequence, s.layer, s.feature, s.position"""

CORPUS = """
    SELECT corpus_id, any_value(corpora) FROM samples JOIN corpora USING (corpus_id) LEFT JOIN runs USING (corpus_id)
    WHERE samples.checkpoint_id = ? GROUP BY corpus_id ORDER BY max(started_at) DESC LIMIT 1"""


class Drawn(NamedTuple):
    """Some samples of one sequence."""

    tokens: torch.Tensor
    layer: Int64[np.ndarray, " n"]
    feature: Int64[np.ndarray, " n"]
    position: Int64[np.ndarray, " n"]
    activation: np.ndarray


def draw(opened: Opened, n_sequences: int, n_targets: int) -> Iterator[Drawn]:
    """Samples of the corpus that was read last."""
    checkpoint_id = opened.checkpoint.checkpoint_id
    with open_published(opened.store.catalog) as connection:
        row = connection.execute(CORPUS, [checkpoint_id]).fetchone()
        if row is None:
            raise ValueError(f"{opened.store.root}: no samples; has `circuit-insights activations` run?")
        table = connection.execute(SAMPLES, [checkpoint_id, row[0]]).fetchnumpy()
    columns = [np.asarray(table[name]) for name in ("layer", "feature", "position")]
    random, sequence = np.random.default_rng(0), np.asarray(table["sequence"], np.int64)
    chosen = np.sort(random.choice(np.unique(sequence), n_sequences, replace=False))
    rows = read_numbered_rows(opened.store, numbered(opened.store, row[1] or [row[0]]), chosen)
    for number in chosen.tolist():
        own = np.flatnonzero(sequence == number)
        own = np.sort(random.choice(own, min(n_targets, len(own)), replace=False))
        layer, feature, position = (column[own].astype(np.int64) for column in columns)
        tokens = torch.from_numpy(rows[number][: position.max() + 1].astype(np.int64))
        yield Drawn(tokens, layer, feature, position, np.asarray(table["activation"])[own])


def operations(linear: LinearModel, frozen: Frozen, targets: Targets, *, direct: bool) -> int:
    """Of all products of attributing some targets."""
    d_model, n = frozen.embedding.shape[1], targets.position.numpy() + 1
    total, reads = 2 * d_model * int(n.sum()), targets.layer.numpy()  # embeddings
    for layer, (at, weights) in enumerate(zip(frozen.layers, linear.attention, strict=True)):
        n_heads, d_head, _ = weights.W_O.shape
        mixed, values = n_heads * d_head, weights.W_V.shape[0] * d_head
        above, through = n[reads > layer], n[reads > layer if linear.parallel else reads >= layer]
        for one in frozen.layers[layer + 1 - len(at.written) : layer + 1]:
            total += 2 * d_model * int(np.array(one.active.first)[above].sum())
        total += 4 * d_model * int(above.sum())  # errors and biases
        if direct:
            total += len(through) * 4 * d_model * mixed + 2 * int(through.sum()) * n_heads * d_model
        else:
            total += 2 * int(through.sum()) * d_model * (mixed + values) + int((through * (through + 1)).sum()) * mixed
    return total


class Way(NamedTuple):
    """One way to attribute the samples of a sequence."""

    attribute: Callable[[Frozen, Targets], Iterator[Contributions]]
    direct: bool
    precision: torch.dtype


def ways(linear: LinearModel) -> dict[str, Way]:
    short = rounded(linear)
    return {
        "float32": Way(lambda f, t: contributions(linear, f, t, max_bytes=MAX_BYTES), False, torch.float32),
        "bfloat16": Way(lambda f, t: contributions(short, f, t, max_bytes=MAX_BYTES), False, torch.bfloat16),
        "direct": Way(lambda f, t: direct_contributions(linear, f, t, max_bytes=MAX_BYTES), True, torch.float32),
    }


class Measured(NamedTuple):
    """What one way gave for the samples of one sequence."""

    contributors: Contributors
    total: np.ndarray
    seconds: float
    operations: int


def _timed(way: Way, frozen: Frozen, targets: Targets) -> tuple[float, list[Contributions]]:
    began = time.thread_time()
    found = list(way.attribute(frozen, targets))
    return time.thread_time() - began, found


def measured(linear: LinearModel, frozen: Frozen, targets: Targets, way: Way) -> Measured:
    took, found = zip(*(_timed(way, frozen, targets) for _ in range(2)), strict=True)
    total, parts = np.zeros(len(targets)), []
    for one in found[-1]:
        total[one.target.numpy()] = one.total().numpy()
        parts.append(significant(frozen, one, direct_heads(linear, frozen, targets.at(one.target)), SETTINGS))
    count = operations(linear, frozen, targets, direct=way.direct)
    return Measured(Contributors.joined(parts), total, min(took), count)


def standing_out(found: Contributors, target: int, kind: str) -> dict[tuple[int, int, int], float]:
    own = (found.target == target) & (found.kind == KINDS.index(kind)) & (found.share >= SETTINGS.min_share)
    columns = (found.layer[own], found.unit[own], found.position[own])
    return dict(zip(zip(*(c.tolist() for c in columns), strict=True), found.share[own].tolist(), strict=True))


def agreement(one: dict[tuple[int, int, int], float], other: dict[tuple[int, int, int], float]) -> float:
    either = one.keys() | other.keys()
    return len(one.keys() & other.keys()) / len(either) if either else float("nan")


def gemm(d_model: int, precision: torch.dtype) -> float:
    """Operations a second of a large product."""
    rows, columns = torch.randn(1024, d_model).to(precision), torch.randn(4096, d_model).to(precision)
    took = []
    for _ in range(7):
        began = time.thread_time()
        torch.mm(rows, columns.T)
        took.append(time.thread_time() - began)
    return 2 * 1024 * 4096 * d_model / min(took)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--sequences", type=int, default=40)
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    opened = open_named(arguments.store, arguments.checkpoint)
    linear, d_model = opened.linear, opened.checkpoint.attributes.d_model
    every, found, own, activations = ways(linear), dict[str, list[Measured]](), list[float](), list[np.ndarray]()
    with fast_products(d_model):
        for sample in draw(opened, arguments.sequences, arguments.targets):
            until = read_until(sample.layer, sample.position, linear.n_layers)
            began = time.thread_time()
            frozen = freeze(linear, opened.transcoder, sample.tokens, until, keep_decoders=True)
            own.append(time.thread_time() - began)
            at, feature = torch.from_numpy(sample.position), torch.from_numpy(sample.feature)
            each = [
                feature_targets(linear, frozen, where, opened.transcoder(where), feature[[i]], at[[i]])
                for i, where in enumerate(sample.layer.tolist())
            ]
            targets = Targets(*(torch.cat(columns) for columns in zip(*each, strict=True)))
            for name, way in every.items():
                found.setdefault(name, []).append(measured(linear, frozen, targets, way))
            activations.append(sample.activation)
        peak = {way.precision: gemm(d_model, way.precision) for way in every.values()}
    n = sum(len(one) for one in activations)
    for name, results in found.items():
        figures = summary(results, found["float32"], activations)
        rate = figures["operations"] / figures["ms"] * 1e3
        row = {
            "benchmark": "modes", "mode": name, "samples": n, **figures, "sequence": 1e3 * float(np.median(own)),
            "rate": rate, "gemm": peak[every[name].precision] / 1e9,
            "roofline": rate * 1e9 / peak[every[name].precision],
        }  # fmt: skip
        short = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}
        print(json.dumps(short) if arguments.json else short, flush=True)


def summary(results: list[Measured], exact: list[Measured], activations: list[np.ndarray]) -> dict[str, float]:
    """Means over all samples."""
    agreed: dict[str, list[float]] = {FEATURE: [], TOKEN: []}
    missed: list[float] = []
    for one, whole in zip(results, exact, strict=True):
        for target in range(len(one.total)):
            for kind, values in agreed.items():
                here, there = (standing_out(of.contributors, target, kind) for of in (one, whole))
                values.append(agreement(here, there))
                if kind == FEATURE and there:
                    missed.append(sum(share for key, share in there.items() if key not in here) / sum(there.values()))
    apart = np.concatenate([np.abs(r.total - a) / a for r, a in zip(results, activations, strict=True)])
    n = len(apart)
    return {
        "agreement": float(np.nanmean(agreed[FEATURE])),
        "tokens": float(np.nanmean(agreed[TOKEN])),
        "missed": float(np.mean(missed)),
        "completeness": float(np.median(apart)),
        "completeness_99": float(np.quantile(apart, 0.99)),
        "operations": sum(one.operations for one in results) / n / 1e9,
        "ms": 1e3 * sum(one.seconds for one in results) / n,
    }


if __name__ == "__main__":
    main()
