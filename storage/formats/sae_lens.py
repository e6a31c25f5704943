"""SAELens's folders: `cfg.json` and `sae_weights.safetensors`, one folder a layer."""

from pathlib import Path

from interp.capture import Hooks
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

ARCHITECTURES = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")

AUTOENCODERS = ("standard", "gated", "topk", "abstopk", "jumprelu", "temporal", "matching_pursuit")
"""The other architectures of SAELens 6; BatchTopK and Matryoshka ones are saved as jumprelu."""

HOOKS = ("hook_name", "hook_name_out")


def open_sae_lens(path: Path, names: HookNames) -> TranscoderFolder:
    """Open transcoders saved by SAELens; the layer of each is that of the hook that its cfg.json names.

    Settings under which SAELens would compute anything else than `W_dec act(W_enc x + b_enc) + b_dec (+ W_skip x)`
    are refused: another activation function, inputs normalised or reshaped at run time, b_dec subtracted from the
    input (which SAELens itself refuses for transcoders).

    Raises:
        ValueError: a setting is missing or refused, or layers are missing.
    """
    layers = [(file, read_settings(file.with_name("cfg.json"))) for file in path.glob("**/sae_weights.safetensors")]
    configs = dict(layers)
    for file, config in layers:
        _check(file.with_name("cfg.json"), config)
    numbered = [(_layer(file.with_name("cfg.json"), config), file) for file, config in layers]
    files = one_per_layer(path, numbered, "…/sae_weights.safetensors of layer {}", names.only)
    hooks = [_hooks(file.with_name("cfg.json"), configs[file], names) for file in files.values()]
    for file, found in zip(files.values(), hooks, strict=True):
        if found != hooks[0]:
            first = f"the first layer {hooks[0][0]} for {hooks[0][1]}"
            raise ValueError(f"{file.parent}: reads {found[0]} for {found[1]}, {first}")
    return TranscoderFolder(
        path=path,
        format="SAELens",
        hooks=hooks[0],
        layers=tuple(files),
        files=(*(file.with_name("cfg.json") for file in files.values()), *files.values()),
        shape=lambda layer: _shape(files[layer], configs[files[layer]]),
        read=lambda layer: _read(files[layer], configs[files[layer]]),
    )


def _metadata(config: dict[str, object]) -> dict[str, object]:
    """What a cfg.json says of the model: a section of its own since SAELens 6."""
    metadata = config.get("metadata")
    return metadata if isinstance(metadata, dict) else config


def _layer(path: Path, config: dict[str, object]) -> int:
    layers = {layer_and_name(str(_metadata(config)[name]))[0] for name in HOOKS if _metadata(config).get(name)}
    if len(layers) != 1 or None in layers:
        named = ", ".join(f"{name} {str(_metadata(config).get(name))[:100]!r}" for name in HOOKS)
        raise ValueError(f"{path}: {named}; expected hooks of one layer, like blocks.0.mlp.hook_in")
    return next(layer for layer in layers if layer is not None)


def _check(path: Path, config: dict[str, object]) -> None:
    if config.get("architecture", "standard") in AUTOENCODERS:
        refuse_autoencoder(path, f"architecture is {config.get('architecture', 'left out')}")
    expect_setting(path, config, "architecture", *ARCHITECTURES)
    expect_setting(path, config, "apply_b_dec_to_input", False)
    expect_setting(path, config, "normalize_activations", "none", None)
    expect_setting(path, config, "reshape_activations", "none", None)
    for name in ("activation_fn", "activation_fn_str"):
        expect_setting(path, config, name, "relu", None)
    if config.get("finetuning_scaling_factor"):
        raise ValueError(f"{path}: finetuning_scaling_factor is set; expected weights without one")


def _hooks(path: Path, config: dict[str, object], names: HookNames) -> Hooks:
    metadata = _metadata(config)
    found = [layer_and_name(str(metadata[name]))[1] if metadata.get(name) else None for name in HOOKS]
    options = metadata.get("model_from_pretrained_kwargs") or {}
    # SAELens folds no norm into the models that it loads unless it is told to.
    folded = isinstance(options, dict) and bool(options.get("fold_ln", False))
    return names.hooks(path, *found, norm_folded=folded)


def _shape(file: Path, config: dict[str, object]) -> tuple[int, int]:
    shapes, settings = tensor_shapes(file), file.with_name("cfg.json")
    d_transcoder, d_model = matrix_shape(file, shapes, "W_dec")
    expected: dict[str, Shape] = {"W_enc": (d_model, d_transcoder), "W_dec": (d_transcoder, d_model)}
    expected |= {"b_enc": (d_transcoder,), "b_dec": (d_model,)}
    architecture = str(config["architecture"])
    if "jumprelu" in architecture:
        expected["threshold"] = (d_transcoder,)
    if "skip" in architecture:
        expected["W_skip"] = (d_model, d_model)
    expect_tensors(file, shapes, expected)
    for name, size in (("d_in", d_model), ("d_out", d_model), ("d_sae", d_transcoder)):
        if expect_number(settings, config, name) != size:
            raise ValueError(f"{settings}: {name} is {config[name]}; expected {size}, as W_dec has it")
    return d_transcoder, d_model


def _read(file: Path, config: dict[str, object]) -> Transcoder:
    _shape(file, config)
    tensors = read_tensors(file, sorted(tensor_shapes(file)))
    return Transcoder(
        W_enc=tensors["W_enc"].T.contiguous(),
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        activation="jumprelu" if "threshold" in tensors else "relu",
        threshold=tensors.get("threshold"),
        W_skip=tensors.get("W_skip"),
    )
