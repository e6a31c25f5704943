"""Llamascopium's folders (Llama Scope 2): `config.json` and `sae_weights.safetensors`, one folder for each layer."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from interp.transcoder import Transcoder
from storage.formats.autoencoders import refuse_autoencoder
from storage.formats.folder import (
    Shape,
    TranscoderFolder,
    expect_number,
    expect_setting,
    expect_tensors,
    matrix_shape,
    one_per_layer,
    read_settings,
    read_tensors,
    tensor_shapes,
)
from storage.formats.hooks import HookNames, layer_and_name

WEIGHTS = "sae_weights.safetensors"
THRESHOLD = "activation_function.log_jumprelu_threshold"
NORM = "dataset_average_activation_norm."
ACTIVATIONS = ("relu", "jumprelu", "topk")


class Layer(NamedTuple):
    """A folder of a release: its weights and settings."""

    file: Path
    settings: Path
    config: dict[str, object]
    layer: int
    places: tuple[str, str]


def open_llamascopium(path: Path, names: HookNames) -> TranscoderFolder:
    """Open transcoders saved by Llamascopium (OpenMOSS), a folder for each layer.

    The release divides inputs and outputs by their average norms (`norm_activation: dataset-wise`), and applies the
    threshold or TopK to activations times the norm of their decoder rows (`sparsity_include_decoder_norm`). Both are
    folded into the weights: an activation here is the release's times that norm, and what the features write is the
    same.

    Raises:
        ValueError: it is an autoencoder, a setting is missing or not supported, or layers are missing.
    """
    layers = [_open(file) for file in path.glob(f"**/{WEIGHTS}") if file.with_name("config.json").is_file()]
    by_file = {found.file: found for found in layers}
    numbered = [(found.layer, found.file) for found in layers]
    files = one_per_layer(path, numbered, f"…/{WEIGHTS} of layer {{}}", names.only)
    chosen = {layer: by_file[file] for layer, file in files.items()}
    first = next(iter(chosen.values()))
    for found in chosen.values():
        if found.places != first.places:
            raise ValueError(f"{found.settings}: reads {found.places}; layer {first.layer} reads {first.places}")
    return TranscoderFolder(
        path=path,
        format="Llamascopium",
        hooks=names.hooks(first.settings, *first.places, norm_folded=False),
        layers=tuple(chosen),
        files=(*(found.settings for found in chosen.values()), *files.values()),
        shape=lambda layer: _shape(chosen[layer]),
        read=lambda layer: _read(chosen[layer]),
        folded=("norms of inputs, outputs and decoder rows, by which the release scales, into the weights",),
    )


def _open(file: Path) -> Layer:
    settings = file.with_name("config.json")
    config = read_settings(settings)
    expect_setting(settings, config, "sae_type", "sae")
    hooks = [layer_and_name(str(config.get(name))) for name in ("hook_point_in", "hook_point_out")]
    (layer, read), (at, written) = hooks
    if (layer, read) == (at, written):
        refuse_autoencoder(
            settings, f"hook_point_in and hook_point_out are both {str(config.get('hook_point_in'))[:80]}"
        )
    if layer is None or layer != at:
        raise ValueError(
            f"{settings}: hook_point_in and hook_point_out are of layers {layer} and {at}; expected one layer"
        )
    expect_setting(settings, config, "act_fn", *ACTIVATIONS)
    expect_setting(settings, config, "norm_activation", "dataset-wise", "inference")
    expect_setting(settings, config, "sparsity_include_decoder_norm", True, False)
    expect_setting(settings, config, "use_decoder_bias", True, False)
    expect_setting(settings, config, "use_glu_encoder", False, None)
    return Layer(file, settings, config, layer, (read, written))


def _norms(found: Layer) -> list[str]:
    """Names of the average norms of input and output, if the release scales by them."""
    if found.config["norm_activation"] == "inference":
        return []
    return [f"{NORM}{found.config[name]}" for name in ("hook_point_in", "hook_point_out")]


def _shape(found: Layer) -> tuple[int, int]:
    shapes = tensor_shapes(found.file)
    d_transcoder, d_model = matrix_shape(found.file, shapes, "W_D")
    expected: dict[str, Shape] = {
        "W_E": (d_model, d_transcoder),
        "W_D": (d_transcoder, d_model),
        "b_E": (d_transcoder,),
    }
    if found.config["use_decoder_bias"]:
        expected["b_D"] = (d_model,)
    if found.config["act_fn"] == "jumprelu":
        expected[THRESHOLD] = (d_transcoder,)
    norms: dict[str, Shape] = dict.fromkeys(_norms(found), ())
    expect_tensors(found.file, {name: shapes[name] for name in shapes if not name.startswith(NORM)}, expected)
    expect_tensors(found.file, {name: shapes[name] for name in shapes if name in norms}, norms)
    if expect_number(found.settings, found.config, "d_model") != d_model:
        raise ValueError(f"{found.settings}: d_model is {found.config['d_model']}; expected {d_model}, as W_D has it")
    if found.config["act_fn"] == "topk" and expect_number(found.settings, found.config, "top_k") > d_transcoder:
        raise ValueError(f"{found.settings}: top_k is {found.config['top_k']}; expected at most {d_transcoder}")
    return d_transcoder, d_model


def _read(found: Layer) -> Transcoder:
    _, d_model = _shape(found)
    norms = _norms(found)
    tensors = read_tensors(found.file, [name for name in tensor_shapes(found.file) if not name.startswith(NORM)])
    scales = read_tensors(found.file, norms)
    into, out = (_scale(found, scales[name], d_model) for name in norms) if norms else (1.0, 1.0)
    W_dec = tensors["W_D"].float()
    size = W_dec.norm(dim=1) if found.config["sparsity_include_decoder_norm"] else torch.ones(W_dec.shape[0])
    b_dec = tensors["b_D"].float() if "b_D" in tensors else torch.zeros(d_model)
    is_topk, log_threshold = found.config["act_fn"] == "topk", tensors.get(THRESHOLD)
    return Transcoder(
        W_enc=(tensors["W_E"].float() * (size * into)).T.contiguous(),
        b_enc=tensors["b_E"].float() * size,
        W_dec=W_dec / (torch.where(size > 0, size, 1.0) * out)[:, None],
        b_dec=b_dec / out,
        activation="topk" if is_topk else "relu" if log_threshold is None else "jumprelu",
        k=expect_number(found.settings, found.config, "top_k") if is_topk else None,
        threshold=None if log_threshold is None else log_threshold.float().exp(),
    )


def _scale(found: Layer, norm: Tensor, d_model: int) -> float:
    """The factor that turns activations of this average norm into activations with norm √width."""
    if not float(norm) > 0:
        raise ValueError(f"{found.file}: an average norm is {float(norm)}; expected more than 0")
    return math.sqrt(d_model) / float(norm)
