"""The corpus pass beside the arithmetic that it cannot do without, measured in the same run.

    python -m benchmarks.activations [--json] [--tokens 16384] [--workers 2] --shape gpt2-small
    python -m benchmarks.activations [--json] [--tokens N] CONFIG [key=value …]
    python -m benchmarks.activations [--json] --coactivation
    python -m benchmarks.activations [--json] --memory

The floor of a pass is the model's forward pass, logits included (at `--shape`, of 2,000 tokens), and one float32 matrix
product of all of its transcoders' encoders. The pass is the stage's own tasks, from the corpus in Zarr to statistics,
samples and packed sparse activations, with bfloat16 where the processor has it (`bfloat16` says so); it alternates with
the floor, a block each. Of the model it runs what its transcoders read, all but the last MLP and what follows.
`--shape` takes random weights whose biases leave 45 features active at a few tokens, and some 80 at others
(`active_a_layer`); CONFIG names a checkpoint that has been ingested into its store, of which only corpus and checkpoint
are read.
`--coactivation` compares the sums with scipy.sparse products over the same blocks, and with how fast a loop can add to
scattered places of a tile, which is all that they do. `--memory` measures the peak of a pass over 1, 4 and 16 times the
same text. All times are of the processor, so that what else runs on the machine counts little.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
import zarr
from numba import njit
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.random_checkpoint import random_attributes
from configs.engine import EngineConfig
from flows.inputs.machine import arithmetic
from interp.activations.model_inputs import transcoder_inputs
from interp.activations.settings import ActivationSettings
from interp.coactivation.sums import N_SUMS, add_coactive, by_token
from interp.families import Norm
from interp.sparse import FeatureTokens
from interp.transcoder import Transcoder
from storage.activations import Block, block_path, pack_block
from storage.checkpoints import Checkpoint, finish, open_checkpoint, write_layer
from storage.corpora.corpus import CorpusRecipe, corpus_attributes, read_rows
from storage.corpora.packing import PADDING
from storage.store import ShardKey, Store, shards
from tasks.activations import corpus_pass as tasks
from tasks.loaded_models import loaded_encoder, loaded_model

N_LAYERS, D_TRANSCODER, D_MODEL, D_VOCAB, N_POS = 12, 24_576, 768, 2000, 128  # no pass reaches the unembedding
ACTIVE = 45
CHECKPOINT, CORPUS = "shapes", "text"
SETTINGS = ActivationSettings(keep="all")
ROWS = 2048
"""Rows of the random corpus at GPT-2's shapes."""


def write_shape(store: Store) -> Path:
    """A random GPT-2 and transcoders of 24,576 features, 45 of them active at its first rows; returns its folder."""
    model_path = store.root / "model"
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=D_VOCAB)).save_pretrained(model_path)
    shutil.copytree("demo/checkpoint/model", model_path, ignore=lambda *_: ["config.json", "model.safetensors"],
                    dirs_exist_ok=True)  # fmt: skip
    tokens = np.random.default_rng(0).integers(1, 1999, (ROWS, N_POS)).astype(np.int32)
    write_corpus(store, CORPUS, tokens)
    model = GPT2LMHeadModel.from_pretrained(model_path).eval()
    attributes = random_attributes(CHECKPOINT, n_layers=N_LAYERS, d_model=D_MODEL, d_transcoder=D_TRANSCODER,
                                   n_tokens=D_VOCAB)  # fmt: skip
    checkpoint = Checkpoint(store.checkpoint(CHECKPOINT))
    from interp.capture import HookedModel, Hooks
    from interp.families import FAMILIES

    sample = torch.from_numpy(tokens[:8])
    hooked = HookedModel(model, FAMILIES["gpt2"], Hooks("mlp_in", "mlp_out"))
    xs = transcoder_inputs(hooked, N_LAYERS, sample, sample >= 0, 8)
    share = ACTIVE / D_TRANSCODER
    norm = Norm(torch.ones(D_MODEL), None, 1e-5, centred=True)
    for layer in range(N_LAYERS):
        W_enc = torch.randn(D_TRANSCODER, D_MODEL, generator=torch.Generator().manual_seed(layer))
        pre = xs[layer] @ W_enc.T
        b_enc = -pre.quantile(1 - share, dim=0) if len(pre) > 1 / share else -pre.mean(0) - 2.9 * pre.std(0)
        coder = Transcoder(W_enc, b_enc, torch.zeros(1, D_MODEL), torch.zeros(D_MODEL), "relu")
        write_layer(store, CHECKPOINT, layer, coder, norm, None)
    assert checkpoint.path.exists()
    finish(store, CHECKPOINT, attributes)
    return model_path


