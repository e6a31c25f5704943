"""The weight files of a model folder: which of them are read, and prefixes of the weights' names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.foreign import shown
from storage.formats.folder import Shape, read_settings, tensor_shapes

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

ADAPTER = "adapter_config.json"
"""peft's settings file of an adapter (such as LoRA)."""

WRAPPERS = r"^(?:_orig_mod\.|module\.)+"
"""Prefixes that torch.compile and data-parallel training put before the name of every weight."""

DEQUANTISED = ("mxfp4",)
"""Quantised weights that are read, in float32, by `quant_method`: those of GPT-OSS."""

_DEQUANTISING = {"fp8": "FineGrainedFP8Config", "compressed-tensors": "CompressedTensorsConfig"}
"""Other kinds of quantised weights that transformers dequantises when it reads them, with the setting for that."""

_CONSTANT = re.compile(r"\.(?:masked_bias|rotary_emb\.inv_freq)$|\.(?:attn|attention)\.bias$")
"""Buffers that older versions of transformers saved: masks and frequencies, which follow from the settings."""


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files from which transformers reads the weights: `model.safetensors`, or those that the index names.

    Other files beside them, such as `consolidated.safetensors`, belong to other programs.

    Raises:
        ValueError: there are none, the folder has an adapter, or the index names files that do not exist.
    """
    if (folder / ADAPTER).is_file():
        raise ValueError(f"model.path: {folder} {_about_adapter(folder)}")
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    if (folder / INDEX).is_file():
        return _indexed(folder)
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if others:
        raise ValueError(f"model.path: {folder} has neither {SINGLE} nor {INDEX}; found {', '.join(others[:5])}")
    raise ValueError(
        f"model.path: {folder} holds no *.safetensors weights (other formats can run code and are not read)"
    )


def _indexed(folder: Path) -> tuple[Path, ...]:
    named = read_settings(folder / INDEX).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise ValueError(f"{folder / INDEX}: weight_map is {shown(named)}; expected file names by weight")
    names = sorted(set(named.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{folder / INDEX}: names the file {shown(name)}; expected a .safetensors file beside it")
        if not (folder / name).is_file():
            raise ValueError(f"{folder / INDEX}: names {name}, which is not there; is the download finished?")
    return tuple(folder / name for name in names)


def _about_adapter(folder: Path) -> str:
    base = read_settings(folder / ADAPTER).get("base_model_name_or_path")
    of = f" of {base[:100]}" if isinstance(base, str) and base else ""
    return (
        f"holds an adapter{of}, not a whole model: merge it into the model it was trained on "
        "(peft: merge_and_unload(), then save_pretrained) and name that folder"
    )


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder with an adapter in place of a model.

    Raises:
        ValueError: it has one; the message says what to do.
    """
    if (folder / ADAPTER).is_file():
        raise ValueError(f"model.path: {folder} {_about_adapter(folder)}")


TEXT_PART = {r"^language_model\.lm_head\.": "lm_head.", r"^(?:model\.language_model|language_model\.model)\.": "model."}
"""Name prefixes of the text part within a model of texts and images, and of the text model alone."""


def is_of_images(name: str) -> bool:
    """Whether a weight belongs to the part of a model that reads images."""
    return re.match(r"(?:model\.)?(?:vision_tower|vision_model|multi_modal_projector)\.", name) is not None


def names_to_change(files: tuple[Path, ...], *, text_part: bool = False) -> dict[str, str] | None:
    """The renaming of weights that transformers has to do, in its format; None if none is needed.

    Raises:
        ValueError: a file is truncated, or names begin both with and without a wrapper's prefix.
    """
    names = [name for file in files for name in tensor_shapes(file)]
    wrapped = [name for name in names if re.match(WRAPPERS, name)]
    if wrapped and len(wrapped) < len(names):
        plain = next(name for name in names if not re.match(WRAPPERS, name))
        raise ValueError(f"{files[0].parent}: weights named {wrapped[0]} and {plain}; expected one naming for all")
    changes = {**({WRAPPERS: ""} if wrapped else {}), **(TEXT_PART if text_part else {})}
    return changes or None


def unknown_weights(unexpected: list[str], files: tuple[Path, ...]) -> list[str]:
    """Weights that the model has no place for, except for constants that older versions of transformers saved."""
    shapes: Mapping[str, Shape] = {name: shape for file in files for name, shape in tensor_shapes(file).items()}
    by_end = {re.sub(WRAPPERS, "", name): shape for name, shape in shapes.items()}
    return [name for name in unexpected if not _is_constant(name, by_end.get(name, ()))]


def _is_constant(name: str, shape: Shape) -> bool:
    if not _CONSTANT.search(name):
        return False
    is_mask = len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return is_mask or (name.endswith("masked_bias") and shape in ((), (1,))) or name.endswith("inv_freq")


def refuse_gguf(path: Path) -> None:
    """Refuse a GGUF file, or a folder that holds one in place of weights that are read.

    Raises:
        ValueError: it is or does; the message says how to convert it.
    """
    files = sorted(path.glob("*.gguf")) if path.is_dir() else [path] if path.suffix == ".gguf" else []
    if files and not (path / "config.json").is_file():
        load = f"from_pretrained({str(files[0].parent)!r}, gguf_file={files[0].name!r}"
        raise ValueError(
            f"model.path: {path} holds {files[0].name}, which is not read as it is. Convert it once, with the packages "
            f"gguf and accelerate installed: transformers.AutoModelForCausalLM.{load}, dtype='float32', "
            "quantization_config=transformers.GgufConfig(dequantize=True)).save_pretrained(FOLDER) and "
            f"transformers.AutoTokenizer.{load}).save_pretrained(FOLDER); then name FOLDER"
        )


def quantised_by(path: Path, settings: Mapping[str, Any]) -> str | None:
    """How a model's weights are quantised, by its settings, if they are dequantised when they are read; None if they
    are not quantised.

    Raises:
        ValueError: they are quantised in another way; the message says how, and what to do.
    """
    found = settings.get("quantization_config")
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else None
    if method in DEQUANTISED:
        return method
    bits = next((f" ({n}-bit)" for n in (4, 8) if isinstance(found, dict) and found.get(f"load_in_{n}bit")), "")
    how = "load it and call model.dequantize()"
    if method in _DEQUANTISING:
        how = f"load it with quantization_config=transformers.{_DEQUANTISING[method]}(dequantize=True)"
    raise ValueError(
        f"{path}: the weights are quantised by {shown(method)}{bits}; read are weights in float32, bfloat16, float16 "
        f"and MXFP4. Name the model that was quantised, or dequantise this one: {how}, then "
        "save_pretrained(FOLDER, save_original_format=False)"
    )
