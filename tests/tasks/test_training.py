"""The training task: one pass for all layers, killed and resumed; which positions it learns from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from configs.load import load_config
from configs.run import RunConfig
from flows.costs.rates import Rates
from flows.costs.sizes import sizes_to_train
from flows.costs.training import training_costs, training_groups
from flows.inputs.checkpoint_plan import Inputs, open_inputs
from interp.activations.settings import ActivationSettings
from interp.capture import Hooks
from storage.activations import Block
from storage.store import read_json
from tasks import training as training_task
from tasks.activations.corpora import tokenise_corpus
from tasks.activations.corpus_pass import counted_positions
from tasks.shard_task import PROGRESS
from tasks.training import TrainingJob, train_layers
from tests.conftest import ROOT
from tests.planted import write_planted

HOOKS = Hooks("mlp_in", "mlp_out")
OVERRIDES = (
    "corpus.n_pos=16", "corpus.held_out=0", "transcoder.train.d_transcoder=24", "transcoder.train.k=3",
    "transcoder.train.n_steps=25", "transcoder.train.batch_tokens=64", "transcoder.train.dead_after_tokens=300",
)  # fmt: skip


def config_of(folder: Path, *overrides: str) -> RunConfig:
    own = [f"store={folder / 'store'}", f"model.path={folder / 'model'}", f"corpus.source={folder / 'text.txt'}"]
    return load_config(ROOT / "configs" / "stories260k.yaml", [*own, *OVERRIDES, *overrides])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("training")
    write_planted(folder)
    inputs = open_inputs(config_of(folder))
    tokenise_corpus.fn(inputs.store, inputs.corpus, inputs.model.path)
    return inputs


def job(inputs: Inputs, recipe: str, **changes: object) -> TrainingJob:
    settings = inputs.config.transcoder.train
    assert settings is not None
    made = TrainingJob(recipe, inputs.model.path, inputs.corpus.corpus_id, HOOKS, settings, ActivationSettings())
    return replace(made, **changes)


def trained(inputs: Inputs, recipe: str) -> dict[str, torch.Tensor]:
    folder = inputs.store.trained_transcoders(recipe)
    return {
        f"{layer}.{name}": tensor
        for layer in (0, 1)
        for name, tensor in load_file(folder / f"layer_{layer}.safetensors").items()
    }


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_one_pass_trains_what_passes_of_their_own_train(inputs: Inputs) -> None:
    train_layers.fn(inputs.store, job(inputs, "together", n_threads=2), (0, 1))
    for layer in (0, 1):
        train_layers.fn(inputs.store, job(inputs, "alone"), (layer,))
    assert_same(trained(inputs, "together"), trained(inputs, "alone"))


class Killed(Exception):  # noqa: N818
    pass


def test_a_killed_training_goes_on_where_its_states_are(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed between the states of two layers, and then goes on as a group of another cut."""
    train_layers.fn(inputs.store, job(inputs, "undisturbed"), (0, 1))
    written = training_task._write_state
    told: list[int] = []

    def killed_within_step_12(path: Path, trainer: training_task.Trainer, curve: list[training_task.Step]) -> None:
        if path.name == "layer_1.state" and trainer.step_number == 12:
            raise Killed
        written(path, trainer, curve)

    with monkeypatch.context() as patch:
        patch.setattr(training_task, "SECONDS_PER_STATE", 0.0)
        patch.setattr(training_task, "_write_state", killed_within_step_12)
        with pytest.raises(Killed):
            train_layers.fn(inputs.store, job(inputs, "killed"), (0, 1))
    folder = inputs.store.trained_transcoders("killed")
    steps = [int(load_file(folder / f"layer_{layer}.state")["step_number"]) for layer in (0, 1)]
    assert steps == [12, 11]
    token = PROGRESS.set(told.append)
    train_layers.fn(inputs.store, job(inputs, "killed"), (0, 1))
    PROGRESS.reset(token)
    assert told == list(range(12, 26))
    assert_same(trained(inputs, "killed"), trained(inputs, "undisturbed"))
    assert not list(folder.glob("*.state"))
    records = [
        read_json(inputs.store.trained_transcoders(recipe) / "layer_1.json") for recipe in ("killed", "undisturbed")
    ]
    assert records[0] == records[1]
    assert [step["step"] for step in records[0]["curve"]] == [10, 20]
    qualities = training_task.trained_quality(folder)
    assert [quality.layer for quality in qualities] == [0, 1]
    assert vars(qualities[1]) == records[0]["quality"]
    assert qualities[0].loss_all_replaced == qualities[1].loss_all_replaced is not None


