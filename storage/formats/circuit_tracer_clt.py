"""circuit-tracer's cross-layer transcoders: `config.yaml`, `W_enc_N.safetensors` and `W_dec_N.safetensors`."""

import re
from pathlib import Path

import torch

from interp.families import family_of
from interp.transcoder import Transcoder
from storage.formats.circuit_tracer import config_hooks, read_config
from storage.formats.folder import (
    TranscoderFolder,
    expect_setting,
    expect_tensors,
    matrix_shape,
    one_per_layer,
    read_column,
    read_tensors,
    tensor_shapes,
    whole_only,
)
from storage.formats.hooks import HookNames


def open_circuit_tracer_clt(path: Path, names: HookNames) -> TranscoderFolder:
    """Open a cross-layer transcoder: the features of a layer write to its MLP's output and to those of layers above.

    Raises:
        ValueError: a setting is missing or unknown, or layers are missing.
    """
    config_path, config = read_config(path)
    expect_setting(config_path, config, "model_kind", "cross_layer_transcoder")
    whole_only(path, names.only)
    encoders, decoders = (_files(path, name) for name in ("W_enc", "W_dec"))
    n_layers = len(encoders)
    if len(decoders) != n_layers:
        raise ValueError(f"{path}: {n_layers} files W_enc_N.safetensors, {len(decoders)} W_dec_N.safetensors")
    hooks = config_hooks(names, config_path, config)
    if hooks.feature_output == "mlp_out" and family_of(names.model_type).mlp_output_norm is not None:
        raise ValueError(
            f"{config_path}: a cross-layer transcoder that replaces mlp_out in a {names.model_type} model, whose "
            "layers normalise their MLP's output; expected mlp_out_normed (hook_mlp_out)"
        )
    return TranscoderFolder(
        path=path,
        format="circuit-tracer CLT",
        hooks=hooks,
        layers=tuple(encoders),
        files=(config_path, *encoders.values(), *decoders.values()),
        shape=lambda layer: _shape(encoders[layer], decoders[layer], layer, n_layers),
        read=lambda layer: _read(encoders[layer], decoders[layer], layer, n_layers),
        below=lambda layer: {
            source: _contribution(encoders[source], decoders[source], source, layer, n_layers)
            for source in range(layer)
        },
    )


def _files(path: Path, name: str) -> dict[int, Path]:
    numbered = []
    for file in path.glob(f"{name}_*.safetensors"):
        match = re.fullmatch(rf"{name}_([0-9]{{1,6}})\.safetensors", file.name)
        if match is None:
            raise ValueError(f"{file}: expected a name like {name}_0.safetensors")
        numbered.append((int(match[1]), file))
    return one_per_layer(path, numbered, name + "_{}.safetensors")


def _shape(encoder: Path, decoder: Path, layer: int, n_layers: int) -> tuple[int, int]:
    shapes = tensor_shapes(encoder)
    d_transcoder, d_model = matrix_shape(encoder, shapes, f"W_enc_{layer}")
    features = (d_transcoder,)
    expected = {f"W_enc_{layer}": (d_transcoder, d_model), f"b_enc_{layer}": features, f"b_dec_{layer}": (d_model,)}
    expect_tensors(encoder, shapes, expected, {f"threshold_{layer}": features})
    expect_tensors(decoder, tensor_shapes(decoder), {f"W_dec_{layer}": (d_transcoder, n_layers - layer, d_model)})
    return d_transcoder, d_model


def _encoder(encoder: Path, layer: int) -> dict[str, torch.Tensor]:
    """The tensors of a `W_enc_N.safetensors`, with the layer removed from their names."""
    tensors = read_tensors(encoder, sorted(tensor_shapes(encoder)))
    return {name.removesuffix(f"_{layer}"): tensor for name, tensor in tensors.items()}


def _read(encoder: Path, decoder: Path, layer: int, n_layers: int) -> Transcoder:
    _shape(encoder, decoder, layer, n_layers)
    tensors = _encoder(encoder, layer)
    W_dec = read_tensors(decoder, [f"W_dec_{layer}"])[f"W_dec_{layer}"]
    return Transcoder(
        W_enc=tensors["W_enc"],
        b_enc=tensors["b_enc"],
        W_dec=W_dec[:, 0].contiguous(),
        b_dec=tensors["b_dec"],
        activation="jumprelu" if "threshold" in tensors else "relu",
        threshold=tensors.get("threshold"),
        W_dec_later=W_dec[:, 1:].contiguous() if n_layers - layer > 1 else None,
    )


def _contribution(encoder: Path, decoder: Path, source: int, layer: int, n_layers: int) -> Transcoder:
    """What the features of `source` write to the output of the MLP of `layer`, as a transcoder without a bias."""
    _shape(encoder, decoder, source, n_layers)
    tensors = _encoder(encoder, source)
    return Transcoder(
        W_enc=tensors["W_enc"],
        b_enc=tensors["b_enc"],
        W_dec=read_column(decoder, f"W_dec_{source}", layer - source),
        b_dec=torch.zeros_like(tensors["b_dec"]),
        activation="jumprelu" if "threshold" in tensors else "relu",
        threshold=tensors.get("threshold"),
    )
