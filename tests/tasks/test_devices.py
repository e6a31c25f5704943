"""Every stage on a device other than the CPU: nothing of it stays behind, and the results are those of the CPU."""

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Barrier, BoundedSemaphore, Lock
from time import sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from flows.ingest import quality_job
from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.activations import ActivationsRecipe
from flows.recipes.circuitlens import CircuitLensRecipe
from interp import streamed_layers
from interp.activations.settings import ActivationSettings
from interp.batches import forget_sizes
from interp.circuitlens.settings import CircuitLensSettings
from interp.descriptions.explainer_prompts import DESCRIPTION
from interp.descriptions.llm_questions import Prompt
from interp.fade import surprisal
from interp.fade.settings import EvaluateSettings
from interp.interventions.changes import Changes, FeatureChange
from interp.interventions.generating import continuations
from interp.interventions.running import SteerableModel
from interp.projection import FLOAT32, Arithmetic, OutlierRule, Projection, project
from interp.training.settings import TrainingSettings
from storage.activations import Block, open_block
from storage.answers import AnswerStore
from storage.attributions import attributions_path
from storage.checkpoints import open_checkpoint
from storage.corpora.corpus import read_rows
from storage.samples import ShardSamples
from storage.store import ShardKey
from tasks import device_memory, loaded_models
from tasks.activations import corpus_pass as reading
from tasks.circuitlens import ablate, attribute
from tasks.circuitlens.ablate import ablate_layer
from tasks.circuitlens.attribute import attribute_block
from tasks.circuitlens.job import CircuitLensJob
from tasks.circuitlens.order import order_samples
from tasks.evaluation import held_out
from tasks.evaluation.comparison import Comparison
from tasks.evaluation.text_activations import Wanted, read_activations
from tasks.ingest import measured
from tasks.known_answers import read_features, read_text
from tasks.llm.local_model import LocalModel
from tasks.loaded_models import loaded_model
from tasks.training import TrainingJob, train_layers
from tasks.weightlens import project as projecting
from tasks.weightlens.single_token import SingleTokenJob, single_token_block
from tests.absent_device import NAME, LateCopies, bytes_there
from tests.tasks.demo_store import ingested

COUNTED = ActivationSettings()


def on(device: str) -> Arithmetic:
    return FLOAT32._replace(device=device)


ROOM = 3_724_000
"""Bytes for the demo's embeddings and two of its four layers."""

NUMBER = count()
"""Outputs get names of their own: what is there already would not be computed."""


@pytest.fixture(
    params=[
        (NAME, None),
        (NAME, ROOM),
        pytest.param(("cuda", None), marks=pytest.mark.gpu),
        pytest.param(("cuda", ROOM), marks=pytest.mark.gpu),
    ],
    ids=["absent", "absent-streamed", "gpu", "gpu-streamed"],
)
def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The simulated device, and a GPU if there is one; each also with room for the embeddings and two of four
    layers."""
    device, room = request.param
    if room is None:
        yield device
        return
    monkeypatch.setattr(loaded_models, "room_for_weights", lambda where: None if where == "cpu" else room)
    if device == NAME:
        monkeypatch.setattr(streamed_layers, "copies_to", lambda _: LateCopies())
    loaded_models.forget_model()
    yield device
    loaded_models.forget_model()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> CheckpointPlan:
    return ingested(tmp_path_factory.mktemp("store"), "corpus.max_tokens=800", "corpus.n_pos=32", "quality_tokens=200")


def read(plan: CheckpointPlan, how: Arithmetic, layer: int) -> np.ndarray:
    """A layer's activations of a block, dense."""
    [corpus_pass] = ActivationsRecipe(plan).passes
    corpus_pass = corpus_pass._replace(recipe=f"on-{how.device}-{next(NUMBER)}")
    block, model = Block(0, 10), plan.inputs.model.path
    reading.activations_block.fn(
        plan.store, reading.PassJob(plan.checkpoint_id, model, COUNTED, how), corpus_pass, block
    )
    active = open_block(plan.store, corpus_pass.recipe, block).features(layer, 0, plan.attributes.d_transcoder)
    dense = np.zeros((plan.attributes.d_transcoder, 320), np.float32)
    dense[np.repeat(np.arange(len(dense)), np.diff(active.indptr)), active.token] = active.value
    return dense


