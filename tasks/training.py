"""Train the transcoders of a group of layers on a corpus."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.activations.positions import counted_in_rows
from interp.activations.settings import ActivationSettings
from interp.capture import Hooks
from interp.products import fast_products
from interp.quality import Quality, measure_quality, of_each
from interp.training.settings import TrainingSettings
from interp.training.streams import captured
from interp.training.together import train_together
from interp.training.trainer import Step, Trainer
from interp.transcoder import Transcoder
from storage.checksums import NAME, UNSTAMPED, check_file, stamp
from storage.corpora.corpus import corpus_attributes, read_chosen_rows, read_rows
from storage.formats.circuit_tracer import layer_tensors
from storage.models import open_model
from storage.store import Store, checked_as, read_json, whole_file, write_json
from tasks.activations.corpora import TOKENS_PER_BATCH, padded
from tasks.device_memory import turn_on
from tasks.loaded_models import forget_model, give_memory_back, loaded_model, threads
from tasks.shard_task import PROGRESS, shard_task

SECONDS_PER_STATE = 120.0
"""Seconds between saved states: a killed training loses at most the steps of this time."""

STEPS_PER_RECORD = 10
HELD_OUT_SHARE = 0.05
"""Share of the rows, the last ones, that are used for measuring and not for training."""

MAX_HELD_OUT_TOKENS = 8192


@dataclass(frozen=True)
class TrainingJob:
    """What is trained, on what, and how."""

    recipe: str
    model_path: Path
    corpus_id: str
    hooks: Hooks
    settings: TrainingSettings
    counted: ActivationSettings
    """Settings that decide which positions count; others are neither trained nor measured on."""
    n_threads: int = 1
    device: str = "cpu"
    """Where the model runs and the trainers compute."""


@dataclass
class _Records:
    """The figures of a training: for every layer, those of each tenth step."""

    curves: dict[int, list[Step]] = field(default_factory=dict)

    def add(self, figures: Mapping[int, Step]) -> None:
        for layer, step in figures.items():
            if step.step % STEPS_PER_RECORD == 0:
                self.curves.setdefault(layer, []).append(step)


@shard_task("train-transcoders", "train transcoders L{layers}")
def train_layers(store: Store, job: TrainingJob, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Train some layers from one pass of the model, resuming a killed training; writes weights, curves and quality.

    Memory: the model; weights, Adam's moments and a step's streams of every layer; and the intermediate arrays of a
    step in each thread.
    """
    folder = store.trained_transcoders(job.recipe)
    left = [n for n in layers if not (_weights(folder, n).exists() and _record(folder, n).exists())]
    if not left:
        return layers
    folder.mkdir(parents=True, exist_ok=True)
    records = _Records()
    fast = fast_products(open_model(job.model_path).d_model)
    with turn_on(job.device), threads(job.n_threads) as pool, fast:
        trainers = _train(store, job, left, pool, records)
        transcoders = {layer: trainer.transcoder() for layer, trainer in trainers.items()}
        trainers.clear()
        forget_model()
        give_memory_back()
        for layer, transcoder in transcoders.items():
            _check_finite(transcoder, layer, job.settings)
        figures = _measured(store, job, transcoders, pool)
    for quality in figures:
        layer = quality.layer
        with whole_file(_weights(folder, layer)) as partial_path:
            save_file(layer_tensors(transcoders[layer].on("cpu")), partial_path, {NAME: UNSTAMPED})
            stamp(partial_path)
        curve = [step._asdict() for step in records.curves.get(layer, [])]
        write_json(_record(folder, layer), {"quality": vars(quality), "curve": curve})
        _state(folder, layer).unlink(missing_ok=True)
    return layers


def _train(store: Store, job: TrainingJob, layers: list[int], pool: Executor, records: _Records) -> dict[int, Trainer]:
    folder, rows = store.trained_transcoders(job.recipe), _Rows(store, job)
    model_folder, model = loaded_model(job.model_path, job.device, dtype=job.settings.torch_dtype)
    trainers = {}
    for layer in layers:
        if _state(folder, layer).exists():
            trainers[layer], records.curves[layer] = _read_state(_state(folder, layer), job)
    saved, progress = time.monotonic(), PROGRESS.get()

    def read(step: int, wanted: list[int]):
        return captured(model, model_folder.family, job.hooks, wanted, rows.of_step(step), pool)

    def on_step(together: Mapping[int, Trainer], figures: Mapping[int, Step]) -> None:
        nonlocal saved
        records.add(figures)
        if progress is not None:
            progress(min(trainer.step_number for trainer in together.values()))
        if time.monotonic() - saved >= SECONDS_PER_STATE:
            for layer in figures:
                _write_state(_state(folder, layer), together[layer], records.curves.get(layer, []))
            saved = time.monotonic()

    return train_together(read, layers, job.settings, pool, on_step, trainers)


