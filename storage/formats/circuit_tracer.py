"""circuit-tracer's folders: `config.yaml` and one `layer_N.safetensors` a layer."""

import re
from pathlib import Path
from typing import Any

import torch
import yaml

from interp.capture import Hooks
from interp.transcoder import ActivationName, Transcoder
from storage.formats.folder import TranscoderFolder, expect_shape, read_tensors, tensor_shapes

FEATURE_INPUT_HOOKS = {
    "hook_resid_mid": "resid_mid",
    "ln2.hook_normalized": "mlp_in_normalized",
    "mlp.hook_in": "mlp_in",
    "mlp_in": "mlp_in",
}
"""TransformerLens's hook names for what a transcoder reads, and ours."""

FEATURE_OUTPUT_HOOKS = {"mlp.hook_out": "mlp_out", "hook_mlp_out": "mlp_out", "mlp_out": "mlp_out"}

THRESHOLD = "activation_function.threshold"


def open_circuit_tracer(path: Path) -> TranscoderFolder:
    """Open a folder written for circuit-tracer.

    Raises:
        ValueError: a setting is missing or unknown, or layers are missing.
    """
    config_path = path / "config.yaml"
    try:
        config = yaml.safe_load(config_path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{config_path}: not YAML ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{config_path}: expected settings by name, found {type(config).__name__}")
    hooks = Hooks(
        _known(config_path, config, "feature_input_hook", FEATURE_INPUT_HOOKS),  # pyright: ignore[reportArgumentType]
        _known(config_path, config, "feature_output_hook", FEATURE_OUTPUT_HOOKS),  # pyright: ignore[reportArgumentType]
    )
    files = _layer_files(path)
    return TranscoderFolder(
        path=path,
        format="circuit-tracer",
        hooks=hooks,
        n_layers=len(files),
        files=(config_path, *files),
        shape=lambda layer: _shape(files[layer]),
        read=lambda layer: _read(files[layer], config_path, config),
    )


def _known(path: Path, config: dict[str, Any], name: str, known: dict[str, str]) -> str:
    value = config.get(name)
    if value not in known:
        raise ValueError(f"{path}: {name} is {value!r}; expected one of {', '.join(known)}")
    return known[value]


def _layer_files(path: Path) -> list[Path]:
    numbered = {}
    for file in path.glob("layer_*.safetensors"):
        match = re.fullmatch(r"layer_(\d+)\.safetensors", file.name)
        if match is None:
            raise ValueError(f"{file}: expected a name like layer_0.safetensors")
        if int(match[1]) in numbered:
            raise ValueError(f"{file}: layer {int(match[1])} is there twice")
        numbered[int(match[1])] = file
    missing = sorted(set(range(max(numbered, default=0) + 1)) - set(numbered))
    if missing:
        raise ValueError(f"{path}: no file layer_{missing[0]}.safetensors; found layers {sorted(numbered) or 'none'}")
    return [numbered[layer] for layer in sorted(numbered)]


def _shape(file: Path) -> tuple[int, int]:
    shapes = tensor_shapes(file)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        if name not in shapes:
            raise ValueError(f"{file}: no tensor {name}; found {', '.join(sorted(shapes))}")
    if len(shapes["W_dec"]) != 2:
        raise ValueError(f"{file}: W_dec has shape {list(shapes['W_dec'])}, expected [d_transcoder, d_model]")
    d_transcoder, d_model = shapes["W_dec"]
    if shapes["W_enc"] != (d_model, d_transcoder):  # the older orientation; square ones are told apart in _read
        expect_shape(file, "W_enc", shapes["W_enc"], (d_transcoder, d_model))
    expect_shape(file, "b_enc", shapes["b_enc"], (d_transcoder,))
    expect_shape(file, "b_dec", shapes["b_dec"], (d_model,))
    if THRESHOLD in shapes and shapes[THRESHOLD] not in ((), (1,)):
        expect_shape(file, THRESHOLD, shapes[THRESHOLD], (d_transcoder,))
    if "W_skip" in shapes:
        expect_shape(file, "W_skip", shapes["W_skip"], (d_model, d_model))
    known = {"W_enc", "W_dec", "b_enc", "b_dec", "W_skip", THRESHOLD}
    if set(shapes) - known:
        raise ValueError(f"{file}: unknown tensors {sorted(set(shapes) - known)}; expected {sorted(known)}")
    return d_transcoder, d_model


def _read(file: Path, config_path: Path, config: dict[str, Any]) -> Transcoder:
    d_transcoder, d_model = _shape(file)
    tensors = read_tensors(file, sorted(tensor_shapes(file)))
    W_enc = tensors["W_enc"]
    if W_enc.shape != (d_transcoder, d_model):
        W_enc = W_enc.T.contiguous()
    threshold = tensors.get(THRESHOLD)
    activation: ActivationName = "jumprelu" if threshold is not None else "relu"
    k = None
    declared = config.get("activation")
    if declared == "topk":
        k = config.get("k")
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"{config_path}: k is {k!r}; expected a positive number for activation topk")
        activation = "topk"
    elif declared not in (None, activation):
        raise ValueError(f"{config_path}: activation is {declared!r}, but {file.name} holds a {activation}")
    if threshold is not None:
        threshold = threshold.expand(d_transcoder).contiguous()
    return Transcoder(
        W_enc=W_enc,
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        activation=activation,
        threshold=threshold,
        k=k,
        W_skip=tensors.get("W_skip"),
    )


def layer_tensors(transcoder: Transcoder) -> dict[str, torch.Tensor]:
    """The tensors of a `layer_N.safetensors` file."""
    tensors = {name: getattr(transcoder, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if transcoder.threshold is not None:
        tensors[THRESHOLD] = transcoder.threshold
    if transcoder.W_skip is not None:
        tensors["W_skip"] = transcoder.W_skip
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def folder_config(model_name: str, hooks: Hooks, activation: ActivationName, k: int | None) -> str:
    """The `config.yaml` of a folder of `layer_N.safetensors` files."""
    output = {"mlp_out": "mlp.hook_out", "mlp_out_normed": "hook_mlp_out"}[hooks.feature_output]
    inputs = {"resid_mid": "hook_resid_mid", "mlp_in": "mlp.hook_in", "mlp_in_normalized": "ln2.hook_normalized"}
    settings: dict[str, Any] = {
        "model_kind": "transcoder_set",
        "model_name": model_name,
        "feature_input_hook": inputs[hooks.feature_input],
        "feature_output_hook": output,
        "activation": activation,
    }
    if k is not None:
        settings["k"] = k
    return yaml.safe_dump(settings, sort_keys=False)
