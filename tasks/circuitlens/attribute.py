"""Attribute the samples of a block of rows, of all layers together, so that a sequence is run through the model
once."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from interp.batches import each_batch
from interp.capture import last_hidden
from interp.circuitlens.attribution import Contributions, Targets, attributed, feature_targets, read_until
from interp.circuitlens.contributors import Contributors, significant
from interp.circuitlens.direct import attributed_directly, direct_heads
from interp.circuitlens.effects import Activations, output_effects
from interp.circuitlens.frozen import Frozen, freeze
from interp.circuitlens.linear import LinearModel, linear_model, rounded
from interp.circuitlens.settings import CircuitLensSettings
from interp.circuitlens.streams import Seen, read_streams_of
from interp.products import fast_products
from interp.transcoder import Transcoder
from storage.activations import Block
from storage.attributions import Attributed, attributions_path, qk_path, write_attributed, write_qk
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.samples import ShardSamples, read_samples_of_rows, samples_by_row_path
from storage.store import Store
from tasks.circuitlens.head_reasons import head_scores
from tasks.circuitlens.job import BATCH_BYTES, CircuitLensJob, as_tensor
from tasks.device_memory import turn_on
from tasks.loaded_models import TRANSCODERS, loaded_model, loaded_transcoder
from tasks.shard_task import shard_task

WORST_SUM = 0.02
"""If half of the samples have a reading that differs from their activation by more than this share, the attributed
model is not the one that was sampled."""

STREAMS = 6
"""Number of vectors of d_model that freezing needs for each token and layer."""

EFFECTS = 4
"""Number of arrays of its size that computing output effects needs."""

STREAMS_BYTES = 1 << 26
"""Memory for the streams of sequences that are run through the model together (at least one), in bytes."""

_LayerSamples: TypeAlias = tuple[ShardSamples, Bool[np.ndarray, " n"]]
"""A layer's samples, and which of them are continued."""


@shard_task("circuitlens-block", "circuitlens rows {block.start}-{block.stop}")
def attribute_block(store: Store, job: CircuitLensJob, block: Block) -> Block:
    """Attribute every chosen feature's samples in a block of rows; the samples have been ordered by row.

    Memory: the model, the transcoders that fit `TRANSCODERS` (at least one), one sequence's frozen state (decoder rows
    of all features active in it, if not all transcoders fit), `STREAMS_BYTES`, `BATCH_BYTES` of targets, the block's
    samples, and the results: about a kilobyte and, with output effects, a vector of d_model for every sample of the
    block.
    """
    path = attributions_path(store, job.recipe, *block)
    if path.exists():
        return block
    checkpoint = open_checkpoint(store, job.checkpoint_id)
    folder, model = loaded_model(job.model_path, job.device, open_attention=True)
    wanted = [_samples(store, job, layer, block) for layer in job.layers]
    numbers = np.unique(np.concatenate([samples.sequence for samples, _ in wanted]))
    rows = job.rows(store, numbers)
    with turn_on(job.device), fast_products(checkpoint.attributes.d_model):
        linear = linear_model(model, folder.family, checkpoint.hooks)
        swept = rounded(linear) if job.settings.precision == "bfloat16" else linear
        sequences = [_Sequence.of(rows[number], number, wanted, job.device) for number in numbers.tolist()]
        found = [
            _attribute_sequence(job, checkpoint, (linear, swept), one, seen)
            for group in _together(linear, sequences)
            for one, seen in zip(group, _streams(linear, group), strict=True)
        ]
        del linear, swept, sequences
    whole = Attributed.joined([one.samples for one in found] or [_nothing(checkpoint.attributes.d_model, job.settings)])
    _check_values([one for one in found if len(one.value)])
    write_qk(qk_path(store, job.recipe, *block), [table for one in found for table in one.head_scores])
    write_attributed(path, whole)
    return block


def _samples(store: Store, job: CircuitLensJob, layer: int, block: Block) -> _LayerSamples:
    paths = [samples_by_row_path(store, job.recipe, key) for key in job.sampled_shards(layer)]
    parts, marks = zip(*(read_samples_of_rows(path, *block) for path in paths), strict=True)
    joined = ShardSamples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return joined, np.concatenate(marks)


class _Sequence(NamedTuple):
    """A sequence, cut after the last of its samples, with these samples."""

    tokens: Int64[Tensor, " n_pos"]
    samples: list[_LayerSamples]

    @classmethod
    def of(cls, row: np.ndarray, number: int, wanted: list[_LayerSamples], device: str) -> "_Sequence":
        """The sequence with this number, out of all samples of a block."""
        samples = [(samples.where(w := samples.sequence == number), first[w]) for samples, first in wanted]
        n_pos = 1 + max(int(s.position.max(initial=0)) for s, _ in samples)
        return cls(torch.from_numpy(row[:n_pos].astype(np.int64)).to(device), samples)


