"""A checkpoint of a store together with its model, ready to read prompts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import duckdb
import torch
from jaxtyping import Int64
from pydantic import ValidationError
from torch import Tensor, nn

from configs.run import RunConfig
from flows.inputs.checkpoint_plan import identify, open_inputs
from flows.inputs.machine import arithmetic
from flows.inputs.named import chosen_checkpoint, not_ingested
from flows.inputs.origin import model_origin, pinned
from flows.inputs.store_location import checkpoint_at
from interp.circuitlens.linear import LinearModel, linear_model
from interp.transcoder import Transcoder
from storage.catalog.database import first_line
from storage.catalog.published import open_published
from storage.checkpoints import Checkpoint
from storage.models import ModelFolder
from storage.store import Store
from storage.token_texts import token_texts
from storage.tokenising import token_ids
from tasks.loaded_models import loaded_model, loaded_transcoder

ROWS_COMPARED = 1024
"""Number of first and last rows of the embedding and the unembedding that are compared to identify a checkpoint's
model."""


class Prompt(NamedTuple):
    """A prompt as the model reads it."""

    tokens: Int64[Tensor, " n_pos"]
    texts: tuple[str, ...]
    """The text of each token."""
    said: tuple[str, ...] = ()
    """What was done to it that may be unexpected, in sentences."""


@dataclass(frozen=True)
class Opened:
    """A checkpoint, its model and its tokenizer. Transcoders are read when a layer is needed."""

    store: Store
    checkpoint: Checkpoint
    folder: ModelFolder
    model: nn.Module
    device: str

    @cached_property
    def texts(self) -> list[str]:
        """The text of every token of the model's vocabulary."""
        known = token_texts(self.folder.tokenizer, self.folder.n_tokens)
        return known + [f"[unused {token}]" for token in range(len(known), self.folder.d_vocab)]

    @cached_property
    def linear(self) -> LinearModel:
        """The weights that act when the model is frozen, to trace features by.

        Raises:
            ValueError: the checkpoint has autoencoders.
        """
        if (hooks := self.checkpoint.hooks).rebuilds:
            raise ValueError(
                f"{self.checkpoint.attributes.name} has autoencoders of {hooks.feature_output}: graphs and predictions "
                "are traced through transcoders. `circuitlens` attributes its features on a corpus, `steer` changes "
                "them on a prompt"
            )
        return linear_model(self.model, self.folder.family, self.checkpoint.hooks)

    def transcoder(self, layer: int) -> Transcoder:
        """A layer's transcoder in float32, cached as far as there is memory."""
        return loaded_transcoder(self.checkpoint, layer, self.device)

    def read(self, prompt: str, *, chat: bool = False) -> Prompt:
        """The tokens of a prompt, with exactly one BOS before it if the model has one.

        `chat` puts it as a user's message into the tokenizer's chat template.

        Raises:
            ValueError: it is empty or too long, or there is no chat template.
        """
        check_prompt(prompt)
        text = self._as_message(prompt) if chat else prompt
        (ids,) = token_ids(self.folder.tokenizer, [text])
        bos, said = self.checkpoint.bos, []
        if bos is not None:
            n_own = next((at for at, token in enumerate(ids) if token != bos), len(ids))
            if n_own > 1 or (n_own and not chat):
                said.append(f"the prompt began with {n_own} BOS of its own; the model reads one")
            ids = [bos, *ids[n_own:]]
        n_most = self.folder.config.max_position_embeddings
        if len(ids) > n_most:
            raise ValueError(f"the prompt has {len(ids)} tokens; the model reads {n_most} at most")
        return self.prompt_of(ids, said)

    def prompt_of(self, ids: Sequence[int], said: Sequence[str] = ()) -> Prompt:
        """A prompt from its token ids, unchanged."""
        return Prompt(torch.tensor(ids, device=self.device), tuple(self.texts[token] for token in ids), tuple(said))

    def token(self, text: str) -> int:
        """The id of a text that is one token.

        Raises:
            ValueError: it is no token or several.
        """
        (ids,) = token_ids(self.folder.tokenizer, [text])
        if len(ids) != 1:
            parts = ", ".join(repr(self.texts[token]) for token in ids) or "none"
            raise ValueError(f"{text!r} is {len(ids)} tokens ({parts}); expected one, including a leading blank")
        return ids[0]

    def check_feature(self, layer: int, feature: int) -> None:
        """Refuse a feature that the checkpoint does not have.

        Raises:
            ValueError: says which it has.
        """
        attributes = self.checkpoint.attributes
        if not (0 <= layer < attributes.n_layers and 0 <= feature < attributes.d_transcoder):
            raise ValueError(
                f"no feature {feature} in layer {layer}: {attributes.name} has layers 0-{attributes.n_layers - 1}, "
                f"features 0-{attributes.d_transcoder - 1}"
            )
        if layer not in self.checkpoint.layers:
            raise ValueError(not_ingested(attributes.name, layer, self.checkpoint.layers))

    def _as_message(self, prompt: str) -> str:
        tokenizer = self.folder.tokenizer
        if not tokenizer.chat_template:
            raise ValueError(f"--chat: the tokenizer in {self.folder.path} has no chat template; leave it out")
        message = [{"role": "user", "content": prompt}]
        return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def check_prompt(prompt: str) -> None:
    """Refuse an empty prompt, before a model is opened for it.

    Raises:
        ValueError: it is empty.
    """
    if not prompt.strip():
        raise ValueError("the prompt is empty; give some text")


