"""Tasks keep the bounds of memory that they state: the peak of each is measured in a process of its own.

The processes are forked from one that has imported everything. Each does a small piece of the same kind of work first,
which compiles kernels and opens files, then the whole; what counts is the peak of resident memory above where the whole
began. A task must stay below its bound, and above a part of it: a bound that is far too wide says nothing.
"""

import ctypes
import gc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.activations import ActivationsRecipe
from flows.recipes.circuitlens import CircuitLensRecipe
from interp.activations.encoding import Active
from interp.capture import Hooks
from interp.circuitlens.settings import CircuitLensSettings
from interp.fade.settings import EvaluateSettings, FaithfulnessSettings
from interp.kernels.selection import N_BINS
from interp.projection import FLOAT32, POOL_ROOM, ROW_BLOCK
from interp.sparse import FeatureTokens
from interp.weightlens.settings import WeightLensSettings
from storage.activations import Block, block_path, write_block
from storage.archives import read_arrays
from storage.block_cache import TILE_ROWS
from storage.catalog.database import open_catalog
from storage.checkpoints import write_single_token
from storage.coactivation import make_matrices, matrices
from storage.formats.circuit_tracer import folder_config
from storage.store import ShardKey, Store
from tasks.activations import corpus_pass
from tasks.activations.coactivation import Summed, coactivate
from tasks.activations.corpus_pass import CorpusPass, PassJob, SamplingJob, activations_block, gather_shard
from tasks.circuitlens import attribute
from tasks.circuitlens.attribute import attribute_block
from tasks.circuitlens.job import CircuitLensJob
from tasks.circuitlens.order import order_samples
from tasks.describe.draw import Draw
from tasks.describe.evidence import SampledCorpus
from tasks.evaluation.held_out import JudgeJob, natural, read_layers
from tasks.evaluation.judge import judge_layer
from tasks.evaluation.text_activations import TOKENS_AT_ONCE
from tasks.evaluation.texts import draw_texts
from tasks.evaluation.written import read_written
from tasks.llm.instructions import instructions
from tasks.weightlens.project import COLUMN_BLOCKS, ProjectionJob, project_shard
from tests.tasks.demo_store import ingested

pytestmark = pytest.mark.slow  # measured alone: beside other tests the allocator keeps what they left

N_LAYERS, D_MODEL, N_POS, N_TOKENS = 4, 128, 128, 4000  # the demo's model
WIDTH, ACTIVE = 2048, 200  # of transcoders made for these tests
SLACK = 6e6
"""What libraries take beside: Parquet and Zarr buffers, pages of the allocator."""


def peak_of(small: Callable[[], object], whole: Callable[[], object]) -> int:
    """Memory that a piece of work adds at its peak, in bytes; pages of files, such as code, are not counted."""
    torch.set_num_threads(1)
    small()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("RssAnon")
    whole()
    return _status("VmHWM") - _status("RssFile") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


Measure = Callable[..., int]


