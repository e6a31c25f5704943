"""Sums of features that fire together, and TWERA edges, against the obvious dense computation."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.activations import ActivationsRecipe
from flows.recipes.coactivation import CoactivationRecipe
from interp.activations.settings import ActivationSettings
from interp.coactivation.settings import CoactivationSettings
from interp.intervals import t_quantile
from storage.activations import has_block, pack_block
from storage.catalog.parts import write_part
from storage.checkpoints import open_checkpoint
from storage.coactivation import ARRAYS, Matrices, make_matrices, matrices
from storage.corpora.corpus import corpus_attributes, read_rows
from storage.store import ShardKey, Store, shards
from tasks.activations import coactivation as tasks
from tasks.activations import corpus_pass as activation_tasks
from tasks.evaluation import stability
from tasks.evaluation.stability import LayerFigures, draw_convergence
from tests.tasks.demo_store import dense, ingested

N_POS = 32
SETTINGS = CoactivationSettings(top_k=5, min_support=4)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> CheckpointPlan:
    folder = tmp_path_factory.mktemp("store")
    return ingested(folder, "corpus.max_tokens=2500", f"corpus.n_pos={N_POS}", "activations.keep=all")


@pytest.fixture(scope="module")
def rows(plan: CheckpointPlan) -> list[np.ndarray]:
    """Every layer's activations by dense computation, 0 where a position does not count."""
    return [np.nan_to_num(layer).astype(np.float64) for layer in dense(plan, ActivationSettings())]


@pytest.fixture(scope="module")
def blocks(plan: CheckpointPlan) -> list[tasks.Summed]:
    """The sparse activations in the store, in blocks of a few rows."""
    summed = CoactivationRecipe(plan).summed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activation_tasks, "POSITIONS_PER_BLOCK", 700)
        [corpus_pass] = ActivationsRecipe(plan).passes
        for block in corpus_pass.blocks(plan.store):
            job = activation_tasks.PassJob(plan.checkpoint_id, plan.inputs.model.path, ActivationSettings())
            activation_tasks.activations_block.fn(plan.store, job, corpus_pass, block)
    return summed


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_tasks, "POSITIONS_PER_BLOCK", 700)
    monkeypatch.setattr(tasks, "POSITIONS_AT_ONCE", 1500)


def summed_up(plan: CheckpointPlan, summed: tasks.Summed, shard_size: int) -> list[Matrices]:
    """All matrices, tiles in an order of chance."""
    n, found = plan.attributes.d_transcoder, []
    for source, target in SETTINGS.layer_pairs(plan.layers):
        pair = matrices(plan.store, summed.recipe, source, target, shard_size)
        make_matrices(pair, n)
        for key in reversed(shards("any", target, n, shard_size)):
            tasks.coactivate.fn(plan.store, summed, source, key, n, shard_size)
        found.append(pair)
    return found


