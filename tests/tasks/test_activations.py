"""The corpus pass on the embedded model, against the obvious dense computation."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.activations import ActivationsRecipe
from interp.activations.settings import ActivationSettings
from interp.capture import HookedModel, capture
from storage.activations import block_path, open_block, pack_block
from storage.catalog.contexts import TOKENS_AFTER, TOKENS_BEFORE
from storage.checkpoints import open_checkpoint
from storage.samples import read_samples
from storage.store import ShardKey, shards
from tasks.activations import corpus_pass as tasks
from tasks.activations import neighbours
from tasks.evaluation import text_activations
from tasks.loaded_models import loaded_model
from tests.tasks.demo_store import dense, ingested

N_POS, N_TOKENS = 32, 3000


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> CheckpointPlan:
    folder = tmp_path_factory.mktemp("store")
    return ingested(folder, f"corpus.max_tokens={N_TOKENS}", f"corpus.n_pos={N_POS}", "corpus.layout=padded")


@pytest.fixture
def gathered(plan: CheckpointPlan, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, dict[str, np.ndarray]]]:
    """Run the pass with other blocks, batches and shards, and read all its parts."""

    def run(settings: ActivationSettings, shard_size: int = 300, **constants: int) -> dict[str, Any]:
        for name, value in constants.items():
            monkeypatch.setattr(tasks, name, value)
        store, checkpoint_id, work = plan.store, plan.checkpoint_id, ActivationsRecipe(plan)
        for name in ("activations", "parts"):
            shutil.rmtree(store.root / name, ignore_errors=True)
        [corpus_pass] = work.passes
        for block in reversed(corpus_pass.blocks(store)):
            model = plan.inputs.model.path
            tasks.activations_block.fn(store, tasks.PassJob(checkpoint_id, model, settings), corpus_pass, block)
        drawing = tasks.SamplingJob(checkpoint_id, work.corpus_id, (corpus_pass,), settings)
        tables: dict[str, list[Any]] = {name: [] for name in tasks.TABLES}
        for layer in range(plan.attributes.n_layers):
            for key in shards("recipe", layer, plan.attributes.d_transcoder, shard_size):
                tasks.gather_shard.fn(store, drawing, key)
                for name, parts in tables.items():
                    parts.append(pq.read_table(store.part(name, key)))
        whole = {name: pa.concat_tables(parts) for name, parts in tables.items()}
        return {name: {c: table[c].to_numpy() for c in table.column_names} for name, table in whole.items()}

    return run


CASES = [
    ActivationSettings(),
    ActivationSettings(special_tokens="count", skip_row_start=0),
    ActivationSettings(skip_row_start=3, skip_document_start=40, n_samples=7, n_bins=3, n_top=5, seed=9),
]


@pytest.mark.parametrize("settings", CASES)
def test_statistics_are_those_of_the_dense_activations(gathered: Any, plan: CheckpointPlan, settings: Any) -> None:
    features = gathered(settings)["features"]
    a = np.concatenate([layer[~np.isnan(layer[:, 0])] for layer in dense(plan, settings)], 1)
    active = np.where(a > 0, a.astype(np.float64), np.nan)
    n_active = (a > 0).sum(0)
    assert (features["n_active"] == n_active).all()
    assert features["density"] == pytest.approx(n_active / len(a))
    alive = n_active > 0
    assert (features["is_dead"] == ~alive).all()
    assert 0 < alive.mean() < 1
    columns = {"mean_activation": np.nanmean, "max_activation": np.nanmax}
    for name, figure in columns.items():
        assert features[name][alive] == pytest.approx(figure(active[:, alive], axis=0), rel=1e-5)
    deviation = np.nanstd(active[:, alive], axis=0)
    assert features["std_activation"][alive] == pytest.approx(deviation, rel=1e-5, abs=1e-6)
    edges = np.nanquantile(active[:, alive], np.linspace(0, 1, settings.n_bins + 1), axis=0).T
    assert np.stack(list(features["quantiles"][alive])) == pytest.approx(edges, rel=1e-5)


def test_samples_are_drawn_from_the_activations_and_hold_the_greatest(gathered: Any, plan: CheckpointPlan) -> None:
    settings = CASES[2]
    samples, layers = gathered(settings)["samples"], dense(plan, settings)
    for layer, feature in {(0, int(samples["feature"][0])), (3, int(samples["feature"][-1]))}:
        mine = (samples["layer"] == layer) & (samples["feature"] == feature)
        at = samples["sequence"][mine] * N_POS + samples["position"][mine]
        a = np.nan_to_num(layers[layer][:, feature])
        assert samples["activation"][mine] == pytest.approx(a[at], rel=1e-5)
        assert len(set(at)) == len(at)
        assert list(samples["sample"][mine]) == list(range(len(at)))
        drawn = ~np.isnan(samples["quantile_bin"][mine])
        assert drawn.sum() == min(settings.n_samples, (a > 0).sum())
        greatest = np.sort(a[a > 0])[::-1][: settings.n_top]
        assert np.sort(a[at])[::-1][: settings.n_top] == pytest.approx(greatest)


@pytest.mark.whole
def test_nothing_depends_on_blocks_batches_and_shards(gathered: Any) -> None:
    settings = CASES[0]
    expected = gathered(settings)
    others: list[dict[str, Any]] = [
        {"POSITIONS_PER_BLOCK": 700, "POSITIONS_PER_STREAM": 320, "POSITIONS_PER_BATCH": 32},
        {"POSITIONS_PER_BLOCK": 999, "shard_size": 1024, "ENTRIES_AT_ONCE": 9000},
    ]
    for other in others:
        found = gathered(settings, **other)
        for table, columns in expected.items():
            for name, values in columns.items():
                if values.dtype.kind == "f":
                    np.testing.assert_allclose(found[table][name], values, rtol=1e-5, atol=1e-6, err_msg=name)
                elif name != "quantiles":
                    assert (found[table][name] == values).all(), name


def test_a_disk_that_becomes_full_costs_nothing_that_was_finished(
    plan: CheckpointPlan, gathered: Any, small_disk: Callable[[Path, str], None]
) -> None:
    gathered(CASES[0])
    store, model, [corpus_pass] = plan.store, plan.inputs.model.path, ActivationsRecipe(plan).passes
    [block] = corpus_pass.blocks(store)
    place, plain = store.root / "activations", block_path(store, corpus_pass.recipe, block)
    expected = open_block(store, corpus_pass.recipe, block).features(1, 0, 1024)
    n_bytes = sum(file.stat().st_size for file in plain.rglob("*") if file.is_file())
    shutil.rmtree(place)

    def run() -> None:
        tasks.activations_block.fn(store, tasks.PassJob(plan.checkpoint_id, model, CASES[0]), corpus_pass, block)

    def pack() -> None:
        pack_block(store, corpus_pass.recipe, block)

    for work, size, before in ((run, n_bytes // 2, []), (pack, n_bytes + (32 << 10), [plain])):
        small_disk(place, str(size))
        with pytest.raises(OSError, match="No space left on device"):
            work()
        assert list(plain.parent.iterdir()) == before
        small_disk(place, str(3 * n_bytes))
        work()
    found = open_block(store, corpus_pass.recipe, block).features(1, 0, 1024)
    for name in ("indptr", "token", "value"):
        assert (getattr(found, name) == getattr(expected, name)).all()


def test_on_a_gpu_as_much_at_once_as_its_free_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    def sized(free: int) -> tuple[int, int]:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 80 << 30))
        return tasks.positions_at_once("cuda", n_layers=26, d_model=2304)

    assert sized(70 << 30) == (10_082, 10_082)  # a block
    held, passing = sized(1 << 30)
    assert 4 * 26 * 2304 * held <= 1 << 27 < 4 * 26 * 2304 * (held + 1)  # an eighth
    assert passing == held
    assert sized(0) == (0, 0)  # a row at a time


def test_read_samples_tells_the_quantile_sample_from_the_greatest(gathered: Any, plan: CheckpointPlan) -> None:
    settings = CASES[2]
    gathered(settings)
    samples = read_samples(plan.store, ShardKey("recipe", 1, 300, 600))
    assert (samples.quantile.quantile_bin >= 0).all()
    top = samples.top(settings.n_top)
    for feature in np.unique(samples.feature)[:20]:
        all_of_it = samples.activation[samples.feature == feature]
        assert (top.activation[top.feature == feature] == np.sort(all_of_it)[::-1][: settings.n_top]).all()


def test_a_damaged_block_is_named(gathered: Any, plan: CheckpointPlan) -> None:
    gathered(CASES[0])
    [corpus_pass] = ActivationsRecipe(plan).passes
    path = plan.store.activations(corpus_pass.recipe)
    chunk = next(path.glob("rows-*/value/c/0"))
    key = ShardKey("other", 0, 0, 300)
    drawing = tasks.SamplingJob(plan.checkpoint_id, "corpus", (corpus_pass,), CASES[0])
    for damage in (lambda: chunk.write_bytes(b"no"), chunk.unlink):
        damage()
        with pytest.raises(ValueError, match=r"value.*removes activations/.*/rows-.* run through the model again"):
            tasks.gather_shard.fn(plan.store, drawing, key)


def test_texts_of_any_lengths_are_read_as_each_alone(plan: CheckpointPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several layers at once: the model reads each text once, in blocks of texts of about one length."""
    checkpoint, path = open_checkpoint(plan.store, plan.checkpoint_id), plan.inputs.model.path
    random = np.random.default_rng(0)
    features = {3: np.array([900, 3, 77, 5]), 1: np.array([11, 2, 900, *range(300, 340)]), 0: np.zeros(0, np.int64)}
    texts = [random.integers(5, 1900, n).tolist() for n in (7, 0, 31, 7, 1, 12)]
    monkeypatch.setattr(text_activations, "TOKENS_AT_ONCE", 20)
    passes: list[int] = []
    read_inputs = text_activations.read_inputs

    def counting(hooked: HookedModel, tokens: torch.Tensor, layers: list[int], *more: Any) -> None:
        assert layers == [0, 1, 3]
        passes.append(tokens.shape[0])
        read_inputs(hooked, tokens, layers, *more)

    monkeypatch.setattr(text_activations, "read_inputs", counting)
    wanted = text_activations.Wanted(checkpoint, path, features, CASES[0])
    active = text_activations.read_activations(wanted, texts, n_threads=2)
    assert sum(passes) == 5
    peaks = text_activations.read_peaks(wanted, texts)
    folder, model = loaded_model(path)
    hooked = HookedModel(model, folder.family, checkpoint.hooks)
    before = [] if checkpoint.bos is None else [checkpoint.bos]
    for layer, chosen in features.items():
        for at, text in enumerate(texts):
            dense = np.zeros((len(text), len(chosen)), np.float32)
            if text:
                x = capture(hooked, torch.tensor([[*before, *text]]), [layer])[layer].x
                dense = checkpoint.transcoder(layer).encode(x[0, len(before) :])[:, chosen].numpy()
            found = np.zeros_like(dense)
            mine = active[layer].text == at
            found[active[layer].place[mine], active[layer].feature[mine]] = active[layer].value[mine]
            assert np.allclose(found, dense, atol=1e-5)
            assert np.allclose(peaks[layer][at], dense.max(0, initial=0), atol=1e-5)
    assert peaks[3].any()
    assert peaks[1].any()


