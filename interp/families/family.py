"""The description of a model family: where the residual stream is read and written, and by which weights."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Layout = Literal["apart", "qkv", "qkv of each head"]
Part = Literal["query", "key", "value"]
PARTS: tuple[Part, ...] = ("query", "key", "value")


@dataclass(frozen=True)
class Norm:
    """A normalisation with its effective parameters: `weight · (x − mean?) / scale + bias`."""

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float
    centred: bool
    """LayerNorm subtracts the mean over d_model, RMSNorm does not."""
    divides: bool = True
    """False where there is no norm and the residual stream itself is read (OLMo-2)."""

    def normalize(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Divide by the scale (after centring, for a LayerNorm), without weight and bias."""
        x = x.float()
        if not self.divides:
            return x
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


@dataclass(frozen=True)
class Family:
    """One architecture, as dotted module paths from the model, from one of its blocks or from a block's attention."""

    model_type: str
    """`config.model_type` in transformers."""
    blocks: str
    embedding: str
    unembedding: str
    final_norm: str
    attention: str
    attention_norm: str | None
    """Norm whose output is the attention's input. None: the attention reads the residual stream itself (OLMo-2)."""
    query: str
    """In the attention: the projection that makes queries, alone or together with keys and values."""
    key: str
    value: str
    output: str
    """In the attention: the projection from all heads' results to the residual stream."""
    mlp: str
    mlp_norm: str | None
    """Norm whose output is the MLP's input. None: the MLP reads the residual stream itself."""
    attention_output_norm: str | None = None
    """Norm of the attention's output before it is added to the residual stream (Gemma-2, Gemma-3)."""
    mlp_output_norm: str | None = None
    """Norm of the MLP's output before it is added to the residual stream (Gemma-2, Gemma-3)."""
    position_embedding: str | None = None
    """Learned position embeddings that are added to the token embedding (GPT-2)."""
    query_norm: str | None = None
    """In the attention: norm of each head's query before rotation (Gemma-3, Qwen-3), or of the queries of all heads
    together (OLMo-2)."""
    key_norm: str | None = None
    layout: Layout = "apart"
    """Layout of the outputs of `query`, `key` and `value`: each has a projection of its own; one projection gives all
    queries, then all keys, then all values (GPT-2, Phi-3); or query, key and value of the first head, then of the
    second and so on (GPT-NeoX)."""
    transposed: bool = False
    """Whether the attention's projections store their weights as (input, output) (GPT-2)."""
    parallel_setting: str | None = None
    """Name of the setting in the model's configuration that makes attention and MLP read the same stream (GPT-NeoX)."""
    always_parallel: bool = False
    """Whether attention and MLP read the same stream in every model of the family (GPT-J)."""
    rotated: Literal["halves", "pairs"] = "halves"
    """Which numbers rotary positions rotate together: one of the first half with one of the second half, or each even
    one with the next (GPT-J)."""
    half_tables: bool = False
    """Whether the tables of cosines and sines have one entry for each two numbers that are rotated together, rather
    than one for each number (GPT-J, GPT-OSS)."""
    rotation_table: str | None = None
    """In the attention: the table of sines, then cosines, of every position, where they are not passed to the attention
    (GPT-J)."""
    score_divisor: str | None = None
    """In the attention: the divisor of scores, where there is no `scaling` factor (GPT-J)."""
    scaled_embedding: bool = False
    """Whether the embedding module multiplies its rows by its `embed_scale` (Gemma)."""
    centred: bool = False
    """Whether norms are LayerNorms (centred) rather than RMSNorms."""
    unit_offset: bool = False
    """Whether norms multiply by 1 + weight (Gemma)."""

    def block_modules(self, model: nn.Module) -> list[nn.Module]:
        """The model's blocks, in order of layers."""
        return list(attrgetter(self.blocks)(model))

    def module(self, block: nn.Module, path: str) -> nn.Module:
        """The module at a path from the model, from a block or from an attention."""
        return attrgetter(path)(block)

    def attention_input(self, block: nn.Module) -> nn.Module:
        """The module whose input is the residual stream that the attention reads."""
        return block if self.attention_norm is None else self.module(block, self.attention_norm)

    def mlp_input(self, block: nn.Module) -> nn.Module:
        """The module whose input is the residual stream that the MLP reads."""
        return self.module(block, self.mlp if self.mlp_norm is None else self.mlp_norm)

    def embedding_scale(self, model: nn.Module) -> float:
        """The factor by which the model multiplies the rows of its embedding, in the dtype in which it was loaded."""
        if not self.scaled_embedding:
            return 1.0
        module = attrgetter(self.embedding)(model)
        return float(module.embed_scale.to(module.weight.dtype))

    def W_E(self, model: nn.Module) -> Float[Tensor, "d_vocab d_model"]:
        """What tokens add to the residual stream: the embedding times `embedding_scale`.

        With this factor, scores against tokens can be added to scores against decoders, which write to the stream
        directly.
        """
        weight, scale = attrgetter(self.embedding)(model).weight.detach(), self.embedding_scale(model)
        return weight if scale == 1 else weight * scale

    def W_pos(self, model: nn.Module) -> Float[Tensor, "n_ctx d_model"] | None:
        """What positions add to the residual stream; None if position matters in attention only."""
        if self.position_embedding is None:
            return None
        return attrgetter(self.position_embedding)(model).weight.detach()

    def W_U(self, model: nn.Module) -> Float[Tensor, "d_vocab d_model"]:
        """The unembedding, a row for each token."""
        return attrgetter(self.unembedding)(model).weight.detach()

    def logits(self, model: nn.Module, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_vocab"]:
        """The logits of what the final norm gives, with their biases and their soft cap where the model has these."""
        bias = _optional_parameter(attrgetter(self.unembedding)(model), "bias")
        found = nn.functional.linear(x, self.W_U(model).to(x.dtype), None if bias is None else bias.to(x.dtype))
        cap = getattr(attrgetter("config")(model), "final_logit_softcapping", None)
        return found if cap is None else cap * torch.tanh(found / cap)

    def W_Q(self, model: nn.Module, layer: int) -> Float[Tensor, "n_heads d_head d_model"]:
        """The query projection of each head, before norm and rotation."""
        return self._weight(model, layer, "query")

    def b_Q(self, model: nn.Module, layer: int) -> Float[Tensor, "n_heads d_head"] | None:
        """The query biases of each head, or None."""
        return self._bias(model, layer, "query")

    def W_K(self, model: nn.Module, layer: int) -> Float[Tensor, "n_kv_heads d_head d_model"]:
        """The key projection, before norm and rotation. Groups of n_heads / n_kv_heads neighbouring heads share the
        same keys, and the same values."""
        return self._weight(model, layer, "key")

    def b_K(self, model: nn.Module, layer: int) -> Float[Tensor, "n_kv_heads d_head"] | None:
        """The key biases of each head, or None."""
        return self._bias(model, layer, "key")

    def W_V(self, model: nn.Module, layer: int) -> Float[Tensor, "n_kv_heads d_head d_model"]:
        """The value projection of each head."""
        return self._weight(model, layer, "value")

    def b_V(self, model: nn.Module, layer: int) -> Float[Tensor, "n_kv_heads d_head"] | None:
        """The value biases of each head, or None."""
        return self._bias(model, layer, "value")

    def W_O(self, model: nn.Module, layer: int) -> Float[Tensor, "n_heads d_model d_head"]:
        """The projection of each head's mixed values to the residual stream (or to the norm before it)."""
        weight = _parameter(self._projection(model, layer, self.output), "weight")
        weight = weight.T if self.transposed else weight
        return weight.unflatten(1, (self.n_heads(model), -1)).transpose(0, 1)

    def b_O(self, model: nn.Module, layer: int) -> Float[Tensor, " d_model"] | None:
        """The bias of the attention's output, or None."""
        return _optional_parameter(self._projection(model, layer, self.output), "bias")

    def n_heads(self, model: nn.Module) -> int:
        """Number of attention heads in a layer."""
        return attrgetter("config.num_attention_heads")(model)

    def parallel(self, model: nn.Module) -> bool:
        """Whether attention and MLP both read the block's input; `resid_mid` then is that input."""
        by_setting = self.parallel_setting is not None and attrgetter(f"config.{self.parallel_setting}")(model)
        return self.always_parallel or by_setting

    def norm(self, module: nn.Module) -> Norm:
        """The parameters of one of the family's norm modules."""
        weight, bias = _parameter(module, "weight").float(), _optional_parameter(module, "bias")
        return Norm(
            weight=1 + weight if self.unit_offset else weight,
            bias=None if bias is None else bias.float(),
            eps=getattr(module, "eps", None) or attrgetter("variance_epsilon")(module),
            centred=self.centred,
        )

    def no_norm(self, model: nn.Module) -> Norm:
        """The norm used where the residual stream is read without one: it changes nothing."""
        return Norm(torch.ones_like(self.unembedding_norm(model).weight), None, 0.0, centred=False, divides=False)

    def read_norm(self, model: nn.Module, layer: int) -> Norm:
        """The norm through which the MLP of `layer` reads the residual stream."""
        if self.mlp_norm is None:
            return self.no_norm(model)
        return self.norm(self.module(self.block_modules(model)[layer], self.mlp_norm))

    def write_norm(self, model: nn.Module, layer: int) -> Norm | None:
        """The norm through which the MLP of `layer` writes to the residual stream, or None."""
        if self.mlp_output_norm is None:
            return None
        return self.norm(self.module(self.block_modules(model)[layer], self.mlp_output_norm))

    def attention_read_norm(self, model: nn.Module, layer: int) -> Norm:
        """The norm through which the attention of `layer` reads the residual stream."""
        if self.attention_norm is None:
            return self.no_norm(model)
        return self.norm(self.module(self.block_modules(model)[layer], self.attention_norm))

    def attention_write_norm(self, model: nn.Module, layer: int) -> Norm | None:
        """The norm through which the attention of `layer` writes to the residual stream, or None."""
        if self.attention_output_norm is None:
            return None
        return self.norm(self.module(self.block_modules(model)[layer], self.attention_output_norm))

    def query_key_norms(self, model: nn.Module, layer: int) -> tuple[Norm | None, Norm | None]:
        """The norms of queries and keys, or None: over d_head, or over all heads' numbers together."""
        attention = self.module(self.block_modules(model)[layer], self.attention)
        names = (self.query_norm, self.key_norm)
        query, key = (None if name is None else self.norm(self.module(attention, name)) for name in names)
        return query, key

    def attention_scaling(self, model: nn.Module, layer: int) -> float:
        """The factor of the product of query and key (before a soft cap, where there is one)."""
        attention = self.module(self.block_modules(model)[layer], self.attention)
        if self.score_divisor is not None:
            return 1 / float(attrgetter(self.score_divisor)(attention))
        return float(attrgetter("scaling")(attention))

    def rotation(
        self, attention: nn.Module, given: object, n_pos: int
    ) -> tuple[Float[Tensor, "rows n_pos d_rotated"], Float[Tensor, "rows n_pos d_rotated"]] | None:
        """Cosines and sines for each number of queries and keys at the first positions, from what the attention was
        `given` as `position_embeddings`; None where it rotates nothing."""
        tables = given if isinstance(given, tuple) else ()
        if self.rotation_table is not None:
            tables = attrgetter(self.rotation_table)(attention)[None, :n_pos].chunk(2, -1)[::-1]
        if not tables:
            return None
        if self.half_tables:
            twice = (lambda x: x.repeat_interleave(2, -1)) if self.rotated == "pairs" else (lambda x: x.repeat(1, 1, 2))
            tables = tuple(map(twice, tables))
        return tables[0].float(), tables[1].float()

    def unembedding_norm(self, model: nn.Module) -> Norm:
        """The final norm, between the residual stream and the logits."""
        return self.norm(attrgetter(self.final_norm)(model))

    def _projection(self, model: nn.Module, layer: int, path: str) -> nn.Module:
        return self.module(self.block_modules(model)[layer], f"{self.attention}.{path}")

    def _weight(self, model: nn.Module, layer: int, part: Part) -> Float[Tensor, "n d_head d_model"]:
        weight = _parameter(self._projection(model, layer, getattr(self, part)), "weight")
        return self._part(model, layer, part, weight.T if self.transposed else weight)

    def _bias(self, model: nn.Module, layer: int, part: Part) -> Float[Tensor, "n d_head"] | None:
        bias = _optional_parameter(self._projection(model, layer, getattr(self, part)), "bias")
        return None if bias is None else self._part(model, layer, part, bias)

    def _part(
        self, model: nn.Module, layer: int, part: Part, rows: Float[Tensor, "outputs *rest"]
    ) -> Float[Tensor, "n d_head *rest"]:
        """The queries, keys or values among the outputs of a joint projection, by head."""
        if self.layout == "qkv":
            n_queries = self.n_heads(model) * self.W_O(model, layer).shape[2]
            n_keys = (len(rows) - n_queries) // 2
            rows = rows.split([n_queries, n_keys, n_keys])[PARTS.index(part)]
        elif self.layout == "qkv of each head":
            return rows.unflatten(0, (self.n_heads(model), 3, -1))[:, PARTS.index(part)]
        return rows.unflatten(0, (-1, self.W_O(model, layer).shape[2]))


def _parameter(module: nn.Module, name: str) -> Tensor:
    return module.get_parameter(name).detach()


def _optional_parameter(module: nn.Module, name: str) -> Tensor | None:
    """A parameter that some modules of the same kind lack: its attribute is then None or missing."""
    return None if getattr(module, name, None) is None else _parameter(module, name)
