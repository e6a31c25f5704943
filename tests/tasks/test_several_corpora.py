"""Two corpora read one after the other: what is known of the first is used again, and everything is of both."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.load import load_config
from flows.inputs.checkpoint_plan import CheckpointPlan, identify, open_inputs
from flows.recipes.activations import ActivationsRecipe
from flows.recipes.coactivation import CoactivationRecipe
from interp.coactivation.settings import CoactivationSettings
from storage.activations import has_block
from storage.coactivation import make_matrices, matrices
from storage.corpora.corpus import corpus_attributes
from storage.corpora.python_docs import python_docs
from storage.samples import read_samples
from storage.store import ShardKey
from tasks.activations import corpus_pass as tasks
from tasks.activations.coactivation import EdgesJob, coactivate, twera_shard
from tasks.activations.corpora import tokenise_corpus
from tests.tasks.demo_store import dense, ingested

SETTINGS = CoactivationSettings(pairs=[(0, 2)], min_support=3)


def run(plan: CheckpointPlan) -> list[dict]:
    """Everything of two shards; returns the edges."""
    store, checkpoint_id, config = plan.store, plan.checkpoint_id, plan.config
    work = ActivationsRecipe(plan)
    for corpus_pass in work.passes:
        for block in corpus_pass.blocks(store):
            job = tasks.PassJob(checkpoint_id, plan.inputs.model.path, config.activations)
            tasks.activations_block.fn(store, job, corpus_pass, block)
    key = ShardKey(work.recipe, 2, 0, 512)
    drawing = tasks.SamplingJob(checkpoint_id, work.corpus_id, tuple(work.passes), config.activations)
    tasks.gather_shard.fn(store, drawing, key)
    summed = CoactivationRecipe(plan).summed
    for each in summed:
        make_matrices(matrices(store, each.recipe, 0, 2, 512), 1024)
        coactivate.fn(store, each, 0, ShardKey(each.recipe, 2, 0, 512), 1024, 512)
    key = key._replace(recipe=CoactivationRecipe(plan).recipe)
    edges = EdgesJob(checkpoint_id, work.corpus_id, tuple(summed), SETTINGS, 512, True, None)
    twera_shard.fn(store, edges, key)
    return pq.read_table(store.part("feature_edges", key)).to_pylist()


@pytest.mark.whole
def test_a_later_corpus_adds_to_the_sums(tmp_path: Path) -> None:
    texts = list(python_docs())
    for name, part in (("a", texts[:40]), ("b", texts[40:90])):
        (tmp_path / f"{name}.txt").write_text("\n".join(text[:300] for text in part))
    overrides = [f"store={tmp_path / 'store'}", "corpus.max_tokens=2500", "corpus.n_pos=32", "shard_size=512"]
    overrides += ["coactivation.pairs=[[0,2]]"]
    first = ingested(tmp_path / "store", *overrides[1:], f"corpus.source={tmp_path / 'a.txt'}")
    run(first)
    [before] = CoactivationRecipe(first).summed
    tile = matrices(first.store, before.recipe, 0, 2, 512).receipt(0, 0)
    written = tile.stat().st_mtime_ns
    config = load_config(
        Path("configs/demo.yaml"), [*overrides, f"corpus.source=[{tmp_path / 'a.txt'}, {tmp_path / 'b.txt'}]"]
    )
    both = identify(open_inputs(config))
    for corpus in both.inputs.corpora:
        tokenise_corpus.fn(both.store, corpus, both.inputs.model.path)
    work = ActivationsRecipe(both)
    assert work.corpus_id not in [corpus_pass.corpus_id for corpus_pass in work.passes]
    assert work.passes[0].recipe == ActivationsRecipe(first).passes[0].recipe
    assert has_block(both.store, work.passes[0].recipe, work.passes[0].blocks(both.store)[0])
    edges = run(both)
    assert tile.stat().st_mtime_ns == written

    each = [[*overrides, f"corpus.source={tmp_path / name}"] for name in ("a.txt", "b.txt")]
    alone = [identify(open_inputs(load_config(Path("configs/demo.yaml"), values))) for values in each]
    rows = [np.concatenate([np.nan_to_num(dense(one, config.activations)[layer]) for one in alone]) for layer in (0, 2)]
    assert len(edges) > 50
    for edge in edges[:50]:
        a, b = rows[0][:, edge["source_feature"]].astype(float), rows[1][:, edge["target_feature"]].astype(float)
        assert edge["n_coactive"] == ((a > 0) & (b > 0)).sum()
        assert edge["twera"] == pytest.approx((a * b).sum() / b.sum() * edge["virtual_weight"], rel=1e-4)
        assert edge["corpus_id"] == work.corpus_id
    samples = read_samples(both.store, ShardKey(work.recipe, 2, 0, 512))
    n_first = corpus_attributes(both.store, work.passes[0].corpus_id).n_sequences
    second = samples.where(samples.sequence >= n_first)
    assert 0 < len(second.feature) < len(samples.feature)
    a = np.nan_to_num(dense(alone[1], config.activations)[2])
    at = (second.sequence - n_first) * 32 + second.position
    assert second.activation == pytest.approx(a[at, second.feature], rel=1e-4)
