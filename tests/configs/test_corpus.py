"""What a configuration says of its corpus, against the model."""

import pytest

from configs.inputs import CorpusConfig


@pytest.mark.parametrize(("n_pos", "positions", "row"), [(None, 2048, 128), (None, 64, 64), (32, 64, 32), (64, 64, 64)])
def test_rows_have_as_many_tokens_as_asked_for(n_pos: int | None, positions: int, row: int) -> None:
    assert CorpusConfig(source="a", n_pos=n_pos).row_tokens(positions) == row


def test_rows_longer_than_the_model_has_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"corpus\.n_pos is 4096; the model has 128 positions: set corpus\.n_pos=128"):
        CorpusConfig(source="a", n_pos=4096).row_tokens(128)
