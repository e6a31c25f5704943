"""Which positions count: by hand, and the same wherever a row is divided."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from interp.activations.positions import PADDING, counted_in_rows, counted_in_texts
from interp.activations.settings import ActivationSettings

BOS, NONE = 1, np.zeros((0, 4), np.int32)


def rows(*lines: list[int]) -> np.ndarray:
    return np.array(lines, np.int32)


def test_heads_specials_and_padding_do_not_count() -> None:
    tokens = rows([5, 6, BOS, 7], [8, BOS, 9, PADDING])
    documents = rows([0, 0, 1, 1], [1, 2, 2, PADDING])
    default = counted_in_rows(tokens, documents, NONE, [BOS], ActivationSettings())
    assert default.tolist() == [[False, True, False, True], [False, False, True, False]]
    everything = ActivationSettings(special_tokens="count", skip_row_start=0)
    assert counted_in_rows(tokens, documents, NONE, [BOS], everything).sum() == 7
    heads = ActivationSettings(special_tokens="count", skip_row_start=0, skip_document_start=2)
    found = counted_in_rows(tokens, documents, NONE, [BOS], heads)
    assert found.tolist() == [[False] * 4, [True, False, False, False]]


def test_a_text_read_on_its_own_is_a_row_and_a_document() -> None:
    texts = rows([5, 6, 7, PADDING], [8, 9, 9, 9])
    assert counted_in_texts(texts, [], ActivationSettings()).sum(1).tolist() == [2, 3]
    settings = ActivationSettings(skip_document_start=3)
    assert counted_in_texts(texts, [], settings).sum(1).tolist() == [0, 1]
    behind_bos = np.insert(texts, 0, BOS, axis=1)
    assert counted_in_texts(behind_bos, [BOS], ActivationSettings()).sum(1).tolist() == [3, 4]


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    skip=st.integers(0, 5),
    at=st.integers(0, 20),
)
def test_a_later_row_counts_the_same_when_it_is_asked_for_alone(lengths: list[int], skip: int, at: int) -> None:
    documents = np.repeat(np.arange(len(lengths)), lengths)
    documents = documents[: len(documents) // 4 * 4].reshape(-1, 4).astype(np.int32)
    settings = ActivationSettings(skip_row_start=0, skip_document_start=skip)
    whole = counted_in_rows(documents + 2, documents, NONE, [], settings)
    part = counted_in_rows(documents[at:] + 2, documents[at:], documents[max(0, at - skip) : at], [], settings)
    assert (part == whole[at:]).all()
