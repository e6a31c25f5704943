"""How much the edges depend on the choice of text: the figures of one layer, and the report on all layers."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from interp.coactivation.stability import Stability, beginnings, chosen, ranking, stability
from interp.coactivation.sums import N_SUMS, Strongest, add_coactive, by_token, strength
from interp.kernels.sampling import uniform
from interp.sparse import FeatureTokens
from storage.activations import Block, open_block
from storage.catalog.parts import read_parts
from storage.checkpoints import open_checkpoint
from storage.corpora.corpus import corpus_attributes, read_rows
from storage.store import ShardKey, Store, read_as, shards, whole_file, write_json
from tasks.activations.coactivation import EdgesJob, virtual_weights
from tasks.activations.corpus_pass import CorpusPass, n_counted
from tasks.shard_task import shard_task
from tasks.weightlens.project import encoder_directions, reading_source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYERS_IN_LEGEND = 8
"""Lines of a plot that a legend can name; with more layers, colours show the depth."""


@dataclass(frozen=True)
class LayerFigures(Stability):
    """Stability of a layer, as it is stored and reported."""

    tokens: list[int]
    """Number of tokens in each beginning of the text."""


@shard_task("stability", "stability L{layer:02d}")
def measure_stability(store: Store, job: EdgesJob, path: Path, layer: int, features: Sequence[ShardKey]) -> int:
    """Rank the sources of some features of a layer by both halves and by beginnings of the text, each as if it were the
    whole text. `features` are the layer's shards, under the recipe of the activations.

    Memory: 48 bytes for each pair of a chosen target and a feature of one layer, one block's activations of a layer,
    and those of the chosen targets in the whole text.
    """
    if path.exists():
        return layer
    checkpoint, settings, passes = open_checkpoint(store, job.checkpoint_id), job.settings, job.passes
    n_active = read_parts([store.part("features", key) for key in features], ["n_active"])["n_active"].to_numpy()
    chances = np.array([uniform(0, layer, feature, 0) for feature in range(len(n_active))])
    targets = chosen(chances, n_active >= settings.min_support, settings.report_targets)
    n = len(targets)
    bounds = beginnings(sum(block.stop - block.start for corpus_pass in passes for block in corpus_pass.blocks(store)))
    found = [Strongest(n, settings.top_k) for _ in bounds]
    halves = [Strongest(n, settings.top_k) for _ in range(2)]
    single = [ShardKey("", layer, int(feature), int(feature) + 1) for feature in targets]
    encoder = torch.cat([encoder_directions(checkpoint, key, job.fold_norms) for key in single] or [torch.zeros(0, 1)])
    segments = list(_segments(store, passes, _Wanted(layer, checkpoint.d_transcoder, targets), bounds))
    for source in job.layer_pairs(layer, checkpoint.layers) if n else []:
        rows = reading_source(checkpoint, encoder, source, job.fold_norms)
        parts = shards("", source, checkpoint.d_transcoder, features[0].stop - features[0].start)
        weight = torch.cat([virtual_weights(checkpoint, rows, part, layer) for part in parts], 1).numpy()
        sums, totals = np.zeros((checkpoint.d_transcoder, 2 * n, N_SUMS)), np.zeros(2 * n)
        at = 0
        for segment in segments:
            sources = open_block(store, segment.recipe, segment.block).features(source, 0, checkpoint.d_transcoder)
            add_coactive(sources, by_token(segment.active, segment.n_positions), sums)
            totals += segment.totals()
            if segment.n_rows == bounds[at]:
                both = sums[:, :n] + sums[:, n:]
                value = strength(both[..., 0], both[..., 2], totals[:n] + totals[n:], weight, settings.min_support)
                found[at].offer(value, weight, source, 0)
                at += 1
        for half, offered in enumerate(halves):
            mine = sums[:, half * n : (half + 1) * n]
            total = totals[half * n : (half + 1) * n]
            value = strength(mine[..., 0], mine[..., 2], total, weight, settings.min_support)
            offered.offer(value, weight, source, 0)
    rankings = [ranking(each) for each in found]
    figures = stability(layer, (ranking(halves[0]), ranking(halves[1])), rankings)
    n_tokens = n_counted(store, passes)
    tokens = [round(n_tokens * rows / max(1, bounds[-1])) for rows in bounds]
    write_json(path, asdict(LayerFigures(**asdict(figures), tokens=tokens)))
    return layer


class _Wanted(NamedTuple):
    """The features whose activations are needed."""

    layer: int
    width: int
    """Features in each layer."""
    targets: np.ndarray


class _Segment(NamedTuple):
    """Some rows of a block, and where the targets are active in them."""

    recipe: str
    block: Block
    active: FeatureTokens
    """Activations of the targets in documents with even numbers, and in the others."""
    n_positions: int
    """The block of the rows."""
    n_rows: int
    """Number of rows of the text up to the segment's end."""

    def totals(self) -> np.ndarray:
        """Σ a of each row of `active`."""
        starts = self.active.indptr[:-1]
        return np.add.reduceat(np.r_[self.active.value, 0.0], starts) * (np.diff(self.active.indptr) > 0)


