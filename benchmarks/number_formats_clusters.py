"""What a number format of the model's weights changes in attributions and clusters, beside float32.

    python -m benchmarks.number_formats_clusters MODEL TRANSCODERS TEXT.jsonl --layers 5,15 [--dtype bfloat16]
        [--rows 48] [--features 12] [--samples 24]

Prints a line of JSON a layer. `examples` are those of features drawn at random that a model in the format draws as
well. `as run` is what `model.dtype` gives: these examples, attributed in float32 as the stage does. `all in the format`
attributes them with the model's weights rounded to the format, too (products are in float32 still). Clusters are
compared on the examples that both have: the share of features with the same division, and the mean adjusted Rand index.
For `all in the format` also: the share of examples whose strongest contributor is the same, by kind, and the rank
correlation of the contributions that both keep.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from benchmarks.number_formats import N_POS, Pairs, Work, activations, arguments, rows_of, work_of
from interp.circuitlens.attribution import Targets, contributions, feature_targets, read_until
from interp.circuitlens.clusters import clustered
from interp.circuitlens.contributors import Contributors, significant
from interp.circuitlens.direct import direct_heads
from interp.circuitlens.frozen import freeze
from interp.circuitlens.kinds import FEATURE, HEAD, KINDS, TOKEN
from interp.circuitlens.linear import linear_model
from interp.circuitlens.settings import CircuitLensSettings
from interp.products import fast_products
from interp.transcoder import Transcoder
from tasks.loaded_models import loaded_model

SETTINGS = CircuitLensSettings(resamples=0)
MAX_BYTES = 256_000_000

Example = tuple[int, int, int]
"""(layer, feature, position), with positions counted row after row."""


class Attributed(NamedTuple):
    """Attributed examples; `contributors.target` is an example's index."""

    examples: list[Example]
    contributors: Contributors

    def of(self, wanted: Sequence[Example]) -> Contributors:
        """The contributors of some examples, in their order."""
        place = np.full(len(self.examples), -1)
        place[[self.examples.index(one) for one in wanted]] = np.arange(len(wanted))
        own = place[self.contributors.target] >= 0
        kept = Contributors(*(column[own] for column in self.contributors))
        return Contributors.joined([kept._replace(target=place[kept.target])])


