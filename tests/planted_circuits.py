"""A hand-built GPT-2 of two layers whose circuits are known.

Token t is the basis vector t of the residual stream, position p the basis vector 16 + p. In layer 0, head 0 looks at
the previous token and writes which it was to directions 32 to 47; head 1 does nothing. The MLP of layer 0 writes
direction 60 on token 9, and feature 3 of its transcoder stands for that. Layer 1: BIGRAM fires on token 5 after
token 2; UPSTREAM on direction 60; EITHER on token 4 behind it or on direction 60.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from interp.transcoder import Transcoder

D_MODEL, D_VOCAB, N_POS, D_TRANSCODER = 96, 16, 16, 8
POSITIONS, PREVIOUS, HIDDEN = 16, 32, 60
BIGRAM, UPSTREAM, EITHER = 1, 2, 5


def planted_gpt2() -> Any:
    config = GPT2Config(
        vocab_size=D_VOCAB, n_positions=N_POS, n_embd=D_MODEL, n_layer=2, n_head=2, n_inner=8, bos_token_id=0,
        eos_token_id=0, attn_implementation="eager", tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if "ln_" not in name:
            value.zero_()
    model.transformer.wte.weight.copy_(torch.eye(D_VOCAB, D_MODEL))
    model.lm_head.weight.copy_(torch.eye(D_VOCAB, D_MODEL))
    for position in range(N_POS):
        model.transformer.wpe.weight[position, POSITIONS + position] = 1
    attention = model.transformer.h[0].attn
    for position in range(N_POS):
        attention.c_attn.weight[POSITIONS + position, position] = 4  # query of head 0
        attention.c_attn.weight[POSITIONS + position, D_MODEL + position + 1] = 4  # its key: one further
    for token in range(D_VOCAB):
        attention.c_attn.weight[token, 2 * D_MODEL + token] = 0.2  # its value
        attention.c_proj.weight[token, PREVIOUS + token] = 1
    mlp = model.transformer.h[0].mlp
    mlp.c_fc.weight[9, 0], mlp.c_fc.bias[0], mlp.c_proj.weight[0, HIDDEN] = 2, -6, 0.25
    return model


def planted_coders() -> list[Transcoder]:
    below, above = _silent(), _silent()
    below.W_enc[3, 9], below.b_enc[3], below.W_dec[3, HIDDEN] = 2, -6, 0.25
    above.W_enc[BIGRAM, [PREVIOUS + 2, 5]], above.b_enc[BIGRAM] = 1, -7
    above.W_enc[UPSTREAM, HIDDEN], above.b_enc[UPSTREAM] = 1, -2
    above.W_enc[EITHER, [PREVIOUS + 4, HIDDEN]], above.b_enc[EITHER] = 1, -2
    above.W_dec[BIGRAM, 11], above.W_dec[BIGRAM, 12] = 2, -1
    return [below, above]


def _silent() -> Transcoder:
    W, b = torch.zeros(D_TRANSCODER, D_MODEL), torch.full((D_TRANSCODER,), -1.0)
    return Transcoder(W, b, W.clone(), torch.zeros(D_MODEL), "relu")


def sequence(*end: int, seed: int = 0) -> Tensor:
    """Ten random tokens without a meaning to any feature, the last of them replaced by `end`."""
    tokens = torch.randint(6, 9, (10,), generator=torch.Generator().manual_seed(seed))
    tokens[10 - len(end) :] = torch.tensor(end)
    return tokens


INDUCTION = (1, 0)
"""The induction head of `planted_induction`, as (layer, head)."""
PREVIOUS_IS = {token: token for token in range(5)}
"""Features of its layer 0, by the token that stands before theirs."""


def planted_induction() -> tuple[Any, list[Transcoder]]:
    """The model above, with an induction head in layer 1 whose keys are written by features, not by tokens.

    The MLP of layer 0 has a neuron for each of the tokens 0 to 4, which fires behind that token and writes it to
    directions 70 to 74; the transcoder's features are these neurons. Head 0 of layer 1 asks for its own token there.
    """
    model = planted_gpt2()
    mlp, attention = model.transformer.h[0].mlp, model.transformer.h[1].attn
    below, above = _silent(), _silent()
    for token, feature in PREVIOUS_IS.items():
        mlp.c_fc.weight[PREVIOUS + token, feature] = 2
        mlp.c_fc.bias[feature], mlp.c_proj.weight[feature, 70 + token] = -3, 0.25
        below.W_enc[feature, PREVIOUS + token], below.b_enc[feature], below.W_dec[feature, 70 + token] = 2, -3, 0.25
        attention.c_attn.weight[token, token] = 8  # query of head 0: the token itself
        attention.c_attn.weight[70 + token, D_MODEL + token] = 8  # its key: the token before, as the feature has it
    mlp.c_fc.weight[9, 0], mlp.c_proj.weight[0, HIDDEN] = 0, 0
    return model, [below, above]