def _segments(store: Store, passes: Sequence[CorpusPass], of: _Wanted, bounds: list[int]) -> Iterator[_Segment]:
    """Blocks in order, divided where a beginning ends."""
    n_before, first_document = 0, 0
    for corpus_pass in passes:
        n_pos = corpus_attributes(store, corpus_pass.corpus_id).n_pos
        for block in corpus_pass.blocks(store):
            n_rows = block.stop - block.start
            wanted = open_block(store, corpus_pass.recipe, block).features(of.layer, 0, of.width)
            document = read_rows(store, corpus_pass.corpus_id, block.start, block.stop).documents.ravel()
            row = np.arange(len(document)) // n_pos
            cuts = [bound - n_before for bound in bounds if n_before < bound < n_before + n_rows]
            for start, stop in zip([0, *cuts], [*cuts, n_rows], strict=True):
                inside = (document >= 0) & (row >= start) & (row < stop)
                halves = [inside & ((document + first_document) % 2 == half) for half in (0, 1)]
                active = _one_after_the_other([_at(wanted, of.targets, half) for half in halves])
                yield _Segment(corpus_pass.recipe, block, active, n_rows * n_pos, n_before + stop)
            n_before += n_rows
        first_document += corpus_attributes(store, corpus_pass.corpus_id).n_documents


def _at(active: FeatureTokens, targets: np.ndarray, chosen: np.ndarray) -> FeatureTokens:
    """The activations of some features at some positions of a block."""
    kept = []
    for target in targets.tolist():
        one = active.features(target, target + 1)
        mine = chosen[one.token]
        kept.append((one.token[mine], one.value[mine]))
    indptr = np.cumsum([0, *(len(token) for token, _ in kept)])
    return FeatureTokens(indptr, *(np.concatenate(column) for column in zip(*kept, strict=True)))


def _one_after_the_other(parts: Sequence[FeatureTokens]) -> FeatureTokens:
    one, other = parts
    indptr = np.concatenate([one.indptr, one.indptr[-1] + other.indptr[1:]])
    return FeatureTokens(indptr, np.concatenate([one.token, other.token]), np.concatenate([one.value, other.value]))


def stability_path(folder: Path, layer: int) -> Path:
    """The file of a layer's stability."""
    return folder / f"layer-{layer:02d}.json"


def report(folder: Path, layers: Sequence[int]) -> list[dict[str, object]]:
    """Write the figures of all layers as a table, and a plot `convergence.png` of how they grow with the text."""
    figures = [read_as(stability_path(folder, layer), LayerFigures) for layer in layers]
    _draw(folder / "convergence.png", figures)
    rows: list[dict[str, object]] = []
    for one in figures:
        changed = one.n_changed_rank / one.n_edges if one.n_edges else None
        rows.append(
            {
                "layer": one.layer,
                "targets": one.n_targets,
                "edges": one.n_edges,
                "other rank in halves": one.n_changed_rank,
                "share": _percent(changed),
                "in both halves": _percent(one.overlap_halves),
                **{
                    f"{tokens:,} tokens": _percent(share) for tokens, share in zip(one.tokens, one.overlap, strict=True)
                },
                "settled at": "only at the end" if one.settled is None else f"{one.tokens[one.settled]:,}",
            }
        )
    return rows


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _draw(path: Path, figures: Sequence[LayerFigures]) -> None:
    from matplotlib.figure import Figure  # takes half a second to import

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    draw_convergence(figure, figures)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def draw_convergence(figure: "Figure", figures: Sequence[LayerFigures]) -> None:
    """Draw a line for each layer. A few layers have a legend; for many, the colour shows the depth, with a colour bar,
    since a legend of thirty lines hides the plot and a cycle of ten colours repeats."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = figure.add_subplot(xscale="log", ylim=(0, 1.02), xlabel="tokens", ylabel="share of the final edges found")
    known = {one.layer: _known(one) for one in figures if _known(one)}
    few = len(known) <= LAYERS_IN_LEGEND
    norm = Normalize(min(known, default=0), max(known, default=1))
    colours = colormaps["viridis"]
    for layer, points in known.items():
        colour = None if few else colours(norm(layer))
        axes.plot(*zip(*points, strict=True), marker=".", color=colour, label=f"layer {layer}")
    if known and few:
        axes.legend()
    elif known:
        figure.colorbar(ScalarMappable(norm, colours), ax=axes, label="layer")


def _known(figures: LayerFigures) -> list[tuple[int, float]]:
    return [(t, share) for t, share in zip(figures.tokens, figures.overlap, strict=True) if share is not None]
