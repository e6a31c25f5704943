"""Fake features: as long and as dense as real ones, and nothing like them."""

import pytest
import torch

from interp.decoys import KINDS, biases_for, make_decoys


def test_decoys_have_the_norms_of_their_sources_and_are_of_every_kind() -> None:
    torch.manual_seed(0)
    W_enc, W_dec = torch.randn(20, 16) * torch.arange(1, 21)[:, None], torch.randn(20, 16)
    among = torch.tensor([3, 5, 8, 13])
    decoys = make_decoys(W_enc, W_dec, among, 9, seed=1)
    assert decoys.kind == [*KINDS, *KINDS, *KINDS]
    assert torch.allclose(decoys.W_enc.norm(dim=1), W_enc[decoys.source].norm(dim=1), rtol=1e-5)
    assert torch.allclose(decoys.W_dec.norm(dim=1), W_dec[decoys.decoder].norm(dim=1), rtol=1e-5)
    assert set(decoys.source.tolist()) <= set(among.tolist())
    for at, kind in enumerate(decoys.kind):
        row, source = decoys.W_enc[at], W_enc[decoys.source[at]]
        assert torch.equal(row, source) == (kind == "recombined")
        assert torch.equal(row.sort().values, source.sort().values) == (kind != "random")
        assert (decoys.decoder[at] != decoys.source[at]) == (kind == "recombined")
        assert torch.equal(decoys.W_dec[at], W_dec[decoys.decoder[at]]) == (kind == "recombined")
    again = make_decoys(W_enc, W_dec, among, 9, seed=1)
    assert torch.equal(again.W_enc, decoys.W_enc)
    assert not torch.equal(make_decoys(W_enc, W_dec, among, 9, seed=2).W_enc, decoys.W_enc)
    assert make_decoys(W_enc, W_dec, among[:1], 3, seed=1).source.tolist() == [3, 3, 3]
    with pytest.raises(ValueError, match="two features or more"):
        make_decoys(W_enc[:1], W_dec[:1], torch.tensor([0]), 3, seed=1)


def test_biases_give_the_density_that_is_asked_for_and_one_token_at_least() -> None:
    pre = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    b_enc = biases_for(pre, torch.tensor([0.1, 0.5, 1e-6]))
    assert (pre + b_enc > 0).sum(0).tolist() == [100, 500, 1]
