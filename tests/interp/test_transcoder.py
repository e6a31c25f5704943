"""Transcoders: activation functions, and what they write."""

import torch

from interp.transcoder import Transcoder, activate


def test_activation_functions() -> None:
    pre = torch.tensor([[3.0, -1.0, 0.5, 2.0]])
    assert activate(pre, "relu", None, None).tolist() == [[3.0, 0.0, 0.5, 2.0]]
    assert activate(pre, "jumprelu", torch.tensor([1.0, 0.0, 0.5, 1.0]), None).tolist() == [[3.0, 0.0, 0.0, 2.0]]
    assert activate(pre, "topk", None, 2).tolist() == [[3.0, 0.0, 0.0, 2.0]]
    assert activate(-pre.abs(), "topk", None, 2).tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_a_negative_threshold_lets_no_negative_activation_through() -> None:
    assert activate(torch.tensor([[-0.5]]), "jumprelu", torch.tensor([-1.0]), None).tolist() == [[0.0]]


def test_decoding_adds_bias_and_skip() -> None:
    coder = Transcoder(
        W_enc=torch.eye(2),
        b_enc=torch.tensor([0.0, -10.0]),
        W_dec=torch.tensor([[1.0, 2.0], [5.0, 5.0]]),
        b_dec=torch.tensor([0.5, 0.5]),
        activation="relu",
        W_skip=torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
    )
    x = torch.tensor([[3.0, 4.0]])
    # a = [3, 0]; 3·[1, 2] + [0.5, 0.5] + W_skip x = [3.5, 6.5] + [4, 0]
    assert coder.decode(coder.encode(x), x).tolist() == [[7.5, 6.5]]