def test_a_damaged_state_is_named(inputs: Inputs) -> None:
    path = inputs.store.trained_transcoders("damaged") / "layer_0.state"
    trained_job = job(inputs, "damaged")
    trainer = training_task.Trainer.started(torch.randn(40, 48), torch.randn(40, 48), trained_job.settings)
    trainer.step(torch.randn(40, 48), torch.randn(40, 48))
    training_task._write_state(path, trainer, [])
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"layer_0\.state: its CRC-32C"):
        train_layers.fn(inputs.store, trained_job, (0,))


def test_positions_that_do_not_count_are_not_learned_from(inputs: Inputs) -> None:
    """Of every row the first is left out; where documents' heads are, that follows from the rows before."""
    rows = training_task._Rows(inputs.store, job(inputs, "x"))
    tokens, counted = rows.of_step(0)
    assert tokens.shape == (4, 16)
    assert counted.sum(1).tolist() == [15, 15, 15, 15]
    settings = ActivationSettings(skip_row_start=0, skip_document_start=20)
    rows = training_task._Rows(inputs.store, job(inputs, "x", counted=settings))
    special = rows.special
    expected = counted_positions(inputs.store, inputs.corpus.corpus_id, Block(0, rows.n_train), special, settings)
    assert not expected[0].any()
    order = torch.randperm(rows.n_train, generator=torch.Generator().manual_seed(0))
    for step in range(3):
        at = order[4 * step : 4 * step + 4].sort().values.numpy()
        assert np.array_equal(rows.of_step(step)[1].numpy(), expected[at])


def test_layers_that_do_not_fit_train_in_groups(inputs: Inputs) -> None:
    folder = inputs.config.model.path
    assert folder is not None
    sizes = sizes_to_train(inputs)._replace(n_layers=30, d_model=576, n_weights=1.35e8, d_transcoder=2048)
    rates = Rates(1e11, 1e11)

    def groups(max_memory: str, *more: str) -> list[tuple[int, ...]]:
        large = ("transcoder.train.d_transcoder=2048", "transcoder.train.batch_tokens=4096", "engine.workers=2")
        config = config_of(folder.parent, f"transcoder.train.max_memory={max_memory}", *large, *more)
        name, cost = training_costs(sizes, config, rates)
        found = training_groups(sizes, config)
        assert cost.held_bytes < float(max_memory) * 1e9
        assert cost.n_tasks == len(found)
        assert name == ("train transcoders" if len(found) == 1 else f"train transcoders in {len(found)} groups")
        assert [layer for layers in found for layer in layers] == list(range(30))
        return found

    assert groups("8") == [tuple(range(30))]
    assert [len(layers) for layers in groups("2.5")] == [15, 15]
    assert [len(layers) for layers in groups("8", "engine.runner=dask")] == [15, 15]
    with pytest.raises(ValueError, match=r"max_memory is 1 GB; the model and .* single layer of 2048 .* are 1\.3 GB"):
        groups("1")


def test_memory_does_not_name_the_transcoders(inputs: Inputs) -> None:
    folder = inputs.config.model.path
    assert folder is not None
    recipes = {
        override: open_inputs(config_of(folder.parent, override)).training_recipe
        for override in (
            "name=x", "transcoder.train.max_memory=3", "transcoder.train.decay=0.4", "activations.skip_row_start=2"
        )
    }  # fmt: skip
    assert recipes["name=x"] == recipes["transcoder.train.max_memory=3"]
    assert len(set(recipes.values())) == 3
