"""What a run works on: the model, the corpora and the transcoders of a configuration, opened, checked and hashed."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from configs.run import RunConfig
from configs.stages import StageName
from flows.inputs.left_out import check_settings, stages_left_out
from flows.inputs.machine import arithmetic, device
from flows.inputs.origin import Origin, model_origin, pinned, transcoder_origin
from flows.recipes.checkpoint import checkpoint, trained_transcoders, weights
from interp.families.agreement import disagreement
from interp.projection import Arithmetic
from interp.transcoder import ActivationName
from storage.bucket.mirror import local_root
from storage.bucket.working_copy import refresh
from storage.checkpoints import Checkpoint, CheckpointAttributes, is_ingested
from storage.checksums import check_file
from storage.corpora.corpus import CorpusRecipe
from storage.corpora.sources import local_files, source_fingerprint
from storage.corpora.sources import pinned as pinned_source
from storage.formats import TranscoderFolder, open_transcoders
from storage.formats.autoencoders import place_of_repo
from storage.hashing import fingerprints, short_hash
from storage.models import ModelFolder, open_model
from storage.store import ShardKey, Store, check_place, shards

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def store_path(config: RunConfig) -> Path:
    """The store of a configuration: its own, else $CIRCUIT_INSIGHTS_STORE, else ./store; for a URL the local folder."""
    return local_root(config.store or os.environ.get("CIRCUIT_INSIGHTS_STORE", "store"))


@dataclass(frozen=True)
class Inputs:
    """The opened inputs of a configuration: the model and the corpora, which exist before any transcoder does."""

    config: RunConfig
    """The configuration, with commits in place of branches and tags of the Hub."""
    store: Store
    model_from: Origin
    transcoders_from: Origin | None
    """None if transcoders are trained."""
    model: ModelFolder
    model_sha256: str
    tokenizer_sha256: str
    bos: int | None
    corpora: tuple[CorpusRecipe, ...]
    """The corpora, which are read one after the other."""

    @property
    def corpus(self) -> CorpusRecipe:
        """The first corpus, on which transcoders are trained and measured."""
        return self.corpora[0]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files whose hashes are cached."""
        texts = [file for corpus in self.corpora for file in local_files(corpus.source)]
        return (*self.model.files, *self.model.tokenizer_files, *texts)

    @cached_property
    def dtype(self) -> str:
        """The number format of the model's weights where the model is run, by its name."""
        asked = self.config.model.dtype
        if asked != "auto":
            return asked
        own = str(self.model.config.dtype or "float32").removeprefix("torch.")
        return "float32" if device(self.config.engine) == "cpu" else own

    @property
    def training_recipe(self) -> str:
        """The recipe of the transcoders that this configuration trains."""
        config = self.config
        return trained_transcoders(
            self.model_sha256, self.tokenizer_sha256, self.corpus.corpus_id, config.transcoder.train, config.activations
        )

    @property
    def transcoder_path(self) -> Path:
        """Where the transcoders are, or will be once trained."""
        if self.transcoders_from is not None:
            return self.transcoders_from.path
        return self.store.trained_transcoders(self.training_recipe)

    @property
    def must_train(self) -> bool:
        """Whether the transcoders are to be trained here and are not in the store yet."""
        trained = self.store.trained_transcoders(self.training_recipe) / "config.yaml"
        return self.transcoders_from is None and not trained.is_file()


@dataclass(frozen=True)
class CheckpointPlan:
    """A checkpoint (a model and transcoders that fit each other) and how a configuration has it described: the opened
    inputs, the layers, and the shards into which their features are divided."""

    inputs: Inputs
    transcoders: TranscoderFolder
    checkpoint_id: str
    attributes: CheckpointAttributes

    @property
    def config(self) -> RunConfig:
        """The configuration, with commits in place of branches and tags of the Hub."""
        return self.inputs.config

    @property
    def store(self) -> Store:
        """The store of the configuration."""
        return self.inputs.store

    @property
    def files(self) -> tuple[Path, ...]:
        """The files whose hashes are cached."""
        return (*self.inputs.files, *self.transcoders.files)

    @property
    def arithmetic(self) -> Arithmetic:
        """Where and how the model is run and products are computed."""
        return arithmetic(self.config.engine)._replace(dtype=DTYPES[self.inputs.dtype])

    @property
    def layers(self) -> tuple[int, ...]:
        """The ingested layers: all, unless only a part of a release is ingested."""
        return self.attributes.ingested_layers

    @property
    def left_out(self) -> Mapping[StageName, str]:
        """Stages that have nothing to do for this checkpoint, with the reason."""
        return stages_left_out(self.transcoders.hooks)

    def upstream(self, layer: int) -> list[int]:
        """The layers whose features may be upstream of a feature of `layer`."""
        return self.attributes.upstream(self.config.weightlens, layer)

    def by_layer(self, what: Callable[[int], str]) -> list[str]:
        """A value for every layer of the model; empty for layers that are not ingested."""
        return [what(layer) if layer in self.layers else "" for layer in range(self.attributes.n_layers)]

    def shards(self, recipe: str, layer: int) -> list[ShardKey]:
        """A layer's features, divided into shards as the configuration says."""
        return shards(recipe, layer, self.attributes.d_transcoder, self.config.shard_size)

    def all_shards(self, recipe: str) -> list[ShardKey]:
        """The shards of all layers."""
        return [key for layer in self.layers for key in self.shards(recipe, layer)]


