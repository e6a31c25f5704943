"""Tokenise a corpus; read batches of it."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from storage.corpora.corpus import CorpusRecipe, corpus_attributes, read_rows, write_corpus
from storage.corpora.packing import PADDING
from storage.models import open_model
from storage.store import Store
from tasks.shard_task import shard_task

TOKENS_PER_BATCH = 2048


@shard_task("tokenise-corpus", "tokenise {recipe.source}")
def tokenise_corpus(store: Store, recipe: CorpusRecipe, model_path: Path) -> str:
    """Tokenise a corpus into the store."""
    folder = open_model(model_path)
    write_corpus(store, recipe, recipe.tokens(folder.tokenizer, folder.n_tokens))
    return recipe.corpus_id


def batches(store: Store, corpus_id: str, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of rows `start` to `stop` as (tokens, with padding as 0; which of them are real)."""
    n_pos = corpus_attributes(store, corpus_id).n_pos
    step = max(1, TOKENS_PER_BATCH // n_pos)
    for at in range(start, stop, step):
        yield padded(torch.from_numpy(read_rows(store, corpus_id, at, min(at + step, stop)).tokens))


def padded(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with padding as token 0, and which positions are real. Causal attention never sees it, as it comes last."""
    real = tokens != PADDING
    return torch.where(real, tokens, 0), real
