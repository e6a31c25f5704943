"""The circuitlens stage's tasks on the embedded model: the same whatever the tiling, and consistent in themselves."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.activations import ActivationsRecipe
from flows.recipes.circuitlens import CircuitLensRecipe
from interp.batches import forget_sizes
from interp.circuitlens import causality, qk
from interp.circuitlens.settings import CircuitLensSettings
from storage.activations import Block
from storage.attributions import attributions_path
from storage.catalog.database import open_catalog
from storage.checkpoints import open_checkpoint
from storage.samples import ShardSamples, read_samples, read_samples_of_rows, samples_by_row_path
from storage.store import ShardKey, Store, shards
from tasks.activations import corpus_pass as sampling
from tasks.circuitlens import attribute
from tasks.circuitlens.ablate import ablate_layer
from tasks.circuitlens.attribute import attribute_block
from tasks.circuitlens.gather import gather_circuits
from tasks.circuitlens.job import TABLES, CircuitLensJob
from tasks.circuitlens.load import load_circuitlens
from tasks.circuitlens.order import order_samples
from tasks.circuitlens.token_profiles import read_token_profiles
from tests.tasks.demo_store import ingested

SETTINGS = CircuitLensSettings(
    features_per_layer=4, samples_per_feature=16, ablated_features=4, ablated_samples=4, continuation_tokens=2,
    continued_samples=2,
)  # fmt: skip
SHARD = 512
FEATURE = ("layer", "feature", "sample")
CLOSE_CALLS = ("contributions", "qk_contributions")
"""Tables whose rows are in order of scores, so that rounding may turn two of them about."""


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[CheckpointPlan, CircuitLensJob]:
    """The demo's checkpoint with a sampled corpus, and what attributing it all at once takes."""
    plan = ingested(
        tmp_path_factory.mktemp("store"), "corpus.max_tokens=2500", "corpus.n_pos=32", f"shard_size={SHARD}"
    )
    store, samples = plan.store, ActivationsRecipe(plan)
    settings, model = plan.config.activations, plan.inputs.model.path
    for corpus_pass in samples.passes:
        for block in corpus_pass.blocks(store):
            sampling.activations_block.fn(
                store, sampling.PassJob(plan.checkpoint_id, model, settings), corpus_pass, block
            )
    drawing = sampling.SamplingJob(plan.checkpoint_id, samples.corpus_id, tuple(samples.passes), settings)
    for key in samples.shards():
        sampling.gather_shard.fn(store, drawing, key)
    job = CircuitLensRecipe(plan).job("cpu")
    return plan, replace(job, corpus_id="corpus", recipe="whole", blocks=(Block(0, 80),), settings=SETTINGS)


def ordered(store: Store, job: CircuitLensJob) -> None:
    """The samples in order of rows."""
    for layer in job.layers:
        for key in job.sampled_shards(layer):
            order_samples.fn(store, job, key)


def attributed(
    sampled: tuple[CheckpointPlan, CircuitLensJob], recipe: str, rows: int, shard_size: int
) -> dict[str, pa.Table]:
    """All parts of the stage, in blocks of so many rows and shards of so many features."""
    plan, job = sampled
    job = replace(job, recipe=recipe, blocks=tuple(Block(start, start + rows) for start in range(0, 80, rows)))
    ordered(plan.store, job)
    for block in reversed(job.blocks):
        attribute_block.fn(plan.store, job, block)
    tables: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
    for layer in plan.layers:
        for key in shards(recipe, layer, plan.attributes.d_transcoder, shard_size):
            gather_circuits.fn(plan.store, job, key)
            for name, parts in tables.items():
                parts.append(pq.read_table(plan.store.part(name, key)))
    return {name: pa.concat_tables(parts) for name, parts in tables.items()}


@pytest.fixture(scope="module")
def found(sampled: Any) -> dict[str, pa.Table]:
    return attributed(sampled, "whole", 80, 512)


def test_contributions_are_significant_and_bounded(found: dict[str, pa.Table]) -> None:
    rows = found["contributions"].to_pydict()
    kind, share = np.array(rows["kind"], object), np.array(rows["share"], float)
    listed = np.isin(kind, ["feature", "head", "token"])
    assert np.isnan(share[~listed]).all()
    assert (np.array(rows["relative_position"], float)[listed] <= 0).all()
    each = list(zip(rows["layer"], rows["feature"], rows["sample"], kind, strict=True))
    strongest: dict[tuple[Any, ...], float] = {}
    for one, value in zip(each, share, strict=True):
        strongest[one] = max(value, strongest.get(one, 0.0))
    least = [min(SETTINGS.min_share, SETTINGS.share_of_strongest * strongest[one]) for one in each]
    assert (share >= 0.999 * np.array(least))[listed].all()
    counts = Counter(one for one in each if one[3] in ("feature", "head", "token"))
    assert max(counts.values()) <= SETTINGS.max_contributors
    layers = np.array([np.nan if at is None else at for at in rows["source_layer"]])
    of_feature = kind == "feature"
    assert (layers[of_feature] < np.array(rows["layer"])[of_feature]).all()


