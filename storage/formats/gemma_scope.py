"""Gemma Scope's transcoders and autoencoders: `layer_N/width_W/average_l0_M/params.npz`."""

import re
import zipfile
import zlib
from math import prod
from pathlib import Path

import numpy as np
import torch

from interp.transcoder import Transcoder
from storage.formats.folder import (
    Shape,
    TranscoderFolder,
    check_weights,
    expect_tensors,
    matrix_shape,
    one_per_layer,
)
from storage.formats.hooks import HookNames
from storage.formats.zip_archive import open_zip

MAX_UNPACKED_BEYOND = 100_000_000
"""Weights hardly compress: a file whose contents exceed its own size by more than this does not hold weights."""

DTYPES = {b"<f4": 4, b"<f2": 2}
"""Bytes of a value, by its type in the header."""

HEADER = re.compile(
    rb"\{'descr': '([^']{1,8})', 'fortran_order': (?:True|False), 'shape': \(((?:[0-9]{1,12},? ?){0,8})\),? ?\} *\n?"
)
"""The header of an array as numpy writes it. It is a Python expression; numpy would evaluate it as one."""

MAX_ARRAY_HEADER_BYTES = 4096

UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError)


def open_gemma_scope(path: Path, names: HookNames) -> TranscoderFolder:
    """Open Gemma Scope's transcoders or autoencoders, one `params.npz` a layer.

    They read what Gemma-2's MLP receives before the norm's weight, which was folded into the MLP for their training,
    and stand for what is added to the residual stream (Lieberum et al. 2024, appendix B). Its autoencoders have the
    same files and subtract nothing from their input; that they are some has to be said by both hooks in `names`. The
    release has several widths and sparsities a layer; the folder has to hold one of them.

    Raises:
        ValueError: a layer has none or several.
    """
    files = one_per_layer(path, _numbered(path), "layer_{}/width_…/average_l0_…/params.npz", names.only)
    return TranscoderFolder(
        path=path,
        format="Gemma Scope",
        hooks=names.hooks(path, "ln2.hook_normalized", "hook_mlp_out"),
        layers=tuple(files),
        files=tuple(files.values()),
        shape=lambda layer: layer_shape(files[layer]),
        read=lambda layer: read_layer(files[layer]),
    )


def _numbered(path: Path) -> list[tuple[int, Path]]:
    numbered = []
    for file in path.glob("layer_*/**/params.npz"):
        folder = file.relative_to(path).parts[0]
        match = re.fullmatch(r"layer_([0-9]{1,6})", folder)
        if match is None:
            raise ValueError(f"{path / folder}: expected a name like layer_0")
        numbered.append((int(match[1]), file))
    return numbered


def layer_shape(file: Path) -> tuple[int, int]:
    """(d_transcoder, d_model) of a `params.npz`, from the arrays' headers; all shapes are checked.

    Raises:
        ValueError: it is not an npz file, or arrays are missing, unknown, misshaped or larger than the file allows.
    """
    shapes = _npz_shapes(file)
    d_transcoder, d_model = matrix_shape(file, shapes, "W_dec")
    features = (d_transcoder,)
    expected: dict[str, Shape] = {"W_enc": (d_model, d_transcoder), "W_dec": (d_transcoder, d_model)}
    expect_tensors(file, shapes, {**expected, "b_enc": features, "b_dec": (d_model,), "threshold": features})
    return d_transcoder, d_model


def read_layer(file: Path) -> Transcoder:
    """Read one layer. The file has W_enc as (d_model, d_transcoder)."""
    layer_shape(file)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except UNREADABLE as error:
        raise ValueError(f"{file}: truncated or not an npz file ({str(error)[:200]})") from None
    for name, tensor in tensors.items():
        check_weights(file, name, tensor)
    return Transcoder(
        W_enc=tensors["W_enc"].T.contiguous(),
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"].contiguous(),
        b_dec=tensors["b_dec"],
        activation="jumprelu",
        threshold=tensors["threshold"],
    )


def _npz_shapes(file: Path) -> dict[str, Shape]:
    """Shapes of the arrays in an npz file, after checking that none unpacks to more than it declares or than is
    plausible."""
    size = file.stat().st_size
    try:
        with open_zip(file) as archive:
            entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > size + MAX_UNPACKED_BEYOND:
                raise ValueError(
                    f"{unpacked} bytes packed into {size}; expected weights, which do not compress this well"
                )
            names = [entry.filename.removesuffix(".npy") for entry in entries]
            if len(set(names)) < len(names):
                raise ValueError("an array occurs twice")
            return {name: _array_shape(archive, entry) for name, entry in zip(names, entries, strict=True)}
    except UNREADABLE as error:
        raise ValueError(f"{file}: truncated or not an npz file of weights ({str(error)[:200]})") from None


def _array_shape(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Shape:
    with archive.open(entry) as file:
        start = file.read(8)
        if start[:6] != b"\x93NUMPY":
            raise ValueError(f"{entry.filename}: the magic string of an array is missing")
        n_bytes = {b"\1\0": 2, b"\2\0": 4}.get(start[6:])
        if n_bytes is None:
            raise ValueError(f"{entry.filename}: array format {tuple(start[6:])}; expected 1.0 or 2.0")
        length = int.from_bytes(file.read(n_bytes), "little")
        header = file.read(min(length, MAX_ARRAY_HEADER_BYTES + 1))
    match = HEADER.fullmatch(header) if length == len(header) <= MAX_ARRAY_HEADER_BYTES else None
    if match is None:
        raise ValueError(f"{entry.filename}: an array header of {length} bytes, {header[:60]!r}…, that is not numpy's")
    if match[1] not in DTYPES:
        raise ValueError(f"{entry.filename}: dtype {_type_name(match[1])}; expected float32 or float16")
    shape = tuple(int(size) for size in re.findall(rb"[0-9]+", match[2]))
    declared = len(start) + n_bytes + length + prod(shape) * DTYPES[match[1]]
    if declared != entry.file_size:
        raise ValueError(f"{entry.filename}: {entry.file_size} bytes; expected {declared} for shape {list(shape)}")
    return shape


def _type_name(descr: bytes) -> str:
    try:
        return str(np.dtype(descr.decode("ascii")))
    except (TypeError, ValueError, SyntaxError):
        return repr(descr)
