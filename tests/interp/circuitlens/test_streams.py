"""Sequences that are run through the model together show what each shows alone."""

import pytest
import torch

from interp.capture import Hooks
from interp.circuitlens.linear import linear_model
from interp.circuitlens.streams import read_streams, read_streams_of
from interp.families import family_of
from tests.frozen_models import TOKENS, open_model
from tests.tiny_models import CONFIGS, DIFFERENT


@pytest.mark.parametrize("name", DIFFERENT)
def test_together_as_alone_whatever_their_lengths(name: str) -> None:
    linear = linear_model(open_model(name), family_of(CONFIGS[name].model_type), Hooks("mlp_in", "mlp_out"))
    sequences = [TOKENS[:4], TOKENS, TOKENS[2:5].flip(0)]
    for tokens, together in zip(sequences, read_streams_of(linear, sequences), strict=True):
        alone = read_streams(linear, tokens)
        assert together.keys() == alone.keys()
        for seen in alone:
            torch.testing.assert_close(together[seen], alone[seen], rtol=1e-4, atol=1e-5)