def open_inputs(config: RunConfig) -> Inputs:
    """Open and hash the model and the corpus; files on the Hub are downloaded. Nothing is written to the store.

    Raises:
        ValueError: an input is missing, unreadable or does not fit.
    """
    config = pinned(config)
    store = Store(store_path(config))
    check_place(store.root)
    model_from, transcoders_from = model_origin(config.model), transcoder_origin(config.transcoder)
    model = open_model(model_from.path)
    bos = config.model.bos
    if bos == "auto":
        bos = model.bos
    elif bos == "none":
        bos = None
    elif bos >= model.d_vocab:
        raise ValueError(f"model.bos is {bos}; the vocabulary has {model.d_vocab} tokens")
    upstream = config.weightlens.upstream
    if upstream != "all" and max(upstream, default=0) >= model.n_layers:
        raise ValueError(f"weightlens.upstream names layer {max(upstream)}; the model has {model.n_layers}")
    tokenizer_sha256 = short_hash(files=fingerprints(store, model.tokenizer_files))
    corpus = config.corpus
    assert corpus.source is not None
    n_pos = corpus.row_tokens(model.n_positions)
    if corpus.token_field is not None and corpus.tokenizer_sha256 != tokenizer_sha256:
        given = corpus.tokenizer_sha256 or "not set"
        raise ValueError(
            f"corpus.tokenizer_sha256 is {given}; the tokenizer of {model.path} is {tokenizer_sha256}. If it made the "
            f"ids in '{corpus.token_field}', set corpus.tokenizer_sha256={tokenizer_sha256}"
        )
    recipes = tuple(
        CorpusRecipe(
            source=source,
            source_sha256=source_fingerprint(store, source),
            tokenizer_sha256=tokenizer_sha256,
            bos=bos,
            n_pos=n_pos,
            max_tokens=corpus.max_tokens,
            text_field=corpus.token_field or corpus.text_field,
            layout=corpus.layout,
            held_out=corpus.held_out,
            held_out_seed=corpus.held_out_seed,
            ready_tokens=corpus.token_field is not None,
            special_tokens=corpus.special_tokens,
        )
        for source in map(pinned_source, corpus.sources)
    )
    names = [recipe.corpus_id for recipe in recipes]
    if len(set(names)) < len(names):
        raise ValueError(f"corpus.source: two of {list(corpus.sources)} have the same text; name each once")
    model_sha256 = short_hash(files=fingerprints(store, model.files))
    inputs = Inputs(config, store, model_from, transcoders_from, model, model_sha256, tokenizer_sha256, bos, recipes)
    folders = [f"corpora/{name}" for name in names]
    if transcoders_from is None:
        folders.append(f"transcoders/{inputs.training_recipe}")
    refresh(store, *folders)
    return inputs


