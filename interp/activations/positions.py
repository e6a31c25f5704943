"""Which positions of a text count: one rule for everything that is computed from activations.

Statistics and samples, activations on held-out and written texts, and ablations in the causal check use only positions
that count here, so that figures of different stages can be compared.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int32, Integer

from interp.activations.settings import ActivationSettings

PADDING = -1
"""Token id of padding."""


def counted_in_rows(
    tokens: Int32[np.ndarray, "rows n_pos"],
    documents: Int32[np.ndarray, "rows n_pos"],
    before: Int32[np.ndarray, "rows_before n_pos"],
    special: Sequence[int],
    settings: ActivationSettings,
) -> Bool[np.ndarray, "rows n_pos"]:
    """Which positions of some rows of a corpus count.

    `documents` has the document of each token; `before` has the same for the last rows before these: as many as
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
    """Which positions count in texts that are each read in a row of their own, including the tokens before the text
    (BOS)."""
    tokens = rows.astype(np.int32)
    documents = np.where(tokens == PADDING, PADDING, np.arange(len(tokens), dtype=np.int32)[:, None])
    return counted_in_rows(tokens, documents, documents[:0], special, settings)
