"""Gemma Scope 2's transcoders and autoencoders: `layer_N_width_W_l0_S[_affine]/params.safetensors`, `config.json`."""

import re
from pathlib import Path

from interp.capture import Hooks
from interp.transcoder import Transcoder
from storage.formats.folder import (
    Shape,
    TranscoderFolder,
    expect_setting,
    expect_tensors,
    matrix_shape,
    one_per_layer,
    read_settings,
    read_tensors,
    tensor_shapes,
)
from storage.formats.hooks import HookNames, layer_and_name

SKIP = "affine_skip_connection"

KINDS = ("transcoder*", "resid_post*", "mlp_out*", "attn_out*")
"""Folders of a release, one for each kind of dictionary."""


def open_gemma_scope_2(path: Path, names: HookNames) -> TranscoderFolder:
    """Open Gemma Scope 2's transcoders or autoencoders: the folder `transcoder_all` or `resid_post_all` of a release,
    or the release itself where it holds one of these.

    Each `config.json` names the modules of transformers between which its transcoder lies, or the one whose output its
    autoencoder rebuilds. The autoencoders of attention rebuild what its heads mix, vectors of another width, and are
    not read. The release has several widths and sparsities a layer, with and without a skip connection; the folder has
    to hold one of them.

    Raises:
        ValueError: a layer has none or several, or a setting does not fit.
    """
    files = one_per_layer(path, _numbered(path), "layer_{}_width_…/params.safetensors", names.only)
    hooks = [_hooks(file, layer, names) for layer, file in files.items()]
    for file, found in zip(files.values(), hooks, strict=True):
        if found != hooks[0]:
            first = f"the first layer {hooks[0][0]} for {hooks[0][1]}"
            raise ValueError(f"{file.parent}: reads {found[0]} for {found[1]}, {first}")
    settings = [file.with_name("config.json") for file in files.values()]
    return TranscoderFolder(
        path=path,
        format="Gemma Scope 2",
        hooks=hooks[0],
        layers=tuple(files),
        files=(*(file for file in settings if file.is_file()), *files.values()),
        shape=lambda layer: layer_shape(files[layer]),
        read=lambda layer: read_layer(files[layer]),
    )


def _numbered(path: Path) -> list[tuple[int, Path]]:
    numbered = []
    for pattern in ("layer_*/params.safetensors", *(f"{kind}/layer_*/params.safetensors" for kind in KINDS)):
        for file in path.glob(pattern):
            match = re.fullmatch(r"layer_([0-9]{1,6})(_.*)?", file.parent.name)
            if match is None:
                raise ValueError(f"{file.parent}: expected a name like layer_0_width_16k_l0_small")
            numbered.append((int(match[1]), file))
    return numbered


def _hooks(file: Path, layer: int, names: HookNames) -> Hooks:
    path = file.with_name("config.json")
    settings = read_settings(path) if path.is_file() else {}
    expect_setting(path, settings, "architecture", "jump_relu", None)
    expect_setting(path, settings, "type", "transcoder", "sae", None)
    has_skip = SKIP in tensor_shapes(file)
    expect_setting(path, settings, "affine_connection", has_skip, None)
    places: list[str | None] = []
    for name in ("hf_hook_point_in", "hf_hook_point_out"):
        place = settings.get(name)
        at, where = layer_and_name(place) if isinstance(place, str) else (None, None)
        if at not in (None, layer):
            raise ValueError(f"{path}: {name} is in layer {at}; expected layer {layer}, as the folder's name says")
        places.append(where)
    if settings.get("type") != "sae":
        return names.hooks(path, *places)
    if has_skip:
        raise ValueError(f"{file}: an autoencoder with {SKIP}; expected none")
    return names.autoencoder(path, places[0])


def layer_shape(file: Path) -> tuple[int, int]:
    """(d_transcoder, d_model) of a `params.safetensors`; all shapes are checked.

    Raises:
        ValueError: tensors are missing, unknown or misshaped.
    """
    shapes = tensor_shapes(file)
    if len(shapes.get("w_dec", ())) == 3:
        raise ValueError(
            f"{file}: w_dec has shape {list(shapes['w_dec'])}, a cross-layer transcoder's; expected 2 axes"
        )
    d_transcoder, d_model = matrix_shape(file, shapes, "w_dec")
    features = (d_transcoder,)
    expected: dict[str, Shape] = {"w_enc": (d_model, d_transcoder), "w_dec": (d_transcoder, d_model)}
    expected |= {"b_enc": features, "b_dec": (d_model,), "threshold": features}
    expect_tensors(file, shapes, expected, {SKIP: (d_model, d_model)})
    return d_transcoder, d_model


def read_layer(file: Path) -> Transcoder:
    """Read one layer. The file has w_enc as (d_model, d_transcoder), and a skip connection that multiplies x from the
    right: `y += x @ affine_skip_connection`."""
    layer_shape(file)
    tensors = read_tensors(file, sorted(tensor_shapes(file)))
    return Transcoder(
        W_enc=tensors["w_enc"].T.contiguous(),
        b_enc=tensors["b_enc"],
        W_dec=tensors["w_dec"],
        b_dec=tensors["b_dec"],
        activation="jumprelu",
        threshold=tensors["threshold"],
        W_skip=tensors[SKIP].T.contiguous() if SKIP in tensors else None,
    )
