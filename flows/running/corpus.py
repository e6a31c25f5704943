"""Steps that several stages need: tokenise the corpora, and run them through the model."""

from collections.abc import Sequence

from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.running.engine import wait_for_all
from storage.activations import Block, has_block
from tasks.activations.corpora import tokenise_corpus
from tasks.activations.corpus_pass import CorpusPass, PassJob, activations_block


def is_tokenised(plan: CheckpointPlan) -> bool:
    """Whether all corpora are in the store."""
    return all(plan.store.corpus(recipe.corpus_id).exists() for recipe in plan.inputs.corpora)


def tokenise(plan: CheckpointPlan) -> None:
    """Tokenise the corpora that are not in the store."""
    store, model_path = plan.store, plan.inputs.model.path
    missing = [corpus for corpus in plan.inputs.corpora if not store.corpus(corpus.corpus_id).exists()]
    wait_for_all([tokenise_corpus.submit(store, corpus, model_path) for corpus in missing], "tokenise")


def missing_blocks(plan: CheckpointPlan, passes: Sequence[CorpusPass]) -> list[tuple[CorpusPass, Block]]:
    """The blocks that the model has not read yet. The corpora must be tokenised."""
    store = plan.store
    every = [(corpus_pass, block) for corpus_pass in passes for block in corpus_pass.blocks(store)]
    return [(corpus_pass, block) for corpus_pass, block in every if not has_block(store, corpus_pass.recipe, block)]


def run_blocks(plan: CheckpointPlan, blocks: Sequence[tuple[CorpusPass, Block]], title: str) -> None:
    """Run blocks of rows through the model and store the sparse activations."""
    config, model_path = plan.config, plan.inputs.model.path
    job = PassJob(plan.checkpoint_id, model_path, config.activations, plan.arithmetic)
    futures = [activations_block.submit(plan.store, job, corpus_pass, block) for corpus_pass, block in blocks]
    wait_for_all(futures, title)
