"""The interface of all transcoder formats, and the checks they share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.capture import Hooks
from interp.transcoder import Transcoder
from storage.foreign import check_path, read_json, shown
from storage.hub import linked_folders

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

MAX_HEADER_BYTES = 10_000_000
"""Enough for a hundred thousand tensors in one safetensors file; the library's own limit takes it seconds to parse."""

MAX_ENTRIES = 100_000
"""Limit for the files and folders that are searched for transcoders."""

SUBTRACTED = "b_dec, which the release subtracts from the input, into b_enc"
"""The text of `TranscoderFolder.folded` for a release whose encoder subtracts b_dec from its input."""

Shape = tuple[int, ...]


def _nothing_below(_layer: int) -> dict[int, Transcoder]:
    return {}


@dataclass(frozen=True)
class TranscoderFolder:
    """An opened release: its properties, and functions that read one layer with rows as features."""

    path: Path
    format: str
    hooks: Hooks
    layers: tuple[int, ...]
    """The layers that are read, in order."""
    files: tuple[Path, ...]
    """Every file that the transcoders depend on."""
    shape: Callable[[int], tuple[int, int]]
    """(d_transcoder, d_model) of a layer, from the file's header."""
    read: Callable[[int], Transcoder]
    """Reads one layer in the dtype of the file. Memory: that layer."""
    folded: tuple[str, ...] = ()
    """What `read` folds into the biases, in words."""
    below: Callable[[int], dict[int, Transcoder]] = _nothing_below
    """For a layer, what the lower layers write to its MLP's output: nothing unless the transcoders are cross-layer.
    Memory: an encoder and a decoder for each lower layer."""

    def float32_bytes(self, layer: int) -> int:
        """Memory in bytes of a layer's transcoder in float32, with the parts of lower layers in `below`."""
        d_transcoder, d_model = self.shape(layer)
        return 8 * d_transcoder * d_model * (1 if self.below is _nothing_below else layer + 1)


def refuse_links_out(root: Path) -> None:
    """Refuse symbolic links that lead out of a folder, unless they lead to the blobs of the same repository in a Hub
    cache.

    A folder of links made by `storage.hub` may lead to the whole cache.

    Raises:
        ValueError: names the link, or the folder if it has more than `MAX_ENTRIES` files.
    """
    allowed = [root.resolve()]
    if allowed[0].is_relative_to(linked_folders().resolve()):
        allowed.append(Path(constants.HF_HUB_CACHE).resolve())
    for parent in allowed[0].parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            allowed.append(parent.parent / "blobs")
    for number, entry in enumerate(root.rglob("*"), 1):
        if number > MAX_ENTRIES:
            raise ValueError(f"{root}: more than {MAX_ENTRIES} files and folders; expected a release of transcoders")
        if entry.is_symlink():
            _refuse_link_out(entry, root, allowed)


def _refuse_link_out(link: Path, root: Path, allowed: list[Path]) -> None:
    try:
        target = link.resolve()
    except (OSError, RuntimeError):
        raise ValueError(f"{link}: a symbolic link that leads in a circle") from None
    if not any(target.is_relative_to(place) for place in allowed):
        raise ValueError(f"{link}: a symbolic link that leads out of {root}; put the file itself there")


def one_per_layer(
    folder: Path, numbered: Iterable[tuple[int, Path]], pattern: str, only: Sequence[int] | None = None
) -> dict[int, Path]:
    """The file of each layer, in order: of the layers `only`, or of all, which must be 0, 1, 2, … `pattern` names a
    layer's file in messages.

    Raises:
        ValueError: a layer has no file or several; these are listed.
    """
    choices: dict[int, list[Path]] = {}
    for layer, file in numbered:
        if only is None or layer in only:
            choices.setdefault(layer, []).append(file)
    for layer, files in sorted(choices.items()):
        if len(files) > 1:
            names = ", ".join(sorted(file.relative_to(folder).as_posix() for file in files)[:12])
            raise ValueError(
                f"{folder}: layer {layer} has {len(files)} files: {names}; expected one. To choose, leave one for each "
                "layer in the folder, or name them in order as `transcoders:` in a config.yaml"
            )
    wanted = range(max(1, len(choices))) if only is None else only
    missing = next((layer for layer in wanted if layer not in choices), None)
    if missing is not None:
        found = sorted(choices)[:40]
        alone = f". To read only these: transcoder.only_layers={found}" if found else ""
        raise ValueError(f"{folder}: no file {pattern.format(missing)}; found layers {found or 'none'}{alone}")
    return {layer: choices[layer][0] for layer in sorted(choices)}


