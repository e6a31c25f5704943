"""The recipes of a checkpoint, of the transcoders trained for it, and of the text on which they are measured."""

from collections.abc import Mapping, Sequence

from interp.activations.settings import ActivationSettings
from interp.capture import Hooks
from interp.training.settings import TrainingSettings
from storage.hashing import short_hash

INGEST_VERSION = 1
"""Raise it when the same files would be written differently into the store."""

TRAINING_VERSION = 3
"""Raise it when the same settings would train other transcoders."""

MEASURING_VERSION = 3
"""Raise it when the same transcoders would get another quality on the same text."""

TRAINED_HOOKS = Hooks("mlp_in", "mlp_out")
"""The hooks of transcoders that are trained here: input and output of the MLP module."""


def trained_transcoders(
    model_sha256: str,
    tokenizer_sha256: str,
    corpus_id: str,
    training: TrainingSettings | None,
    activations: ActivationSettings,
) -> str:
    """The recipe of trained transcoders: the model, the tokens that they see, which of these count, and the settings of
    training."""
    return short_hash(
        model=model_sha256,
        tokenizer=tokenizer_sha256,
        corpus=corpus_id,
        training=training and training.determining,
        counted=activations.counted,
        hooks=TRAINED_HOOKS,
        version=TRAINING_VERSION,
    )


def weights(model_sha256: str, transcoders: Mapping[str, str]) -> str:
    """A hash over the SHA-256 of every weight file."""
    return short_hash(model=model_sha256, transcoders=transcoders)


def checkpoint(weights_sha256: str, hooks: Hooks, tokenizer_sha256: str, bos: int | None, dtype: str) -> str:
    """The checkpoint's id: its weights, where its transcoders read and write, and its tokens.

    The same bytes are the same checkpoint, wherever they come from and whatever its name. A model that is
    run in another number format than float32 is another one.
    """
    read = {"weights": weights_sha256, "hooks": hooks, "tokenizer": tokenizer_sha256, "bos": bos}
    return short_hash(**read, **rounded(dtype), version=INGEST_VERSION)


def rounded(dtype: str) -> dict[str, str]:
    """The part of a model's hash for its number format; empty for float32."""
    return {} if dtype == "float32" else {"dtype": dtype}


def measured_text(corpus_id: str, n_tokens: int, activations: ActivationSettings) -> str:
    """The recipe of the beginning of a corpus on which transcoders are measured, and which of its tokens count."""
    return short_hash(corpus=corpus_id, n_tokens=n_tokens, counted=activations.counted, version=MEASURING_VERSION)


def joined_corpora(corpus_ids: Sequence[str]) -> str:
    """The id of one corpus, or for several that are read one after the other, a hash of them all."""
    return corpus_ids[0] if len(corpus_ids) == 1 else short_hash(corpora=corpus_ids)
