"""A checkpoint in the store: one model's embeddings and its transcoders, in Zarr, with one row for each feature."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import zarr
from jaxtyping import Float
from torch import Tensor
from zarr.codecs import ZstdCodec

from interp.activations.encoding import Encoder
from interp.capture import Hooks, InputHook, OutputHook
from interp.families import Norm
from interp.sparse import FeatureTokens
from interp.transcoder import ActivationName, Transcoder, no_features
from interp.weightlens.settings import Compat, WeightLensSettings
from storage.arrays import (
    WHOLE,
    has_checksums,
    open_whole,
    read_attributes,
    read_slice,
    stamp_metadata,
    with_checksum,
)
from storage.checksums import DamagedError
from storage.store import Store, checked_as, read_as, read_json, whole_folder, write_json

ROWS_PER_CHUNK = 1024
"""Features or tokens in a chunk: 3 MB at d_model 768 in float32, so that a shard reads little more than it needs."""

TRANSCODER_ARRAYS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip", "subtracted", "W_dec_later")
EMBEDDINGS = ("final_weight", "W_E", "W_U")

ENCODER_ARRAYS = ("W_enc", "b_enc", "threshold", "subtracted")
"""The arrays that activations depend on, besides the model."""

DECODER_ARRAYS = ("W_dec", "W_dec_later", "write_weight")
"""The arrays that determine what features write to the residual stream."""

RECEIPT = "receipt.json"
"""The file written last into a folder of arrays; without it the folder is unfinished."""


@dataclass(frozen=True)
class CheckpointAttributes:
    """Provenance and sizes of a checkpoint; `docs/schema.md` describes them, at the table `checkpoints`."""

    checkpoint_id: str
    name: str
    model_name: str
    model_revision: str | None
    transcoder_name: str
    transcoder_revision: str | None
    transcoder_format: str
    folded: tuple[str, ...]
    """What of the release was folded into other arrays when it was read; how the model's weights were dequantised."""
    step: int | None
    family: str
    activation: ActivationName
    k: int | None
    """Number of active features of a token, for TopK transcoders."""
    n_layers: int
    d_model: int
    d_transcoder: int
    d_vocab: int
    n_tokens: int
    """Number of the tokenizer's tokens; the model's embedding may have more rows."""
    bos: int | None
    norms_centred: bool
    """Whether the model's norms subtract the mean, as a LayerNorm does."""
    feature_input_hook: InputHook
    feature_output_hook: OutputHook
    weights_sha256: str
    ingested_at: str | None = None
    """ISO 8601, UTC; None until ingestion ends."""
    layers: tuple[int, ...] | None = None
    """The ingested layers; None in stores of versions that always ingested all."""

    @property
    def ingested_layers(self) -> tuple[int, ...]:
        """The layers with transcoders."""
        return tuple(range(self.n_layers)) if self.layers is None else self.layers

    @property
    def hooks(self) -> Hooks:
        """Where the transcoders read the model and where they write."""
        return Hooks(self.feature_input_hook, self.feature_output_hook)

    def upstream(self, settings: WeightLensSettings, layer: int) -> list[int]:
        """The layers whose features may be upstream of a feature of `layer`: none of autoencoders, which show the same
        stream in every layer."""
        return (
            [] if self.hooks.rebuilds else [at for at in settings.upstream_layers(layer) if at in self.ingested_layers]
        )

    @classmethod
    def read(cls, path: Path) -> "CheckpointAttributes":
        """Read the attributes of a checkpoint's folder.

        Raises:
            ValueError: some are missing.
        """
        stored = read_attributes(path)
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in stored and name not in ("ingested_at", "layers")]
        if missing:
            raise DamagedError(path / "zarr.json", f"no attribute {missing[0]}")
        return checked_as(cls, {name: stored.get(name) for name in names}, path / "zarr.json")


