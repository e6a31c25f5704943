"""The sizes that a run's costs depend on, from files on this machine or from the Hub's listing."""

import math
from pathlib import PurePosixPath
from typing import NamedTuple

from transformers import PreTrainedConfig

from configs.run import RunConfig
from flows.inputs.checkpoint_plan import CheckpointPlan, Inputs
from flows.inputs.origin import MODEL_FILES, transcoder_files
from storage.corpora.corpus import corpus_attributes
from storage.corpora.hub_datasets import HUB
from storage.corpora.sources import local_files
from storage.formats import open_transcoders
from storage.hub import RemoteFile, fetch, remote_shapes, select
from storage.models import SETTINGS_FILES, ModelFolder, open_model, open_settings

ACTIVE_PER_TOKEN = 50
"""Assumed number of active features in a layer at a token, if it is not known."""

BYTES_PER_TOKEN = 3.5
"""Assumed bytes of text in a token."""

PYTHON_DOCS_BYTES = 2e6
"""Assumed bytes of text in Python's own documentation: 1.94 MB in Python 3.11."""

WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pt")


class Heads(NamedTuple):
    """Sizes of a layer's attention."""

    n: int
    mixed: int
    """Width of all heads' outputs together."""
    values: int
    """Width of all heads' values, which heads may share."""


class Sizes(NamedTuple):
    """Sizes of a model and its transcoders."""

    n_layers: int
    d_model: int
    n_tokens: int
    n_weights: float
    """Number of the model's weights."""
    d_transcoder: int
    n_bytes: float
    """Bytes of the files of both."""
    corpus_tokens: float
    """Tokens of the corpus, including held-out ones; estimated from the size of its files if it is not tokenised
    yet."""

    heads: Heads | None = None
    """None if the model's configuration is not available."""
    bytes_in_files: int = 4
    """Bytes of one weight in the model's files."""
    n_embeddings: int = 1
    """Number of matrices with a row for each token: 2 if the unembedding is not the embedding."""

    @property
    def attention(self) -> Heads:
        """Sizes of a layer's attention; if they are not known, those of heads of 64 that fill the model's width."""
        return self.heads or Heads(max(1, self.d_model // 64), self.d_model, self.d_model)

    @property
    def model_bytes(self) -> float:
        """Bytes of the model in memory, in float32."""
        return self.n_weights * 4

    @property
    def block_flops(self) -> float:
        """Operations of a forward pass for each token, without the unembedding."""
        return (self.n_weights - self.embedding_weights) * 2

    @property
    def model_flops(self) -> float:
        """Operations of a forward pass for each token: two for each weight, except those that are looked up."""
        return self.block_flops + 2 * self.n_tokens * self.d_model

    @property
    def embedding_weights(self) -> float:
        """Number of weights of the embedding and the unembedding."""
        return self.n_embeddings * self.n_tokens * self.d_model


def sizes_of(plan: CheckpointPlan) -> Sizes:
    """The sizes of a checkpoint whose files are on this machine."""
    n_bytes = sum(path.stat().st_size for path in plan.transcoders.files)
    width = plan.attributes.d_transcoder
    sizes = _sizes(plan.config, plan.inputs.model, _weight_bytes(plan.inputs.model), width, n_bytes)
    store, names = plan.store, [recipe.corpus_id for recipe in plan.inputs.corpora]
    if not all(store.corpus(name).exists() for name in names):
        return sizes
    corpora = [corpus_attributes(store, name) for name in names]
    return sizes._replace(corpus_tokens=sum(corpus.n_tokens + corpus.n_held_out_tokens for corpus in corpora))


def sizes_to_train(source: Inputs) -> Sizes:
    """The sizes of a model on this machine and of transcoders that will be trained."""
    return _to_train(source.config, source.model, _weight_bytes(source.model))


def sizes_on_hub(config: RunConfig) -> Sizes:
    """The sizes of a pinned configuration whose files are partly not downloaded yet; only small files are downloaded.

    Raises:
        ValueError: a file is missing, unreadable or does not fit, or the Hub does not list it.
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
    each = bytes_per_weight(model.config)
    config.corpus.row_tokens(model.n_positions)  # it refuses more than the model has
    n_bytes = weight_bytes + transcoder_bytes
    tokens = guessed_tokens(config)
    heads = _heads(model.config, model.d_model)
    n_embeddings = 1 if model.config.tie_word_embeddings else 2
    return Sizes(
        n_layers=model.n_layers,
        d_model=model.d_model,
        n_tokens=model.n_tokens,
        n_weights=weight_bytes / each,
        d_transcoder=d_transcoder,
        n_bytes=n_bytes,
        corpus_tokens=tokens,
        heads=heads,
        bytes_in_files=each,
        n_embeddings=n_embeddings,
    )


def _heads(config: PreTrainedConfig, d_model: int) -> Heads:
    n: int = config.num_attention_heads
    d_head: int = getattr(config, "head_dim", None) or d_model // n
    n_shared: int = getattr(config, "num_key_value_heads", None) or n
    return Heads(n, n * d_head, n_shared * d_head)


def guessed_tokens(config: RunConfig) -> float:
    """Tokens of the corpus, estimated from its files' size; without files on this machine, the configuration's
    maximum."""
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
    """Bytes for each weight in the model's files, from its configuration."""
    return getattr(model_config.dtype, "itemsize", 4)


def _weight_bytes(model: ModelFolder) -> int:
    return sum(path.stat().st_size for path in model.weight_files)


def _remote_width(repo: str, commit: str, files: list[RemoteFile], model: ModelFolder) -> int:
    """Features of a layer: from the header of a file if it has one, else as if encoder and decoder were float32."""
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
