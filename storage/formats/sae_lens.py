"""SAELens's folders: `cfg.json` and `sae_weights.safetensors`, one folder a layer; transcoders or autoencoders."""

from pathlib import Path

import torch
from torch import Tensor

from interp.capture import Hooks
from interp.families import family_of
from interp.transcoder import Transcoder
from storage.foreign import shown
from storage.formats.folder import (
    SUBTRACTED,
    Shape,
    TranscoderFolder,
    bias_with_subtracted,
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

TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")

AUTOENCODERS = ("standard", "topk", "jumprelu")
"""The architectures that are read. BatchTopK and Matryoshka ones are saved as jumprelu; gated and others compute
something else."""

HOOKS = ("hook_name", "hook_name_out")

OLD_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
"""Names of settings before SAELens 6."""

CENTRED = "the mean over d_model, which the release takes away from its input, into W_enc"

NORMALISED = "the norms of decoder rows, by which the release scales activations, into W_enc, b_enc and W_dec"

Config = dict[str, object]


def open_sae_lens(path: Path, names: HookNames) -> TranscoderFolder:
    """Open transcoders or autoencoders saved by SAELens; the layer of each is that of the hook that its cfg.json names.

    A transcoder computes `W_dec act(W_enc x + b_enc) + b_dec (+ W_skip x)`, an autoencoder the same of one place, from
    whose value it may subtract b_dec first. If the model that it was trained on had its writing weights centred
    (`center_writing_weights`, which TransformerLens does for LayerNorms alone), its input is the place's value less its
    mean over d_model. Both are folded into the encoder.

    Settings under which SAELens would compute anything else are refused: another activation function, inputs
    normalised or reshaped at run time, b_dec subtracted from a transcoder's input (which SAELens itself refuses).

    Raises:
        ValueError: a setting is missing or refused, or layers are missing.
    """
    configs = {file: _config(file.with_name("cfg.json")) for file in path.glob("**/sae_weights.safetensors")}
    for file, config in configs.items():
        _check(file.with_name("cfg.json"), config)
    numbered = [(_layer(file.with_name("cfg.json"), config), file) for file, config in configs.items()]
    files = one_per_layer(path, numbered, "…/sae_weights.safetensors of layer {}", names.only)
    hooks = [_hooks(file.with_name("cfg.json"), configs[file], names) for file in files.values()]
    for file, found in zip(files.values(), hooks, strict=True):
        if found != hooks[0]:
            first = f"the first layer {hooks[0][0]} for {hooks[0][1]}"
            raise ValueError(f"{file.parent}: reads {found[0]} for {found[1]}, {first}")
    centred = family_of(names.model_type).centred
    used = [configs[file] for file in files.values()]
    kinds = {
        SUBTRACTED: any(config["apply_b_dec_to_input"] for config in used),
        CENTRED: any(_is_centred(config, centred) for config in used),
        NORMALISED: any(config.get("rescale_acts_by_decoder_norm") for config in used),
    }
    return TranscoderFolder(
        path=path,
        format="SAELens",
        hooks=hooks[0],
        layers=tuple(files),
        files=(*(file.with_name("cfg.json") for file in files.values()), *files.values()),
        shape=lambda layer: _shape(files[layer], configs[files[layer]]),
        read=lambda layer: _read(files[layer], configs[files[layer]], centred),
        folded=tuple(words for words, is_folded in kinds.items() if is_folded),
    )


def _config(path: Path) -> Config:
    """A cfg.json with the names and defaults of SAELens 6. Before it a cfg.json could leave out what an autoencoder was
    by default, which then was ReLU with b_dec subtracted, and TopK was an activation function."""
    config = {OLD_NAMES.get(name, name): value for name, value in read_settings(path).items()}
    config.setdefault("architecture", "standard")
    options = config.get("activation_fn_kwargs")
    if config["architecture"] == "standard" and config.get("activation_fn") == "topk" and isinstance(options, dict):
        config |= {"architecture": "topk", "activation_fn": None, "k": options.get("k")}
    if config["architecture"] in AUTOENCODERS:
        config.setdefault("apply_b_dec_to_input", True)
    return config


def _is_autoencoder(config: Config) -> bool:
    return config["architecture"] in AUTOENCODERS


def _is_centred(config: Config, family_is_centred: bool) -> bool:
    """Whether the mean over d_model was taken away from what the model wrote."""
    options = _metadata(config).get("model_from_pretrained_kwargs")
    asked = isinstance(options, dict) and bool(options.get("center_writing_weights"))
    return asked and family_is_centred and _is_autoencoder(config)


def _metadata(config: Config) -> Config:
    """The part of a cfg.json about the model: a section of its own since SAELens 6."""
    metadata = config.get("metadata")
    return metadata if isinstance(metadata, dict) else config


def _layer(path: Path, config: Config) -> int:
    layers = {layer_and_name(str(_metadata(config)[name]))[0] for name in HOOKS if _metadata(config).get(name)}
    if len(layers) != 1 or None in layers:
        named = ", ".join(f"{name} {str(_metadata(config).get(name))[:100]!r}" for name in HOOKS)
        raise ValueError(f"{path}: {named}; expected hooks of one layer, like blocks.0.mlp.hook_in")
    return next(layer for layer in layers if layer is not None)


def _check(path: Path, config: Config) -> None:
    if config["architecture"] == "gated":
        raise ValueError(f"{path}: architecture is gated, whose gates have a bias of their own; they are not read")
    expect_setting(path, config, "architecture", *TRANSCODERS, *AUTOENCODERS)
    expect_setting(path, config, "apply_b_dec_to_input", *((True, False) if _is_autoencoder(config) else (False,)))
    if config.get("normalize_activations") is not False:  # which SAELens 2 wrote for "none"
        expect_setting(path, config, "normalize_activations", "none", None)
    expect_setting(path, config, "reshape_activations", "none", None)
    expect_setting(path, config, "activation_fn", "relu", None)
    expect_setting(path, config, "rescale_acts_by_decoder_norm", True, False, None)
    if config["architecture"] == "topk":
        expect_number(path, config, "k")
    if config.get("finetuning_scaling_factor"):
        raise ValueError(f"{path}: finetuning_scaling_factor is set; expected weights without one")


def _hooks(path: Path, config: Config, names: HookNames) -> Hooks:
    metadata = _metadata(config)
    found = [layer_and_name(str(metadata[name]))[1] if metadata.get(name) else None for name in HOOKS]
    if _is_autoencoder(config):
        return names.autoencoder(path, found[0])
    options = metadata.get("model_from_pretrained_kwargs") or {}
    # SAELens folds no norms into the models that it loads unless told to.
    folded = isinstance(options, dict) and bool(options.get("fold_ln", False))
    return names.hooks(path, *found, norm_folded=folded)


def _shape(file: Path, config: Config) -> tuple[int, int]:
    shapes, settings = tensor_shapes(file), file.with_name("cfg.json")
    d_transcoder, d_model = matrix_shape(file, shapes, "W_dec")
    expected: dict[str, Shape] = {"W_enc": (d_model, d_transcoder), "W_dec": (d_transcoder, d_model)}
    expected |= {"b_enc": (d_transcoder,), "b_dec": (d_model,)}
    architecture = str(config["architecture"])
    if "jumprelu" in architecture:
        expected["threshold"] = (d_transcoder,)
    if "skip" in architecture:
        expected["W_skip"] = (d_model, d_model)
    expect_tensors(file, shapes, expected, {"scaling_factor": (d_transcoder,)} if _is_autoencoder(config) else None)
    sizes = {"d_in": d_model, "d_sae": d_transcoder}
    if not _is_autoencoder(config):
        sizes["d_out"] = d_model
    for name, size in sizes.items():
        if expect_number(settings, config, name) != size:
            raise ValueError(f"{settings}: {name} is {config[name]}; expected {size}, as W_dec has it")
    if architecture == "topk" and expect_number(settings, config, "k") > d_transcoder:
        raise ValueError(f"{settings}: k is {config['k']}; expected at most {d_transcoder}, the number of features")
    return d_transcoder, d_model


def _read(file: Path, config: Config, family_is_centred: bool) -> Transcoder:
    _shape(file, config)
    tensors = read_tensors(file, sorted(tensor_shapes(file)))
    if not torch.all(tensors.get("scaling_factor", torch.ones(1)) == 1):
        raise ValueError(f"{file}: scaling_factor is {shown(tensors['scaling_factor'][:3].tolist())}…; expected ones")
    W_enc, b_enc = tensors["W_enc"].T.contiguous(), tensors["b_enc"]
    W_dec, subtracted = tensors["W_dec"], None
    if config.get("rescale_acts_by_decoder_norm"):
        W_enc, b_enc, W_dec = _scaled(W_enc, b_enc, W_dec)
    if config["apply_b_dec_to_input"]:
        subtracted = tensors["b_dec"]
        b_enc = bias_with_subtracted(W_enc, b_enc, subtracted)
    if _is_centred(config, family_is_centred):
        W_enc = (W_enc.double() - W_enc.double().mean(1, keepdim=True)).to(W_enc.dtype)
    is_topk = config["architecture"] == "topk"
    return Transcoder(
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=tensors["b_dec"],
        activation="jumprelu" if "threshold" in tensors else "topk" if is_topk else "relu",
        threshold=tensors.get("threshold"),
        k=expect_number(file.with_name("cfg.json"), config, "k") if is_topk else None,
        W_skip=tensors.get("W_skip"),
        subtracted=subtracted,
    )


def _scaled(W_enc: Tensor, b_enc: Tensor, W_dec: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights with activations that are those times the norms of decoder rows; what is written stays the same."""
    norm = W_dec.double().norm(dim=1)
    scaled = (W_enc * norm[:, None], b_enc * norm, W_dec / norm.clamp(min=torch.finfo(torch.float32).tiny)[:, None])
    return scaled[0].to(W_enc.dtype), scaled[1].to(b_enc.dtype), scaled[2].to(W_dec.dtype)