def _together(linear: LinearModel, sequences: list[_Sequence]) -> Iterator[list[_Sequence]]:
    """Sequences in order, in groups that are run through the model together. A narrow model takes no longer for twenty
    than for one; for a wide one, the streams of a single sequence are large."""
    if sequences:
        size = _at_once(linear, max(len(one.tokens) for one in sequences))
        yield from (sequences[at : at + size] for at in range(0, len(sequences), size))


def _at_once(linear: LinearModel, longest: int) -> int:
    """The number of sequences of at most `longest` tokens that are run through the model together."""
    per_token = 4 * linear.n_layers * (STREAMS * linear.final.weight.shape[0] + linear.n_heads * longest)
    return max(1, STREAMS_BYTES // (per_token * longest))


def _streams(linear: LinearModel, group: list[_Sequence]) -> Iterator[Seen]:
    """The streams of a group's sequences, in order."""
    read: Callable[[slice], list[Seen]] = lambda part: read_streams_of(linear, [one.tokens for one in group[part]])  # noqa: E731
    width = max(len(one.tokens) for one in group)
    for found in each_batch("sequences", group[0].tokens.device, len(group), _at_once(linear, width), read, width):
        yield from found


class _Found(NamedTuple):
    """What was found for all samples of one sequence."""

    samples: Attributed
    head_scores: list[pa.Table]
    """Rows of `qk_contributions`: why the samples' heads attended where they did."""
    value: Float32[np.ndarray, " n"]
    """The feature's reading at its sample's token: the sum of all contributions, if they are complete."""


def _attribute_sequence(
    job: CircuitLensJob, checkpoint: Checkpoint, models: tuple[LinearModel, LinearModel], one: _Sequence, seen: Seen
) -> _Found:
    """`models` are the one that is frozen, and the same in the precision of sweeps."""
    linear, _ = models
    settings, device, samples, tokens = job.settings, job.device, one.samples, one.tokens
    transcoder = partial(loaded_transcoder, checkpoint, device=device)
    layer = np.concatenate([np.full(len(s.feature), at) for at, (s, _) in zip(job.layers, samples, strict=True)])
    feature, sample, sequence, position = (
        np.concatenate([getattr(s, name) for s, _ in samples]) for name in ("feature", "sample", "sequence", "position")
    )
    activation = np.concatenate([s.activation for s, _ in samples])
    all_held = linear.n_layers * transcoder(job.layers[0]).n_bytes <= TRANSCODERS.max_bytes
    until = read_until(layer + linear.reads_above, position, linear.n_layers)
    frozen = freeze(linear, transcoder, tokens, until, keep_decoders=all_held, seen=seen)
    per_layer = [
        feature_targets(linear, frozen, at, transcoder(at), as_tensor(s.feature, device), as_tensor(s.position, device))
        for at, (s, _) in zip(job.layers, samples, strict=True)
        if len(s.feature)
    ]
    targets = Targets(*(torch.cat(columns) for columns in zip(*per_layer, strict=True)))
    parts, total = [], np.zeros(len(layer), np.float32)
    for strongest, (target, value) in _contributors(models, frozen, targets, settings):
        parts.append(strongest)
        total[target] = value
    where = [as_tensor(column, device) for column in (layer, feature, position)]
    active = Activations(*[*where, as_tensor(activation, device)])
    continued = np.concatenate([followed for _, followed in samples])
    effect = np.zeros((len(layer), 0, linear.final.weight.shape[0]), np.float32)
    if settings.effect_tokens:
        effect = _effects(linear, frozen, transcoder, active, continued, settings)
    found = Attributed(
        layer, feature, sample, sequence, position, activation, total, Contributors.joined(parts), effect
    )
    value = total
    if settings.sources == "direct":
        value = np.concatenate(
            [_readings(transcoder(at), seen["x", at], s) for at, (s, _) in zip(job.layers, samples, strict=True)]
        )
    return _Found(found, list(head_scores(linear, frozen, found, settings)), value)


def _readings(coder: Transcoder, x: Tensor, samples: ShardSamples) -> Float32[np.ndarray, " n"]:
    """A layer's features' pre-activations at their samples' tokens."""
    feature, position = (as_tensor(column, str(x.device)).long() for column in (samples.feature, samples.position))
    return ((x[position] * coder.W_enc[feature]).sum(1) + coder.b_enc[feature]).float().cpu().numpy()


def _contributors(
    models: tuple[LinearModel, LinearModel], frozen: Frozen, targets: Targets, settings: CircuitLensSettings
) -> Iterator[tuple[Contributors, tuple[np.ndarray, np.ndarray]]]:
    """The significant contributors to the targets in batches, each with its targets and their sums."""
    linear, swept = models

    def select(batch: Contributions) -> tuple[Contributors, tuple[np.ndarray, np.ndarray]]:
        heads = batch.heads
        if heads is None:
            heads = direct_heads(linear, frozen, targets.at(batch.target))
        strongest = significant(frozen, batch, heads, settings, whole_mlps=linear.hooks.rebuilds)
        return strongest, (batch.target.cpu().numpy(), batch.total().cpu().numpy())

    if settings.sources == "direct":
        return attributed_directly(swept, frozen, targets, select, max_bytes=BATCH_BYTES)
    heads = settings.heads == "jacobian"
    return attributed(swept, frozen, targets, select, max_bytes=BATCH_BYTES, heads=heads)


def _effects(
    linear: LinearModel,
    frozen: Frozen,
    transcoder: Callable[[int], Transcoder],
    active: Activations,
    continued: np.ndarray,
    settings: CircuitLensSettings,
) -> Float32[np.ndarray, "n n_after d_model"]:
    n_after = settings.continuation_tokens
    now = _effects_within(linear, frozen, transcoder, active, 0)
    effect = np.full((len(now), 1 + n_after, now.shape[2]), np.nan, np.float32)
    effect[:, :1] = now
    for position in np.unique(active.position.cpu().numpy()[continued]).tolist() if n_after else []:
        which = torch.from_numpy(continued & (active.position.cpu().numpy() == position))
        longer = _continued(linear, frozen.tokens[: position + 1], n_after)
        here = Activations(*(column[which.to(column.device)] for column in active))
        forward = freeze(linear, transcoder, longer, [0] * linear.n_layers)
        effect[which.numpy()] = _effects_within(linear, forward, transcoder, here, n_after)
    return effect


def _effects_within(
    linear: LinearModel, frozen: Frozen, transcoder: Callable[[int], Transcoder], active: Activations, n_after: int
) -> Float32[np.ndarray, "n n_after_plus_1 d_model"]:
    """`output_effects` on the host, in batches where the device has no room for all."""

    def carry(part: slice) -> np.ndarray:
        some = Activations(*(column[part] for column in active))
        return output_effects(linear, frozen, transcoder, some, n_after).cpu().numpy()

    n, of_one = len(active.layer), 4 * EFFECTS * (1 + n_after) * linear.final.weight.shape[0]
    full = max(n, BATCH_BYTES // of_one)
    return np.concatenate(list(each_batch("output effects", active.layer.device, n, full, carry, 1 + n_after)))


@torch.no_grad()
def _continued(linear: LinearModel, tokens: Tensor, n: int) -> Tensor:
    """The tokens, and the `n` most probable tokens after them, generated one by one."""
    for _ in range(n):
        logits = linear.family.logits(linear.model, last_hidden(linear.model, linear.family, tokens[None])[0, -1:])
        tokens = torch.cat([tokens, logits.argmax(-1)])
    return tokens


def _nothing(d_model: int, settings: CircuitLensSettings) -> Attributed:
    n_after = 1 + settings.continuation_tokens if settings.effect_tokens else 0
    none, floats = np.zeros(0, np.int64), np.zeros(0, np.float32)
    effect = np.zeros((0, n_after, d_model), np.float32)
    return Attributed(none, none, none, none, none, floats, floats, Contributors.joined([]), effect)


def _check_values(found: list[_Found]) -> None:
    """Check that the readings in the frozen model are the sampled activations."""
    if not found:
        return
    layer, feature, sequence, activation = (
        np.concatenate([getattr(one.samples, name) for one in found])
        for name in ("layer", "feature", "sequence", "activation")
    )
    value = np.concatenate([one.value for one in found])
    apart = np.abs(value - activation) / activation
    if not np.median(apart) <= WORST_SUM:
        worst = int(np.argmax(apart))
        raise ValueError(
            f"layer {layer[worst]}, feature {feature[worst]}, row {sequence[worst]}: the frozen model gives "
            f"{value[worst]:.4g}, the sampled activation is {activation[worst]:.4g}; half of the samples of these rows "
            f"are off by {np.median(apart):.1%} or more, expected {WORST_SUM:.0%} at most"
        )
