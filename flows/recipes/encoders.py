"""What a layer's activations on given tokens depend on; several stages' ingredients share it."""

from flows.recipes.checkpoint import rounded
from flows.subject.subject import Subject
from storage.checkpoints import ENCODER_ARRAYS, Checkpoint, open_checkpoint


def opened(subject: Subject) -> Checkpoint:
    """The checkpoint in the store, whose arrays have been hashed."""
    return open_checkpoint(subject.store, subject.checkpoint_id)


def encoder_ingredients(subject: Subject, layer: int) -> dict[str, object]:
    """For the encoder, its arrays and how it is read. For the model, all of it, although activations depend on less."""
    attributes = subject.attributes
    return {
        "layer": layer,
        "model": subject.source.model_sha256,
        **rounded(subject.source.dtype),
        "arrays": opened(subject).sha256(layer, *ENCODER_ARRAYS),
        "activation": attributes.activation,
        "k": attributes.k,
        "bos": attributes.bos,
        "feature_input_hook": attributes.feature_input_hook,
    }
