"""Train one layer's transcoder on a corpus."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.capture import Hooks, capture
from interp.quality import measure_quality
from interp.training import Step, Trainer, TrainingSettings, train
from storage.checksums import NAME, UNSTAMPED, check_file, stamp
from storage.corpora.corpus import corpus_attributes, read_rows_at
from storage.formats.circuit_tracer import layer_tensors
from storage.store import Store, whole_file, write_json
from tasks.activations.corpora import batches, padded
from tasks.models import loaded_model
from tasks.shard_task import shard_task

STEPS_PER_STATE = 200
"""A killed training loses at most so many steps."""

STEPS_PER_RECORD = 10
HELD_OUT_SHARE = 0.05
"""Share of the rows, the last ones, that are not trained on but measured on."""

MAX_HELD_OUT_TOKENS = 16_384


@dataclass(frozen=True)
class TrainingJob:
    """What is trained, on what, and how."""

    recipe: str
    model_path: Path
    corpus_id: str
    hooks: Hooks
    settings: TrainingSettings


@shard_task("train-transcoder", "train-transcoder L{layer:02d}")
def train_layer(store: Store, job: TrainingJob, layer: int) -> int:
    """Train a layer, resuming a killed training; writes weights, then curve and quality."""
    corpus_id, hooks, settings = job.corpus_id, job.hooks, job.settings
    folder = store.trained_transcoders(job.recipe)
    weights, record = folder / f"layer_{layer}.safetensors", folder / f"layer_{layer}.json"
    if weights.exists() and record.exists():
        return layer
    state_path, curve = folder / f"layer_{layer}.state", []
    folder.mkdir(parents=True, exist_ok=True)
    model_folder, model = loaded_model(job.model_path)
    n_rows = corpus_attributes(store, corpus_id).n_sequences
    n_train = max(1, int(n_rows * (1 - HELD_OUT_SHARE)))
    special = frozenset(model_folder.tokenizer.all_special_ids)
    read = partial(_batch, store, corpus_id, n_train, settings, special)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        tokens, kept = read(step)
        streams = capture(model, model_folder.family, tokens, [layer], hooks)[layer]
        return streams.x[kept], streams.y[kept]

    state = None
    if state_path.exists():
        check_file(state_path)
        state = load_file(state_path)
        curve = [Step(int(row[0]), *row[1:]) for row in state.pop("curve").tolist()]

    def on_step(trainer: Trainer, step: Step) -> None:
        if step.step % STEPS_PER_RECORD == 0:
            curve.append(step)
        if step.step % STEPS_PER_STATE == 0:
            with whole_file(state_path) as partial_path:
                tensors = {**trainer.state(), "curve": torch.tensor(curve, dtype=torch.float64)}
                save_file(tensors, partial_path, {NAME: UNSTAMPED})
                stamp(partial_path)

    transcoder = train(batch, settings, on_step, state)
    held_out = batches(
        store, corpus_id, n_train, min(n_rows, n_train + _rows_for(MAX_HELD_OUT_TOKENS, store, corpus_id))
    )
    quality = measure_quality(model, model_folder.family, hooks, layer, transcoder, held_out, special)
    if not all(torch.isfinite(tensor).all() for tensor in layer_tensors(transcoder).values()):
        raise ValueError(
            f"transcoder.train: training of layer {layer} diverged, its weights are no numbers any more; "
            f"lower learning_rate, which is {settings.learning_rate:g}"
        )
    with whole_file(weights) as partial_path:
        save_file(layer_tensors(transcoder), partial_path, {NAME: UNSTAMPED})
        stamp(partial_path)
    write_json(record, {"quality": vars(quality), "curve": [step._asdict() for step in curve]})
    state_path.unlink(missing_ok=True)
    return layer


def _rows_for(n_tokens: int, store: Store, corpus_id: str) -> int:
    return max(1, n_tokens // corpus_attributes(store, corpus_id).n_pos)


def _batch(
    store: Store, corpus_id: str, n_train: int, settings: TrainingSettings, special: frozenset[int], step: int
) -> tuple[Tensor, Tensor]:
    """Rows of one step, (tokens, positions to learn from): every epoch goes through all rows in an order of its own."""
    n_pos = corpus_attributes(store, corpus_id).n_pos
    per_step = min(n_train, max(1, settings.batch_tokens // n_pos))
    epoch, at = divmod(step * per_step, n_train)
    order = [_epoch_order(settings.seed, epoch, n_train), _epoch_order(settings.seed, epoch + 1, n_train)]
    rows = torch.cat(order)[at : at + per_step].sort().values
    tokens, real = padded(torch.from_numpy(read_rows_at(store, corpus_id, rows.numpy())))
    return tokens, real & ~torch.isin(tokens.long(), torch.tensor(sorted(special), dtype=torch.long))


def _epoch_order(seed: int, epoch: int, n_rows: int) -> Tensor:
    return torch.randperm(n_rows, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
