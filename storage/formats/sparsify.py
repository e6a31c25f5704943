"""sparsify's folders: `<hookpoint>/cfg.json` and `<hookpoint>/sae.safetensors`, with a hookpoint like
`layers.5.mlp`."""

from pathlib import Path

from interp.transcoder import Transcoder
from storage.formats.autoencoders import refuse_autoencoder
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


def open_sparsify(path: Path, names: HookNames) -> TranscoderFolder:
    """Open transcoders saved by sparsify: TopK of `encoder(x)`, decoded, plus b_dec.

    A hookpoint is a module; a transcoder reads its input and replaces its output. b_dec is added to the output and,
    unlike in sparsify's autoencoders, not subtracted from the input; the skip connection is `W_skip x`.

    Releases from before February 2025 (such as Pythia's) lack the setting `transcode`, and subtract b_dec from a
    transcoder's input too. A release with a skip connection is one of transcoders; for others, both hooks must be given
    to confirm this.

    Raises:
        ValueError: a setting is missing or refused, a hookpoint is not an MLP, or layers are missing.
    """
    files = one_per_layer(path, _numbered(path), "layers.{}.mlp/sae.safetensors", names.only)
    configs = {layer: read_settings(file.with_name("cfg.json")) for layer, file in files.items()}
    told = names.input_hook is not None and names.output_hook is not None
    for layer, config in configs.items():
        _check(files[layer].with_name("cfg.json"), config, told)
    return TranscoderFolder(
        path=path,
        format="sparsify",
        hooks=names.hooks(path, "mlp.input", "mlp.output"),
        layers=tuple(files),
        files=(*(file.with_name("cfg.json") for file in files.values()), *files.values()),
        shape=lambda layer: _shape(files[layer], configs[layer]),
        read=lambda layer: _read(files[layer], configs[layer]),
        folded=(SUBTRACTED,) if any(map(_subtracts, configs.values())) else (),
    )


def _numbered(path: Path) -> list[tuple[int, Path]]:
    numbered = []
    for file in path.glob("*/sae.safetensors"):
        layer, module = layer_and_name(file.parent.name)
        if layer is None or module != "mlp":
            raise ValueError(f"{file.parent}: expected a hookpoint like layers.0.mlp")
        numbered.append((layer, file))
    return numbered


def _check(path: Path, config: dict[str, object], told: bool) -> None:
    if "transcode" not in config and config.get("skip_connection") is not True and not told:
        raise ValueError(
            f"{path}: transcode is left out, as in releases from before February 2025; this may be an autoencoder, "
            "which is not read. If it is a transcoder, set transcoder.input_hook=mlp_in and "
            "transcoder.output_hook=mlp_out"
        )
    if config.get("transcode") is False:
        refuse_autoencoder(path, "transcode is false")
    expect_setting(path, config, "transcode", True, None)
    expect_setting(path, config, "activation", "topk", None)
    expect_setting(path, config, "signed", False, None)
    expect_setting(path, config, "skip_connection", True, False, None)
    expect_number(path, config, "k")


def _subtracts(config: dict[str, object]) -> bool:
    return "transcode" not in config


def _shape(file: Path, config: dict[str, object]) -> tuple[int, int]:
    shapes, settings = tensor_shapes(file), file.with_name("cfg.json")
    d_transcoder, d_model = matrix_shape(file, shapes, "W_dec")
    expected: dict[str, Shape] = {"encoder.weight": (d_transcoder, d_model), "W_dec": (d_transcoder, d_model)}
    expected |= {"encoder.bias": (d_transcoder,), "b_dec": (d_model,)}
    if config.get("skip_connection"):
        expected["W_skip"] = (d_model, d_model)
    expect_tensors(file, shapes, expected)
    if expect_number(settings, config, "d_in") != d_model:
        raise ValueError(f"{settings}: d_in is {config['d_in']}; expected {d_model}, as W_dec has it")
    if expect_number(settings, config, "k") > d_transcoder:
        raise ValueError(f"{settings}: k is {config['k']}; expected at most {d_transcoder}, the number of features")
    return d_transcoder, d_model


def _read(file: Path, config: dict[str, object]) -> Transcoder:
    _shape(file, config)
    tensors = read_tensors(file, sorted(tensor_shapes(file)))
    W_enc, b_enc, subtracted = tensors["encoder.weight"], tensors["encoder.bias"], None
    if _subtracts(config):
        subtracted = tensors["b_dec"]
        b_enc = bias_with_subtracted(W_enc, b_enc, subtracted)
    return Transcoder(
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        activation="topk",
        k=expect_number(file.with_name("cfg.json"), config, "k"),
        W_skip=tensors.get("W_skip"),
        subtracted=subtracted,
    )
