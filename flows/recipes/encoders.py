"""What a layer's activations on given tokens follow from, which several stages' ingredients share."""

from flows.subject.subject import Subject
from storage.checkpoints import ENCODER_ARRAYS, Checkpoint, open_checkpoint


def opened(subject: Subject) -> Checkpoint:
    """The checkpoint in the store, whose arrays have been hashed."""
    return open_checkpoint(subject.store, subject.checkpoint_id)


def encoder_ingredients(subject: Subject, layer: int) -> dict[str, object]:
    """Of the encoder, its arrays and how it is read. Of the model, more than activations read: all of it."""
    attributes = subject.attributes
    return {
        "layer": layer,
        "model": subject.source.model_sha256,
        "arrays": opened(subject).sha256(layer, *ENCODER_ARRAYS),
        "activation": attributes.activation,
        "k": attributes.k,
        "bos": attributes.bos,
        "feature_input_hook": attributes.feature_input_hook,
    }
