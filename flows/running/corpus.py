"""Steps that several stages need: tokenise the corpora, and run them through the model."""

from collections.abc import Sequence

from flows.running.engine import wait_for_all
from flows.subject.subject import Subject
from storage.activations import Block, has_block
from tasks.activations.corpora import tokenise_corpus
from tasks.activations.corpus_pass import CorpusPass, PassJob, activations_block


def is_tokenised(subject: Subject) -> bool:
    """Whether all corpora are in the store."""
    return all(subject.store.corpus(recipe.corpus_id).exists() for recipe in subject.source.corpora)


def tokenise(subject: Subject) -> None:
    """Tokenise the corpora that are not in the store."""
    store, model_path = subject.store, subject.source.model.path
    missing = [corpus for corpus in subject.source.corpora if not store.corpus(corpus.corpus_id).exists()]
    wait_for_all([tokenise_corpus.submit(store, corpus, model_path) for corpus in missing], "tokenise")


def missing_blocks(subject: Subject, passes: Sequence[CorpusPass]) -> list[tuple[CorpusPass, Block]]:
    """The blocks that the model has not read yet. The corpora must be tokenised."""
    store = subject.store
    every = [(corpus_pass, block) for corpus_pass in passes for block in corpus_pass.blocks(store)]
    return [(corpus_pass, block) for corpus_pass, block in every if not has_block(store, corpus_pass.recipe, block)]


def run_blocks(subject: Subject, blocks: Sequence[tuple[CorpusPass, Block]], title: str) -> None:
    """Run blocks of rows through the model and store the sparse activations."""
    config, model_path = subject.config, subject.source.model.path
    job = PassJob(subject.checkpoint_id, model_path, config.activations, subject.arithmetic)
    futures = [activations_block.submit(subject.store, job, corpus_pass, block) for corpus_pass, block in blocks]
    wait_for_all(futures, title)
