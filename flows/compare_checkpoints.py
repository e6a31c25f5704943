"""The comparison of two checkpoints: which features were kept, moved, born or died."""

from pathlib import Path

from prefect import flow

from flows.inputs.checkpoint_pair import Pair, open_pair
from flows.recipes.drift import DriftRecipe
from flows.reports.drift import write_report
from flows.running.corpus import run_blocks
from flows.running.engine import wait_for_all
from flows.running.stage import StageRun, stage_recorded, store_held
from interp.drift import DriftSettings
from storage.activations import Block, has_block
from storage.bucket.mirror import local_root
from storage.catalog.database import loaded_recipe
from storage.catalog.runs import new_run_id
from storage.store import Store
from tasks.activations.corpora import tokenise_corpus
from tasks.activations.corpus_pass import remove_or_pack_blocks
from tasks.evaluation.drift import STAGE, load_drift, match_layer


def is_done(pair: Pair) -> bool:
    """Whether the catalog already has the comparison."""
    return loaded_recipe(pair.store.catalog, " ".join(pair.ids), STAGE) == DriftRecipe(pair).recipe


def perform(pair: Pair, run_id: str) -> None:
    """Read the corpus's beginning with both checkpoints, match every layer, load the catalog."""
    store, config, recipe = pair.store, pair.config, DriftRecipe(pair)
    with stage_recorded(config, store, StageRun(run_id, STAGE, recipe.recipe, pair.ids[1])):
        blocks = _read(pair, recipe)
        futures = [
            match_layer.submit(store, pair.ids, key, pair.settings, recipe.passes, blocks) for key in recipe.keys
        ]
        wait_for_all(futures, "compare checkpoints")
        if recipe.passes is not None and config.activations.keep == "none":
            remove_or_pack_blocks(store, recipe.passes, "none")
        load_drift(store, pair.ids, recipe.keys)


def _read(pair: Pair, recipe: DriftRecipe) -> list[Block]:
    """The blocks of the corpus's beginning, read by both checkpoints if that has not been done."""
    if pair.plans is None or recipe.passes is None:
        return []
    store, corpus = pair.store, pair.plans[1].inputs.corpus
    if not store.corpus(corpus.corpus_id).exists():
        wait_for_all([tokenise_corpus.submit(store, corpus, pair.plans[1].inputs.model.path)], "tokenise")
    blocks, n_positions = [], 0
    for block in recipe.passes[1].blocks(store):
        if n_positions >= pair.settings.n_positions:
            break
        blocks.append(block)
        n_positions += (block.stop - block.start) * corpus.n_pos
    for plan, corpus_pass in zip(pair.plans, recipe.passes, strict=True):
        missing = [(corpus_pass, block) for block in blocks if not has_block(store, corpus_pass.recipe, block)]
        run_blocks(plan, missing, f"activations of {plan.config.name}")
    return blocks


@flow(name="compare-checkpoints", flow_run_name="compare {a} {b}")
def compare_checkpoints(store: str | Path, a: str, b: str, settings: DriftSettings | None = None) -> str:
    """Compare two checkpoints of a store, by id or name, the earlier first; returns the report's path."""
    pair = open_pair(Store(local_root(store)), a, b, settings or DriftSettings())
    if not is_done(pair):
        with store_held(pair.config, pair.store, f"compare-checkpoints {a} {b}"):
            perform(pair, new_run_id())
    return str(write_report(pair.store, *pair.ids))