def identify(inputs: Inputs) -> CheckpointPlan:
    """Open the transcoders, check them against the model, and compute the checkpoint's id. Nothing is written.

    Raises:
        ValueError: transcoders have another width or number of layers, or unreadable or non-finite weights.
    """
    model, settings = inputs.model, inputs.config.transcoder
    only = None if settings.only_layers is None else tuple(sorted(set(settings.only_layers)))
    place = None if settings.repo is None else place_of_repo(settings.repo)
    hooks = (settings.input_hook or place, settings.output_hook or place)
    folder = open_transcoders(inputs.transcoder_path, model.family.model_type, *hooks, only)
    if inputs.transcoders_from is None:
        for file in folder.files:  # in the store: trained here
            check_file(file)
    check_settings(inputs.config, folder.hooks)
    _check_layers(inputs, folder, only)
    sizes = [folder.shape(layer) for layer in folder.layers]
    for layer, (d_transcoder, d_model) in zip(folder.layers, sizes, strict=True):
        if d_model != model.d_model:
            raise ValueError(
                f"{folder.path}: the transcoder of layer {layer} is for width {d_model}; "
                f"the model {model.path} has {model.d_model}"
            )
        if d_transcoder != sizes[0][0]:
            alike = [at for at, size in zip(folder.layers, sizes, strict=True) if size == (d_transcoder, d_model)]
            raise ValueError(
                f"{folder.path}: layer {layer} has {d_transcoder} features, layer {folder.layers[0]} has "
                f"{sizes[0][0]}; a checkpoint's layers are of one width. To read those of {d_transcoder} alone: "
                f"transcoder.only_layers={alike}"
            )
    _check_features(inputs, folder, sizes[0][0])
    fingerprint = fingerprints(inputs.store, folder.files)
    weights_sha256 = weights(inputs.model_sha256, fingerprint)
    checkpoint_id = checkpoint(weights_sha256, folder.hooks, inputs.tokenizer_sha256, inputs.bos, inputs.dtype)
    refresh(inputs.store, f"checkpoints/{checkpoint_id}")
    if is_ingested(inputs.store, checkpoint_id):
        attributes = Checkpoint(inputs.store.checkpoint(checkpoint_id)).attributes
        return CheckpointPlan(inputs, folder, checkpoint_id, attributes)
    problem = disagreement(model.load(), model.family)
    if problem is not None:
        raise ValueError(
            f"{model.path}: {problem}. The family '{model.family.model_type}' (docs/extend/family.md) does not "
            "say what this model computes, as its config.json has it"
        )
    activation, k = _activation(folder)
    attributes = CheckpointAttributes(
        checkpoint_id=checkpoint_id,
        name=inputs.config.name,
        model_name=inputs.model_from.name,
        model_revision=inputs.model_from.commit,
        transcoder_name=inputs.transcoders_from.name if inputs.transcoders_from else str(folder.path),
        transcoder_revision=inputs.transcoders_from.commit if inputs.transcoders_from else None,
        transcoder_format=folder.format,
        folded=(*folder.folded, *model.folded),
        step=inputs.config.model.step,
        family=model.family.model_type,
        activation=activation,
        k=k,
        n_layers=model.n_layers,
        layers=folder.layers,
        d_model=model.d_model,
        d_transcoder=sizes[0][0],
        d_vocab=model.d_vocab,
        n_tokens=model.n_tokens,
        bos=inputs.bos,
        norms_centred=model.family.centred,
        feature_input_hook=folder.hooks.feature_input,
        feature_output_hook=folder.hooks.feature_output,
        weights_sha256=weights_sha256,
    )
    return CheckpointPlan(inputs, folder, checkpoint_id, attributes)


def _check_layers(inputs: Inputs, folder: TranscoderFolder, only: tuple[int, ...] | None) -> None:
    """Refuse layers that the model does not have, or a release of some layers if that was not asked for."""
    model, upstream = inputs.model, inputs.config.weightlens.upstream
    if only is None and len(folder.layers) != model.n_layers:
        raise ValueError(
            f"{folder.path} has transcoders for {len(folder.layers)} layers; the model {model.path} has "
            f"{model.n_layers}. If they are of its first layers, set transcoder.only_layers={list(folder.layers)}"
        )
    if folder.layers[-1] >= model.n_layers:
        raise ValueError(
            f"transcoder.only_layers: layer {folder.layers[-1]}; the model {model.path} has layers "
            f"0-{model.n_layers - 1}"
        )
    left_out = [] if upstream == "all" else sorted(set(upstream) - set(folder.layers))
    if left_out:
        raise ValueError(f"weightlens.upstream names layer {left_out[0]}, which transcoder.only_layers leaves out")


def _check_features(inputs: Inputs, folder: TranscoderFolder, width: int) -> None:
    """Refuse features that are asked for and not there."""
    for layer, features in (inputs.config.transcoder.only_features or {}).items():
        if layer not in folder.layers:
            raise ValueError(f"transcoder.only_features: layer {layer} is not ingested; there are {folder.layers}")
        if max(features, default=0) >= width:
            raise ValueError(
                f"transcoder.only_features: layer {layer}, feature {max(features)}; it has features 0-{width - 1}"
            )


def _activation(folder: TranscoderFolder) -> tuple[ActivationName, int | None]:
    """The activation function and k of all layers. Reads every weight once, and refuses those that are not finite."""
    kinds = []
    for layer in folder.layers:
        transcoder = folder.read(layer)
        kinds.append((transcoder.activation, transcoder.k))
        if kinds[-1] != kinds[0]:
            raise ValueError(
                f"{folder.path}: layer {layer} is {kinds[-1][0]} (k {kinds[-1][1]}), the first {kinds[0][0]} "
                f"(k {kinds[0][1]}); expected the same in all layers"
            )
    return kinds[0]