def test_neighbours_are_the_dense_activations_around_samples(gathered: Any, plan: CheckpointPlan) -> None:
    settings = CASES[0]
    samples = gathered(settings)["samples"]
    work = ActivationsRecipe(plan)
    drawing = tasks.SamplingJob(plan.checkpoint_id, work.corpus_id, tuple(work.passes), settings)
    key = ShardKey("neighbours", 1, 0, 300)
    neighbours.gather_neighbours.fn(plan.store, drawing, key, "recipe")
    rows = pq.read_table(plan.store.part("sample_neighbours", key)).to_pylist()
    of = (samples["layer"] == 1) & (samples["feature"] < 300)
    assert [(row["feature"], row["sample"]) for row in rows] == list(
        zip(samples["feature"][of].tolist(), samples["sample"][of].tolist(), strict=True)
    )
    a = np.nan_to_num(dense(plan, settings)[1]).reshape(-1, N_POS, plan.attributes.d_transcoder)
    for row, sequence, position in zip(rows, samples["sequence"][of], samples["position"][of], strict=True):
        low, high = max(0, position - TOKENS_BEFORE), min(N_POS, position + TOKENS_AFTER + 1)
        around = a[sequence, low:high, row["feature"]]
        assert row["offsets"] == (np.flatnonzero(around > 0) + low - position).tolist()
        assert row["activations"] == pytest.approx(around[around > 0], rel=1e-4)
    assert sum(len(row["offsets"]) for row in rows) > 1.2 * len(rows)