def test_contributions_sum_to_activations(found: dict[str, pa.Table]) -> None:
    errors = found["scores"].to_pydict()
    assert set(errors["metric"]) == {"completeness_error"}
    assert np.median(errors["value"]) < 1e-4


def test_heads_that_stand_out_say_why_they_looked_there(found: dict[str, pa.Table]) -> None:
    rows, heads = found["qk_contributions"].to_pylist(), set[tuple[int, ...]]()
    for row in found["contributions"].to_pylist():
        if row["kind"] == "head":
            heads.add(tuple(row[name] for name in (*FEATURE, "source_layer", "source_index", "source_position")))
    each = Counter(tuple(row[name] for name in (*FEATURE, "head_layer", "head", "key_position")) for row in rows)
    assert set(each) <= heads
    assert len(each) > 20
    assert max(each.values()) <= SETTINGS.qk_pairs
    assert max(row["sample"] for row in rows) < SETTINGS.qk_samples
    for row in rows:
        for side, looked in (("query", row["query_position"]), ("key", row["key_position"])):
            assert (row[f"{side}_layer"] is not None) == (row[f"{side}_kind"] == "feature")
            assert (row[f"{side}_index"] is not None) == (row[f"{side}_kind"] in ("feature", "token"))
            assert row[f"{side}_layer"] is None or row[f"{side}_layer"] < row["head_layer"] <= row["layer"]
            assert row[f"{side}_source_position"] is None or row[f"{side}_source_position"] <= looked


def test_only_attributed_samples_have_a_cluster(found: dict[str, pa.Table]) -> None:
    samples, clusters = found["samples"].to_pydict(), found["clusters"].to_pydict()
    has_cluster = [at is not None for at in samples["cluster"]]
    assert sum(has_cluster) == sum(clusters["n_samples"]) > 0
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
    plan, _ = sampled
    effects = found["logit_effects"].to_pydict()
    assert 0 not in effects["effect"]
    last = plan.attributes.n_layers - 1
    assert {p for layer, p in zip(effects["layer"], effects["position"], strict=True) if layer == last} == {0}


def test_effects_reach_along_the_continuation(found: dict[str, pa.Table]) -> None:
    effects = found["logit_effects"].to_pydict()
    assert set(effects["position"]) == {0, 1, 2}
    assert set(effects["sample"]) == {-1}


@pytest.mark.whole
def test_nothing_depends_on_blocks_and_shards(sampled: Any, found: dict[str, pa.Table]) -> None:
    other = attributed(sampled, "tiled", 37, 256)
    for name, table in found.items():
        if name == "scores":  # sums whose last digits depend on the shard's size
            continue
        assert other[name].num_rows == table.num_rows, name
        for column in table.column_names:
            ours, theirs = table[column].to_pylist(), other[name][column].to_pylist()
            if column in ("score", "share", "effect", "head_score"):
                numbers = (np.array([np.nan if x is None else x for x in values]) for values in (ours, theirs))
                np.testing.assert_allclose(*numbers, rtol=2e-3, atol=1e-4)
            elif name not in CLOSE_CALLS or column in ("layer", "feature", "sample", "kind", "head_layer", "head"):
                assert ours == theirs, (name, column)


def test_the_causal_check_compares_sources_with_random_ones(sampled: Any, found: dict[str, pa.Table]) -> None:
    plan, job = sampled
    store, key = plan.store, ShardKey("ablation", 2, 0, plan.attributes.d_transcoder)
    ablate_layer.fn(store, job, key)
    rows = pq.read_table(store.part("scores", key)).to_pydict()
    assert len(rows["metric"]) == 4 * SETTINGS.ablated_features
    by_metric: dict[str, list[float]] = {}
    for metric, value, low, high in zip(rows["metric"], rows["value"], rows["low"], rows["high"], strict=True):
        if value is not None:
            by_metric.setdefault(metric, []).append(value)
            assert low is None or low <= value <= high
    assert np.mean(by_metric["causal_share"]) > np.mean(by_metric["causal_share_random"])


