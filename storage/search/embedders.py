"""Embedding models: in a folder, or behind an OpenAI-compatible address."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import httpx2
import numpy as np
from jaxtyping import Float32

from storage.hashing import file_sha256, short_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KEY_VARIABLE = "CIRCUIT_INSIGHTS_EMBEDDINGS_KEY"
"""Environment variable with the key for an address."""

TEXTS_AT_ONCE = 64

MAX_TOKENS = 64
"""Largest number of tokens of a text that a model in a folder reads; most descriptions are shorter."""

TIMEOUT_S = 60.0

Vectors = Float32[np.ndarray, "texts d"]


class Embedder(Protocol):
    """A model that turns texts into vectors of length 1, which are close for texts with similar meaning."""

    @property
    def embedder_id(self) -> str:
        """A short hash of everything that the vectors depend on."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The vectors of some texts, one row each."""
        ...


def open_embedder(place: str, model: str | None) -> Embedder:
    """Open the model in a folder, or the model of this name behind an address such as http://localhost:11434/v1.

    Raises:
        ValueError: there is no such folder, it is not readable as a model, or an address has no model's name.
    """
    if "://" not in place:
        return FolderEmbedder(Path(place))
    if not place.startswith(("http://", "https://")):
        raise ValueError(f"embeddings: {place} is neither a folder nor an http:// or https:// address")
    if not model:
        raise ValueError(f"embeddings: {place} is an address; say which model of it with --embedding-model")
    return EndpointEmbedder(place, model)


class FolderEmbedder:
    """A model in transformers format, run as by sentence-transformers: the mean over a text's tokens, or the first
    token."""

    def __init__(self, folder: Path) -> None:
        weights = sorted(folder.glob("*.safetensors"))
        if not (folder / "config.json").is_file() or not weights:
            raise ValueError(
                f"embeddings: {folder} holds no config.json and *.safetensors; expected a transformers model folder"
            )
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        try:
            self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            self._model: PreTrainedModel = AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
            ).eval()
        except Exception as error:  # transformers' parsers can raise almost any exception
            raise ValueError(f"embeddings: {folder} cannot be read ({' '.join(str(error).split())[:300]})") from None
        pooling = folder / "1_Pooling" / "config.json"
        self._first = pooling.is_file() and '"pooling_mode_cls_token": true' in pooling.read_text(encoding="utf-8")
        files = [folder / "config.json", *weights, *folder.glob("tokenizer*.json")]
        self._id = short_hash(files={file.name: file_sha256(file) for file in files}, first=self._first, n=MAX_TOKENS)

    @property
    def embedder_id(self) -> str:
        """What the vectors are kept under: a hash of the embedding model's files."""
        return self._id

    def embed(self, texts: Sequence[str]) -> Vectors:
        import torch

        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # by length, so that there is little padding
        found = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            read = self._tokenizer(
                [texts[at] for at in order[start : start + TEXTS_AT_ONCE]],
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden = self._model(**read).last_hidden_state
            mask = read["attention_mask"][:, :, None].float()
            pooled = hidden[:, 0] if self._first else (hidden * mask).sum(1) / mask.sum(1)
            found.append(pooled.float().numpy())
        return _normalised(np.concatenate(found)[np.argsort(order)])


class EndpointEmbedder:
    """A model behind an address with OpenAI's API for embeddings."""

    def __init__(self, address: str, model: str, transport: httpx2.BaseTransport | None = None) -> None:
        self._address, self._model = address.rstrip("/"), model
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.Client(headers=headers, timeout=TIMEOUT_S, transport=transport)

    @property
    def embedder_id(self) -> str:
        """What the vectors are kept under: a hash of the address and the model's name."""
        return short_hash(address=self._address, model=self._model)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of some texts.

        Raises:
            ValueError: the server does not answer, or its answer has no vectors.
        """
        found: list[list[float]] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            found += self._asked(list(texts[start : start + TEXTS_AT_ONCE]))
        return _normalised(np.array(found, np.float32))

    def _asked(self, texts: list[str]) -> list[list[float]]:
        address = f"{self._address}/embeddings"
        try:
            answer = self._client.post(address, json={"model": self._model, "input": texts})
            answer.raise_for_status()
            items = sorted(answer.json()["data"], key=lambda item: item["index"])
            vectors = [[float(value) for value in item["embedding"]] for item in items]
        except httpx2.HTTPError as error:
            raise ValueError(f"embeddings: {address} does not answer ({error})") from None
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"embeddings: {address} did not answer with a list of vectors") from None
        if len(vectors) != len(texts) or len({len(vector) for vector in vectors}) != 1:
            raise ValueError(f"embeddings: {address} was asked for {len(texts)} vectors and sent {len(vectors)}")
        return vectors


def _normalised(vectors: np.ndarray) -> Vectors:
    vectors = np.nan_to_num(vectors.astype(np.float32))
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