def attributed(
    work: Work, dtype: torch.dtype, transcoder: Callable[[int], Transcoder], wanted: set[Example]
) -> Attributed:
    """The examples attributed by the model with weights rounded to `dtype`."""
    folder, model = loaded_model(work.model, open_attention=True)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype).float()
    linear, tokens = linear_model(model, folder.family, work.release.hooks), rows_of(work, folder)
    n_pos, parts, examples = tokens.shape[1], list[Contributors](), list[Example]()
    with fast_products(folder.d_model):
        for row in sorted({position // n_pos for _, _, position in wanted}):
            own = sorted(one for one in wanted if one[2] // n_pos == row)
            layer, feature, position = np.array([(at, f, p % n_pos) for at, f, p in own]).T
            until = read_until(layer, position, linear.n_layers)
            frozen = freeze(linear, transcoder, tokens[row, : position.max() + 1], until, keep_decoders=True)
            where: Callable[[np.ndarray, int], Tensor] = lambda x, at, of=layer: torch.from_numpy(x[of == at])  # noqa: E731
            each = [
                feature_targets(linear, frozen, at, transcoder(at), where(feature, at), where(position, at))
                for at in np.unique(layer).tolist()
            ]
            targets = Targets(*(torch.cat(columns) for columns in zip(*each, strict=True)))
            for found in contributions(linear, frozen, targets, max_bytes=MAX_BYTES):
                strongest = significant(frozen, found, direct_heads(linear, frozen, targets.at(found.target)), SETTINGS)
                parts.append(strongest._replace(target=strongest.target + len(examples)))
            examples += own
    return Attributed(examples, Contributors.joined(parts))


def chosen(pairs: Pairs, features: Sequence[int], n: int) -> dict[int, list[int]]:
    """The positions of the first `n` examples of some features."""
    return {feature: [at for of, at in pairs if of == feature][:n] for feature in features}


def labels(found: Attributed, layer: int, feature: int, positions: Sequence[int]) -> dict[int, int]:
    """The cluster of each of a feature's examples."""
    own = found.of([(layer, feature, at) for at in positions])
    clusters = clustered(own, np.array(positions) % N_POS, SETTINGS, [0, layer, feature])
    return dict(zip(positions, clusters.labels.tolist(), strict=True))


def agreement(expected: dict[int, int], found: dict[int, int]) -> float:
    """The adjusted Rand index of two features' clusters, on the examples that both have."""
    both = sorted(expected.keys() & found.keys())
    return float(adjusted_rand_score([expected[at] for at in both], [found[at] for at in both]))


def strongest(found: Contributors, n: int, kind: str) -> list[tuple[int, int, int] | None]:
    """The contributor of a kind with the greatest share in each of `n` examples."""
    own, best = np.flatnonzero(found.kind == KINDS.index(kind)), list[tuple[int, int, int] | None]([None] * n)
    for at in own[np.argsort(found.score[own], kind="stable")].tolist():
        best[int(found.target[at])] = (int(found.layer[at]), int(found.unit[at]), int(found.position[at]))
    return best


def scores(found: Contributors) -> dict[tuple[int, ...], float]:
    """The contributions by example and source."""
    listed = np.isin(found.kind, [KINDS.index(kind) for kind in (FEATURE, HEAD, TOKEN)])
    keys = zip(*(column[listed].tolist() for column in found[:5]), strict=True)
    return dict(zip(keys, found.score[listed].tolist(), strict=True))


def compared(
    layer: int, drawn: tuple[dict[int, list[int]], ...], runs: tuple[Attributed, Attributed]
) -> dict[str, object]:
    """A layer's figures. `drawn` are the examples of float32 and of the format, `runs` their attributions."""
    expected, other = drawn
    exact, rounded = runs
    indices: dict[str, list[float]] = {"as run": [], "all in the format": []}
    several: list[bool] = []
    for feature, positions in expected.items():
        whole = labels(exact, layer, feature, positions)
        several.append(len(set(whole.values())) > 1)
        indices["as run"].append(agreement(whole, labels(exact, layer, feature, other[feature])))
        indices["all in the format"].append(agreement(whole, labels(rounded, layer, feature, other[feature])))
    both = [(layer, f, at) for f, positions in expected.items() for at in positions if at in other[f]]
    line: dict[str, object] = {
        "layer": layer, "features": len(expected), "examples": sum(map(len, expected.values())),
        "examples, same": round(len(both) / sum(map(len, expected.values())), 4),
    }  # fmt: skip
    line["features with several clusters"] = sum(several)
    for name, values in indices.items():
        line[f"{name}, same clusters"] = round(float(np.mean(np.array(values) == 1)), 4)
        line[f"{name}, adjusted Rand index"] = round(float(np.mean(values)), 4)
    one, two = exact.of(both), rounded.of(both)
    for kind in (FEATURE, HEAD, TOKEN):
        first, second = strongest(one, len(both), kind), strongest(two, len(both), kind)
        line[f"strongest {kind}, same"] = round(float(np.mean([a == b for a, b in zip(first, second, strict=True)])), 4)
    a, b = scores(one), scores(two)
    kept = sorted(a.keys() & b.keys())
    line["contributors, same"] = round(len(kept) / len(a.keys() | b.keys()), 4)
    line["contributions, rank correlation"] = round(
        float(np.asarray(spearmanr([a[k] for k in kept], [b[k] for k in kept]))[0]), 5
    )
    return line


def lines(work: Work, dtype: str, n_features: int, n_samples: int) -> Iterator[dict[str, object]]:
    """A line a layer."""
    form = getattr(torch, dtype)
    drawn = [{layer: found["examples"] for layer, found in activations(work, d).items()} for d in (torch.float32, form)]
    examples: list[dict[int, dict[int, list[int]]]] = [{}, {}]
    for layer in work.layers:
        counts = np.bincount([feature for feature, _ in drawn[0][layer]])
        known = np.flatnonzero(counts >= n_samples)
        features = np.random.default_rng(layer).choice(known, min(n_features, len(known)), replace=False).tolist()
        for each, pairs in zip(examples, drawn, strict=True):
            each[layer] = chosen(pairs[layer], features, n_samples)
    wanted = [{(at, f, p) for at, of in each.items() for f, where in of.items() for p in where} for each in examples]
    transcoder = cache(lambda layer: work.release.read(layer).to(torch.float32))
    runs = (
        attributed(work, torch.float32, transcoder, wanted[0] | wanted[1]),
        attributed(work, form, transcoder, wanted[1]),
    )
    for layer in work.layers:
        figures = compared(layer, (examples[0][layer], examples[1][layer]), runs)
        yield {"benchmark": "number formats, clusters", "dtype": dtype, **figures}


def main() -> None:
    """Measure, print."""
    parser = arguments(__doc__, 48)
    parser.add_argument("--features", type=int, default=12)
    parser.add_argument("--samples", type=int, default=24)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    work = work_of(asked, n_single=0, with_bos=False)
    for line in lines(work, asked.dtype, asked.features, asked.samples):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