def test_a_damaged_block_is_named(sampled: Any, found: dict[str, pa.Table]) -> None:
    plan, job = sampled
    path = attributions_path(plan.store, "damaged", 0, 80)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="damaged part"):
        gather_circuits.fn(plan.store, replace(job, recipe="damaged"), ShardKey("damaged", 0, 0, 512))


def test_a_damaged_order_of_samples_is_named(sampled: Any) -> None:
    plan, job = sampled
    job = replace(job, recipe="damaged-order")
    ordered(plan.store, job)
    path = samples_by_row_path(plan.store, job.recipe, job.sampled_shards(1)[0])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{path.name}: its CRC-32C.*samples are put in order of rows, again"):
        attribute_block.fn(plan.store, job, Block(0, 20))


def test_a_block_reads_the_samples_of_its_own_rows(sampled: Any) -> None:
    """All samples of the quantile sample are in some block, each once, as they were drawn."""
    plan, job = sampled
    job = replace(job, recipe="slices", settings=replace(SETTINGS, features_per_layer=None, samples_per_feature=None))
    ordered(plan.store, job)
    key = job.sampled_shards(2)[1]
    drawn = read_samples(plan.store, key).quantile
    path, parts = samples_by_row_path(plan.store, job.recipe, key), []
    for start in range(0, 80, 7):
        samples, continued = read_samples_of_rows(path, start, min(start + 7, 80))
        assert ((samples.sequence >= start) & (samples.sequence < start + 7)).all()
        assert len(continued) == len(samples.feature)
        parts.append(samples)
    joined = ShardSamples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    joined = joined.where(np.lexsort((joined.sample, joined.feature)))
    drawn = drawn.where(np.lexsort((drawn.sample, drawn.feature)))
    assert len(drawn.feature) > 1000
    for ours, theirs in zip(joined, drawn, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_that_was_not_sampled_is_refused(sampled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, job = sampled
    job = replace(job, recipe="other")
    ordered(plan.store, job)
    coders = attribute.loaded_transcoder
    monkeypatch.setattr(
        attribute, "loaded_transcoder", lambda *a, **k: replace(c := coders(*a, **k), b_enc=c.b_enc + 1)
    )
    with pytest.raises(ValueError, match="the frozen model gives"):
        attribute_block.fn(plan.store, job, Block(0, 20))


def loaded_edges(plan: CheckpointPlan, job: CircuitLensJob, found: dict[str, pa.Table]) -> str:
    """Load what was found, in place of what was loaded before, and check the sums over samples; their mode."""
    keys = [key for at in plan.layers for key in shards(job.recipe, at, plan.attributes.d_transcoder, SHARD)]
    load_circuitlens.fn(plan.store, job, "run", keys, [])
    with open_catalog(plan.store.catalog) as connection:
        columns = "source_layer, source_feature, target_layer, target_feature, n_samples, mean_share"
        edges = connection.execute(f"SELECT {columns} FROM contribution_edges ORDER BY ALL").fetchall()
        [(mode,)] = connection.execute("SELECT DISTINCT mode FROM contribution_edges").fetchall()
    samples: dict[tuple[int, ...], dict[int, float]] = {}
    for row in found["contributions"].to_pylist():
        if row["kind"] == "feature":
            edge = (row["source_layer"], row["source_index"], row["layer"], row["feature"])
            own = samples.setdefault(edge, {})
            own[row["sample"]] = own.get(row["sample"], 0) + row["share"]
    assert [row[:5] for row in edges] == sorted((*edge, len(own)) for edge, own in samples.items())
    means = [sum(samples[row[:4]].values()) / row[4] for row in edges]
    np.testing.assert_allclose([row[5] for row in edges], means, rtol=1e-5)
    return mode


def test_direct_contributions_carry_their_name(sampled: tuple[CheckpointPlan, CircuitLensJob], found: Any) -> None:
    plan, job = sampled
    settings = replace(SETTINGS, sources="direct", qk_samples=0, continuation_tokens=0, effect_tokens=0)
    direct = attributed((plan, replace(job, settings=settings)), "direct", 80, 512)
    modes = {(row["kind"], row["mode"]) for row in direct["contributions"].select(["kind", "mode"]).to_pylist()}
    assert modes == {(kind, "direct") for kind in ("feature", "head", "token", "error", "bias")}
    whole = {(row["kind"], row["mode"]) for row in found["contributions"].select(["kind", "mode"]).to_pylist()}
    assert whole == {(kind, "direct" if kind == "head" else "jacobian") for kind, _ in modes}
    heads = [[row for row in one["contributions"].to_pylist() if row["kind"] == "head"] for one in (direct, found)]
    assert len(heads[0]) == len(heads[1]) > 0
    assert len(direct["samples"]) == len(found["samples"])
    of_features = [
        loaded_edges(plan, replace(job, recipe=recipe, settings=one), rows)
        for recipe, one, rows in (("whole", SETTINGS, found), ("direct", settings, direct))
    ]
    assert of_features == ["jacobian", "direct"]
    model = replace(job, recipe="of another", blocks=(Block(0, 80),), settings=settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribute, "_readings", lambda coder, x, samples: np.zeros(len(samples.feature), np.float32))
        ordered(plan.store, model)
        with pytest.raises(ValueError, match="the frozen model gives"):
            attribute_block.fn(plan.store, model, model.blocks[0])


def test_tokens_of_the_lowest_layer_have_profiles_by_its_features(sampled: Any) -> None:
    plan, _ = sampled
    checkpoint = open_checkpoint(plan.store, plan.checkpoint_id)
    found = read_token_profiles(checkpoint, 0, np.array([9, 5, 9]))
    assert found is not None
    assert (found.token.tolist(), found.feature.tolist()) == ([5, 9], list(range(checkpoint.d_transcoder)))
    encoder = checkpoint.rows(0, "W_enc", 0, checkpoint.d_transcoder).double()
    weight = checkpoint.vector(0, "read_weight")
    assert weight is not None
    encoder = encoder * weight.double()
    encoder -= encoder.mean(1, keepdim=True)
    products = checkpoint.rows(None, "W_E", 0, checkpoint.n_tokens).double() @ encoder.T
    score = ((products - products.mean(0)) / products.std(0, correction=0))[[5, 9]].numpy()
    expected = np.where(score > 1, score, 0)
    assert found.vector == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-5)
    assert read_token_profiles(checkpoint, 1, np.array([5])) is None


@pytest.mark.whole
def test_a_device_without_room_does_less_at_once(
    sampled: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A block's sequences, targets, attention scores, effects and ablations: the results are those of whole batches."""
    plan, job = sampled
    tables = []
    settings, most = replace(SETTINGS, ablated_features=1, ablated_samples=2, qk_heads=2), 3
    for recipe in ("roomy", "narrow"):
        if recipe == "narrow":
            monkeypatch.setattr(attribute, "read_streams_of", fits(most, attribute.read_streams_of, 1))
            monkeypatch.setattr(attribute, "significant", fits(most, attribute.significant, 1, lambda one: one.target))
            monkeypatch.setattr(attribute, "output_effects", fits(most, attribute.output_effects, 3, lambda a: a.layer))
            monkeypatch.setattr(qk, "_strongest_keys", fits(1, qk._strongest_keys, 2, lambda two: two[0].position))  # pyright: ignore[reportPrivateUsage]
            ablated = fits(most, causality.ablated_activations, 3, lambda one: one.tokens)
            monkeypatch.setattr(causality, "ablated_activations", ablated)
        own = replace(job, recipe=recipe, blocks=(Block(0, 8),), settings=settings)
        ordered(plan.store, own)
        attribute_block.fn(plan.store, own, Block(0, 8))
        key = ShardKey(f"ablation-{recipe}", 2, 0, plan.attributes.d_transcoder)
        ablate_layer.fn(plan.store, own, key)
        paths = (attributions_path(plan.store, recipe, 0, 8), plan.store.part("scores", key))
        tables.append([pq.read_table(path) for path in paths])
        forget_sizes()
    for whole, parts in zip(*tables, strict=True):
        assert whole.num_rows == parts.num_rows > 3
        for ours, theirs in zip(numbers(whole), numbers(parts), strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)
    said = capsys.readouterr().err
    for what in ("sequences", "attribution", "attention scores", "output effects", "ablations"):
        assert f"{what}: " in said, what


def fits(most: int, run: Any, which: int, part: Any = lambda one: one) -> Any:
    """A function for which memory runs out if an argument, or its part, has more than `most` items."""

    def small(*args: Any, **kwargs: Any) -> Any:
        if len(part(args[which])) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(*args, **kwargs)

    return small


def numbers(table: pa.Table) -> list[np.ndarray]:
    """A table's columns of numbers, flat, in their order."""
    found = []
    for column in table.columns:
        flat = column.combine_chunks()
        while pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type):
            flat = flat.flatten()
        if pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type):
            found.append(flat.to_numpy(zero_copy_only=False))
    return found
