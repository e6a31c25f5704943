"""Dunefsky et al.'s GPT-2 transcoders: one `…_blocks.N.ln2.hook_normalized_….pt` for each layer, read without running
any code in it."""

import re
from pathlib import Path

from interp.transcoder import Transcoder
from storage.foreign import shown
from storage.formats.folder import (
    SUBTRACTED,
    Shape,
    TranscoderFolder,
    bias_with_subtracted,
    check_weights,
    expect_tensors,
    matrix_shape,
    one_per_layer,
)
from storage.formats.hooks import HookNames, layer_and_name
from storage.formats.torch_zip import Inert, StoredTensor, TorchZip

SPARSITIES = "_log_feature_sparsity.pt"
"""Files that the training code writes beside each transcoder."""


def open_dunefsky(path: Path, names: HookNames) -> TranscoderFolder:
    """Open transcoders saved by the code of Dunefsky et al. (2024).

    `a = relu(W_enc (x − b_dec) + b_enc)`, `y = W_decᵀ a + b_dec_out`. The model in training had its LayerNorms folded
    and its weights centred. So `x` is the norm's output before weight and bias, and `y` is the MLP's output up to its
    mean over d_model, which every norm that reads the residual stream subtracts.

    Raises:
        ValueError: a layer is missing, or a file is not such a transcoder or would run code when loaded.
    """
    files = one_per_layer(path, _numbered(path), "…_blocks.{}.ln2.hook_normalized_….pt", names.only)
    places = [_places(file, layer) for layer, file in files.items()]
    for file, found in zip(files.values(), places, strict=True):
        if found != places[0]:
            raise ValueError(f"{file}: reads {found[0]} for {found[1]}, layer 0 {places[0][0]} for {places[0][1]}")
    return TranscoderFolder(
        path=path,
        format="Dunefsky et al.",
        hooks=names.hooks(path, *places[0], norm_folded=True),
        layers=tuple(files),
        files=tuple(files.values()),
        shape=lambda layer: _shape(files[layer]),
        read=lambda layer: _read(files[layer]),
        folded=(SUBTRACTED,),
    )


def _numbered(path: Path) -> list[tuple[int, Path]]:
    numbered = []
    for file in path.glob("*.pt"):
        match = re.fullmatch(r".*_(blocks\..+)_[0-9]+\.pt", file.name)
        layer = layer_and_name(match[1])[0] if match else None
        if layer is not None:
            numbered.append((layer, file))
        elif not file.name.endswith(SPARSITIES):
            raise ValueError(f"{file}: expected a name like …_blocks.0.ln2.hook_normalized_24576.pt")
    return numbered


def _places(file: Path, layer: int) -> tuple[str, str]:
    """Where a file's transcoder reads and writes, in TransformerLens's names without the layer."""
    settings = _content(TorchZip(file))[0]
    read = str(re.sub(r".*_(blocks\..+)_[0-9]+\.pt", r"\1", file.name))
    named = {"hook_point": read, "out_hook_point": f"blocks.{layer}.hook_mlp_out"}
    for name, expected in named.items():
        found = settings.get(name)
        if found is None:
            continue
        if not isinstance(found, str) or layer_and_name(found)[0] != layer or (name == "hook_point" and found != read):
            raise ValueError(f"{file}: cfg.{name} is {shown(found)}; expected {expected}, as the file's name says")
        named[name] = found
    if settings.get("is_transcoder") is False:
        raise ValueError(f"{file}: cfg.is_transcoder is False: an autoencoder; expected a transcoder")
    return layer_and_name(named["hook_point"])[1], layer_and_name(named["out_hook_point"])[1]


def _content(file: TorchZip) -> tuple[dict[str, object], dict[str, StoredTensor]]:
    """The settings and the tensors of a file; no weights are read."""
    whole = file.content
    cfg, tensors = (whole.get("cfg"), whole.get("state_dict")) if isinstance(whole, dict) else (None, None)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, StoredTensor) for tensor in tensors.values()):
        raise ValueError(f"{file.path}: expected `cfg` and a `state_dict` of tensors")
    if isinstance(cfg, Inert):
        cfg = cfg.state
    return cfg if isinstance(cfg, dict) else {}, tensors


def _shape(path: Path) -> tuple[int, int]:
    shapes = {name: tensor.shape for name, tensor in _content(TorchZip(path))[1].items()}
    d_transcoder, d_model = matrix_shape(path, shapes, "W_dec")
    expected: dict[str, Shape] = {"W_enc": (d_model, d_transcoder), "W_dec": (d_transcoder, d_model)}
    expect_tensors(path, shapes, {**expected, "b_enc": (d_transcoder,), "b_dec": (d_model,), "b_dec_out": (d_model,)})
    return d_transcoder, d_model


def _read(path: Path) -> Transcoder:
    _shape(path)
    file = TorchZip(path)
    n_bytes = sum(stored.n_bytes for stored in _content(file)[1].values())
    if n_bytes > path.stat().st_size:
        raise ValueError(f"{path}: tensors of {n_bytes} bytes in a file of {path.stat().st_size}; do they overlap?")
    tensors = {name: file.tensor(stored) for name, stored in _content(file)[1].items()}
    for name, tensor in tensors.items():
        check_weights(path, name, tensor)
    W_enc, subtracted = tensors["W_enc"].T.contiguous(), tensors["b_dec"]
    return Transcoder(
        W_enc=W_enc,
        b_enc=bias_with_subtracted(W_enc, tensors["b_enc"], subtracted),
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec_out"],
        activation="relu",
        subtracted=subtracted,
    )
