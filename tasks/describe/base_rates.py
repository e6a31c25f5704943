"""Base rates of tokens and contexts in the corpora that samples are from."""

from functools import lru_cache

import numpy as np

from interp.descriptions.base_rates import BaseRates, base_rates
from storage.checkpoints import open_checkpoint
from storage.corpora.corpus import corpus_attributes
from storage.corpora.rows import numbered, read_numbered_rows
from storage.store import Store
from tasks.ingest import tokens_part
from tasks.weightlens.propagate import read_vocabulary

N_ROWS = 512
"""Rows that are counted, spread evenly over the corpora."""


@lru_cache(maxsize=2)
def corpus_base_rates(store: Store, checkpoint_id: str, corpora: tuple[str, ...], shown: tuple[int, int]) -> BaseRates:
    """Base rates of the corpora. `shown` is the number of tokens shown before and after the firing token.

    Memory: `N_ROWS` rows, and the vocabulary.
    """
    n_rows = sum(corpus_attributes(store, corpus_id).n_sequences for corpus_id in corpora)
    drawn = np.unique(np.linspace(0, n_rows - 1, min(N_ROWS, n_rows)).round().astype(np.int64))
    rows = read_numbered_rows(store, numbered(store, corpora), drawn)
    vocabulary = read_vocabulary(tokens_part(store, checkpoint_id))
    texts = {at: token.text for at, token in enumerate(vocabulary)}
    return base_rates(rows.values(), texts, open_checkpoint(store, checkpoint_id).bos, shown)
