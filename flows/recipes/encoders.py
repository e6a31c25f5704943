"""What a layer's activations on given tokens depend on; several stages' ingredients share it."""

from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.checkpoint import rounded
from storage.checkpoints import ENCODER_ARRAYS, Checkpoint, open_checkpoint


def opened(plan: CheckpointPlan) -> Checkpoint:
    """The checkpoint in the store, whose arrays have been hashed."""
    return open_checkpoint(plan.store, plan.checkpoint_id)


def encoder_ingredients(plan: CheckpointPlan, layer: int) -> dict[str, object]:
    """For the encoder, its arrays and how it is read. For the model, all of it, although activations depend on less."""
    attributes = plan.attributes
    return {
        "layer": layer,
        "model": plan.inputs.model_sha256,
        **rounded(plan.inputs.dtype),
        "arrays": opened(plan).sha256(layer, *ENCODER_ARRAYS),
        "activation": attributes.activation,
        "k": attributes.k,
        "bos": attributes.bos,
        "feature_input_hook": attributes.feature_input_hook,
    }