def whole_only(folder: Path, only: Sequence[int] | None) -> None:
    """Refuse to read some layers of a cross-layer transcoder, in which all lower layers contribute to an MLP's output.

    Raises:
        ValueError: some layers were asked for.
    """
    if only is not None:
        raise ValueError(
            f"transcoder.only_layers: {folder} is a cross-layer transcoder, whose features write to later layers; "
            "all layers must be read"
        )


def bias_with_subtracted(W_enc: Tensor, b_enc: Tensor, subtracted: Tensor) -> Tensor:
    """The bias of an encoder that subtracts a vector from its input: `b_enc − W_enc · subtracted`, in float32 at least,
    since a fold in half precision would lose digits."""
    folded = b_enc.double() - W_enc.double() @ subtracted.double()
    return folded.to(torch.promote_types(W_enc.dtype, torch.float32))


def read_settings(path: Path) -> dict[str, object]:
    """Read the settings in a JSON file.

    Raises:
        ValueError: it is missing, exceeds the limits of `storage.foreign`, or is not an object.
    """
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected settings by name, found {type(settings).__name__}")
    return settings


def expect_setting(path: Path, settings: Mapping[str, object], name: str, *expected: object) -> None:
    """Refuse a setting with a value other than those in `expected`. None means that the setting is absent."""
    value = settings.get(name)
    if not any(type(value) is type(one) and value == one for one in expected):
        known = " or ".join("left out" if one is None else repr(one) for one in expected)
        raise ValueError(f"{path}: {name} is {shown(value)}; expected {known}")


def expect_number(path: Path, settings: Mapping[str, object], name: str) -> int:
    """The value of a setting that must be a positive whole number."""
    value = settings.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{path}: {name} is {shown(value)}; expected a positive number")
    return value


def tensor_shapes(path: Path) -> dict[str, Shape]:
    """Names and shapes of a safetensors file, from its header alone.

    Raises:
        ValueError: the file is missing, truncated or not safetensors.
    """
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_tensors(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Read some tensors of a safetensors file and check that they are finite and of a supported dtype.

    Raises:
        ValueError: names the file, the tensor and what is wrong.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in names}
    for name, tensor in tensors.items():
        check_weights(path, name, tensor)
    return tensors


def read_column(path: Path, name: str, at: int) -> Tensor:
    """`tensor[:, at]` of a safetensors file, without reading the rest."""
    with _opened(path) as file:
        tensor = file.get_slice(name)[:, at]
    check_weights(path, name, tensor)
    return tensor


def check_weights(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse weights of a dtype that the store does not keep, or that are not finite."""
    if tensor.dtype not in WEIGHT_DTYPES:
        raise ValueError(f"{path}: {name} is {tensor.dtype}; expected float32, bfloat16 or float16")
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise ValueError(f"{path}: {name} holds {bad} NaN or infinite values of {tensor.numel()}")


def matrix_shape(path: Path, shapes: Mapping[str, Shape], name: str) -> tuple[int, int]:
    """The shape of a tensor that must exist and be a matrix."""
    if name not in shapes:
        raise ValueError(f"{path}: no tensor {name}; found {', '.join(sorted(shapes)[:12]) or 'none'}")
    if len(shapes[name]) != 2:
        raise ValueError(f"{path}: {name} has shape {list(shapes[name])}, expected a matrix")
    rows, columns = shapes[name]
    return rows, columns


def expect_tensors(
    path: Path, shapes: Mapping[str, Shape], expected: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None
) -> None:
    """Refuse a file with a tensor that is missing, unknown or has another shape."""
    known = {**expected, **(optional or {})}
    for name in sorted(expected.keys() - shapes.keys()):
        raise ValueError(f"{path}: no tensor {name}; found {', '.join(sorted(shapes)[:12]) or 'none'}")
    unknown = sorted(shapes.keys() - known.keys())
    if unknown:
        raise ValueError(f"{path}: unknown tensors {unknown[:12]}; expected {sorted(known)}")
    for name, shape in shapes.items():
        expect_shape(path, name, shape, known[name])


def expect_shape(path: Path, name: str, found: Shape, expected: Shape) -> None:
    """Refuse a tensor of another shape."""
    if found != expected:
        raise ValueError(f"{path}: {name} has shape {list(found)}, expected {list(expected)}")


def _opened(path: Path) -> safe_open:
    check_path(path)
    if not path.is_file():
        raise ValueError(f"no file {path}")
    with path.open("rb") as file:
        header, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
    if header > min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(
            f"{path}: truncated or not a safetensors file (a header of {header} bytes in a file of {size}; "
            f"expected at most {MAX_HEADER_BYTES})"
        )
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: truncated or not a safetensors file ({str(error)[:200]})") from None
