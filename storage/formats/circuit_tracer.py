"""circuit-tracer's folders: `config.yaml` and one `layer_N.safetensors` for each layer, or the files that it lists."""

import re
from pathlib import Path

import torch
import yaml

from interp.capture import Hooks
from interp.transcoder import ActivationName, Transcoder
from storage.foreign import check_path, read_yaml
from storage.formats import gemma_scope, gemma_scope_2
from storage.formats.folder import (
    TranscoderFolder,
    expect_number,
    expect_setting,
    expect_shape,
    expect_tensors,
    matrix_shape,
    one_per_layer,
    read_tensors,
    tensor_shapes,
)
from storage.formats.hooks import HookNames

THRESHOLD = "activation_function.threshold"

MAX_LAYERS = 1000
"""Upper limit for the number of layers."""

ROWS = "W_enc_rows"
"""A setting of this platform for a square W_enc: whether its rows are of d_transcoder or of d_model."""


def open_circuit_tracer(path: Path, names: HookNames) -> TranscoderFolder:
    """Open a folder in the format of circuit-tracer's transcoder sets.

    W_enc may be (d_transcoder, d_model), or (d_model, d_transcoder) as in older releases. Where both are equal,
    `W_enc_rows: d_transcoder` (or `d_model`) in config.yaml must say which it is. W_dec is (d_transcoder, d_model), or
    transposed in releases without a config.yaml, which are read if `names` gives both hooks; the lengths of the biases
    tell the two sizes apart.

    Raises:
        ValueError: a setting is missing or unknown, or layers are missing.
    """
    told = names.input_hook is not None and names.output_hook is not None
    if told and not (path / "config.yaml").exists():
        config_path, config = path / "config.yaml", {}  # the settings give all that config.yaml would
    else:
        config_path, config = read_config(path)
    expect_setting(config_path, config, "model_kind", "transcoder_set", None)
    expect_setting(config_path, config, "activation", "relu", "jumprelu", "topk", None)
    expect_setting(config_path, config, ROWS, "d_transcoder", "d_model", None)
    if "transcoders" in config:
        listed = enumerate(_listed_files(path, config_path, config))
        files = one_per_layer(path, listed, "number {} of `transcoders:`", names.only)
    else:
        files = _layer_files(path, names.only)
    return TranscoderFolder(
        path=path,
        format="circuit-tracer",
        hooks=config_hooks(names, config_path, config),
        layers=tuple(files),
        files=(config_path, *files.values()) if config_path.exists() else tuple(files.values()),
        shape=lambda layer: _layer_shape(files[layer], config_path, config),
        read=lambda layer: _read_layer(files[layer], config_path, config),
    )


def read_config(path: Path) -> tuple[Path, dict[str, object]]:
    """The path and the settings of a folder's config.yaml.

    Raises:
        ValueError: it is missing, exceeds the limits of `storage.foreign`, or has no settings.
    """
    config_path = path / "config.yaml"
    if not config_path.is_file():
        raise ValueError(f"{path}: no config.yaml, which names the hooks of a circuit-tracer folder")
    config = read_yaml(config_path)
    if not isinstance(config, dict):
        raise ValueError(f"{config_path}: expected settings by name, found {type(config).__name__}")
    return config_path, config


def config_hooks(names: HookNames, config_path: Path, config: dict[str, object]) -> Hooks:
    """The hooks that a config.yaml names. circuit-tracer folds no norms into the models that it reads."""
    return names.hooks(
        config_path, config.get("feature_input_hook"), config.get("feature_output_hook"), norm_folded=False
    )


def lists_layers(path: Path) -> bool:
    """Whether a folder has a config.yaml that lists the files of its layers."""
    return (path / "config.yaml").is_file() and "transcoders" in read_config(path)[1]


def _layer_files(path: Path, only: tuple[int, ...] | None) -> dict[int, Path]:
    numbered = []
    for file in path.glob("layer_*.safetensors"):
        match = re.fullmatch(r"layer_([0-9]{1,6})\.safetensors", file.name)
        if match is None:
            raise ValueError(f"{file}: expected a name like layer_0.safetensors")
        numbered.append((int(match[1]), file))
    return one_per_layer(path, numbered, "layer_{}.safetensors", only)


def _listed_files(path: Path, config_path: Path, config: dict[str, object]) -> list[Path]:
    """The files of `transcoders:`, in order; for `hf://owner/name/PATH`, PATH in the folder."""
    listed = config["transcoders"]
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise ValueError(f"{config_path}: transcoders is not a list of files, one for each layer")
    if len(listed) > MAX_LAYERS:
        raise ValueError(
            f"{config_path}: transcoders names {len(listed)} files; expected one for each layer, at most {MAX_LAYERS}"
        )
    files = []
    for layer, name in enumerate(listed):
        inside = re.sub(r"^hf://[^/]+/[^/]+/([^?]*).*", r"\1", name)
        file = path / inside
        check_path(file)
        if Path(inside).is_absolute() or ".." in Path(inside).parts or not file.is_file():
            raise ValueError(f"{config_path}: layer {layer} is {name}; expected the file {inside} inside {path}")
        if file in files:
            raise ValueError(f"{config_path}: layers {files.index(file)} and {layer} are both {name}")
        files.append(file)
    return files