@pytest.fixture(scope="module")
def measure() -> Measure:
    """Run a function of this module in a process of its own."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def run(work: Callable[..., int], *args: object) -> int:
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(work, *args).result(timeout=300)

    return run


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> CheckpointPlan:
    """The demo's model with transcoders of random weights, so many of whose features are active at every token."""
    folder = tmp_path_factory.mktemp("wide")
    release = folder / "transcoders"
    release.mkdir()
    torch.manual_seed(0)
    for layer in range(N_LAYERS):
        W_enc, W_dec = torch.randn(2, WIDTH, D_MODEL) / D_MODEL**0.5
        arrays = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": torch.zeros(WIDTH), "b_dec": torch.zeros(D_MODEL)}
        save_file({name: array.contiguous() for name, array in arrays.items()}, release / f"layer_{layer}.safetensors")
    (release / "config.yaml").write_text(folder_config("wide", Hooks("mlp_in", "mlp_out"), "topk", ACTIVE))
    plan = ingested(folder / "store", f"transcoder.path={release}", "corpus.max_tokens=40000", "corpus.held_out=0.5")
    none = FeatureTokens(np.zeros(WIDTH + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    for layer in plan.layers:
        write_single_token(plan.store, plan.checkpoint_id, layer, none)
    return plan


def kept_within(measured: int, bound: float) -> None:
    assert bound / 5 < measured < bound + SLACK, f"{measured / 1e6:.1f} MB, bound {bound / 1e6:.1f} MB"


def project_peak(store: Store, job: ProjectionJob) -> int:
    def shard(recipe: str) -> None:
        project_shard.fn(store, job, ShardKey(recipe, 1, 0, WIDTH))

    def compiled() -> None:  # every loop, also the one that cuts full pools: compiling one takes tens of MB
        shard("compiled")
        COLUMN_BLOCKS.clear()

    return peak_of(compiled, partial(shard, "memory"))


def test_projection(wide: CheckpointPlan, measure: Measure) -> None:
    """Two pools of candidates a feature, the columns that are kept, a block of scores."""
    settings = replace(WeightLensSettings(), token_pool=1000, feature_pool=1000, z_tokens=30.0, z_features=30.0)
    measured = measure(project_peak, wide.store, ProjectionJob(wide.checkpoint_id, settings, FLOAT32))
    pools = 2 * ((POOL_ROOM + 1) * settings.token_pool * 8 + N_BINS * 4) * WIDTH
    columns = (2 * N_TOKENS + WIDTH) * D_MODEL * 4
    kept_within(measured, pools + columns + 3 * WIDTH * D_MODEL * 4 + ROW_BLOCK * TILE_ROWS * 4)


def activations_peak(store: Store, job: PassJob, one: CorpusPass, block: Block) -> int:
    def rows(recipe: str, block: Block) -> None:
        activations_block.fn(store, job, one._replace(recipe=recipe), block)

    return peak_of(partial(rows, "small", Block(0, 4)), partial(rows, "memory", block))


def test_corpus_pass(wide: CheckpointPlan, measure: Measure) -> None:
    """The streams of some positions at every layer, and 24 bytes an active entry."""
    [one] = ActivationsRecipe(wide).passes
    block = one.blocks(wide.store)[0]
    job = PassJob(wide.checkpoint_id, wide.inputs.model.path, wide.config.activations)
    measured = measure(activations_peak, wide.store, job, one, block)
    positions = (block.stop - block.start) * N_POS
    streams = 2 * corpus_pass.POSITIONS_PER_STREAM * N_LAYERS * D_MODEL * 4
    kept_within(measured, streams + 24 * positions * N_LAYERS * ACTIVE)


def coactivation_peak(store: Store, summed: Summed, n_features: int) -> int:
    def tile(size: int) -> None:
        make_matrices(matrices(store, f"{summed.recipe}{size}", 0, 1, size), size)
        coactivate.fn(store, summed._replace(recipe=f"{summed.recipe}{size}"), 0, ShardKey("", 1, 0, size), size, size)

    return peak_of(partial(tile, 16), partial(tile, n_features))


def test_coactivation(wide: CheckpointPlan, measure: Measure) -> None:
    """A tile of 36 bytes a pair, and two shards' activations at some positions."""
    n_features, each, random = 1536, 500, np.random.default_rng(0)
    one = ActivationsRecipe(wide).passes[0]._replace(recipe="pairs", n_layers=2)
    for block in one.blocks(wide.store):
        positions = (block.stop - block.start) * N_POS
        layers = [
            Active(
                np.arange(n_features + 1) * each,
                np.sort(random.integers(0, positions, (n_features, each)).astype(np.uint16), 1).ravel(),
                random.random(n_features * each, np.float32),
            )
            for _ in range(2)
        ]
        write_block(block_path(wide.store, "pairs", block), layers, positions)
    measured = measure(coactivation_peak, wide.store, Summed(one, "sums"), n_features)
    kept_within(measured, 36 * n_features**2 + 2 * 20 * n_features * each)


SETTINGS = CircuitLensSettings(
    features_per_layer=40, samples_per_feature=3, ablated_features=0, ablated_samples=0, continuation_tokens=0,
    continued_samples=0,
)  # fmt: skip
BATCH_BYTES = 24_000_000


def attribution_peak(store: Store, job: CircuitLensJob) -> int:
    attribute.BATCH_BYTES = BATCH_BYTES
    first, rest = job.blocks
    return peak_of(partial(attribute_block.fn, store, job, first), partial(attribute_block.fn, store, job, rest))


def test_attribution(wide: CheckpointPlan, measure: Measure) -> None:
    """A decoder row for every active feature at every token of one sequence, those of a layer twice, and a batch of
    targets."""
    store, recipe = wide.store, ActivationsRecipe(wide)
    [one] = recipe.passes
    reading = PassJob(wide.checkpoint_id, wide.inputs.model.path, wide.config.activations)
    for block in one.blocks(store):
        activations_block.fn(store, reading, one, block)
    drawing = SamplingJob(wide.checkpoint_id, recipe.corpus_id, (one,), wide.config.activations)
    for key in recipe.shards():
        gather_shard.fn(store, drawing, key)
    job = CircuitLensRecipe(wide).job("cpu")
    job = replace(job, recipe="memory", blocks=(Block(0, 1), Block(1, 4)), settings=SETTINGS)
    for layer in wide.layers:
        for key in job.sampled_shards(layer):
            order_samples.fn(store, job, key)
    measured = measure(attribution_peak, store, job)
    frozen = N_POS * N_LAYERS * ACTIVE * D_MODEL * 4
    kept_within(measured, frozen + frozen / N_LAYERS + BATCH_BYTES)


FEATURES = 1000
JUDGED = EvaluateSettings(
    features_per_layer=FEATURES, n_texts=2000, n_rated=100, n_synthetic=5, n_fuzzed=4, n_simulated=4,
    faithfulness=FaithfulnessSettings(features_per_layer=0),
)  # fmt: skip


def judge_job(plan: CheckpointPlan) -> JudgeJob:
    """Judging descriptions by rule, of so many features of a layer that no two of them are worded alike."""
    recipe, config = ActivationsRecipe(plan), plan.config
    with open_catalog(plan.store.catalog, write=True) as connection:
        connection.execute(
            "INSERT INTO descriptions BY NAME SELECT ? AS checkpoint_id, 1 AS layer, range AS feature, -1 AS cluster, "
            "'weightlens' AS method, 'tokens' AS explainer, 'the token ‘word' || range || '’' AS text FROM range(?)",
            [plan.checkpoint_id, FEATURES],
        )
    return JudgeJob(
        checkpoint_id=plan.checkpoint_id,
        model_path=plan.inputs.model.path,
        sampled_corpus=SampledCorpus(recipe.corpus_id, tuple(one.corpus_id for one in recipe.passes)),
        counted=config.activations,
        material_recipe="material",
        judged_recipe="judged",
        explainer="tokens",
        methods=("weightlens",),
        controls=(),
        judge="rule",
        model=None,
        draw=Draw(FEATURES, None, tuple(range(N_LAYERS))),
        embeddings=None,
        surprisal=None,
        instructions=instructions(config.prompts.own),
        how=JUDGED,
        evidence=config.describe.evidence,
        rule=config.describe.rule,
        wording=config.wording,
    )


def evaluation_peaks(store: Store, job: JudgeJob) -> tuple[int, int, int]:
    few = Draw(20, None, tuple(range(N_LAYERS)))
    small = replace(job, draw=few, material_recipe="small", how=replace(JUDGED, n_texts=20, n_rated=10))
    for one in (small, job):
        draw_texts.fn(store, one)
    read = peak_of(partial(read_layers.fn, store, small, (1,)), partial(read_layers.fn, store, job, (1,)))
    key = ShardKey("small", 1, 0, WIDTH), ShardKey("judged", 1, 0, WIDTH)
    judged = peak_of(partial(judge_layer.fn, store, small, key[0], {}), partial(judge_layer.fn, store, job, key[1], {}))
    return read, judged, peak_of(partial(read_written.fn, store, small, 1), partial(read_written.fn, store, job, 1))


def test_evaluation(wide: CheckpointPlan, measure: Measure) -> None:
    """Active entries of the drawn features on held-out texts; what they do on the texts that are written."""
    job = judge_job(wide)
    read, judged, written = measure(evaluation_peaks, wide.store, job)
    found = natural(wide.store, job, 1)
    n_known = len(found.features) + len(read_arrays(job.natural_path(wide.store, 1))["others"])
    at_once = TOKENS_AT_ONCE * (2 * n_known + corpus_pass.STREAMS_A_PASS * D_MODEL) * 4
    n_active, n_written = len(found.active.value), FEATURES * JUDGED.n_synthetic
    likenesses = 2 * 4 * FEATURES * WIDTH  # and what they are sorted by
    kept_within(read, 44 * n_active + likenesses + at_once)
    kept_within(judged, 60 * n_active + 4 * FEATURES * (n_written + len(found.texts)) + at_once)
    kept_within(written, 24 * FEATURES * n_written + at_once)