def write_corpus(store: Store, corpus_id: str, tokens: np.ndarray) -> None:
    recipe = CorpusRecipe("random", "", "", 0, tokens.shape[1], None, "text")
    attributes = {**vars(recipe), "corpus_id": corpus_id, "n_tokens": tokens.size, "n_documents": 1}
    group = zarr.create_group(store.corpus(corpus_id), attributes=attributes)
    for name, rows in (("tokens", tokens), ("documents", np.zeros_like(tokens))):
        group.create_array(name, data=rows, chunks=(256, tokens.shape[1]))


def spread(work: Callable[[Any], Any], items: list[Any], workers: int) -> float:
    """Processor seconds to do all of it on so many threads, divided by these: what it takes if nobody else computes."""

    def alone(item: Any) -> None:
        torch.get_num_threads()  # as tasks do: otherwise each thread takes every core
        work(item)

    began = time.process_time()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(alone, items))
    return (time.process_time() - began) / workers


def model_alone(store: Store, model_path: Path, corpus_id: str, block: Block) -> None:
    """The model's forward pass, as it comes."""
    _, model = loaded_model(model_path)
    rows = read_rows(store, corpus_id, block.start, block.stop).tokens
    step = max(1, tasks.POSITIONS_PER_BATCH // rows.shape[1])
    for start in range(0, len(rows), step):
        tokens = torch.from_numpy(np.where(rows == PADDING, 0, rows)[start : start + step])
        with torch.no_grad():
            model(input_ids=tokens.long(), use_cache=False)


def encoders_alone(checkpoint: Checkpoint, n_positions: int) -> None:
    """The products of all layers, float32, in the blocks that are fastest here: 2,048 tokens by 2,048 features."""
    x = torch.randn(2048, checkpoint.attributes.d_model)
    for layer in range(checkpoint.n_layers):
        W_enc = loaded_encoder(checkpoint, layer).W_enc
        width = min(2048, len(W_enc))
        out = torch.empty(len(x), width)
        for start in range(0, n_positions, len(x)):
            rows = x[: min(len(x), n_positions - start)]
            for first in range(0, len(W_enc), width):
                part = W_enc[first : first + width]
                torch.mm(rows, part.T, out=out[: len(rows), : len(part)] if len(part) == width else None)


class Measured(NamedTuple):
    """What the pass is measured on."""

    checkpoint_id: str
    model_path: Path
    corpus_id: str


def measure_pass(store: Store, measured: Measured, n_tokens: int, workers: int, shard_size: int) -> dict[str, Any]:
    """Tokens a second of the floor and of the pass."""
    checkpoint_id, model_path, corpus_id = measured
    checkpoint = open_checkpoint(store, checkpoint_id)
    n_pos = corpus_attributes(store, corpus_id).n_pos
    corpus_pass = tasks.CorpusPass("bench", corpus_id, checkpoint.n_layers)
    per_block = min(tasks.positions_per_block(checkpoint.n_layers), max(n_pos, n_tokens // workers))
    tasks.POSITIONS_PER_BLOCK = per_block
    blocks = corpus_pass.blocks(store)[: max(1, round(n_tokens / per_block))]
    warm, how = Block(0, 1), arithmetic(EngineConfig(device="cpu"))
    job = tasks.PassJob(checkpoint_id, model_path, SETTINGS, how)
    sampling = tasks.SamplingJob(checkpoint_id, corpus_id, (corpus_pass,), SETTINGS)
    tasks.activations_block.fn(store, job, corpus_pass._replace(recipe="warm"), warm)
    seconds = dict.fromkeys(("model", "encoders", "pass", "gather", "pack"), 0.0)
    for at in range(0, len(blocks), workers):
        part = blocks[at : at + workers]
        seconds["model"] += spread(lambda b: model_alone(store, model_path, corpus_id, b), part, workers)
        seconds["encoders"] += spread(lambda b: encoders_alone(checkpoint, (b.stop - b.start) * n_pos), part, workers)
        seconds["pass"] += spread(lambda b: tasks.activations_block.fn(store, job, corpus_pass, b), part, workers)
    tasks.CorpusPass.blocks = lambda self, _store: blocks  # pyright: ignore
    keys = [
        key
        for layer in range(checkpoint.n_layers)
        for key in shards("bench", layer, checkpoint.d_transcoder, shard_size)
    ]
    warm_up = [ShardKey("warm", 0, 0, 8)]
    spread(lambda key: tasks.gather_shard.fn(store, sampling, key), warm_up, 1)
    seconds["gather"] = spread(lambda key: tasks.gather_shard.fn(store, sampling, key), keys, workers)
    entries = sum(zarr.open_array(block_path(store, "bench", block) / "value", mode="r").shape[0] for block in blocks)
    seconds["pack"] = spread(lambda block: pack_block(store, "bench", block), blocks, workers)
    n = sum(block.stop - block.start for block in blocks) * n_pos
    on_disk = sum(file.stat().st_size for file in store.activations("bench").rglob("*") if file.is_file())
    floor, whole = seconds["model"] + seconds["encoders"], seconds["pass"] + seconds["gather"] + seconds["pack"]
    return {
        "tokens": n,
        "workers": workers,
        "bfloat16": how.screen,
        "active_a_layer": round(entries / n / checkpoint.n_layers, 1),
        "model_tokens_per_s": round(n / seconds["model"]),
        "encoders_tokens_per_s": round(n / seconds["encoders"]),
        "floor_tokens_per_s": round(n / floor),
        "pass_tokens_per_s": round(n / whole),
        "blocks_tokens_per_s": round(n / seconds["pass"]),
        "share_of_floor": round(floor / whole, 3),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "bytes_per_entry": round(on_disk / entries, 2),
        "bytes_per_token": round(on_disk / n),
        "peak_rss_gb": round(getrusage(RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def random_active(n_features: int, n_positions: int, active: int, seed: int) -> FeatureTokens:
    """Some active features at every position, a few of them far more often than others."""
    random = np.random.default_rng(seed)
    weights = random.pareto(1.5, n_features) + 0.05
    feature = random.choice(n_features, (n_positions, active), p=weights / weights.sum())
    pairs = np.unique(feature.astype(np.int64) * n_positions + np.arange(n_positions)[:, None])
    feature, token = np.divmod(pairs, n_positions)
    indptr = np.searchsorted(feature, np.arange(n_features + 1))
    return FeatureTokens(indptr, token, random.random(len(token), np.float32))


@njit(nogil=True)
def scattered(places: np.ndarray, sums: np.ndarray) -> None:
    """Add to given places of a tile: what summing up costs at least, everything else being free."""
    for i in range(len(places)):
        cell = sums[places[i]]
        cell[0] += 1.5
        cell[1] += 0.5
        cell[2] += 1.0


def measure_coactivation(n_features: int, n_positions: int, active: int, n_blocks: int) -> dict[str, Any]:
    """One tile: seconds a block by our loop, by scipy.sparse, and by bare additions to the same places."""
    blocks = [
        tuple(random_active(n_features, n_positions, active, 2 * at + side) for side in (0, 1))
        for at in range(n_blocks)
    ]
    sums = np.zeros((n_features, n_features, N_SUMS))
    add_coactive(blocks[0][0], by_token(blocks[0][1], n_positions), sums)
    seconds = dict.fromkeys(("ours", "scipy", "roofline"), 0.0)
    expected, updates = [scipy.sparse.csr_array((n_features, n_features))] * 3, 0
    sums[:] = 0
    bare = np.zeros((n_features * n_features, N_SUMS))
    scattered(np.zeros(1, np.int64), bare)
    for sources, targets in blocks:
        began = time.process_time()
        add_coactive(sources, by_token(targets, n_positions), sums)
        seconds["ours"] += time.process_time() - began
        shape = (n_features, n_positions)
        began = time.process_time()
        a, b = (
            scipy.sparse.csr_array((x.value.astype(np.float64), x.token, x.indptr), shape) for x in (sources, targets)
        )
        b = b.T.tocsr()
        on_a, on_b = (scipy.sparse.csr_array((np.ones(x.nnz), x.indices, x.indptr), x.shape) for x in (a, b))
        expected = [old + new for old, new in zip(expected, (a @ b, a @ on_b, on_a @ on_b), strict=True)]
        seconds["scipy"] += time.process_time() - began
        turned = by_token(targets, n_positions)
        source = np.repeat(np.arange(n_features), np.diff(sources.indptr))
        n_each = np.diff(turned.starts)[sources.token]
        offset = np.arange(n_each.sum()) - np.repeat(np.cumsum(n_each) - n_each, n_each)
        places = (
            np.repeat(source, n_each) * n_features
            + turned.feature[np.repeat(turned.starts[sources.token], n_each) + offset]
        )
        updates += len(places)
        began = time.process_time()
        scattered(places.astype(np.int64), bare)
        seconds["roofline"] += time.process_time() - began
    for at in range(N_SUMS):
        np.testing.assert_allclose(sums[:, :, at], expected[at].toarray(), rtol=1e-9)
    return {
        "features": n_features,
        "active_a_token": active,
        "positions": n_positions * n_blocks,
        "ns_per_update": {name: round(value / updates * 1e9, 2) for name, value in seconds.items()},
        "times_faster_than_scipy": round(seconds["scipy"] / seconds["ours"], 1),
        "share_of_roofline": round(seconds["roofline"] / seconds["ours"], 2),
    }


def _memory_of_pass(root: Path, times: int, shard_size: int, answer: Any) -> None:
    store = Store(root)
    torch.set_num_threads(1)
    model_path = Path("demo/checkpoint/model")
    checkpoint = open_checkpoint(store, CHECKPOINT)
    corpus_pass = tasks.CorpusPass(f"times{times}", f"text{times}", checkpoint.n_layers)
    for block in corpus_pass.blocks(store):
        tasks.activations_block.fn(store, tasks.PassJob(CHECKPOINT, model_path, SETTINGS), corpus_pass, block)
    sampling = tasks.SamplingJob(CHECKPOINT, corpus_pass.corpus_id, (corpus_pass,), SETTINGS)
    for layer in range(checkpoint.n_layers):
        for key in shards(corpus_pass.recipe, layer, checkpoint.d_transcoder, shard_size):
            tasks.gather_shard.fn(store, sampling, key)
    answer.put(getrusage(RUSAGE_SELF).ru_maxrss / 1e3)


def measure_memory(shard_size: int = 256, n_rows: int = 256) -> list[dict[str, Any]]:
    """Peak memory of the pass over the demo's checkpoint and 1, 4 and 16 times so many rows, a process each."""
    from configs.load import load_config
    from flows.ingest import quality_job
    from flows.inputs.checkpoint_plan import identify, open_inputs
    from tasks.ingest import ingest_layer

    with tempfile.TemporaryDirectory() as folder:
        plan = identify(open_inputs(load_config(Path("configs/demo.yaml"), [f"store={folder}/first"])))
        store, job = Store(Path(folder)), replace(quality_job(plan), checkpoint_id=CHECKPOINT)
        for layer in plan.layers:
            ingest_layer.fn(store, job, layer)
        finish(store, CHECKPOINT, plan.attributes)
        tokens = np.random.default_rng(0).integers(1, 1999, (16 * n_rows, N_POS)).astype(np.int32)
        found = []
        for times in (1, 4, 16):
            write_corpus(store, f"text{times}", tokens[: times * n_rows])
            answer = get_context("spawn").Queue()
            process = get_context("spawn").Process(target=_memory_of_pass, args=(store.root, times, shard_size, answer))
            process.start()
            found.append({"tokens": times * n_rows * N_POS, "peak_rss_mb": round(answer.get())})
            process.join()
        return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="?", help="a configuration whose checkpoint is in its store")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--shape", choices=["gpt2-small"])
    parser.add_argument("--coactivation", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    def tell(figures: dict[str, Any]) -> None:
        print(json.dumps(figures) if arguments.json else figures, flush=True)

    if arguments.coactivation:
        for shape in ((2048, 1 << 15, 4, 4), (2048, 1 << 15, 16, 4), (512, 1 << 15, 16, 4)):
            tell(measure_coactivation(*shape))
    if arguments.memory:
        for figures in measure_memory():
            tell(figures)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        if arguments.shape:
            writer = get_context("spawn").Process(target=write_shape, args=(store,))
            writer.start()  # in a process of its own, so that the peak memory is the pass's
            writer.join()
            measured = Measured(CHECKPOINT, store.root / "model", CORPUS)
            figures = measure_pass(store, measured, arguments.tokens, arguments.workers, 2048)
            tell({"shape": arguments.shape, **figures})
        if arguments.config:
            from configs.load import load_config
            from flows.inputs.checkpoint_plan import identify, open_inputs

            plan = identify(open_inputs(load_config(arguments.config, arguments.overrides)))
            for name in ("checkpoints", "corpora"):
                (store.root / name).symlink_to((plan.store.root / name).resolve())
            measured = Measured(plan.checkpoint_id, plan.inputs.model.path, plan.inputs.corpus.corpus_id)
            figures = measure_pass(store, measured, arguments.tokens, arguments.workers, plan.config.shard_size)
            tell({"config": plan.config.name, **figures})


if __name__ == "__main__":
    main()