def _layer_shape(file: Path, config_path: Path, config: dict[str, object]) -> tuple[int, int]:
    if file.suffix == ".npz":
        return gemma_scope.layer_shape(file)
    shapes = tensor_shapes(file)
    if "w_enc" in shapes:
        return gemma_scope_2.layer_shape(file)
    d_transcoder, d_model = _sizes(file, shapes)
    expected = {"W_dec": shapes["W_dec"], "b_enc": (d_transcoder,), "b_dec": (d_model,)}
    threshold = shapes.get(THRESHOLD)
    optional = {THRESHOLD: threshold if threshold in ((), (1,)) else (d_transcoder,), "W_skip": (d_model, d_model)}
    _turned(file, shapes, config_path, config)
    expect_tensors(file, shapes, {**expected, "W_enc": shapes["W_enc"]}, optional)
    return d_transcoder, d_model


def _sizes(file: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[int, int]:
    """(d_transcoder, d_model): the shape of W_dec, reversed if the biases show that it is transposed."""
    rows, columns = matrix_shape(file, shapes, "W_dec")
    biases = shapes.get("b_enc"), shapes.get("b_dec")
    return (columns, rows) if biases == ((columns,), (rows,)) else (rows, columns)


def _turned(file: Path, shapes: dict[str, tuple[int, ...]], config_path: Path, config: dict[str, object]) -> bool:
    """Whether W_enc is (d_model, d_transcoder)."""
    found = matrix_shape(file, shapes, "W_enc")
    d_transcoder, d_model = _sizes(file, shapes)
    ways = {"d_transcoder": (d_transcoder, d_model), "d_model": (d_model, d_transcoder)}
    fitting = [rows for rows, shape in ways.items() if shape == found]
    declared = config.get(ROWS)
    if declared is not None:
        expect_shape(file, "W_enc", found, ways[str(declared)])
        return declared == "d_model"
    if len(fitting) == 2:
        raise ValueError(
            f"{file}: W_enc is square ({d_model} features of width {d_model}), so its shape does not show which way "
            f"round it is; add `{ROWS}: d_transcoder` to {config_path.name} if its rows are features, "
            f"`{ROWS}: d_model` if its columns are"
        )
    if not fitting:
        expect_shape(file, "W_enc", found, ways["d_transcoder"])
    return fitting == ["d_model"]


def _read_layer(file: Path, config_path: Path, config: dict[str, object]) -> Transcoder:
    d_transcoder, d_model = _layer_shape(file, config_path, config)
    if file.suffix == ".npz":
        return gemma_scope.read_layer(file)
    shapes = tensor_shapes(file)
    if "w_enc" in shapes:
        return gemma_scope_2.read_layer(file)
    tensors = read_tensors(file, sorted(shapes))
    W_enc = tensors["W_enc"]
    if _turned(file, shapes, config_path, config):
        W_enc = W_enc.T.contiguous()
    W_dec = tensors["W_dec"]
    if W_dec.shape != (d_transcoder, d_model):
        W_dec = W_dec.T.contiguous()
    threshold = tensors.get(THRESHOLD)
    if threshold is not None:
        threshold = threshold.expand(d_transcoder).contiguous()
    activation, k = _activation(file, config_path, config, threshold is not None)
    return Transcoder(
        W_enc=W_enc,
        b_enc=tensors["b_enc"],
        W_dec=W_dec,
        b_dec=tensors["b_dec"],
        activation=activation,
        threshold=threshold,
        k=k,
        W_skip=tensors.get("W_skip"),
    )


def _activation(
    file: Path, config_path: Path, config: dict[str, object], has_threshold: bool
) -> tuple[ActivationName, int | None]:
    declared, found = config.get("activation"), "jumprelu" if has_threshold else "relu"
    if declared == "topk" and not has_threshold:
        return "topk", expect_number(config_path, config, "k")
    if declared not in (None, found):
        raise ValueError(f"{config_path}: activation is {declared}, but {file.name} holds a {found}")
    return found, None


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
    # The last has a name in TransformerLens whose meaning depends on the family.
    inputs = {"resid_mid": "hook_resid_mid", "mlp_in": "mlp.hook_in", "mlp_in_normalized": "mlp_in_normalized"}
    settings: dict[str, object] = {
        "model_kind": "transcoder_set",
        "model_name": model_name,
        "feature_input_hook": inputs[hooks.feature_input],
        "feature_output_hook": output,
        "activation": activation,
        ROWS: "d_transcoder",
    }
    if k is not None:
        settings["k"] = k
    return yaml.safe_dump(settings, sort_keys=False)
