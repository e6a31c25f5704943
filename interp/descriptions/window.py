"""The text around an activation: one rule for what explainers see and for the catalog's view `contexts`."""

import numpy as np
from jaxtyping import Int32


def text_around(
    row: Int32[np.ndarray, " n_pos"],
    documents: Int32[np.ndarray, " n_pos"],
    position: int,
    sides: tuple[int, int],
    bos: int | None,
) -> tuple[int, int]:
    """First position, and the one behind the last, of the tokens around `position` that are of its own document.

    At most `sides` tokens before and after it. `documents` says of every token of the row which document it is from;
    padding (−1) and BOS belong to no text. The view `contexts` says the same in SQL, but shows BOS.
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