def test_a_disk_that_becomes_full_costs_nothing_that_was_finished(
    plan: CheckpointPlan, blocks: list[tasks.Summed], small_disk: Callable[[Path, str], None]
) -> None:
    [summed], shard_size = blocks, 512
    place = plan.store.root / "coactivation"
    tile = slice(0, 512), slice(512, 1024)
    [whole, *_] = summed_up(plan, summed, shard_size)
    expected = [whole.read(name, *tile) for name in ARRAYS]
    n_bytes = sum(whole.chunk(name, 0, 512).stat().st_size for name in ARRAYS)
    shutil.rmtree(place)
    small_disk(place, str((32 << 10) + n_bytes // 2))
    make_matrices(whole, 1024)
    target = shards("any", 1, 1024, shard_size)[1]
    with pytest.raises(OSError, match="No space left on device"):
        tasks.coactivate.fn(plan.store, summed, 0, target, 1024, shard_size)
    small_disk(place, "100m")
    assert not all(whole.has(at, 512) for at in (0, 512))
    tasks.coactivate.fn(plan.store, summed, 0, target, 1024, shard_size)
    for name, values in zip(ARRAYS, expected, strict=True):
        assert (whole.read(name, *tile) == values).all()


@pytest.mark.parametrize("shard_size", [300, 1024])
def test_sums_of_every_pair_are_those_of_the_dense_activations(
    plan: CheckpointPlan, rows: list[np.ndarray], blocks: list[tasks.Summed], shard_size: int
) -> None:
    [summed] = blocks
    summed = summed._replace(recipe=f"by{shard_size}")
    n = plan.attributes.d_transcoder
    pairs = summed_up(plan, summed, shard_size)
    assert len(pairs) == len(SETTINGS.layer_pairs(plan.layers)) > 1
    for pair in pairs:
        source, target = (rows[int(layer)] for layer in pair.name.split("-"))
        expected = {
            "sum_product": source.T @ target,
            "sum_source_active": source.T @ (target > 0),
            "n_coactive": (source > 0).astype(float).T @ (target > 0),
        }
        for name, values in expected.items():
            for a in shards("any", 0, n, shard_size):
                for b in shards("any", 0, n, shard_size):
                    tile = pair.read(name, slice(a.start, a.stop), slice(b.start, b.stop))
                    np.testing.assert_allclose(tile, values[a.start : a.stop, b.start : b.stop], rtol=1e-5, atol=1e-6)


def naive_edges(plan: CheckpointPlan, rows: list[np.ndarray], target_layer: int, feature: int) -> list[tuple[Any, ...]]:
    """(|twera|, source layer, source, twera, factor of the interval, era, support) of one target, by the formulas."""
    checkpoint = open_checkpoint(plan.store, plan.checkpoint_id)
    coder = checkpoint.transcoder(target_layer)
    encoder = coder.W_enc[feature].double().numpy()
    weight = checkpoint.vector(target_layer, "read_weight")
    if weight is not None:
        encoder = encoder * weight.double().numpy()
    encoder = encoder - encoder.mean()  # GPT-2's norms are centred
    b = rows[target_layer][:, feature]
    n_tokens = np.count_nonzero(~np.isnan(dense(plan, ActivationSettings())[0][:, 0]))
    corpus_id = plan.inputs.corpus.corpus_id
    documents = read_rows(plan.store, corpus_id, 0, 10**6).documents.ravel() + 1
    y = np.bincount(documents, b)
    n_documents = max(y.sum() ** 2 / (y**2).sum() / 3, 1.5)
    found = []
    for layer in range(target_layer):
        V = checkpoint.transcoder(layer).W_dec.double().numpy() @ encoder
        support = (rows[layer] > 0).T.astype(float) @ (b > 0)
        for i in np.flatnonzero(support >= SETTINGS.min_support):
            a = rows[layer][:, i]
            x = np.bincount(documents, a * b)
            ratio = x.sum() / y.sum()
            spread = ((x - ratio * y) ** 2).sum() * n_documents / (n_documents - 1)
            factor = np.exp(t_quantile(max(n_documents - 1, 1.0)) * np.sqrt(spread) / x.sum())
            era = (a * (b > 0)).sum() / n_tokens * V[i]
            found.append((abs(ratio * V[i]), layer, int(i), ratio * V[i], factor, era, int(support[i])))
    return sorted(found, reverse=True)[: SETTINGS.top_k]


def edges_of(path: Path, feature: int) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(path).to_pylist() if row["target_feature"] == feature]


def test_edges_are_the_strongest_by_the_formula(
    plan: CheckpointPlan, rows: list[np.ndarray], blocks: list[tasks.Summed]
) -> None:
    [summed] = blocks
    summed = summed._replace(recipe="edges")
    store, n, size = plan.store, plan.attributes.d_transcoder, 512
    summed_up(plan, summed, size)
    job = tasks.EdgesJob(plan.checkpoint_id, "corpus", (summed,), SETTINGS, size, True, None)
    for layer, feature in ((1, 5), (3, 600), (3, 700)):
        feature += int(np.argmax((rows[layer][:, feature:] > 0).sum(0) > 20))
        key = next(k for k in shards("mine", layer, n, size) if k.start <= feature < k.stop)
        tasks.twera_shard.fn(store, job, key)
        found = edges_of(store.part("feature_edges", key), feature)
        expected = naive_edges(plan, rows, layer, feature)
        assert [(e["source_layer"], e["source_feature"]) for e in found] == [row[1:3] for row in expected]
        for edge, (_, _, _, value, factor, era, support) in zip(found, expected, strict=True):
            assert edge["twera"] == pytest.approx(value, rel=1e-4)
            assert edge["era"] == pytest.approx(era, rel=1e-4)
            ends = sorted((value / factor, value * factor))
            assert [edge["twera_low"], edge["twera_high"]] == pytest.approx(ends, rel=1e-3)
            assert edge["n_coactive"] == support
            assert edge["z_score"] is None
    assert key.layer == 3
    corrupt = matrices(store, summed.recipe, 0, 3, size).chunk("n_coactive", 0, 512)
    corrupt.write_bytes(b"nothing")
    other = key._replace(recipe="other")
    with pytest.raises(ValueError, match=r"n_coactive.*CRC-32C is .*removes coactivation/.*/00-03: .*pair of layers"):
        tasks.twera_shard.fn(store, job, other)


def test_the_edges_of_weightlens_alone_need_no_matrices(
    plan: CheckpointPlan, rows: list[np.ndarray], blocks: list[tasks.Summed]
) -> None:
    store = plan.store
    feature = int(np.argmax((rows[2] > 0).sum(0)))
    together = (rows[0] > 0).T.astype(float) @ (rows[2][:, feature] > 0)
    source, never = int(np.argmax(together)), int(np.argmin(together))
    projected = ShardKey("projected", 2, 0, 1024)
    columns = {"source_feature": [source, never], "target_feature": [feature] * 2, "virtual_weight": [0.5, 2.0]}
    shared = {"checkpoint_id": "any", "source_layer": 0, "target_layer": 2, "z_score": [7.0, 8.0]}
    write_part(store.part("feature_edges", projected), "feature_edges", {**shared, **columns}, 2)
    settings = CoactivationSettings(pairs="edges", min_support=4)
    key = ShardKey("by-edges", 2, 0, 1024)
    job = tasks.EdgesJob(plan.checkpoint_id, "corpus", tuple(blocks), settings, 1024, True, projected.recipe)
    tasks.twera_shard.fn(store, job, key)
    [edge] = edges_of(store.part("feature_edges", key), feature)
    b, a = rows[2][:, feature], rows[0][:, source]
    assert (edge["source_feature"], edge["z_score"], edge["n_coactive"]) == (source, 7.0, together[source])
    assert edge["twera"] == pytest.approx(0.5 * (a * b).sum() / b.sum(), rel=1e-5)


def test_halves_of_the_text_have_whole_documents(plan: CheckpointPlan, blocks: list[tasks.Summed]) -> None:
    store, targets, n = plan.store, np.arange(200), plan.attributes.d_transcoder
    passes = [summed.corpus_pass for summed in blocks]
    n_rows = sum(block.stop - block.start for one in passes for block in one.blocks(store))
    documents = read_rows(store, passes[0].corpus_id, 0, n_rows).documents.ravel()
    seen: list[set[int]] = [set(), set()]
    at, n_active = 0, 0
    bounds, wanted = [n_rows // 2, n_rows], stability._Wanted(2, n, targets)
    for _, _, active, n_positions, rows_until in stability._segments(store, passes, wanted, bounds):
        for half in (0, 1):
            tokens = active.features(half * len(targets), (half + 1) * len(targets)).token
            seen[half] |= set(documents[at + tokens].tolist())
            n_active += len(tokens)
        at += n_positions if rows_until * N_POS == at + n_positions else 0
    assert seen[0]
    assert seen[1]
    assert not seen[0] & seen[1]
    every = [activation_tasks.open_block(store, passes[0].recipe, block) for block in passes[0].blocks(store)]
    assert n_active == sum(len(block.features(2, 0, len(targets)).token) for block in every)


def test_packed_blocks_say_the_same_in_little_room(plan: CheckpointPlan, blocks: list[tasks.Summed]) -> None:
    store = Store(plan.store.root)
    [summed] = blocks
    corpus_pass = summed.corpus_pass
    key = ShardKey("any", 2, 100, 500)
    before = [active for _, active in activation_tasks.active_of_shard(store, [corpus_pass], key)]
    n_entries = 0
    for block in corpus_pass.blocks(store):
        opened = activation_tasks.open_block(store, corpus_pass.recipe, block)
        n_entries += opened.value.shape[0]  # pyright: ignore
        pack_block(store, corpus_pass.recipe, block)
        assert has_block(store, corpus_pass.recipe, block)
    after = [active for _, active in activation_tasks.active_of_shard(store, [corpus_pass], key)]
    for one, other in zip(before, after, strict=True):
        assert (one.indptr == other.indptr).all()
        assert (one.token == other.token).all()
        assert (one.value == other.value).all()
    assert corpus_attributes(store, corpus_pass.corpus_id).n_pos == N_POS
    chunk = next(store.activations(corpus_pass.recipe).glob("packed-*/gap/c/0"))
    chunk.unlink()
    with pytest.raises(ValueError, match=r"gap/c/0: missing.*removes activations/.*/packed-.* run through the"):
        list(activation_tasks.active_of_shard(store, [corpus_pass], key))


@pytest.mark.parametrize("pairs", [[(1, 1)], [(2, 1)], [(0, 9)]])
def test_a_pair_of_layers_that_is_none_is_refused(pairs: Any) -> None:
    with pytest.raises(ValueError, match=r"coactivation.pairs.*not an earlier and a later one"):
        CoactivationSettings(pairs=pairs).layer_pairs(range(4))


@pytest.mark.parametrize("n_layers", [3, 30])
def test_every_layer_of_the_plot_can_be_told_from_the_others(n_layers: int) -> None:
    figures = [LayerFigures(at, 1, 1, 0, None, [at / 60, 1.0], None, [10, 100]) for at in range(n_layers)]
    figure = Figure()
    draw_convergence(figure, figures)
    axes = figure.axes[0]
    assert len({line.get_color() for line in axes.lines}) == n_layers
    if axes.get_legend() is None:
        assert figure.axes[1].get_ylabel() == "layer"  # the bar that says which colour is which
    else:
        assert len(axes.get_legend().get_texts()) == n_layers <= 8