def trained_quality(folder: Path) -> list[Quality]:
    """The quality of all layers of a folder of trained transcoders, on rows that were not trained on."""
    n_layers = len(list(folder.glob("layer_*.json")))
    records = [_record(folder, layer) for layer in range(n_layers)]
    return [checked_as(Quality, read_json(record)["quality"], record) for record in records]


def _weights(folder: Path, layer: int) -> Path:
    return folder / f"layer_{layer}.safetensors"


def _record(folder: Path, layer: int) -> Path:
    return folder / f"layer_{layer}.json"


def _state(folder: Path, layer: int) -> Path:
    return folder / f"layer_{layer}.state"


def _read_state(path: Path, job: TrainingJob) -> tuple[Trainer, list[Step]]:
    check_file(path)
    state = load_file(path)
    curve = [Step(int(row[0]), *row[1:]) for row in state.pop("curve").tolist()]
    return Trainer.resumed(state, job.settings, job.device), curve


def _write_state(path: Path, trainer: Trainer, curve: list[Step]) -> None:
    with whole_file(path) as partial_path:
        rows = torch.tensor(curve, dtype=torch.float64).view(-1, len(Step._fields))
        save_file({**trainer.state(), "curve": rows}, partial_path, {NAME: UNSTAMPED})
        stamp(partial_path)


def _check_finite(transcoder: Transcoder, layer: int, settings: TrainingSettings) -> None:
    if not all(torch.isfinite(tensor).all() for tensor in layer_tensors(transcoder).values()):
        raise ValueError(
            f"transcoder.train: training of layer {layer} diverged, its weights are not finite any more; "
            f"lower learning_rate, which is {settings.learning_rate:g}"
        )


def _measured(store: Store, job: TrainingJob, transcoders: Mapping[int, Transcoder], pool: Executor) -> list[Quality]:
    text = _Rows(store, job).held_out()
    model_folder, model = loaded_model(job.model_path, job.device)
    return measure_quality(model, model_folder.family, job.hooks, of_each(transcoders), text, pool)


class _Rows:
    """The rows of a corpus: those of each step, and those for measuring."""

    def __init__(self, store: Store, job: TrainingJob) -> None:
        self.store, self.job = store, job
        attributes = corpus_attributes(store, job.corpus_id)
        self.n_rows, self.n_pos = attributes.n_sequences, attributes.n_pos
        self.n_train = max(1, int(self.n_rows * (1 - HELD_OUT_SHARE)))
        self.special = open_model(job.model_path).tokenizer.all_special_ids

    def of_step(self, step: int) -> tuple[Tensor, Tensor]:
        """(tokens, which positions count); every epoch uses all rows in an order of its own."""
        n_train, seed = self.n_train, self.job.settings.seed
        per_step = min(n_train, max(1, self.job.settings.batch_tokens // self.n_pos))
        epoch, at = divmod(step * per_step, n_train)
        order = [_epoch_order(seed, epoch, n_train), _epoch_order(seed, epoch + 1, n_train)]
        tokens, _, counted = self._read(torch.cat(order)[at : at + per_step].sort().values.numpy())
        return tokens, counted

    def held_out(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of (tokens, which are real, which count)."""
        step = max(1, TOKENS_PER_BATCH // self.n_pos)
        stop = min(self.n_rows, self.n_train + max(1, MAX_HELD_OUT_TOKENS // self.n_pos))
        for start in range(self.n_train, stop, step):
            yield self._read(np.arange(start, min(start + step, stop)))

    def _read(self, at: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        rows = read_chosen_rows(self.store, self.job.corpus_id, at)
        n_before = self.job.counted.skip_document_start
        if n_before == 0:
            counted = counted_in_rows(rows.tokens, rows.documents, rows.documents[:0], self.special, self.job.counted)
        else:
            counted = np.concatenate([self._counted(int(row), n_before) for row in at])
        return (*padded(torch.from_numpy(rows.tokens)), torch.from_numpy(counted))

    def _counted(self, row: int, n_before: int) -> np.ndarray:
        before = read_rows(self.store, self.job.corpus_id, max(0, row - n_before), row).documents
        own = read_rows(self.store, self.job.corpus_id, row, row + 1)
        return counted_in_rows(own.tokens, own.documents, before, self.special, self.job.counted)


def _epoch_order(seed: int, epoch: int, n_rows: int) -> Tensor:
    return torch.randperm(n_rows, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
