"""The sizes that a run's costs follow from, taken from files that are here or from what the Hub says of its own."""

import math
from pathlib import PurePosixPath
from typing import NamedTuple

from transformers import PreTrainedConfig

from configs.run import RunConfig
from flows.subject.origin import MODEL_FILES, transcoder_files
from flows.subject.subject import Source, Subject
from storage.corpora.corpus import corpus_attributes
from storage.corpora.hub_datasets import HUB
from storage.corpora.sources import local_files
from storage.formats import open_transcoders
from storage.hub import RemoteFile, fetch, remote_shapes, select
from storage.models import SETTINGS_FILES, ModelFolder, open_model, open_settings

ACTIVE_PER_TOKEN = 50
"""Active features a layer at a token, where nothing is known of them."""

BYTES_PER_TOKEN = 3.5
"""Bytes of text a token, as a guess."""

PYTHON_DOCS_BYTES = 2e6
"""Text in Python's own documentation, for a guess: 1.94 MB in Python 3.11."""

WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pt")


class Sizes(NamedTuple):
    """Sizes of a model and its transcoders."""

    n_layers: int
    d_model: int
    n_tokens: int
    n_weights: float
    """Weights of the model."""
    d_transcoder: int
    n_bytes: float
    """Files of both on disk."""
    corpus_tokens: float
    """Tokens of the corpus, held-out ones included; guessed from the size of its files where it is not tokenised yet.
    """

    @property
    def model_bytes(self) -> float:
        """The model in memory, in float32."""
        return self.n_weights * 4

    @property
    def block_flops(self) -> float:
        """A forward pass, a token, without the unembedding."""
        return (self.n_weights - self.n_tokens * self.d_model) * 2

    @property
    def model_flops(self) -> float:
        """A forward pass, a token: two operations a weight."""
        return self.n_weights * 2


def sizes_of(subject: Subject) -> Sizes:
    """Sizes of a checkpoint whose files are on this machine."""
    n_bytes = sum(path.stat().st_size for path in subject.transcoders.files)
    width = subject.attributes.d_transcoder
    sizes = _sizes(subject.config, subject.source.model, _weight_bytes(subject.source.model), width, n_bytes)
    store, names = subject.store, [recipe.corpus_id for recipe in subject.source.corpora]
    if not all(store.corpus(name).exists() for name in names):
        return sizes
    corpora = [corpus_attributes(store, name) for name in names]
    return sizes._replace(corpus_tokens=sum(corpus.n_tokens + corpus.n_held_out_tokens for corpus in corpora))


def sizes_to_train(source: Source) -> Sizes:
    """Sizes of a model on this machine and of transcoders that will be trained."""
    return _to_train(source.config, source.model, _weight_bytes(source.model))


def sizes_on_hub(config: RunConfig) -> Sizes:
    """Of what a pinned configuration names, some of it not downloaded yet: only small files are.

    Raises:
        ValueError: a file is missing, unreadable or does not fit, or the Hub does not tell.
    """
    if config.model.repo is None:
        assert config.model.path is not None
        model = open_model(config.model.path)
        weight_bytes = _weight_bytes(model)
    else:
        folder, _ = fetch(config.model.repo, config.model.revision, SETTINGS_FILES)
        model = open_settings(folder)
        files = select(config.model.repo, config.model.revision, MODEL_FILES)
        weight_bytes = sum(file.n_bytes for file in files if file.name.endswith(".safetensors"))
        if not weight_bytes:
            raise ValueError(f"model.repo: {config.model.repo} holds no *.safetensors weights")
    transcoder = config.transcoder
    if transcoder.train is not None:
        return _to_train(config, model, weight_bytes)
    if transcoder.repo is None:
        assert transcoder.path is not None
        release = open_transcoders(
            transcoder.path, model.family.model_type, transcoder.input_hook, transcoder.output_hook
        )
        n_bytes = sum(path.stat().st_size for path in release.files)
        return _sizes(config, model, weight_bytes, release.shape(0)[0], n_bytes)
    files = select(transcoder.repo, transcoder.revision, transcoder_files(transcoder))
    width = _remote_width(transcoder.repo, transcoder.revision, files, model)
    return _sizes(config, model, weight_bytes, width, sum(file.n_bytes for file in files))


def _sizes(config: RunConfig, model: ModelFolder, weight_bytes: int, d_transcoder: int, transcoder_bytes: int) -> Sizes:
    n_weights = weight_bytes / bytes_per_weight(model.config)
    config.corpus.row_tokens(model.n_positions)  # which refuses more than the model has
    n_bytes = weight_bytes + transcoder_bytes
    tokens = guessed_tokens(config)
    return Sizes(model.n_layers, model.d_model, model.n_tokens, n_weights, d_transcoder, n_bytes, tokens)


def guessed_tokens(config: RunConfig) -> float:
    """Tokens of the corpus by its files' bytes; without files here, as many as the configuration allows."""
    return sum(_guessed_tokens_of(config, source) for source in config.corpus.sources)


def _guessed_tokens_of(config: RunConfig, source: str) -> float:
    most = config.corpus.max_tokens or math.inf
    if source.startswith(HUB):
        return most if most < math.inf else 0.0
    n_bytes = sum(path.stat().st_size for path in local_files(source)) or PYTHON_DOCS_BYTES
    return min(most, n_bytes / BYTES_PER_TOKEN)


def _to_train(config: RunConfig, model: ModelFolder, weight_bytes: int) -> Sizes:
    training = config.transcoder.train
    assert training is not None
    width = training.d_transcoder
    return _sizes(config, model, weight_bytes, width, model.n_layers * width * model.d_model * 8)


def bytes_per_weight(model_config: PreTrainedConfig) -> int:
    """Bytes a weight of the model's files, by its configuration."""
    return getattr(model_config.dtype, "itemsize", 4)


def _weight_bytes(model: ModelFolder) -> int:
    return sum(path.stat().st_size for path in model.weight_files)


def _remote_width(repo: str, commit: str, files: list[RemoteFile], model: ModelFolder) -> int:
    """Features a layer: by the header of a file if it has one, else as if encoder and decoder were float32."""
    weights = [file for file in files if PurePosixPath(file.name).suffix in WEIGHT_SUFFIXES]
    if not weights:
        raise ValueError(f"transcoder.repo: {repo} holds no files of weights ({', '.join(WEIGHT_SUFFIXES)})")
    largest = max(weights, key=lambda file: file.n_bytes)
    if largest.name.endswith(".safetensors"):
        shapes = remote_shapes(repo, commit, largest.name).values()
        widths = [max(shape) for shape in shapes if len(shape) == 2 and model.d_model in shape]
        if widths:
            return max(widths)
    return round(sum(file.n_bytes for file in weights) / model.n_layers / (2 * model.d_model * 4))
