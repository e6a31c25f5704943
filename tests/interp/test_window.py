"""The text around an activation ends where its document does."""

import numpy as np
import pytest

from interp.descriptions.window import text_around

BOS = 0


def around(
    tokens: list[int], documents: list[int], position: int, sides: tuple[int, int], bos: int | None
) -> list[int]:
    row = np.array(tokens, np.int32)
    first, last = text_around(row, np.array(documents, np.int32), position, sides, bos)
    return list(range(first, last))


@pytest.mark.parametrize(("position", "expected"), [(1, [1, 2]), (2, [1, 2]), (4, [4, 5, 6]), (6, [4, 5, 6])])
def test_bos_begins_a_document_and_is_not_shown(position: int, expected: list[int]) -> None:
    tokens, documents = [BOS, 5, 6, BOS, 7, 8, 9, -1], [0, 0, 0, 1, 1, 1, 1, -1]
    assert around(tokens, documents, position, (10, 10), BOS) == expected


def test_without_bos_documents_are_told_apart_all_the_same() -> None:
    tokens, documents = [5, 6, 7, 8, 9, -1], [0, 0, 1, 1, 2, -1]
    assert around(tokens, documents, 1, (10, 10), None) == [0, 1]
    assert around(tokens, documents, 2, (10, 10), None) == [2, 3]
    assert around(tokens, documents, 4, (10, 10), None) == [4]


def test_no_more_is_shown_than_asked_for() -> None:
    assert around([5] * 20, [3] * 20, 10, (2, 1), None) == [8, 9, 10, 11]
    assert around([5] * 20, [3] * 20, 0, (2, 1), None) == [0, 1]
    assert around([5] * 20, [3] * 20, 19, (2, 1), None) == [17, 18, 19]