class LayerReceipt(NamedTuple):
    """The content of `layers/<LL>/receipt.json`, which is there once a layer is written."""

    sha256: dict[str, str]
    """SHA-256 of each array's values, in hexadecimal."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a store, opened for reading."""

    path: Path

    @property
    def checkpoint_id(self) -> str:
        """The id, which is the name of the folder."""
        return self.path.name

    @cached_property
    def attributes(self) -> CheckpointAttributes:
        """Provenance and sizes."""
        return CheckpointAttributes.read(self.path)

    @property
    def hooks(self) -> Hooks:
        """Where the transcoders read the model and where they write."""
        return self.attributes.hooks

    @property
    def n_layers(self) -> int:
        """Number of layers of the model, also of those that are not ingested."""
        return self.attributes.n_layers

    @property
    def layers(self) -> tuple[int, ...]:
        """The ingested layers: all, unless only a part of a release was ingested."""
        return self.attributes.ingested_layers

    @property
    def d_transcoder(self) -> int:
        """Number of features of each layer."""
        return self.attributes.d_transcoder

    @property
    def n_tokens(self) -> int:
        """Number of the tokenizer's tokens; the model's embedding may have more rows."""
        return self.attributes.n_tokens

    @property
    def bos(self) -> int | None:
        """The id of the token that begins every row; None: rows begin with text."""
        return self.attributes.bos

    def layer_path(self, layer: int) -> Path:
        """The folder of a layer."""
        return self.path / "layers" / f"{layer:02d}"

    def sha256(self, layer: int | None, *names: str) -> dict[str, str]:
        """Hashes of a layer's arrays (None: of the embeddings and the final norm), or of the named ones it has."""
        if layer is None:
            found = {name: str(read_attributes(self.path / name)["sha256"]) for name in EMBEDDINGS}
        else:
            found = read_as(self.layer_path(layer) / RECEIPT, LayerReceipt).sha256
        return {name: value for name, value in found.items() if not names or name in names}

    def single_token_sha256(self, layer: int, compat: Compat | None = None) -> str:
        """A hash of a layer's single-token activations."""
        found = self.single_token(layer, 0, self.d_transcoder, compat)
        arrays = (np.ascontiguousarray(array) for array in (found.indptr, found.token, found.value))
        return hashlib.sha256(b"".join(hashlib.sha256(array.data).digest() for array in arrays)).hexdigest()

    def rows(self, layer: int | None, name: str, start: int, stop: int) -> Float[Tensor, "rows d_model"]:
        """A slice of an array, in the dtype of the source; `layer` is None for `W_E` and `W_U`."""
        return _read(self.path if layer is None else self.layer_path(layer), name, start, stop)

    @cached_property
    def cross_layer(self) -> bool:
        """Whether features also write to the MLP outputs of later layers."""
        return (self.layer_path(self.layers[0]) / "W_dec_later").exists()

    def written(self, layer: int, start: int, stop: int, below: int | None = None) -> Float[Tensor, "rows d_model"]:
        """What some features write to the MLP outputs of layers below `below` (None: of all layers), summed."""
        own = self.rows(layer, "W_dec", start, stop)
        if not (self.layer_path(layer) / "W_dec_later").exists():
            return own
        later = _read(self.layer_path(layer), "W_dec_later", start, stop)
        return own.float() + later[:, : None if below is None else below - layer - 1].float().sum(1)

    def vector(self, layer: int | None, name: str) -> Float[Tensor, " d_model"] | None:
        """A vector such as `read_weight`, or None if the checkpoint has none."""
        path = self.path if layer is None else self.layer_path(layer)
        return _read(path, name) if (path / name).exists() else None

    def transcoder(self, layer: int, *, later: bool = False) -> Transcoder:
        """A layer's transcoder in float32; `W_dec_later` is large, and read only if `later` is set.

        For a layer that was not ingested, a transcoder without features: the whole MLP output is its error.
        """
        path, attributes = self.layer_path(layer), self.attributes
        if layer not in self.layers:
            return no_features(torch.zeros(attributes.d_model))
        names = [name for name in TRANSCODER_ARRAYS if later or name != "W_dec_later"]
        arrays = {name: _read(path, name).float() for name in names if (path / name).exists()}
        return Transcoder(**arrays, activation=attributes.activation, k=attributes.k)

    def encoder(self, layer: int, device: str = "cpu") -> Encoder:
        """The encoder of a layer, in float32."""
        path, attributes = self.layer_path(layer), self.attributes
        W_enc, b_enc = (_read(path, name).float().to(device) for name in ("W_enc", "b_enc"))
        threshold = self.vector(layer, "threshold")
        if threshold is not None:
            threshold = threshold.float().to(device)
        return Encoder(W_enc, b_enc, attributes.activation, threshold, attributes.k)

    def single_token(self, layer: int, start: int, stop: int, compat: Compat | None = None) -> FeatureTokens:
        """Single-token activations of a range of features; none where features do not read the residual stream, since
        nothing is validated by them there."""
        if not self.hooks.reads_stream:
            return FeatureTokens(np.zeros(stop - start + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        folder = _single_token_folder(self.path, layer, compat)
        indptr = _part(folder / "indptr", start, stop + 1)
        low, high = int(indptr[0]), int(indptr[-1])
        token, value = (_part(folder / name, low, high) for name in ("token", "value"))
        return FeatureTokens(indptr - low, token, value)


def open_checkpoint(store: Store, checkpoint_id: str) -> Checkpoint:
    """Open a checkpoint and check that all its arrays exist.

    Raises:
        ValueError: it is not in the store, or its ingestion did not finish.
    """
    path = store.checkpoint(checkpoint_id)
    if not (path / RECEIPT).is_file():
        raise ValueError(
            f"checkpoint {checkpoint_id} is not in {store.root} or not wholly ingested; run `ingest` first"
        )
    return Checkpoint(path)


def is_ingested(store: Store, checkpoint_id: str) -> bool:
    """Whether a checkpoint is completely ingested."""
    return (store.checkpoint(checkpoint_id) / RECEIPT).is_file()


def write_layer(
    store: Store,
    checkpoint_id: str,
    layer: int,
    transcoder: Transcoder,
    read_norm: Norm | None,
    write_norm: Norm | None,
) -> None:
    """Write one layer's arrays completely or not at all, with the parameters of its norms that projections need.

    `read_norm` is the norm whose weight is between the residual stream and the encoder, if there is one, and
    `write_norm` the one between the decoder and the residual stream.
    """
    path = Checkpoint(store.checkpoint(checkpoint_id)).layer_path(layer)
    if (path / RECEIPT).exists():
        return
    arrays = {name: getattr(transcoder, name) for name in TRANSCODER_ARRAYS}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    if read_norm is not None:
        arrays["read_weight"] = read_norm.weight
    if write_norm is not None:
        arrays["write_weight"] = write_norm.weight
    with whole_folder(path) as partial:
        hashes = {name: _write(partial, name, array) for name, array in arrays.items()}
        stamp_metadata(partial)
        write_json(partial / RECEIPT, LayerReceipt(hashes)._asdict())


def write_embeddings(store: Store, checkpoint_id: str, W_E: Tensor, W_U: Tensor, final_norm: Norm) -> None:
    """Write the embedding, the unembedding and the final norm's weight."""
    path = store.checkpoint(checkpoint_id)
    if (path / "W_U").exists():
        return
    for name, array in zip(EMBEDDINGS, (final_norm.weight, W_E, W_U), strict=True):
        with whole_folder(path / name) as partial:
            _write(partial.parent, partial.name, array)
            stamp_metadata(partial)


def finish(store: Store, checkpoint_id: str, attributes: CheckpointAttributes) -> None:
    """Record provenance and mark the checkpoint as completely ingested."""
    path, values = store.checkpoint(checkpoint_id), asdict(attributes)
    zarr.open_group(path, mode="a").attrs.put(values)
    stamp_metadata(path, inner=False)
    write_json(path / RECEIPT, values)


def write_single_token(
    store: Store, checkpoint_id: str, layer: int, found: FeatureTokens, compat: Compat | None = None
) -> None:
    """Write one layer's single-token activations, CSR by feature."""
    with whole_folder(single_token_path(store, checkpoint_id, layer, compat)) as partial:
        group = zarr.create_group(partial)
        for name in ("indptr", "token", "value"):
            array = getattr(found, name)
            chunk = (max(1, min(len(array), 1 << 20)),)
            group.create_array(name, data=array, chunks=chunk, compressors=with_checksum(ZstdCodec()), config=WHOLE)
        stamp_metadata(partial)


def single_token_path(store: Store, checkpoint_id: str, layer: int, compat: Compat | None = None) -> Path:
    """The folder of a layer's single-token activations."""
    return _single_token_folder(store.checkpoint(checkpoint_id), layer, compat)


def _single_token_folder(path: Path, layer: int, compat: Compat | None) -> Path:
    return path / ("single_token" if compat is None else f"single_token_{compat}") / f"{layer:02d}"


def _write(folder: Path, name: str, array: Tensor) -> str:
    """Write one array; returns the SHA-256 of its values. bfloat16, which NumPy lacks, is stored as its bits."""
    values = array.detach().contiguous().cpu()
    dtype = str(values.dtype).removeprefix("torch.")
    data = values.view(torch.uint16).numpy() if values.dtype == torch.bfloat16 else values.numpy()
    digest = hashlib.sha256(data.data).hexdigest()
    rows = ROWS_PER_CHUNK // data.shape[1] if data.ndim == 3 else ROWS_PER_CHUNK
    chunks = (min(max(1, rows), data.shape[0]), *data.shape[1:])
    target = zarr.create_array(
        store=folder / name,
        shape=data.shape,
        dtype=data.dtype,
        chunks=chunks,
        compressors=with_checksum(),
        overwrite=True,
        config=WHOLE,
    )
    target[...] = data
    target.attrs.update({"dtype": dtype, "sha256": digest})
    return digest


def _read(folder: Path, name: str, start: int | None = None, stop: int | None = None) -> Tensor:
    path = folder / name
    array = open_whole(path, start, stop)
    if not has_checksums(array):
        stat = (path / "zarr.json").stat()
        compare_with_sha256(path, stat.st_mtime_ns)
    values = torch.from_numpy(read_slice(array, path, start, stop))
    return values.view(torch.bfloat16) if array.attrs["dtype"] == "bfloat16" else values


def _part(path: Path, start: int, stop: int) -> np.ndarray:
    return read_slice(open_whole(path, start, stop), path, start, stop)


@lru_cache(maxsize=4096)
def compare_with_sha256(path: Path, _written_ns: int) -> None:
    """Compare an array of an earlier version, whose chunks have no checksums, with its SHA-256 from ingestion.

    Raises:
        DamagedError: it does not match.
    """
    array, digest = open_whole(path, None, None), hashlib.sha256()
    for start in range(0, array.shape[0], array.chunks[0]):
        digest.update(np.ascontiguousarray(read_slice(array, path, start, start + array.chunks[0])).data)
    attributes = read_attributes(path)
    dtype, kept_as = attributes.get("dtype"), str(array.dtype)
    if digest.hexdigest() != attributes.get("sha256") or dtype != ("bfloat16" if kept_as == "uint16" else kept_as):
        problem = f"its values are {dtype}, SHA-256 {digest.hexdigest()[:12]}…, expected {attributes.get('sha256')}"
        raise DamagedError(path, problem)


def quality_path(store: Store, checkpoint_id: str, text: str, layer: int) -> Path:
    """The file with a layer's quality, measured on the text of that recipe."""
    return store.checkpoint(checkpoint_id) / "quality" / text / f"{layer:02d}.json"


def read_quality(store: Store, checkpoint_id: str, text: str, layers: Sequence[int]) -> list[dict[str, object]]:
    """Read the quality of some layers, as measured on one text."""
    return [read_json(quality_path(store, checkpoint_id, text, layer)) for layer in layers]
