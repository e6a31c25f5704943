"""The circuitlens stage's tasks on the embedded model: the same whatever the tiling, and consistent in themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.recipes.activations import ActivationsRecipe
from flows.subject.subject import Subject
from interp.circuitlens.settings import CircuitLensSettings
from storage.activations import Block
from storage.attributions import attributions_path
from storage.store import ShardKey, shards
from tasks.activations import corpus_pass as sampling
from tasks.circuitlens import circuitlens as tasks
from tests.tasks.demo_store import ingested

SETTINGS = CircuitLensSettings(
    features_per_layer=4, samples_per_feature=16, ablated_features=4, ablated_samples=4, continuation_tokens=2,
    continued_samples=2,
)  # fmt: skip
SHARD = 512


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, tasks.Sampled]:
    subject = ingested(tmp_path_factory.mktemp("store"), "corpus.max_tokens=2500", "corpus.n_pos=32")
    store, checkpoint_id, work = subject.store, subject.checkpoint_id, ActivationsRecipe(subject)
    settings = subject.config.activations
    for corpus_pass in work.passes:
        for block in corpus_pass.blocks(store):
            model = subject.source.model.path
            sampling.activations_block.fn(store, checkpoint_id, model, corpus_pass, block, settings)
    for layer in range(subject.attributes.n_layers):
        for key in shards(work.recipe, layer, subject.attributes.d_transcoder, SHARD):
            sampling.gather_shard.fn(store, checkpoint_id, work.corpus_id, key, work.passes, settings)
    return subject, tasks.Sampled(work.recipe, SHARD, tuple(work.passes), settings)


def attributed(sampled: tuple[Subject, tasks.Sampled], recipe: str, rows: int, shard_size: int) -> dict[str, pa.Table]:
    """All parts of the stage, in blocks of so many rows and shards of so many features."""
    subject, samples = sampled
    store, checkpoint_id, model = subject.store, subject.checkpoint_id, subject.source.model.path
    blocks = [Block(start, start + rows) for start in range(0, 80, rows)]
    for block in reversed(blocks):
        tasks.attribute_block.fn(store, checkpoint_id, model, recipe, samples, block, SETTINGS, "cpu")
    tables: dict[str, list[pa.Table]] = {name: [] for name in tasks.TABLES}
    for layer in range(subject.attributes.n_layers):
        for key in shards(recipe, layer, subject.attributes.d_transcoder, shard_size):
            tasks.gather_circuits.fn(store, checkpoint_id, "corpus", key, samples, blocks, SETTINGS)
            for name, parts in tables.items():
                parts.append(pq.read_table(store.part(name, key)))
    return {name: pa.concat_tables(parts) for name, parts in tables.items()}


@pytest.fixture(scope="module")
def found(sampled: Any) -> dict[str, pa.Table]:
    return attributed(sampled, "whole", 80, 512)


def test_contributions_are_significant_and_bounded(found: dict[str, pa.Table]) -> None:
    rows = found["contributions"].to_pydict()
    kind, share = np.array(rows["kind"], object), np.array(rows["share"], float)
    listed = np.isin(kind, ["feature", "head", "token"])
    assert (share[listed] >= SETTINGS.min_share).all()
    assert np.isnan(share[~listed]).all()
    assert (np.array(rows["relative_position"], float)[listed] <= 0).all()
    each = list(zip(rows["layer"], rows["feature"], rows["sample"], kind, strict=True))
    for one in set(each):
        assert each.count(one) <= SETTINGS.max_contributors
        break
    layers = np.array([np.nan if at is None else at for at in rows["source_layer"]])
    of_feature = kind == "feature"
    assert (layers[of_feature] < np.array(rows["layer"])[of_feature]).all()


def test_contributions_sum_to_activations(found: dict[str, pa.Table]) -> None:
    errors = found["scores"].to_pydict()
    assert set(errors["metric"]) == {"completeness_error"}
    assert np.median(errors["value"]) < 1e-4


def test_only_attributed_samples_have_a_cluster(found: dict[str, pa.Table]) -> None:
    samples, clusters = found["samples"].to_pydict(), found["clusters"].to_pydict()
    has_cluster = [at is not None for at in samples["cluster"]]
    assert sum(has_cluster) == sum(clusters["n_samples"])
    assert all(b is not None for b, has in zip(samples["quantile_bin"], has_cluster, strict=True) if has)
    assert len(set(zip(clusters["layer"], clusters["feature"], strict=True))) <= 4 * SETTINGS.features_per_layer
    failed = found["failures"].to_pydict()
    assert set(failed["reason"]) <= {"too_few_samples"}


def test_every_feature_is_attributed_on_as_many_samples_as_it_has(found: dict[str, pa.Table]) -> None:
    """Rare features too: with fewer samples than are wanted, on all of them."""
    samples = found["samples"].to_pydict()
    feature = np.array(samples["layer"]) * 10_000 + np.array(samples["feature"])
    is_quantile = np.array([at is not None for at in samples["quantile_bin"]])
    attributed = np.isin(
        np.array(samples["sample"]) + 1_000 * feature,
        [s + 1_000 * (10_000 * layer + f) for layer, f, s in _targets(found["contributions"])],
    )
    sizes = []
    for each in np.unique(feature[attributed]):
        own = feature == each
        sizes.append(int((own & is_quantile).sum()))
        assert attributed[own].sum() == min(SETTINGS.samples_per_feature or 0, sizes[-1])
    assert min(sizes) < (SETTINGS.samples_per_feature or 0) < max(sizes)


def _targets(contributions: pa.Table) -> set[tuple[int, int, int]]:
    rows = contributions.to_pydict()
    return set(zip(rows["layer"], rows["feature"], rows["sample"], strict=True))


def test_what_is_not_changed_is_no_effect(sampled: Any, found: dict[str, pa.Table]) -> None:
    subject, _ = sampled
    effects = found["logit_effects"].to_pydict()
    assert 0 not in effects["effect"]
    last = subject.attributes.n_layers - 1
    assert {p for layer, p in zip(effects["layer"], effects["position"], strict=True) if layer == last} == {0}


def test_effects_reach_along_the_continuation(found: dict[str, pa.Table]) -> None:
    effects = found["logit_effects"].to_pydict()
    assert set(effects["position"]) == {0, 1, 2}
    assert set(effects["sample"]) == {-1}


def test_nothing_depends_on_blocks_and_shards(sampled: Any, found: dict[str, pa.Table]) -> None:
    other = attributed(sampled, "tiled", 37, 256)
    for name, table in found.items():
        if name == "scores":  # sums whose last digits depend on the shard's size
            continue
        assert other[name].num_rows == table.num_rows, name
        for column in table.column_names:
            ours, theirs = table[column].to_pylist(), other[name][column].to_pylist()
            if column in ("score", "share", "effect"):
                numbers = (np.array([np.nan if x is None else x for x in values]) for values in (ours, theirs))
                np.testing.assert_allclose(*numbers, rtol=2e-3, atol=1e-4)
            elif name != "contributions" or column in ("layer", "feature", "sample", "kind"):
                assert ours == theirs, (name, column)


def test_the_causal_check_compares_sources_with_random_ones(sampled: Any, found: dict[str, pa.Table]) -> None:
    subject, samples = sampled
    store, model = subject.store, subject.source.model.path
    key = ShardKey("ablation", 2, 0, subject.attributes.d_transcoder)
    blocks = [Block(0, 80)]
    arguments = (subject.checkpoint_id, "corpus", model, key, "whole", samples, blocks, SETTINGS, "cpu")
    tasks.ablate_layer.fn(store, *arguments)
    rows = pq.read_table(store.part("scores", key)).to_pydict()
    assert len(rows["metric"]) == 4 * SETTINGS.ablated_features
    by_metric: dict[str, list[float]] = {}
    for metric, value, low, high in zip(rows["metric"], rows["value"], rows["low"], rows["high"], strict=True):
        if value is not None:
            by_metric.setdefault(metric, []).append(value)
            assert low is None or low < value < high
    assert np.mean(by_metric["causal_share"]) > np.mean(by_metric["causal_share_random"])


def test_a_damaged_block_is_named(sampled: Any, found: dict[str, pa.Table]) -> None:
    subject, samples = sampled
    path: Path = attributions_path(subject.store, "damaged", 0, 80)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1")
    key = ShardKey("damaged", 0, 0, 512)
    with pytest.raises(ValueError, match="damaged part"):
        tasks.gather_circuits.fn(subject.store, subject.checkpoint_id, "corpus", key, samples, [Block(0, 80)], SETTINGS)


def test_a_model_that_was_not_sampled_is_refused(sampled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, samples = sampled
    coders = tasks.loaded_transcoder
    from dataclasses import replace

    monkeypatch.setattr(tasks, "loaded_transcoder", lambda *a, **k: replace(c := coders(*a, **k), b_enc=c.b_enc + 1))
    with pytest.raises(ValueError, match="contributions sum to"):
        tasks.attribute_block.fn(
            subject.store, subject.checkpoint_id, subject.source.model.path, "other", samples, Block(0, 20), SETTINGS,
            "cpu",
        )  # fmt: skip