def open_named(root: Path, checkpoint: str | None) -> Opened:
    """Open a checkpoint of a store by id or name (or the only one), with the model of its last run.

    Nothing is written, so a run may go on at the same time.

    Raises:
        ValueError: there is no such checkpoint, or its model has been moved or changed.
    """
    config = last_config(root, checkpoint)
    store = Store(root)
    with open_published(store.catalog) as connection:
        checkpoint_id = chosen_checkpoint(connection, checkpoint)[0]
    return _opened(store, checkpoint_id, model_origin(pinned(config).model).path, config)


def open_configured(config: RunConfig) -> Opened:
    """Open the checkpoint of a configuration, which must be ingested.

    Raises:
        ValueError: it is not ingested, or an input of the configuration is missing or does not fit.
    """
    plan = identify(open_inputs(config))
    return _opened(plan.store, plan.checkpoint_id, plan.inputs.model.path, config)


def _opened(store: Store, checkpoint_id: str, model_path: Path, config: RunConfig) -> Opened:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    checkpoint, device = checkpoint_at(store, checkpoint_id), arithmetic(config.engine).device
    folder, model = loaded_model(model_path, device, open_attention=True)
    _check_same(folder, model, checkpoint)
    return Opened(store, checkpoint, folder, model, device)


def _check_same(folder: ModelFolder, model: nn.Module, checkpoint: Checkpoint) -> None:
    """Compare the first and last rows of embedding and unembedding, which differ between steps of a training run.

    Raises:
        ValueError: they differ.
    """
    family, d_vocab = folder.family, checkpoint.attributes.d_vocab
    for name, weights in (("W_E", family.W_E(model)), ("W_U", family.W_U(model))):
        for start in (0, max(0, d_vocab - ROWS_COMPARED)):
            rows = slice(start, min(d_vocab, start + ROWS_COMPARED))
            kept, found = checkpoint.rows(None, name, rows.start, rows.stop).float(), weights[rows].float().cpu()
            if kept.shape != found.shape or not torch.equal(kept, found):
                raise ValueError(
                    f"{folder.path} is another model than that of checkpoint {checkpoint.checkpoint_id}: {name} "
                    "differs; name the configuration of its model with --config"
                )


def last_config(root: Path, checkpoint: str | None) -> RunConfig:
    """The configuration of the last run on a checkpoint of a store.

    Raises:
        ValueError: there is no such checkpoint, or this version cannot read its configuration.
    """
    with open_published(root / "catalog.duckdb") as connection:
        checkpoint_id, name, *_ = chosen_checkpoint(connection, checkpoint)
        query = (
            "SELECT config FROM runs WHERE checkpoint_id = ? AND config IS NOT NULL ORDER BY started_at DESC LIMIT 1"
        )
        try:
            row = connection.execute(query, [checkpoint_id]).fetchone()
        except duckdb.Error as error:
            raise ValueError(f"{root}: {first_line(error)}") from None
    if row is None:
        raise ValueError(f"checkpoint {checkpoint_id} ({name}) was not made by a run here; name one with --config")
    try:
        return RunConfig.model_validate_json(row[0]).model_copy(update={"store": root})
    except ValidationError as error:
        raise ValueError(
            f"checkpoint {checkpoint_id} ({name}): the configuration of its last run cannot be read "
            f"({first_line(error)}); name one with --config"
        ) from None