def test_the_corpus_pass(plan: CheckpointPlan, there: str) -> None:
    found, expected = read(plan, on(there), 2), read(plan, FLOAT32, 2)
    assert (expected > 0).sum() > 1000
    assert np.allclose(found, expected, atol=2e-5)


def test_few_tasks_compute_on_a_gpu_at_the_same_time(plan: CheckpointPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """More would only share its memory; a task that waits for its turn has nothing there."""
    entered, most, lock = 0, 0, Lock()
    all_there = Barrier(device_memory.TASKS_AT_ONCE)

    def compute(device: str) -> None:
        nonlocal entered, most
        with device_memory.turn_on(device):
            with lock:
                entered += 1
                most = max(most, entered)
            all_there.wait(60)
            with lock:
                entered -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(compute, ["cuda:7"] * 6))
    assert most == device_memory.TASKS_AT_ONCE
    turns: list[str] = []
    monkeypatch.setattr(device_memory, "_turns", lambda device: nullcontext(turns.append(device)))
    read(plan, on(NAME), 2)
    read(plan, FLOAT32, 2)
    assert turns == [NAME]


class WaitsError(Exception):
    """Raised in place of waiting for a turn."""


def waiting_to_attribute(plan: CheckpointPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    one, settings = np.zeros(1, np.int64), CircuitLensSettings(precision="bfloat16")
    samples = ShardSamples(one, one, one, one + 3, np.ones(1, np.float32), one), np.zeros(1, bool)
    monkeypatch.setattr(attribute, "_samples", lambda *_: samples)
    job = replace(CircuitLensRecipe(plan).job(NAME), recipe="waiting", settings=settings)
    attribute_block.fn(plan.store, job, Block(0, 3))


def waiting_to_ablate(plan: CheckpointPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CircuitLensJob, "chosen_features", lambda *_: np.arange(2))
    monkeypatch.setattr(ablate, "read_attributed", lambda *_: None)
    ablate_layer.fn(plan.store, CircuitLensRecipe(plan).job(NAME), ShardKey("waiting", 2, 0, 10))


def waiting_to_steer(plan: CheckpointPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    active = SimpleNamespace(of=lambda _: SimpleNamespace(value=np.ones(3)))
    monkeypatch.setattr(held_out, "natural", lambda *_: (np.arange(2), [], active, [], []))
    monkeypatch.setattr(held_out, "_prompts", lambda *_: np.ones((2, 4), np.int64))
    task: Any = SimpleNamespace(
        checkpoint_id=plan.checkpoint_id, model_path=plan.inputs.model.path, arithmetic=on(NAME),
        how=EvaluateSettings(), steered_path=lambda *_: plan.store.root / "waiting.npz",
    )  # fmt: skip
    held_out.steer_features.fn(plan.store, task, ShardKey("waiting", 2, 0, 2))


def waiting_to_compare(plan: CheckpointPlan, _: pytest.MonkeyPatch) -> None:
    task: Any = SimpleNamespace(embeddings=None, surprisal=plan.inputs.model.path, arithmetic=on(NAME))
    material: Any = SimpleNamespace(compared=[0])
    Comparison(task, ["a text"])("a description", material)


def waiting_to_measure(plan: CheckpointPlan, _: pytest.MonkeyPatch) -> None:
    measured(replace(quality_job(plan), arithmetic=on(NAME)), (0, 2))


def waiting_to_train(plan: CheckpointPlan, _: pytest.MonkeyPatch) -> None:
    settings = TrainingSettings(d_transcoder=40, activation="topk", k=4, n_steps=3, batch_tokens=128)
    path, corpus_id = plan.inputs.model.path, plan.inputs.corpus.corpus_id
    job = TrainingJob("waiting", path, corpus_id, plan.transcoders.hooks, settings, COUNTED, device=NAME)
    train_layers.fn(plan.store, job, (1, 3))


def waiting_to_ask(plan: CheckpointPlan, _: pytest.MonkeyPatch) -> None:
    prompt = Prompt("explain", "You describe.", "<data>\n{}\n</data>", DESCRIPTION, 20)
    LocalModel(Path("no-folder"), "print", AnswerStore(plan.store), "run", device=NAME).ask([prompt])


@pytest.mark.parametrize(
    "task",
    [
        waiting_to_attribute, waiting_to_ablate, waiting_to_steer, waiting_to_compare, waiting_to_measure,
        waiting_to_train, waiting_to_ask,
    ],
)  # fmt: skip
def test_a_task_that_waits_for_its_turn_has_nothing_but_the_model_there(
    plan: CheckpointPlan, monkeypatch: pytest.MonkeyPatch, task: Callable[[CheckpointPlan, pytest.MonkeyPatch], None]
) -> None:
    loaded_model(plan.inputs.model.path, NAME, open_attention=task in (waiting_to_attribute, waiting_to_ablate))
    gc.collect()
    of_the_model, waiting = bytes_there(), list[int]()

    def wait(_: str) -> None:
        waiting.append(bytes_there())
        raise WaitsError

    monkeypatch.setattr(device_memory, "_turns", wait)
    with pytest.raises(WaitsError):
        task(plan, monkeypatch)
    assert of_the_model > 0
    assert waiting == [of_the_model]


def test_threads_wait_for_the_same_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(n: int) -> BoundedSemaphore:
        sleep(0.01)
        return BoundedSemaphore(n)

    monkeypatch.setattr(device_memory, "BoundedSemaphore", slow)
    with ThreadPoolExecutor(4) as pool:
        turns = list(pool.map(device_memory._turns, ["cuda:8"] * 4))  # pyright: ignore[reportPrivateUsage]
    assert all(one is turns[0] for one in turns)


def test_the_corpus_pass_of_a_model_in_bfloat16(plan: CheckpointPlan) -> None:
    found, expected = read(plan, FLOAT32._replace(dtype=torch.bfloat16), 2), read(plan, FLOAT32, 2)
    both = (found > 0) & (expected > 0)
    assert both.sum() > 0.9 * (expected > 0).sum()
    difference = np.abs(found - expected)[both]
    assert 0 < np.median(difference) < 0.03 * np.median(expected[both])


def test_single_tokens(plan: CheckpointPlan, there: str) -> None:
    def active(device: str) -> dict[str, np.ndarray]:
        job = SingleTokenJob(plan.checkpoint_id, plan.inputs.model.path, None, on(device))
        single_token_block.fn(plan.store, job, 0, 50)
        [block] = (plan.store.root / "checkpoints").rglob("block-*.safetensors")
        found = load_file(block)
        block.unlink()
        return found

    found, expected = active(there), active("cpu")
    assert sum(len(column) for column in expected.values()) > 1000
    assert all(np.allclose(np.sort(found[name]), np.sort(expected[name]), atol=2e-5) for name in expected)


def test_projections(there: str) -> None:
    torch.manual_seed(0)
    rows, columns = torch.randn(9, 16), torch.randn(300, 16)
    rule = OutlierRule("paper", 40, 2.0)
    found, expected = (project(x, lambda: iter([(0, columns)]), 300, rule) for x in (rows.to(there), rows))
    assert (found.positive.column == expected.positive.column).all()
    assert np.allclose(found.negative.z_score, expected.negative.z_score, atol=1e-4)
    assert np.allclose(found.absolute_sum, expected.absolute_sum)


def test_features_are_projected_in_blocks_that_the_device_has_room_for(
    there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    rows, columns = torch.randn(9, 16), torch.randn(300, 16)
    sizes: list[int] = []

    def small(some: torch.Tensor, *rest: Any, **options: Any) -> Projection:
        sizes.append(len(some))
        if len(some) > 4:
            raise torch.OutOfMemoryError("no room")
        return project(some, *rest, **options)

    monkeypatch.setattr(projecting, "project", small)
    forget_sizes()

    def run(rows: torch.Tensor) -> Projection:
        rule = OutlierRule("paper", 40, 2.0)
        return projecting._projected(rows, lambda: iter([(0, columns)]), 300, rule, on(there))  # pyright: ignore[reportPrivateUsage]

    found, expected = run(rows), project(rows, lambda: iter([(0, columns)]), 300, OutlierRule("paper", 40, 2.0))
    assert sizes == [9, 5, 3, 3, 3]
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert ours.row.tolist() == theirs.row.tolist()
        assert ours.column.tolist() == theirs.column.tolist()
        assert np.allclose(ours.z_score, theirs.z_score, atol=1e-4)
    assert np.allclose(found.absolute_sum, expected.absolute_sum)
    with pytest.raises(OverflowError) as error:
        run(torch.where(torch.arange(9)[:, None] == 7, torch.finfo(torch.float32).max, rows))
    assert error.value.args == (7,)
    forget_sizes()


@pytest.mark.whole
def test_quality(plan: CheckpointPlan, there: str) -> None:
    job = quality_job(plan)
    found, expected = (
        [quality for quality, _ in measured(replace(job, arithmetic=how), (0, 2))] for how in (on(there), FLOAT32)
    )
    for one, other in zip(found, expected, strict=True):
        assert list(vars(one).values()) == pytest.approx(list(vars(other).values()), abs=1e-4)


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_training(plan: CheckpointPlan, there: str, activation: Any) -> None:
    settings = TrainingSettings(
        d_transcoder=40, activation=activation, k=4, n_steps=3, batch_tokens=128, dead_after_tokens=100
    )
    job = TrainingJob(
        "cpu", plan.inputs.model.path, plan.inputs.corpus.corpus_id, plan.transcoders.hooks, settings, COUNTED
    )
    weights = []
    for recipe, device in ((f"on-{next(NUMBER)}", there), (f"on-{next(NUMBER)}", "cpu")):
        train_layers.fn(plan.store, replace(job, recipe=recipe, device=device), (1, 3))
        weights.append((plan.store.trained_transcoders(recipe) / "layer_3.safetensors").read_bytes())
    found, expected = (np.frombuffer(one[-4 * 40 * 64 :], np.float32) for one in weights)
    assert np.allclose(found, expected, atol=2e-3)


def test_texts_that_are_read_for_a_judge(plan: CheckpointPlan, there: str) -> None:
    checkpoint, path = open_checkpoint(plan.store, plan.checkpoint_id), plan.inputs.model.path
    texts = read_rows(plan.store, plan.inputs.corpus.corpus_id, 0, 4).tokens.tolist()
    features = {1: np.arange(0, 500), 3: np.arange(20, 700)}
    found, expected = (
        read_activations(Wanted(checkpoint, path, features, COUNTED, how), texts) for how in (on(there), FLOAT32)
    )
    for layer in features:
        assert len(expected[layer].value) > 100
        for one, other in zip(found[layer], expected[layer], strict=True):
            assert np.allclose(one, other, atol=2e-5)


def test_known_answers_are_read(plan: CheckpointPlan, there: str) -> None:
    vocabulary = [f"t{token}" for token in range(plan.attributes.d_vocab)]
    path, corpora = plan.inputs.model.path, [plan.inputs.corpus.corpus_id]
    read = read_text(plan.store, corpora, path, vocabulary, 200, COUNTED)
    checkpoint = open_checkpoint(plan.store, plan.checkpoint_id)
    found, expected = (dict(read_features(checkpoint, path, read, [0, 2], device)) for device in (there, "cpu"))
    for layer, own in expected.items():
        assert len(own.value) > 100
        assert np.array_equal(found[layer].indptr, own.indptr)
        assert np.array_equal(found[layer].token, own.token)
        assert np.allclose(found[layer].value, own.value, atol=2e-5)


@pytest.mark.parametrize("most", [32, 2])
def test_surprisal(plan: CheckpointPlan, there: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches that the device has room for, too."""
    texts = ["Return a new dictionary.", "the file is closed", "", "a b c", "maps keys to values"]
    run = surprisal._log_likelihoods  # pyright: ignore[reportPrivateUsage]

    def small(model: torch.nn.Module, before: list[int], rows: list[list[int]]) -> torch.Tensor:
        if len(rows) > most:
            raise torch.OutOfMemoryError("no room")
        return run(model, before, rows)

    def found(device: str) -> np.ndarray:
        folder, model = loaded_model(plan.inputs.model.path, device)
        return surprisal.gains(model, folder.tokenizer, "dictionary", texts)

    expected = found("cpu")
    monkeypatch.setattr(surprisal, "_log_likelihoods", small)
    assert np.allclose(found(there), expected, atol=2e-4)
    assert np.abs(expected).max() > 0.01


def test_steering(plan: CheckpointPlan, there: str) -> None:
    checkpoint = open_checkpoint(plan.store, plan.checkpoint_id)
    prompts = torch.from_numpy(read_rows(plan.store, plan.inputs.corpus.corpus_id, 0, 6).tokens[:, :8]).long()
    changes = Changes([FeatureChange(row, 2, 7 * (row % 2)).held_at(3.0 * row) for row in range(6)])

    def written(device: str) -> list[list[int]]:
        folder, model = loaded_model(plan.inputs.model.path, device)
        coder = checkpoint.transcoder(2).on(device)
        of = SteerableModel(model, folder.family, checkpoint.hooks, lambda _: coder)
        return continuations(of, changes, prompts.to(device), 5).cpu().tolist()

    assert written(there) == written("cpu")


@pytest.mark.whole
@pytest.mark.parametrize("there", [NAME, pytest.param("cuda", marks=pytest.mark.gpu)])
def test_circuitlens(plan: CheckpointPlan, there: str) -> None:
    store, samples = plan.store, ActivationsRecipe(plan)
    job = reading.PassJob(plan.checkpoint_id, plan.inputs.model.path, COUNTED)
    for corpus_pass in samples.passes:
        for block in corpus_pass.blocks(store):
            reading.activations_block.fn(store, job, corpus_pass, block)
    drawing = reading.SamplingJob(plan.checkpoint_id, samples.corpus_id, tuple(samples.passes), COUNTED)
    for key in samples.shards():
        reading.gather_shard.fn(store, drawing, key)
    settings = CircuitLensSettings(
        features_per_layer=2, samples_per_feature=4, ablated_features=2, ablated_samples=2, continuation_tokens=2,
        continued_samples=1,
    )  # fmt: skip
    tables = []
    for device in (there, "cpu"):
        whole = replace(CircuitLensRecipe(plan).job(device), recipe=device, blocks=(Block(0, 3),), settings=settings)
        for layer in whole.layers:
            for key in whole.sampled_shards(layer):
                order_samples.fn(store, whole, key)
        attribute_block.fn(store, whole, Block(0, 3))
        tables.append(pq.read_table(attributions_path(store, device, 0, 3)))
    found, expected = tables
    assert found.num_rows == expected.num_rows > 3
    n_scores = 0
    for name in expected.column_names:
        flat = [table[name].combine_chunks() for table in (found, expected)]
        while pa.types.is_list(flat[0].type) or pa.types.is_large_list(flat[0].type):
            flat = [one.flatten() for one in flat]
        if pa.types.is_floating(flat[0].type):
            one, other = (np.sort(column.to_numpy(zero_copy_only=False)) for column in flat)
            n_scores += len(other)
            assert np.allclose(one, other, atol=1e-3, equal_nan=True)
    assert n_scores > 100
