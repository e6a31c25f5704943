"""What a family says of its models, held against what the models do."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from interp.capture import HookedModel, Hooks, capture, vectors_of
from interp.families import FAMILIES, Family, Norm, family_of
from interp.families.agreement import disagreement
from tests.tiny_models import CONFIGS, D_MODEL, EPS, N_LAYERS, tiny_model

TOKENS = torch.arange(30).view(3, 10) + 7
LAYERS = range(N_LAYERS)
MODELS = Path(__file__).parents[2] / "docs" / "guides" / "models.md"


class Run(NamedTuple):
    """A model that has read `TOKENS`, and what its blocks, attentions and MLPs took in and gave."""

    model: Any
    family: Family
    streams: list[Tensor]
    """The residual stream before the first block and after every block."""
    attention: list[Tensor]
    mlp: list[Tensor]
    patterns: list[Tensor]
    logits: Tensor


@pytest.fixture(scope="module", params=CONFIGS)
def run(request: pytest.FixtureRequest) -> Run:
    model = tiny_model(request.param, attn_implementation="eager")
    family = family_of(CONFIGS[request.param].model_type)
    streams, attention, mlp = [], [], []
    blocks = family.block_modules(model)
    handles = [blocks[0].register_forward_pre_hook(lambda _, args: streams.append(args[0]))]
    for block in blocks:
        at, mlp_at = block.get_submodule(family.attention), block.get_submodule(family.mlp)
        handles.append(block.register_forward_hook(lambda _, _args, output: streams.append(vectors_of(output))))
        handles.append(at.register_forward_hook(lambda _, _args, output: attention.append(output[0])))
        handles.append(mlp_at.register_forward_hook(lambda _, _args, output: mlp.append(vectors_of(output))))
    with torch.no_grad():
        output = model(TOKENS, output_attentions=True, use_cache=False)
    for handle in handles:
        handle.remove()
    return Run(model, family, streams, attention, mlp, output.attentions, output.logits)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def applied(norm: Norm | None, x: Tensor) -> Tensor:
    if norm is None:
        return x
    return norm.normalize(x) * norm.weight + (0 if norm.bias is None else norm.bias)


def embedded(run: Run) -> Tensor:
    positions = run.family.W_pos(run.model)
    return run.family.W_E(run.model)[TOKENS] + (0 if positions is None else positions[: TOKENS.shape[1]])


def written(run: Run, layer: int) -> tuple[Tensor, Tensor]:
    """What attention and MLP of a layer add to the residual stream."""
    return (
        applied(run.family.attention_write_norm(run.model, layer), run.attention[layer]),
        applied(run.family.write_norm(run.model, layer), run.mlp[layer]),
    )


class TestEveryFamily:
    """The contract by which the platform reads a model."""

    def test_the_residual_stream_is_the_sum_of_what_is_written_to_it(self, run: Run) -> None:
        stream = embedded(run)
        close(run.streams[0], stream)
        for layer in LAYERS:
            stream = stream + sum(written(run, layer))
            close(run.streams[layer + 1], stream)

    def test_the_embedding_scale_is_what_the_model_applies(self, run: Run) -> None:
        weight = run.model.get_input_embeddings().weight
        scale = run.family.embedding_scale(run.model)
        assert scale == (D_MODEL**0.5 if run.family.model_type.startswith("gemma") else 1)
        close(run.model.get_input_embeddings()(TOKENS), weight[TOKENS] * scale)

    def test_the_last_stream_gives_the_logits(self, run: Run) -> None:
        final = applied(run.family.unembedding_norm(run.model), run.streams[-1])
        close(run.logits, run.family.logits(run.model, final))

    @pytest.mark.parametrize("layer", LAYERS)
    def test_attention_is_the_sum_of_its_heads(self, run: Run, layer: int) -> None:
        model, family = run.model, run.family
        W_V, b_V = family.W_V(model, layer), family.b_V(model, layer)
        W_O, b_O = family.W_O(model, layer), family.b_O(model, layer)
        assert len(W_O) == family.n_heads(model) == run.patterns[layer].shape[1]
        x = applied(family.attention_read_norm(model, layer), run.streams[layer])
        total = torch.zeros_like(x) if b_O is None else b_O.expand_as(x)
        for head in range(len(W_O)):
            group = head // (len(W_O) // len(W_V))
            values = x @ W_V[group].T + (0 if b_V is None else b_V[group])
            total = total + run.patterns[layer][:, head] @ values @ W_O[head].T
        close(run.attention[layer], total)

    def test_the_mlp_reads_the_stream_where_the_family_says(self, run: Run) -> None:
        for layer in LAYERS:
            attention, _ = written(run, layer)
            before_mlp = run.streams[layer] + (0 if run.family.parallel(run.model) else attention)
            norm = run.family.read_norm(run.model, layer)
            found = {
                point: capture(HookedModel(run.model, run.family, Hooks(point, "mlp_out")), TOKENS, [layer])[layer]
                for point in ("resid_mid", "mlp_in_normalized", "mlp_in")
            }
            close(found["resid_mid"].x, before_mlp)
            close(found["mlp_in_normalized"].x, norm.normalize(before_mlp))
            close(found["mlp_in"].x, applied(norm, before_mlp))
            close(found["mlp_in"].y, run.mlp[layer])

    def test_the_mlp_writes_through_its_norm_where_there_is_one(self, run: Run) -> None:
        hooks = Hooks("mlp_in", "mlp_out_normed")
        if run.family.mlp_output_norm is None:
            with pytest.raises(ValueError, match=f"{run.family.model_type} has no norm after its MLP"):
                capture(HookedModel(run.model, run.family, hooks), TOKENS, [0])
            return
        for layer, streams in capture(HookedModel(run.model, run.family, hooks), TOKENS, LAYERS).items():
            _, mlp = written(run, layer)
            close(streams.y, mlp)
            assert not torch.allclose(streams.y, run.mlp[layer], rtol=0.1)

    def test_norms_do_what_their_modules_do(self, run: Run) -> None:
        model, family = run.model, run.family
        block = family.block_modules(model)[1]
        norms: dict[nn.Module, Norm | None] = {model.get_submodule(family.final_norm): family.unembedding_norm(model)}
        if family.attention_norm is not None and family.mlp_norm is not None:
            norms[block.get_submodule(family.attention_norm)] = family.attention_read_norm(model, 1)
            norms[block.get_submodule(family.mlp_norm)] = family.read_norm(model, 1)
        if family.attention_output_norm is not None and family.mlp_output_norm is not None:
            norms[block.get_submodule(family.attention_output_norm)] = family.attention_write_norm(model, 1)
            norms[block.get_submodule(family.mlp_output_norm)] = family.write_norm(model, 1)
        x = torch.randn(5, D_MODEL) * 0.1
        for module, norm in norms.items():
            assert norm is not None
            assert norm.eps == EPS
            close(module(x), applied(norm, x))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_agrees_with_the_model(name: str) -> None:
    assert disagreement(tiny_model(name), family_of(CONFIGS[name].model_type)) is None


def scaled(module: nn.Module, by: float) -> None:
    module.register_forward_hook(
        lambda _m, _a, output: (output[0] * by, *output[1:]) if isinstance(output, tuple) else output * by
    )


WRONG = {
    "not the embedding": lambda model: scaled(model.model.embed_tokens, 2),
    "layer 1: the attention is not the sum of its heads": lambda model: scaled(model.model.layers[1].self_attn, 2),
    "layer 0: the MLP reads something else": lambda model: scaled(model.model.layers[0].post_attention_layernorm, 1.1),
    "layer 2: attention and MLP are not all that is added": lambda model: scaled(model.model.layers[2], 1.01),
    "the logits are not the unembedding": lambda model: scaled(model.lm_head, 0.5),
}
"""What models of other families do that have the same modules."""


@pytest.mark.parametrize("problem", WRONG)
def test_a_table_that_does_not_say_what_the_model_computes(problem: str) -> None:
    model = tiny_model("llama")
    WRONG[problem](model)
    assert problem in str(disagreement(model, FAMILIES["llama"]))


def test_a_table_of_other_norms() -> None:
    model = tiny_model("gemma2")
    assert disagreement(model, replace(FAMILIES["gemma2"], unit_offset=False)) is not None
    assert disagreement(model, replace(FAMILIES["gemma2"], mlp_output_norm=None)) is not None


def test_every_family_is_tested() -> None:
    assert {config.model_type for config in CONFIGS.values()} == set(FAMILIES)


def test_the_documentation_names_every_family() -> None:
    sentence = re.search(r"Supported models.*?\.\n", MODELS.read_text(encoding="utf-8"), re.DOTALL)
    assert sentence is not None
    assert set(re.findall(r"`(\w+)`", sentence[0])) - {"model_type"} == set(FAMILIES)
