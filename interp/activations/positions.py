"""Which positions of a text count: the one rule of everything that is taken from activations.

Statistics and samples, what features do on held-out and on written texts, and what may be silenced in the causal check
are all of the positions that count here, so that figures of one stage can be set against those of another.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int32, Integer

from interp.activations.settings import ActivationSettings

PADDING = -1
"""Token id of what fills up a row."""


def counted_in_rows(
    tokens: Int32[np.ndarray, "rows n_pos"],
    documents: Int32[np.ndarray, "rows n_pos"],
    before: Int32[np.ndarray, "rows_before n_pos"],
    special: Sequence[int],
    settings: ActivationSettings,
) -> Bool[np.ndarray, "rows n_pos"]:
    """Which positions of some rows of a corpus count.

    `documents` says from which document each token is, `before` the same of the rows before these: as many as
    `skip_document_start`, or all that there are. `special` are the tokenizer's special tokens.
    """
    counted = tokens != PADDING
    if settings.special_tokens == "leave_out":
        counted &= ~np.isin(tokens, special)
    counted[:, : settings.skip_row_start] = False
    n_skipped = settings.skip_document_start
    if n_skipped:
        line = np.concatenate([before, documents]).ravel()
        first = np.r_[True, line[1:] != line[:-1]]
        if len(before) >= n_skipped:
            first[0] = False  # where in its document the line begins is unknown, but at least `n_skipped` rows ago
        at = np.arange(len(line)) - np.maximum.accumulate(np.where(first, np.arange(len(line)), -n_skipped))
        counted &= (at >= n_skipped)[before.size :].reshape(documents.shape)
    return counted


def counted_in_texts(
    rows: Integer[np.ndarray, "n n_pos"], special: Sequence[int], settings: ActivationSettings
) -> Bool[np.ndarray, "n n_pos"]:
    """Which positions count of texts that are each read on their own, in a row that is theirs, what stands before them
    (BOS) included."""
    tokens = rows.astype(np.int32)
    documents = np.where(tokens == PADDING, PADDING, np.arange(len(tokens), dtype=np.int32)[:, None])
    return counted_in_rows(tokens, documents, documents[:0], special, settings)
