"""Random transcoders for the tiny models, of every kind and hook, and the obvious slow way to attribute."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.capture import Hooks, vectors_of
from interp.circuitlens.attribution import logit_targets
from interp.circuitlens.frozen import Frozen, freeze
from interp.circuitlens.graph import Ends, Probable, likeliest, next_probability
from interp.circuitlens.linear import LinearModel, linear_model
from interp.families import family_of
from interp.transcoder import Transcoder
from tests.tiny_models import CONFIGS, D_MODEL, D_VOCAB, N_LAYERS, tiny_model

D_TRANSCODER = 40
TOKENS = torch.randint(0, D_VOCAB, (9,), generator=torch.Generator().manual_seed(3))


def random_transcoders(kind: str) -> list[Transcoder]:
    """One a layer: relu, jumprelu, topk, skip (a bypass, ReLU) or cross (cross-layer, JumpReLU)."""
    torch.manual_seed(1)
    coders = []
    for layer in range(N_LAYERS):
        coder = Transcoder(
            W_enc=torch.randn(D_TRANSCODER, D_MODEL),
            b_enc=torch.randn(D_TRANSCODER),
            W_dec=torch.randn(D_TRANSCODER, D_MODEL),
            b_dec=torch.randn(D_MODEL),
            activation="relu",
        )
        if kind in ("jumprelu", "cross"):
            coder = replace(coder, activation="jumprelu", threshold=torch.rand(D_TRANSCODER))
        if kind == "topk":
            coder = replace(coder, activation="topk", k=5)
        if kind == "skip":
            coder = replace(coder, W_skip=torch.randn(D_MODEL, D_MODEL))
        if kind == "cross":
            coder = replace(coder, W_dec_later=torch.randn(D_TRANSCODER, N_LAYERS - 1 - layer, D_MODEL))
        coders.append(coder)
    return coders


def open_model(name: str, **changes: Any) -> nn.Module:
    """A tiny model that says its attention patterns."""
    model = tiny_model(name, **changes)
    model.set_attn_implementation("eager")
    return model


def frozen_model(
    name: str, hooks: Hooks, coders: list[Transcoder], tokens: Tensor = TOKENS
) -> tuple[LinearModel, Frozen]:
    linear = linear_model(open_model(name), family_of(CONFIGS[name].model_type), hooks)
    return linear, freeze(linear, coders.__getitem__, tokens)


def likeliest_ends(linear: LinearModel, frozen: Frozen, n: int, share: float = 1.0) -> tuple[Probable, Ends]:
    """The likeliest next tokens as the targets of a graph."""
    found = likeliest(next_probability(linear, frozen, -1), n, share)
    W_U = linear.family.W_U(linear.model).float()
    last = torch.full_like(found.token, frozen.n_pos - 1)
    readings = logit_targets(linear, frozen, W_U[found.token] - W_U.mean(0), last)
    return found, Ends(readings, found.probability.numpy())


def frozen_by_hooks(name: str, hooks: Hooks, coders: list[Transcoder], tokens: Tensor = TOKENS) -> "ByHooks":
    """The obvious slow way: the model itself, its norms, attention and MLPs put to rest one by one."""
    return ByHooks(open_model(name), family_of(CONFIGS[name].model_type), hooks, coders, tokens)


class ByHooks:
    """A model of transformers run once, then held there; what its MLPs write can be changed. Reads `mlp_in`."""

    def __init__(self, model: Any, family: Any, hooks: Hooks, coders: list[Transcoder], tokens: Tensor) -> None:
        self.model, self.family, self.coders, self.tokens = model, family, coders, tokens
        self.x: dict[int, Tensor] = {}
        self.added: dict[int, Tensor] = {}
        """What to add to MLP outputs, by layer."""
        self.embedded = torch.zeros(1, len(tokens), model.config.hidden_size)
        """What to add to the token embeddings."""
        kept: dict[Any, Any] = {}
        modules = dict(model.named_modules())
        norms = [name for name in modules if name.endswith(("norm", "layernorm", "ln_1", "ln_2", "ln_f"))]
        norms = [name for name in norms if "q_norm" not in name and "k_norm" not in name]
        handles = [modules[name].register_forward_hook(self._keep(kept, name)) for name in norms]
        blocks = family.block_modules(model)
        for layer, block in enumerate(blocks):
            attention = family.module(block, family.attention)
            handles.append(attention.register_forward_hook(self._keep(kept, ("attention", layer))))
            handles.append(family.module(block, family.mlp).register_forward_hook(self._keep(kept, ("mlp", layer))))
        with torch.no_grad():
            model(tokens[None], use_cache=False)
        for handle in handles:
            handle.remove()
        for name in norms:
            modules[name].forward = self._rested(family.norm(modules[name]), kept[name][0])
        attend_with(model, _attention_at_rest)
        for layer, block in enumerate(blocks):
            family.module(block, family.attention).at_rest = kept["attention", layer][1][1]
            family.module(block, family.mlp).forward = self._mlp(layer, *kept["mlp", layer])
        embedding = family.module(model, family.embedding)
        embedding.register_forward_hook(lambda _m, _a, output: output + self.embedded)

    @staticmethod
    def _keep(kept: dict[Any, Any], name: Any) -> Any:
        return lambda _m, args, output: kept.update({name: (args[0] if args else None, output)})

    @staticmethod
    def _rested(norm: Any, at: Tensor) -> Any:
        def centre(x: Tensor) -> Tensor:
            return x - x.mean(-1, keepdim=True) if norm.centred else x

        scale = (centre(at).square().mean(-1, keepdim=True) + norm.eps).sqrt()
        bias = 0 if norm.bias is None else norm.bias
        return lambda x: centre(x) / scale * norm.weight + bias

    def _mlp(self, layer: int, at: Tensor, wrote: Tensor | tuple[Tensor, ...]) -> Any:
        def forward(x: Tensor) -> Tensor | tuple[Tensor, ...]:
            self.x[layer] = x[0]
            W_skip = self.coders[layer].W_skip
            bypass = 0 if W_skip is None else (x - at) @ W_skip.T
            output = vectors_of(wrote) + bypass + self.added.get(layer, 0)
            return output if isinstance(wrote, Tensor) else (output, *wrote[1:])

        return forward

    def read(self, layer: int) -> Tensor:
        """The transcoder's input at all tokens, as it comes out of what is added now."""
        self.model(self.tokens[None], use_cache=False)
        return self.x[layer]


def attend_with(model: Any, attend: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """Have all attentions of a model mix their values by a function of transformers' interface."""
    ALL_ATTENTION_FUNCTIONS.register("tested", attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register("tested", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    if model.config.model_type != "gptj":
        model.set_attn_implementation("tested")
        return

    def mixed(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
        output, pattern = attend(module, query, key, value, mask, scaling=1 / module.scale_attn)
        return output.transpose(1, 2), pattern

    for block in model.transformer.h:  # GPT-J does not know the interface
        block.attn._attn = partial(mixed, block.attn)


def _attention_at_rest(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
    value = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
    return (module.at_rest @ value).transpose(1, 2).contiguous(), module.at_rest
