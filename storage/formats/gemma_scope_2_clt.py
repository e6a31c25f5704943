"""Gemma Scope 2's cross-layer transcoders: `params_layer_N.safetensors`, one a layer, with a `config.json` beside."""

import re
from pathlib import Path

import torch

from interp.transcoder import Transcoder
from storage.formats.folder import (
    Shape,
    TranscoderFolder,
    expect_setting,
    expect_tensors,
    one_per_layer,
    read_column,
    read_settings,
    read_tensors,
    tensor_shapes,
    whole_only,
)
from storage.formats.gemma_scope_2 import SKIP
from storage.formats.hooks import HookNames, layer_and_name


def open_gemma_scope_2_clt(path: Path, names: HookNames) -> TranscoderFolder:
    """Open a folder like `clt/width_262k_l0_medium_affine`, or a release with one such folder.

    A layer's `w_dec` is (d_transcoder, n_layers, d_model). Features write to their own layer and to those above; the
    entries of lower layers are left out, as in circuit-tracer. The skip connection leads from a layer's own input to
    its own output.

    Raises:
        ValueError: a layer is missing or occurs several times, a setting does not fit, or it is a crosscoder.
    """
    whole_only(path, names.only)
    numbered = [(_layer(file), file) for file in path.glob("**/params_layer_*.safetensors")]
    files = one_per_layer(path, numbered, "params_layer_{}.safetensors")
    config_path = files[0].with_name("config.json")
    config = read_settings(config_path) if config_path.is_file() else {}
    expect_setting(config_path, config, "architecture", "jump_relu", None)
    if config.get("type") == "crosscoder" or any(part.startswith("crosscoder") for part in files[0].parts):
        raise ValueError(f"{files[0].parent}: a crosscoder, which reads several layers at once; expected transcoders")
    n_layers = len(files)
    return TranscoderFolder(
        path=path,
        format="Gemma Scope 2 CLT",
        hooks=names.hooks(config_path, *(_place(config, name) for name in ("hf_hook_point_in", "hf_hook_point_out"))),
        layers=tuple(files),
        files=(*([config_path] if config else []), *files.values()),
        shape=lambda layer: _shape(files[layer], n_layers),
        read=lambda layer: _read(files[layer], layer, n_layers),
        below=lambda layer: {source: _contribution(files[source], layer, n_layers) for source in range(layer)},
    )


def _layer(file: Path) -> int:
    match = re.fullmatch(r"params_layer_([0-9]{1,6})\.safetensors", file.name)
    if match is None:
        raise ValueError(f"{file}: expected a name like params_layer_0.safetensors")
    return int(match[1])


def _place(config: dict[str, object], name: str) -> str | None:
    """The hook that a setting names, for one layer or for each in a list; None if they differ."""
    value = config.get(name)
    named = value if isinstance(value, list) else [value]
    places = {layer_and_name(one)[1] for one in named if isinstance(one, str)}
    return places.pop() if len(places) == 1 else None


def _shape(file: Path, n_layers: int) -> tuple[int, int]:
    shapes = tensor_shapes(file)
    found = shapes.get("w_dec", ())
    if len(found) != 3:
        raise ValueError(f"{file}: w_dec has shape {list(found)}; expected [d_transcoder, {n_layers}, d_model]")
    d_transcoder, _, d_model = found
    features = (d_transcoder,)
    expected: dict[str, Shape] = {"w_enc": (d_model, d_transcoder), "w_dec": (d_transcoder, n_layers, d_model)}
    expected |= {"b_enc": features, "b_dec": (d_model,), "threshold": features}
    expect_tensors(file, shapes, expected, {SKIP: (d_model, d_model)})
    return d_transcoder, d_model


def _read(file: Path, layer: int, n_layers: int) -> Transcoder:
    own = _writing_to(file, layer, n_layers, read_tensors(file, ["b_dec"])["b_dec"])
    tensors = read_tensors(file, [SKIP]) if SKIP in tensor_shapes(file) else {}
    later = [read_column(file, "w_dec", to) for to in range(layer + 1, n_layers)]
    return Transcoder(
        W_enc=own.W_enc,
        b_enc=own.b_enc,
        W_dec=own.W_dec,
        b_dec=own.b_dec,
        activation="jumprelu",
        threshold=own.threshold,
        W_skip=tensors[SKIP].T.contiguous() if tensors else None,
        W_dec_later=torch.stack(later, dim=1) if later else None,
    )


def _contribution(file: Path, layer: int, n_layers: int) -> Transcoder:
    """What the features of a file write to the output of the MLP of `layer`, as a transcoder without a bias."""
    _, d_model = _shape(file, n_layers)
    return _writing_to(file, layer, n_layers, torch.zeros(d_model))


def _writing_to(file: Path, layer: int, n_layers: int, b_dec: torch.Tensor) -> Transcoder:
    _shape(file, n_layers)
    tensors = read_tensors(file, ["w_enc", "b_enc", "threshold"])
    return Transcoder(
        W_enc=tensors["w_enc"].T.contiguous(),
        b_enc=tensors["b_enc"],
        W_dec=read_column(file, "w_dec", layer).contiguous(),
        b_dec=b_dec.to(tensors["b_enc"].dtype),
        activation="jumprelu",
        threshold=tensors["threshold"],
    )
