"""The text around an activation: one rule for explainers and for the catalog's view `contexts`."""

import numpy as np
from jaxtyping import Int32


def text_around(
    row: Int32[np.ndarray, " n_pos"],
    documents: Int32[np.ndarray, " n_pos"],
    position: int,
    sides: tuple[int, int],
    bos: int | None,
) -> tuple[int, int]:
    """First position, and one past the last, of the tokens around `position` in the same document.

    At most `sides` tokens before and after it. `documents` has the document's number for every token of the row;
    padding (−1) and BOS belong to no text. The view `contexts` does the same in SQL, but shows BOS.
    """
    first = max(0, position - sides[0])
    last = min(len(row), position + sides[1] + 1)
    part = row[first:last]
    outside = (part < 0) | (documents[first:last] != documents[position])
    if bos is not None:
        outside |= part == bos
    before, after = np.flatnonzero(outside[: position - first]), np.flatnonzero(outside[position - first + 1 :])
    end = position + 1 + int(after[0]) if len(after) else last
    return (first + int(before[-1]) + 1 if len(before) else first), end
