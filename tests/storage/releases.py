"""A small release in every transcoder format, written as the format has it, and the forward pass it publishes.

Weights are drawn as the format stores them. The forward passes are written from the formats' own descriptions, with
nothing of this project, and take the inputs of all layers, of which a cross-layer transcoder needs several.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from interp.capture import Hooks

D_MODEL, D_TRANSCODER, N_LAYERS, K = 6, 20, 12, 4
"""More than ten layers, so that layer_10 comes before layer_2 by name."""

Weights = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Release:
    """One way to publish transcoders."""

    format: str
    model_type: str
    hooks: Hooks
    weights: Callable[[], Weights]
    write: Callable[[Path, Weights], None]
    forward: Callable[[Weights, Tensor, int], tuple[Tensor, Tensor]]
    """(activations, reconstruction) of a layer, from the inputs (layer, n, d_model) of all."""
    oracle: str | None = None
    """How tests/oracles/format_forward.py reads it, where a library does."""
    has_skip: bool = False
    subtracts: bool = False
    folds: bool = False
    """Whether anything else than what is subtracted is folded into the weights."""


def draw(*, names: dict[str, tuple[int, ...]]) -> Callable[[], Weights]:
    """Random weights for every layer; thresholds are positive."""

    def weights() -> Weights:
        generator = torch.Generator().manual_seed(0)
        return [
            {
                name: torch.rand(shape, generator=generator) / 2
                if "threshold" in name
                else torch.randn(shape, generator=generator) / 2
                for name, shape in names.items()
            }
            for _ in range(N_LAYERS)
        ]

    return weights


F, D = D_TRANSCODER, D_MODEL
HOUSE = {"W_enc": (F, D), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
TURNED = {**HOUSE, "W_enc": (D, F)}


def write_circuit_tracer(folder: Path, weights: Weights, **settings: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for layer, tensors in enumerate(weights):
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    config = {"model_kind": "transcoder_set", "model_name": "m", "feature_input_hook": "mlp.hook_in"}
    config |= {"feature_output_hook": "mlp.hook_out", "scan": "s", **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def write_top_k(folder: Path, weights: Weights) -> None:
    write_circuit_tracer(folder, weights, activation="topk", k=K)


def circuit_tracer_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    w, x = weights[layer], xs[layer]
    pre = x @ w["W_enc"].T + w["b_enc"]
    threshold = w.get("activation_function.threshold")
    a = pre.relu() if threshold is None else pre * (pre > threshold)
    y = a @ w["W_dec"] + w["b_dec"]
    return a, y + x @ w["W_skip"].T if "W_skip" in w else y


def turned_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    return circuit_tracer_forward([{**w, "W_enc": w["W_enc"].T} for w in weights], xs, layer)


def top_k_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    w = weights[layer]
    pre = xs[layer] @ w["W_enc"].T + w["b_enc"]
    a = pre * (pre >= pre.sort(1, descending=True).values[:, K - 1 : K]) * (pre > 0)
    return a, a @ w["W_dec"] + w["b_dec"]


def write_gemma_scope(folder: Path, weights: Weights) -> None:
    for layer, tensors in enumerate(weights):
        place = folder / f"layer_{layer}" / "width_16k" / f"average_l0_{60 + layer}"
        place.mkdir(parents=True)
        np.savez(place / "params.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})  # pyright: ignore


def write_listed(folder: Path, weights: Weights) -> None:
    """A config.yaml that names Gemma Scope's files on the Hub, beside other choices for the same layers."""
    write_gemma_scope(folder, weights)
    listed = [path.relative_to(folder).as_posix() for path in folder.glob("layer_*/*/*/params.npz")]
    listed = sorted(listed, key=lambda name: int(name.split("/")[0].removeprefix("layer_")))
    for layer in range(N_LAYERS):
        other = folder / f"layer_{layer}" / "width_16k" / "average_l0_5"
        other.mkdir()
        (other / "params.npz").write_bytes(b"another choice")
    config = {"model_kind": "transcoder_set", "feature_input_hook": "ln2.hook_normalized"}
    config |= {"feature_output_hook": "hook_mlp_out", "transcoders": [f"hf://google/scope/{name}" for name in listed]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def gemma_scope_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    w = weights[layer]
    pre = xs[layer] @ w["W_enc"] + w["b_enc"]
    a = (pre > w["threshold"]) * pre.relu()
    return a, a @ w["W_dec"] + w["b_dec"]


def write_gemma_scope_2(folder: Path, weights: Weights) -> None:
    for layer, tensors in enumerate(weights):
        affine = "affine_skip_connection" in tensors
        place = folder / "transcoder_all" / f"layer_{layer}_width_16k_l0_small{'_affine' * affine}"
        place.mkdir(parents=True)
        save_file(tensors, place / "params.safetensors")
        config = {
            "hf_hook_point_in": f"model.layers.{layer}.pre_feedforward_layernorm.output",
            "hf_hook_point_out": f"model.layers.{layer}.post_feedforward_layernorm.output",
            "width": F, "model_name": "google/gemma-3-1b-pt", "architecture": "jump_relu", "l0": 20,
            "affine_connection": affine, "type": "transcoder",
        }  # fmt: skip
        (place / "config.json").write_text(json.dumps(config))


def gemma_scope_2_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    w, x = weights[layer], xs[layer]
    pre = x @ w["w_enc"] + w["b_enc"]
    a = (pre > w["threshold"]) * pre.relu()
    y = a @ w["w_dec"] + w["b_dec"]
    return a, y + x @ w["affine_skip_connection"] if "affine_skip_connection" in w else y


class Settings:
    """What Dunefsky et al.'s code pickles with the weights; named and placed as theirs is while pickled."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def write_dunefsky(folder: Path, weights: Weights) -> None:
    folder.mkdir(parents=True)
    for layer, tensors in enumerate(weights):
        hook = f"blocks.{layer}.ln2.hook_normalized"
        cfg = Settings(
            hook_point=hook, hook_point_layer=layer, out_hook_point=f"blocks.{layer}.hook_mlp_out", is_transcoder=True,
            d_in=D, d_sae=F, lr=4e-4, device=torch.device("cpu"), dtype=torch.float32, feature_sampling_method=None,
        )  # fmt: skip
        save_foreign({"cfg": cfg, "state_dict": tensors}, folder / dunefsky_name(layer))
        torch.save(torch.zeros(F), folder / dunefsky_name(layer).replace(".pt", "_log_feature_sparsity.pt"))


def dunefsky_name(layer: int) -> str:
    return f"final_sparse_autoencoder_gpt2-small_blocks.{layer}.ln2.hook_normalized_24576.pt"


def save_foreign(content: Any, path: Path) -> None:
    """torch.save, with `Settings` as a class of a package that only the saving process has."""
    module = ModuleType("sae_training.config")
    package = ModuleType("sae_training")
    module.LanguageModelSAERunnerConfig = Settings  # pyright: ignore
    Settings.__module__, Settings.__qualname__ = "sae_training.config", "LanguageModelSAERunnerConfig"
    sys.modules |= {"sae_training": package, "sae_training.config": module}
    try:
        torch.save(content, path)
    finally:
        del sys.modules["sae_training.config"], sys.modules["sae_training"]


def dunefsky_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    w = weights[layer]
    a = ((xs[layer] - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    return a, a @ w["W_dec"] + w["b_dec_out"]


def write_sae_lens(folder: Path, weights: Weights, **changes: Any) -> None:
    for layer, tensors in enumerate(weights):
        architecture = "jumprelu_" * ("threshold" in tensors) + "skip_" * ("W_skip" in tensors) + "transcoder"
        place = folder / f"blocks.{layer}"
        place.mkdir(parents=True)
        save_file(tensors, place / "sae_weights.safetensors")
        metadata = {
            "sae_lens_version": "6.54.12", "model_name": "m", "hook_name": f"blocks.{layer}.mlp.hook_in",
            "hook_name_out": f"blocks.{layer}.hook_mlp_out", "prepend_bos": True,
        }  # fmt: skip
        config = {
            "d_in": D, "d_sae": F, "d_out": D, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": False,
            "normalize_activations": "none", "reshape_activations": "none", "metadata": metadata,
            "architecture": architecture, **changes,
        }  # fmt: skip
        (place / "cfg.json").write_text(json.dumps(config))


def sae_lens_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    w, x = weights[layer], xs[layer]
    pre = x @ w["W_enc"] + w["b_enc"]
    a = pre.relu() * (pre > w["threshold"]) if "threshold" in w else pre.relu()
    y = a @ w["W_dec"] + w["b_dec"]
    return a, y + x @ w["W_skip"].T if "W_skip" in w else y


def write_autoencoders(folder: Path, weights: Weights, **changes: Any) -> None:
    """As SAELens saves autoencoders of the residual stream."""
    architecture = "jumprelu" if "threshold" in weights[0] else "standard"
    given = {"architecture": architecture, "apply_b_dec_to_input": architecture == "standard", **changes}
    write_sae_lens(folder, weights, **given)
    for layer in range(len(weights)):
        path = folder / f"blocks.{layer}" / "cfg.json"
        config = json.loads(path.read_text())
        del config["d_out"]
        config["metadata"] = {"sae_lens_version": "6.54.12", "hook_name": f"blocks.{layer}.hook_resid_post"}
        path.write_text(json.dumps(config))


def write_top_k_autoencoders(folder: Path, weights: Weights) -> None:
    settings = {"architecture": "topk", "k": K, "apply_b_dec_to_input": False, "rescale_acts_by_decoder_norm": True}
    write_autoencoders(folder, weights, **settings)


def autoencoder_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    w, x = weights[layer], xs[layer]
    if "threshold" not in w:
        x = x - w["b_dec"]
    a, _ = sae_lens_forward([w], x[None], 0)
    return a, a @ w["W_dec"] + w["b_dec"]


def top_k_autoencoder_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    w, norm = weights[layer], weights[layer]["W_dec"].norm(dim=1)
    pre = (xs[layer] @ w["W_enc"] + w["b_enc"]) * norm
    top = pre.topk(K, dim=1)
    a = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    return a, a / norm @ w["W_dec"] + w["b_dec"]


def write_sparsify(folder: Path, weights: Weights, **changes: Any) -> None:
    for layer, tensors in enumerate(weights):
        place = folder / f"layers.{layer}.mlp"
        place.mkdir(parents=True)
        save_file(tensors, place / "sae.safetensors")
        config = {
            "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": F, "k": K,
            "multi_topk": False, "skip_connection": "W_skip" in tensors, "transcode": True, "d_in": D, **changes,
        }  # fmt: skip
        (place / "cfg.json").write_text(json.dumps(config))
    (folder / "config.json").write_text("{}")


def sparsify_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    w, x = weights[layer], xs[layer]
    pre = (x @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    top = pre.topk(K, dim=1)
    a = torch.zeros_like(pre).scatter(1, top.indices, top.values)
    y = a @ w["W_dec"] + w["b_dec"]
    return a, y + x @ w["W_skip"].T if "W_skip" in w else y


def write_old_sparsify(folder: Path, weights: Weights) -> None:
    """As sparsify saved it until February 2025: without saying that it is a transcoder."""
    write_sparsify(folder, weights)
    for path in folder.glob("*/cfg.json"):
        settings = json.loads(path.read_text())
        del settings["transcode"], settings["activation"]
        path.write_text(json.dumps(settings))


def old_sparsify_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    w, x = weights[layer], xs[layer]
    pre = ((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    top = pre.topk(K, dim=1)
    a = torch.zeros_like(pre).scatter(1, top.indices, top.values)
    return a, a @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T


def clt_weights(*, threshold: bool) -> Callable[[], Weights]:
    names = {**HOUSE, **({"threshold": (F,)} if threshold else {}), "later": (F, N_LAYERS, D)}

    def weights() -> Weights:
        drawn = draw(names=names)()
        for layer, tensors in enumerate(drawn):
            tensors["W_dec"] = tensors.pop("later")[:, layer:].contiguous()
        return drawn

    return weights


def write_clt(folder: Path, weights: Weights) -> None:
    folder.mkdir(parents=True)
    for layer, tensors in enumerate(weights):
        encoder = {f"{name}_{layer}": tensor for name, tensor in tensors.items() if name != "W_dec"}
        save_file(encoder, folder / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": tensors["W_dec"]}, folder / f"W_dec_{layer}.safetensors")
    config = {"model_kind": "cross_layer_transcoder", "model_name": "m", "feature_input_hook": "hook_resid_mid"}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "feature_output_hook": "hook_mlp_out"}))


def clt_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    y = weights[layer]["b_dec"].expand_as(xs[layer])
    a = torch.zeros(0)
    for source in range(layer + 1):
        w = weights[source]
        pre = xs[source] @ w["W_enc"].T + w["b_enc"]
        a = pre * (pre > w["threshold"]) if "threshold" in w else pre.relu()
        y = y + torch.einsum("nf,fd->nd", a, w["W_dec"][:, layer - source])
    return a, y


def gemma_scope_2_clt_weights(*, affine: bool) -> Callable[[], Weights]:
    names = {"w_enc": (D, F), "w_dec": (F, N_LAYERS, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
    return draw(names={**names, **({"affine_skip_connection": (D, D)} if affine else {})})


def write_gemma_scope_2_clt(folder: Path, weights: Weights) -> None:
    place = folder / "clt" / "width_262k_l0_medium"
    place.mkdir(parents=True)
    for layer, tensors in enumerate(weights):
        save_file(tensors, place / f"params_layer_{layer}.safetensors")
    hooks = {
        f"hf_hook_point_{side}": [f"model.layers.{layer}.{name}.output" for layer in range(N_LAYERS)]
        for side, name in (("in", "pre_feedforward_layernorm"), ("out", "post_feedforward_layernorm"))
    }
    (place / "config.json").write_text(json.dumps({"architecture": "jump_relu", "type": "clt", **hooks}))


def gemma_scope_2_clt_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    y = weights[layer]["b_dec"].expand_as(xs[layer])
    if "affine_skip_connection" in weights[layer]:
        y = y + xs[layer] @ weights[layer]["affine_skip_connection"]
    a = torch.zeros(0)
    for source in range(layer + 1):
        w = weights[source]
        pre = xs[source] @ w["w_enc"] + w["b_enc"]
        a = pre * (pre > w["threshold"])
        y = y + a @ w["w_dec"][:, layer]
    return a, y


def write_llamascopium(folder: Path, weights: Weights, **changes: Any) -> None:
    for layer, tensors in enumerate(weights):
        place = folder / "transcoder" / f"layer{layer}_transcoder_8x_k4"
        place.mkdir(parents=True)
        hooks = {"hook_point_in": f"blocks.{layer}.mlp.hook_in", "hook_point_out": f"blocks.{layer}.hook_mlp_out"}
        stored = {LOG_THRESHOLD if name == "threshold" else name: value for name, value in tensors.items()}
        if LOG_THRESHOLD in stored:
            stored[LOG_THRESHOLD] = stored[LOG_THRESHOLD].log()
        for side, norm in NORMS.items():
            hook = hooks[f"hook_point_{side}"]
            stored[f"dataset_average_activation_norm.{hook}"] = torch.tensor(norm)
        save_file(stored, place / "sae_weights.safetensors")
        config = {
            "sae_type": "sae", "d_model": D, "expansion_factor": F / D, "act_fn": "topk", "top_k": K,
            "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True, "use_decoder_bias": True,
            "use_glu_encoder": False, **hooks, **changes,
        }  # fmt: skip
        (place / "config.json").write_text(json.dumps(config))


NORMS = {"in": 3.0, "out": 0.7}
LOG_THRESHOLD = "activation_function.log_jumprelu_threshold"


def write_llamascopium_jumprelu(folder: Path, weights: Weights) -> None:
    write_llamascopium(folder, weights, act_fn="jumprelu")


def llamascopium_forward(weights: Weights, xs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Activations are the published ones times the norm of their decoder row."""
    w = weights[layer]
    norm = w["W_D"].norm(dim=1)
    pre = (xs[layer] * (D**0.5 / NORMS["in"]) @ w["W_E"] + w["b_E"]) * norm
    if "threshold" in w:
        gated = pre * (pre > w["threshold"])
    else:
        pre = pre.relu()
        gated = pre * (pre >= pre.sort(1, descending=True).values[:, K - 1 : K])
    return gated, (gated / norm @ w["W_D"] + w["b_D"]) / (D**0.5 / NORMS["out"])


MLP = Hooks("mlp_in", "mlp_out")
THRESHOLD = {"threshold": (F,)}
SKIP = {"W_skip": (D, D)}
CT_FULL = {**HOUSE, **SKIP, "activation_function.threshold": (F,)}
GS_2 = {"w_enc": (D, F), "w_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
SPARSIFY = {"encoder.weight": (F, D), "encoder.bias": (F,), "W_dec": (F, D), "b_dec": (D,)}
LLAMASCOPIUM = {"W_E": (D, F), "W_D": (F, D), "b_E": (F,), "b_D": (D,)}
SCOPE = Hooks("mlp_in_normalized", "mlp_out_normed")
SCOPE_2 = Hooks("mlp_in", "mlp_out_normed")
GPT2 = Hooks("mlp_in_normalized", "mlp_out")
CLT = Hooks("resid_mid", "mlp_out")
STREAM = Hooks("resid_post", "resid_post")


def _release(
    format: str, hooks: Hooks, names: dict[str, tuple[int, ...]], write: Any, forward: Any, **rest: Any
) -> Release:
    skips = any("skip" in name for name in names)
    return Release(
        format, rest.pop("model_type", "llama"), hooks, draw(names=names), write, forward, has_skip=skips, **rest
    )


RELEASES = {
    "circuit-tracer": _release(
        "circuit-tracer", MLP, CT_FULL, write_circuit_tracer, circuit_tracer_forward, oracle="circuit_tracer"
    ),
    "circuit-tracer, turned": _release("circuit-tracer", MLP, TURNED, write_circuit_tracer, turned_forward),
    "circuit-tracer, TopK": _release("circuit-tracer", MLP, HOUSE, write_top_k, top_k_forward),
    "circuit-tracer, listed": _release(
        "circuit-tracer", SCOPE, {**TURNED, **THRESHOLD}, write_listed, gemma_scope_forward, model_type="gemma2"
    ),
    "Gemma Scope": _release(
        "Gemma Scope", SCOPE, {**TURNED, **THRESHOLD}, write_gemma_scope, gemma_scope_forward, model_type="gemma2",
        oracle="gemma_scope",
    ),
    "Gemma Scope 2": _release(
        "Gemma Scope 2", SCOPE_2, GS_2, write_gemma_scope_2, gemma_scope_2_forward, model_type="gemma3_text",
        oracle="gemma_scope_2",
    ),
    "Gemma Scope 2, affine": _release(
        "Gemma Scope 2", SCOPE_2, {**GS_2, "affine_skip_connection": (D, D)}, write_gemma_scope_2,
        gemma_scope_2_forward, model_type="gemma3_text", oracle="gemma_scope_2",
    ),
    "Gemma Scope 2 CLT": Release(
        "Gemma Scope 2 CLT", "gemma3_text", SCOPE_2, gemma_scope_2_clt_weights(affine=False), write_gemma_scope_2_clt,
        gemma_scope_2_clt_forward,
    ),
    "Gemma Scope 2 CLT, affine": Release(
        "Gemma Scope 2 CLT", "gemma3_text", SCOPE_2, gemma_scope_2_clt_weights(affine=True), write_gemma_scope_2_clt,
        gemma_scope_2_clt_forward, has_skip=True,
    ),
    "Llamascopium": _release(
        "Llamascopium", MLP, LLAMASCOPIUM, write_llamascopium, llamascopium_forward, model_type="qwen3", folds=True
    ),
    "Llamascopium, JumpReLU": _release(
        "Llamascopium", MLP, {**LLAMASCOPIUM, **THRESHOLD}, write_llamascopium_jumprelu, llamascopium_forward,
        model_type="qwen3", folds=True,
    ),
    "Dunefsky": _release(
        "Dunefsky et al.", GPT2, {**TURNED, "b_dec_out": (D,)}, write_dunefsky, dunefsky_forward, model_type="gpt2",
        subtracts=True,
    ),
    "SAELens": _release("SAELens", MLP, TURNED, write_sae_lens, sae_lens_forward, oracle="sae_lens"),
    "SAELens, skip": _release(
        "SAELens", MLP, {**TURNED, **SKIP}, write_sae_lens, sae_lens_forward, oracle="sae_lens"
    ),
    "SAELens, JumpReLU": _release(
        "SAELens", MLP, {**TURNED, **THRESHOLD}, write_sae_lens, sae_lens_forward, oracle="sae_lens"
    ),
    "SAELens, JumpReLU and skip": _release(
        "SAELens", MLP, {**TURNED, **THRESHOLD, **SKIP}, write_sae_lens, sae_lens_forward, oracle="sae_lens"
    ),
    "SAELens, autoencoders": _release(
        "SAELens", STREAM, TURNED, write_autoencoders, autoencoder_forward, oracle="sae_lens", subtracts=True
    ),
    "SAELens, JumpReLU autoencoders": _release(
        "SAELens", STREAM, {**TURNED, **THRESHOLD}, write_autoencoders, autoencoder_forward, oracle="sae_lens"
    ),
    "SAELens, TopK autoencoders": _release(
        "SAELens", STREAM, TURNED, write_top_k_autoencoders, top_k_autoencoder_forward, oracle="sae_lens", folds=True
    ),
    "sparsify": _release("sparsify", MLP, SPARSIFY, write_sparsify, sparsify_forward, oracle="sparsify"),
    "sparsify, skip": _release(
        "sparsify", MLP, {**SPARSIFY, **SKIP}, write_sparsify, sparsify_forward, oracle="sparsify"
    ),
    "sparsify, before 2025-02": _release(
        "sparsify", MLP, {**SPARSIFY, **SKIP}, write_old_sparsify, old_sparsify_forward, oracle="sparsify",
        subtracts=True,
    ),
    "CLT": Release(
        "circuit-tracer CLT", "llama", CLT, clt_weights(threshold=False), write_clt, clt_forward, oracle="clt"
    ),
    "CLT, JumpReLU": Release(
        "circuit-tracer CLT", "llama", CLT, clt_weights(threshold=True), write_clt, clt_forward, oracle="clt"
    ),
}  # fmt: skip
